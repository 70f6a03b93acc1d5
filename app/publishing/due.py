"""Which rows wait for their refresh, since when, and which come first.

events since a publish ──► [Due] ──► some hundred of them at a time ──► a round of a refresh
"""

from __future__ import annotations

from typing import Final

import numpy as np

from driftgraph.stream.arrays import I64, U32, Mask

NOBODY_WAITS: Final = np.iinfo(np.int64).max  # in ``event_ms`` and ``received_ms``


class Due:
    """Rows of one side that wait; bounded by the rows of the window.

    Always true: a row is there once, with the time of its newest event; ``event_ms`` and ``received_ms`` are
    those of its oldest event that is not counted yet, or ``NOBODY_WAITS``.
    """

    def __init__(self) -> None:
        self.rows = np.zeros(0, np.uint32)  # ascending
        self.newest_ms, self.event_ms, self.received_ms = (np.zeros(0, np.int64) for _ in range(3))

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: U32, newest_ms: I64) -> None:
        """Let rows wait, each with the time of its newest event, 0 for one without."""
        self._merge(rows, newest_ms, np.full(len(rows), NOBODY_WAITS), NOBODY_WAITS)

    def add_waiting(self, rows: U32, event_ms: I64, received_ms: int) -> None:
        """The same rows wait for the sake of events of these times, the oldest of each; N rows, each once."""
        self._merge(rows, np.zeros(len(rows), np.int64), event_ms, received_ms)

    def places(self, chosen: Mask, most: int) -> I64:
        """The places of ``most`` of the chosen rows, ascending.

        Those with an event that is not counted yet come first, the oldest in front, so that nobody waits for
        ever behind others. The rest is a backlog, as of a start: of it, those with the newest events.
        """
        at = np.flatnonzero(chosen)
        if len(at) > most:
            order = np.lexsort((-self.newest_ms[at], self.event_ms[at]))  # NOBODY_WAITS is the largest
            at = np.sort(at[order[:most]])
        return at.astype(np.int64)

    def remove(self, places: I64) -> None:
        """These wait no longer."""
        kept = np.ones(len(self.rows), np.bool_)
        kept[places] = False
        self.rows, self.newest_ms = self.rows[kept], self.newest_ms[kept]
        self.event_ms, self.received_ms = self.event_ms[kept], self.received_ms[kept]

    def _merge(self, rows: U32, newest_ms: I64, event_ms: I64, received_ms: int) -> None:
        if not len(rows):
            return
        every, place = np.unique(np.concatenate([self.rows, rows]), return_inverse=True)
        newest = np.zeros(len(every), np.int64)
        np.maximum.at(newest, place, np.concatenate([self.newest_ms, newest_ms]))
        event, received = (np.full(len(every), NOBODY_WAITS) for _ in range(2))
        np.minimum.at(event, place, np.concatenate([self.event_ms, event_ms]))
        np.minimum.at(received, place, np.concatenate([self.received_ms, np.full(len(rows), received_ms)]))
        self.rows, self.newest_ms, self.event_ms, self.received_ms = every, newest, event, received
