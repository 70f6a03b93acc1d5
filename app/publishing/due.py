"""Which rows wait for their refresh, since when, and which come first.

events since a publish ──► [Due] ──► some hundred of them at a time ──► a round of a refresh
"""

from __future__ import annotations

from typing import Final

import numpy as np

from driftgraph.stream.arrays import I64, U32, Mask

NOBODY_WAITS: Final = np.iinfo(np.int64).max  # in all times of ``Due`` but ``newest_ms``


class Due:
    """Rows of one side that wait; bounded by the rows of the window.

    Always true: a row is there once, with the time of its newest event; ``since_ms`` is the time of its
    oldest event that cannot be read, ``event_ms`` and ``received_ms`` are those of its oldest event that is
    not counted yet. Each of the three may be ``NOBODY_WAITS``.
    """

    def __init__(self) -> None:
        self.rows = np.zeros(0, np.uint32)  # ascending
        self.newest_ms, self.since_ms, self.event_ms, self.received_ms = (
            np.zeros(0, np.int64) for _ in range(4)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: U32, newest_ms: I64, since_ms: I64 | None = None) -> None:
        """Let rows wait, each with the time of its newest event, 0 for one without.

        ``since_ms`` are the times of their oldest events that cannot be read; None: they are a backlog.
        """
        never = np.full(len(rows), NOBODY_WAITS)
        self._merge(rows, newest_ms, never if since_ms is None else since_ms, never, never)

    def add_waiting(self, rows: U32, event_ms: I64, received_ms: I64) -> None:
        """The same rows wait for the sake of events of these times, the oldest of each; N rows, each once."""
        self._merge(rows, np.zeros(len(rows), np.int64), event_ms, event_ms, received_ms)

    def take_over(self, former: Due) -> tuple[I64, I64]:
        """Count the events that nobody could read when ``former`` was given up, for the rows that wait here.

        The result are ``event_ms`` and ``received_ms`` of those that wait no more: they can be read.
        """
        uncounted = former.event_ms != NOBODY_WAITS
        here = uncounted & np.isin(former.rows, self.rows)
        self.add_waiting(former.rows[here], former.event_ms[here], former.received_ms[here])
        done = uncounted & ~here
        return former.event_ms[done], former.received_ms[done]

    def places(self, chosen: Mask, most: int) -> I64:
        """The places of ``most`` of the chosen rows, ascending.

        Those with an event that cannot be read come first, the oldest in front, so that nobody waits for
        ever behind others. The rest is a backlog, as of a start: of it, those with the newest events.
        """
        at = np.flatnonzero(chosen)
        if len(at) > most:
            order = np.lexsort((-self.newest_ms[at], self.since_ms[at]))  # NOBODY_WAITS is the largest
            at = np.sort(at[order[:most]])
        return at.astype(np.int64)

    def remove(self, places: I64) -> None:
        """These wait no longer."""
        kept = np.ones(len(self.rows), np.bool_)
        kept[places] = False
        self.rows, self.newest_ms, self.since_ms = self.rows[kept], self.newest_ms[kept], self.since_ms[kept]
        self.event_ms, self.received_ms = self.event_ms[kept], self.received_ms[kept]

    def _merge(self, rows: U32, newest_ms: I64, since_ms: I64, event_ms: I64, received_ms: I64) -> None:
        if not len(rows):
            return
        every, place = np.unique(np.concatenate([self.rows, rows]), return_inverse=True)
        newest = np.zeros(len(every), np.int64)
        np.maximum.at(newest, place, np.concatenate([self.newest_ms, newest_ms]))
        since, event, received = (np.full(len(every), NOBODY_WAITS) for _ in range(3))
        np.minimum.at(since, place, np.concatenate([self.since_ms, since_ms]))
        np.minimum.at(event, place, np.concatenate([self.event_ms, event_ms]))
        np.minimum.at(received, place, np.concatenate([self.received_ms, received_ms]))
        self.rows, self.newest_ms, self.since_ms = every, newest, since
        self.event_ms, self.received_ms = event, received
