"""Repeats against a plain set."""

from __future__ import annotations

import numpy as np
import pytest
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
    said = Deduplicator(capacity=8).repeated(Strings.of([one, other, one]), np.array([1, 2, 3]))
    assert said.tolist() == [False, False, True]
