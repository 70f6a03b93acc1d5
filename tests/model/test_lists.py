"""What is served before the first model version: whom it names, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from driftgraph.model.co_visitation import HISTORY, CoVisitation
from driftgraph.model.examples import half_lives_ms
from driftgraph.model.lists import LIST_MAX, Lists
from driftgraph.stream.arrays import U32
from tests.model_worlds import SMALL, blocks, window_of


def rows_of(*rows: int) -> U32:
    return np.array(rows, np.uint32)


@pytest.mark.parametrize("touched", [(), (3,), (3, 17, 4, 90)])
def test_a_list_has_what_is_near_first_then_what_is_popular_and_nothing_touched(
    touched: tuple[int, ...],
) -> None:
    window = window_of(blocks(4_000, seed=1, users=200, items=120))
    cut = window.cut()
    events = window.events(cut)
    lists = Lists(window, cut, SMALL)
    [(rows, score)] = lists.of([rows_of(*touched)])
    assert len(rows) == LIST_MAX
    assert len(set(rows.tolist())) == LIST_MAX
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
    made = Lists(window, cut, SMALL).embedding()
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
    lists = Lists(window, window.cut(), SMALL)
    made = lists.of([rows_of(1), rows_of(1, 2), rows_of(), rows_of(77)])
    assert [rows.tolist() for rows, _ in made] == [[2], [], [1, 2], [1, 2]]
    assert lists.of([]) == []
    empty = window_of([])
    assert len(Lists(empty, empty.cut(), SMALL).embedding().user) == 0


def test_a_row_that_changed_hands_since_is_in_no_list_and_counts_for_nobody() -> None:
    window = window_of(blocks(2_000, seed=4, users=100, items=40))
    lists = Lists(window, window.cut(), SMALL)
    [(before, _)] = lists.of([rows_of(3, 5)])
    assert 7 in before.tolist()
    window.recycle(1, rows_of(7, 3))
    [(after, _)] = lists.of([rows_of(3, 5)])
    assert not {3, 7} & set(after.tolist())
    [(alone, _)] = lists.of([rows_of(5)])
    assert after.tolist() == alone.tolist()
