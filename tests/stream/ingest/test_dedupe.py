"""Repeats against a plain set."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.events import Strings
from driftgraph.stream.ingest.dedupe import Deduplicator, IdSet, KeptSet
from driftgraph.stream.ingest.id_buckets import DISPLACED, LOAD_MAX


def judge(ids: list[str], times_ms: list[int], size: int, dedupe: Deduplicator) -> list[bool]:
    answer: list[bool] = []
    for start in range(0, len(ids), size):
        part = slice(start, start + size)
        answer += dedupe.repeated(Strings.of(ids[part]), np.array(times_ms[part], np.int64)).tolist()
    return answer


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 9))
def test_within_the_horizon_it_agrees_with_a_set_however_batched(numbers: list[int], size: int) -> None:
    ids = ["" if n == 0 else f"e{n}" for n in numbers]
    seen, expected = set[str](), []
    for name in ids:
        expected.append(name != "" and name in seen)
        seen.add(name)
    assert judge(ids, [1_000] * len(ids), size, Deduplicator(ids_max=64)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), max_size=80), st.integers(1, 9))
def test_forgetting_does_not_depend_on_batches(events: list[tuple[int, int]], size: int) -> None:
    """Small capacity and horizon, so that both reasons to forget occur."""
    ids, times_ms = [f"e{n}" for n, _ in events], np.cumsum([1] + [step for _, step in events])[1:].tolist()
    whole = judge(ids, times_ms, 1_000, Deduplicator(ids_max=7, horizon_ms=200))
    assert judge(ids, times_ms, size, Deduplicator(ids_max=7, horizon_ms=200)) == whole


def test_an_id_is_remembered_for_at_least_a_horizon() -> None:
    dedupe = Deduplicator(horizon_ms=100)
    ids = [f"e{n}" for n in range(300)]
    assert not any(judge(ids, list(range(1, 301)), 50, dedupe))
    assert judge(["e201", "e300", "e299"], [301, 301, 301], 3, dedupe) == [True, False, True]
    assert judge(["e5"], [301], 1, dedupe) == [False]  # two horizons ago: forgotten


def test_the_same_click_with_another_id_counts() -> None:
    dedupe = Deduplicator()
    assert judge(["a", "b", "a", "", ""], [1, 1, 1, 1, 1], 5, dedupe) == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("93ad6992c1f2cd52", "93ad6996c1ffcd5f"),
        ("mi4aagx5hit9vu79", "mi4aagxuhityvu7y"),
        ("cdc5ae4763d73987c06e007865946898", "cdc5ae4b63df398fc06e007865946898"),
    ],
)
def test_ids_whose_words_cancel_out_are_two(one: str, other: str) -> None:
    """One hash under two seeds took them for one: the second hash must be of another kind."""
    said = Deduplicator(ids_max=8).repeated(Strings.of([one, other, one]), np.array([1, 2, 3]))
    assert said.tolist() == [False, False, True]


HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def numbered(start: int, stop: int) -> Strings:
    """Ids of eight digits."""
    digits = (np.arange(start, stop)[:, None] // 10 ** np.arange(7, -1, -1)) % 10 + ord("0")
    return Strings(np.arange(stop - start + 1, dtype=np.int64) * 8, digits.astype(np.uint8).reshape(-1))


def see(dedupe: Deduplicator, start: int, stop: int, per_s: int) -> int:
    """The ids from ``start`` to ``stop`` at a steady rate; how many of them were repeats."""
    times_ms = np.arange(start, stop, dtype=np.int64) * 1_000 // per_s + 1
    return int(dedupe.repeated(numbered(start, stop), times_ms).sum())


def test_a_day_of_a_busy_stream_is_remembered() -> None:
    """At 60 a second: 5.2 million ids, where two sets of a million each had room for nine hours."""
    dedupe, count = Deduplicator(), 60 * 86_400
    for start in range(0, count, 500_000):
        assert see(dedupe, start, min(start + 500_000, count), 60) == 0
    last_ms = np.full(count, DAY_MS, np.int64)
    assert dedupe.repeated(numbered(0, count), last_ms).all(), "each of the day"
    status = dedupe.status()
    assert (status["ids"], status["short"]) == (count, False)
    assert status["reach_ms"] >= DAY_MS - 1_000
    assert 8 * count < status["bytes"] < 20 * count


def test_what_is_older_than_its_horizon_makes_room() -> None:
    """A week at 2 a second: the table holds a day and a twelfth of it, whatever has been."""
    dedupe = Deduplicator()
    for start in range(0, 7 * 2 * 86_400, 50_000):
        see(dedupe, start, start + 50_000, 2)
    status = dedupe.status()
    assert 2 * 86_400 <= status["ids"] <= 2 * 86_400 * 13 // 12 + 2
    assert (status["reach_ms"], status["short"]) == (DAY_MS, False)


def test_a_memory_that_is_too_small_forgets_the_oldest_and_says_how_far_it_reaches() -> None:
    """100,000 ids at 10 a second are 2.8 h. Then the rate falls, and after a day all is well again."""
    dedupe = Deduplicator(ids_max=100_000)
    see(dedupe, 0, 99_000, 10)
    assert dedupe.status()["short"] is False, "nothing was forgotten yet"
    see(dedupe, 99_000, 400_000, 10)
    status = dedupe.status()
    assert status["short"] is True
    assert 91_000 <= status["ids"] <= 100_000
    reach_s = status["reach_ms"] // 1_000
    assert 9_100 <= reach_s <= 10_000
    known = 400_000 - 10 * reach_s
    assert see(dedupe, known + 10, 400_000, 10) == 400_000 - known - 10, "all of them"
    assert see(Deduplicator(ids_max=100_000), 0, 10, 10) == 0
    slow = 40_000 * 1_000 + np.arange(1, 7_000, dtype=np.int64) * 10_000
    dedupe.repeated(numbered(10_000_000, 10_000_000 + len(slow)), slow)
    assert dedupe.status()["short"] is True
    dedupe.repeated(numbered(20_000_000, 20_000_001), slow[-1:] + DAY_MS)
    assert dedupe.status()["short"] is False


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=12), st.integers(24, 4_000))
def test_growing_and_forgetting_lose_no_id_before_its_time(sizes: list[int], ids_max: int) -> None:
    """A full table is the hard case: each id that should be known is, each new one is not."""
    dedupe, seen = Deduplicator(ids_max=ids_max), 0
    for size in sizes:
        assert see(dedupe, seen, seen + size, 1) == 0
        seen += size
        sure = max(0, seen - ids_max * 11 // 12 + 13)
        assert see(dedupe, sure, seen, 1) == seen - sure
        assert dedupe.status()["ids"] <= max(ids_max, 24)
    assert dedupe._state[DISPLACED] == 0


def test_a_table_at_its_load_finds_a_place_for_all() -> None:
    ids_max = int(LOAD_MAX * (1 << 20))
    dedupe = Deduplicator(ids_max=ids_max)
    see(dedupe, 0, ids_max * 11 // 12, 1_000)
    for start in range(ids_max * 11 // 12, 3_000_000, 100_000):
        see(dedupe, start, start + 100_000, 1_000)
    assert dedupe.status()["ids"] > 0.9 * ids_max
    assert dedupe._state[DISPLACED] == 0


def test_what_is_restored_forgets_at_the_same_event() -> None:
    """Also what the newest event time was: a set begins at it."""
    real = Deduplicator(ids_max=60, horizon_ms=120, for_checkpoints=True)
    rng = np.random.default_rng(1)
    again = Deduplicator(ids_max=60, horizon_ms=120, for_checkpoints=True)
    for step in range(60):
        ids = Strings.of(f"e{n}" for n in rng.integers(0, 90, 9).tolist())
        times_ms = np.sort(rng.integers(step * 10, step * 10 + 40, 9))[::-1].copy()
        assert real.repeated(ids, times_ms).tolist() == again.repeated(ids, times_ms).tolist(), step
        if step % 5 == 0:
            sets = real.sets()
            again = Deduplicator(ids_max=60, horizon_ms=120, for_checkpoints=True)
            again.restore(
                [
                    KeptSet(one.number, one.started_ms, one.newest_ms, one.count, partial(pairs_of, one))
                    for one in sets
                ]
            )
            assert {**again.status(), "bytes": 0} == {**real.status(), "bytes": 0}


def pairs_of(one: IdSet, block: int) -> np.ndarray:
    found = one.pairs(block)
    assert found is not None
    return found


def test_a_smaller_memory_restores_the_newest() -> None:
    real = Deduplicator(horizon_ms=1_000_000, for_checkpoints=True)
    see(real, 0, 1_000, 1)
    sets = [
        KeptSet(one.number, one.started_ms, one.newest_ms, one.count, partial(pairs_of, one))
        for one in real.sets()
    ]
    again = Deduplicator(horizon_ms=1_000_000, ids_max=300, for_checkpoints=True)
    again.restore(sets)
    assert 200 < again.status()["ids"] <= 300
    assert see(again, 800, 1_000, 1) == 200


def test_what_is_restored_knows_the_newest_time_though_it_was_not_the_last() -> None:
    """A set begins at the newest time: two that differ in it would forget at different events."""
    real = Deduplicator(ids_max=60, horizon_ms=1_000, for_checkpoints=True)
    real.repeated(Strings.of([f"e{n}" for n in range(5)]), np.array([100, 150, 120, 120, 120]))
    again = Deduplicator(ids_max=60, horizon_ms=1_000, for_checkpoints=True)
    again.restore(
        [
            KeptSet(one.number, one.started_ms, one.newest_ms, one.count, partial(pairs_of, one))
            for one in real.sets()
        ]
    )
    for one in (real, again):
        one.repeated(Strings.of(["e9"]), np.array([130]))
        assert [(s.started_ms, s.count) for s in one.sets()] == [(100, 5), (150, 1)]


@pytest.mark.parametrize("ids_max", [3_774, 3_000, 1_200, 50])
def test_with_a_smaller_memory_it_goes_on_and_does_not_hang(ids_max: int) -> None:
    """The sets that have ended must leave room for one that has not."""
    real = Deduplicator(ids_max=4_800, horizon_ms=1_000_000, for_checkpoints=True)
    see(real, 0, 3_700, 1)
    sets = [
        KeptSet(one.number, one.started_ms, one.newest_ms, one.count, partial(pairs_of, one))
        for one in real.sets()
    ]
    again = Deduplicator(ids_max=ids_max, horizon_ms=1_000_000, for_checkpoints=True)
    again.restore(sets)
    assert see(again, 3_700, 9_000, 2) == 0
    assert again.status()["ids"] <= ids_max
    assert see(again, 9_000 - ids_max // 3, 9_000, 3) == ids_max // 3
