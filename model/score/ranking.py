"""Scores of all candidates for users at a moment: evaluation ranks by them, and lists are made by them.

    vectors, Bank, paths and similar users over the window ──► [Stage] ──► Parts ──► one score for each
                                                                   user and candidate, by the Scorer's weights

A stage is a moment: the candidates, their vectors, and their popularity, age and degree as of then. Paths,
similar users and users are as of each user's own time, which is at the moment or shortly behind it.

Shape suffixes: n users at times, C candidates, D channels, F features, E pairs of a user and a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from driftgraph.model.score.bank import COUNT_SCALE, HOUR_MS, Bank, Later, Pairs
from driftgraph.model.score.co_visitation import Best
from driftgraph.model.score.list_kernels import Added, Lists, Sums, best
from driftgraph.model.score.lists import Wanted
from driftgraph.model.score.scorer import AGE, ATTRIBUTES, BANK, FEATURES, OWN, PATHS, SIMILAR_USERS, Learned
from driftgraph.model.score.tastes import Tasted, Tastes
from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.walks import paths, similar_users
from driftgraph.stream.walks.event_index import EventIndexes
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import in_parallel
from driftgraph.stream.window.writer import Cut, WindowView

NO_ITEM = np.uint32(0xFFFF_FFFF)  # in lists of rows, where fewer items compete than places
SHAPE = paths.Shape()
BACKWARD = 0.5  # worth of an item that came before a visit, against one that came after
DEGREE_POWER = 0.25  # popular items are worth less, as the way and as the end of a path
PATH_SCALE = float(np.exp(5.0))  # 1 / ε: the feature of a sum P is log(1 + P / ε)
SIMILAR_SHAPE = similar_users.Shape()
SIMILAR_DECAY = 0.8  # of an item's worth with its place in the history
SIMILAR_DEGREE_POWER = 0.1  # as DEGREE_POWER, for the items that similar users share and for those they have
NEW_BIAS = 0.1  # quantile of the published items' biases that a new item gets
OWN_HALF_LIVES_MS = np.array([24, 14 * 24]) * HOUR_MS
OWN_EVENTS = 64  # newest events of a user by relation that its own repeats are counted from
SCORES_AT_ONCE = 1 << 24  # dot products of users and items, 64 MB
LISTS_PER_THREAD = 4  # users; with fewer, a thread costs more than it saves
HARDEST = 64  # candidates of each part that a target's lesson has; of own items all


class Popular(NamedTuple):
    """What of a score is the same for every user. Bank values are weighted already."""

    bank_nC: F32  # n may be 1: for all users at one time
    age_C: F32


class Reached(NamedTuple):
    """The pairs that a part reaches, each once; the features of every other pair are 0."""

    user_E: I64  # number of the user
    place_E: I64  # of the candidate
    feature_E: F32  # [E], or [E, F] for several features

    def added(self, worth_E: F32, users: int) -> Added:
        """What the pairs of so many users add to their scores."""
        bounds = np.searchsorted(self.user_E, np.arange(users + 1))
        return Added(bounds, self.place_E, np.ascontiguousarray(worth_E, np.float32))

    def spread(self, feature_E: F32, shape: tuple[int, ...]) -> F32:
        """[n, C]: one feature of all pairs."""
        spread_nC = np.zeros(shape, np.float32)
        spread_nC[self.user_E, self.place_E] = feature_E
        return spread_nC


@dataclass(frozen=True, slots=True)
class Parts:
    """What the scores of n users at times and C candidates are made of. Bank values are weighted already."""

    vectors_nC: F32
    bias_C: F32
    bank_nC: F32  # n may be 1: for all users at one time
    age_C: F32
    paths: Reached
    similar_users: Reached
    own: Reached  # what the user has touched, with the features of ``OWN``; none where nothing is repeated
    tasted: Tasted | None  # None where nothing is said of items

    def scores(self, weight_F: F64) -> F32:
        """[n, C]."""
        weight = weight_F.astype(np.float32)
        scores: F32 = self.vectors_nC * weight[0]
        if weight[BANK].any():
            scores += self.bank_nC
        scores += weight[1] * self.bias_C + weight[AGE] * self.age_C
        for reached, worth in (
            (self.paths, weight[PATHS]),
            (self.similar_users, weight[SIMILAR_USERS]),
        ):
            if worth:
                scores[reached.user_E, reached.place_E] += worth * reached.feature_E
        scores[self.own.user_E, self.own.place_E] += self.own.feature_E @ weight[OWN]
        if self.tasted is not None:
            scores += self.tasted.weighted(weight)
        return scores


class Stage:
    """One moment's candidates and what is known of them.

    Always true: nothing at or after the bank's moment counts, but for the later events that a question brings
    with it, which count for later times only.
    """

    def __init__(
        self,
        view: WindowView,
        bank: Bank,
        candidate: U32,
        item_CD: F32,
        *,
        repeats: bool,
        attributes: AttributeView | None = None,
        indexes: EventIndexes | None = None,
    ) -> None:
        """``repeats``: items that a user has touched are candidates, too; ``attributes`` of the items.

        ``indexes`` are those of the view that several stages share; None: the stage has its own.
        """
        self.view, self._bank, self._repeats = view, bank, repeats
        self.candidate = candidate.astype(np.int64)
        self._item_DC: F32 = item_CD[:, :-1].T.copy()
        self._bias_C: F32 = item_CD[:, -1].copy()
        rows = max(len(bank.degree_R), view.rows(ITEM))
        self._place = np.full(rows, -1, np.int64)
        self._place[self.candidate] = np.arange(len(candidate))
        degree = np.ones(rows)
        degree[: len(bank.degree_R)] = np.maximum(bank.degree_R, 1)
        self.worth: F64 = degree**-DEGREE_POWER
        self._similar_worth: F64 = degree**-SIMILAR_DEGREE_POWER
        self._similar_place: F64 = np.power(SIMILAR_DECAY, np.arange(SIMILAR_SHAPE.history))
        self.tables = path_tables(len(view.relations))
        self._indexes = indexes or EventIndexes(view)
        self._tastes = None if attributes is None else Tastes(attributes, view, bank, self.candidate)

    def follow(self, items: U32) -> None:
        """Take over from the bank, which has counted events of these items since."""
        if self._tastes is not None:
            self._tastes.follow()
        degree = np.maximum(self._bank.degree_R[items], 1.0)
        self.worth[items] = degree**-DEGREE_POWER
        self._similar_worth[items] = degree**-SIMILAR_DEGREE_POWER

    def put(self, place: I64, vectors_nD: F32) -> None:
        """Other vectors for the candidates at these places."""
        self._item_DC[:, place], self._bias_C[place] = vectors_nD[:, :-1].T, vectors_nD[:, -1]

    def popular(self, later: Later, weight_F: F64) -> Popular:
        """At the times that ``later`` asks for; it has the events behind the moment that count for them."""
        return Popular(
            self._bank.scores(later, self.candidate, np.ascontiguousarray(weight_F[BANK])),
            self._bank.age(self.candidate),
        )

    def parts(self, rows: U32, user_nD: F32, times_ms: I64, cut: Cut, popular: Popular) -> Parts:
        """Of n users at their times, for which ``popular`` was made.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        return Parts(
            user_nD[:, :-1] @ self._item_DC,
            self._bias_C,
            *popular,
            *self._all_reached(rows, times_ms, cut),
            None if self._tastes is None else self._tastes.of(rows, times_ms, cut),
        )

    def _all_reached(self, rows: U32, times_ms: I64, cut: Cut) -> tuple[Reached, Reached, Reached]:
        """What paths, similar users and own events reach."""
        question = self.view, rows, times_ms, cut
        ends = paths.sums(*question, SHAPE, self.tables, self.worth, self._indexes)
        weights = self._similar_place, self._similar_worth
        theirs = similar_users.sums(*question, SIMILAR_SHAPE, *weights, self._indexes)
        return (
            self._reached(ends.bounds_N1, ends.item, ends.sum_PV[:, 0], self.worth),
            self._reached(theirs.bounds_N1, theirs.item, theirs.sum, self._similar_worth),
            self._own(rows if self._repeats else rows[:0], times_ms, cut),
        )

    def best(self, asked: Wanted, cut: Cut, popular: Popular, weight_F: F64, length: int) -> Best:
        """The ``length`` best candidates of each of n users, equal ones in the order of candidates.

        The scores are those of ``Parts.scores``; the rows of the result are places of candidates. As many
        users as ``SCORES_AT_ONCE`` allows have their dot products in memory together.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        made, width = Best.empty(len(asked.rows), length), len(self.candidate)
        if length == 0 or len(asked.rows) == 0:
            return made
        weight = weight_F.astype(np.float32)
        near, similar, own = self._all_reached(asked.rows, asked.times_ms, cut)
        added = (
            near.added(weight[PATHS] * near.feature_E, len(asked.rows)),
            similar.added(weight[SIMILAR_USERS] * similar.feature_E, len(asked.rows)),
            own.added(own.feature_E @ weight[OWN], len(asked.rows)),
        )
        bank_C, common_C = popular.bank_nC[0], weight[1] * self._bias_C + weight[AGE] * popular.age_C
        at_once = max(1, SCORES_AT_ONCE // max(width, 1))
        for first in range(0, len(asked.rows), at_once):
            part = slice(first, first + at_once)
            dots_nC = asked.vectors[part][:, :-1] @ self._item_DC
            taste_nC = np.zeros(0, np.float32)
            if self._tastes is not None:
                tasted = self._tastes.of(asked.rows[part], asked.times_ms[part], cut)
                taste_nC = tasted.weighted(weight).reshape(-1)
            touched = asked.touched_N1, asked.touched
            sums = Sums(
                dots_nC.reshape(-1), weight[:1], bank_C, common_C, *added, taste_nC, asked.gone_C, first,
                *touched,
            )  # fmt: skip
            place, score = np.zeros((len(dots_nC), length), np.uint32), np.zeros((len(dots_nC), length))
            lists = Lists(place.reshape(-1), score.reshape(-1), made.lengths[part], length)

            def fill(users: slice, sums: Sums = sums, lists: Lists = lists) -> None:
                best(sums, users.start, users.stop, np.empty(width, np.float32), lists)

            in_parallel(fill, len(dots_nC), LISTS_PER_THREAD)
            made.rows[part], made.score[part] = place, score
        return made

    def lessons(self, parts: Parts, scores_nC: F32, excluded_nC: Mask, column: I64, later: Later) -> Learned:
        """Features of each user's hardest candidates, how many they are, and the place of its target (or −1).

        The hardest are the best of each part: vectors, paths, similar users, each half-life of the bank, own
        items, tastes, paths through attributes, and the sum.
        """
        popular = self._popular()
        best = [_best(parts.vectors_nC + parts.bias_C, excluded_nC), _best(scores_nC, excluded_nC)]
        best += [_best_reached(part, len(column)) for part in (parts.paths, parts.similar_users)]
        best.append(_by_user(parts.own.place_E, parts.own, len(column)))
        if parts.tasted is not None:
            best += [_best(own_nC, excluded_nC) for own_nC in (parts.tasted.taste_nC, parts.tasted.paths_nC)]
        chosen, target = [], np.full(len(column), -1, np.int64)
        for n in range(len(column)):
            one = np.unique(np.concatenate([popular, *(part[n] for part in best)]))
            one = one[~excluded_nC[n, one]]
            at = np.searchsorted(one, column[n])
            if at < len(one) and one[at] == column[n]:
                target[n] = at
            chosen.append(one)
        counts = np.array([len(one) for one in chosen], np.int64)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        user, place = np.repeat(np.arange(len(column)), counts), np.concatenate(chosen)
        features = np.zeros((len(place), len(FEATURES)), np.float32)
        features[:, 0] = parts.vectors_nC[user, place]
        features[:, 1] = parts.bias_C[place]
        features[:, BANK] = self._bank.features(later, Pairs(bounds, self.candidate[place]))
        features[:, AGE] = parts.age_C[place]
        for feature, reached, feature_E in (
            (PATHS, parts.paths, parts.paths.feature_E),
            (SIMILAR_USERS, parts.similar_users, parts.similar_users.feature_E),
            *((OWN.start + f, parts.own, own_E) for f, own_E in enumerate(parts.own.feature_E.T)),
        ):
            features[:, feature] = reached.spread(feature_E, scores_nC.shape)[user, place]
        if parts.tasted is not None:
            features[:, ATTRIBUTES] = parts.tasted.features(user, place)
        return features, counts, target

    def _reached(self, bounds_N1: I64, item: U32, sum_E: F64, worth_R: F64) -> Reached:
        """The candidates among the items, with the feature of their sums · ``worth_R``."""
        user = np.repeat(np.arange(len(bounds_N1) - 1), np.diff(bounds_N1))
        place = self.place_of(item)
        kept = place >= 0
        worth = sum_E[kept] * worth_R[item[kept]]
        return Reached(user[kept], place[kept], np.log1p(PATH_SCALE * worth).astype(np.float32))

    def around(self, items: U32, times_ms: I64, cut: Cut) -> Reached:
        """The ends of the paths from each of N items alone; the user is the number of the item.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        bounds = np.arange(len(items) + 1)
        how = SHAPE, self.tables, self.worth, self._indexes
        ends = paths.sums_from(self.view, bounds, items, times_ms, cut, *how)
        return self._reached(ends.bounds_N1, ends.item, ends.sum_PV[:, 0], self.worth)

    def place_of(self, rows: U32) -> I64:
        """The places of item rows among the candidates; −1 for one that is none."""
        place = np.full(len(rows), -1, np.int64)
        known = rows < len(self._place)
        place[known] = self._place[rows[known]]
        return place

    def _own(self, rows: U32, times_ms: I64, cut: Cut) -> Reached:
        """What each user has touched: features of the decayed counts, and 1 for all of it."""
        times_ms = times_ms[: len(rows)]
        near = self.view.recent(USER, rows, times_ms, OWN_EVENTS, cut)
        real = np.arange(OWN_EVENTS) < near.count_BR[:, :, None]
        user, place = real.nonzero()[0], self.place_of(near.neighbor_BRK[real])
        age_ms = times_ms[user] - near.time_ms_BRK[real]
        user, place, age_ms = user[place >= 0], place[place >= 0], age_ms[place >= 0]
        pair, at = np.unique(user * len(self.candidate) + place, return_inverse=True)
        count = [np.bincount(at, 2.0 ** (-age_ms / one), minlength=len(pair)) for one in OWN_HALF_LIVES_MS]
        decayed = np.log1p(COUNT_SCALE * np.stack(count, 1))
        features = np.append(decayed, np.ones((len(pair), 1)), 1).astype(np.float32)
        return Reached(*np.divmod(pair, max(len(self.candidate), 1)), features)

    def _popular(self) -> I64:
        """Candidates that are among the most popular ones by some half-life."""
        count_FC = self._bank.count_FR[:, self.candidate]
        most = min(HARDEST // 2, count_FC.shape[1])
        return np.unique(np.argpartition(-count_FC, most - 1, axis=1)[:, :most])


def path_tables(relation_count: int) -> paths.Tables:
    """A path weighs 1 / (1 + place of j in the history) / |lag|, ``BACKWARD`` times that before a visit."""
    tables = paths.Tables.ones(SHAPE, relation_count)
    tables.place[0] = 1 / (1 + np.arange(SHAPE.history))
    lag = np.arange(-SHAPE.lag, SHAPE.lag + 1)
    tables.lag[0] = (lag != 0) * np.where(lag > 0, 1.0, BACKWARD) / np.maximum(np.abs(lag), 1)
    return tables


def ranks_of(scores_nC: F32, column: I64, excluded_nC: Mask) -> F64:
    """Rank of each target among the candidates that are not excluded: 1 is the best, ties at their mean rank.

    It is inf where a target is no candidate, is excluded itself, or has no score.
    """
    scores_nC = np.where(excluded_nC, -np.inf, scores_nC)
    own = scores_nC[np.arange(len(column)), np.maximum(column, 0)]
    better = (scores_nC > own[:, None]).sum(1)
    equal = (scores_nC == own[:, None]).sum(1)
    ranked: F64 = np.where((column >= 0) & (own > -np.inf), better + (equal - 1) / 2 + 1, np.inf)
    return ranked


def best_of(scores_nC: F32, excluded_nC: Mask, candidate: I64, top: int) -> tuple[U32, F32]:
    """[n, top] rows and scores, best first and equal ones by row; ``NO_ITEM`` behind the last."""
    scores_nC = np.where(excluded_nC | ~np.isfinite(scores_nC), -np.inf, scores_nC)
    rows = np.full((len(scores_nC), top), NO_ITEM, np.uint32)
    found = np.full((len(scores_nC), top), -np.inf, np.float32)
    width = min(top, scores_nC.shape[1])
    if width == 0:
        return rows, found
    at = np.argpartition(-scores_nC, width - 1, axis=1)[:, :width]
    at = np.sort(at, axis=1)
    value = np.take_along_axis(scores_nC, at, 1)
    order = np.argsort(-value, axis=1, kind="stable")
    at, value = np.take_along_axis(at, order, 1), np.take_along_axis(value, order, 1)
    rows[:, :width] = np.where(value > -np.inf, candidate[at], NO_ITEM)
    found[:, :width] = value
    return rows, found


def with_new_items(item_CD: F32, known_C: Mask, made_nD: F32, new: I64 | None = None) -> F32:
    """Item vectors, with those of items that no fit has had.

    Args:
        item_CD: Vectors of all candidates; those that are not ``known_C`` are replaced.
        known_C: Which were published.
        made_nD: Vectors made of the users of new items, at the places ``new``.
        new: None: all that are not known. One that is neither known nor new is the mean of the known.

    A new item's bias would be fresher than theirs, so it is one of the lower biases that were published.
    """
    if known_C.all():
        return item_CD
    item_CD = item_CD.copy()
    lower = 0.0
    if known_C.any():
        item_CD[~known_C] = item_CD[known_C].mean(0)
        lower = float(np.quantile(item_CD[known_C, -1], NEW_BIAS))
    new = np.flatnonzero(~known_C) if new is None else new
    item_CD[new] = made_nD
    item_CD[~known_C, -1] = lower
    return item_CD


def _best(scores_nC: F32, excluded_nC: Mask) -> list[I64]:
    """For each user the candidates of the highest scores, in no order."""
    width = min(HARDEST, scores_nC.shape[1])

    def part(rows: slice) -> I64:
        return np.argpartition(np.where(excluded_nC[rows], np.inf, -scores_nC[rows]), width - 1)[:, :width]

    return list(np.concatenate(in_parallel(part, len(scores_nC), LISTS_PER_THREAD)))


def _best_reached(reached: Reached, users: int) -> list[I64]:
    """For each user the candidates of the highest features, of equals the first ones."""
    order = np.lexsort((np.arange(len(reached.user_E)), -reached.feature_E, reached.user_E))
    return [one[:HARDEST] for one in _by_user(reached.place_E[order], reached, users)]


def _by_user(value_E: I64, reached: Reached, users: int) -> list[I64]:
    """The values of each user; they are in the order of users."""
    return np.split(value_E, np.searchsorted(reached.user_E, np.arange(1, users)))
