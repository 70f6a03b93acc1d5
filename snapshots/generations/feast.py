"""Copies of the served vectors for Feast, which reads them from the same Redis by its own keys.

    GenerationStore ──► generation is served, refreshed, erased, delisted ──► [FeastCopies] ──► Feast's hashes

Feast has one hash for each entity of a project, and no generations. So the vectors of the served generation
are copied there, by scripts that read its hashes: what Feast has of an id is what the generation has at that
moment, or nothing. Other teams' features of the same entity are in the same hash and stay as they are.

    key      the entity key, version 3: u32 1 (join keys), u32 2 (a text), u32 length, join key, u32 2, u32
             length, id; and behind it the project. All numbers are little-endian
    fields   murmur3 of ``view:feature`` (4 bytes, little-endian) → Value; ``_ts:view`` → Timestamp: both are
             Protobuf messages

The views are ``{namespace}_users`` with the join key ``user_id``, and ``{namespace}_items`` with ``item_id``;
their features are ``embedding`` (Array(Float32)) and ``generation`` (Int64).

    {ns}:feast                HASH  project; gen, the generation whose copies are complete
    {ns}:feast:user, :item    ZSET  ids that have a copy; score = the generation that it is of

Source: the online store format that Feast 0.67.0 documents. tests/golden/feast.json has bytes that it wrote.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import redis

from driftgraph.snapshots.generations.calls import HASHES_PER_SCRIPT, Call
from driftgraph.snapshots.generations.keys import Keys, redis_errors
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.servers.rights import is_refused_right, what_it_says
from driftgraph.snapshots.generations.vector_forms import FLOAT32
from driftgraph.snapshots.generations.vectors import chunks

SIDES: Final = ("user", "item")
MOVED: Final = ["ok", "moved"]  # another generation is served, or another project has the copies
JOIN_KEYS: Final = {"user": "user_id", "item": "item_id"}
EMBEDDING, GENERATION = "embedding", "generation"  # the features of a view
TEXT = 2  # ValueType.STRING of Feast
IDS_AT_ONCE: Final = 500
SWITCHES_MAX: Final = 3  # that one call follows; the next look goes on

log = logging.getLogger(__name__)

# KEYS current, manifest, record, ids with a copy, then for each id: hash of the generation, Feast's hash
# ARGV epoch, number, project, three fields (embedding, generation, time), the number as a Value, then ids
# An id without a hash in the generation has no copy any more. A generation of another form than float32 has
# no copies, since Feast would not understand them.
COPY = r"""
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[2] or redis.call('HGET', KEYS[3], 'project') ~= ARGV[3] then
  return {'ok', 'moved'}
end
local is_float32 = (redis.call('HGET', KEYS[2], 'vectors') or 'float32') == 'float32'
local function varint(n)
  local bytes = ''
  while n >= 128 do
    bytes = bytes .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return bytes .. string.char(n)
end
local function value_of(floats)  -- field 16 of Value, a FloatList, whose field 1 is packed as our vectors are
  local list = '\10' .. varint(#floats) .. floats
  return '\130\1' .. varint(#list) .. list
end
local function time_of(ms)
  local seconds, nanos = math.floor(ms / 1000), ms % 1000 * 1000000
  return (seconds > 0 and '\8' .. varint(seconds) or '') .. (nanos > 0 and '\16' .. varint(nanos) or '')
end
for i = 8, #ARGV do
  local from, to = KEYS[2 * i - 11], KEYS[2 * i - 10]
  local row = redis.call('HMGET', from, 'embedding', 'event_ms')
  if row[1] and is_float32 then
    local time = time_of(tonumber(row[2] or 0))
    redis.call('HSET', to, ARGV[4], value_of(row[1]), ARGV[5], ARGV[7], ARGV[6], time)
    redis.call('ZADD', KEYS[4], ARGV[2], ARGV[i])
  else
    redis.call('HDEL', to, ARGV[4], ARGV[5], ARGV[6])
    redis.call('ZREM', KEYS[4], ARGV[i])
  end
end
return {'ok'}
"""

# KEYS current, record, ids with a copy, then Feast's hashes     ARGV epoch, three fields, then ids
REMOVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
for i = 5, #ARGV do
  redis.call('HDEL', KEYS[i - 1], ARGV[2], ARGV[3], ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[i])
end
return {'ok'}
"""

# KEYS current, record     ARGV epoch, project (empty: there are no copies any more), the complete generation
NOTE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[2])
elseif ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'gen') ~= ARGV[3] then
  return {'ok', 'moved'}
else
  redis.call('HSET', KEYS[2], 'project', ARGV[2], 'gen', ARGV[3])
end
return {'ok'}
"""


@dataclass(frozen=True, slots=True)
class View:
    """How Feast names the features of one side."""

    project: str
    name: str
    join_key: str

    def key(self, entity_id: str) -> bytes:
        """The hash of an entity."""
        join_key, value = self.join_key.encode(), entity_id.encode()
        head = struct.pack("<III", 1, TEXT, len(join_key)) + join_key
        return head + struct.pack("<II", TEXT, len(value)) + value + self.project.encode()

    def fields(self) -> tuple[bytes, bytes, bytes]:
        """The fields of the embedding, of the generation and of the event time."""
        names = (f"{self.name}:{feature}".encode() for feature in (EMBEDDING, GENERATION))
        vector, number = (struct.pack("<I", murmur3(name)) for name in names)
        return vector, number, f"_ts:{self.name}".encode()


def view_of(project: str, namespace: str, side: str) -> View:
    """The view of users or items of one namespace."""
    return View(project, f"{namespace}_{side}s", JOIN_KEYS[side])


def feast_keys(keys: Keys) -> tuple[str, ...]:
    """Our keys of what Feast has: the record, then the ids of each side."""
    name = f"{keys.namespace}:feast"
    return (name, *(f"{name}:{side}" for side in SIDES))


class FeastCopies:
    """The copies of one namespace. ``project`` is empty where Feast does not read.

    Always true after ``follow``: each user and item of the served generation has a copy, and no other id
    has one. ``refreshed`` and ``gone`` keep it true. One thread uses it. Every method raises StoreError.
    """

    def __init__(self, client: redis.Redis, keys: Keys, calls: Scripts, project: str, *, epoch: int) -> None:
        if project and keys.is_spread:
            raise ValueError(f"feast needs a namespace without braces, got {keys.namespace!r}")
        self.project = project
        self._client, self._keys, self._calls, self._epoch = client, keys, calls, epoch
        self._name, *names = feast_keys(keys)
        self._ids: dict[str, str] = dict(zip(SIDES, names, strict=True))
        self._told = False  # that a right is missing

    def is_new(self) -> bool:
        """Whether the next publish makes the first copies, which take memory."""
        return bool(self.project) and not self._record()[0]

    def refreshed(self, number: int, side: str, ids: Sequence[str]) -> None:
        """Copy ids whose vectors have changed in the served generation."""
        if self.project:
            self._guarded("copying refreshed vectors for Feast", lambda: self._copy_named(number, side, ids))

    def gone(self, side: str, ids: Sequence[str]) -> None:
        """Take copies away of ids that have left the served generation, whoever configures what."""
        if not ids:
            return
        with redis_errors(self._client, "taking what Feast has of an id"):
            project, _ = self._record()
            if project:
                number = int(cast("bytes | None", self._client.hget(self._keys.current, "gen")) or 0)
                view = view_of(project, self._keys.namespace, side)
                self._calls.run_many(COPY, number, self._calls_of(view, number, side, ids))

    def look(self) -> None:
        """Make the copies agree with what is served, if they do not. Called every second; one round trip."""
        with redis_errors(self._client, "looking what Feast has"):
            pipe = self._client.pipeline(transaction=False)
            pipe.hmget(self._name, "project", "gen")
            pipe.hget(self._keys.current, "gen")
            (project, number), served = pipe.execute()
        is_other = project is not None and project.decode() != self.project
        if is_other or (self.project and served and served != number):
            self.follow()

    def follow(self) -> None:
        """Copy the whole served generation, then remove copies of ids that it does not have.

        1. remove all copies of a project that is not configured any more
        2. note the project; from here on refreshes are copied
        3. copy all ids of the generation's lists, from their ends: an erasure shifts those behind it
        4. copy or remove every id whose copy is of another generation
        5. note that the copies are complete, unless another generation is served by now

        Copies of two generations are there between 2 and 5. A crash leaves them so until the next look.
        """
        self._guarded("copying vectors for Feast", self._follow)

    def _follow(self) -> None:
        former, _ = self._record()
        if former and former != self.project:
            self._remove_all(former)
        for _ in range(SWITCHES_MAX if self.project else 0):
            number = int(cast("bytes | None", self._client.hget(self._keys.current, "gen")) or 0)
            if not number:
                return
            self._note("")
            if all(self._copy_side(number, side) for side in SIDES) and self._note(number) != MOVED:
                form = cast("bytes | None", self._client.hget(self._keys.of(number, "manifest"), "vectors"))
                if (form or FLOAT32.encode()) != FLOAT32.encode():
                    log.warning(
                        "generation %d is not written as float32, so Feast has none of its vectors", number
                    )
                return

    def _copy_side(self, number: int, side: str) -> bool:
        """Steps 3 and 4; False if another generation is served."""
        view, name = view_of(self.project, self._keys.namespace, side), self._keys.of(number, f"{side}-ids")
        end = self._client.llen(name)
        while end > 0:
            first = max(0, end - IDS_AT_ONCE)
            ids = [one.decode() for one in cast("list[bytes]", self._client.lrange(name, first, end - 1))]
            self._calls.run_many(COPY, number, self._calls_of(view, number, side, ids))
            end = first
        for low, high in (("-inf", f"({number}"), (f"({number}", "+inf")):
            while ids := self._ids_with_copies(side, low, high):
                for call in self._calls_of(view, number, side, ids):
                    if self._calls.run_or_refuse(COPY, number, *call) == MOVED:
                        return False
        return True

    def _copy_named(self, number: int, side: str, ids: Sequence[str]) -> None:
        view = view_of(self.project, self._keys.namespace, side)
        self._calls.run_many(COPY, number, self._calls_of(view, number, side, ids))

    def _calls_of(self, view: View, number: int, side: str, ids: Sequence[str]) -> Iterator[Call]:
        keys = self._keys
        head = [keys.current, keys.of(number, "manifest"), self._name, self._ids[side]]
        args = [self._epoch, number, view.project, *view.fields(), b"\x20" + varint(number)]
        for first, stop in chunks(len(ids), HASHES_PER_SCRIPT):
            some = ids[first:stop]
            pairs = zip(keys.hashes(side, number, some), map(view.key, some), strict=True)
            yield [*head, *(key for pair in pairs for key in pair)], [*args, *some]

    def _remove_all(self, project: str) -> None:
        """Step 1."""
        keys = self._keys
        for side in SIDES:
            view = view_of(project, keys.namespace, side)
            while ids := self._ids_with_copies(side, "-inf", "+inf"):
                names: list[str | bytes] = [keys.current, self._name, self._ids[side], *map(view.key, ids)]
                self._calls.run_or_refuse(REMOVE, 0, names, [self._epoch, *view.fields(), *ids])
        self._calls.run_or_refuse(NOTE, 0, [keys.current, self._name], [self._epoch, "", ""])

    def _ids_with_copies(self, side: str, low: str, high: str) -> list[str]:
        """Some ids whose copies are of generations between two numbers."""
        found = self._client.zrange(
            self._ids[side], cast("int", low), cast("int", high), byscore=True, offset=0, num=IDS_AT_ONCE
        )
        return [one.decode() for one in cast("list[bytes]", found)]

    def _note(self, number: int | str) -> list[str]:
        names = [self._keys.current, self._name]
        return self._calls.run_or_refuse(NOTE, 0, names, [self._epoch, self.project, number])

    def _record(self) -> tuple[str, int]:
        """The project that has copies, and the generation whose copies are complete; empty and 0 for none."""
        project, number = cast("list[bytes | None]", self._client.hmget(self._name, "project", "gen"))
        return (project or b"").decode(), int(number or 0)

    def _guarded(self, doing: str, act: Callable[[], None]) -> None:
        """Do what our own readers do not need: a missing right is told once, and ends nothing."""
        with redis_errors(self._client, doing):
            try:
                act()
            except redis.RedisError as error:
                if not is_refused_right(error):
                    raise
                if not self._told:
                    log.warning(
                        "Feast's project %s gets no vectors (%s); the ACL rule ~*%s gives the right",
                        self.project,
                        what_it_says(error),
                        self.project,
                    )
                self._told = True


def varint(number: int) -> bytes:
    """A number as Protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def murmur3(data: bytes) -> int:
    """MurmurHash3, x86, 32 bits, seed 0.

    Source: Austin Appleby, SMHasher, MurmurHash3.cpp (public domain).
    """
    mask, state = 0xFFFFFFFF, 0

    def mixed(block: int) -> int:
        block = block * 0xCC9E2D51 & mask
        return (block << 15 | block >> 17) * 0x1B873593 & mask

    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state ^= mixed(block)
        state = ((state << 13 | state >> 19) & mask) * 5 + 0xE6546B64 & mask
    state ^= mixed(int.from_bytes(data[whole:], "little"))  # nothing is left: 0, which changes nothing
    state ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ state >> shift) * factor & mask
    return state ^ state >> 16
