"""Which times of a file are believed: rows of wrong clocks are not, honest ones are, however they lie."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.stream.sources.file_times import HOUR_MS, FileTimes

DAY_MS = 86_400_000
SPAN_MS = 30 * DAY_MS


def at(date: str) -> int:
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() * 1000)


def evenly(first: str, last: str, count: int) -> list[int]:
    return [round(at(first) + (at(last) - at(first)) * n / (count - 1)) for n in range(count)]


def times_of(rows: list[int], size: int = 100) -> FileTimes:
    times = FileTimes()
    for start in range(0, len(rows), size):
        times.add(np.array(rows[start : start + size], np.int64))
    return times


DAY = evenly("2013-04-15", "2013-04-15T20:00", 1_000)
WEEKS = evenly("2013-04-15", "2013-05-06", 2_000)
TWO_YEARS = evenly("2015-01-01", "2016-12-31", 5_000)
YEAR = evenly("2013-01-01", "2013-12-31", 10_000)
PHONES = {
    "one of 2020": (WEEKS, [at("2020-01-01")]),
    "one of the next spring": (WEEKS, [at("2014-03-01")]),
    "several of one day": (WEEKS, evenly("2020-01-01", "2020-01-02", 12)),
    "several of different years": (WEEKS, [at("2016-02-01"), at("2019-07-01"), at("2024-01-01")]),
    "one beside a file of one day": (DAY, [at("2020-01-01")]),
    "one beside a file of one time": ([at("2013-04-15")] * 500, [at("2020-01-01")]),
    "one beside a whole year": (YEAR, [at("2020-01-01")]),
    "one in a hundred beside a whole year": (YEAR, [at("2020-01-01")] * 100),
    "with a slow clock beside it": ([at("2006-01-01"), *WEEKS], [at("2020-01-01")]),
    "in a small file": (evenly("2013-04-15", "2013-04-17", 25), [at("2020-01-01")]),
}
HONEST = {
    "nothing": [],
    "one row": [at("2013-04-15")],
    "four rows on two days": [1_783_000_000_000, 1_783_086_400_000, 1_783_000_100_000, 1_783_086_500_000],
    "four rows, one years later": [*evenly("2013-04-15", "2013-04-16", 3), at("2020-01-01")],
    "two periods": TWO_YEARS + evenly("2019-01-01", "2019-12-31", 2_000),
    "two periods, the second thin": TWO_YEARS + evenly("2019-03-01", "2019-12-31", 50),
    "a short first period": evenly("2015-01-01", "2015-02-01", 900) + evenly("2019-01-01", "2019-03-01", 90),
    "a thin last day": [*evenly("2013-04-15", "2013-04-30", 5000), at("2013-05-01T07:00")],
    "a thin last day behind a quiet week": [*DAY, at("2013-04-23"), at("2013-04-23T01:00")],
    "a thin last month": evenly("2012-01-01", "2013-04-15", 9_000) + evenly("2013-08-01", "2013-08-20", 20),
    "a year, and one row of the next winter": [*YEAR, at("2014-02-15")],
    "sparse": evenly("2009-01-01", "2021-01-01", 40),
    "a slow clock alone": [at("2006-01-01"), *WEEKS],
    "a growing shop": [at("2013-01-01") + int(DAY_MS * 365 * (n / 5_000) ** 0.25) for n in range(5_000)],
}  # fmt: skip


@pytest.mark.parametrize("name", PHONES)
@pytest.mark.parametrize("place", ["first", "middle", "last", "anywhere"])
def test_rows_of_a_wrong_clock_are_not_believed(name: str, place: str) -> None:
    good, bad = PHONES[name]
    rows = {
        "first": bad + good,
        "middle": good[: len(good) // 2] + bad + good[len(good) // 2 :],
        "last": good + bad,
        "anywhere": Random(7).sample(good + bad, len(good + bad)),
    }[place]
    times = times_of(rows)
    ceiling_ms = times.ceiling_ms(SPAN_MS)
    assert ceiling_ms is not None
    assert [row for row in rows if row > ceiling_ms] == [row for row in rows if row in bad]
    assert times.rows_after(ceiling_ms) == len(bad)


@pytest.mark.parametrize("name", HONEST)
def test_honest_files_are_believed_whole(name: str) -> None:
    assert times_of(HONEST[name]).ceiling_ms(SPAN_MS) is None


DOUBTED = {
    "three rows of one time, one years later": ([at("2013-04-15")] * 3, [at("2020-01-01")]),
    "four rows, one years later": (evenly("2013-04-15", "2013-04-16", 3), [at("2020-01-01")]),
    "19 rows, one years later": (evenly("2013-04-15", "2013-04-17", 18), [at("2020-01-01")]),
    "15 rows, two years later": (evenly("2013-04-15", "2013-04-17", 15), [at("2015-04-15")] * 2),
    "three in a hundred": (WEEKS, evenly("2020-01-01", "2020-03-01", 60)),
    "a tenth": (WEEKS, evenly("2020-01-01", "2020-01-02", 200)),
    "a third, of different years": (DAY, evenly("2016-01-01", "2020-01-01", 500)),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_rows_that_empty_the_window_are_told_though_they_are_believed(name: str) -> None:
    good, few = DOUBTED[name]
    times = times_of(few + good)
    assert times.ceiling_ms(SPAN_MS) is None
    gap = times.lonely(SPAN_MS)
    assert gap is not None
    assert (gap.before, gap.after) == (len(good), len(few))
    assert max(good) < gap.end_ms <= max(good) + HOUR_MS
    assert min(few) - HOUR_MS < gap.begin_ms <= min(few)


@pytest.mark.parametrize("name", [
    "nothing", "one row", "four rows on two days", "two periods", "a thin last day", "sparse",
    "a thin last day behind a quiet week", "a year, and one row of the next winter", "a slow clock alone",
    "a growing shop",
])  # fmt: skip
def test_of_usual_files_nothing_is_told(name: str) -> None:
    assert times_of(HONEST[name]).lonely(SPAN_MS) is None


def test_a_gap_that_the_window_outlives_does_no_harm() -> None:
    rows = [*WEEKS, at("2013-06-20")]  # 45 days later
    assert times_of(rows).ceiling_ms(60 * DAY_MS) is None
    assert times_of(rows).lonely(60 * DAY_MS) is None
    assert times_of(rows).ceiling_ms(30 * DAY_MS) is not None


@given(st.lists(st.integers(0, 400), min_size=20, max_size=60), st.randoms(use_true_random=False))
def test_the_order_and_the_reads_change_no_judgement(days: list[int], random: Random) -> None:
    rows = [at("2013-01-01") + int(timedelta(days=day**2).total_seconds() * 1000) for day in days]
    shuffled = random.sample(rows, len(rows))
    assert times_of(rows).ceiling_ms(SPAN_MS) == times_of(shuffled, size=7).ceiling_ms(SPAN_MS)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 10))
def test_out_of_order_are_the_events_older_than_one_before_them(rows: list[int], size: int) -> None:
    times = times_of(rows, size)
    assert times.out_of_order == sum(row < max(rows[:n], default=0) for n, row in enumerate(rows))
    assert times.in_order == (rows == sorted(rows))
