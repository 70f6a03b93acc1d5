"""Event times in every form, and how far the watermark goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.events import Strings
from driftgraph.stream.time.clock import (
    FLOOR_MS,
    ManualClock,
    SystemClock,
    TimeBounds,
    TimeRules,
    duration_ms_of,
    time_ms_of,
    times_ms_of,
)
from driftgraph.stream.time.time_text import FAULTS, TimeFault

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
