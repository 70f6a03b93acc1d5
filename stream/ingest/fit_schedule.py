"""When a fit is due: at which places of the stream a fine-tune is to be made, live and in a replay.

    watermarks, applied events ──► [FitSchedule] ──► Mark ──► Worker.cycle

Nothing else decides it. A mark lies between two events, and the fit sees what is before it. The rules read
event time and counts of events alone, so the same events have the same marks, however they were cut into
batches, and whether they come from a file or from Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, Mask
from driftgraph.stream.window.heterograph import Owners
from driftgraph.stream.window.writer import Cut

FIRST_AGAIN_MS: Final = 900_000  # event time between two tries, while the gate refuses a first model version
FIRST_EVENTS: Final = 100  # applied before the first mark, and again between two early ones
EARLY_EVENTS: Final = (
    10_000  # applied before an early mark that no regular one precedes: a model of fewer is poor
)


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
    """Applied events, as a checkpoint keeps them for the schedule that goes on from there."""

    all: int = 0
    since_regular: int = 0  # mark
    since_any: int = 0


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


class FitSchedule:
    """Where marks are.

    A regular one: before the event with which the watermark passes a multiple of ``every_ms``, and after each
    ``events`` applied events since the last regular one. An early one, until ``first_is_made``: where the
    watermark passes a multiple of ``FIRST_AGAIN_MS`` and enough was applied since the last mark:
    ``FIRST_EVENTS``, or ``EARLY_EVENTS`` while there has been no regular one. So a topic with history gets a
    model at once, also if its history is shorter than ``every_ms``. Early ones change nothing of where
    regular ones are.

    No mark is where the watermark was not known before, none by event time is before ``FIRST_EVENTS`` applied
    events, and none is where nothing was applied since the last one. A row of a slow clock, years before all
    others, is nothing to learn from, and all later models would start from what it would make of the first.
    """

    def __init__(
        self,
        every_ms: int,
        events: int | None = None,
        *,
        counted: Counted | None = None,
        watermark_ms: int = 0,
    ) -> None:
        """``counted`` and ``watermark_ms`` are of the checkpoint that the stream goes on from."""
        if every_ms <= 0:
            raise ValueError(f"every_ms must be positive, got {every_ms}")
        if events is not None and events <= 0:
            raise ValueError(f"events must be positive, got {events}")
        self.every_ms = every_ms
        self.events = events
        self.counted = counted or Counted()
        self._watermark_ms = watermark_ms  # 0 until it is known
        self._is_first_made = False

    def first_is_made(self) -> None:
        """There is a first model version: no early mark from here on."""
        self._is_first_made = True

    def first_fit(self) -> FirstFit:
        """What the next mark of each kind waits for, for whoever has no model."""
        counted, now_ms = self.counted, self._watermark_ms
        at_regular = counted.all - counted.since_regular  # applied when the last one was
        early = Waits(counted.since_any, _needed(at_regular > 0), _next_ms(now_ms, FIRST_AGAIN_MS))
        regular = Waits(counted.all, max(FIRST_EVENTS, at_regular + 1), _next_ms(now_ms, self.every_ms))
        by_count = None if self.events is None else Waits(counted.since_regular, self.events, None)
        return FirstFit(early, regular, by_count)

    def split(self, watermark_ms: I64, applied: Mask) -> Iterator[Due]:
        """The marks in a batch, ascending. The caller must exhaust it.

        Args:
            watermark_ms: [N] the watermark after each event; 0 while it is not known.
            applied: [N] which of the events are applied.
        """
        count = len(watermark_ms)
        if count == 0:
            return
        before_ms = np.concatenate(([self._watermark_ms], watermark_ms[:-1]))
        self._watermark_ms = int(watermark_ms[-1])
        regular = _passes(before_ms, watermark_ms, self.every_ms)
        early = _passes(before_ms, watermark_ms, FIRST_AGAIN_MS)
        places = np.flatnonzero(regular if self._is_first_made else regular | early).tolist()
        ready = int(np.argmax(before_ms > 0)) if before_ms[-1] > 0 else count

        total = np.concatenate(([0], np.cumsum(applied)))  # applied before each index
        then = self.counted
        regular_at, any_at = -then.since_regular, -then.since_any  # of ``total``, at the last marks
        for place in [*places, count]:
            while self.events is not None:
                at = max(ready, int(np.searchsorted(total, regular_at + self.events)))
                if at > place or at == count:
                    break
                regular_at = any_at = int(total[at])
                yield Due(at, is_early=False)
            if place == count:
                break
            now = int(total[place])
            if regular[place] and now > regular_at and then.all + now >= FIRST_EVENTS:
                regular_at = any_at = now
                yield Due(place, is_early=False)
            elif (
                early[place]
                and now - any_at >= _needed(then.all + regular_at > 0)
                and not self._is_first_made
            ):
                any_at = now
                yield Due(place, is_early=True)
        end = int(total[count])
        self.counted = Counted(then.all + end, end - regular_at, end - any_at)

    def pass_time(self, watermark_ms: int) -> Due | None:
        """The mark that silence has come to, before the next event; None if there is none.

        A count that is full needs no next event either: who waits for a fit has it sooner, at the same place.
        """
        before_ms, self._watermark_ms = self._watermark_ms, watermark_ms
        if before_ms == 0:
            return None
        counted = self.counted
        is_full = self.events is not None and counted.since_regular >= self.events
        passes = watermark_ms // self.every_ms > before_ms // self.every_ms
        if is_full or (passes and counted.since_regular and counted.all >= FIRST_EVENTS):
            self.counted = Counted(counted.all)
            return Due(0, is_early=False)
        passes = watermark_ms // FIRST_AGAIN_MS > before_ms // FIRST_AGAIN_MS
        needed = _needed(counted.since_regular < counted.all)
        if passes and counted.since_any >= needed and not self._is_first_made:
            self.counted = replace(counted, since_any=0)
            return Due(0, is_early=True)
        return None


def _needed(is_behind_regular: bool) -> int:
    """Applied events from the last mark to an early one."""
    return FIRST_EVENTS if is_behind_regular else EARLY_EVENTS


def _next_ms(watermark_ms: int, every_ms: int) -> int | None:
    """The multiple that the watermark passes next; None while it is not known."""
    return None if watermark_ms == 0 else (watermark_ms // every_ms + 1) * every_ms


def _passes(before_ms: I64, after_ms: I64, every_ms: int) -> Mask:
    """Where a watermark that was known passes a multiple."""
    return (before_ms > 0) & (after_ms // every_ms > before_ms // every_ms)
