"""Kernels over bytes, eight at a time: the work on each byte of each event.

ids ──► [equal_bytes]        formats ──► [equal_bytes, plain_text, gather]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.arrays import I64, U8
from driftgraph.stream.kernels.atomics import load_word, store_word, trailing_zeros
from driftgraph.stream.kernels.compile import helper, kernel

TOGETHER = (
    32  # ids whose places are prefetched before the first is read: each is a miss, but all come at once
)

_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)  # of each byte of a word
_QUOTES, _BACKSLASHES, _SPACES = (_ONES * np.uint64(ord(one)) for one in ('"', "\\", " "))


@helper
def equal_bytes(a: Any, a_start: int, b: Any, b_start: int, length: int) -> Any:  # pragma: no cover
    """Whether ``length`` bytes of both are the same."""
    at = 0
    while at + 8 <= length:
        if load_word(a, a_start + at) != load_word(b, b_start + at):
            return False
        at += 8
    if at and at < length:  # some of these bytes were compared before, which does no harm
        return load_word(a, a_start + length - 8) == load_word(b, b_start + length - 8)
    while at < length:
        if a[a_start + at] != b[b_start + at]:
            return False
        at += 1
    return True


@helper
def plain_text(data: Any, at: int, stop: int) -> Any:
    """The index of the first special byte of a JSON text from ``at`` on, in the whole words before ``stop``.

    Special are a quote, a backslash, a control character, and each byte beyond ASCII. If no whole word has
    one, the result is the index of the last bytes, which are fewer than a word.
    """
    while at + 8 <= stop:
        word = load_word(data, at)
        quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
        # the high bit marks a quote, a backslash, a byte below a space, or one beyond ASCII. The first mark
        # is right; the marks behind it may be wrong.
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
        while at < stop and start + 8 <= len(data):  # the next span overwrites the surplus
            store_word(out, at, load_word(data, start))
            at, start = at + 8, start + 8
        while at < stop:
            out[at] = data[start]
            at, start = at + 1, start + 1
