"""How many events of a relation are live, without a look at each of them.

    Window.append, erase ──► [LiveCount] ──► status

An event leaves its ring in turn, so one that expired, or was erased, may stay in it for a while behind an
older arrival that is still live. For each block of slots the lowest and the highest time are kept, and how
many were erased. A block on one side of the horizon is counted by them, and only the others are looked into.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.adjacency import LONG_AGO, TIME, TIMES

BLOCK: Final = 4_096  # slots: 128 kB of records, which take 2 µs to look into
NEVER: Final = np.iinfo(np.int64).max


@kernel
def _note(
    times: Any, base: int, capacity: int, next_: int, count: int, block: int, low: Any, high: Any, erased: Any
) -> None:  # pragma: no cover - compiled
    """Take in ``count`` records from sequence number ``next_`` on."""
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
    times: Any, base: int, capacity: int, first: int, next_: int, horizon_ms: int, block: int,
    low: Any, high: Any, erased: Any,
) -> int:  # fmt: skip  # pragma: no cover - compiled
    """Events with sequence numbers from ``first`` to ``next_`` that are at ``horizon_ms`` or later."""
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

    Always true: a block of which every slot is in use and of one turn of the ring has its summary. A block in
    which the ring begins or ends is looked into.
    """

    def __init__(self, times: Any, base: int, capacity: int, *, block: int) -> None:
        blocks = -(-capacity // block)
        self._ring = (times, base, capacity)
        self._block = block
        self._low = np.full(blocks, NEVER, np.int64)
        self._high = np.full(blocks, LONG_AGO, np.int64)
        self.erased = np.zeros(blocks, np.int64)  # of each block; ``ring.erase_events`` counts there, too

    @property
    def block(self) -> int:
        """Slots of a block."""
        return self._block

    def note(self, next_: int, count: int) -> None:
        """Take in events that were just written from sequence number ``next_`` on. O(count)."""
        _note(*self._ring, next_, count, self._block, self._low, self._high, self.erased)

    def count(self, first: int, next_: int, horizon_ms: int) -> int:
        """Live events among those. O(events / BLOCK), and the blocks that the horizon lies in."""
        return int(
            _count(*self._ring, first, next_, horizon_ms, self._block, self._low, self._high, self.erased)
        )
