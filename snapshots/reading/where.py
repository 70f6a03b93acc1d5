"""Conditions on attributes of items, such as a category or a price: what a question may ask for.

    recommend(…, where={"category": "shoes", "price": (None, 50)}) ──► [Where] ──► VSIM … FILTER
    driftgraph recommend --where, ?where= of the HTTP port: the same as JSON ──► [where_of] ──┘
    the worker ──► [key_of] ──► field ``attributes`` of an item's hash ──► [Where.fits] decides

What decides is ``fits`` alone, for lists, for a catalog and for what a vector set has found; ``FILTER`` only
keeps a search from looking at what cannot fit. An item's attributes are JSON: tokens of its categories and
tags, and numbers. A token is a hash of the text, one of a million, so a text may in rare cases match another.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from math import isnan
from typing import Any, Final, cast

import msgspec
import numpy as np

from driftgraph.snapshots.generations.keys import StoreError

TOKENS: Final = 1 << 20  # of a field; as ``stream.attributes.fields`` has it
SLACK: Final = 1e-5  # by how much FILTER widens a range, since Redis reads numbers in its own way
BOUND: Final = 4e38  # beyond every float32
SHOWN_MAX: Final = 100  # characters of what cannot be read
_MASK: Final = (1 << 64) - 1

Wanted = str | Sequence[str] | Sequence[float | None]
_wanted_of = msgspec.json.Decoder(dict[str, str | list[str | float | None]]).decode
_attributes_of = msgspec.json.Decoder(dict[str, list[int] | float]).decode


class UnknownAttributeError(StoreError):
    """A generation has no attribute of items with this name."""


class Where:
    """Which values the attributes of an item must have.

    A text, or one of several: the category, or a tag. Two numbers, either of them None: from the first to the
    second, both allowed. An item of which nothing is said does not fit.
    """

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        """
        Raises:
            ValueError: A value is neither a text, nor several, nor a range.
        """
        self.names = tuple(wanted)
        self._tokens: list[tuple[str, frozenset[int]]] = []
        self._ranges: list[tuple[str, float, float]] = []
        for name, value in wanted.items():
            texts = (value,) if isinstance(value, str) else value
            if isinstance(texts, Collection) and texts and all(isinstance(one, str) for one in texts):
                self._tokens.append((key_of(name), frozenset(token_of(str(one)) for one in texts)))
            elif isinstance(texts, tuple | list) and len(texts) == 2 and all(map(_is_bound, texts)):
                ends = zip(texts, (-np.inf, np.inf), strict=True)
                with np.errstate(over="ignore"):  # as the values are rounded that they are compared with
                    low, high = (float(np.float32(end if one is None else one)) for one, end in ends)
                self._ranges.append((key_of(name), low, high))
            else:
                raise ValueError(
                    f"where[{name!r}] must be a text, several texts, or two numbers of which either may be "
                    f"None (in JSON null), got {clipped(repr(value))}"
                )

    def fits(self, attributes: bytes | None) -> bool:
        """Whether an item with these attributes, None for none, may come."""
        if not attributes:
            return not self.names
        found = _attributes_of(attributes)
        for key, tokens in self._tokens:
            own = found.get(key)
            if not isinstance(own, list) or tokens.isdisjoint(own):
                return False
        for key, low, high in self._ranges:
            number = found.get(key)
            if not isinstance(number, float | int) or not low <= number <= high:
                return False
        return True

    def expression(self) -> str:
        """For ``FILTER`` of VSIM: true for every item that fits, and for few others."""
        parts = [
            "(" + " or ".join(f"{token} in .{key}" for token in sorted(tokens)) + ")"
            for key, tokens in self._tokens
        ]
        for key, low, high in self._ranges:
            least, most = max(low - SLACK * abs(low), -BOUND), min(high + SLACK * abs(high), BOUND)
            parts.append(f".{key} >= {_number(least)} and .{key} <= {_number(most)}")
        return " and ".join(parts)


def where_of(text: str) -> dict[str, Wanted]:
    """What ``recommend`` takes as ``where``, from the same as a JSON object; None is null.

    Raises:
        ValueError: The text is not JSON, or a value is neither a text, nor several, nor a range.
    """
    try:
        wanted = cast("dict[str, Wanted]", _wanted_of(text))
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(
            'where must be a JSON object such as {"category": ["shoes", "boots"], "price": [null, 50]}, got '
            f"{clipped(repr(text))}: {error}"
        ) from error
    Where(wanted)  # refuses what it cannot read
    return wanted


def clipped(text: str) -> str:
    """A text of others in an error, not too long."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def key_of(name: str) -> str:
    """The name of a field in the JSON: a selector of FILTER takes letters and digits alone."""
    return f"a{zlib.crc32(name.encode()):08x}"


def token_of(text: str) -> int:
    """The token of a category or a tag: what ``stream.attributes.fields`` computes, without numba."""
    data = text.encode()
    h = 0xCBF29CE484222325 ^ (len(data) * 0x9FB21C651E98DF25 & _MASK)
    at = 0
    while at + 8 <= len(data):
        h = (h ^ int.from_bytes(data[at : at + 8], "little")) * 0xD6E8FEB86659FD93 & _MASK
        h ^= h >> 32
        at += 8
    if at < len(data):
        word = int.from_bytes(data[-8:] if at else data, "little")
        h = (h ^ word) * 0xD6E8FEB86659FD93 & _MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ (h >> 33)) * factor & _MASK
    return 1 + (h ^ (h >> 33)) % TOKENS


def _is_bound(one: Any) -> bool:
    return one is None or (isinstance(one, int | float) and not isinstance(one, bool) and not isnan(one))


def _number(value: float) -> str:
    """A number without an exponent, which FILTER does not read."""
    return np.format_float_positional(value, trim="-")
