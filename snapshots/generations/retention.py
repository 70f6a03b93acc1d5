"""Which generations exist, how long they stay, and how one is removed: by its own lists, never by SCAN.

    GenerationStore ──► [GenerationKeys] ──► Redis

A generation is in ``generations`` before it has a key and until it has none. One script takes it out of use,
then its keys are removed. The status of its manifest, or ``keys_expire`` in it, tells if that was
interrupted; the next call finishes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import redis

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.keys import LIVE, Keys
from driftgraph.snapshots.generations.scripts import Scripts

IDS_PER_CALL = 500  # bounds one answer, and how long a chunk of expiries or removals blocks Redis


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that Redis can serve, as its manifest describes it."""

    number: int
    current: bool
    manifest: Mapping[str, str]


class GenerationKeys:
    """Reads and tends the keys of all generations of a namespace. Raises what redis-py raises."""

    def __init__(self, client: redis.Redis, keys: Keys, calls: Scripts, epoch: int) -> None:
        self._client = client
        self._keys = keys
        self._calls = calls
        self._epoch = epoch

    def current(self) -> tuple[int, int]:
        """(served, the one to go back to); 0 for none."""
        found = cast("list[bytes | None]", self._client.hmget(self._keys.current, ["gen", "previous"]))
        return int(found[0] or 0), int(found[1] or 0)

    def known(self) -> list[int]:
        """Generations that have keys, in any state, ascending."""
        return [int(n) for n in cast("list[bytes]", self._client.zrange(self._keys.generations, 0, -1))]

    def live(self) -> list[int]:
        """Generations that can be served, ascending; none that is being written or removed or has run out."""
        numbers, pipe = self.known(), self._client.pipeline(transaction=False)
        for number in numbers:
            pipe.hget(self._keys.of(number, "manifest"), "status")
        return [n for n, status in zip(numbers, pipe.execute(), strict=True) if status == LIVE.encode()]

    def manifest(self, number: int) -> dict[str, str]:
        """The manifest as text; empty if there is none."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.of(number, "manifest")))
        return {k.decode(): v.decode() for k, v in found.items()}

    def missing(self, number: int) -> int:
        """How many keys of a generation are missing, by its lists and its manifest."""
        told, missing = self.manifest(number), 0
        for kind, entity in (("user", self._keys.user), ("item", self._keys.item)):
            name, first = self._keys.of(number, f"{kind}-ids"), 0
            missing += max(0, int(told.get(f"{kind}s", 0)) - self._client.llen(name))
            while ids := cast("list[bytes]", self._client.lrange(name, first, first + IDS_PER_CALL - 1)):
                missing += len(ids) - self._client.exists(*(entity(number, i.decode()) for i in ids))
                first += len(ids)
        is_indexed = told.get("index", "none") != "none"
        return missing + (is_indexed and not self._client.exists(self._keys.of(number, "items")))

    def count(self) -> dict[str, int]:
        """How many keys of each kind exist, by lists and manifests; the sum is all keys of the namespace."""
        counts = dict.fromkeys(["user", "item", "index", "manifest", "id_list", "trending", "pointer"], 0)
        keys, pipe = self._keys, self._client.pipeline(transaction=False)
        for number in self.known():
            pipe.llen(keys.of(number, "user-ids"))
            pipe.llen(keys.of(number, "item-ids"))
            pipe.exists(keys.of(number, "items"))
            pipe.exists(keys.of(number, "manifest"))
            pipe.exists(keys.of(number, "user-ids"), keys.of(number, "item-ids"))
            for kind, n in zip(("user", "item", "index", "manifest", "id_list"), pipe.execute(), strict=True):
                counts[kind] += n
        behaviors = cast("set[bytes]", self._client.smembers(keys.trending_behaviors))
        names = [
            keys.trending_behaviors,
            keys.trending_owner,
            *(keys.trending(b.decode()) for b in behaviors),
        ]
        counts["trending"] = self._client.exists(*names)
        counts["pointer"] = self._client.exists(keys.current, keys.generations, keys.delisted)
        return counts

    def settle_ttls(self, ttl_s: int) -> None:
        """Give every generation except the served one a TTL, and remove it from the served one.

        Each chunk is checked against ``current``, so that a switch by another process meanwhile cannot leave
        the served generation with a TTL.
        """
        current, _ = self.current()
        for number in self.live():
            manifest = self._keys.of(number, "manifest")
            want = "no" if number == current else "yes"
            if self._client.hget(manifest, "keys_expire") == want.encode():
                continue
            number_and_ttl = [number, 0 if number == current else ttl_s]
            changes = ((chunk, "changing") for chunk in self._all_of(number))
            for chunk, note in itertools.chain(changes, [(list[str](), want)]):
                names = [self._keys.current, manifest, *chunk]
                answer = self._calls.run(scripts.SET_TTL, names, [*number_and_ttl, note])
                if answer == ["moved"]:
                    return  # another process has switched, and settles the TTLs
                self._calls.refuse(answer, number)

    def remove_oldest(self, keep: int) -> None:
        """Remove all live generations but the newest ``keep``, the served one and the one to go back to."""
        numbers = self.live()
        kept = {*numbers[-keep:], *self.current()}
        for number in numbers:
            if number not in kept:
                self._remove(number)

    def remove_unfinished(self) -> int:
        """Remove generations that were interrupted in a publish or removal, or ran out; return how many."""
        numbers = sorted({*self.known()} - {*self.live()})
        for number in numbers:
            self._remove(number)
        return len(numbers)

    def _all_of(self, number: int) -> Iterator[list[str]]:
        """Every key of a generation, in chunks.

        The lists and the manifest come first: with a TTL they run out before the keys that they name. A
        rollback is refused then, and does not lead to a generation with missing keys.
        """
        yield [self._keys.of(number, kind) for kind in ("user-ids", "item-ids", "manifest", "items")]
        for kind, entity in (("user", self._keys.user), ("item", self._keys.item)):
            name, first = self._keys.of(number, f"{kind}-ids"), 0
            while ids := cast("list[bytes]", self._client.lrange(name, first, first + IDS_PER_CALL - 1)):
                yield [entity(number, i.decode()) for i in ids]
                first += len(ids)

    def _remove(self, number: int) -> None:
        """Take a generation out of use, then unlink its keys. The served generation is left alone."""
        keys = self._keys
        names = [keys.current, keys.of(number, "manifest")]
        answer = self._calls.run(scripts.RETIRE, names, [self._epoch, number])
        if answer == ["served"]:
            return
        self._calls.refuse(answer, number)
        for kind, entity in (("user", keys.user), ("item", keys.item)):
            name = keys.of(number, f"{kind}-ids")
            while ids := cast("list[bytes]", self._client.lrange(name, -IDS_PER_CALL, -1)):
                pipe = self._client.pipeline(transaction=True)  # an id and its key go together
                pipe.unlink(*(entity(number, i.decode()) for i in ids))
                pipe.ltrim(name, 0, -len(ids) - 1)
                pipe.execute()
        pipe = self._client.pipeline(transaction=True)
        pipe.unlink(*(keys.of(number, kind) for kind in ("items", "user-ids", "item-ids", "manifest")))
        pipe.zrem(keys.generations, str(number))
        pipe.execute()
