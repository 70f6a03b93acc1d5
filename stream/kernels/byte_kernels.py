"""Bytes, eight at a time: what is done with each byte of each event.

ids, dedupe ──► [hash_bytes, equal_bytes]        formats ──► [equal_bytes, plain_text, gather]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.events import I64, U8
from driftgraph.stream.kernels.atomics import load_word, store_word, trailing_zeros
from driftgraph.stream.kernels.compile import helper, kernel

TOGETHER = 32  # ids whose places are asked for before the first is looked at: a miss each, but all at once

_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)  # of each byte of a word
_QUOTES, _BACKSLASHES, _SPACES = (_ONES * np.uint64(ord(one)) for one in ('"', "\\", " "))


@helper
def _hash(data: Any, start: int, stop: int, multiply: Any, shift: Any) -> Any:  # pragma: no cover
    h = np.uint64(0xCBF29CE484222325) ^ (np.uint64(stop - start) * np.uint64(0x9FB21C651E98DF25))
    at = start
    while at + 8 <= stop:
        h = (h ^ load_word(data, at)) * multiply
        h ^= h >> shift
        at += 8
    if at < stop:
        if at > start:
            word = load_word(data, stop - 8)  # with bytes that were taken before: no harm
        else:
            word = np.uint64(0)
            for k in range(stop - start):
                word |= np.uint64(data[start + k]) << np.uint64(8 * k)
        h = (h ^ word) * multiply
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@helper
def hash_bytes(data: Any, start: int, stop: int) -> Any:  # pragma: no cover - compiled
    """64 bits of ``data[start:stop]``, the same in every process and run.

    A multiplication a word, then the finalizer of MurmurHash3. Of no use against someone who looks for
    collisions; ``erased_users`` has one that is.
    """
    return _hash(data, start, stop, np.uint64(0xD6E8FEB86659FD93), np.uint64(32))


@helper
def other_hash_bytes(data: Any, start: int, stop: int) -> Any:  # pragma: no cover - compiled
    """Another 64 bits. Another seed would not do: where two words cancel out what the ids differ in, they do
    so under every seed, and not under another multiplication and shift.
    """
    return _hash(data, start, stop, np.uint64(0x9E3779B97F4A7C15), np.uint64(29))


@helper
def equal_bytes(a: Any, a_start: int, b: Any, b_start: int, length: int) -> Any:  # pragma: no cover
    """Whether so many bytes of both are the same."""
    at = 0
    while at + 8 <= length:
        if load_word(a, a_start + at) != load_word(b, b_start + at):
            return False
        at += 8
    if at and at < length:  # with bytes that were the same before: no harm
        return load_word(a, a_start + length - 8) == load_word(b, b_start + length - 8)
    while at < length:
        if a[a_start + at] != b[b_start + at]:
            return False
        at += 1
    return True


@helper
def plain_text(data: Any, at: int, stop: int) -> Any:
    """From ``at`` to the first byte that a JSON text has not as it is: a quote, a backslash, a control, none
    of ASCII; or to where less than a word is left.
    """
    while at + 8 <= stop:
        word = load_word(data, at)
        quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
        # the high bit of the first byte that is 0, 0, below a space, or no ASCII; those behind may be wrong
        odd = (quote - _ONES) & ~quote | (backslash - _ONES) & ~backslash | (word - _SPACES) & ~word | word
        odd &= _HIGH_BITS
        if odd:
            return at + (trailing_zeros(odd) >> 3)
        at += 8
    return at


def gather(data: U8, spans: I64, field: int) -> tuple[I64, U8]:
    """The bytes between ``spans[:, field, 0]`` and ``spans[:, field, 1]``, as (offsets [N + 1], bytes)."""
    offsets = np.zeros(len(spans) + 1, np.int64)
    np.cumsum(spans[:, field, 1] - spans[:, field, 0], out=offsets[1:])
    out = np.empty(offsets[-1] + 8, np.uint8)  # room for a last word
    _gather(data, spans, field, offsets, out)
    return offsets, out[: offsets[-1]]


@kernel
def _gather(data: Any, spans: Any, field: int, offsets: Any, out: Any) -> None:  # pragma: no cover
    for i in range(len(spans)):
        start, at, stop = spans[i, field, 0], offsets[i], offsets[i + 1]
        while at < stop and start + 8 <= len(data):  # what is too much is written over by the next
            store_word(out, at, load_word(data, start))
            at, start = at + 8, start + 8
        while at < stop:
            out[at] = data[start]
            at, start = at + 1, start + 1
