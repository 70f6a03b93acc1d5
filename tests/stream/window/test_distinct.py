"""Distinct neighbors: where lists are long, repeats are many, and events lie at the time asked for.

``test_window`` compares them with the plainest list in every order of arrival, at every cut.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.window import samplers
from driftgraph.stream.window.writer import ITEM, USER, Relation, Window, in_memory
from tests.plain_window import PlainWindow
from tests.stream.window.test_window import LONG, ROWS, Event, event, relations, run, same

NO_ROWS = np.zeros(0, np.uint32)


def clicks(window: Window | PlainWindow, user: list[int], item: list[int], time_ms: list[int]) -> None:
    window.append(
        np.array(user, np.uint32),
        np.array(item, np.uint32),
        np.zeros(len(user), np.uint8),
        np.array(time_ms, np.int64),
    )


@settings(max_examples=LONG * 100, deadline=None)
@given(st.lists(st.lists(event, max_size=12), max_size=8), st.integers(1, 4), st.integers(1, 3))
def test_no_more_events_are_looked_at_than_the_bound(batches: list[list[Event]], k: int, looks: int) -> None:
    """The bound is so small that it ends most walks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "LOOKS", looks)
        for pair in run(list(batches), relations((64, 64))):
            pair.agree(pair.real.cut(), k)


@settings(max_examples=LONG * 100, deadline=None)
@given(st.lists(event, max_size=40), st.lists(event, min_size=1, max_size=40), st.integers(1, 200))
def test_an_event_at_or_after_the_time_changes_nothing(
    before: list[Event], after: list[Event], time_ms: int
) -> None:
    *_, pair = run([before], relations((256, 256)))
    nodes, times = np.arange(ROWS, dtype=np.uint32), np.full(ROWS, time_ms)
    questions = [(side, nodes, times, 3) for side in (USER, ITEM)]
    cut = pair.real.cut()
    known = [(pair.real.distinct(*q, cut), pair.real.distinct_union(*q, cut)) for q in questions]
    pair.append([(u, i, r, max(t, time_ms)) for u, i, r, t in after])
    for question, (distinct, union) in zip(questions, known, strict=True):
        same(pair.real.distinct(*question, pair.real.cut()), distinct)
        same(pair.real.distinct_union(*question, pair.real.cut()), union)


@pytest.mark.parametrize(("k", "users"), [(8, 40), (64, 100), (512, 700), (600, 600)])
def test_long_lists_of_many_neighbors_are_exact(k: int, users: int) -> None:
    """One item has 3,000 events by few or many users, in shuffled order: tables fill, and rows collide."""
    rng = np.random.default_rng(k)
    spans = [Relation("click", 10_000, 4_096)]
    real, plain = in_memory(spans, user_rows=1 << 20, item_rows=2), PlainWindow(spans)
    rows = rng.choice(1 << 20, users, replace=False)
    user = rows[(users * rng.random(3_000) ** 2).astype(np.int64)].tolist()
    time_ms = rng.permutation(np.repeat(np.arange(1, 1_001), 3)).tolist()
    for window in (real, plain):
        clicks(window, user, [1] * 3_000, time_ms)
    question = ITEM, np.ones(4, np.uint32), np.array([1_001, 700, 300, 2]), k, real.cut()
    same(real.distinct(*question), plain.distinct(*question, samplers.LOOKS))
    same(real.distinct_union(*question), plain.distinct_union(*question, samplers.LOOKS))


def test_seeds_of_many_threads_and_blocks_get_their_own_neighbors() -> None:
    """20,000 seeds in one call are answered as one by one: no table keeps what another seed left in it."""
    rng = np.random.default_rng(6)
    n = 5_000
    window = in_memory(relations((8_192, 8_192)), user_rows=300, item_rows=50)
    columns = rng.integers(0, 300, n).astype(np.uint32), rng.integers(0, 50, n).astype(np.uint32)
    window.append(*columns, rng.integers(0, 2, n).astype(np.uint8), rng.integers(1, 200, n))
    nodes, times = rng.integers(0, 300, 20_000).astype(np.uint32), rng.integers(1, 250, 20_000)
    cut = window.cut()
    whole, union = (
        window.distinct(USER, nodes, times, 4, cut),
        window.distinct_union(USER, nodes, times, 4, cut),
    )
    for b in rng.integers(0, len(nodes), 300).tolist():
        one = window.distinct(USER, nodes[b : b + 1], times[b : b + 1], 4, cut)
        for name in ("neighbor_BRK", "time_ms_BRK", "repeats_BRK", "count_BR"):
            assert getattr(whole, name)[b].tolist() == getattr(one, name)[0].tolist()
        alone = window.distinct_union(USER, nodes[b : b + 1], times[b : b + 1], 4, cut)
        for name in ("neighbor_BK", "time_ms_BK", "relation_BK", "repeats_BK", "count_B"):
            assert getattr(union, name)[b].tolist() == getattr(alone, name)[0].tolist()


def test_a_bot_that_repeats_one_item_is_looked_at_up_to_the_bound() -> None:
    """Its other items, which lie behind, are not looked for; a user with a few repeats has them all."""
    window = in_memory([Relation("click", 1 << 30, 1 << 12)], user_rows=2, item_rows=9)
    k = 5
    most = samplers.LOOKS * k
    clicks(window, [0] * (most + 50), [7, 6, *[3] * (most + 48)], list(range(1, most + 51)))
    clicks(window, [1] * most, [7, *[3] * (most - 1)], list(range(1, most + 1)))
    near = window.distinct(USER, np.array([0, 1], np.uint32), np.full(2, 1 << 20), k, window.cut())
    assert near.count_BR.tolist() == [[1], [2]]
    assert near.neighbor_BRK[:, 0, :2].tolist() == [[3, 0], [3, 7]]
    assert near.repeats_BRK[:, 0, :2].tolist() == [[most, 0], [most - 1, 1]]


def test_counts_end_with_the_last_neighbor_that_is_wanted() -> None:
    """Items 1, 2, 1, 3, 2 from the newest on: the second 2 is behind the third neighbor, 3."""
    window = in_memory([Relation("click", 1_000, 64)], user_rows=1, item_rows=9)
    clicks(window, [0] * 5, [2, 3, 1, 2, 1], [1, 2, 3, 4, 5])
    near = window.distinct(USER, np.zeros(1, np.uint32), np.array([9]), 3, window.cut())
    assert near.neighbor_BRK.tolist() == [[[1, 2, 3]]]
    assert near.time_ms_BRK.tolist() == [[[5, 4, 2]]]
    assert near.repeats_BRK.tolist() == [[[2, 1, 1]]]


def test_the_union_sums_counts_and_names_the_relation_of_the_newest_event() -> None:
    """Item 1 was clicked twice and bought last; of one time, the later relation comes first."""
    window = in_memory([Relation("click", 1_000, 64), Relation("buy", 1_000, 64)], user_rows=1, item_rows=9)
    user, item = np.zeros(6, np.uint32), np.array([1, 1, 2, 3, 1, 4], np.uint32)
    relation = np.array([0, 0, 0, 0, 1, 1], np.uint8)
    window.append(user, item, relation, np.array([10, 11, 9, 15, 20, 15]))
    union = window.distinct_union(USER, user[:1], np.array([99]), 3, window.cut())
    assert union.neighbor_BK.tolist() == [[1, 4, 3]]
    assert union.time_ms_BK.tolist() == [[20, 15, 15]]
    assert union.relation_BK.tolist() == [[1, 1, 0]]
    assert union.repeats_BK.tolist() == [[3, 1, 1]]
    assert union.count_B.tolist() == [3]


def test_each_relation_can_have_its_own_number_of_distinct_neighbors() -> None:
    window = in_memory(relations((64, 64)), user_rows=ROWS, item_rows=64)
    n = 10
    item = np.tile(np.arange(n, dtype=np.uint32), 2)
    window.append(
        np.zeros(2 * n, np.uint32),
        item,
        np.repeat([0, 1], n).astype(np.uint8),
        np.tile(np.arange(1, n + 1), 2),
    )
    near = window.distinct(USER, np.zeros(1, np.uint32), np.array([30]), [0, 4], window.cut())
    assert near.count_BR.tolist() == [[0, 4]]
    assert near.neighbor_BRK.tolist() == [[[0, 0, 0, 0], [9, 8, 7, 6]]]


def test_no_seeds_no_k_and_too_large_a_k() -> None:
    window = in_memory(relations(), user_rows=ROWS, item_rows=ROWS)
    cut = window.cut()
    assert window.distinct(USER, NO_ROWS, np.zeros(0, np.int64), 3, cut).repeats_BRK.shape == (0, 2, 3)
    assert window.distinct_union(USER, np.zeros(2, np.uint32), np.full(2, 9), 0, cut).neighbor_BK.shape == (
        2,
        0,
    )
    unknown = np.array([ROWS, 2**32 - 1], np.uint32)
    assert window.distinct(USER, unknown, np.full(2, 9), 3, cut).count_BR.sum() == 0
    with pytest.raises(ValueError, match="k must be at most 4096 for distinct neighbors, got 4097"):
        window.distinct(USER, NO_ROWS, np.zeros(0, np.int64), 4_097, cut)
