"""Newer vectors for a generation that is there: of users and items that events have touched since.

    Refresher ──► [Refreshes] ──► the served generation, or one that is verified and about to be served

A refresh changes no generation but the one that it names, since its vectors are of that generation's model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, cast

import msgspec
import redis

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.check import Record, Served
from driftgraph.snapshots.generations.delisting import Delisting
from driftgraph.snapshots.generations.keys import LIVE, Keys, redis_errors
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.vectors import Vectors, check, chunks, hash_args, of_length

HASHES_PER_SCRIPT: Final = 100  # about 0.3 ms of Redis: other clients wait no longer than that
USERS_PER_LOOK: Final = 500  # lists of 2 kB that one answer has
ITEMS_PER_SCRIPT: Final = 8  # adding to a vector set takes 0.05 to 0.5 ms an item
ARGS: Final = 7  # of ``hash_args``, for each id

# Up to here readers search the vector set exactly (VSIM … TRUTH: 3 ms at 20,000 items of 64 dims, 10 ms at
# 60,000), which needs no graph, and the graph is built with the least effort: 21,000 items/s. Beyond, it is
# built well, at 3,500 items/s and less, and searched with EF 500.
EXACT_ITEMS_MAX = 100_000
EXACT, GRAPH = (4, 8), (200, 16)  # EF, M


def effort_for(items: int) -> tuple[int, int]:
    """EF and M of a vector set of so many items."""
    return EXACT if items <= EXACT_ITEMS_MAX else GRAPH


class Refreshes:
    """What one thread writes between two publishes. Every method raises StoreError."""

    def __init__(
        self, client: redis.Redis, keys: Keys, calls: Scripts, record: Record, delisting: Delisting
    ) -> None:
        self._client, self._keys, self._calls, self._record = client, keys, calls, record
        self._delisting = delisting

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
        head = [keys.current, keys.of(number, "user-ids"), keys.of(number, "manifest")]
        calls = (
            (
                [*head, *(keys.user(number, i) for i in users.ids[first:stop])],
                # the last chunk writes the mark, so the mark tells that the whole refresh is there
                [
                    self._calls.epoch,
                    number,
                    token,
                    mark + (stop == len(users)),
                    *hash_args(users, first, stop),
                ],
            )
            for first, stop in chunks(len(users), HASHES_PER_SCRIPT)
        )
        with redis_errors(self._client, f"refreshing generation {number}"):
            self._check_dim(number, users)
            self._calls.run_many(scripts.REFRESH, number, calls)
        if number == served.number:
            served.mark = mark + 1

    def items(self, number: int, items: Vectors) -> None:
        """As ``users``, for items, and into the vector set; an item keeps its list where there is no new one.

        New items are added to the generation.
        """
        check(items, "item")
        items = self._delisting.items_without(items, self._delisting.newest()[1])
        if not len(items):
            return
        keys, (served, token) = self._keys, self._written_into(number)
        head = [keys.current, *(keys.of(number, kind) for kind in ("item-ids", "manifest", "items"))]
        indexed = number == served.number and served.indexed and served.norm > 0
        rows = of_length(items.vectors, served.norm) if indexed else None

        def args(first: int, stop: int) -> Iterator[Any]:
            flat = list(hash_args(items, first, stop))
            for n in range(first, stop):
                at = ARGS * (n - first)
                yield from (*flat[at : at + ARGS], "" if rows is None else rows[n].tobytes())

        with redis_errors(self._client, f"refreshing items of generation {number}"):
            self._check_dim(number, items)
            effort = effort_for(self._client.llen(head[1]))
            calls: Iterator[tuple[Sequence[str], Sequence[Any]]] = (
                (
                    [*head, *(keys.item(number, i) for i in items.ids[first:stop])],
                    [self._calls.epoch, number, token, *effort, *args(first, stop)],
                )
                for first, stop in chunks(len(items), ITEMS_PER_SCRIPT)
            )
            self._calls.run_many(scripts.REFRESH_ITEMS, number, calls)

    def users_with(self, number: int, items: Collection[str]) -> list[str]:
        """The users of a generation whose list may have one of these items. It reads all of their lists."""
        quoted = [msgspec.json.encode(item) for item in items]
        found, first = list[str](), 0
        name = self._keys.of(number, "user-ids")
        with redis_errors(self._client, f"looking for lists of generation {number}"):
            while ids := cast("list[bytes]", self._client.lrange(name, first, first + USERS_PER_LOOK - 1)):
                pipe = self._client.pipeline(transaction=False)
                for user in ids:
                    pipe.hget(self._keys.user(number, user.decode()), "list")
                for user, listed in zip(ids, pipe.execute(), strict=True):
                    if listed and any(one in listed for one in quoted):
                        found.append(user.decode())
                first += len(ids)
        return found

    def is_served(self, number: int) -> bool:
        """Whether readers are given this generation."""
        with redis_errors(self._client, f"looking whether generation {number} is served"):
            pipe = self._client.pipeline(transaction=False)
            pipe.hget(self._keys.current, "gen")
            pipe.hget(self._keys.of(number, "manifest"), "status")
            gen, status = pipe.execute()
        return int(gen or 0) == number and status == LIVE.encode()

    def _check_dim(self, number: int, vectors: Vectors) -> None:
        dim = int(cast("bytes | None", self._client.hget(self._keys.of(number, "manifest"), "dim")) or 0)
        if dim not in (0, vectors.vectors.shape[1]):  # 0: no such generation, as the script tells
            raise ValueError(f"generation {number} has {dim} dimensions, got {vectors.vectors.shape[1]}")

    def _written_into(self, number: int) -> tuple[Served, str]:
        """What is known of a generation, and the token that opens it while it is not served yet."""
        building = self._record.building
        if building.number == number:
            return building, building.token
        return self._record.served, ""
