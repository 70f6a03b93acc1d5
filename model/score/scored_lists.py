"""The lists of a trained model: the best items by the scorer, and the items at the ends of an item's paths.

    Stage at the newest cut, weights of the Scorer ──► [ScoredLists] ──► lists of users and of similar items

The same code ranks in the evaluation. What happened after the publish counts at the next refresh: popularity,
paths, and items that are new since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from driftgraph.model.options import ListLengths
from driftgraph.model.score.bank import Bank, Later
from driftgraph.model.score.co_visitation import Best
from driftgraph.model.score.lists import SIMILAR_AT_ONCE, AskedUsers, Owners, Wanted, right_after, rows_of
from driftgraph.model.score.ranking import Stage, with_new_items
from driftgraph.model.score.reasons import OneUser, Reason, reasons_of
from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.walks.event_index import EventIndexes
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import Moment
from driftgraph.stream.window.samplers import in_parallel
from driftgraph.stream.window.writer import Cut, WindowView

USERS_PER_THREAD = 64  # with fewer, the parts of a list use the threads
SIMILAR_PER_THREAD = 1_024
USERS_AT_ONCE = 512  # with up to 17,000 items on paths and of similar users each

NewItems = Callable[[U32, Cut, int], F32]  # rows, cut, time in ms -> vectors


class ScoredLists:
    """Lists as of the newest cut that was asked for.

    Always true: no list has an item that its user has touched, or a row whose owner has changed since the
    publish, or since the refresh that took up its item.
    """

    def __init__(
        self,
        view: WindowView,
        moment: Moment,
        items: tuple[U32, F32],
        weight_F: F64,
        lengths: ListLengths,
        new_items: NewItems,
        attributes: AttributeView | None = None,
    ) -> None:
        """Rank ``items``, rows and vectors of that moment. O(live events + items).

        ``items`` may be those of an older publish: what has come since is taken up, too. ``new_items`` gives
        vectors of such items, and of those that come later; ``attributes`` are those of items.
        """
        self._attributes = attributes
        self._view, self._lengths, self._weight_F, self._new_items = view, lengths, weight_F, new_items
        self._owners = Owners(view, moment.versions[ITEM])
        events = view.events(moment.cut)
        self._counted = moment.cut
        self._bank = Bank(rows_of(view, events), right_after(events))
        self._bank.add(events.item, events.time_ms)
        self._rows, self._item_CD = items
        self._indexes = EventIndexes(view)
        self._is_own = False  # the vectors are those that the caller has, too
        self._stage = self._staged()
        versions = self._versions_of(moment)
        if len(new := self._new(np.unique(events.item), versions, self._bank.time_ms)):
            self._take_up(new, new_items(new, moment.cut, self._bank.time_ms), versions)

    def of(self, users: AskedUsers) -> Best:
        """By the scorer. O(users · items · D), and the paths of each user."""
        self.follow(users.moment)
        count = len(self._rows)
        length = min(self._lengths.lists, count)
        user, column = self._touched(users)
        made = Best.empty(len(users.rows), length)
        now = np.array([self._bank.time_ms], np.int64)
        popular = self._stage.popular(Later(np.zeros(0, np.uint32), now[:0], now), self._weight_F)
        gone = self._gone()

        def fill(some: slice) -> None:
            for first in range(some.start, some.stop, USERS_AT_ONCE):
                part = slice(first, min(first + USERS_AT_ONCE, some.stop))
                bounds = np.searchsorted(user, np.arange(first, part.stop + 1))
                own = users.rows[part], users.vectors[part], users.times_ms[part]
                asked = Wanted(*own, gone, bounds, column)
                best = self._stage.best(asked, users.moment.cut, popular, self._weight_F, length)
                made.rows[part], made.score[part] = self._rows[best.rows], best.score
                made.lengths[part] = best.lengths

        in_parallel(fill, len(users.rows), USERS_PER_THREAD)
        return made

    def similar(self, items: U32) -> Iterator[Best]:
        """By the paths from the item alone: others touched a similar item shortly before or after it.

        An item without an event, which a catalog tells of, has the nearest ones by the cosine of the vectors.
        """
        gone = self._gone()
        for start in range(0, len(items), SIMILAR_AT_ONCE):
            part = items[start : start + SIMILAR_AT_ONCE]
            made = in_parallel(partial(self._similar, part, gone), len(part), SIMILAR_PER_THREAD)
            yield Best(*(np.concatenate(columns) for columns in zip(*made, strict=True)))

    def _similar(self, items: U32, gone: Mask, some: slice) -> Best:
        part, length = items[some], self._lengths.similar
        times_ms = np.full(len(part), self._bank.time_ms, np.int64)
        user, place, worth = self._stage.around(part, times_ms, self._counted)
        kept = ~gone[place]
        user, place, worth = user[kept], place[kept], worth[kept]
        order = np.lexsort((self._rows[place], -worth, user))
        user, place, worth = user[order], place[order], worth[order]
        rank = np.arange(len(user)) - np.searchsorted(user, user)
        firsts = rank < length
        user, place, worth, rank = user[firsts], place[firsts], worth[firsts], rank[firsts]
        best = Best.empty(len(part), length)
        best.rows[user, rank], best.score[user, rank] = self._rows[place], worth
        best.lengths[:] = np.bincount(user, minlength=len(part))
        untouched = np.flatnonzero(self._bank.degree_of(part) == 0)
        self._put_nearest(best, untouched, self._stage.place_of(part[untouched]), gone)
        return best

    def _put_nearest(self, best: Best, at: I64, place: I64, gone: Mask) -> None:
        """Fill the lists ``at`` with the items nearest to the candidates ``place``. O(lists · C · D)."""
        at, place = at[place >= 0], place[place >= 0]
        count = min(best.rows.shape[1], len(self._rows) - 1)
        if not len(at) or count < 1:
            return
        body_CD = self._item_CD[:, :-1]  # the last channel is popularity
        unit_CD = body_CD / np.maximum(np.linalg.norm(body_CD, axis=1, keepdims=True), 1e-12)
        cosine_nC = unit_CD[place] @ unit_CD.T
        cosine_nC[:, gone] = cosine_nC[np.arange(len(place)), place] = -np.inf
        nearest = np.argpartition(-cosine_nC, count - 1, axis=1)[:, :count]
        score = np.take_along_axis(cosine_nC, nearest, axis=1)
        order = np.lexsort((self._rows[nearest], -score))
        nearest, score = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(score, order, axis=1)
        best.rows[at, :count], best.score[at, :count] = self._rows[nearest], score
        best.lengths[at] = (score > -np.inf).sum(axis=1)

    def why(self, user: OneUser, moment: Moment, items: U32) -> list[Reason]:
        """What the scores of these items are made of for a user, as ``of`` would rank them now.

        Items that are no candidates are left out. As long as one list.
        """
        self.follow(moment)
        return reasons_of(self._stage, self._weight_F, user, items, self._bank.time_ms)

    def put(self, items: U32, vectors_nD: F32) -> None:
        """See ``ListMaker.put``. O(items given · D)."""
        place = self._stage.place_of(items)
        self._stage.put(place[place >= 0], vectors_nD[place >= 0])
        if not self._is_own:
            self._item_CD, self._is_own = self._item_CD.copy(), True
        self._item_CD[place[place >= 0]] = vectors_nD[place >= 0]

    def follow(self, moment: Moment) -> None:
        """Count what arrived up to a newer moment, and take up the items that are new in it.

        Nothing is changed if events of the cut were overwritten meanwhile.
        """
        cut, versions = moment.cut, self._versions_of(moment)
        events = self._view.events(cut, self._counted)
        time_ms = max(self._bank.time_ms, right_after(events))
        touched = np.unique(events.item)
        new = self._new(touched, versions, time_ms)
        if not len(events) and not len(new):
            return
        made = self._new_items(new, cut, time_ms) if len(new) else None
        self._counted = cut
        self._bank.make_room(rows_of(self._view, events))
        self._bank.forget(new)
        self._bank.advance(time_ms)
        self._bank.add(events.item, events.time_ms)
        if made is None:
            self._stage.follow(touched)
        else:
            self._take_up(new, made, versions)

    def _versions_of(self, moment: Moment) -> U32:
        """A moment's owners are older than its cut: a row that was added in between has its first owner."""
        versions = moment.versions[ITEM]
        return np.concatenate([versions, self._view.row_versions(ITEM)[len(versions) :]])

    def _new(self, touched: U32, versions: U32, before_ms: int) -> U32:
        """The items among these, and among those of whom attributes tell, that are no candidates yet.

        An item is new in a row of its own, in the row of one that has left, and with its first event.
        """
        new: U32 = touched[self._is_new(touched, versions) | (self._bank.degree_of(touched) == 0)]
        if self._attributes is None:
            return new
        cold = self._attributes.cold(versions)
        cold = cold[self._is_new(cold, versions)]
        told: U32 = cold[self._attributes.tokens(cold, before_ms).any(axis=1)]
        both: U32 = np.union1d(new, told)
        return both

    def _is_new(self, rows: U32, versions: U32) -> Mask:
        new: Mask = self._owners.others(rows, versions) | (self._stage.place_of(rows) < 0)
        return new

    def _take_up(self, new: U32, made: F32, versions: U32) -> None:
        self._bank.make_room(len(versions))
        self._owners.take_up(new, versions)
        stayed = ~np.isin(self._rows, new)
        self._rows = np.concatenate([self._rows[stayed], new])
        self._item_CD = with_new_items(
            np.concatenate([self._item_CD[stayed], made]), np.arange(len(self._rows)) < stayed.sum(), made
        )
        self._stage = self._staged()

    def _staged(self) -> Stage:
        return Stage(
            self._view,
            self._bank,
            self._rows,
            self._item_CD,
            repeats=self._lengths.repeats,
            attributes=self._attributes,
            indexes=self._indexes,
        )

    def _gone(self) -> Mask:
        """[C] whether the row of a candidate has changed hands since it was taken up."""
        gone: Mask = ~self._owners.same(int(self._rows.max(initial=0)) + 1)[self._rows]
        return gone

    def _touched(self, users: AskedUsers) -> tuple[I64, I64]:
        """The number of the user, ascending, and the column of the item, of each item that was touched."""
        user = np.repeat(np.arange(len(users.rows)), np.diff(users.bounds))
        column = self._stage.place_of(users.touched)
        return user[column >= 0], column[column >= 0]
