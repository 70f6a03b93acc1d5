"""The shared header of a window: the counters that make lock-free reading exact.

int64 words: [version counter, watermark, user rows, item rows, 0 …], then first[R], next[R], reserved[R].
``first`` and ``next`` are the published cut. ``reserved`` is ahead of it: records of sequence numbers below
it may be written by now, so a reader who has read a cut's records and then finds ``reserved`` not more than
a ring's capacity past the cut's first event knows that none of them was overwritten.
"""

from __future__ import annotations

from driftgraph.stream.adjacency import kernel
from driftgraph.stream.atomics import fence, load_acquire, store_release
from driftgraph.stream.events import I64

SEQUENCE, WATERMARK, ROWS = 0, 1, 2
HEADER_WORDS = 8


@kernel
def publish(
    header: I64, relation_count: int, watermark_ms: int, first: I64, next_: I64
) -> None:  # pragma: no cover - compiled
    """Write a cut so that a reader sees all of it or asks again (the counter is odd meanwhile)."""
    store_release(header, SEQUENCE, header[SEQUENCE] + 1)
    fence()
    header[WATERMARK] = watermark_ms
    for r in range(relation_count):
        header[HEADER_WORDS + r] = first[r]
        header[HEADER_WORDS + relation_count + r] = next_[r]
    fence()
    store_release(header, SEQUENCE, header[SEQUENCE] + 1)


@kernel
def reserve(header: I64, index: int, value: int) -> None:  # pragma: no cover - compiled
    """Announce that records up to sequence number ``value`` may be overwritten from now on."""
    store_release(header, index, value)
    fence()


@kernel
def read(header: I64, out: I64) -> bool:  # pragma: no cover - compiled
    """Copy the header; whether it was whole."""
    before = load_acquire(header, SEQUENCE)
    for i in range(len(header)):
        out[i] = header[i]
    fence()
    return before % 2 == 0 and load_acquire(header, SEQUENCE) == before


@kernel
def load_reserved(reserved: I64, relation: int) -> int:  # pragma: no cover - compiled
    """Read a shared counter after everything that was read before."""
    fence()
    return load_acquire(reserved, relation)  # type: ignore[no-any-return, unused-ignore]
