"""The times of a whole file: whether its rows are in order of time, and up to when they are believed.

    first pass over a file ──► [FileTimes.add] ──► in_order, ceiling_ms ──► FileSource

Wrong clocks put single rows far ahead of all others. The newest event moves the window, so one such row
would empty it. The wall clock tells those that lie in the future; in an older file only the other rows can.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from driftgraph.stream.events import I64

HOUR_MS: Final = 3_600_000
RARE_SHARE: Final = 50  # at most one row in 50 can be implausible: two in a hundred are a part of the file
ROWS_MIN: Final = 20  # in a smaller file no row is: nobody can tell what is usual there
RATE_SHARE: Final = 500  # how much rarer than the rest, over the gap in front of them, implausible rows are


class FileTimes:
    """Counts the event times of one file, by hour. What it says does not depend on the order of the rows.

    ``out_of_order`` does: it counts the events that are older than one before them.
    """

    def __init__(self) -> None:
        self.out_of_order = 0
        self.high_ms = 0  # the newest time so far
        self._rows_by_hour: Counter[int] = Counter()

    def add(self, time_ms: I64) -> None:
        """Take in the next times in the order of the file."""
        if len(time_ms) == 0:
            return
        highest = np.maximum.accumulate(time_ms)
        self.out_of_order += int((time_ms < np.maximum(highest, self.high_ms)).sum())
        self.high_ms = max(self.high_ms, int(highest[-1]))
        hours, counts = np.unique(time_ms // HOUR_MS, return_counts=True)
        for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
            self._rows_by_hour[hour] += count

    @property
    def in_order(self) -> bool:
        """Whether no event is older than one before it."""
        return not self.out_of_order

    def rows_after(self, time_ms: int) -> int:
        """Events in the hours that begin after a time."""
        return sum(count for hour, count in self._rows_by_hour.items() if hour * HOUR_MS > time_ms)

    def ceiling_ms(self, span_ms: int) -> int | None:
        """Up to when times are believed, or None if all are. A few rows behind a long gap are not.

        Args:
            span_ms: How long events stay in the window. A shorter gap does not empty it, and so does no harm.

        The rows behind a gap are implausible if all of this holds, with the rest being the rows before it:
          * the file has at least ``ROWS_MIN`` rows, and they are one, or at most one in ``RARE_SHARE``;
          * the gap is longer than ``span_ms``, and at least as long as the rest of the file;
          * they are so few that over the length of the gap the rest would have had ``RATE_SHARE`` times as
            many: one row in 500 behind a gap as long as the rest, one in 100 behind one of five times that.
        The oldest rows, as many as may be implausible, do not count in the length of the rest: a wrong clock
        may be slow, too. All is measured in whole hours. O(hours with events).
        """
        hours = np.array(sorted(self._rows_by_hour), np.int64)
        counts = np.array([self._rows_by_hour[hour] for hour in hours.tolist()], np.int64)
        total = int(counts.sum())
        if total < ROWS_MIN:
            return None
        rare = max(1, total // RARE_SHARE)
        rest = np.cumsum(counts)  # rows up to each hour
        first = hours[np.searchsorted(rest, rare, side="right")]
        gap, length = np.diff(hours), np.maximum(hours[:-1] - first + 1, 1)
        rest, behind = rest[:-1], total - rest[:-1]
        implausible = (
            (behind <= rare)
            & (gap * HOUR_MS > span_ms + HOUR_MS)
            & (gap >= length)
            & (rest * gap >= RATE_SHARE * behind * length)
        )
        if not implausible.any():
            return None
        return (int(hours[np.argmax(implausible)]) + 1) * HOUR_MS - 1
