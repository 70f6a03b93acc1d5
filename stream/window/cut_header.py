"""The shared header of a window: the counters that make lock-free reading exact.

The header is int64 words: [version counter, watermark, user rows, item rows, erasures begun, erasures done,
watermark of the last erasure, 0], then first[R], next[R], reserved[R], and first[R] of the last erasure.
``first`` and ``next`` are the published cut. ``reserved`` is ahead of it: records of sequence numbers below
it may be written by now. A reader reads the records of a cut first and ``reserved`` afterwards. If
``reserved`` is at most a ring's capacity past the cut's first event, no record of the cut was overwritten. An
erasure changes lists in place. If a reader finds as many erasures done after its answer as were begun before
it, no erasure was half done meanwhile.
"""

from __future__ import annotations

from driftgraph.stream.arrays import I64
from driftgraph.stream.kernels.atomics import fence, load_acquire, store_release
from driftgraph.stream.kernels.compile import kernel

SEQUENCE, WATERMARK, ROWS, ERASURES_BEGUN, ERASURES_DONE, ERASURE_WATERMARK = 0, 1, 2, 4, 5, 6
HEADER_WORDS = 8
ARRAYS = 4  # of R words behind them


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
def announce(header: I64, index: int, value: int) -> None:  # pragma: no cover - compiled
    """Write a word that readers see before what is written next, and after what was written before."""
    store_release(header, index, value)
    fence()


@kernel
def read(header: I64, out: I64) -> bool:  # pragma: no cover - compiled
    """Copy the header; return whether the copy is of one cut."""
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


@kernel
def erasures(header: I64) -> int:  # pragma: no cover - compiled
    """The number of erasures done, read after everything that was read before; -1 while one is under way."""
    fence()
    done = load_acquire(header, ERASURES_DONE)
    fence()
    return done if load_acquire(header, ERASURES_BEGUN) == done else -1  # type: ignore[no-any-return, unused-ignore]
