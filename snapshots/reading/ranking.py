"""Ranks items for users by the dot product, where a list does not answer: by the vector set, or by a catalog.

    questions.py ──users without a list──► [Ranking.rank] ──► (id, score) pairs of each, best first

All round trips of one answer are of one publish, or the read begins again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from driftgraph.snapshots.generations.keys import Keys
from driftgraph.snapshots.reading.fetch import Command, Fetch, Hashes, Publish, Shape, Steps
from driftgraph.snapshots.reading.lists import Filters, Scored, best
from driftgraph.stream.arrays import F32, F64, I64

SPARE: Final = (
    8  # more candidates than asked for: the vector set rounds scores, and its answer is ranked again
)
WIDER: Final = 4  # where a filter has left too few candidates, so many times as many are searched
GRAPH_EF: Final = 500  # effort of a search in a vector set too large for an exact one
ALLOWED_MAX: Final = 1_000  # so many allowed items are ranked one by one, without a search
ITEM_FIELDS: Final = ("embedding", "event_ms", "attributes")


class Described(NamedTuple):
    """A publish, how its vectors are written, and its index: exact, graph or none."""

    publish: Publish
    shape: Shape
    search: str


class Asked(NamedTuple):
    """A user whose items are to be ranked, and the ids that may not come."""

    vector: F32
    out: set[str]


@dataclass(frozen=True, slots=True)
class Items:
    """N items of one publish."""

    publish: Publish
    ids: Sequence[str]
    vectors: F32  # [N, dim]; NaN where Redis has none of this dimension
    event_ms: I64  # [N], time of the newest event
    attributes: Sequence[bytes | None]  # [N]
    place: dict[str, int]


class Ranking:
    """Ranks for one reader. With ``cache_items`` it keeps all items of a generation."""

    def __init__(self, keys: Keys, fetch: Fetch, *, cache_items: bool) -> None:
        self._keys, self._fetch, self._cache_items = keys, fetch, cache_items
        self._catalog: Items | None = None

    def rank(self, of: Described, asked: Sequence[Asked], top: int, filters: Filters) -> Steps[list[Scored]]:
        """The best items of each user."""
        if filters.allow is not None and len(filters.allow) <= ALLOWED_MAX and not self._cache_items:
            items = yield from self._load(of, sorted(filters.allow))
        elif self._cache_items or of.search == "none":
            items = yield from self._all(of)
        else:
            return (yield from self._by_index(of, asked, top, filters))
        return [_best_of(items, one, top, filters) for one in asked]

    def _by_index(
        self, of: Described, asked: Sequence[Asked], top: int, filters: Filters
    ) -> Steps[list[Scored]]:
        """Ask the vector set for candidates, then rank those by their dot product.

        The search is made wider until enough candidates pass the filters, or the vector set has no more.
        """
        ranked: list[Scored] = [[] for _ in asked]
        effort = ("TRUTH",) if of.search == "exact" or filters.where else ("EF", str(GRAPH_EF))
        if filters.where is not None:  # a graph is left after some tries where few items fit
            effort = (*effort, "FILTER", filters.where.expression())
        name = self._keys.of(of.publish.generation, "items")
        places, wide = list(range(len(asked))), top + SPARE
        while places:
            counts = [wide + len(asked[n].out) for n in places]
            searches: list[Command] = [
                ("VSIM", name, "FP32", _query(asked[n].vector), "COUNT", str(count), *effort)
                for n, count in zip(places, counts, strict=True)
            ]
            answers = yield from self._fetch.search(of.publish, searches)
            found = [[raw.decode() for raw in answer] for answer in answers]
            distinct = list(dict.fromkeys(i for ids in found for i in ids))
            items = yield from self._load(of, distinct)
            again = []
            for n, ids, count in zip(places, found, counts, strict=True):
                ranked[n] = _best_of(items, asked[n], top, filters, among=ids)
                if len(ranked[n]) < top and len(ids) >= count:
                    again.append(n)
            places, wide = again, wide * WIDER
        return ranked

    def _all(self, of: Described) -> Steps[Items]:
        """All items of a generation, in order of id, kept until the next."""
        if self._catalog is None or self._catalog.publish != of.publish:
            number = of.publish.generation
            lists: list[Command] = [
                ("LRANGE", part.of(number, "item-ids"), "0", "-1") for part in self._keys.parts
            ]
            found = yield from self._fetch.search(of.publish, lists)
            self._catalog = yield from self._load(of, sorted(i.decode() for ids in found for i in ids))
        return self._catalog

    def _load(self, of: Described, ids: Sequence[str]) -> Steps[Items]:
        rows = (yield from self._fetch.more(of.publish, Hashes("item", ITEM_FIELDS, ids))).rows
        vectors, found = of.shape.rows_of([blob for blob, _, _ in rows])
        vectors[~found] = np.nan
        event_ms = np.array([int(time or 0) for _, time, _ in rows], np.int64)
        attributes = [said for _, _, said in rows]
        return Items(of.publish, ids, vectors, event_ms, attributes, {i: n for n, i in enumerate(ids)})


def _query(user: F32) -> bytes:
    """The user's vector as the vector set wants it: see ``vectors.one_length``."""
    return np.append(user, np.float32(0)).astype("<f4").tobytes()


def _best_of(
    items: Items, asked: Asked, top: int, filters: Filters, *, among: Sequence[str] | None = None
) -> Scored:
    """The best items for a user, of all or ``among`` some."""
    names, vectors, event_ms, attributes = items.ids, items.vectors, items.event_ms, items.attributes
    if among is not None:
        kept = [items.place[i] for i in among]
        names, vectors, event_ms = among, vectors[kept], event_ms[kept]
        attributes = [attributes[n] for n in kept]
    score = scores(vectors, asked.vector)
    is_out = np.zeros(len(names), np.bool_)
    place = items.place if among is None else {i: n for n, i in enumerate(among)}
    is_out[[place[i] for i in asked.out if i in place]] = True
    if filters.allow is not None:
        is_out |= np.fromiter((i not in filters.allow for i in names), np.bool_, len(names))
    if filters.min_event_ms is not None:
        is_out |= event_ms < filters.min_event_ms
    if filters.where is not None:
        is_out |= np.fromiter((not filters.where.fits(one) for one in attributes), np.bool_, len(names))
    score = np.where(is_out, -np.inf, score)
    places = np.arange(len(score))
    if top < len(score):
        worst = np.partition(score, -top)[-top]
        places = np.flatnonzero(score >= worst)  # with all items whose score equals that of the last one
    return best([(names[n], float(score[n])) for n in places.tolist() if score[n] > -np.inf], top)


def scores(vectors: F32, user: F32) -> F32 | F64:
    """Dot products [N], finite; -inf for an item whose vector is not.

    A publish refuses vectors whose products float32 cannot hold, but another program may have written these.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        score = vectors @ user
        if np.isfinite(score).all():
            return score
        wide = vectors.astype(np.float64) @ user.astype(np.float64)
    return np.where(np.isfinite(wide), wide, -np.inf)
