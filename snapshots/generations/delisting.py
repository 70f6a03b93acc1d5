"""Items that are delisted: out of every list, search and generation until they are relisted.

    driftgraph delist ──────────► [Delisting] ──► {ns}:delisted, and every live generation
    a topic ──► DelistFeed ──────────┘  └ publish, refresh and lists of rising items leave them out

``{ns}:delisted`` has the ids of the command, and ``{ns}:delisted-by-topic`` those that a topic delists; an
item is delisted while one of the two has it. Readers leave the members of both out. ``delisted_ms`` of
``{ns}:emb:current`` is the number of the newest change, its time. A worker keeps all of it in a file, and
writes it again where Redis has forgotten it. The manifest of a generation says with which change it agrees.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

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

# KEYS current, one of the sets        ARGV SADD or SREM, epoch, a change that Redis must know, then ids
CHANGE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[2]) < epoch then return {'stale', tostring(epoch)} end
local newest = tonumber(redis.call('HGET', KEYS[1], 'delisted_ms') or '0')
if newest < tonumber(ARGV[3]) then return {'forgotten'} end
local now = redis.call('TIME')
local number = string.format('%.0f', math.max(newest + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
redis.call('HSET', KEYS[1], 'delisted_ms', number)
for i = 4, #ARGV do redis.call(ARGV[1], KEYS[2], ARGV[i]) end
return {'ok'}
"""

# KEYS current, the two sets        ARGV epoch, a change, how many ids are of the first set, then ids
# What a worker remembers, unless Redis knows that change or a newer one.
RESTORE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if tonumber(redis.call('HGET', KEYS[1], 'delisted_ms') or '0') >= tonumber(ARGV[2]) then return {'ok'} end
redis.call('HSET', KEYS[1], 'delisted_ms', ARGV[2])
redis.call('DEL', KEYS[2], KEYS[3])
for i = 4, #ARGV do redis.call('SADD', KEYS[i - 3 <= tonumber(ARGV[3]) and 2 or 3], ARGV[i]) end
return {'ok'}
"""

# KEYS current, manifest, id list, hash     ARGV epoch, item
# Removes an item from a live generation, if it is there. O(length of the list), as ERASE.
REMOVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if redis.call('EXISTS', KEYS[4]) == 0 then return {'ok'} end
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


class ForgottenError(StoreError):
    """Redis has forgotten which items are delisted."""


class Delisted(NamedTuple):
    """Which items are delisted, as of the change with a number; 0: nobody has ever delisted one."""

    number: int = 0
    by_command: frozenset[str] = frozenset()
    by_topic: frozenset[str] = frozenset()


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
        self._at_change = 0  # the newest one when the pass over these lists began
        self._seen = frozenset[str]()  # what was delisted at the look before

    def keep_in(self, file: Path) -> None:
        """Remember the sets in this file, against a Redis that forgets. What it has counts as seen."""
        self._file = file
        known = self._read()
        self._seen = known.by_command | known.by_topic

    def newest(self) -> tuple[int, frozenset[str]]:
        """The number of the newest change, and the delisted items; one round trip."""
        found = self.found()
        return found.number, found.by_command | found.by_topic

    def found(self) -> Delisted:
        """As ``newest``, by who has delisted them."""
        with redis_errors(self._client, "reading which items are delisted"):
            pipe = self._client.pipeline(transaction=True)
            pipe.hget(self._keys.current, FIELD)
            for name in (self._keys.delisted, self._keys.delisted_by_topic):
                pipe.smembers(name)
            number, *sets = pipe.execute()
        by_command, by_topic = (frozenset(item.decode() for item in one) for one in sets)
        return Delisted(int(number or 0), by_command, by_topic)

    def change(self, items: Sequence[str], what: Literal["SADD", "SREM"], *, by_topic: bool = False) -> None:
        """Delist or relist items, in one script. Readers, publishes and refreshes follow at once.

        Raises:
            DelistError: There would be more than ``DELISTED_MAX``, or a topic delists what is to be relisted.
            ForgottenError: Redis does not know the change that the file has; ``look`` restores it.
        """
        found, keys = self.found(), self._keys
        before = found.by_command | found.by_topic
        if what == "SADD" and len(before.union(items)) > DELISTED_MAX:
            raise DelistError(
                f"{len(before):,} items are delisted, and at most {DELISTED_MAX:,} can be: relist those that "
                "are gone for good from the events, too"
            )
        if what == "SREM" and not by_topic and (held := found.by_topic.intersection(items)):
            raise DelistError(
                f"{len(held):,} of these items are delisted by the topic of delisted items, such as "
                f"{min(held)!r}: produce a record with that key and without a value to it"
            )
        names = [keys.current, keys.delisted_by_topic if by_topic else keys.delisted]
        with redis_errors(self._client, "delisting items"):
            answer = self._calls.run(CHANGE, names, [what, self._epoch, self._read().number, *items])
        if answer == ["forgotten"]:
            raise ForgottenError("Redis has forgotten which items are delisted")
        self._calls.refuse(answer, 0)

    def number(self) -> int:
        """The number of the newest change; 0 if there is none."""
        with redis_errors(self._client, "reading which items are delisted"):
            return int(cast("bytes | None", self._client.hget(self._keys.current, FIELD)) or 0)

    def remove(self, items: Collection[str], *, lists_max: int | None = None) -> int:
        """Take items out of every live generation; returns how many lists were mended.

        First their vectors, the vector set and the rising items, then the lists of users and of similar
        items, the newest first, at most ``lists_max`` of them; the next call goes on behind those.
        """
        mended = 0
        self.remove_vectors(items)
        with redis_errors(self._client, "removing delisted items"):
            for number in reversed(self._tended.live()):
                for side in ("user", "item"):
                    found, looked_at = self._mend(number, side, items, lists_max)
                    mended += found
                    if lists_max is not None:
                        lists_max = max(0, lists_max - looked_at)
        return mended

    def remove_vectors(self, items: Collection[str]) -> None:
        """Take vectors of items out of every live generation, its vector set and the rising items."""
        with redis_errors(self._client, "removing delisted items"):
            for number in self._tended.live():
                self._remove_vectors(number, list(items))
            self._feast.gone("item", list(items))
            self._remove_rising(items)

    def look(self) -> frozenset[str]:
        """What the worker does each second: remember the sets, restore them, and clean what does not agree.

        Returns:
            The items that were relisted since the look before.
        """
        found = self.restored()
        if found.number > self._read().number:
            self._write(found)
        items = found.by_command | found.by_topic
        if found.number:
            self._agree(found.number, items)
        relisted, self._seen = self._seen - items, items
        return relisted

    def restored(self) -> Delisted:
        """Which items are delisted, written again from the file where Redis has forgotten them."""
        found, known = self.found(), self._read()
        if found.number >= known.number or not (known.by_command or known.by_topic):
            return found
        log.warning("Redis has forgotten which items are delisted; they are delisted again")
        keys, ids = self._keys, [*sorted(known.by_command), *sorted(known.by_topic)]
        with redis_errors(self._client, "delisting items again"):
            names = [keys.current, keys.delisted, keys.delisted_by_topic]
            args = [self._epoch, known.number, len(known.by_command), *ids]
            self._calls.refuse(self._calls.run(RESTORE, names, args), 0)
        return known

    def _agree(self, number: int, items: frozenset[str]) -> None:
        with redis_errors(self._client, "looking which generations have delisted items"):
            live = self._tended.live()
            pipe = self._client.pipeline(transaction=False)
            for one in live:
                pipe.hget(self._keys.of(one, "manifest"), FIELD)
            marks = [int(mark or 0) for mark in pipe.execute()]
        if all(mark >= number for mark in marks):
            return
        if not self._at:  # a change during a pass does not begin it anew: another one follows
            self._at_change = number
        self.remove(items, lists_max=LISTS_PER_LOOK)
        if any(any(self._at.get(one, {}).values()) for one in live):
            return
        self._at = {}
        with redis_errors(self._client, "noting which generations have no delisted items"):
            for one in live:
                if self._tended.manifest(one):
                    self._client.hset(self._keys.of(one, "manifest"), FIELD, self._at_change)

    # --- what is about to be written -------------------------------------------------------------------

    def items_without(self, items: Vectors, delisted: Collection[str]) -> Vectors:
        """The items of a generation without those, and without them in the lists of the others."""
        if not delisted:
            return items
        kept = np.array([i not in delisted for i in items.ids], np.bool_)
        lists = None if items.lists is None else list(compress(items.lists, kept))
        said = items.attributes
        own = replace(
            items,
            ids=list(compress(items.ids, kept)),
            vectors=items.vectors[kept],
            event_ms=items.event_ms[kept],
            lists=lists,
            heads=None if items.heads is None else items.heads[kept],
            attributes=said and said._replace(rows=list(compress(said.rows, kept))),
        )
        return self.users_without(own, delisted)

    def users_without(self, users: Vectors, delisted: Collection[str]) -> Vectors:
        """The same users, with lists that have none of the items."""
        if not delisted or users.lists is None:
            return users
        quoted = _quoted(delisted)
        return replace(users, lists=[_without(one, delisted, quoted) for one in users.lists])

    # --- what is there ---------------------------------------------------------------------------------

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

    def _read(self) -> Delisted:
        if self._file is None or not self._file.exists():
            return Delisted()
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Delisted)
        except (msgspec.DecodeError, OSError) as error:
            log.warning("%s cannot be read, so Redis alone says what is delisted: %s", self._file, error)
            return Delisted()

    def _write(self, found: Delisted) -> None:
        if self._file is None:
            return
        try:
            told = (found.number, sorted(found.by_command), sorted(found.by_topic))
            disk.write_whole(self._file, msgspec.json.encode(told))
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
