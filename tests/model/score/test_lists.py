"""What is served before the first model version: whom it names, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from driftgraph.model.examples.examples import half_lives_ms
from driftgraph.model.options import ListLengths
from driftgraph.model.score import lists as lists_module
from driftgraph.model.score.co_visitation import HISTORY, CoVisitation
from driftgraph.model.score.lists import AskedUsers, FirstLists, ListMaker
from driftgraph.stream.arrays import F32, F64, U32
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Moment
from driftgraph.stream.window.writer import Window
from tests.model_worlds import SMALL, blocks, window_of

LENGTHS = ListLengths(lists=50, similar=10)


def rows_of(*rows: int) -> U32:
    return np.array(rows, np.uint32)


def moment_of(window: Window) -> Moment:
    return Moment(window.cut(), (window.row_versions(USER).copy(), window.row_versions(ITEM).copy()))


def first_lists(window: Window) -> FirstLists:
    return FirstLists(window, moment_of(window), SMALL, LENGTHS)


def asked(window: Window, touched: Sequence[U32], vectors: F32 | None = None) -> AskedUsers:
    count = len(touched)
    return AskedUsers(
        np.arange(count, dtype=np.uint32),
        np.zeros((count, SMALL.dim), np.float32) if vectors is None else vectors,
        np.full(count, 1 << 60),
        moment_of(window),
        np.concatenate([rows_of(), *touched]),
        np.cumsum([0, *(len(rows) for rows in touched)]),
    )


def lists_of(
    maker: ListMaker, window: Window, touched: Sequence[U32], vectors: F32 | None = None
) -> list[tuple[U32, F64]]:
    best = maker.of(asked(window, touched, vectors))
    return [(best.rows[n, :end], best.score[n, :end]) for n, end in enumerate(best.lengths.tolist())]


@pytest.mark.parametrize("touched", [(), (3,), (3, 17, 4, 90)])
def test_a_list_has_what_is_near_first_then_what_is_popular_and_nothing_touched(
    touched: tuple[int, ...],
) -> None:
    window = window_of(blocks(4_000, seed=1, users=200, items=120))
    cut = window.cut()
    events = window.events(cut)
    [(rows, score)] = lists_of(first_lists(window), window, [rows_of(*touched)])
    assert len(rows) == LENGTHS.lists
    assert len(set(rows.tolist())) == LENGTHS.lists
    assert not set(rows.tolist()) & set(touched)
    assert (np.diff(score) <= 0).all()
    near, worth = CoVisitation(events, window.rows(1)).near(
        rows_of(*touched)[:HISTORY], int(events.time_ms[-1]) + 1
    )
    expected = dict(zip(near.tolist(), worth.tolist(), strict=True))
    for row, value in zip(rows.tolist(), score.tolist(), strict=True):
        assert value == pytest.approx(expected.get(row, 0.0), abs=1e-5)
    behind = [row for row in rows.tolist() if row not in expected]
    times = events.time_ms[-1] + 1 - events.time_ms
    half_life_ms = half_lives_ms(window.relations, SMALL)[0]
    popularity = np.bincount(events.item, 2.0 ** (-times / half_life_ms), minlength=200)
    assert (np.diff(popularity[behind]) <= 1e-9).all(), "the others are in order of their popularity"


def test_the_vectors_rank_by_popularity_for_everybody() -> None:
    window = window_of(blocks(2_000, seed=2, users=100, items=50))
    cut = window.cut()
    made = first_lists(window).embedding()
    assert set(made.user_rows.tolist()) == set(window.events(cut).user.tolist())
    assert made.user.shape[1] == made.item.shape[1] == SMALL.dim
    score = made.user @ made.item.T
    assert (score == score[0]).all()
    count = np.bincount(window.events(cut).item)[made.item_rows]
    assert np.corrcoef(score[0], np.log(count))[0, 1] > 0.9
    events = window.events(cut)
    newest = {user: int(events.time_ms[events.user == user].max()) for user in made.user_rows.tolist()}
    assert dict(zip(made.user_rows.tolist(), made.user_event_ms.tolist(), strict=True)) == newest


def test_a_small_window_gives_short_lists_and_an_empty_one_none() -> None:
    window = window_of([(0, 1, 0, 1), (0, 2, 0, 5), (1, 1, 0, 7)])
    lists = first_lists(window)
    made = lists_of(lists, window, [rows_of(1), rows_of(1, 2), rows_of(), rows_of(77)])
    assert [rows.tolist() for rows, _ in made] == [[2], [], [1, 2], [1, 2]]
    assert lists_of(lists, window, []) == []
    assert len(first_lists(window_of([])).embedding().user) == 0


def test_a_row_that_changed_hands_since_is_in_no_list_and_counts_for_nobody() -> None:
    window = window_of(blocks(2_000, seed=4, users=100, items=40))
    lists = first_lists(window)
    [(before, _)] = lists_of(lists, window, [rows_of(3, 5)])
    assert 7 in before.tolist()
    window.recycle(1, rows_of(7, 3))
    [(after, _)] = lists_of(lists, window, [rows_of(3, 5)])
    assert not {3, 7} & set(after.tolist())
    [(alone, _)] = lists_of(lists, window, [rows_of(5)])
    assert after.tolist() == alone.tolist()
    assert all(7 not in rows.tolist() and 3 not in rows.tolist() for rows, _ in similar_of(lists, rows_of(5)))


# --- similar items -----------------------------------------------------------------------------------


def similar_of(maker: ListMaker, items: U32) -> list[tuple[U32, F64]]:
    return [
        (best.rows[n, :end], best.score[n, :end])
        for best in maker.similar(items)
        for n, end in enumerate(best.lengths.tolist())
    ]


@pytest.mark.parametrize("at_once", [7, 1 << 14])
def test_similar_items_are_those_of_co_visitation_with_the_item_alone(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_module, "SIMILAR_AT_ONCE", at_once)
    window = window_of(blocks(2_000, seed=10, users=300, items=200))
    events = window.events(window.cut())
    items = np.unique(events.item)
    visits, now_ms = CoVisitation(events, window.rows(ITEM)), int(events.time_ms[-1]) + 1
    made = similar_of(first_lists(window), items)
    assert len(made) == len(items)
    for item, (rows, score) in zip(items, made, strict=True):
        near, worth = visits.near(rows_of(item), now_ms)
        expected = sorted(zip(-worth, near, strict=True))[: LENGTHS.similar]
        assert rows.tolist() == [row for _, row in expected]
        np.testing.assert_allclose(score, [-value for value, _ in expected], rtol=1e-9)
        assert item not in rows


def test_an_item_that_nobody_saw_beside_another_has_nothing_similar() -> None:
    window = window_of([(0, 1, 0, 1), (1, 2, 0, 5), (1, 3, 0, 7)])
    similar = similar_of(first_lists(window), rows_of(1, 2, 3))
    assert [rows.tolist() for rows, _ in similar] == [[], [3], [2]]
