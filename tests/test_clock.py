"""Event times in every form, and how far the watermark goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.clock import (
    FLOOR_MS,
    ManualClock,
    SystemClock,
    TimeBounds,
    TimeRules,
    Watermark,
    WatermarkRules,
    duration_ms_of,
    time_ms_of,
    times_ms_of,
)
from driftgraph.stream.events import I32, Strings
from driftgraph.stream.time_text import FAULTS, TimeFault

NOW_MS = 1_783_000_000_123
ANY = TimeBounds()
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (1_783_000_000, 1_783_000_000_000),
        (1_783_000_000_123, NOW_MS),
        (1_783_000_000_123_999, NOW_MS),
        (1_783_000_000_123_999_999, NOW_MS),
        (1_783_000_000.123, NOW_MS),
        (1_783_000_000_123.0, NOW_MS),
        ("1783000000", 1_783_000_000_000),
        ("1783000000123", NOW_MS),
        ("1783000000.123", NOW_MS),
        ("0001783000000", 1_783_000_000_000),
        ("2026-07-02T13:46:40.123Z", NOW_MS),
        ("2026-07-02t13:46:40.123999z", NOW_MS),
        ("2026-07-02 15:46:40.123+02:00", NOW_MS),
        ("2026-07-02T15:46:40.123+0200", NOW_MS),
        ("2026-07-02T08:16:40.123-05:30", NOW_MS),
        ("2016-02-29T00:00:00Z", 1_456_704_000_000),
    ],
)
def test_one_instant_in_every_form(value: object, expected_ms: int) -> None:
    assert time_ms_of(value, ANY) == expected_ms


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (0, TimeFault.BAD_TIME),
        (-1_783_000_000, TimeFault.BAD_TIME),
        (True, TimeFault.BAD_TIME),
        (None, TimeFault.BAD_TIME),
        ([1_783_000_000], TimeFault.BAD_TIME),
        (float("nan"), TimeFault.BAD_TIME),
        (float("inf"), TimeFault.BAD_TIME),
        (10**30, TimeFault.BAD_TIME),
        ("", TimeFault.BAD_TIME),
        ("-1783000000", TimeFault.BAD_TIME),
        ("1.783E+09", TimeFault.BAD_TIME),
        (" 1783000000", TimeFault.BAD_TIME),
        ("9" * 5_000, TimeFault.BAD_TIME),
        ("2026-13-01T00:00:00Z", TimeFault.BAD_TIME),
        ("2026-02-29T00:00:00Z", TimeFault.BAD_TIME),
        ("2026-07-02T24:00:00Z", TimeFault.BAD_TIME),
        ("2026-07-02T23:59:60Z", TimeFault.BAD_TIME),
        ("2026-07-02T13:46:40+24:00", TimeFault.BAD_TIME),
        ("٢٠٢٦-07-02T13:46:40Z", TimeFault.BAD_TIME),
        ("yesterday", TimeFault.BAD_TIME),
        ("2026-07-02T13:46:40", TimeFault.WITHOUT_ZONE),
        ("2026-07-02 13:46:40.5", TimeFault.WITHOUT_ZONE),
        ("2026-07-02", TimeFault.WITHOUT_ZONE),
        (86_400, TimeFault.TOO_OLD),
        ("1969-12-31T23:59:59Z", TimeFault.TOO_OLD),
    ],
)
def test_what_is_no_time_says_why(value: object, fault: TimeFault) -> None:
    assert time_ms_of(value, ANY) is fault


def test_two_events_a_second_apart_stay_a_second_apart() -> None:
    """float32 would make them one: its step at these values is 128 s."""
    first, second = time_ms_of(1_783_000_000, ANY), time_ms_of(1_783_000_001, ANY)
    assert not isinstance(first, TimeFault)
    assert not isinstance(second, TimeFault)
    assert second - first == 1_000


def test_floor_and_ceiling_are_the_last_accepted_times() -> None:
    bounds = TimeRules(ManualClock(NOW_MS), floor_ms=FLOOR_MS, future_skew_ms=500).bounds()
    assert time_ms_of(FLOOR_MS, bounds) == FLOOR_MS
    assert time_ms_of(FLOOR_MS - 1, bounds) is TimeFault.TOO_OLD
    assert time_ms_of(NOW_MS + 500, bounds) == NOW_MS + 500
    assert time_ms_of(NOW_MS + 501, bounds) is TimeFault.IN_FUTURE


def test_a_floor_where_units_are_ambiguous_is_refused() -> None:
    with pytest.raises(ValueError, match="1973"):
        TimeBounds(floor_ms=0)


@given(
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_rfc_3339_agrees_with_datetime(naive: datetime, zone_minutes: int) -> None:
    """Compiled and plain, against the standard library's arithmetic."""
    when = naive.replace(tzinfo=timezone(timedelta(minutes=zone_minutes)))
    expected = (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    answer = time_ms_of(when.isoformat(), ANY)
    assert answer == (expected if expected >= FLOOR_MS else TimeFault.TOO_OLD)
    ms, fault = times_ms_of(Strings.of([when.isoformat()]), ANY)
    assert (int(ms[0]) if not fault[0] else FAULTS[fault[0]]) == answer


BOUNDS = st.sampled_from([ANY, TimeBounds(FLOOR_MS, NOW_MS), TimeBounds(10**12, 10**12)])
EDGES = [10**11, 10**14, 10**17, 9 * 10**18, FLOOR_MS, FLOOR_MS // 1_000, NOW_MS, 10**12]
INTS = st.integers(-(2**63), 2**63 - 1) | st.builds(
    lambda e, d: e + d, st.sampled_from(EDGES), st.integers(-3, 3)
)
FLOATS = st.floats() | st.builds(lambda e, d: e + d, st.sampled_from(EDGES), st.floats(-3, 3))
RFC_LIKE = r"(19|20)\d\d-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-6]\d:[0-6]\d(\.\d{0,9})?([Zz]|[+-][0-2]\d:?[0-6]\d)?"
TEXTS = (
    st.text("0123456789-+:.TtZz eE", max_size=32)
    | INTS.map(str)
    | FLOATS.map(repr)
    | st.from_regex(RFC_LIKE, fullmatch=True)
    | st.text(max_size=8)
)  # fmt: skip


def agree(values: list[object], answers: tuple[object, object], bounds: TimeBounds) -> None:
    ms, fault = np.asarray(answers[0]), np.asarray(answers[1])
    got = [FAULTS[f] if f else int(m) for m, f in zip(ms, fault, strict=True)]
    assert got == [time_ms_of(value, bounds) for value in values]


@given(st.lists(INTS, max_size=20), BOUNDS)
def test_a_column_of_integers_is_judged_like_each_one(values: list[int], bounds: TimeBounds) -> None:
    agree(list(values), times_ms_of(np.array(values, np.int64), bounds), bounds)


@given(st.lists(FLOATS, max_size=20), BOUNDS)
def test_a_column_of_floats_is_judged_like_each_one(values: list[float], bounds: TimeBounds) -> None:
    agree(list(values), times_ms_of(np.array(values, np.float64), bounds), bounds)


@example(["9999-12-31T23:59:59-23:59", "1783000000", "", "0", "1970-01-01T00:00:00Z"], ANY)
@given(st.lists(TEXTS, max_size=20), BOUNDS)
def test_a_column_of_texts_is_judged_like_each_one(values: list[str], bounds: TimeBounds) -> None:
    agree(list(values), times_ms_of(Strings.of(values), bounds), bounds)


def test_durations_read_as_people_write_them() -> None:
    assert [duration_ms_of(t) for t in ("250ms", "90s", "15m", "6h", "1.5d", "2w")] == [
        250, 90_000, 900_000, 21_600_000, 129_600_000, 1_209_600_000,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'soon' is no duration"):
        duration_ms_of("soon")


def test_the_system_clock_is_the_wall_clock() -> None:
    before = datetime.now(UTC).timestamp() * 1_000
    assert before - 1 <= SystemClock().now_ms() <= datetime.now(UTC).timestamp() * 1_000 + 1


# Watermark


RULES = WatermarkRules(
    out_of_orderness_ms=1_000, allowed_lateness_ms=5_000, idle_timeout_ms=60_000, future_skew_ms=300_000
)
NO_WALL_CLOCK = WatermarkRules(
    out_of_orderness_ms=1_000, allowed_lateness_ms=5_000, idle_timeout_ms=None, future_skew_ms=None
)
ALL_FROM_0 = np.zeros(0, np.int32)


def see(watermark: Watermark, *times_ms: int, partition: int = 0) -> list[bool]:
    where: I32 = np.full(len(times_ms), partition, np.int32)
    return [bool(late) for late in watermark.observe(where, np.array(times_ms, np.int64))[0]]


def test_the_watermark_trails_the_slowest_partition() -> None:
    watermark = Watermark(RULES, ManualClock(NOW_MS))
    watermark.assign([0, 1])
    see(watermark, NOW_MS, partition=0)
    assert watermark.value_ms == 0, "partition 1 has said nothing yet"
    see(watermark, NOW_MS - 10_000, partition=1)
    assert watermark.value_ms == NOW_MS - 11_000
    see(watermark, NOW_MS - 20_000, partition=1)
    assert watermark.value_ms == NOW_MS - 11_000, "it never goes back"


def test_one_event_of_2037_moves_nothing() -> None:
    clock = ManualClock(NOW_MS)
    for order in ([0, 1, 2], [1, 0, 2]):
        watermark = Watermark(RULES, clock)
        times_ms = [NOW_MS, 2_114_380_800_000, NOW_MS + 1_000]
        late = see(watermark, *[times_ms[i] for i in order])
        assert late == [False] * 3
        assert watermark.value_ms == NOW_MS
        restarted = Watermark(RULES, clock, watermark.state())
        assert see(restarted, NOW_MS + 2_000) == [False]
        assert restarted.value_ms == NOW_MS + 1_000


def test_an_event_exactly_at_the_allowed_lateness_is_not_late() -> None:
    watermark = Watermark(RULES, ManualClock(NOW_MS))
    see(watermark, NOW_MS)  # watermark: NOW - 1 s; late: before NOW - 6 s
    assert see(watermark, NOW_MS - 6_000, NOW_MS - 6_001) == [False, True]
    assert watermark.late(np.array([NOW_MS - 6_000, NOW_MS - 6_001])).tolist() == [False, True]


def test_an_idle_partition_leaves_the_minimum_and_does_not_pull_time_back() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign([0, 1])
    for _ in range(60):  # an hour of events on one partition
        clock.advance(60_000)
        see(watermark, clock.now_ms(), partition=0)
        watermark.tick()
    assert watermark.value_ms == clock.now_ms() - 1_000
    assert see(watermark, NOW_MS, partition=1) == [True], "it is judged by the unchanged watermark"
    assert watermark.value_ms == clock.now_ms() - 1_000


def test_a_returned_partition_holds_time_until_it_has_caught_up() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS, partition=0)
    see(watermark, NOW_MS, partition=1)
    clock.advance(60_000)
    see(watermark, NOW_MS + 60_000, partition=0)
    watermark.tick()
    assert watermark.value_ms == NOW_MS + 59_000
    see(watermark, NOW_MS + 30_000, partition=1)
    see(watermark, NOW_MS + 70_000, partition=0)
    assert watermark.value_ms == NOW_MS + 59_000
    see(watermark, NOW_MS + 65_000, partition=1)
    assert watermark.value_ms == NOW_MS + 64_000


def test_a_quiet_but_healthy_topic_expires_and_an_outage_does_not() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    clock.advance(10 * HOUR_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    clock.advance(10 * HOUR_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    assert watermark.tick(caught_up=True) == NOW_MS - 1_000, "the outage was not quiet time"


def test_time_passes_in_a_quiet_topic_once_it_is_idle() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS)
    clock.advance(60_000 + 2 * HOUR_MS)
    assert watermark.tick(caught_up=False) == NOW_MS - 1_000, "there may be a backlog"
    assert watermark.tick(caught_up=True) == NOW_MS - 1_000 + 2 * HOUR_MS


def test_a_topic_filled_with_old_events_does_not_jump_to_today() -> None:
    clock = ManualClock(NOW_MS)
    old_ms = NOW_MS - 8 * 365 * 24 * HOUR_MS
    watermark = Watermark(RULES, clock)
    see(watermark, old_ms)
    clock.advance(60_000 + HOUR_MS)
    assert watermark.tick(caught_up=True) == old_ms - 1_000 + HOUR_MS


def test_a_restart_under_a_clock_that_is_behind_stays_below_it() -> None:
    clock = ManualClock(NOW_MS)
    first = Watermark(RULES, clock)
    first.assign([0, 1])
    see(first, NOW_MS, partition=0)
    state = replace(first.state(), high_ms={0: NOW_MS})
    restarted = Watermark(RULES, ManualClock(NOW_MS - HOUR_MS), state)
    assert restarted.tick() == NOW_MS - HOUR_MS + 300_000


def test_replay_has_no_ceiling_and_reads_no_clock() -> None:
    class NoClock:
        def now_ms(self) -> int:
            return 0

    watermark = Watermark(NO_WALL_CLOCK, NoClock())
    see(watermark, NOW_MS)
    assert watermark.tick() == NOW_MS - 1_000


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=40), st.integers(1, 40), st.booleans()
)
def test_the_watermark_agrees_with_the_plainest_one_however_batched(
    events: list[tuple[int, int]], size: int, assigned: bool
) -> None:
    """Event by event: the minimum over the partitions' highest times, and who is late by it."""
    start_ms, bound_ms, lateness_ms = FLOOR_MS, 1_000, 5_000
    watermark = Watermark(NO_WALL_CLOCK, ManualClock(NOW_MS))
    if assigned:
        watermark.assign(range(4))
    partition = np.array([p for p, _ in events], np.int32)
    time_ms = np.array([start_ms + t * 1_000 for _, t in events], np.int64)
    judged = [
        pair
        for at in range(0, len(events), size)
        for pair in zip(*watermark.observe(partition[at : at + size], time_ms[at : at + size]), strict=True)
    ]
    high = dict.fromkeys(range(4), 0) if assigned else {}
    value, expected = 0, []
    for p, t in zip(partition.tolist(), time_ms.tolist(), strict=True):
        late = t < value - lateness_ms
        high[p] = max(high.get(p, 0), t)
        value = max(value, min(high.values()) - bound_ms)
        expected.append((late, value))
    assert (judged, watermark.value_ms) == (expected, value)


# Partitions that run ahead


def two_partitions() -> tuple[Watermark, ManualClock]:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign([0, 1])
    return watermark, clock


def test_a_partition_that_runs_ahead_is_held_until_the_slowest_has_come_half_as_near() -> None:
    watermark, _ = two_partitions()
    see(watermark, NOW_MS, partition=1)
    for time_ms, held in ((NOW_MS + 10_000, set()), (NOW_MS + 10_001, {0})):
        see(watermark, time_ms, partition=0)
        assert watermark.align(10_000, [0, 1]) == held
    for time_ms, held in ((NOW_MS + 5_000, {0}), (NOW_MS + 5_001, set()), (NOW_MS + 5_002, set())):
        see(watermark, time_ms, partition=1)
        assert watermark.align(10_000, [0, 1]) == held, "a pause must not flicker"


def test_one_that_has_shown_no_event_yet_is_the_slowest_and_is_never_held() -> None:
    watermark, _ = two_partitions()
    assert watermark.align(10_000, [0, 1]) == set()
    see(watermark, NOW_MS, partition=0)
    assert watermark.align(10_000, [0, 1]) == {0}


def test_nobody_waits_for_a_partition_at_its_end_or_for_an_idle_one() -> None:
    watermark, clock = two_partitions()
    see(watermark, NOW_MS, partition=1)
    see(watermark, NOW_MS + 60_000, partition=0)
    assert watermark.align(10_000, [0, 1]) == {0}
    assert watermark.align(10_000, [0]) == set(), "1 has come to its end"
    assert watermark.align(10_000, [0, 1]) == {0}
    clock.advance(60_000)
    watermark.tick()
    assert watermark.align(10_000, [0, 1]) == set(), "1 is idle: its broker may be away for hours"
    see(watermark, NOW_MS + 1, partition=1)
    assert watermark.align(10_000, [0, 1]) == {0}, "it is back"


def test_what_is_held_is_not_silent() -> None:
    """Held for minutes, then free: it still holds time back for the events that we kept from coming."""
    watermark, clock = two_partitions()
    watermark.assign([2])
    see(watermark, NOW_MS + 20_000, partition=0)
    see(watermark, NOW_MS + 60_000, partition=1)
    for second in range(120):
        clock.advance(1_000)
        see(watermark, NOW_MS + second, partition=2)
        assert watermark.align(10_000, [0, 1, 2]) == {0, 1}
        watermark.tick()
    assert watermark.align(10_000, [0, 1]) == {1}, "2 has come to its end"
    clock.advance(59_000)
    see(watermark, NOW_MS + 90_000, partition=2)
    watermark.tick()
    assert watermark.value_ms == NOW_MS + 19_000


@given(st.data())
def test_alignment_never_stands_still(data: st.DataObject) -> None:
    """Whatever has come and whoever is behind: one who is behind is free, if there is one."""
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign(range(4))
    for _ in range(data.draw(st.integers(1, 12))):
        clock.advance(data.draw(st.integers(0, 70_000)))
        watermark.tick(away=data.draw(st.booleans()))
        partition = data.draw(st.integers(0, 3))
        see(watermark, NOW_MS + data.draw(st.integers(-100_000, 100_000)), partition=partition)
        behind = data.draw(st.sets(st.integers(0, 3)))
        held = watermark.align(data.draw(st.integers(0, 50_000)), behind)
        assert not behind or not behind <= held
