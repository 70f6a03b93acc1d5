"""Answers from an index against those from the lists of the window, and against the plainest oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.walks import event_index, paths, similar_users
from driftgraph.stream.walks.event_index import EventIndexes, indexed
from driftgraph.stream.walks.paths import PathSums
from driftgraph.stream.walks.similar_users import ItemSums
from driftgraph.stream.window.writer import ITEM, USER, Cut, Relation, in_memory
from tests.plain_paths import plain_paths, plain_sums
from tests.plain_similar import plain_similar
from tests.stream.walks.test_paths import HOUR_MS, questions, random_tables, shop
from tests.stream.walks.test_paths import shapes as path_shapes
from tests.stream.walks.test_similar_users import shapes as similar_shapes
from tests.stream.walks.test_similar_users import weights_of
from tests.stream.window.test_window import CAPACITIES, LONG, ROWS, Pair, Step, limits, relations, run, step

ITEM_WEIGHT = np.linspace(0.5, 2.0, ROWS)


@pytest.fixture(autouse=True)
def _at_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question gets an index, however few there are."""
    monkeypatch.setattr(event_index, "EVENTS_PER_QUESTION", 1 << 40)


def identical(ours: PathSums | ItemSums, theirs: PathSums | ItemSums) -> None:
    for name in ours.__slots__:
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


def agree(pair: Pair, cut: Cut, indexes: EventIndexes, shape: paths.Shape, near: similar_users.Shape) -> None:
    """All times in one question, of which one base is read and the rest is walked; each time alone."""
    users, times_ms = questions()
    tables, weights = random_tables(shape, 2, relation_count=2), weights_of(near, ROWS // 2)
    walked = paths.sums(pair.real, users, times_ms, cut, shape, tables, ITEM_WEIGHT)
    theirs = similar_users.sums(pair.real, users, times_ms, cut, near, *weights)
    for chosen in (np.ones(len(users), np.bool_), *(times_ms == t for t in np.unique(times_ms))):
        asked = pair.real, users[chosen], times_ms[chosen], cut
        ours = paths.sums(*asked, shape, tables, ITEM_WEIGHT, indexes)
        similar = similar_users.sums(*asked, near, *weights, indexes)
        assert indexes._index is not None
        for place, n in enumerate(np.flatnonzero(chosen).tolist()):
            for one, other in ((ours, walked), (similar, theirs)):
                a, b = one.bounds_N1[place : place + 2]
                c, d = other.bounds_N1[n : n + 2]
                assert one.item[a:b].tolist() == other.item[c:d].tolist()
                assert one.left_out_N[place] == other.left_out_N[n]
            a, b = ours.bounds_N1[place : place + 2]
            question = pair.plain, cut, int(users[n]), int(times_ms[n]), shape
            expected = plain_sums(plain_paths(*question)[0], tables, ITEM_WEIGHT, is_user=True)
            assert ours.item[a:b].tolist() == list(expected)
            np.testing.assert_allclose(
                ours.sum_PV[a:b].reshape(-1), np.ravel([*expected.values()]), rtol=1e-12
            )
            a, b = similar.bounds_N1[place : place + 2]
            found, _ = plain_similar(pair.plain, int(users[n]), int(times_ms[n]), cut, near, weights)
            assert similar.item[a:b].tolist() == list(found)
            np.testing.assert_allclose(similar.sum[a:b], list(found.values()), rtol=1e-12)


@settings(max_examples=LONG * 25, deadline=None)
@given(st.lists(step, max_size=8), limits, path_shapes, similar_shapes)
def test_an_index_agrees_with_a_plain_list(
    steps: list[Step], events_max: tuple[int, int], shape: paths.Shape, near: similar_users.Shape
) -> None:
    """Late events, ties, spans that differ, expiry, ring wrap, caps, erasure: one keeper for all steps."""
    indexes = None
    for pair in run(steps, relations(CAPACITIES, events_max)):
        indexes = indexes or EventIndexes(pair.real)
        agree(pair, pair.real.cut(), indexes, shape, near)


def test_an_erasure_reaches_the_index_of_an_older_cut() -> None:
    """The same question at the same cut: who was erased in between must not show, though all was sorted."""
    pair = shop(1_000, 40, 60)
    cut, indexes, shape = pair.real.cut(), EventIndexes(pair.real), paths.Shape()
    asked = pair.real, *all_users(97 * HOUR_MS), cut
    tables, weight = paths.Tables.ones(shape, 3), np.ones(60)
    before = paths.sums(*asked, shape, tables, weight, indexes)
    pair.erase(0)
    after = paths.sums(*asked, shape, tables, weight, indexes)
    assert len(after.item) < len(before.item)
    identical(after, paths.sums(*asked, shape, tables, weight))


@pytest.fixture(scope="module")
def busy() -> Pair:
    return shop(3_000, 40, 60)


def all_users(time_ms: int) -> tuple[U32, I64]:
    """At a full hour and a millisecond, which is when events are."""
    return np.arange(42, dtype=np.uint32), np.full(42, time_ms + 1, np.int64)


@pytest.mark.parametrize(
    "shape",
    [
        paths.Shape(),
        paths.Shape(paths_max=900),
        paths.Shape(reach=12),
        paths.Shape(history=3, visits=200, lag=9, reach=40),
    ],
)
@pytest.mark.parametrize("hours", [30, 60, 96, 97, 120])
def test_hubs_have_the_same_sums_to_the_last_bit(busy: Pair, shape: paths.Shape, hours: int) -> None:
    """In the past, at the newest event, so late that a part has expired; with and without plain tables."""
    asked = busy.real, *all_users(hours * HOUR_MS), busy.real.cut()
    for tables in (random_tables(shape, 3), paths.Tables.ones(shape, 3)):
        weight = np.random.default_rng(5).random(60)
        ours = paths.sums(*asked, shape, tables, weight, EventIndexes(busy.real))
        identical(ours, paths.sums(*asked, shape, tables, weight))
    near = similar_users.Shape(history=6, visitors=9, neighbors=7, items=11)
    weights = weights_of(near, 60)
    similar = similar_users.sums(*asked, near, *weights, EventIndexes(busy.real))
    identical(similar, similar_users.sums(*asked, near, *weights))
    assert len(ours.item) > 300
    assert len(similar.item) > 100
    assert shape == paths.Shape() or ours.left_out_N.any()


def test_given_histories_have_the_same_sums(busy: Pair) -> None:
    """Items alone and lists of items, one with an item that nobody knows, at one time and at two."""
    lists = [[3], [0, 5, 0, 9, 5], [], list(range(12)), [59, 4_000_000_000]]
    shape, cut = paths.Shape(history=5), busy.real.cut()
    bounds, items = np.cumsum([0, *map(len, lists)]), np.array([i for one in lists for i in one], np.uint32)
    for times_ms in (np.full(5, 80 * HOUR_MS), np.array([80, 80, 80, 97, 98]) * HOUR_MS):
        asked = busy.real, bounds, items, times_ms, cut, shape, random_tables(shape, 2), np.ones(60)
        ours = paths.sums_from(*asked, EventIndexes(busy.real))
        identical(ours, paths.sums_from(*asked))
        assert len(ours.item) > 100


@pytest.mark.parametrize("repeats", [31, 32, 33, 100])
def test_one_who_has_repeated_more_than_is_looked_at_has_the_same_neighbors(repeats: int) -> None:
    """A bot clicks one item again and again, and others before; a purchase is the oldest of all."""
    window = in_memory(
        [Relation("click", 10_000, 256), Relation("buy", 10_000, 16)], user_rows=4, item_rows=9
    )
    item = np.array([5, 4, 3, 2, *[1] * repeats], np.uint32)
    relation = np.array([1, 0, 0, 0, *[0] * repeats], np.uint8)
    window.append(np.zeros(len(item), np.uint32), item, relation, np.arange(1, len(item) + 1))
    cut, nodes, times_ms = window.cut(), np.zeros(1, np.uint32), np.array([len(item) + 1])
    index = indexed(window, cut, len(item) + 1)
    for k in (1, 2, 3, 7):
        theirs = window.distinct_union(USER, nodes, times_ms, k, cut)
        neighbor_BK, count_B = event_index.newest_distinct(index, USER, nodes, times_ms, k, 2)
        assert neighbor_BK.tolist() == theirs.neighbor_BK.tolist()
        assert count_B.tolist() == theirs.count_B.tolist()


@pytest.mark.parametrize("side", [USER, ITEM])
def test_rows_that_nobody_knows_have_no_neighbors(busy: Pair, side: int) -> None:
    index = indexed(busy.real, busy.real.cut(), 97 * HOUR_MS)
    nodes = np.array([1, 70, 4_000_000_000], np.uint32)
    _, count_B = event_index.newest_distinct(index, side, nodes, np.full(3, 97 * HOUR_MS), 5, 3)
    assert count_B.tolist() == [5, 0, 0]


def test_a_cut_is_sorted_once_it_pays_and_only_once(busy: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 events and 42 questions a call: at 25 events a question the third call sorts them."""
    monkeypatch.setattr(event_index, "EVENTS_PER_QUESTION", 25)
    sorted_by: list[int] = []

    def counted(*asked: Any) -> Any:
        sorted_by.append(len(calls))
        return indexed(*asked)

    monkeypatch.setattr(event_index, "indexed", counted)
    cut, indexes, shape = busy.real.cut(), EventIndexes(busy.real), paths.Shape()
    calls: list[int] = []
    for hours in (*[97] * 5, 98):  # another moment behind the watermark has another oldest event
        calls.append(hours)
        asked = busy.real, *all_users(hours * HOUR_MS), cut
        paths.sums(*asked, shape, paths.Tables.ones(shape, 3), np.ones(60), indexes)
    assert sorted_by == [3]
    assert indexes._index is None
