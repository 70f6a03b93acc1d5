"""Items of similar users over the window: user-based nearest neighbors (user-kNN), as of any time.

    view at a cut, or its index ──► distinct neighbors, three times ──► [sums] ──► items of each target

For a target, user u at time t, of events strictly before t and inside their spans:

1. j: the ``Shape.history`` newest distinct items of u; the newest one is at place 0.
2. v: the ``Shape.visitors`` newest distinct users of each j, without u. The similarity of u and v is the sum
   over the items j that have v among these users of ``place_weight`` of j's place · ``item_weight`` of j.
3. The neighbors of u are the ``Shape.neighbors`` users of the highest similarity. Of equals, those come first
   that are found first: by the place of j, then by recency. ``left_out_N`` counts the others.
4. i: the ``Shape.items`` newest distinct items of each neighbor that are not among u's items j. The sum of i
   is that of similarity / √(number of the neighbor's items) over the neighbors that have it.

All hops are exact, as ``WindowView.distinct_union`` is: an event counts as soon as it is in the window.
Unlike on ``paths``, nothing has to lie near a visit: all that similar users have touched counts.

Source: without limits these are the sums of item-kNN by Deshpande and Karypis, "Item-based top-N
recommendation algorithms", TOIS 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftgraph.stream.arrays import F64, I32, I64, U32
from driftgraph.stream.walks import similar_kernels as kernels
from driftgraph.stream.walks.event_index import EventIndexes, answers, in_turn, newest_distinct
from driftgraph.stream.walks.index_kernels import EventIndex
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import DISTINCT_MAX, in_parallel
from driftgraph.stream.window.view import Cut, WindowView

QUESTIONS_MAX = 1 << 20  # nodes at times among which the distinct ones are looked for: 9 MB
CELLS_MAX = 1 << 22  # of a block's neighbors · items · relations: 70 MB
TARGETS_PER_THREAD = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """How far the search goes."""

    history: int = 20  # items of a user
    visitors: int = 64  # newest users of each of them
    neighbors: int = 128  # users that are the most similar
    items: int = 32  # newest ones of each neighbor

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 1 <= getattr(self, name) <= DISTINCT_MAX:
                raise ValueError(f"{name} must be 1 to {DISTINCT_MAX}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ItemSums:
    """The items of N targets' neighbors: those of target n are at ``bounds_N1[n]`` to ``bounds_N1[n + 1]``.

    Each is there once, in the order in which the neighbors have them first.
    """

    bounds_N1: I64
    item: U32
    sum: F64
    left_out_N: I64  # users who share an item and are not among the neighbors


def sums(
    view: WindowView, users: U32, times_ms: I64, cut: Cut, shape: Shape, place_weight: F64, item_weight: F64,
    indexes: EventIndexes | None = None,
) -> ItemSums:  # fmt: skip
    """The items of the neighbors of N targets, the users [N] at the times [N]. The call releases the GIL.

    Args:
        view: The window.
        users: [N] rows; one without an event has no neighbor.
        times_ms: [N].
        cut: The answer is as of this cut.
        shape: The limits.
        place_weight: [history], above 0.
        item_weight: By row of j, above 0. An item at a row behind its end weighs 1.
        indexes: Those of the view, for a caller with many questions at one cut.

    Raises:
        StaleCut: Events of the cut were overwritten meanwhile.
    """
    if len(users) != len(times_ms):
        raise ValueError(f"users and times_ms disagree in length: {len(users)} and {len(times_ms)}")
    if len(place_weight) != shape.history:
        raise ValueError(f"place_weight must have {shape.history} numbers, got {len(place_weight)}")
    weights = np.ascontiguousarray(place_weight, np.float64), np.ascontiguousarray(item_weight, np.float64)
    users, times_ms = np.ascontiguousarray(users, np.uint32), np.ascontiguousarray(times_ms, np.int64)
    at_once = max(1, CELLS_MAX // (shape.neighbors * shape.items * len(view.relations)))

    def of(asked: U32, at_ms: I64, seen: Cut, index: EventIndex | None) -> ItemSums:
        blocks = [slice(first, first + at_once) for first in range(0, len(asked), at_once)]
        return _joined(
            [_block(_Source(view, seen, index), asked[b], at_ms[b], shape, weights) for b in blocks]
        )

    def answer(seen: Cut) -> ItemSums:
        index = None if indexes is None else indexes.at(seen, times_ms)
        has_N = answers(index, seen, times_ms)
        if has_N.all() or not has_N.any():
            return of(users, times_ms, seen, index if has_N.any() else None)
        one = of(users[has_N], times_ms[has_N], seen, index)
        other = of(users[~has_N], times_ms[~has_N], seen, None)
        columns = (one.bounds_N1, (one.item, one.sum)), (other.bounds_N1, (other.item, other.sum))
        bounds_N1, (item, summed) = in_turn(has_N, *columns)
        left_out_N = np.zeros(len(has_N), np.int64)
        left_out_N[has_N], left_out_N[~has_N] = one.left_out_N, other.left_out_N
        return ItemSums(bounds_N1, item, summed, left_out_N)

    return view.answered(cut, answer)


def _joined(parts: list[ItemSums]) -> ItemSums:
    counts = [np.diff(one.bounds_N1) for one in parts]
    return ItemSums(
        _bounds(np.concatenate([np.zeros(0, np.int64), *counts])),
        np.concatenate([np.zeros(0, np.uint32), *(one.item for one in parts)]),
        np.concatenate([np.zeros(0), *(one.sum for one in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(one.left_out_N for one in parts)]),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Where distinct neighbors are read: an index, or the window."""

    view: WindowView
    cut: Cut
    index: EventIndex | None

    def newest(self, side: int, nodes: U32, times_ms: I64, k: int) -> tuple[U32, I32]:
        """Neighbors [B, K] of each node before its time, newest first, and how many are real."""
        if self.index is not None:
            return newest_distinct(self.index, side, nodes, times_ms, k, len(self.view.relations))
        found = self.view.distinct_union(side, nodes, times_ms, k, self.cut)
        return found.neighbor_BK, found.count_B


def _block(source: _Source, users: U32, times_ms: I64, shape: Shape, weights: tuple[F64, F64]) -> ItemSums:
    """The answer for targets whose items of neighbors are in memory together."""
    view = source.view
    history_NH, count_N = source.newest(USER, users, times_ms, shape.history)
    target, item = _real(history_NH, count_N)
    (visitor_XV, count_X), row_X = _once(source, ITEM, item, times_ms[target], shape.visitors)
    start, visitor = _bounds(count_N), visitor_XV.reshape(-1)
    asked = kernels.Asked(users, start, item, row_X, visitor, count_X, shape.visitors, *weights)
    near, rows = kernels.near(len(users), shape.neighbors), view.rows(USER)

    def find(part: slice) -> None:
        room = kernels.candidates(rows, shape.history * shape.visitors)
        kernels.find(asked, part.start, part.stop, room, near)

    in_parallel(find, len(users), TARGETS_PER_THREAD)
    target, neighbor = _real(near.user.reshape(len(users), shape.neighbors), near.count_N)
    (item_XK, count_X), row_M = _once(source, USER, neighbor, times_ms[target], shape.items)
    has = kernels.Theirs(_bounds(near.count_N), row_M, item_XK.reshape(-1), count_X, shape.items)
    item_rows = view.rows(ITEM)

    def add(part: slice) -> tuple[I64, U32, F64]:
        count = part.stop - part.start
        most = min(item_rows, shape.neighbors * shape.items)
        out = kernels.found(count, count * most, item_rows)
        total = kernels.add(asked, near, has, part.start, part.stop, out)
        return out.count_N, out.item[:total].copy(), out.sum[:total].copy()

    parts = in_parallel(add, len(users), TARGETS_PER_THREAD)
    counts, items, summed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ItemSums(_bounds(counts), items, summed, near.left_out_N)


def _once(source: _Source, side: int, nodes: U32, times_ms: I64, k: int) -> tuple[tuple[U32, I32], I64]:
    """The newest neighbors of the distinct ones of nodes at times, and which of them each node is.

    Many targets at one time, as a publish has them, share most of their items and neighbors.
    """
    moments, moment = np.unique(times_ms, return_inverse=True)
    rows = max(source.view.rows(side), int(nodes.max(initial=0)) + 1)
    if len(moments) * rows > max(QUESTIONS_MAX, len(nodes)):
        return source.newest(side, nodes, times_ms, k), np.arange(len(nodes))
    question = moment * rows + nodes
    is_asked = np.zeros(len(moments) * rows, np.bool_)
    is_asked[question] = True
    distinct = np.flatnonzero(is_asked)
    number = np.zeros(len(is_asked), np.int64)
    number[distinct] = np.arange(len(distinct))
    asked = (distinct % rows).astype(np.uint32), moments[distinct // rows]
    return source.newest(side, *asked, k), number[question]


def _real(row_BK: npt.NDArray[np.uint32], count_B: npt.NDArray[np.integer]) -> tuple[I64, U32]:
    """The real ones of each B, one after the other: which of the B, and the row."""
    return np.repeat(np.arange(len(row_BK)), count_B), row_BK[np.arange(row_BK.shape[1]) < count_B[:, None]]


def _bounds(counts: npt.NDArray[np.integer]) -> I64:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
