"""Repeats against a plain set."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.dedupe import Deduplicator
from driftgraph.stream.events import Strings


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
    assert judge(ids, [1_000] * len(ids), size, Deduplicator(capacity=64)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), max_size=80), st.integers(1, 9))
def test_forgetting_does_not_depend_on_batches(events: list[tuple[int, int]], size: int) -> None:
    """Small capacity and horizon, so that both reasons to forget occur."""
    ids, times_ms = [f"e{n}" for n, _ in events], np.cumsum([1] + [step for _, step in events])[1:].tolist()
    whole = judge(ids, times_ms, 1_000, Deduplicator(capacity=7, horizon_ms=200))
    assert judge(ids, times_ms, size, Deduplicator(capacity=7, horizon_ms=200)) == whole


def test_an_id_is_remembered_for_at_least_a_horizon() -> None:
    dedupe = Deduplicator(horizon_ms=100)
    ids = [f"e{n}" for n in range(300)]
    assert not any(judge(ids, list(range(1, 301)), 50, dedupe))
    assert judge(["e201", "e300", "e299"], [301, 301, 301], 3, dedupe) == [True, False, True]
    assert judge(["e5"], [301], 1, dedupe) == [False]  # two horizons ago: forgotten


def test_the_same_click_with_another_id_counts() -> None:
    dedupe = Deduplicator()
    assert judge(["a", "b", "a", "", ""], [1, 1, 1, 1, 1], 5, dedupe) == [False, False, True, False, False]
