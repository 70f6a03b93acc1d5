"""Publish generations of embeddings to Redis so that a reader sees one generation, never a mixture.

    Trainer ──► gate ──► [GenerationStore] ──► Redis ──► EmbeddingReader, any service

The keys are listed in redis_schema.py, the atomic steps in publish_scripts.py, what becomes of older
generations in generation_keys.py.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import numpy as np
import redis

from driftgraph.app import publish_scripts as scripts
from driftgraph.app.generation_keys import GenerationKeys
from driftgraph.app.lease import LeaseOwner
from driftgraph.app.publish_scripts import Scripts
from driftgraph.app.redis_schema import (
    LIVE,
    Keys,
    NothingToRollBackError,
    StaleWorkerError,
    StoreError,
    VerifyError,
    redis_errors,
    require_binary,
)
from driftgraph.app.vectors import Vectors, check, chunks, hash_args, one_length

KEEP_MIN = 2  # the served generation and one to go back to
TTL_S = 7 * 86_400  # of generations not served: long, since it is also how long a rollback is possible
HASHES_PER_SCRIPT = 100  # about 0.3 ms of Redis: other clients wait no longer than that
ITEMS_PER_INDEX_SCRIPT = 8  # adding to a vector set takes 0.05 to 0.5 ms an item
SAMPLE = 256  # vectors of each side read back and compared bit for bit
TRENDING_MAX = 1_000  # items of a behavior; a reader asks for tens

# Up to here readers search the vector set exactly (VSIM … TRUTH: 3 ms at 20,000 items of 64 dims, 10 ms at
# 60,000), which needs no graph, and the graph is built with the least effort: 21,000 items/s. Beyond, it is
# built well, at 3,500 items/s and less, and searched with EF 500.
EXACT_ITEMS_MAX = 100_000
EXACT_EF, EXACT_M = 4, 8
GRAPH_EF, GRAPH_M = 200, 16

OWN_FIELDS = frozenset(
    {"users", "items", "dim", "index", "status", "parent", "published_ms"}  # told to readers
    | {"token", "digest", "epoch", "keys_expire"}
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that Redis can serve, as its manifest describes it."""

    number: int
    current: bool
    manifest: Mapping[str, str]


def read_epoch(client: redis.Redis, namespace: str) -> int:
    """The fencing epoch in force, for an operator's command, which acts beside the worker."""
    with redis_errors(client, "reading the epoch"):
        return int(cast("bytes | None", client.hget(Keys(namespace).current, "epoch")) or 0)


def raise_epoch(client: redis.Redis, namespace: str, owner: LeaseOwner) -> int:
    """The fencing epoch, one higher than before, for the worker of the updater that holds the lease.

    Raises:
        StaleWorkerError: Another updater holds it.
        StoreError: Nobody does just now, or Redis does not answer; try again.
    """
    keys = Keys(namespace)
    with redis_errors(client, "raising the epoch"):
        script = client.register_script(scripts.FENCE)
        answer = [part.decode() for part in script([keys.current, keys.lease(owner.name)], [owner.token])]
    match answer:
        case ["ok", epoch]:
            return int(epoch)
        case ["other_lease", pid]:
            raise StaleWorkerError(
                f"the updater with pid {pid} has taken over the lease of {owner.name!r}, "
                "so this worker must stop"
            )
        case _:
            raise StoreError(f"nobody has the lease of {owner.name!r} just now, so nothing is published")


class GenerationStore:
    """The writing side: publishes, refreshes, rolls back and removes generations of one namespace.

    Always true, whatever dies at whatever point:
      * ``current`` names a generation all of whose keys are there and verified, or nothing;
      * an epoch older than the newest seen changes nothing;
      * every key belongs to a generation that ``generations`` names, so none is ever lost.

    One thread uses it. Every method raises StoreError, within about ten seconds on a client of ``connect``.
    """

    def __init__(
        self, client: redis.Redis, *, namespace: str, epoch: int, keep: int = 3, ttl_s: int = TTL_S
    ) -> None:
        if keep < KEEP_MIN:
            raise ValueError(
                f"keep must be at least {KEEP_MIN}, one to serve and one to go back to, got {keep}"
            )
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, got {ttl_s}")
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        require_binary(client)
        self.epoch = epoch
        self.keep = keep
        self.ttl_s = ttl_s
        self._client = client
        self._keys = Keys(namespace)
        self._calls = Scripts(client, epoch)
        self._tended = GenerationKeys(client, self._keys, self._calls, epoch)
        self._has_vector_sets: bool | None = None  # asked once, at the first publish

    # --- publish ---------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """The smallest number above every generation there is, finished or not."""
        with redis_errors(self._client, "reading the generations"):
            return max([0, *self._tended.known()]) + 1

    def publish(
        self, number: int, users: Vectors, items: Vectors, manifest: Mapping[str, str | int | float]
    ) -> None:
        """Write a generation and make it the served one. The order of the commit:

        1. check the vectors; nothing is written before they are sound
        2. remove what a killed publish left, and mark ``number`` as being built, by this attempt
        3. write ids and hashes, then the vector set; each script checks the mark
        4. write the manifest
        5. verify: count every key, read a sample back bit for bit, count the vector set
        6. one script: check epoch and mark, declare it live, switch ``current``, notify
        7. set the TTL of the generation that is no longer served; remove those beyond ``keep``

        Before 6 readers see the old generation whole, after it the new one. A failure in 7 is logged and made
        good by the next publish or ``clean_up``. Publishing the same content under the same number again
        changes nothing, so a caller who does not know how a publish ended tries again.

        Raises:
            ValueError: The vectors or the manifest are not sound; nothing was written.
            StoreError: Not switched (or, after a lost answer, perhaps switched: try again).
        """
        own = self._own_fields(users, items, manifest)
        token = f"{self.epoch}:{uuid.uuid4().hex}"
        keys = self._keys
        with redis_errors(self._client, f"publishing generation {number}"):
            there = self._tended.manifest(number)
            if (there.get("status"), there.get("digest")) == (LIVE, own["digest"]):
                return
            self._calls.run_or_refuse(scripts.CLAIM, number, [keys.current], [self.epoch])
            self._tended.remove_unfinished()
            names = [keys.current, keys.generations, keys.of(number, "manifest")]
            self._calls.run_or_refuse(scripts.BEGIN, number, names, [self.epoch, number, token])
            self._write(number, token, "user", users)
            self._write(number, token, "item", items)
            own["index"] = self._build_index(number, token, items)
            fields = [part for pair in {**manifest, **own}.items() for part in pair]
            self._calls.run_or_refuse(scripts.DESCRIBE, number, names[2:], [token, *fields])
            self._verify(number, users, items, indexed=own["index"] != "none")
            names = [keys.current, keys.of(number, "manifest")]
            self._calls.run_or_refuse(scripts.SWITCH, number, names, [self.epoch, number, token, keys.events])
        try:
            with redis_errors(self._client, f"tidying after generation {number}"):
                self._tidy()
        except StoreError as error:
            log.warning("generation %d is served, but older ones are not tidied yet: %s", number, error)

    def _own_fields(
        self, users: Vectors, items: Vectors, manifest: Mapping[str, str | int | float]
    ) -> dict[str, str | int | float]:
        """Check all input and give the fields of the manifest that are ours to write."""
        check(users, "user")
        check(items, "item")
        if not len(users) or not len(items):
            raise ValueError(f"a generation needs users and items, got {len(users)} and {len(items)}")
        dim, item_dim = users.vectors.shape[1], items.vectors.shape[1]
        if dim != item_dim or dim == 0:
            raise ValueError(
                f"users have {dim} dimensions and items {item_dim}; they must agree and be at least 1"
            )
        if taken := OWN_FIELDS.intersection(manifest):
            raise ValueError(f"manifest field {min(taken)!r} is the store's own; choose another name")
        digest = hashlib.sha256()
        for side in (users, items):
            digest.update(msgspec.json.encode((side.ids, side.event_ms.tolist(), side.touched)))
            digest.update(side.vectors.tobytes())
        own = {"users": len(users), "items": len(items), "dim": dim, "epoch": self.epoch}
        return {**own, "digest": digest.hexdigest(), "keys_expire": "no"}

    def _write(self, number: int, token: str, kind: str, vectors: Vectors) -> None:
        """Step 3, hashes: an id is in the list before the key that it names."""
        entity = self._keys.user if kind == "user" else self._keys.item
        head = [self._keys.of(number, "manifest"), self._keys.of(number, f"{kind}-ids")]
        calls = (
            (
                [*head, *(entity(number, i) for i in vectors.ids[first:stop])],
                [number, token, first, *hash_args(vectors, first, stop)],
            )
            for first, stop in chunks(len(vectors), HASHES_PER_SCRIPT)
        )
        self._calls.run_many(scripts.WRITE, number, calls)

    def _build_index(self, number: int, token: str, items: Vectors) -> str:
        """Step 3, vector set; gives how it is to be searched: ``exact``, ``graph`` or ``none``."""
        if self._has_vector_sets is None:
            # In one word, or redis-py parses the answer and fails on a command that the server lacks.
            known = cast("list[Any]", self._client.execute_command("COMMAND INFO", "VADD"))  # type: ignore[no-untyped-call]
            self._has_vector_sets = bool(known and known[0])
        if not self._has_vector_sets:
            return "none"
        exact = len(items) <= EXACT_ITEMS_MAX
        head = [token, *((EXACT_EF, EXACT_M) if exact else (GRAPH_EF, GRAPH_M))]
        keys = [self._keys.of(number, "manifest"), self._keys.of(number, "items")]
        rows = one_length(items.vectors)
        calls = (
            (keys, [*head, *(part for n in range(first, stop) for part in (items.ids[n], rows[n].tobytes()))])
            for first, stop in chunks(len(items), ITEMS_PER_INDEX_SCRIPT)
        )
        self._calls.run_many(scripts.INDEX, number, calls)
        return "exact" if exact else "graph"

    def _verify(self, number: int, users: Vectors, items: Vectors, *, indexed: bool) -> None:
        """Step 5: is what Redis holds what we meant?"""
        sides = (("user", self._keys.user, users), ("item", self._keys.item, items))
        for kind, entity, vectors in sides:
            listed = self._client.llen(self._keys.of(number, f"{kind}-ids"))
            pipe = self._client.pipeline(transaction=False)
            for first, stop in chunks(len(vectors), 1_000):
                pipe.exists(*(entity(number, i) for i in vectors.ids[first:stop]))
            there = sum(pipe.execute())
            if (listed, there) != (len(vectors), len(vectors)):
                raise VerifyError(
                    f"generation {number} has {there} {kind} keys and lists {listed}, "
                    f"where {len(vectors)} were written; is Redis evicting keys? "
                    "Set its maxmemory-policy to noeviction or volatile-ttl"
                )
            places = np.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors)))
            sample = [int(place) for place in places]
            for n in sample:
                pipe.hget(entity(number, vectors.ids[n]), "embedding")
            for n, blob in zip(sample, pipe.execute(), strict=True):
                if blob != vectors.vectors[n].astype("<f4").tobytes():
                    raise VerifyError(
                        f"{kind} {vectors.ids[n]!r} of generation {number} reads back different"
                    )
        if indexed:
            count = self._client.execute_command("VCARD", self._keys.of(number, "items"))  # type: ignore[no-untyped-call]
            if count != len(items):
                raise VerifyError(f"the vector set of generation {number} has {count} of {len(items)} items")

    # --- between publishes -----------------------------------------------------------------------------

    def refresh(self, number: int, users: Vectors) -> None:
        """Write newer user vectors, made by the model of generation ``number``, into that generation.

        Users it did not have are added. ``touched`` is left as it was where it is None. Each user is written
        whole, and 100 users at a time.

        Raises:
            ValueError: The vectors are not sound or of another dimension; nothing was written.
            NotCurrentError: Another generation is served by now; embed again with its model.
        """
        check(users, "user")
        if not len(users):
            return
        keys = self._keys
        with redis_errors(self._client, f"refreshing generation {number}"):
            dim = int(cast("bytes | None", self._client.hget(keys.of(number, "manifest"), "dim")) or 0)
            if dim not in (0, users.vectors.shape[1]):  # 0: no such generation, which the script will say
                raise ValueError(f"generation {number} has {dim} dimensions, got {users.vectors.shape[1]}")
            head = [keys.current, keys.of(number, "user-ids"), keys.of(number, "manifest")]
            calls = (
                (
                    [*head, *(keys.user(number, i) for i in users.ids[first:stop])],
                    [self.epoch, number, *hash_args(users, first, stop)],
                )
                for first, stop in chunks(len(users), HASHES_PER_SCRIPT)
            )
            self._calls.run_many(scripts.REFRESH, number, calls)

    def erase(self, users: Sequence[str], *, live_only: bool = False) -> None:
        """Remove users from every generation that has keys, by one script for each user and generation.

        ``live_only`` leaves one out that is being published, whose publisher counts on what it wrote.
        """
        keys = self._keys
        with redis_errors(self._client, f"erasing {len(users)} users"):
            for number in self._tended.live() if live_only else self._tended.known():
                head = [keys.current, keys.of(number, "manifest"), keys.of(number, "user-ids")]
                calls = (([*head, keys.user(number, user)], [self.epoch, user]) for user in users)
                self._calls.run_many(scripts.ERASE, number, calls)

    def trending(self, behavior: str, scores: Mapping[str, float]) -> None:
        """Replace the list of rising items of a behavior; it runs out after ``ttl_s`` if nobody renews it.

        Raises:
            ValueError: More than ``TRENDING_MAX`` items, or a score that is not finite.
        """
        if len(scores) > TRENDING_MAX:
            raise ValueError(
                f"trending takes at most {TRENDING_MAX} items, got {len(scores)}; send the highest"
            )
        if not np.isfinite(list(scores.values())).all():
            raise ValueError(f"trending scores of {behavior!r} must be finite")
        keys = [self._keys.current, self._keys.trending_behaviors, self._keys.trending(behavior)]
        parts = [part for item, score in scores.items() for part in (float(score), item)]
        with redis_errors(self._client, f"writing what is trending for {behavior!r}"):
            args = [self.epoch, behavior, self.ttl_s, *parts]
            self._calls.run_or_refuse(scripts.TRENDING, 0, keys, args)

    def rollback(self) -> int:
        """Serve the generation before the current one again, by one script; returns its number.

        The one that was left stays until it is among the oldest, and no rollback leads to it. After the
        switch the keys of the served one lose their TTL, and those of the one left get it.

        Raises:
            NothingToRollBackError: There is none, or its keys have run out.
        """
        keys = self._keys
        with redis_errors(self._client, "rolling back"):
            left, target = self._tended.current()
            if not left:
                raise NothingToRollBackError(
                    f"namespace {keys.namespace!r} has no generation; publish one first"
                )
            if not target:
                raise NothingToRollBackError(f"there is no generation before {left} to go back to")
            names = [keys.current, keys.generations, keys.of(target, "manifest")]
            names += [keys.of(target, "user-ids"), keys.of(target, "item-ids")]
            answer = self._calls.run(scripts.ROLL_BACK, names, [self.epoch, left, target, keys.events])
            if answer[0] == "gone":
                raise NothingToRollBackError(
                    f"generation {target}, the one before {left}, is no longer there: its keys have expired "
                    "or are being removed"
                )
            if answer[0] == "moved":
                raise StoreError(
                    f"generation {left} was replaced by {answer[1]} meanwhile; look and try again"
                )
            self._calls.refuse(answer, target)
            self._tended.settle_ttls(self.ttl_s)
        return target

    def clean_up(self) -> int:
        """Remove what a killed publish or removal left, and make the TTLs right; returns generations removed.

        It takes the fence first: call it at the start of a worker, and an older one can write no more.
        """
        with redis_errors(self._client, "cleaning up"):
            self._calls.run_or_refuse(scripts.CLAIM, 0, [self._keys.current], [self.epoch])
            removed = self._tended.remove_unfinished()
            self._tidy()
        return removed

    def _tidy(self) -> None:
        """Step 7."""
        self._tended.settle_ttls(self.ttl_s)
        self._tended.remove_oldest(self.keep)

    # --- what is there ---------------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """Those that can be served, oldest first; one whose keys have run out is not among them."""
        with redis_errors(self._client, "reading the generations"):
            current, _ = self._tended.current()
            return [Generation(n, n == current, self._tended.manifest(n)) for n in self._tended.live()]

    def count_keys(self) -> dict[str, int]:
        """Keys by kind, as the lists and manifests have them: user, item, index, manifest, id_list, …"""
        with redis_errors(self._client, "counting keys"):
            return self._tended.count()
