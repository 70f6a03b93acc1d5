"""User-kNN over the window against the plainest possible one, in every order of arrival."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.arrays import F64, U32
from driftgraph.stream.walks import similar_users
from driftgraph.stream.walks.similar_users import ItemSums, Shape, sums
from driftgraph.stream.window import samplers
from driftgraph.stream.window.samplers import DistinctUnion
from driftgraph.stream.window.writer import Cut, in_memory
from tests.plain_similar import plain_similar
from tests.plain_window import PlainWindow
from tests.stream.walks.test_paths import HOUR_MS, questions, shop, targets
from tests.stream.window.test_window import CAPACITIES, LONG, ROWS, Pair, Step, limits, relations, run, step

shapes = st.builds(
    Shape,
    history=st.integers(1, 4),
    visitors=st.integers(1, 5),
    neighbors=st.integers(1, 4),
    items=st.integers(1, 5),
)


def weights_of(shape: Shape, rows: int, *, seed: int = 1) -> tuple[F64, F64]:
    """Weights of which no two sums are equal, so that every order is one of similarity."""
    rng = np.random.default_rng(seed)
    return rng.random(shape.history) + 0.1, rng.random(rows) + 0.1


def agree(pair: Pair, cut: Cut, shape: Shape, weights: tuple[F64, F64], count: int = 0) -> ItemSums:
    users, times_ms = targets(pair, count) if count else questions()
    found = sums(pair.real, users, times_ms, cut, shape, *weights)
    for n, (user, time_ms) in enumerate(zip(users.tolist(), times_ms.tolist(), strict=True)):
        expected, left_out = plain_similar(pair.plain, user, time_ms, cut, shape, weights)
        part = slice(*found.bounds_N1[n : n + 2].tolist())
        assert found.item[part].tolist() == list(expected)
        np.testing.assert_allclose(found.sum[part], list(expected.values()), rtol=1e-12)
        assert found.left_out_N[n] == left_out
    return found


@settings(max_examples=LONG * 60, deadline=None)
@given(st.lists(step, max_size=12), limits, shapes)
def test_sums_agree_with_a_plain_list(steps: list[Step], events_max: tuple[int, int], shape: Shape) -> None:
    """Late events, ties, expiry, ring wrap, caps, erasure: compare after each step."""
    for pair in run(steps, relations(CAPACITIES, events_max)):
        agree(pair, pair.real.cut(), shape, weights_of(shape, ROWS // 2))


@pytest.fixture(scope="module")
def busy() -> Pair:
    return shop(3_000, 40, 60)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(neighbors=5), Shape(history=6, visitors=9, neighbors=7, items=11)]
)
def test_hubs_have_exact_sums(busy: Pair, shape: Shape) -> None:
    """Users of hundreds of events and items that nearly everybody has, now and in the past."""
    found = agree(busy, busy.real.cut(), shape, weights_of(shape, 60), count=30)
    assert len(found.item) > 300
    assert shape == Shape() or found.left_out_N.any()


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_targets_at_one_time_share_what_they_ask_for(
    busy: Pair, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two times for many users, as in a publish: with and without the search for equal questions."""
    monkeypatch.setattr(similar_users, "QUESTIONS_MAX", most)
    shape, cut = Shape(history=6, visitors=9, neighbors=7, items=11), busy.real.cut()
    weights = weights_of(shape, 60)
    users = np.arange(40, dtype=np.uint32)
    times_ms = cut.watermark_ms - HOUR_MS * (users % 2).astype(np.int64)
    asked, distinct_union = [0], busy.real.distinct_union

    def counted(side: int, nodes: U32, *rest: Any) -> DistinctUnion:
        asked[0] += len(nodes)
        return distinct_union(side, nodes, *rest)

    monkeypatch.setattr(busy.real, "distinct_union", counted)
    found = sums(busy.real, users, times_ms, cut, shape, *weights)
    together = asked[0]
    for n, (user, time_ms) in enumerate(zip(users.tolist(), times_ms.tolist(), strict=True)):
        expected, _ = plain_similar(busy.plain, user, time_ms, cut, shape, weights)
        part = slice(*found.bounds_N1[n : n + 2].tolist())
        assert found.item[part].tolist() == list(expected)
        np.testing.assert_allclose(found.sum[part], list(expected.values()), rtol=1e-12)
    assert together <= 40 + 2 * 60 + 2 * 40 or most == 0, "each item and each user once at each time"


def test_of_equal_similarities_those_that_are_found_first_are_kept(busy: Pair) -> None:
    """All weights are 1, so that most similarities are equal."""
    for neighbors in (1, 3, 10):
        shape = Shape(history=4, neighbors=neighbors)
        agree(busy, busy.real.cut(), shape, (np.ones(4), np.ones(60)), count=20)


def test_an_event_at_or_after_the_time_changes_nothing() -> None:
    """The same window with and without what came at the targets' time or later."""
    whole = shop(2_000, 40, 60)
    times = sorted(time_ms for events in whole.plain.kept for _, _, time_ms in events)
    t, shape = times[1_000], Shape(neighbors=8)
    before = Pair(
        in_memory(whole.real.relations, user_rows=40, item_rows=60), PlainWindow(whole.real.relations)
    )
    for r, events in enumerate(whole.plain.kept):
        before.append([(u, i, r, time_ms) for u, i, time_ms in events if time_ms < t])
    asked = np.arange(40, dtype=np.uint32), np.full(40, t)
    weights = weights_of(shape, 60)
    ours, theirs = (sums(one.real, *asked, one.real.cut(), shape, *weights) for one in (whole, before))
    assert len(ours.item) > 500
    for name in ItemSums.__slots__:
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


@pytest.mark.parametrize(("threads", "cells"), [(1, 1), (4, 1 << 22), (3, 32 * 128 * 3 * 17)])
def test_threads_and_blocks_change_no_bit(
    busy: Pair, monkeypatch: pytest.MonkeyPatch, threads: int, cells: int
) -> None:
    asked = targets(busy, 64)
    weights = weights_of(Shape(), 60)
    usual = sums(busy.real, *asked, busy.real.cut(), Shape(), *weights)
    monkeypatch.setattr(samplers, "THREADS", threads)
    monkeypatch.setattr(similar_users, "CELLS_MAX", cells)
    again = sums(busy.real, *asked, busy.real.cut(), Shape(), *weights)
    for name in ItemSums.__slots__:
        assert getattr(usual, name).tobytes() == getattr(again, name).tobytes(), name


def test_nobody_is_asked_for_and_nobody_is_there(busy: Pair) -> None:
    nobody = np.zeros(0, np.uint32), np.zeros(0, np.int64)
    weights = weights_of(Shape(), 60)
    none = sums(busy.real, *nobody, busy.real.cut(), Shape(), *weights)
    assert none.bounds_N1.tolist() == [0]
    assert len(none.item) == len(none.sum) == len(none.left_out_N) == 0
    empty = in_memory(busy.real.relations, user_rows=4, item_rows=4)
    found = sums(empty, np.arange(3, dtype=np.uint32), np.full(3, HOUR_MS), empty.cut(), Shape(), *weights)
    assert found.bounds_N1.tolist() == [0, 0, 0, 0]


def test_wrong_arguments_are_named(busy: Pair) -> None:
    with pytest.raises(ValueError, match="neighbors must be 1 to 4096, got 0"):
        Shape(neighbors=0)
    users, times_ms = targets(busy, 2)
    with pytest.raises(ValueError, match="place_weight must have 20 numbers, got 3"):
        sums(busy.real, users, times_ms, busy.real.cut(), Shape(), np.ones(3), np.ones(60))
    with pytest.raises(ValueError, match="disagree in length: 2 and 1"):
        sums(busy.real, users, times_ms[:1], busy.real.cut(), Shape(), np.ones(20), np.ones(60))
