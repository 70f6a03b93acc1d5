"""Which attributes there are, and what their values become: tokens.

    [events.attributes] ──► Field ──► formats: a column of texts ──► [tokens_of] ──► the table of a side

A text of Chinese or Japanese has no spaces between its words: there each two characters side by side are
a word. A token is a number that stands for a value. The value of a category, each tag and each word is
hashed into ``BUCKETS`` tokens of its field, so a million categories need no more room than ten; two
values of one bucket are one value to the model. A number is kept as it is (``number_of`` brings it back),
since where its buckets lie is the reader's to say, by what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from driftgraph.stream.arrays import F32, U8, U32
from driftgraph.stream.events import JOINT, NO_VALUE_OF_ITS_KIND, Strings
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.kernels.hashing import hash_bytes

Kind = Literal["category", "tags", "number", "text"]
KINDS: Final = get_args(Kind)
WIDTH: Final = {"category": 1, "tags": 8, "number": 1, "text": 16}  # tokens of a value at most
BUCKETS: Final = 1 << 20  # of the values of a field
FIELDS_MAX: Final = 16  # of a side
ABSENT, GOOD, UNREADABLE, CUT = range(4)  # what became of a value

_JOINT, _FAULT = ord(JOINT), ord(NO_VALUE_OF_ITS_KIND)
_TAGS, _TEXT = 1, 2


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute of a side: its name, and what its values are."""

    name: str
    kind: Kind

    @property
    def width(self) -> int:
        """How many tokens a value has at most."""
        return WIDTH[self.kind]


def tokens_of(kind: Kind, values: Strings) -> tuple[U32, U8]:
    """[N, width] tokens of each value, 0 behind the last, and [N] what became of it.

    An empty text is ``ABSENT``: it changes nothing. A value of another kind, such as a word as a number, NaN
    or a list as a category, is ``UNREADABLE``. Of more tags or words than fit the first are taken: ``CUT``.
    """
    tokens = np.zeros((len(values), WIDTH[kind]), np.uint32)
    became = np.zeros(len(values), np.uint8)
    if kind == "number":
        _numbers(values, tokens, became)
        return tokens, became
    data = np.require(values.data, requirements="W")  # kernels are compiled for one or the other
    if kind == "category":
        _categories(data, values.offsets, tokens, became)
    else:
        if kind == "text":
            data = np.where((data >= 65) & (data <= 90), data + 32, data).astype(np.uint8)
        _several(data, values.offsets, _TAGS if kind == "tags" else _TEXT, tokens, became)
    return tokens, became


def number_of(tokens: U32) -> F32:
    """The numbers that tokens of the kind ``number`` stand for; NaN for none."""
    numbers: F32 = (tokens - np.uint32(1)).view(np.float32)
    return numbers


def _numbers(values: Strings, tokens: U32, became: U8) -> None:
    for row in np.flatnonzero(np.diff(values.offsets)).tolist():
        try:
            number = np.float32(float(values.bytes_at(row)))
        except (ValueError, OverflowError):
            number = np.float32(np.nan)
        if np.isfinite(number):
            tokens[row, 0] = (number + np.float32(0)).view(np.uint32) + np.uint32(1)  # −0 is 0
            became[row] = GOOD
        else:
            became[row] = UNREADABLE


@kernel
def _categories(data: U8, bounds: U8, tokens: U32, became: U8) -> None:  # pragma: no cover - compiled
    for n in range(len(became)):
        start, stop = bounds[n], bounds[n + 1]
        if start == stop:
            continue
        became[n] = GOOD
        for at in range(start, stop):
            if data[at] == _JOINT or data[at] == _FAULT:
                became[n] = UNREADABLE
        if became[n] == GOOD:
            tokens[n, 0] = _token(data, start, stop)


@helper
def _token(data: U8, start: int, stop: int) -> Any:  # pragma: no cover - compiled
    return np.uint32(1 + hash_bytes(data, start, stop) % np.uint64(BUCKETS))


@helper
def _is_between(byte: int, kind: int) -> bool:  # pragma: no cover - compiled
    """Whether a byte stands between two tags (two words)."""
    if kind == _TAGS:
        return byte in (_JOINT, 44, 59, 124)  # , ; |
    return byte < 48 or 57 < byte < 97 or 122 < byte < 128  # no digit, no letter, nothing beyond ASCII


@helper
def _insert(tokens: U32, n: int, count: int, token: int) -> int:  # pragma: no cover - compiled
    """Put a token among ``count`` ascending ones: how many more there are, −1 if there is no room."""
    place = 0
    while place < count and tokens[n, place] < token:
        place += 1
    if place < count and tokens[n, place] == token:
        return 0
    if count == tokens.shape[1]:
        return -1
    for k in range(count, place, -1):
        tokens[n, k] = tokens[n, k - 1]
    tokens[n, place] = token
    return 1


@helper
def _ideographs(data: U8, at: int, stop: int) -> int:  # pragma: no cover - compiled
    """The bytes of a character of a script without spaces; 0 for any other, −3 for its punctuation."""
    if at + 2 < stop and 0xE3 <= data[at] <= 0xE9:  # U+3000 to U+9FFF
        if data[at] == 0xE3 and data[at + 1] == 0x80:
            return -3
        return 3
    if at + 2 < stop and data[at] == 0xEF and data[at + 1] == 0xBC:  # full-width punctuation and digits
        return -3
    if at + 3 < stop and data[at] == 0xF0 and 0xA0 <= data[at + 1] <= 0xB3:  # U+20000 to U+33FFF
        return 4
    return 0


@helper
def _word(data: U8, low: int, a: int, b: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Where the word at ``a`` ends, and where the next one begins, in the part from ``low`` to ``b``."""
    own = _ideographs(data, a, b)
    if own < 0:
        return a, a - own
    if own == 0:
        end = a
        while end < b and _ideographs(data, end, b) == 0:
            end += 1
        return end, end
    second = _ideographs(data, a + own, b)
    if second <= 0:  # the last of a run is the second half of the word before, or stands alone
        alone = not _ends_ideograph(data, low, a)
        return (a + own if alone else a), a + own
    return a + own + second, a + own


@helper
def _ends_ideograph(data: U8, low: int, at: int) -> bool:  # pragma: no cover - compiled
    """Whether such a character, and no punctuation, ends before ``at``."""
    three = at - 3 >= low and _ideographs(data, at - 3, at) == 3
    return three or (at - 4 >= low and _ideographs(data, at - 4, at) == 4)


@kernel
def _several(data: U8, bounds: U8, kind: int, tokens: U32, became: U8) -> None:  # pragma: no cover
    """The tokens of the parts of each value, ascending and each once: their order means nothing."""
    for n in range(len(became)):
        first, stop = bounds[n], bounds[n + 1]
        count, cut = 0, False
        for at in range(first, stop):
            if data[at] == _FAULT:
                became[n] = UNREADABLE
        start = first
        while start < stop and became[n] != UNREADABLE:
            end = start
            while end < stop and not _is_between(data[end], kind):
                end += 1
            a, b = start, end
            while a < b and data[a] <= 32:
                a += 1
            while a < b and data[b - 1] <= 32:
                b -= 1
            start, low = end + 1, a
            while a < b:
                b_word, a_next = _word(data, low, a, b) if kind == _TEXT else (b, b)
                if a < b_word:
                    more = _insert(tokens, n, count, _token(data, a, b_word))
                    cut |= more < 0
                    count += max(more, 0)
                a = a_next
        if count:
            became[n] = CUT if cut else GOOD
