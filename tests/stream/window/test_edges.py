"""The window without the relations that make no edge: the same answers as of a window that never had them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.walks import paths
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph, HeterographView
from driftgraph.stream.window.writer import Cut, Relation, Window, WindowView, in_memory

ROWS = 5
EDGES = (Relation("click", 100, 64), Relation("buy", 100, 64))
SHOWN = Relation("impression", 60, 64, is_edge=False)
Event = tuple[int, int, int, int]  # user, item, relation, time


def append(window: Window, events: Sequence[Event]) -> None:
    user, item, relation, time_ms = np.array(events, np.int64).reshape(-1, 4).T
    window.append(user.astype(np.uint32), item.astype(np.uint32), relation.astype(np.uint8), time_ms.copy())


def same(ours: object, theirs: object) -> None:
    for column in fields(ours):  # type: ignore[arg-type]
        assert np.array_equal(getattr(ours, column.name), getattr(theirs, column.name)), column.name


def agree(part: WindowView, alone: WindowView, cut: Cut) -> None:
    """Every kind of question, at the same moment of both."""
    nodes = np.repeat(np.arange(ROWS, dtype=np.uint32), 3)
    times_ms = np.tile(np.array([30, 90, 250], np.int64), ROWS)
    count = len(EDGES)
    seen = Cut(cut.watermark_ms, cut.first[:count], cut.next[:count])
    assert part.relations == alone.relations
    for side in (USER, ITEM):
        for name in ("recent", "distinct", "distinct_union"):
            ours, theirs = getattr(part, name), getattr(alone, name)
            same(ours(side, nodes, times_ms, 3, cut), theirs(side, nodes, times_ms, 3, seen))
        assert np.array_equal(part.degree(side, cut), alone.degree(side, seen))
    same(part.events(cut), alone.events(seen))
    assert [part.newest_ms(user) for user in range(ROWS)] == [alone.newest_ms(user) for user in range(ROWS)]
    assert part.live_counts(cut) == alone.live_counts(seen)
    shape = paths.Shape(history=3, visits=4, lag=2)
    same(paths.walk(part, nodes, times_ms, cut, shape), paths.walk(alone, nodes, times_ms, seen, shape))


event = st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1), st.integers(0, 2), st.integers(1, 200))
step = st.one_of(st.lists(event, max_size=12), st.integers(1, 220))


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=10), st.integers(0, ROWS - 1))
def test_the_edges_answer_as_a_window_that_was_never_shown_anything(
    steps: list[list[Event] | int], erased: int
) -> None:
    """Ties, late events, expiry and an erasure, with impressions in between."""
    whole = in_memory((*EDGES, SHOWN), user_rows=ROWS, item_rows=ROWS)
    alone = in_memory(EDGES, user_rows=ROWS, item_rows=ROWS)
    first = [(row, row, 0, 1) for row in range(ROWS)]
    for action in [first, *steps]:
        if isinstance(action, int):
            whole.expire(action)
            alone.expire(action)
        elif action:
            append(whole, action)
            append(alone, [one for one in action if one[2] < len(EDGES)])
        agree(whole.edges(), alone, whole.cut())
    whole.erase(erased)
    alone.erase(erased)
    agree(whole.edges(), alone, whole.cut())


def test_a_window_of_edges_alone_is_its_own_part() -> None:
    window = in_memory(EDGES, user_rows=ROWS, item_rows=ROWS)
    assert window.edges() is window


def test_what_makes_no_edge_comes_last() -> None:
    with pytest.raises(ValueError, match="relations that make edges come first"):
        in_memory((SHOWN, *EDGES))
    with pytest.raises(ValueError, match="there is one at least"):
        in_memory((SHOWN,))


def test_another_process_knows_what_makes_no_edge(tmp_path: Path) -> None:
    relations = (*EDGES, SHOWN)
    graph = Heterograph.create(tmp_path, relations, user_rows=ROWS, item_rows=ROWS)
    append(graph.window, [(0, 1, 0, 5), (0, 2, 2, 6)])
    seen = HeterographView.attach(tmp_path)
    assert [relation.is_edge for relation in seen.window.relations] == [True, True, False]
    assert seen.edges.live_counts(seen.moment().cut) == {"click": 1, "buy": 0}
    assert seen.window.live_counts(seen.moment().cut) == {"click": 1, "buy": 0, "impression": 1}
