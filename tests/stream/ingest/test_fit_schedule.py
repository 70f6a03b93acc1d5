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


@pytest.fixture(autouse=True, scope="module")
def few_events() -> Iterator[None]:
    with patch.object(fit_schedule, "EARLY_EVENTS", FEW_EVENTS):
        yield


class Stream:
    """Watermarks after each event, which are applied, and to where silence moves the watermark behind one."""

    def __init__(self, runs: list[tuple[int, int, bool, int]], unknown: int) -> None:
        watermark_ms, self.watermarks, self.applied = START_MS, list[int](), list[bool]()
        self.silence = dict[int, int]()
        for count, step_ms, is_applied, silent_ms in runs:
            for _ in range(count):
                watermark_ms += step_ms
                self.watermarks.append(watermark_ms if len(self.watermarks) >= unknown else 0)
                self.applied.append(is_applied)
            if silent_ms and self.watermarks[-1]:
                watermark_ms += silent_ms
                self.silence[len(self.watermarks)] = watermark_ms

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
                if len(found) == made:
                    schedule.first_is_made()
            at = stop
            known_ms = self.silence.get(at, self.watermarks[at - 1])
            if (passed := schedule.pass_time(known_ms)) is not None:
                found.append((at, passed.is_early))
                if len(found) == made:
                    schedule.first_is_made()
        return found

    def plainly(self, every_ms: int, events: int | None, made: int = 1 << 62) -> list[Place]:
        """One event after the other."""
        found = list[Place]()
        every = regular = recent = before_ms = 0

        def look(after_ms: int, at: int) -> None:
            nonlocal before_ms, regular, recent
            is_full = events is not None and regular >= events
            if not before_ms:
                pass
            elif is_full or (
                before_ms // every_ms < after_ms // every_ms and regular and every >= FIRST_EVENTS
            ):
                found.append((at, False))
                regular = recent = 0
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
            every, regular, recent = every + is_applied, regular + is_applied, recent + is_applied
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


@given(runs=RUNS, sizes=SIZES, every_ms=EVERY_MS, events=st.none() | st.integers(1, 150), data=st.data())
def test_the_same_marks_come_again_after_a_restart_from_any_place(
    runs: list[tuple[int, int, bool, int]],
    sizes: list[int],
    every_ms: int,
    events: int | None,
    data: st.DataObject,
) -> None:
    stream = Stream(runs, 0)
    if not stream.watermarks:
        return
    stop = data.draw(st.integers(1, len(stream.watermarks)))
    before = FitSchedule(every_ms, events)
    list(before.split(np.array(stream.watermarks[:stop]), np.array(stream.applied[:stop])))
    stream.silence = {}
    again = FitSchedule(every_ms, events, counted=before.counted, watermark_ms=stream.watermarks[stop - 1])
    expected = [mark for mark in stream.plainly(every_ms, events) if mark[0] >= stop]
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


@given(RUNS, st.integers(0, 30), EVERY_MS, st.sampled_from([None, 7, 120]))
def test_what_the_first_fit_is_said_to_wait_for_is_where_the_next_mark_is(
    runs: list[tuple[int, int, bool, int]], unknown: int, every_ms: int, events: int | None
) -> None:
    """Asked before each event, by whoever has no model."""
    stream, schedule = Stream(runs, unknown), FitSchedule(every_ms, events)
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
