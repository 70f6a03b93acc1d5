"""Checks that Redis has all that was written: before a switch, and every second after it.

GenerationStore ──► [verify] ──► switch ──► [Served.standing], every second ──► fine, or published again
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import numpy as np
import redis

from driftgraph.snapshots.generations.choice import Choice
from driftgraph.snapshots.generations.keys import LIST_FIELDS, LIVE, Keys, Part, VerifyError
from driftgraph.snapshots.generations.vector_forms import encoded
from driftgraph.snapshots.generations.vectors import NO_LIST, Vectors, chunks
from driftgraph.snapshots.generations.wire import Command, Wire, packed

SAMPLE = 256  # vectors of each side read back and compared bit for bit
COUNTED_AT_ONCE = 1_000  # keys: about 0.5 ms of Redis
LOOKED_AT = 64  # hashes of each side that one check looks at, at a random place


class Standing(StrEnum):
    """The state of a generation since it was published."""

    SERVED = "served"
    CHOSEN = "chosen"  # an operator has chosen what is served, and the worker does not follow that yet
    LOST = "lost"  # Redis has forgotten it or its refreshes, by itself
    DAMAGED = "damaged"  # Redis serves it, but keys are missing


def verify(
    client: redis.Redis, keys: Keys, number: int, users: Vectors, items: Vectors, *, form: str, indexed: bool
) -> None:
    """Compare Redis with what was written: every key by its presence, a sample bit for bit.

    Raises:
        VerifyError: If they differ.
    """
    wire = Wire(client)
    for kind, entity, vectors in (("user", keys.user, users), ("item", keys.item, items)):
        pipe = client.pipeline(transaction=False)
        for part in keys.parts:
            pipe.llen(part.of(number, f"{kind}-ids"))
        in_list = sum(pipe.execute())
        there = sum(wire.ask(_counting(keys, number, kind, vectors)))
        if (in_list, there) != (len(vectors), len(vectors)):
            raise VerifyError(
                f"generation {number} has {there} {kind} keys and lists {in_list}, "
                f"where {len(vectors)} were written; is Redis evicting keys? "
                "Set its maxmemory-policy to noeviction"
            )
        places = np.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors)))
        sample = [int(place) for place in places]
        blobs = encoded(vectors.vectors[sample], form)
        for n in sample:
            pipe.hmget(entity(number, vectors.ids[n]), ["embedding", *LIST_FIELDS[kind]])
        for n, written, (blob, *lists) in zip(sample, blobs, pipe.execute(), strict=True):
            wanted = NO_LIST if vectors.lists is None else vectors.lists[n]
            is_same_list = tuple(part or b"" for part in lists) == wanted
            if blob != written or not is_same_list:
                raise VerifyError(f"{kind} {vectors.ids[n]!r} of generation {number} reads back different")
    if indexed:
        count = client.execute_command("VCARD", keys.of(number, "items"))  # type: ignore[no-untyped-call]
        if count != len(items):
            raise VerifyError(f"the vector set of generation {number} has {count} of {len(items)} items")


def _counting(keys: Keys, number: int, kind: str, vectors: Vectors) -> Iterator[Command]:
    """Commands that count which keys are there."""
    for part, rows in keys.by_part(vectors.ids):
        entity = part.user if kind == "user" else part.item
        for first, stop in chunks(len(rows), COUNTED_AT_ONCE):
            names = [entity(number, vectors.ids[row]) for row in rows[first:stop]]
            yield Command(names[0], packed("EXISTS", *names))


@dataclass(slots=True)
class Served:
    """The generation that a worker has published or taken up last. ``number`` is 0 before the first.

    ``mark`` has one writer, the thread that refreshes. The thread that publishes replaces the whole.
    """

    number: int = 0
    token: str = ""  # of the attempt that wrote it; another generation of the same number has another token
    mark: int = 0  # of the last refresh that Redis has acknowledged
    indexed: bool = False
    norm: float = 0.0  # of the longest item vector, which ``vectors.one_length`` made all others as long as

    @classmethod
    def of(cls, number: int, manifest: Mapping[str, str]) -> Served:
        """As its manifest tells it, to a store that has not published it."""
        mark, index = int(manifest.get("refreshed", 0)), manifest.get("index", "none")
        norm = float(manifest.get("item_norm", 0))
        return cls(number, manifest.get("token", ""), mark, indexed=index != "none", norm=norm)

    def standing(
        self, client: redis.Redis, keys: Keys, number: int, follows: Choice | None
    ) -> tuple[Standing, int]:
        """The state of generation ``number``, and the fencing epoch. Three round trips, of 140 keys at most.

        Each call looks at a part of the hashes, at another place each time. If Redis evicts a hundredth of
        them, the second call probably finds that out. Of a namespace in braces it looks at one of the parts.
        """
        part, acknowledged = random.choice(keys.parts), self.mark  # before the answer: another thread writes
        pipe = client.pipeline(transaction=True)
        pipe.hmget(keys.current, ["gen", "choice", "epoch"])
        pipe.hmget(keys.of(number, "manifest"), ["status", "token", "refreshed"])
        (gen, choice, epoch), (status, token, mark) = pipe.execute()
        fence = int(epoch or 0)
        if follows is not None and int(choice or 0) > follows.act_ms:
            return Standing.CHOSEN, fence
        is_ours = number != self.number or (token or b"").decode() == self.token
        if int(gen or 0) != number or status != LIVE.encode() or not is_ours:
            return Standing.LOST, fence
        if number == self.number and int(mark or 0) < acknowledged:
            return Standing.LOST, fence
        if keys.is_spread:
            fence = min(fence, int(cast("bytes | None", client.hget(part.current, "epoch")) or 0))
        pipe.hmget(part.of(number, "manifest"), ["token", "users", "items"])
        for kind in ("user", "item"):
            pipe.llen(part.of(number, f"{kind}-ids"))
        (part_token, *counts), *lengths = pipe.execute()
        is_whole = part_token == token and [int(count or 0) for count in counts] == lengths
        if not is_whole or self._has_holes(client, keys, part, number, lengths):
            return Standing.DAMAGED, fence
        return Standing.SERVED, fence

    def _has_holes(
        self, client: redis.Redis, keys: Keys, part: Part, number: int, lengths: Sequence[int]
    ) -> bool:
        """Whether keys are missing: the vector set, or hashes from a random place of each list of a part."""
        kinds = (("user-ids", part.user), ("item-ids", part.item))
        pipe = client.pipeline(transaction=False)
        for (name, _), length in zip(kinds, lengths, strict=True):
            first = random.randrange(max(1, length - LOOKED_AT + 1))
            pipe.lrange(part.of(number, name), first, first + LOOKED_AT - 1)
        slices = cast("list[list[bytes]]", pipe.execute())
        for (name, entity), raw in zip(kinds, slices, strict=True):
            if _is_missing(client, part.of(number, name), number, entity, [i.decode() for i in raw]):
                return True
        is_indexed = number == self.number and self.indexed and lengths[1] > 0
        return is_indexed and not client.exists(keys.of(number, "items"))


@dataclass(slots=True)
class Record:
    """What the stores of one worker know together, each on its thread."""

    served: Served = field(default_factory=Served)
    building: Served = field(default_factory=Served)  # verified, and about to be switched to


def _is_missing(
    client: redis.Redis, ids_key: str, number: int, entity: Callable[[int, str], str], ids: Sequence[str]
) -> bool:
    """Whether the hash of an id is gone. An id that is gone from the list, too, was erased meanwhile."""
    if not ids or client.exists(*(entity(number, i) for i in ids)) == len(ids):
        return False
    return any(not client.exists(entity(number, i)) and client.lpos(ids_key, i) is not None for i in ids)
