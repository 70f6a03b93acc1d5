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
from driftgraph.snapshots.generations.feast import feast_keys
from driftgraph.snapshots.generations.keys import LIVE, Keys, Part
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
        """Generations that have keys, in any state, ascending; also those that only a part still has."""
        pipe, found = self._client.pipeline(transaction=False), set[int]()
        for home in self._keys.homes:
            pipe.zrange(home.generations, 0, -1)
        for numbers in cast("list[list[bytes]]", pipe.execute()):
            found.update(map(int, numbers))
        return sorted(found)

    def live(self) -> list[int]:
        """Generations that can be served, ascending; none that is being written or removed or has run out."""
        numbers, pipe = self.known(), self._client.pipeline(transaction=False)
        for number in numbers:
            pipe.hget(self._keys.of(number, "manifest"), "status")
        return [n for n, status in zip(numbers, pipe.execute(), strict=True) if status == LIVE.encode()]

    def manifest(self, number: int) -> dict[str, str]:
        """The manifest as text; empty if there is none."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.of(number, "manifest")))
        manifest = {k.decode(): v.decode() for k, v in found.items()}
        if (
            self._keys.is_spread and manifest.get("status") == LIVE
        ):  # refreshes and erasures count in the parts
            pipe = self._client.pipeline(transaction=False)
            for part in self._keys.parts:
                pipe.hmget(part.of(number, "manifest"), "users", "items")
            counts = cast("list[list[bytes | None]]", pipe.execute())
            for place, side in enumerate(("users", "items")):
                manifest[side] = str(sum(int(of_part[place] or 0) for of_part in counts))
        return manifest

    def must_have(self, number: int) -> list[str]:
        """The two keys that a generation to go back to must have beside its manifest.

        The id lists run out before the keys that they name. In a Cluster no script can look at those of every
        part; there the manifest stands for them, and is missing if a part's is.
        """
        keys = self._keys
        if not keys.is_spread:
            return [keys.of(number, "user-ids"), keys.of(number, "item-ids")]
        pipe = self._client.pipeline(transaction=False)
        for part in keys.parts:
            pipe.hget(part.of(number, "manifest"), "status")
        is_whole = all(status == LIVE.encode() for status in pipe.execute())
        return [keys.of(number, "manifest") if is_whole else keys.of(number, "user-ids")] * 2

    def missing(self, number: int) -> int:
        """How many keys of a generation are missing, by its lists and its manifest."""
        index = cast("bytes | None", self._client.hget(self._keys.of(number, "manifest"), "index"))
        is_indexed = (index or b"none") != b"none"
        missing = int(is_indexed and not self._client.exists(self._keys.of(number, "items")))
        for part in self._keys.parts:
            told = self._client.hmget(part.of(number, "manifest"), "users", "items")
            counts = cast("list[bytes | None]", told)
            missing += counts[0] is None
            for kind, entity, count in zip(("user", "item"), (part.user, part.item), counts, strict=True):
                name, first = part.of(number, f"{kind}-ids"), 0
                missing += max(0, int(count or 0) - self._client.llen(name))
                while ids := cast("list[bytes]", self._client.lrange(name, first, first + IDS_PER_CALL - 1)):
                    missing += len(ids) - self._client.exists(*(entity(number, i.decode()) for i in ids))
                    first += len(ids)
        return missing

    def count(self) -> dict[str, int]:
        """How many keys of each kind exist, by lists and manifests; the sum is all keys of the namespace."""
        counts = dict.fromkeys(["user", "item", "index", "manifest", "id_list", "trending", "pointer"], 0)
        keys, pipe, kinds = self._keys, self._client.pipeline(transaction=False), list[str]()
        for home in keys.homes:
            pipe.exists(home.current)
            pipe.exists(home.generations)
            kinds += ["pointer", "pointer"]
        for number, home in itertools.product(self.known(), keys.homes):
            pipe.llen(home.of(number, "user-ids"))
            pipe.llen(home.of(number, "item-ids"))
            for kind in ("items", "manifest", "user-ids", "item-ids"):
                pipe.exists(home.of(number, kind))
            kinds += ["user", "item", "index", "manifest", "id_list", "id_list"]
        behaviors = cast("set[bytes]", self._client.smembers(keys.trending_behaviors))
        for name in (
            keys.trending_behaviors,
            keys.trending_owner,
            *(keys.trending(b.decode()) for b in behaviors),
            keys.delisted,
            keys.delisted_by_topic,
            *feast_keys(keys),
        ):
            pipe.exists(name)
            kinds.append("trending" if name.startswith(keys.trending_behaviors) else "pointer")
        for kind, n in zip(kinds, pipe.execute(), strict=True):
            counts[kind] += n
        return counts

    def settle_ttls(self, ttl_s: int) -> None:
        """Give every generation except the served one a TTL, and remove it from the served one.

        Each chunk is checked against ``current``, so that a switch by another process meanwhile cannot leave
        the served generation with a TTL.
        """
        current, _ = self.current()
        for number in self.live():
            want, pipe = "no" if number == current else "yes", self._client.pipeline(transaction=False)
            for home in self._keys.homes:
                pipe.hget(home.of(number, "manifest"), "keys_expire")
            for home, noted in zip(self._keys.homes, pipe.execute(), strict=True):
                if noted != want.encode():
                    self._settle_ttl(home, number, 0 if number == current else ttl_s, want)

    def _settle_ttl(self, home: Part, number: int, ttl_s: int, want: str) -> None:
        changes = ((chunk, "changing") for chunk in self._all_of(home, number))
        for chunk, note in itertools.chain(changes, [(list[str](), want)]):
            names = [home.current, home.of(number, "manifest"), *chunk]
            answer = self._calls.run(scripts.SET_TTL, names, [number, ttl_s, note])
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

    def _all_of(self, home: Part, number: int) -> Iterator[list[str]]:
        """Every key of a generation with one prefix, in chunks.

        The lists and the manifest come first: with a TTL they run out before the keys that they name. A
        rollback is refused then, and does not lead to a generation with missing keys.
        """
        yield [home.of(number, kind) for kind in ("user-ids", "item-ids", "manifest", "items")]
        for kind, entity in (("user", home.user), ("item", home.item)):
            name, first = home.of(number, f"{kind}-ids"), 0
            while ids := cast("list[bytes]", self._client.lrange(name, first, first + IDS_PER_CALL - 1)):
                yield [entity(number, i.decode()) for i in ids]
                first += len(ids)

    def _remove(self, number: int) -> None:
        """Take a generation out of use, then unlink its keys. The served generation is left alone."""
        names = [self._keys.current, self._keys.of(number, "manifest")]
        answer = self._calls.run(scripts.RETIRE, names, [self._epoch, number])
        if answer == ["served"]:
            return
        self._calls.refuse(answer, number)
        for home in reversed(
            self._keys.homes
        ):  # the namespace comes last: until then it names the generation
            if home is not self._keys:
                self._retire_in(home, number)
            self._unlink(home, number)

    def _retire_in(self, part: Part, number: int) -> None:
        """Take a generation out of use in a part, also where the part has not followed the last switch."""
        names = [part.current, part.of(number, "manifest")]
        answer = self._calls.run(scripts.RETIRE, names, [self._epoch, number])
        if answer == ["served"]:
            served, _ = self.current()
            following = [part.current, part.of(served, "manifest")]
            self._calls.run_or_refuse(scripts.FOLLOW, number, following, [self._epoch, served])
            answer = self._calls.run(scripts.RETIRE, names, [self._epoch, number])
        self._calls.refuse(answer, number)

    def _unlink(self, home: Part, number: int) -> None:
        for kind, entity in (("user", home.user), ("item", home.item)):
            name = home.of(number, f"{kind}-ids")
            while ids := cast("list[bytes]", self._client.lrange(name, -IDS_PER_CALL, -1)):
                pipe = self._client.pipeline(transaction=True)  # an id and its key go together
                pipe.unlink(*(entity(number, i.decode()) for i in ids))
                pipe.ltrim(name, 0, -len(ids) - 1)
                pipe.execute()
        pipe = self._client.pipeline(transaction=True)
        pipe.unlink(*(home.of(number, kind) for kind in ("items", "user-ids", "item-ids", "manifest")))
        pipe.zrem(home.generations, str(number))
        pipe.execute()
