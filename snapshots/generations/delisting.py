"""Items that an operator has delisted: out of every list, search and generation until they are relisted.

    driftgraph delist ──► [Delisting] ──► {ns}:delisted, and every live generation
                              └ publish, refresh and lists of rising items leave them out

``{ns}:delisted`` is the set of ids; readers leave its members out. ``delisted_ms`` of ``{ns}:emb:current``
is the number of the newest change, its time. A worker keeps both in a file, and writes them again where
Redis has forgotten them. The manifest of a generation says with which change it agrees.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np
import redis

from driftgraph.snapshots.generations.calls import ITEMS_PER_INDEX_SCRIPT, Call
from driftgraph.snapshots.generations.feast import FeastCopies
from driftgraph.snapshots.generations.keys import LIST_FIELDS, Keys, StoreError, redis_errors
from driftgraph.snapshots.generations.retention import GenerationKeys
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.vectors import Listed, Vectors, chunks
from driftgraph.stream import disk

DELISTED_MAX: Final = 100_000  # ids: what every publish and every reader has to know
LISTS_AT_ONCE: Final = 500
LISTS_PER_LOOK: Final = 2_000  # bounds how long a look of the worker takes: 0.4 s on a busy machine
FIELD: Final = "delisted_ms"  # of ``current`` and of a manifest

log = logging.getLogger(__name__)

# KEYS current, delisted        ARGV change, epoch, then ids
# ``change`` is SADD, SREM, or a number: then the set is what a worker remembers, unless Redis has a newer one
CHANGE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[2]) < epoch then return {'stale', tostring(epoch)} end
local newest = tonumber(redis.call('HGET', KEYS[1], 'delisted_ms') or '0')
local now = redis.call('TIME')
local number = string.format('%.0f', math.max(newest + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
local command = ARGV[1]
if tonumber(command) then
  if newest >= tonumber(command) then return {'ok'} end
  redis.call('DEL', KEYS[2])
  command, number = 'SADD', command
end
redis.call('HSET', KEYS[1], 'delisted_ms', number)
for i = 3, #ARGV do redis.call(command, KEYS[2], ARGV[i]) end
return {'ok'}
"""

# KEYS current, manifest, id list, hash     ARGV epoch, item
# Removes an item from a live generation. O(length of the list), as ERASE.
REMOVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
local listed = redis.call('LREM', KEYS[3], 0, ARGV[2])
redis.call('UNLINK', KEYS[4])
if listed > 0 and redis.call('HEXISTS', KEYS[2], 'items') == 1 then
  redis.call('HINCRBY', KEYS[2], 'items', -listed)
end
return {'ok'}
"""

# KEYS current, vector set     ARGV epoch, then items
# In a Cluster the vector set is in another slot than the hashes. Without the right to VREM it keeps the
# items, and readers leave them out.
REMOVE_FROM_INDEX = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
for i = 2, #ARGV do redis.pcall('VREM', KEYS[2], ARGV[i]) end
return {'ok'}
"""

# KEYS hash     ARGV two fields, the list as it was read, the list and the scores without the items
# A refresh in between has written another list, and that has been made without them.
MEND = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[3] then return {'ok'} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4], ARGV[2], ARGV[5])
return {'ok'}
"""


class DelistError(StoreError):
    """An item cannot be delisted."""


class Delisting:
    """The delisted items of one namespace. Every method raises StoreError."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        calls: Scripts,
        tended: GenerationKeys,
        feast: FeastCopies,
        *,
        epoch: int,
    ) -> None:
        self._client = client
        self._feast = feast
        self._keys = keys
        self._calls = calls
        self._tended = tended
        self._epoch = epoch
        self._file: Path | None = None
        self._at: dict[int, dict[str, int]] = {}  # of a generation, by list of ids: not looked at yet
        self._at_change = 0  # for which these hold

    def keep_in(self, file: Path) -> None:
        """Remember the set in this file, against a Redis that forgets."""
        self._file = file

    def newest(self) -> tuple[int, frozenset[str]]:
        """The number of the newest change, and the items; one round trip."""
        with redis_errors(self._client, "reading which items are delisted"):
            pipe = self._client.pipeline(transaction=True)
            pipe.hget(self._keys.current, FIELD)
            pipe.smembers(self._keys.delisted)
            number, items = pipe.execute()
        return int(number or 0), frozenset(item.decode() for item in items)

    def change(self, items: Sequence[str], what: Literal["SADD", "SREM"]) -> None:
        """Delist or relist items, in one script. Readers, publishes and refreshes follow at once.

        Raises:
            DelistError: There would be more than ``DELISTED_MAX``.
        """
        _, before = self.newest()
        if what == "SADD" and len(before.union(items)) > DELISTED_MAX:
            raise DelistError(
                f"{len(before):,} items are delisted, and at most {DELISTED_MAX:,} can be: relist those that "
                "are gone for good from the events, too"
            )
        with redis_errors(self._client, "delisting items"):
            self._run([what, self._epoch, *items])

    def remove(self, items: Collection[str], *, lists_max: int | None = None) -> int:
        """Take items out of every live generation; returns how many lists were mended.

        First their vectors, the vector set and the rising items, then the lists of users and of similar
        items, the newest first, at most ``lists_max`` of them; the next call goes on behind those.
        """
        mended = 0
        with redis_errors(self._client, "removing delisted items"):
            for number in self._tended.live():
                self._remove_vectors(number, list(items))
            self._feast.gone("item", list(items))
            self._remove_rising(items)
            for number in reversed(self._tended.live()):
                for side in ("user", "item"):
                    found, looked_at = self._mend(number, side, items, lists_max)
                    mended += found
                    if lists_max is not None:
                        lists_max = max(0, lists_max - looked_at)
        return mended

    def look(self) -> None:
        """What the worker does each second: remember the set, restore it, and clean what does not agree."""
        number, items = self.newest()
        known, own = self._read()
        if number < known and own:
            log.warning("Redis has forgotten which items are delisted; they are delisted again")
            with redis_errors(self._client, "delisting items again"):
                self._run([known, self._epoch, *sorted(own)])
            number, items = known, own
        elif number > known:
            self._write(number, items)
        if number:
            self._agree(number, items)

    def _agree(self, number: int, items: frozenset[str]) -> None:
        with redis_errors(self._client, "looking which generations have delisted items"):
            live = self._tended.live()
            pipe = self._client.pipeline(transaction=False)
            for one in live:
                pipe.hget(self._keys.of(one, "manifest"), FIELD)
            marks = [int(mark or 0) for mark in pipe.execute()]
        if all(mark >= number for mark in marks):
            return
        if self._at_change != number:
            self._at, self._at_change = {}, number
        self.remove(items, lists_max=LISTS_PER_LOOK)
        if any(any(self._at.get(one, {}).values()) for one in live):
            return
        with redis_errors(self._client, "noting which generations have no delisted items"):
            for one in live:
                if self._tended.manifest(one):
                    self._client.hset(self._keys.of(one, "manifest"), FIELD, number)

    # --- what is about to be written -------------------------------------------------------------------

    def items_without(self, items: Vectors, delisted: Collection[str]) -> Vectors:
        """The items of a generation without those, and without them in the lists of the others."""
        if not delisted:
            return items
        kept = np.array([i not in delisted for i in items.ids], np.bool_)
        lists = None if items.lists is None else list(compress(items.lists, kept))
        own = replace(
            items,
            ids=list(compress(items.ids, kept)),
            vectors=items.vectors[kept],
            event_ms=items.event_ms[kept],
            lists=lists,
            heads=None if items.heads is None else items.heads[kept],
        )
        return self.users_without(own, delisted)

    def users_without(self, users: Vectors, delisted: Collection[str]) -> Vectors:
        """The same users, with lists that have none of the items."""
        if not delisted or users.lists is None:
            return users
        quoted = _quoted(delisted)
        return replace(users, lists=[_without(one, delisted, quoted) for one in users.lists])

    # --- what is there ---------------------------------------------------------------------------------

    def _run(self, args: Sequence[Any]) -> None:
        self._calls.refuse(self._calls.run(CHANGE, [self._keys.current, self._keys.delisted], args), 0)

    def _remove_vectors(self, number: int, items: Sequence[str]) -> None:
        keys = self._keys
        self._calls.run_many(REMOVE, number, self._remove_calls(number, items))
        index = keys.of(number, "items")
        if self._client.exists(index):
            calls = (
                ([keys.current, index], [self._epoch, *items[first:stop]])
                for first, stop in chunks(len(items), ITEMS_PER_INDEX_SCRIPT)
            )
            self._calls.run_many(REMOVE_FROM_INDEX, number, calls)

    def _remove_calls(self, number: int, items: Sequence[str]) -> Iterator[Call]:
        for part, places in self._keys.by_part(items):
            head = [part.current, part.of(number, "manifest"), part.of(number, "item-ids")]
            for place in places:
                yield [*head, part.item(number, items[place])], [self._epoch, items[place]]

    def _remove_rising(self, items: Collection[str]) -> None:
        if items:
            for behavior in cast("set[bytes]", self._client.smembers(self._keys.trending_behaviors)):
                self._client.zrem(self._keys.trending(behavior.decode()), *items)

    def _mend(self, number: int, side: str, items: Collection[str], lists_max: int | None) -> tuple[int, int]:
        """Lists mended, and looked at: from the end, so that one that is erased meanwhile shifts no other."""
        names = [part.of(number, f"{side}-ids") for part in self._keys.parts]
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.llen(name)
        ends = dict(zip(names, cast("list[int]", pipe.execute()), strict=True))
        if lists_max is not None:
            left = self._at.setdefault(number, {})
            ends = {name: min(end, left.get(name, end)) for name, end in ends.items()}
        mended = looked_at = 0
        while any(ends.values()) and (lists_max is None or looked_at < lists_max):
            count = 0
            for name, end in ends.items():  # of one list or, in a Cluster, of several
                if end and count < LISTS_AT_ONCE:
                    ends[name] = max(0, end - LISTS_AT_ONCE + count)
                    count += end - ends[name]
                    pipe.lrange(name, ends[name], end - 1)
            ids = [i.decode() for some in cast("list[list[bytes]]", pipe.execute()) for i in some]
            mended, looked_at = mended + self._mend_some(number, side, items, ids), looked_at + count
        if lists_max is not None:
            self._at[number] |= ends
        return mended, looked_at

    def _mend_some(self, number: int, side: str, items: Collection[str], ids: Sequence[str]) -> int:
        names, fields, quoted = self._keys.hashes(side, number, ids), LIST_FIELDS[side], _quoted(items)
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hmget(name, fields)
        calls = list[Call]()
        for name, (listed, scores) in zip(names, pipe.execute(), strict=True):
            if listed is not None and scores is not None:
                own = _without((listed, scores), items, quoted)
                if own[0] != listed:
                    calls.append(([name], [*fields, listed, *own]))
        self._calls.run_many(MEND, number, calls)
        return len(calls)

    # --- the file --------------------------------------------------------------------------------------

    def _read(self) -> tuple[int, frozenset[str]]:
        if self._file is None or not self._file.exists():
            return 0, frozenset()
        try:
            told = msgspec.json.decode(self._file.read_bytes(), type=tuple[int, frozenset[str]])
        except (msgspec.DecodeError, OSError) as error:
            log.warning("%s cannot be read, so Redis alone says what is delisted: %s", self._file, error)
            return 0, frozenset()
        return told

    def _write(self, number: int, items: frozenset[str]) -> None:
        if self._file is None:
            return
        try:
            disk.write_whole(self._file, msgspec.json.encode((number, sorted(items))))
        except OSError as error:
            log.warning("%s cannot be written, so Redis alone says what is delisted: %s", self._file, error)


def rising_without(
    lists: Mapping[str, Mapping[str, float]], delisted: Collection[str]
) -> dict[str, dict[str, float]]:
    """Lists of rising items without those."""
    return {
        name: {item: score for item, score in scores.items() if item not in delisted}
        for name, scores in lists.items()
    }


def _quoted(items: Iterable[str]) -> list[bytes]:
    return [msgspec.json.encode(item) for item in items]


def _without(listed: Listed, items: Collection[str], quoted: Sequence[bytes]) -> Listed:
    """A list without items; looks for their quoted form first, since most lists have none of them."""
    ids, scores = listed
    if len(quoted) <= LISTS_AT_ONCE and not any(one in ids for one in quoted):
        return listed
    names = msgspec.json.decode(ids or b"[]", type=list[str])
    kept = np.array([name not in items for name in names], np.bool_)
    if kept.all():
        return listed
    return msgspec.json.encode(list(compress(names, kept))), np.frombuffer(scores, "<f4")[kept].tobytes()
