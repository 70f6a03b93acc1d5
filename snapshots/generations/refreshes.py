"""Newer vectors for a generation that is there: of users and items that events have touched since.

    Refresher ──► [Refreshes] ──► the served generation, or one that is verified and about to be served

A refresh changes no generation but the one that it names, since its vectors are of that generation's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import msgspec
import redis

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.calls import (
    QUANTIZATIONS,
    Call,
    index_effort,
    refresh_calls,
    refresh_index_calls,
)
from driftgraph.snapshots.generations.check import Record, Served
from driftgraph.snapshots.generations.delisting import Delisting
from driftgraph.snapshots.generations.feast import FeastCopies
from driftgraph.snapshots.generations.keys import LIVE, Keys, NotCurrentError, redis_errors
from driftgraph.snapshots.generations.part_copies import PartCopies
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.vector_forms import FLOAT32
from driftgraph.snapshots.generations.vectors import Vectors, check, of_length


class Refreshes:
    """What one thread writes between two publishes. Every method raises StoreError."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        calls: Scripts,
        record: Record,
        parts: PartCopies,
        delisting: Delisting,
        feast: FeastCopies,
    ) -> None:
        self._client, self._keys, self._calls, self._record = client, keys, calls, record
        self._parts, self._delisting, self._feast = parts, delisting, feast

    def users(self, number: int, users: Vectors) -> None:
        """Write newer user vectors, made by the model of generation ``number``, into that generation.

        Users that it did not have are added. ``touched`` is not changed where it is None; without ``lists``
        the list of a user goes. Each user is written whole, and 100 users at a time.

        Raises:
            ValueError: If the vectors are not valid or have another dimension. Nothing was written.
            NotCurrentError: If another generation is served now; embed again with its model.
        """
        check(users, "user")
        if not len(users):
            return
        users = self._delisting.users_without(users, self._delisting.newest()[1])
        keys, (served, token) = self._keys, self._written_into(number)
        mark = served.mark
        fence = [self._calls.epoch, number, token, mark]
        with redis_errors(self._client, f"refreshing generation {number}"):
            form = self._form_of(number, users, "user")[0]
            self._run(
                scripts.REFRESH, number, lambda: refresh_calls(keys, "user", number, users, fence, form)
            )
            self._parts.mark(number, token, mark + 1)
        if number == served.number:
            served.mark = mark + 1
        self._feast.refreshed(number, "user", users.ids)

    def items(self, number: int, items: Vectors) -> None:
        """As ``users``, for items, and into the vector set; an item keeps its list where there is no new one.

        New items are added to the generation.
        """
        check(items, "item")
        items = self._delisting.items_without(items, self._delisting.newest()[1])
        if not len(items):
            return
        keys, (served, token) = self._keys, self._written_into(number)
        fence = [self._calls.epoch, number, token]
        with redis_errors(self._client, f"refreshing items of generation {number}"):
            form, quantized = self._form_of(number, items, "item")
            items = self._with_known_attributes(number, items)
            self._run(
                scripts.REFRESH_ITEMS, number, lambda: refresh_calls(keys, "item", number, items, fence, form)
            )
            if number == served.number and served.indexed and served.norm > 0:
                rows = of_length(items.vectors, served.norm)
                there = int(self._client.hget(keys.of(number, "manifest"), "items") or 0)
                _, *effort = index_effort(there)
                opening = [*fence, *effort, QUANTIZATIONS[quantized]]
                calls = refresh_index_calls(keys, number, items, rows, opening)
                self._calls.run_many(scripts.REFRESH_INDEX, number, calls)
        self._feast.refreshed(number, "item", items.ids)

    def _run(self, lua: str, number: int, calls: Callable[[], Iterator[Call]]) -> None:
        """Run calls in the parts, again where a part has not followed a switch."""
        try:
            self._calls.run_many(lua, number, calls())
        except NotCurrentError:
            if not self._keys.is_spread or not self.is_served(number):
                raise
            self._parts.follow(number)
            self._calls.run_many(lua, number, calls())

    def is_served(self, number: int) -> bool:
        """Whether readers are given this generation."""
        with redis_errors(self._client, f"looking whether generation {number} is served"):
            pipe = self._client.pipeline(transaction=False)
            pipe.hget(self._keys.current, "gen")
            pipe.hget(self._keys.of(number, "manifest"), "status")
            gen, status = pipe.execute()
        return int(gen or 0) == number and status == LIVE.encode()

    def _form_of(self, number: int, vectors: Vectors, side: str) -> tuple[str, str]:
        """How a generation writes vectors, and those of its vector set; others are refused."""
        fields = ["dim", "vectors", "index_vectors"]
        told = cast("list[bytes | None]", self._client.hmget(self._keys.of(number, "manifest"), fields))
        dim, form, quantized = int(told[0] or 0), *((text or b"").decode() or FLOAT32 for text in told[1:])
        check(vectors, side, form)
        if dim not in (0, vectors.vectors.shape[1]):  # 0: no such generation, as the script tells
            raise ValueError(f"generation {number} has {dim} dimensions, got {vectors.vectors.shape[1]}")
        return form, quantized

    def _with_known_attributes(self, number: int, items: Vectors) -> Vectors:
        """Items with attributes only if the generation has the same fields: another process made it."""
        if items.attributes is None:
            return items
        told = cast("bytes | None", self._client.hget(self._keys.of(number, "manifest"), "attributes"))
        if told == msgspec.json.encode(items.attributes.names):
            return items
        return replace(items, attributes=None)

    def _written_into(self, number: int) -> tuple[Served, str]:
        """What is known of a generation, and the token that opens it while it is not served yet."""
        building = self._record.building
        if building.number == number:
            return building, building.token
        return self._record.served, ""
