"""When a fit is due: at which places of the stream a fine-tune is to be made, live and in a replay.

    watermarks, applied events ──► [FitSchedule] ──► Mark ──► Worker.cycle

Nothing else decides it. A mark lies between two events, and the fit sees what is before it. The rules read
event time and counts of events alone, so the same events have the same marks, however they were cut into
batches, and whether they come from a file or from Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import numpy as np

from driftgraph.stream.arrays import I64, Mask
from driftgraph.stream.window.heterograph import Owners
from driftgraph.stream.window.writer import Cut

FIRST_AGAIN_MS: Final = 900_000  # event time between two tries, while the gate refuses a first model version
FIRST_EVENTS: Final = 100  # applied before the first mark, and again between two early ones
EARLY_EVENTS: Final = (
    10_000  # applied before an early mark that no regular one precedes: a model of fewer is poor
)

SHARE: Final = 16  # a fit is due once one in so many of the window's events is new
EVENTS_MIN: Final = 2_000  # an evaluation of so many events has a Recall@20 of .05 within .005
LEAST_MS: Final = 21_600_000  # 6 h: between two fits, since each of them embeds and publishes every node
MOST_MS: Final = 1_209_600_000  # 14 d: within it a quiet stream has a fit, too


@dataclass(frozen=True, slots=True)
class Auto:
    """The interval that follows from the events.

    A mark is where the watermark moves, so that the events of one time, of a day in many files, are on one
    side of it. A fit is due once the events since the last mark are a sixteenth of those that were live at
    it, but not before ``least_ms`` of event time; ``most_ms`` after it ``FIRST_EVENTS`` are enough. The
    sixteenth is ``EVENTS_MIN`` at least, or as many as were live if those are fewer, and ``events_max`` at
    most.
    """

    least_ms: int
    most_ms: int
    events_max: int

    @classmethod
    def of(cls, span_ms: int, events_max: int) -> Self:
        """For a window whose longest span is ``span_ms``, and fits that learn ``events_max`` events at most.

        A short span shortens both limits, to a sixteenth and a half of it.
        """
        return cls(max(1, min(LEAST_MS, span_ms // SHARE)), max(1, min(MOST_MS, span_ms // 2)), events_max)

    def needed(self, live: int) -> int:
        """The new events of a fit, where ``live`` were live at the mark before."""
        return min(max(live // SHARE, min(live, EVENTS_MIN), FIRST_EVENTS), self.events_max)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the stream at which a fit is due.

    An early mark is for a worker without a first model version; whoever has one passes it over.
    """

    cut: Cut
    owners: Owners | None  # of the rows at the cut; None: it is of an earlier start, whose rows were others
    is_early: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """The newest mark of each kind: those before were merged into it if nobody came to make their fits."""

    regular: Mark | None = None
    early: Mark | None = None

    def having(self, mark: Mark) -> Marks:
        """With a newer one."""
        return replace(self, early=mark) if mark.is_early else replace(self, regular=mark)

    def newest(self, *, has_model: bool) -> Mark | None:
        """The mark whose fit is the next; None if there has been none."""
        if has_model or self.early is None:
            return self.regular
        if self.regular is None or sum(self.early.cut.next) > sum(self.regular.cut.next):
            return self.early
        return self.regular


@dataclass(frozen=True, slots=True)
class Counted:
    """What a checkpoint keeps for the schedule that goes on from there: applied events, and the last mark."""

    all: int = 0
    since_regular: int = 0  # mark
    since_any: int = 0
    live: int = 0  # in the window after the newest event
    live_then: int = 0  # at the last regular mark
    then_ms: int = 0  # event time from which ``Auto`` counts; 0: there is none yet


class Due(NamedTuple):
    """A mark in a batch: before the event at ``place``."""

    place: int
    is_early: bool


class Waits(NamedTuple):
    """What a mark waits for: ``needed`` applied events, of which ``events`` are there, and an event time."""

    events: int
    needed: int
    at_ms: int | None  # None: the count alone makes the mark, or the watermark is not known yet


class FirstFit(NamedTuple):
    """What the first fit waits for: the next mark, of whichever kind."""

    early: Waits
    regular: Waits
    by_count: Waits | None  # None: ``fit.events`` is not set


class _Batch(NamedTuple):
    """The watermark before and after each of N events, and how many were applied before each and in all."""

    before_ms: I64
    after_ms: I64
    total: I64  # [N + 1]
    ready: int  # the first event before which the watermark was known; N if there is none
    multiples: I64  # the events with which the watermark passes a multiple of a fixed interval

    def full(self, total: int) -> int:
        """The first event before which ``total`` were applied; N if there is none."""
        return min(max(self.ready, int(np.searchsorted(self.total, total))), len(self.after_ms))

    def passing(self, time_ms: int) -> int:
        """The event with which the watermark comes to ``time_ms``; N if there is none."""
        return int(np.searchsorted(self.after_ms, time_ms))


class FitSchedule:
    """Where marks are.

    A regular one: before the event with which the watermark passes a multiple of ``every``, or by the rule of
    ``Auto``; and after each ``events`` applied events since the last regular one. An early one, until
    ``first_is_made``: where the watermark passes a multiple of ``FIRST_AGAIN_MS`` and enough was applied
    since the last mark: ``FIRST_EVENTS``, or ``EARLY_EVENTS`` while there has been no regular one. So a topic
    with history gets a model at once, also if its history is shorter than the interval. Early ones change
    nothing of where regular ones are.

    No mark is where the watermark was not known before, none by event time is before ``FIRST_EVENTS`` applied
    events, and none is where nothing was applied since the last one. A row of a slow clock, years before all
    others, is nothing to learn from, and all later models would start from what it would make of the first.

    Silence changes nothing of where marks are: ``Auto`` counts its limits from the time that a mark was due,
    and not from the event that came behind it.
    """

    def __init__(
        self,
        every: int | Auto,
        events: int | None = None,
        *,
        counted: Counted | None = None,
        watermark_ms: int = 0,
    ) -> None:
        """``every`` as a number is in ms; ``counted`` and ``watermark_ms`` are of the start's checkpoint."""
        if isinstance(every, int) and every <= 0:
            raise ValueError(f"every must be positive, got {every}")
        if events is not None and events <= 0:
            raise ValueError(f"events must be positive, got {events}")
        self.every = every
        self.events = events
        self._counted = counted or Counted()
        self.live = self._counted.live  # told by the caller, after each event that it has appended
        self._watermark_ms = watermark_ms  # 0 until it is known
        self._is_first_made = False

    @property
    def counted(self) -> Counted:
        """For a checkpoint, between two batches."""
        return replace(self._counted, live=self.live)

    def first_is_made(self) -> None:
        """There is a first model version: no early mark from here on."""
        self._is_first_made = True

    def first_fit(self) -> FirstFit:
        """What the next mark of each kind waits for, for whoever has no model."""
        counted, now_ms = self.counted, self._watermark_ms
        at_regular = counted.all - counted.since_regular  # applied when the last one was
        early = Waits(counted.since_any, _needed(at_regular > 0), _next_ms(now_ms, FIRST_AGAIN_MS))
        if isinstance(self.every, Auto):
            due_ms = (counted.then_ms or now_ms) + self.every.least_ms
            at_ms = max(due_ms, now_ms + 1) if now_ms else None
            regular = Waits(counted.since_regular, self.every.needed(counted.live_then), at_ms)
        else:
            at_ms = _next_ms(now_ms, self.every)
            regular = Waits(counted.all, max(FIRST_EVENTS, at_regular + 1), at_ms)
        by_count = None if self.events is None else Waits(counted.since_regular, self.events, None)
        return FirstFit(early, regular, by_count)

    def split(self, watermark_ms: I64, applied: Mask) -> Iterator[Due]:
        """The marks in a batch, ascending. The caller must exhaust it.

        Before the caller asks for the next mark, it sets ``live`` to the events that are live at this one.

        Args:
            watermark_ms: [N] the watermark after each event; 0 while it is not known.
            applied: [N] which of the events are applied.
        """
        count = len(watermark_ms)
        if count == 0:
            return
        before_ms = np.concatenate(([self._watermark_ms], watermark_ms[:-1]))
        self._watermark_ms = int(watermark_ms[-1])
        ready = int(np.argmax(before_ms > 0)) if before_ms[-1] > 0 else count
        total = np.concatenate(([0], np.cumsum(applied)))  # applied before each index
        every_ms = None if isinstance(self.every, Auto) else self.every
        batch = _Batch(before_ms, watermark_ms, total, ready, _multiples(before_ms, watermark_ms, every_ms))
        early = _multiples(before_ms, watermark_ms, None if self._is_first_made else FIRST_AGAIN_MS)
        then = self._counted
        regular_at, any_at = -then.since_regular, -then.since_any  # of ``total``, at the last marks
        start = 0
        while True:
            place = self._next(batch, start, regular_at)
            for at in early[np.searchsorted(early, start) : np.searchsorted(early, place)].tolist():
                needed = _needed(then.all + regular_at > 0)
                if int(total[at]) - any_at >= needed and not self._is_first_made:
                    any_at = int(total[at])
                    yield Due(at, is_early=True)
            if place == count:
                break
            start, regular_at = place, int(total[place])
            any_at = regular_at
            yield Due(place, is_early=False)
            self._counted = replace(self._counted, live_then=self.live)
        end = int(total[count])
        self._counted = replace(
            self._counted, all=then.all + end, since_regular=end - regular_at, since_any=end - any_at
        )

    def pass_time(self, watermark_ms: int) -> Due | None:
        """The mark that silence has come to, before the next event; None if there is none.

        A count that is full needs no next event either: who waits for a fit has it sooner, at the same place.
        """
        due = list(self.split(np.array([watermark_ms]), np.zeros(1, np.bool_)))
        return due[0] if due else None  # nothing is applied behind the first, so there is no second

    def _next(self, batch: _Batch, start: int, regular_at: int) -> int:
        """Before which event the next regular mark is, from ``start`` on; N if none is in the batch."""
        count = len(batch.after_ms)
        counted = count if self.events is None else batch.full(regular_at + self.events)
        if isinstance(self.every, Auto):
            return self._next_of(self.every, batch, counted, regular_at)
        if self._counted.then_ms:
            self._counted = replace(self._counted, then_ms=0)  # of an earlier start with ``Auto``
        enough = batch.full(max(regular_at + 1, FIRST_EVENTS - self._counted.all))
        at = int(np.searchsorted(batch.multiples, max(start, enough)))
        return min(counted, int(batch.multiples[at]) if at < len(batch.multiples) else count)

    def _next_of(self, auto: Auto, batch: _Batch, counted: int, regular_at: int) -> int:
        """The same by ``Auto``; ``counted`` is where ``events`` are full.

        It also moves the time from which the limits count: to the time at which the mark is due, or past a
        ``most_ms`` in which too little came.
        """
        before_ms, after_ms, count = batch.before_ms, batch.after_ms, len(batch.after_ms)
        if batch.ready == count:
            return count
        then_ms = self._counted.then_ms or int(before_ms[batch.ready])
        while True:
            place = batch.full(regular_at + auto.needed(self._counted.live_then))
            due_ms = then_ms + auto.least_ms
            if place < count and before_ms[place] >= due_ms:
                due_ms = int(before_ms[place])
                place = batch.passing(due_ms + 1)  # events of one time are not parted
            elif place < count:
                place = batch.passing(due_ms)
            late = batch.passing(then_ms + auto.most_ms)
            if counted < count and counted <= min(place, late):
                place, due_ms = counted, int(before_ms[counted])
            elif late < place:
                due_ms = then_ms + (int(after_ms[late]) - then_ms) // auto.most_ms * auto.most_ms
                if int(batch.total[late]) - regular_at < FIRST_EVENTS:
                    then_ms = due_ms
                    continue
                place = late
            self._counted = replace(self._counted, then_ms=then_ms if place == count else due_ms)
            return place


def _multiples(before_ms: I64, after_ms: I64, every_ms: int | None) -> I64:
    """The events with which a watermark that was known passes a multiple; none for None."""
    if every_ms is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero((before_ms > 0) & (after_ms // every_ms > before_ms // every_ms))


def _needed(is_behind_regular: bool) -> int:
    """Applied events from the last mark to an early one."""
    return FIRST_EVENTS if is_behind_regular else EARLY_EVENTS


def _next_ms(watermark_ms: int, every_ms: int) -> int | None:
    """The multiple that the watermark passes next; None while it is not known."""
    return None if watermark_ms == 0 else (watermark_ms // every_ms + 1) * every_ms
