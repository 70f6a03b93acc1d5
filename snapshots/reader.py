"""Read embeddings and recommendations from Redis: the library for a ranking service.

    GenerationStore ──► Redis ──► [EmbeddingReader, AsyncEmbeddingReader] ──► vectors, recommendations

It needs numpy, msgspec and redis, and nothing of the model. A plain client reads a vector with two commands:
``HGET {ns}:emb:current gen`` and ``HGET {ns}:emb:{gen}:user:{id} embedding`` (float32, little-endian).

Both readers answer by the same code (reading/questions.py); they differ in how they wait for Redis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import overload

import redis
import redis.asyncio

from driftgraph.snapshots.answers import Batch, Chances, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import Keys, require_usable
from driftgraph.snapshots.reading.drivers import Line, run, run_async
from driftgraph.snapshots.reading.lists import Filters
from driftgraph.snapshots.reading.questions import Questions
from driftgraph.snapshots.reading.where import Wanted, Where
from driftgraph.stream.arrays import F32, Mask


class EmbeddingReader:
    """Reads the served generation of one namespace.

    Always true: everything in one answer is of one generation, also while another is published, rolled back
    or removed; the next answer follows the switch. Vectors, lists and probabilities cost one round trip, and
    a second one after a switch.

    Args:
        client: From ``keys.connect``, so that no read hangs. One reader belongs to one thread, and keeps one
            connection of the client.
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
        self._line = Line(client)
        self._ask = Questions(namespace, trending_behavior=trending_behavior, cache_items=cache_items)

    def current(self) -> int:
        """The number of the served generation, 0 for none."""
        return run(self._line, "reading which generation is served", self._ask.current())

    def users(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """Vectors [N, dim] and which of them were found; see ``batch``."""
        return run(self._line, "reading embeddings", self._ask.vectors("user", ids))

    def items(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """Vectors [N, dim] and which of them were found; see ``batch``."""
        return run(self._line, "reading embeddings", self._ask.vectors("item", ids))

    def batch(self, *, users: Sequence[str] = (), items: Sequence[str] = ()) -> Batch:
        """Vectors of users and items of one generation.

        Raises:
            StoreError: If Redis does not answer, or the generation was replaced several times during the
            read.
        """
        return run(self._line, "reading embeddings", self._ask.batch(users, items))

    @overload
    def recommend(
        self,
        user: str,
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> Recommendation: ...

    @overload
    def recommend(
        self,
        user: list[str] | tuple[str, ...],
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> list[Recommendation]: ...

    def recommend(
        self,
        user: str | list[str] | tuple[str, ...],
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> Recommendation | list[Recommendation]:
        """The best items that a user, or each of several, has not touched: the list, in one round trip.

        Items are ranked by the dot product of the vectors instead where a user has no list, or where fewer
        than ``top`` are left of a list that was cut off at ``publish.lists``: two more round trips for all of
        these users. This is exact, except in a catalog beyond 100,000 items without ``cache_items``, where
        the vector set is searched approximately. ``touched`` holds a user's newest 200 items, so an older one
        may be recommended. Unknown users get what is trending.

        Args:
            user: An id, or several; then the answer is a list in the same order.
            top: Items of each user at most.
            exclude: Ids that must not come.
            allow: All ids that may come, as those of a category; None allows every item.
            min_event_ms: An item must have an event at or after this time; asking for times is a round trip.
            where: By attribute of items the value that one must have, or several of which it must have one;
                for a number the range ``(low, high)``, either may be None. Asking is that round trip, too.

        Raises:
            TypeError: If an id is no text, or ``exclude`` or ``allow`` is one text.
            ValueError: If ``top`` is not positive, or ``where`` has neither texts nor a range.
            StoreError: As for ``batch``; or if the generation has no such attribute.
        """
        users, filters = _asked(user, exclude, allow, min_event_ms, where)
        found = run(self._line, f"recommending for {_named(users)}", self._ask.recommend(users, top, filters))
        return found[0] if isinstance(user, str) else found

    def scores(self, user_id: str, item_ids: Sequence[str]) -> Chances:
        """How probable each behavior is when each of the items is shown to the user, in one round trip.

        Rates are as of the publish, those of the user as of its newest refresh.

        Raises:
            StoreError: As for ``batch``.
        """
        doing = f"reading the probabilities of items for {user_id!r}"
        return run(self._line, doing, self._ask.scores(user_id, item_ids))

    def similar(self, item_id: str, top: int = 20) -> SimilarItems:
        """The items that are most similar to one, at most ``publish.similar``, in one round trip.

        Raises:
            ValueError: If ``top`` is not positive.
            StoreError: As for ``batch``.
        """
        doing = f"reading what is similar to {item_id!r}"
        return run(self._line, doing, self._ask.similar(item_id, top))

    def made_by(self) -> str:
        """What made the served generation: ``model``, what went before it, or nothing that says so."""
        return run(self._line, "reading who made the generation", self._ask.made_by())

    def trending(self, behavior: str | None, n: int = 20) -> list[tuple[str, float]]:
        """The ``n`` highest items of a behavior's list of trending items, best first; equal scores by id.

        With None the scores of an item in all lists are added up.
        Empty if there is no list. The Faust app writes the lists while it runs; the worker writes them with
        each generation.

        Raises:
            ValueError: If ``n`` is not positive.
            StoreError: If Redis does not answer.
        """
        doing = f"reading what is trending for {behavior or 'all behaviors'!r}"
        return run(self._line, doing, self._ask.trending(behavior, n))


class AsyncEmbeddingReader:
    """``EmbeddingReader`` for asyncio, with the same methods, answers and errors.

    The tasks of one event loop may share a reader. ``client`` is from ``keys.connect_async``.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        namespace: str,
        trending_behavior: str | None = None,
        cache_items: bool = False,
    ) -> None:
        require_usable(client, Keys(namespace))
        self._client = client
        self._ask = Questions(namespace, trending_behavior=trending_behavior, cache_items=cache_items)

    async def current(self) -> int:
        """See ``EmbeddingReader.current``."""
        return await run_async(self._client, "reading which generation is served", self._ask.current())

    async def users(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """See ``EmbeddingReader.users``."""
        return await run_async(self._client, "reading embeddings", self._ask.vectors("user", ids))

    async def items(self, ids: Sequence[str]) -> tuple[F32, Mask]:
        """See ``EmbeddingReader.items``."""
        return await run_async(self._client, "reading embeddings", self._ask.vectors("item", ids))

    async def batch(self, *, users: Sequence[str] = (), items: Sequence[str] = ()) -> Batch:
        """See ``EmbeddingReader.batch``."""
        return await run_async(self._client, "reading embeddings", self._ask.batch(users, items))

    @overload
    async def recommend(
        self,
        user: str,
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> Recommendation: ...

    @overload
    async def recommend(
        self,
        user: list[str] | tuple[str, ...],
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> list[Recommendation]: ...

    async def recommend(
        self,
        user: str | list[str] | tuple[str, ...],
        top: int = 20,
        *,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        min_event_ms: int | None = None,
        where: Mapping[str, Wanted] | None = None,
    ) -> Recommendation | list[Recommendation]:
        """See ``EmbeddingReader.recommend``."""
        users, filters = _asked(user, exclude, allow, min_event_ms, where)
        doing = f"recommending for {_named(users)}"
        found = await run_async(self._client, doing, self._ask.recommend(users, top, filters))
        return found[0] if isinstance(user, str) else found

    async def scores(self, user_id: str, item_ids: Sequence[str]) -> Chances:
        """See ``EmbeddingReader.scores``."""
        doing = f"reading the probabilities of items for {user_id!r}"
        return await run_async(self._client, doing, self._ask.scores(user_id, item_ids))

    async def similar(self, item_id: str, top: int = 20) -> SimilarItems:
        """See ``EmbeddingReader.similar``."""
        doing = f"reading what is similar to {item_id!r}"
        return await run_async(self._client, doing, self._ask.similar(item_id, top))

    async def made_by(self) -> str:
        """See ``EmbeddingReader.made_by``."""
        return await run_async(self._client, "reading who made the generation", self._ask.made_by())

    async def trending(self, behavior: str | None, n: int = 20) -> list[tuple[str, float]]:
        """See ``EmbeddingReader.trending``."""
        doing = f"reading what is trending for {behavior or 'all behaviors'!r}"
        return await run_async(self._client, doing, self._ask.trending(behavior, n))


def _asked(
    user: str | list[str] | tuple[str, ...],
    exclude: Collection[str],
    allow: Collection[str] | None,
    min_event_ms: int | None,
    where: Mapping[str, Wanted] | None,
) -> tuple[list[str], Filters]:
    if not isinstance(user, str | list | tuple):
        raise TypeError(f"an id is text, as {str(user)!r}, or a list of such texts, not {user!r}")
    _require_ids("exclude", exclude)
    _require_ids("allow", () if allow is None else allow)
    allowed = None if allow is None else frozenset(allow)
    filters = Filters(exclude, allowed, min_event_ms, Where(where) if where else None)
    return [user] if isinstance(user, str) else list(user), filters


def _require_ids(name: str, ids: Collection[str]) -> None:
    """Refuse one text, and numbers, which equal no id: nothing would be left out. The first tells for all."""
    if isinstance(ids, str):
        raise TypeError(f"{name} has several ids: give [{ids!r}], not {ids!r}")
    if not isinstance(first := next(iter(ids), ""), str):
        raise TypeError(f"{name} has ids, which are text: give {str(first)!r}, not {first!r}")


def _named(users: Sequence[str]) -> str:
    return repr(users[0]) if len(users) == 1 else f"{len(users)} users"
