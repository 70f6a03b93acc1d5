"""Lists of items for users and for items: what ``recommend`` and ``similar`` read from Redis.

    item vectors, live events at a cut ──► [a ListMaker] ──► app/publishing/by_id.py ──► GenerationStore

``FirstLists`` is served before the first model version: it needs no training, so a start has it within
seconds. ``scored_lists.ScoredLists`` is that of a trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from driftgraph.model.examples.examples import half_lives_ms
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.network.embed import Embedding, newest_events
from driftgraph.model.options import ListLengths, TrainerOptions
from driftgraph.model.score.co_visitation import Best, CoVisitation
from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import Moment
from driftgraph.stream.window.writer import Events, WindowView

MADE_BY = "co-visitation and popularity"  # in the manifest, where a model's generation says "model"
POPULARITY_WORTH = 1e-6  # of a popular item's share: it orders what co-visitation leaves equal
SIMILAR_AT_ONCE = 16_384  # items: 10 MB at 50 similar ones each


class AskedUsers(NamedTuple):
    """N users whose lists are asked for."""

    rows: U32  # [N]
    vectors: F32  # [N, D] as they are published
    times_ms: I64  # [N] only events strictly before it count,
    moment: Moment  # and only those of the window at it
    touched: U32  # item rows that user n touched, newest first, at bounds[n] to bounds[n + 1]
    bounds: I64  # [N + 1]


class Wanted(NamedTuple):
    """N users whose best candidates are asked for."""

    rows: U32  # [N]
    vectors: F32  # [N, D]
    times_ms: I64  # [N]
    gone_C: Mask  # candidates that nobody may have
    touched_N1: I64  # candidates that user n may not have
    touched: I64


class ListMaker(Protocol):
    """Makes lists out of what was live at one cut. One thread uses it.

    Always true: no list has an item that its user has touched, or a row whose owner has changed since the
    cut; the best come first.
    """

    def of(self, users: AskedUsers) -> Best:
        """The best items of each of N users; as long as ``ListLengths.lists`` where so many are left."""
        ...

    def similar(self, items: U32) -> Iterator[Best]:
        """The items that are most similar to each of these, in the order given, ``SIMILAR_AT_ONCE`` a time.

        A list may be shorter than ``ListLengths.similar``, also empty.
        """
        ...

    def follow(self, moment: Moment) -> None:
        """Count what arrived up to a newer moment, and take up the items that are new in it.

        Nothing is changed if events of the cut were overwritten meanwhile (StaleCut).
        """
        ...

    def put(self, items: U32, vectors_nD: F32) -> None:
        """From now on rank these items by other vectors, as far as they are candidates."""
        ...


class FirstLists:
    """By co-visitation, behind that by popularity. It has vectors, too, whose dot product is the popularity.

    Always true: a list has all live items that the user has not touched, if they are no more than fit.
    """

    def __init__(
        self, view: WindowView, moment: Moment, options: TrainerOptions, lengths: ListLengths
    ) -> None:
        """Index the live events of ``moment``. O(live events · log live events)."""
        self._owners = Owners(view, moment.versions[ITEM])
        self._lengths = lengths
        events = view.events(moment.cut)
        rows = rows_of(view, events)
        self._now_ms = right_after(events)
        self._visits = CoVisitation(events, rows)
        popularity = Popularity(half_lives_ms(view.relations, options), rows)
        popularity.advance(events, self._now_ms)
        item_rows, self._item_event_ms = newest_events(events.item, events.time_ms)
        self._user_rows, self._user_event_ms = newest_events(events.user, events.time_ms)
        self._item_rows = item_rows
        self._log_share = popularity.features(item_rows)[:, 0]
        self._worth: F64 = np.zeros(rows)
        self._worth[item_rows] = (
            POPULARITY_WORTH * popularity.count[0, item_rows] / max(1e-12, popularity.count[0].sum())
        )
        self._popular = item_rows[np.argsort(-self._worth[item_rows], kind="stable")]
        self._dim = options.dim

    def of(self, users: AskedUsers) -> Best:
        """By the items that each user touched. ``vectors``, ``times_ms`` and ``moment`` change nothing."""
        owned = self._owners.same(len(self._worth))
        known = users.touched < len(owned)  # an item that came after the cut has no place here
        known[known] = owned[users.touched[known]]
        bounds = np.concatenate([[0], np.cumsum(known)])[users.bounds]
        best = self._visits.best(
            users.touched[known], bounds, self._now_ms, self._popular, self._worth, self._lengths.lists
        )
        return _kept(best, owned)

    def similar(self, items: U32) -> Iterator[Best]:
        """By co-visitation with the item alone."""
        return _similar(self._visits, self._owners, items, self._now_ms, self._lengths.similar)

    def follow(self, moment: Moment) -> None:
        """Nothing: these lists are those of one cut."""

    def put(self, items: U32, vectors_nD: F32) -> None:
        """Nothing: these lists are not ranked by vectors."""

    def embedding(self) -> Embedding:
        """Every live user and item, with vectors that rank by the log of popularity alone."""
        items = np.zeros((len(self._item_rows), self._dim), np.float32)
        items[:, -1] = self._log_share
        return Embedding(
            self._user_rows,
            popularity_users(len(self._user_rows), self._dim),
            self._user_event_ms,
            self._item_rows,
            items,
            self._item_event_ms,
        )


def popularity_users(count: int, dim: int) -> F32:
    """[count, dim] vectors of users before the first model version, all the same.

    The dot product with the vector of an item is the item's popularity.
    """
    vectors = np.zeros((count, dim), np.float32)
    vectors[:, -1] = 1
    return vectors


class Owners:
    """Who owned the item rows at a cut, or where they were taken up since."""

    def __init__(self, view: WindowView, versions: U32) -> None:
        self._view, self._then = view, versions.copy()

    def others(self, rows: U32, versions: U32) -> Mask:
        """[n] whether each row has another owner by these versions, or was not there."""
        other = np.ones(len(rows), np.bool_)
        there = rows < len(self._then)
        other[there] = self._then[rows[there]] != versions[rows[there]]
        return other

    def take_up(self, rows: U32, versions: U32) -> None:
        """From now on the owners of these rows are those by these versions."""
        more = len(versions) - len(self._then)
        if more > 0:
            self._then = np.concatenate([self._then, versions[-more:]])
        self._then[rows] = versions[rows]

    def same(self, rows: int) -> Mask:
        """[rows] whether the item of a row is that of the cut: a row may have changed hands since."""
        now = self._view.row_versions(ITEM)
        owned = np.zeros(rows, np.bool_)
        known = min(rows, len(now), len(self._then))
        owned[:known] = self._then[:known] == now[:known]
        return owned


def _similar(visits: CoVisitation, owners: Owners, items: U32, before_ms: int, length: int) -> Iterator[Best]:
    owned = owners.same(visits.rows)
    nothing, worth = np.zeros(0, np.uint32), np.zeros(visits.rows)
    for first in range(0, len(items), SIMILAR_AT_ONCE):
        part = items[first : first + SIMILAR_AT_ONCE]
        best = visits.best(part, np.arange(len(part) + 1), before_ms, nothing, worth, length)
        yield _kept(best, owned)


def _kept(best: Best, owned: Mask) -> Best:
    """The lists without rows that changed hands, in the same order."""
    length = best.rows.shape[1]
    kept = owned[best.rows] & (np.arange(length) < best.lengths[:, None])
    lengths = kept.sum(axis=1)
    if np.array_equal(lengths, best.lengths):
        return best
    order = np.argsort(~kept, axis=1, kind="stable")
    rows = np.take_along_axis(best.rows, order, axis=1)
    return Best(rows, np.take_along_axis(best.score, order, axis=1), lengths)


def rows_of(view: WindowView, events: Events) -> int:
    """The number that every item row of the window and of the events is below."""
    return max(view.rows(ITEM), int(events.item.max(initial=0)) + 1)


def right_after(events: Events) -> int:
    """The time at which every one of these events is in the past."""
    return int(events.time_ms[-1]) + 1 if len(events) else 0
