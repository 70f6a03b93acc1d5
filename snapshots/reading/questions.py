"""What a reader can be asked, each question as a generator of commands: the code of both readers.

    EmbeddingReader, AsyncEmbeddingReader (reader.py) ──► [Questions] ──► fetch.py, ranking.py

A read that finds its generation replaced begins again, so that everything in an answer is of one generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final

import msgspec
import numpy as np

from driftgraph.snapshots.answers import Batch, Chances, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import LIST_FIELDS, Keys, StoreError
from driftgraph.snapshots.generations.vector_forms import FLOAT32
from driftgraph.snapshots.head_scores import HEAD, chances_of
from driftgraph.snapshots.reading.fetch import (
    ATTEMPTS,
    SHAPE,
    Fetch,
    Fetched,
    Hashes,
    ReplacedError,
    Shape,
    Steps,
    T,
)
from driftgraph.snapshots.reading.lists import Filters, Scored, best, listed
from driftgraph.snapshots.reading.ranking import Asked, Described, Ranking
from driftgraph.snapshots.reading.where import UnknownAttributeError
from driftgraph.stream.arrays import F32, Mask

LISTED: Final = ("touched", "event_ms", *LIST_FIELDS["user"])
USER: Final = ("embedding", *LISTED)
VECTOR: Final = ("embedding",)


class Questions:
    """The questions of one namespace; see the readers for what they mean."""

    def __init__(self, namespace: str, *, trending_behavior: str | None, cache_items: bool) -> None:
        self._keys = Keys(namespace)
        self._fetch = Fetch(self._keys)
        self._ranking = Ranking(self._keys, self._fetch, cache_items=cache_items)
        self._trending_behavior = trending_behavior

    def current(self) -> Steps[int]:
        """The number of the served generation."""
        return (yield from self._fetch.current())

    def vectors(self, side: str, ids: Sequence[str]) -> Steps[tuple[F32, Mask]]:
        """Vectors of users (``user``) or items (``item``)."""

        def read() -> Steps[tuple[F32, Mask]]:
            found = yield from self._fetch.get(SHAPE, Hashes(side, VECTOR, ids))
            return _vectors(found, len(ids))

        return self._whole(read)

    def batch(self, users: Sequence[str], items: Sequence[str]) -> Steps[Batch]:
        """Vectors of both."""

        def read() -> Steps[Batch]:
            both = Hashes("user", VECTOR, users), Hashes("item", VECTOR, items)
            found = yield from self._fetch.get(SHAPE, *both)
            rows, there = _vectors(found, len(users) + len(items))
            n = len(users)
            return Batch(found.generation, rows[:n], there[:n], rows[n:], there[n:])

        return self._whole(read)

    def recommend(self, users: Sequence[str], top: int, filters: Filters) -> Steps[list[Recommendation]]:
        """The best items of each user."""
        _require_positive("top", top)
        if len(users) == 1 and not filters.need_items:
            alone = yield from self._by_list(users[0], top, filters)
            if alone is not None:
                return [alone]

        def read() -> Steps[list[Recommendation]]:
            told = (*SHAPE, "lists", "index", "attributes")
            found = yield from self._fetch.get(told, Hashes("user", USER, users))
            _require_known(found, filters)
            answers: dict[int, Recommendation] = {}
            to_rank: dict[int, tuple[Asked, int]] = {}
            unknown: list[int] = []
            shape, lists_max = Shape(0, FLOAT32), 0
            if found.generation:
                shape, lists_max = found.shape(), int(found.told[2] or 0)
            rows = found.rows if found.generation else [[None] * len(USER) for _ in users]
            vectors, _ = shape.rows_of([row[0] for row in rows])
            lists = yield from self._lists(found, rows, top, filters)
            for n, (row, (length, kept, out)) in enumerate(zip(rows, lists, strict=True)):
                event_ms = int(row[2] or 0)
                if kept is not None and (len(kept) >= top or length < lists_max):
                    answers[n] = Recommendation(found.generation, "list", kept[:top], event_ms)
                    continue
                if vectors[n].any() and np.isfinite(vectors[n]).all():
                    to_rank[n] = Asked(vectors[n], out), event_ms
                else:  # unknown, or a vector without a direction
                    unknown.append(n)
            if to_rank:
                described = Described(found.publish, shape, (found.told[3] or b"none").decode())
                asked = [one for one, _ in to_rank.values()]
                ranked = yield from self._ranking.rank(described, asked, top, filters)
                for (n, (_, event_ms)), items in zip(to_rank.items(), ranked, strict=True):
                    answers[n] = Recommendation(found.generation, "embedding", items, event_ms)
            if unknown:
                rising = yield from self._unknown(found, top, filters)
                answers |= dict.fromkeys(unknown, rising)
            return [answers[n] for n in range(len(users))]

        return (yield from self._whole(read))

    def similar(self, item: str, top: int) -> Steps[SimilarItems]:
        """The items that are most similar to one."""
        _require_positive("top", top)

        def read() -> Steps[SimilarItems]:
            fields = ("gen", *LIST_FIELDS["item"])
            found = yield from self._fetch.get(("similar",), Hashes("item", fields, [item]))
            if not found.generation:
                return SimilarItems(0, "none", [])
            known, ids, scores = found.rows[0]
            if known is None:
                return SimilarItems(found.generation, "unknown", [])
            if not int(found.told[0] or 0):
                return SimilarItems(found.generation, "off", [])
            pairs = zip(*listed(ids, scores), strict=True)
            return SimilarItems(found.generation, "list", Filters().keep(pairs, self._fetch.delisted, top))

        return self._whole(read)

    def scores(self, user: str, items: Sequence[str]) -> Steps[Chances]:
        """How probable each behavior is when each of the items is shown to the user."""

        def read() -> Steps[Chances]:
            fields = ("embedding", HEAD)
            both = Hashes("user", fields, [user]), Hashes("item", fields, items)
            found = yield from self._fetch.get((*SHAPE, HEAD), *both)
            if not found.generation:
                return Chances(0, "none", {}, False, np.zeros(len(items), np.bool_))
            there = np.array([row[0] is not None for row in found.rows], np.bool_)
            if (head := found.told[2]) is None:
                return Chances(found.generation, "off", {}, bool(there[0]), there[1:])
            vectors, _ = found.shape().rows_of([row[0] for row in found.rows])
            by_behavior = chances_of(head, vectors, [row[1] for row in found.rows])
            return Chances(found.generation, "heads", by_behavior, bool(there[0]), there[1:])

        return self._whole(read)

    def made_by(self) -> Steps[str]:
        """What made the served generation."""

        def read() -> Steps[str]:
            found = yield from self._fetch.get(("made_by",))
            return (found.told[0] or b"").decode() if found.generation else ""

        return self._whole(read)

    def trending(self, behavior: str | None, n: int) -> Steps[Scored]:
        """The highest items of a behavior's list, or of all lists together."""
        _require_positive("n", n)
        behaviors = (yield from self._behaviors()) if behavior is None else [behavior]
        return best((yield from self._rising(behaviors)), n) if behaviors else []

    # --- parts of an answer ----------------------------------------------------------------------------

    def _whole(self, read: Callable[[], Steps[T]]) -> Steps[T]:
        """Read again until no switch has replaced the generation meanwhile."""
        number = 0
        for _ in range(ATTEMPTS):
            try:
                return (yield from read())
            except ReplacedError as error:
                number = error.generation
        raise StoreError(
            f"generation {number} of namespace {self._keys.namespace!r} could not be read whole in "
            f"{ATTEMPTS} attempts; look whether Redis evicts keys, or a worker publishes in a loop"
        )

    def _by_list(self, user: str, top: int, filters: Filters) -> Steps[Recommendation | None]:
        """The answer for a user whose list is long enough, which needs one hash and nothing else."""
        generation, row = yield from self._fetch.alone(Hashes("user", LISTED, [user]))
        if not generation or row[-1] is None:
            return None
        touched, event_ms, ids, scores = row
        kept = filters.keep(
            zip(*listed(ids, scores), strict=True), filters.out(touched, self._fetch.delisted), top
        )
        return Recommendation(generation, "list", kept, int(event_ms or 0)) if len(kept) == top else None

    def _lists(
        self, found: Fetched, rows: Sequence[Sequence[bytes | None]], top: int, filters: Filters
    ) -> Steps[list[tuple[int, Scored | None, set[str]]]]:
        """For each user the length of the list in Redis, the best that may come of it, and what may not come.

        None where there is no list: a former version wrote the field ``list`` alone, in another form.
        """
        lists: list[tuple[int, Scored | None, set[str]]] = []
        for _, touched, _, ids, scores in rows:
            out = filters.out(touched, self._fetch.delisted)
            if scores is None:
                lists.append((0, None, out))
                continue
            names, numbers = listed(ids, scores)
            wanted = len(names) if filters.need_items else top
            lists.append((len(names), filters.keep(zip(names, numbers, strict=True), out, wanted), out))
        if not filters.need_items:
            return lists
        fitting = yield from self._fitting(found, [i for _, kept, _ in lists for i, _ in kept or ()], filters)
        return [
            (length, kept and [pair for pair in kept if pair[0] in fitting], out)
            for length, kept, out in lists
        ]

    def _fitting(self, found: Fetched, items: Sequence[str], filters: Filters) -> Steps[set[str]]:
        """Which of the items may come by their time and their attributes."""
        ids = list(dict.fromkeys(items))
        if not ids or not found.generation:
            return set()
        fields = Hashes("item", ("event_ms", "attributes"), ids)
        rows = zip(ids, (yield from self._fetch.more(found.publish, fields)).rows, strict=True)
        return {i for i, (time_ms, said) in rows if filters.fits(int(time_ms or 0), said)}

    def _unknown(self, found: Fetched, top: int, filters: Filters) -> Steps[Recommendation]:
        """What is trending: the answer for users whom nobody knows."""
        behaviors = [self._trending_behavior] if self._trending_behavior else (yield from self._behaviors())
        rising = best((yield from self._rising(behaviors))) if behaviors else []
        if filters.need_items:
            fitting = yield from self._fitting(found, [i for i, _ in rising], filters)
            rising = [pair for pair in rising if pair[0] in fitting]
        kept = filters.keep(rising, filters.out(None, self._fetch.delisted), top)
        return Recommendation(found.generation, "trending" if kept else "none", kept)

    def _rising(self, behaviors: Sequence[str]) -> Steps[Scored]:
        names = [self._keys.trending(behavior) for behavior in behaviors]
        command = ("ZUNION", str(len(names)), *names, "WITHSCORES")
        pairs = _in_pairs((yield from self._fetch.beside(command)))
        rising = [(i.decode(), float(score)) for i, score in pairs if isfinite(float(score))]
        return [pair for pair in rising if pair[0] not in self._fetch.delisted]

    def _behaviors(self) -> Steps[list[str]]:
        found = yield from self._fetch.plain(("SMEMBERS", self._keys.trending_behaviors))
        return sorted(behavior.decode() for behavior in found)


def _vectors(found: Fetched, count: int) -> tuple[F32, Mask]:
    if not found.generation:
        return np.zeros((count, 0), np.float32), np.zeros(count, np.bool_)
    return found.vectors()


def _require_known(found: Fetched, filters: Filters) -> None:
    """Refuse a condition on attributes that the generation does not have."""
    if filters.where is None or not found.generation:
        return
    names = msgspec.json.decode(found.told[4] or b"[]", type=list[str])
    if unknown := [name for name in filters.where.names if name not in names]:
        raise UnknownAttributeError(
            f"generation {found.generation} has no attribute {unknown[0]!r} of items to choose by, but "
            f"{', '.join(map(repr, names)) or 'none'}; events.attributes.item names them"
        )


def _in_pairs(answer: Sequence[object]) -> list[tuple[bytes, bytes]]:
    """Members with scores: RESP2 has them in one row, RESP3 in pairs."""
    if answer and isinstance(answer[0], bytes):
        return list(zip(answer[::2], answer[1::2], strict=True))  # type: ignore[arg-type]
    return [(one[0], one[1]) for one in answer]  # type: ignore[index]


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
