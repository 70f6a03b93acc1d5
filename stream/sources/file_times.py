"""The times of a whole file: whether its rows are in order, and up to which time they are plausible.

    first pass over a file ──► [FileTimes.add] ──► in_order, ceiling_ms ──► FileSource

Wrong clocks put single rows far ahead of all others. The newest event moves the window, so one such row
would empty it. Comparing with the wall clock finds rows in the future; in an older file only a comparison
with the other rows does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from driftgraph.stream.arrays import I64, Mask

HOUR_MS: Final = 3_600_000
RARE_SHARE: Final = 50  # at most one row in 50 can be implausible: two in a hundred are a part of the file
ROWS_MIN: Final = 20  # a smaller file has too few rows to tell what is usual, so none is implausible
RATE_SHARE: Final = 500  # implausible rows are so much rarer than the rest, over the gap before them
DOUBTED_SHARE: Final = 50  # the same for rows that are kept, and that the user is told of


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without events, in whole hours; ``before`` and ``after`` are the numbers of events around it."""

    end_ms: int  # of the hour of the last event before it
    begin_ms: int  # of the hour of the first event after it
    before: int
    after: int

    def said(self) -> str:
        """For people: that the rows after it leave the window to themselves."""
        return (
            f"{self.before:,} of the file's events end before {minute_of(self.end_ms)}, and {self.after:,} "
            f"date from {minute_of(self.begin_ms)} on, further away than the span: the window ends with "
            "these alone; remove them from the file if their clock was wrong"
        )


@dataclass(frozen=True, slots=True)
class _Gaps:
    """Every time between two hours with events: the numbers of rows around it, and lengths in hours."""

    hours: I64  # all hours with events, one more than there are gaps
    before: I64
    behind: I64
    gap: I64
    length: I64  # of the rows before it, the oldest left out

    def doubtful(self, span_ms: int, share: int) -> Mask:
        """Longer than the span and all before, and ``share`` times as many rows were due as are behind."""
        return (
            (self.gap * HOUR_MS > span_ms + HOUR_MS)
            & (self.gap >= self.length)
            & (self.before * self.gap >= share * self.behind * self.length)
        )


def minute_of(time_ms: int) -> str:
    """A time for people, to the minute."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="minutes")


class FileTimes:
    """Counts the event times of one file by hour. The result does not depend on the order of the rows.

    Only ``out_of_order`` does: it counts the events that are older than an event before them.
    """

    def __init__(self) -> None:
        self.out_of_order = 0
        self.high_ms = 0  # the newest time so far
        self._rows_by_hour: Counter[int] = Counter()

    def add(self, time_ms: I64) -> None:
        """Count the next times, in the order of the file."""
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
        """Whether no event is older than an event before it."""
        return not self.out_of_order

    def rows_after(self, time_ms: int) -> int:
        """How many events are in the hours that begin after a time."""
        return sum(count for hour, count in self._rows_by_hour.items() if hour * HOUR_MS > time_ms)

    def ceiling_ms(self, span_ms: int) -> int | None:
        """The last plausible time, or None if all times are plausible. A few rows behind a long gap are not.

        Args:
            span_ms: How long events stay in the window. A shorter gap does not empty it, and so does no harm.

        The rows behind a gap are implausible if all of this holds, with the rest being the rows before it:
          * the file has at least ``ROWS_MIN`` rows, and the rows are one, or at most one in ``RARE_SHARE``;
          * the gap is longer than ``span_ms``, and at least as long as the rest of the file;
          * at the rate of the rest, the gap would have had ``RATE_SHARE`` times as many rows: one row in 500
            behind a gap as long as the rest, one in 100 behind a gap five times as long.
        The oldest rows do not count in the length of the rest (as many as may be implausible), since a wrong
        clock may also be slow. Times are rounded to whole hours. O(hours with events).
        """
        total = self._rows_by_hour.total()
        if total < ROWS_MIN:
            return None
        gaps = self._gaps()
        implausible = (gaps.behind <= max(1, total // RARE_SHARE)) & gaps.doubtful(span_ms, RATE_SHARE)
        if not implausible.any():
            return None
        return (int(gaps.hours[np.argmax(implausible)]) + 1) * HOUR_MS - 1

    def lonely(self, span_ms: int) -> Gap | None:
        """The first gap behind which few rows empty the window, although all are believed; None if none does.

        They are fewer than those before it, and the rest would have had ``DOUBTED_SHARE`` times as many over
        the gap, which is longer than ``span_ms`` and at least as long as the rest. Such rows have a wrong
        clock, in a small file or in more than one row of ``RARE_SHARE``, or they are right: the times alone
        do not tell.
        """
        if len(self._rows_by_hour) < 2:
            return None
        gaps = self._gaps()
        lonely = (gaps.behind < gaps.before) & gaps.doubtful(span_ms, DOUBTED_SHARE)
        if not lonely.any():
            return None
        at = int(np.argmax(lonely))
        return Gap(
            (int(gaps.hours[at]) + 1) * HOUR_MS,
            int(gaps.hours[at + 1]) * HOUR_MS,
            int(gaps.before[at]),
            int(gaps.behind[at]),
        )

    def _gaps(self) -> _Gaps:
        hours = np.array(sorted(self._rows_by_hour), np.int64)
        counts = np.array([self._rows_by_hour[hour] for hour in hours.tolist()], np.int64)
        total = int(counts.sum())
        rest = np.cumsum(counts)  # rows up to each hour
        first = hours[np.searchsorted(rest, max(1, total // RARE_SHARE), side="right")]
        length = np.maximum(hours[:-1] - first + 1, 1)
        return _Gaps(hours, rest[:-1], total - rest[:-1], np.diff(hours), length)
