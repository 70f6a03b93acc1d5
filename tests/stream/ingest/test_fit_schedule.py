"""Marks: where a fit is due, by the plainest rules, however a stream is cut, and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.ingest import fit_schedule
from driftgraph.stream.ingest.fit_schedule import (
    FIRST_AGAIN_MS,
    FIRST_EVENTS,
    Auto,
    Counted,
    FitSchedule,
    Mark,
    Marks,
)
from driftgraph.stream.window.writer import Cut

Place = tuple[int, bool]  # a mark: before how many-th event, and whether it is early
FEW_EVENTS = 150  # before an early mark that no regular one precedes: random streams are short
START_MS = 1_700_000_100_000 // FIRST_AGAIN_MS * FIRST_AGAIN_MS

# How far the watermark moves with each of so many events, whether they are applied, and what silence follows.
RUNS = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from([0, 1_000, 20_000, 400_000, 3_000_000]),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([0, 0, 0, 500_000]),
    ),
    max_size=12,
)
SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=4)
EVERY_MS = st.sampled_from([60_000, FIRST_AGAIN_MS, 5 * FIRST_AGAIN_MS, 1 << 62])
FEW_NEW_EVENTS = 150  # of an automatic interval, for the same reason
AUTO = st.builds(
    Auto,
    least_ms=st.sampled_from([1, 15_000, 600_000]),
    most_ms=st.sampled_from([700_000, 5_000_000, 1 << 60]),
    events_max=st.sampled_from([20, 60, 1 << 20]),
)


@pytest.fixture(autouse=True, scope="module")
def few_events() -> Iterator[None]:
    with (
        patch.object(fit_schedule, "EARLY_EVENTS", FEW_EVENTS),
        patch.object(fit_schedule, "EVENTS_MIN", FEW_NEW_EVENTS),
    ):
        yield


class Stream:
    """Watermarks after each event, which are applied, and to where silence moves the watermark behind one."""

    def __init__(self, runs: list[tuple[int, int, bool, int]], unknown: int) -> None:
        watermark_ms, self.watermarks, self.applied = START_MS, list[int](), list[bool]()
        self.silence = dict[int, int]()  # before an event, the watermark that silence came to
        for count, step_ms, is_applied, silent_ms in runs:
            for _ in range(count):
                watermark_ms += step_ms
                self.watermarks.append(watermark_ms if len(self.watermarks) >= unknown else 0)
                self.applied.append(is_applied)
            if silent_ms and self.watermarks[-1]:
                watermark_ms += silent_ms
                self.silence[len(self.watermarks)] = watermark_ms

    def live(self, at: int) -> int:
        """The live events before an event, in a window that keeps them for a while."""
        newest_ms = self.watermarks[at - 1] if at else 0
        recent = [time_ms for time_ms in self.watermarks[:at] if time_ms > newest_ms - 30_000_000]
        return 40 * len(recent)  # a sixteenth of it is more than ``FIRST_EVENTS`` with 50 events

    def marks(
        self, schedule: FitSchedule, sizes: list[int], start: int = 0, made: int = 1 << 62
    ) -> list[Place]:
        """In batches of these sizes in turn; the first model version is there after so many marks."""
        found, turn, at = list[Place](), 0, start
        while at < len(self.watermarks):
            ends = (len(self.watermarks), *(end for end in self.silence if end > at))
            stop = min(at + sizes[turn % len(sizes)], *ends)
            turn += 1
            for due in schedule.split(np.array(self.watermarks[at:stop]), np.array(self.applied[at:stop])):
                found.append((at + due.place, due.is_early))
                schedule.live = self.live(at + due.place)
                if len(found) == made:
                    schedule.first_is_made()
            at = stop
            schedule.live = self.live(at)
            known_ms = self.silence.get(at, self.watermarks[at - 1])
            if (passed := schedule.pass_time(known_ms)) is not None:
                found.append((at, passed.is_early))
                if len(found) == made:
                    schedule.first_is_made()
        return found

    def plainly(self, every: int | Auto, events: int | None, made: int = 1 << 62) -> list[Place]:
        """One event after the other."""
        found = list[Place]()
        every_events = regular = recent = before_ms = then_ms = live_then = 0

        def is_due(after_ms: int) -> bool:
            """Whether a regular mark is, if the watermark moves to here."""
            nonlocal then_ms
            if events is not None and regular >= events:
                then_ms = before_ms
                return True
            if isinstance(every, int):
                return before_ms // every < after_ms // every and regular > 0 and every_events >= FIRST_EVENTS
            then_ms = then_ms or before_ms
            is_full = regular >= every.needed(live_then)
            if is_full and after_ms >= then_ms + every.least_ms and after_ms > before_ms:
                then_ms = max(before_ms, then_ms + every.least_ms)
                return True
            is_late = False
            while after_ms >= then_ms + every.most_ms:
                then_ms, is_late = then_ms + every.most_ms, True
            return is_late and regular >= FIRST_EVENTS

        def look(after_ms: int, at: int) -> None:
            nonlocal before_ms, regular, recent, live_then
            if not before_ms:
                pass
            elif is_due(after_ms):
                found.append((at, False))
                regular = recent = 0
                live_then = self.live(at)
                is_due(
                    after_ms
                )  # what is behind the limits with nothing new moves the time that they count from
            elif (
                before_ms // FIRST_AGAIN_MS < after_ms // FIRST_AGAIN_MS
                and recent >= (FIRST_EVENTS if any(not is_early for _, is_early in found) else FEW_EVENTS)
                and len(found) < made
            ):
                found.append((at, True))
                recent = 0
            before_ms = after_ms

        for at, (watermark_ms, is_applied) in enumerate(zip(self.watermarks, self.applied, strict=True)):
            look(watermark_ms, at)
            every_events += is_applied
            regular, recent = regular + is_applied, recent + is_applied
            if at + 1 in self.silence:
                look(self.silence[at + 1], at + 1)
        if self.watermarks:
            look(before_ms, len(self.watermarks))  # a count that is full at the end
        return found


@example([(101, 1_000, True, 0), (1, 3_000_000, True, 0)], [7], FIRST_AGAIN_MS, 101, 0, 1)
@example([(60, 20_000, True, 0)] * 6, [1_000], 5 * FIRST_AGAIN_MS, None, 0, 2)
@given(
    runs=RUNS,
    sizes=SIZES,
    every_ms=EVERY_MS,
    events=st.none() | st.integers(1, 150),
    unknown=st.sampled_from([0, 0, 30]),
    made=st.integers(1, 6),
)
def test_marks_are_where_the_plainest_rules_say_so(
    runs: list[tuple[int, int, bool, int]],
    sizes: list[int],
    every_ms: int,
    events: int | None,
    unknown: int,
    made: int,
) -> None:
    stream = Stream(runs, unknown)
    expected = stream.plainly(every_ms, events, made)
    for cut in (sizes, [1], [1 << 20]):
        assert stream.marks(FitSchedule(every_ms, events), cut, made=made) == expected


@example([(30, 20_000, True, 0), (40, 20_000, True, 3_000_000)], [7], Auto(600_000, 700_000, 60), None, 0, 2)
@given(
    runs=RUNS,
    sizes=SIZES,
    auto=AUTO,
    events=st.none() | st.integers(1, 150),
    unknown=st.sampled_from([0, 0, 30]),
    made=st.integers(1, 6),
)
def test_marks_of_an_automatic_interval_are_where_the_plainest_rules_say_so(
    runs: list[tuple[int, int, bool, int]],
    sizes: list[int],
    auto: Auto,
    events: int | None,
    unknown: int,
    made: int,
) -> None:
    stream = Stream(runs, unknown)
    expected = stream.plainly(auto, events, made)
    for cut in (sizes, [1], [1 << 20]):
        assert stream.marks(FitSchedule(auto, events), cut, made=made) == expected


@given(runs=RUNS, sizes=SIZES, auto=AUTO, events=st.none() | st.integers(1, 150))
def test_silence_moves_no_mark_of_an_automatic_interval(
    runs: list[tuple[int, int, bool, int]], sizes: list[int], auto: Auto, events: int | None
) -> None:
    """A file has no silence: there, the next event has the watermark that silence has come to live."""
    stream = Stream([*runs, (1, 1 << 50, False, 0)], 0)
    with_silence = stream.marks(FitSchedule(auto, events), sizes, made=1)
    stream.silence = {}
    assert stream.marks(FitSchedule(auto, events), sizes, made=1) == with_silence


def a_steady_stream(days: float, per_day: float, span_days: float, auto: Auto) -> int:
    """The number of regular marks."""
    schedule, day_ms, found = FitSchedule(auto), 86_400_000, 0
    times_ms = START_MS + np.arange(0, days, 1 / per_day) * day_ms
    schedule.first_is_made()
    for at in range(0, len(times_ms), 500):
        part = times_ms[at : at + 500].astype(np.int64)
        for due in schedule.split(part, np.ones(len(part), np.bool_)):
            found += 1
            schedule.live = min(at + due.place, round(per_day * span_days))
        schedule.live = min(at + len(part), round(per_day * span_days))
    return found


@pytest.mark.parametrize(
    ("days", "per_day", "span_days", "fits"),
    [
        (9, 40_000, 30, range(15, 41)),
        (14, 13_000, 30, range(15, 61)),
        (122, 1_500, 30, range(20, 121)),
        (122, 1_500, 400, range(20, 121)),
        (3_650, 100, 30, range(100, 400)),
        (3_650, 100, 3_650, range(100, 400)),
    ],
)
def test_streams_of_days_and_of_years_have_tens_or_hundreds_of_fits(
    days: float, per_day: float, span_days: float, fits: range
) -> None:
    with patch.object(fit_schedule, "EVENTS_MIN", 2_000):
        auto = Auto.of(round(span_days * 86_400_000), 100_000)
        assert a_steady_stream(days, per_day, span_days, auto) in fits


@patch.object(fit_schedule, "EVENTS_MIN", 2_000)
def test_an_automatic_interval_has_its_limits_from_the_longest_span_and_from_what_a_fit_learns() -> None:
    auto = Auto.of(30 * 86_400_000, 100_000)
    assert (auto.least_ms, auto.most_ms) == (6 * 3_600_000, 14 * 86_400_000)
    assert auto.needed(1 << 30) == 100_000
    assert [auto.needed(live) for live in (0, 300, 30_000, 480_000)] == [100, 300, 2_000, 30_000]
    short = Auto.of(32 * 60_000, 100_000)
    assert (short.least_ms, short.most_ms) == (2 * 60_000, 16 * 60_000)
    assert Auto.of(1, 100_000).most_ms == 1


@given(runs=RUNS, sizes=SIZES, every=EVERY_MS | AUTO, events=st.none() | st.integers(1, 150), data=st.data())
def test_the_same_marks_come_again_after_a_restart_from_any_place(
    runs: list[tuple[int, int, bool, int]],
    sizes: list[int],
    every: int | Auto,
    events: int | None,
    data: st.DataObject,
) -> None:
    stream = Stream(runs, 0)
    if len(stream.watermarks) < 2:
        return
    stop = data.draw(st.integers(1, len(stream.watermarks) - 1))
    stream.silence = {}
    before = FitSchedule(every, events)
    for due in before.split(np.array(stream.watermarks[:stop]), np.array(stream.applied[:stop])):
        before.live = stream.live(due.place)
    before.live = stream.live(stop)
    again = FitSchedule(every, events, counted=before.counted, watermark_ms=stream.watermarks[stop - 1])
    expected = [mark for mark in stream.plainly(every, events) if mark[0] >= stop]
    assert stream.marks(again, sizes, start=stop) == expected


def test_early_marks_change_nothing_of_the_regular_ones() -> None:
    stream = Stream([(60, 20_000, True, 0)] * 20, 0)
    with_early = stream.marks(FitSchedule(3_600_000, 250), [50])
    without = stream.marks(FitSchedule(3_600_000, 250), [50], made=1)
    assert any(is_early for _, is_early in with_early)
    assert [place for place, is_early in with_early if not is_early] == [
        place for place, is_early in without if not is_early
    ]


def test_a_row_years_before_all_others_makes_no_mark() -> None:
    """By event time none is before so many events; the periods that pass meanwhile are not made up for."""
    steps = [(1, 0, True, 0), (1, 400_000_000, True, 0), (FIRST_EVENTS - 3, 1_000_000, True, 0)]
    stream = Stream([*steps, (3, 1_000_000, True, 0)], 0)
    assert stream.marks(FitSchedule(1_000_000), [10]) == [(FIRST_EVENTS, False), (FIRST_EVENTS + 1, False)]


def mark_at(number: int, *, early: bool = False) -> Mark:
    return Mark(Cut(1, (0, 0), (number, number)), None, early)


def test_who_was_busy_makes_the_fit_of_the_newest_mark_only() -> None:
    """Of any kind before the first model version, of the regular ones after it."""
    marks = Marks()
    assert marks.newest(has_model=False) is None
    for number in (1, 2):
        marks = marks.having(mark_at(number, early=True))
    assert marks.newest(has_model=True) is None
    assert marks.newest(has_model=False) == mark_at(2, early=True)
    for number in (3, 4):
        marks = marks.having(mark_at(number))
    assert marks.newest(has_model=False) == marks.newest(has_model=True) == mark_at(4)
    marks = marks.having(mark_at(5, early=True))
    assert marks.newest(has_model=False) == mark_at(5, early=True)
    assert marks.newest(has_model=True) == mark_at(4)


@pytest.mark.parametrize(("every_ms", "events"), [(0, None), (-1, None), (5, 0)])
def test_a_schedule_that_would_never_or_always_be_due_is_refused(every_ms: int, events: int | None) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        FitSchedule(every_ms, events)


def test_a_restored_schedule_counts_on() -> None:
    schedule = FitSchedule(1 << 62, 10, counted=Counted(200, 7, 7), watermark_ms=START_MS)
    watermark_ms, applied = np.full(5, START_MS), np.ones(5, np.bool_)
    assert [due.place for due in schedule.split(watermark_ms, applied)] == [3]
    assert schedule.counted == Counted(205, 2, 2)


@given(RUNS, st.integers(0, 30), EVERY_MS | AUTO, st.sampled_from([None, 7, 120]))
def test_what_the_first_fit_is_said_to_wait_for_is_where_the_next_mark_is(
    runs: list[tuple[int, int, bool, int]], unknown: int, every: int | Auto, events: int | None
) -> None:
    """Asked before each event, by whoever has no model."""
    stream, schedule = Stream(runs, unknown), FitSchedule(every, events)
    for watermark_ms, applied in zip(stream.watermarks, stream.applied, strict=True):
        early, regular, by_count = waits = schedule.first_fit()
        is_known = early.at_ms is not None
        assert (regular.at_ms is not None) == is_known
        assert (by_count is None) == (events is None)
        is_due = is_known and any(
            one.events >= one.needed and watermark_ms >= (one.at_ms or 0) for one in waits if one is not None
        )
        marks = list(schedule.split(np.array([watermark_ms]), np.array([applied])))
        assert [due.place for due in marks] == [0] * is_due, waits
        if is_due and isinstance(every, Auto):
            return  # the next interval has a limit of its own
