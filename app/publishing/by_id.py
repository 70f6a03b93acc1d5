"""From rows to external ids: users and items of one moment as Redis gets them.

    Embedding, a ListMaker ──► [generation_by_id] ──► users and items as Vectors ──► GenerationStore
    rows of a refresh, a ListMaker ──► [users_by_id] ──► Vectors ──► GenerationStore
    live events ──► [trending_by_id] ──► lists of rising items ──► GenerationStore

A row that has changed hands since the moment has no id any more and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftgraph.app.publishing.item_attributes import attributes_of
from driftgraph.model.examples.examples import take
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.heads.head_parts import HeadParts
from driftgraph.model.network.embed import Embedding
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.options import ListLengths
from driftgraph.model.score.co_visitation import Best
from driftgraph.model.score.lists import AskedUsers, ListMaker
from driftgraph.snapshots.generations.keys import TOUCHED_MAX
from driftgraph.snapshots.generations.trending import TRENDING_MAX
from driftgraph.snapshots.generations.vectors import NO_LIST, Listed, Vectors
from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment

TRENDING_SHARE = 14  # an item counts half after the 14th part of its relation's span
LISTED_USERS_MAX = 200_000  # the most recent ones
USERS_AT_ONCE = 1_024  # users times relations times TOUCHED_MAX neighbors: about 10 MB at three relations


def generation_by_id(
    graph: HeterographView,
    embedding: Embedding,
    moment: Moment,
    maker: ListMaker,
    lengths: ListLengths,
    heads: HeadParts | None = None,
    on_done: Callable[[int], None] = lambda _: None,
    said: AttributeView | None = None,
) -> tuple[Vectors, Vectors]:
    """Users and items of a generation, with lists unless their length is 0, and what is ``said`` of items.

    ``on_done`` is told of so many more that are made.
    """
    of_items = maker if lengths.similar else None
    items = items_by_id(
        graph, embedding.item_rows, embedding.item, moment, embedding.item_event_ms, of_items,
        heads=None if heads is None else heads.items(embedding.item_rows, embedding.item), said=said,
    )  # fmt: skip
    on_done(len(embedding.item_rows))
    times_ms = np.maximum(embedding.user_event_ms + 1, now_ms(graph.edges, moment.cut))
    of_users = maker if lengths.lists else None
    users = users_by_id(
        graph, embedding.user_rows, embedding.user, moment, times_ms, of_users, repeats=lengths.repeats,
        heads=None if heads is None else heads.users(embedding.user_rows), on_done=on_done,
    )  # fmt: skip
    return users, items


def users_by_id(
    graph: HeterographView,
    rows: U32,
    vectors: F32,
    moment: Moment,
    times_ms: I64,
    maker: ListMaker | None,
    *,
    repeats: bool = False,
    heads: F32 | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Vectors:
    """Users with what they touched before ``times_ms`` [N] and, if there is a ``maker``, the list of each.

    With ``repeats`` nothing is left out for having been touched, so a user has no touched items.
    """
    named = ItemNames(graph, moment)
    touched, item_rows, event_ms = touched_items(graph, rows, moment, times_ms, named)
    if repeats:
        touched, item_rows = [[] for _ in touched], [one[:0] for one in item_rows]
    chosen, names = _kept(graph, USER, rows, moment)
    lists = None
    if maker is not None:
        lists, of_chosen = [NO_LIST] * len(chosen), np.array(chosen, np.int64)
        recent = np.flatnonzero(event_ms[of_chosen] >= _oldest_listed_ms(event_ms[of_chosen]))
        for start in range(0, len(recent), USERS_AT_ONCE):
            part = recent[start : start + USERS_AT_ONCE]
            best = maker.of(_asked(of_chosen[part], rows, vectors, times_ms, moment, item_rows))
            for place, listed in zip(part.tolist(), _listed(named, best), strict=True):
                lists[place] = listed
            on_done(len(part))
    own = None if heads is None else heads[chosen]
    return Vectors(names, vectors[chosen], event_ms[chosen], [touched[n] for n in chosen], lists, own)


def items_by_id(
    graph: HeterographView,
    rows: U32,
    vectors: F32,
    moment: Moment,
    event_ms: I64,
    maker: ListMaker | None,
    *,
    heads: F32 | None = None,
    said: AttributeView | None = None,
) -> Vectors:
    """Items, each with the time of its newest event [N] and, if there is a ``maker``, those similar to it."""
    chosen, names = _kept(graph, ITEM, rows, moment)
    lists = None
    if maker is not None:
        named = ItemNames(graph, moment)
        lists = [one for best in maker.similar(rows[chosen]) for one in _listed(named, best)]
    own = None if heads is None else heads[chosen]
    told = None if said is None else attributes_of(said, rows[chosen], now_ms(graph.edges, moment.cut))
    return Vectors(names, vectors[chosen], event_ms[chosen], lists=lists, heads=own, attributes=told)


def trending_by_id(graph: HeterographView, moment: Moment) -> dict[str, dict[str, float]]:
    """For each relation the items of its live events by recent popularity, ``TRENDING_MAX`` at most."""
    view = graph.edges
    events = view.events(moment.cut)
    found: dict[str, dict[str, float]] = {}
    for r, relation in enumerate(view.relations):
        mine = take(events, events.relation == r)
        popularity = Popularity([relation.span_ms / TRENDING_SHARE], view.rows(ITEM))
        popularity.advance(mine, int(events.time_ms.max(initial=0)) + 1)
        score = popularity.count[0]
        order = np.argsort(-score, kind="stable")[:TRENDING_MAX]
        best = order[score[order] > 0].astype(np.uint32)
        names = graph.names(ITEM, best, moment)
        found[relation.name] = {
            name: float(score[row]) for row, name in zip(best, names, strict=True) if name is not None
        }
    return found


class ItemNames:
    """The ids of item rows as of a moment, each read once: most lists have the same popular items."""

    def __init__(self, graph: HeterographView, moment: Moment) -> None:
        self._graph, self._moment = graph, moment
        rows = len(moment.versions[ITEM])
        self._name = np.empty(rows, object)  # of None
        self._is_read = np.zeros(rows, np.bool_)

    def __call__(self, rows: U32) -> NDArray[np.object_]:
        """[n] ids of distinct rows, None for one that has changed its owner since, or is newer."""
        there = rows < len(self._name)
        new = rows[there][~self._is_read[rows[there]]]
        if len(new):
            self._name[new] = self._graph.names(ITEM, new, self._moment)
            self._is_read[new] = True
        found = np.full(len(rows), None, object)
        found[there] = self._name[rows[there]]
        return found


def touched_items(
    graph: HeterographView,
    users: U32,
    moment: Moment,
    times_ms: I64 | None = None,
    named: ItemNames | None = None,
) -> tuple[list[list[str]], list[U32], I64]:
    """For each of N users the items of its newest live events, newest first, at most ``TOUCHED_MAX``.

    Each item once, from the newest ``TOUCHED_MAX`` events of each relation: its id, where it has one, and its
    row. Beside them the time of the newest event, [N]; 0 if there is none.
    """
    view, named = graph.edges, named or ItemNames(graph, moment)
    if times_ms is None:
        times_ms = np.full(len(users), now_ms(view, moment.cut), np.int64)
    touched: list[list[str]] = []
    item_rows: list[U32] = []
    newest_ms = np.zeros(len(users), np.int64)
    for start in range(0, len(users), USERS_AT_ONCE):
        rows = users[start : start + USERS_AT_ONCE]
        near = view.recent(USER, rows, times_ms[start : start + len(rows)], TOUCHED_MAX, moment.cut)
        newest_ms[start : start + len(rows)] = near.time_ms_BRK.max(axis=(1, 2), initial=0)
        real = np.arange(TOUCHED_MAX) < near.count_BR[:, :, None]
        user, time_ms, item = real.nonzero()[0], near.time_ms_BRK[real], near.neighbor_BRK[real]
        order = np.lexsort((-time_ms, user))
        user, item = user[order], item[order]
        _, first = np.unique(user.astype(np.uint64) << np.uint64(32) | item, return_index=True)
        first.sort()
        user, item = user[first], item[first]
        distinct, place = np.unique(item, return_inverse=True)
        names = named(distinct).tolist()
        bounds = np.searchsorted(user, np.arange(len(rows) + 1)).tolist()
        places = place.tolist()
        for at, end in pairwise(bounds):
            last = min(end, at + TOUCHED_MAX)
            touched.append([name for p in places[at:last] if (name := names[p]) is not None])
            item_rows.append(item[at:last])
    return touched, item_rows, newest_ms


def _kept(graph: HeterographView, side: int, rows: U32, moment: Moment) -> tuple[list[int], list[str]]:
    """Which of the rows have an id, and the ids."""
    named = [(n, name) for n, name in enumerate(graph.names(side, rows, moment)) if name is not None]
    return [n for n, _ in named], [name for _, name in named]


def _oldest_listed_ms(event_ms: I64) -> int:
    """The newest event of a user must be as new as this to give the user a list of its own."""
    if len(event_ms) <= LISTED_USERS_MAX:
        return 0
    return int(np.partition(event_ms, -LISTED_USERS_MAX)[-LISTED_USERS_MAX])


def _asked(
    places: I64, rows: U32, vectors: F32, times_ms: I64, moment: Moment, item_rows: Sequence[U32]
) -> AskedUsers:
    """The users at these places, with the items that they touched."""
    touched = [item_rows[n] for n in places.tolist()]
    bounds = np.concatenate([[0], np.cumsum([len(one) for one in touched])]).astype(np.int64)
    return AskedUsers(
        rows[places], vectors[places], times_ms[places], moment, np.concatenate(touched), bounds
    )


def _listed(named: ItemNames, best: Best) -> Iterator[Listed]:
    """Each list as Redis has it, without rows that have changed hands since."""
    is_there = np.arange(best.rows.shape[1]) < best.lengths[:, None]
    distinct, place = np.unique(best.rows[is_there], return_inverse=True)
    names = named(distinct)
    known = (names != None)[place]  # noqa: E711  # of each element
    ids, score = names[place[known]].tolist(), best.score[is_there][known].astype("<f4")
    ends = np.searchsorted(is_there.nonzero()[0][known], np.arange(len(best.rows)), side="right")
    for first, end in pairwise([0, *ends.tolist()]):
        yield msgspec.json.encode(ids[first:end]), score[first:end].tobytes()
