"""Read embeddings and recommendations from Redis: the library for a ranking service.

    GenerationStore ──► Redis ──► [EmbeddingReader] ──► vectors, recommendations

It needs numpy and redis, and nothing of the model. A plain client reads a vector with two commands:
``HGET {ns}:emb:current gen`` and ``HGET {ns}:emb:{gen}:user:{id} embedding`` (float32, little-endian).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import redis
from redis.client import Pipeline

from driftgraph.snapshots.answers import Batch, Chances, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import (
    LIST_FIELDS,
    LIVE,
    Keys,
    StoreError,
    redis_errors,
    require_usable,
)
from driftgraph.snapshots.generations.vector_forms import FLOAT32, decoded, rows_of
from driftgraph.snapshots.head_scores import HEAD, chances_of
from driftgraph.stream.arrays import F32, F64, Mask

T = TypeVar("T")

ATTEMPTS = 5  # a read is repeated if its generation was replaced meanwhile; publishes are minutes apart
COMMANDS_PER_PIPELINE = 5_000  # bounds one answer: 1.3 MB at 64 dims
SPARE = 8  # more candidates than asked for: the vector set rounds scores, and its answer is ranked again
GRAPH_EF = 500  # effort of a search in a vector set too large for an exact one


class _Described(NamedTuple):
    """What the manifest of a generation says."""

    dim: int
    search: str  # its index: exact, graph or none
    lists: int  # items of a user's list at most
    made_by: str
    vectors: str  # their form


@dataclass(frozen=True, slots=True)
class _Catalog:
    """All items of one generation, in order of id."""

    key: tuple[int, bytes]
    ids: list[str]
    vectors: F32
    place: dict[str, int]


class _Replaced(Exception):  # noqa: N818  it is caught in this file
    """The generation with which a read began was removed or replaced."""


class EmbeddingReader:
    """Reads the served generation of one namespace.

    Always true: everything in one answer is of one generation, also while another is published, rolled back
    or removed; the next answer follows the switch. A batch costs one round trip, and a second one
    after a switch.

    Args:
        client: From ``keys.connect``, so that no read hangs. One reader belongs to one thread.
        trending_behavior: The behavior whose list answers for unknown users; None adds up all lists.
        cache_items: Keep all items of the generation here and rank without the vector set: no load on Redis
            and one round trip for a recommendation, for a few hundred milliseconds after each switch and
            ``4 · dim`` bytes an item. Without vector sets in the server this is done in any case.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        trending_behavior: str | None = None,
        cache_items: bool = False,
    ) -> None:
        require_usable(client, Keys(namespace))
        self._client = client
        self._keys = Keys(namespace)
        self._trending_behavior = trending_behavior
        self._cache_items = cache_items
        self._generation = 0  # the generation of the last read; every read checks it
        self._token = b""  # of its publish: after a FLUSHALL another generation may have the same number
        self._described = ((0, b""), _Described(0, "none", 0, "", FLOAT32))
        self._catalog: _Catalog | None = None

    def current(self) -> int:
        """The number of the served generation, 0 for none."""
        with redis_errors(self._client, "reading which generation is served"):
            return self._resolve()

    def users(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """Vectors [N, dim] and which of them were found; see ``batch``."""
        batch = self.batch(users=ids)
        return batch.users, batch.users_found

    def items(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """Vectors [N, dim] and which of them were found; see ``batch``."""
        batch = self.batch(items=ids)
        return batch.items, batch.items_found

    def batch(self, *, users: Sequence[str] = (), items: Sequence[str] = ()) -> Batch:
        """Vectors of users and items of one generation.

        Raises:
            StoreError: If Redis does not answer, or the generation was replaced several times during the
            read.
        """

        def read(generation: int) -> Batch:
            if not generation:
                return Batch(0, *rows_of([], len(users), 0), *rows_of([], len(items), 0))
            names = [self._keys.user(generation, i) for i in users]
            names += [self._keys.item(generation, i) for i in items]
            blobs = self._consistent(generation, [("HGET", name, "embedding") for name in names])
            dim, form = self._describe(generation).dim, self._describe(generation).vectors
            user_rows = rows_of(blobs[: len(users)], len(users), dim, form)
            return Batch(generation, *user_rows, *rows_of(blobs[len(users) :], len(items), dim, form))

        with redis_errors(self._client, "reading embeddings"):
            return self._follow(read)

    def recommend(self, user_id: str, top: int = 20) -> Recommendation:
        """The best items that the user has not touched: the user's list, in one round trip.

        Items are ranked by the dot product of the vectors instead where the user has no list, or where
        fewer than ``top`` are left of a list that was cut off at ``publish.lists``. This is exact, except in
        a catalog beyond 100,000 items without ``cache_items``, where the vector set is searched
        approximately. ``touched`` holds a user's newest 200 items, so an older one may be recommended.

        Raises:
            ValueError: If ``top`` is not positive.
            StoreError: As for ``batch``.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")

        def read(generation: int) -> Recommendation:
            if not generation:
                return self._trending(0, top)
            name = self._keys.user(generation, user_id)
            command = ("HMGET", name, "embedding", "touched", "event_ms", *LIST_FIELDS["user"])
            blob, touched, event_ms, ids, scores = self._consistent(generation, [command])[0]
            left_out = set(msgspec.json.decode(touched or b"[]", type=list[str]))
            if scores is not None:  # a former version wrote the field ``list`` alone, in another form
                items = _pairs(ids, scores)
                kept = [pair for pair in items if pair[0] not in left_out]
                if len(kept) >= top or len(items) < self._describe(generation).lists:
                    return Recommendation(generation, "list", kept[:top], int(event_ms))
            told = self._describe(generation)
            user = decoded([blob], told.vectors, told.dim)[0] if blob else np.zeros(0, np.float32)
            if not (user.any() and np.isfinite(user).all()):  # unknown, or a vector without a direction
                return self._trending(generation, top)
            if self._cache_items or self._describe(generation).search == "none":
                ranked = self._rank_catalog(generation, user, left_out, top)
            else:
                ranked = self._rank_index(generation, user, left_out, top)
            return Recommendation(generation, "embedding", ranked, int(event_ms))

        with redis_errors(self._client, f"recommending for {user_id!r}"):
            return self._follow(read)

    def scores(self, user_id: str, item_ids: Sequence[str]) -> Chances:
        """How probable each behavior is when each of the items is shown to the user, in one round trip.

        Rates are as of the publish, those of the user as of its newest refresh.

        Raises:
            StoreError: As for ``batch``.
        """

        def read(generation: int) -> Chances:
            found = np.zeros(len(item_ids), np.bool_)
            if not generation:
                return Chances(0, "none", {}, False, found)
            names = [self._keys.user(generation, user_id)]
            names += [self._keys.item(generation, i) for i in item_ids]
            rows = [("HMGET", name, "embedding", HEAD) for name in names]
            manifest = ("HGET", self._keys.of(generation, "manifest"), HEAD)
            head, user, *items = self._consistent(generation, [manifest, *rows])
            if head is None:
                found[:] = [embedding is not None for embedding, _ in items]
                return Chances(generation, "off", {}, user[0] is not None, found)
            return chances_of(generation, head, user, items)

        with redis_errors(self._client, f"reading the probabilities of items for {user_id!r}"):
            return self._follow(read)

    def similar(self, item_id: str, top: int = 20) -> SimilarItems:
        """The items that are most similar to one, at most ``publish.similar``, in one round trip.

        Raises:
            ValueError: If ``top`` is not positive.
            StoreError: As for ``batch``.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")

        def read(generation: int) -> SimilarItems:
            if not generation:
                return SimilarItems(0, "none", [])
            name, manifest = self._keys.item(generation, item_id), self._keys.of(generation, "manifest")
            commands = [("HMGET", name, "gen", *LIST_FIELDS["item"]), ("HGET", manifest, "similar")]
            (known, *listed), length = self._consistent(generation, commands)
            if known is None:
                return SimilarItems(generation, "unknown", [])
            if not int(length or 0):
                return SimilarItems(generation, "off", [])
            return SimilarItems(generation, "list", _pairs(*listed)[:top])

        with redis_errors(self._client, f"reading what is similar to {item_id!r}"):
            return self._follow(read)

    def made_by(self) -> str:
        """What made the served generation: ``model``, what went before it, or nothing that says so."""

        def read(generation: int) -> str:
            if not generation:
                return ""
            self._consistent(generation, [])  # whether it is served still: what is kept of it does not tell
            return self._describe(generation).made_by

        with redis_errors(self._client, "reading who made the generation"):
            return self._follow(read)

    def trending(self, behavior: str, n: int = 20) -> list[tuple[str, float]]:
        """The ``n`` highest items of a behavior's list of trending items, best first; equal scores by id.

        Empty if there is no list. The Faust app writes the lists while it runs; the worker writes them with
        each generation.

        Raises:
            ValueError: If ``n`` is not positive.
            StoreError: If Redis does not answer.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        with redis_errors(self._client, f"reading what is trending for {behavior!r}"):
            return self._trending_items([behavior], n)

    # --- one generation an answer ----------------------------------------------------------------------

    def _follow(self, read: Callable[[int], T]) -> T:
        """Run a read of several round trips again until no switch has replaced its generation meanwhile."""
        for _ in range(ATTEMPTS):
            try:
                return read(self._generation or self._resolve())
            except _Replaced:
                continue
        raise StoreError(
            f"generation {self._generation} of namespace {self._keys.namespace!r} could not be read whole in "
            f"{ATTEMPTS} attempts; look whether Redis evicts keys, or a worker publishes in a loop"
        )

    def _resolve(self) -> int:
        self._generation = int(cast("bytes | None", self._client.hget(self._keys.current, "gen")) or 0)
        self._token = b""
        return self._generation

    def _consistent(self, generation: int, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """The answers of ``commands`` if ``generation`` is served when they begin and exists when they end.

        The pipeline asks first which generation is served, so that an answer is never older than the last
        switch before the call. It asks for the status last, which a generation loses before its first key.
        The token tells whether all round trips of an answer read the same publish.
        """
        answers: list[Any] = []
        for first in range(0, max(len(commands), 1), COMMANDS_PER_PIPELINE):
            pipe: Pipeline = self._client.pipeline(transaction=False)
            pipe.hget(self._keys.current, "gen")
            for command in commands[first : first + COMMANDS_PER_PIPELINE]:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            pipe.hmget(self._keys.of(generation, "manifest"), ["status", "token"])
            served, *found, (status, token) = pipe.execute()
            is_same = self._token in (b"", token)
            if int(served or 0) != generation or status != LIVE.encode() or not is_same:
                self._generation, self._token = int(served or 0), b""
                raise _Replaced
            self._token = token or b""
            answers += found
        return answers

    def _describe(self, generation: int) -> _Described:
        """What the manifest says, kept for the generation."""
        if self._described[0] != (generation, self._token):
            fields = ("dim", "index", "lists", "made_by", "vectors")
            names = ("HMGET", self._keys.of(generation, "manifest"), *fields)
            dim, index, lists, made_by, vectors = self._consistent(generation, [names])[0]
            told = [(text or b"").decode() for text in (made_by, vectors)]
            described = _Described(int(dim), index.decode(), int(lists or 0), told[0], told[1] or FLOAT32)
            self._described = ((generation, self._token), described)
        return self._described[1]

    # --- ranking ---------------------------------------------------------------------------------------

    def _rank_index(
        self, generation: int, user: F32, left_out: set[str], top: int
    ) -> list[tuple[str, float]]:
        """Ask the vector set for candidates, then rank those by their dot product."""
        effort = ("TRUTH",) if self._describe(generation).search == "exact" else ("EF", str(GRAPH_EF))
        query = np.append(user, np.float32(0)).astype("<f4").tobytes()  # see vectors.one_length
        count = str(top + len(left_out) + SPARE)
        name = self._keys.of(generation, "items")
        search: tuple[Any, ...] = ("VSIM", name, "FP32", query, "COUNT", count, *effort)
        found: list[bytes] = self._consistent(generation, [search])[0]
        ids = [i for i in (raw.decode() for raw in found) if i not in left_out]
        blobs = self._consistent(
            generation, [("HGET", self._keys.item(generation, i), "embedding") for i in ids]
        )
        vectors, _ = rows_of(blobs, len(ids), len(user), self._describe(generation).vectors)
        scored = zip(ids, _scores(vectors, user).tolist(), strict=True)
        sound = [pair for pair in scored if pair[1] > -np.inf]
        return sorted(sound, key=lambda pair: (-pair[1], pair[0]))[:top]

    def _rank_catalog(
        self, generation: int, user: F32, left_out: set[str], top: int
    ) -> list[tuple[str, float]]:
        """Rank all items of the kept catalog."""
        catalog = self._load_catalog(generation)
        score = _scores(catalog.vectors, user)
        score[[catalog.place[i] for i in left_out if i in catalog.place]] = -np.inf
        if top < len(score):
            worst = np.partition(score, -top)[-top]
            places = np.flatnonzero(score >= worst)  # with all items whose score equals that of the last one
        else:
            places = np.arange(len(score))
        best = places[np.argsort(-score[places], kind="stable")][:top]
        return [(catalog.ids[n], float(score[n])) for n in best.tolist() if score[n] > -np.inf]

    def _load_catalog(self, generation: int) -> _Catalog:
        if self._catalog is None or self._catalog.key != (generation, self._token):
            names = [part.of(generation, "item-ids") for part in self._keys.parts]
            lists = self._consistent(generation, [("LRANGE", name, "0", "-1") for name in names])
            ids = sorted(i.decode() for raw in lists for i in raw)
            commands = [("HGET", self._keys.item(generation, i), "embedding") for i in ids]
            dim = self._describe(generation).dim
            form = self._describe(generation).vectors
            vectors, _ = rows_of(self._consistent(generation, commands), len(ids), dim, form)
            places = {i: n for n, i in enumerate(ids)}
            self._catalog = _Catalog((generation, self._token), ids, vectors, places)
        return self._catalog

    def _trending(self, generation: int, top: int) -> Recommendation:
        """The recommendation for unknown users."""
        behaviors = [self._trending_behavior] if self._trending_behavior else self._behaviors()
        if not behaviors:
            return Recommendation(generation, "none", [])
        scored = self._trending_items(behaviors, top)
        return Recommendation(generation, "trending" if scored else "none", scored)

    def _trending_items(self, behaviors: Sequence[str], top: int) -> list[tuple[str, float]]:
        names = [self._keys.trending(behavior) for behavior in behaviors]
        sums = cast("list[Any]", self._client.zunion(names, withscores=True))
        scored = [(i.decode(), float(s)) for i, s in sums if isfinite(s)]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:top]

    def _behaviors(self) -> list[str]:
        found = cast("set[bytes]", self._client.smembers(self._keys.trending_behaviors))
        return sorted(behavior.decode() for behavior in found)


def _pairs(ids: bytes | None, scores: bytes | None) -> list[tuple[str, float]]:
    """The items of a list with their scores, without those that are not finite, whoever wrote them."""
    found = zip(
        msgspec.json.decode(ids or b"[]", type=list[str]),
        np.frombuffer(scores or b"", "<f4").tolist(),
        strict=False,
    )
    return sorted((pair for pair in found if isfinite(pair[1])), key=lambda pair: (-pair[1], pair[0]))


def _scores(vectors: F32, user: F32) -> F32 | F64:
    """Dot products [N], finite; -inf for an item whose vector is not.

    A publish refuses vectors whose products float32 cannot hold, but another program may have written these.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        score = vectors @ user
        if np.isfinite(score).all():
            return score
        wide = vectors.astype(np.float64) @ user.astype(np.float64)
    return np.where(np.isfinite(wide), wide, -np.inf)
