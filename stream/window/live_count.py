"""Counts the live events of a relation without a look at each of them.

    Window.append, erase ──► [LiveCount] ──► status

Events leave a ring in turn, so an expired or erased event may stay in it for a while, behind an older arrival
that is still live. Each block of slots has a summary: the lowest and the highest time, and the number of
erased events. The summary is enough to count a block whose times are all on one side of the horizon. Only the
other blocks are read event by event.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.adjacency import LONG_AGO, TIME, TIMES

BLOCK: Final = 4_096  # slots: 128 kB of records, which take 2 µs to read
NEVER: Final = np.iinfo(np.int64).max


class Slots(NamedTuple):
    """The slots of one relation's ring: ``capacity`` of them from ``base`` on."""

    times: I64
    base: int
    capacity: int


class Blocks(NamedTuple):
    """The summary of each block of ``size`` slots: its lowest and highest time, and how many were erased."""

    size: int
    low: I64
    high: I64
    erased: I64


@kernel
def _note(slots: Slots, next_: int, count: int, blocks: Blocks) -> None:  # pragma: no cover - compiled
    """Take in ``count`` records from sequence number ``next_`` on."""
    times, base, capacity = slots
    block, low, high, erased = blocks
    offset = next_ % capacity
    while count > 0:
        at = offset // block
        size = min(block - offset % block, capacity - offset, count)  # to the end of the block
        if offset % block == 0:
            low[at], high[at], erased[at] = NEVER, LONG_AGO, 0
        lowest, highest, gone = low[at], high[at], 0
        for slot in range(base + offset, base + offset + size):
            time_ms = times[slot * TIMES + TIME]
            if time_ms == LONG_AGO:
                gone += 1
            else:
                lowest = min(lowest, time_ms)
                highest = max(highest, time_ms)
        low[at], high[at] = lowest, highest
        erased[at] += gone
        count -= size
        offset = offset + size if offset + size < capacity else 0


@kernel
def _count(
    slots: Slots, first: int, next_: int, horizon_ms: int, blocks: Blocks
) -> int:  # pragma: no cover - compiled
    """The number of events from ``first`` to ``next_`` with a time of ``horizon_ms`` or later."""
    times, base, capacity = slots
    block, low, high, erased = blocks
    live = 0
    number = first
    while number < next_:
        offset = number % capacity
        size = min(block - offset % block, capacity - offset)  # to the end of the block
        at = offset // block
        whole = offset % block == 0 and number + size <= next_
        size = min(size, next_ - number)
        if whole and high[at] < horizon_ms:
            pass
        elif whole and low[at] >= horizon_ms:
            live += size - erased[at]
        else:
            for slot in range(base + offset, base + offset + size):
                live += times[slot * TIMES + TIME] >= horizon_ms
        number += size
    return live


class LiveCount:
    """The summaries of one relation's ring, for its writer.

    Always true: a block has its summary if all its slots are in use and belong to one turn of the ring. A
    block in which the ring begins or ends is read event by event.
    """

    def __init__(self, times: I64, base: int, capacity: int, *, block: int) -> None:
        count = -(-capacity // block)
        self._slots = Slots(times, base, capacity)
        self.blocks = Blocks(  # ``ring.erase_events`` counts in it, too
            block,
            np.full(count, NEVER, np.int64),
            np.full(count, LONG_AGO, np.int64),
            np.zeros(count, np.int64),
        )

    def note(self, next_: int, count: int) -> None:
        """Take in events that were just written from sequence number ``next_`` on. O(count)."""
        _note(self._slots, next_, count, self.blocks)

    def count(self, first: int, next_: int, horizon_ms: int) -> int:
        """The number of live events from ``first`` to ``next_``.

        The cost is O(events / BLOCK), plus a read of each block that the horizon lies in.
        """
        return int(_count(self._slots, first, next_, horizon_ms, self.blocks))
