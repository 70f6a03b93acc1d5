"""The Lua scripts of a publish. Each is one atomic step and checks that its caller may still write.

    GenerationStore ──► [one of these] ──► Redis

Every script answers ``ok`` or a word that ``refuse`` turns into an error. All can be sent twice with the
same result, because a client that lost an answer sends again. A script that runs into ``maxmemory`` stops
at its first write that takes memory, unless one came before that does not: Redis refuses the first write of a
script or none. A command that the user has no right to may end a script in the middle: so a script reads
before it writes, the switch is one command, and what may fail after it is called by ``pcall``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from driftgraph.snapshots.generations.keys import (
    ChosenError,
    GenerationExistsError,
    LostError,
    NotCurrentError,
    StaleWorkerError,
    StoreError,
)
from driftgraph.snapshots.generations.wire import Command, Wire, packed

# KEYS current                             ARGV epoch
# The first step of a new worker: from here on Redis refuses an older epoch. A full Redis cannot store the
# epoch, but must let the worker remove keys; no other worker can write then, either, and BEGIN tries again.
CLAIM = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
redis.pcall('HSET', KEYS[1], 'epoch', ARGV[1])
return {'ok'}
"""

# KEYS current, generations, manifest      ARGV epoch, number, token
BEGIN = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
local owner = redis.call('HGET', KEYS[3], 'token')
if owner == ARGV[3] then return {'ok'} end
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0)[1]
if newest and tonumber(ARGV[2]) <= tonumber(newest) then return {'taken', newest} end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[2])
redis.call('HSET', KEYS[3], 'status', 'building', 'token', ARGV[3])
return {'ok'}
"""

# KEYS current, manifest                   ARGV epoch, token
# The first lines of scripts that write into a generation that is being built. Another token is another
# worker's. Without a token under our epoch Redis has lost the manifest (FLUSHALL, an older dump, an
# eviction), since no other worker removes it without raising the epoch.
OURS = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
local token = redis.call('HGET', KEYS[2], 'token')
if not token then return {'lost'} end
if token ~= ARGV[2] then return {'gone'} end
"""

# An entry is: id, n, then n words, which are fields and values (``vectors.hash_args``). ``ids_behind`` gives
# the ids of ``count`` entries behind ARGV[at], ``write_hash`` writes one and gives where the next begins.
HASHES = """
local function ids_behind(at, count)
  local ids = {}
  for i = 1, count do
    ids[i] = ARGV[at + 1]
    at = at + 2 + ARGV[at + 2]
  end
  return ids
end
local function write_hash(key, at)
  local n = tonumber(ARGV[at + 2])
  redis.call('HSET', key, unpack(ARGV, at + 3, at + 2 + n))
  return at + 2 + n
end
"""

# KEYS current, manifest, id list, hash …  ARGV epoch, token, first, then an entry for each hash
# ``first`` is the index of the first id in the list: a chunk that was pushed before is not pushed again, and
# a chunk behind one that failed is refused, or there would be keys that no list names.
WRITE = f"""{HASHES}{OURS}
local count, listed, first = #KEYS - 3, redis.call('LLEN', KEYS[3]), tonumber(ARGV[3])
if listed < first then return {{'gap'}} end
if listed == first then redis.call('RPUSH', KEYS[3], unpack(ids_behind(3, count))) end
local at = 3
for i = 1, count do at = write_hash(KEYS[i + 3], at) end
return {{'ok'}}
"""

# KEYS current, manifest, vector set
# ARGV epoch, token, ef, m, quantization, then by item: id, vector, attributes (may be empty)
INDEX = f"""{OURS}
for i = 6, #ARGV, 3 do
  redis.call('VADD', KEYS[3], 'FP32', ARGV[i + 1], ARGV[i], ARGV[5], 'EF', ARGV[3],
             'SETATTR', ARGV[i + 2], 'M', ARGV[4])
end
return {{'ok'}}
"""

# KEYS current, manifest                   ARGV epoch, token, then field, value, …
DESCRIBE = f"""{OURS}
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
return {{'ok'}}
"""

# KEYS current, manifest
# ARGV epoch, token, number, channel, then of the operator's act that the model follows (choice.py): its
# number (none: any), who did it, whether it holds
# The answer's second word is why the notice could not be sent; the publish does not fail for that.
# A replica that became the primary meanwhile may lack the last writes. Since a replica gets writes in their
# order, it has all of them if it has those of DESCRIBE.
SWITCH = f"""{OURS}
if redis.call('HEXISTS', KEYS[2], 'users') == 0 then return {{'lost'}} end
local choice, follows = tonumber(redis.call('HGET', KEYS[1], 'choice') or '0'), tonumber(ARGV[5])
if follows and choice > follows then return {{'chosen', redis.call('HGET', KEYS[1], 'chosen_by') or ''}} end
if redis.call('HGET', KEYS[2], 'status') == 'live' then return {{'ok'}} end
local previous = redis.call('HGET', KEYS[1], 'gen')
local now = redis.call('TIME')
redis.call('HSET', KEYS[2], 'status', 'live', 'parent', previous or '',
           'published_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
redis.call('HSET', KEYS[1], 'gen', ARGV[3], 'previous', previous or '0', 'chosen', '0')
if follows and choice < follows then
  redis.call('HSET', KEYS[1], 'choice', ARGV[5], 'chosen_by', ARGV[6], 'held', ARGV[7])
end
local told = redis.pcall('PUBLISH', ARGV[4], cjson.encode({{event = 'published', gen = tonumber(ARGV[3]),
                                                           previous = tonumber(previous or 0)}}))
return {{'ok', type(told) == 'table' and told.err or ''}}
"""

# KEYS current, one more, manifest           ARGV epoch, number, token
# The first lines of scripts that write newer vectors into a generation: into the served one, or, with its
# token, into one that is being built and is not served yet.
FRESH = f"""{HASHES}
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {{'stale', tostring(epoch)}} end
local gen = redis.call('HGET', KEYS[1], 'gen')
local told = redis.call('HMGET', KEYS[3], 'status', 'token')
local building = ARGV[3] ~= '' and told[1] == 'building' and told[2] == ARGV[3]
if not building and (gen ~= ARGV[2] or told[1] ~= 'live') then
  return {{'not_current', gen ~= ARGV[2] and gen or ''}}
end
local function add_new(at, field)
  local fresh, ids = {{}}, ids_behind(at, #KEYS - 3)
  for i = 1, #ids do
    if redis.call('EXISTS', KEYS[i + 3]) == 0 then fresh[#fresh + 1] = ids[i] end
  end
  if #fresh > 0 then
    redis.call('RPUSH', KEYS[2], unpack(fresh))
    redis.call('HINCRBY', KEYS[3], field, #fresh)
  end
end
"""

# KEYS current, id list, manifest, hash …  ARGV epoch, number, token, mark, then an entry for each hash
# Users that the generation did not have are added to its list, so that they are removed with it. A list of
# recommendations, the last fields of an entry, does not outlive the vector that it was made with. The mark is
# a number that grows: an older mark tells a worker that Redis has forgotten refreshes.
REFRESH = f"""{FRESH}
add_new(4, 'users')
local at = 4
for i = 4, #KEYS do
  at = write_hash(KEYS[i], at)
  if ARGV[at - 1] ~= 'list_scores' then redis.call('HDEL', KEYS[i], 'list', 'list_scores') end
end
redis.call('HSET', KEYS[3], 'refreshed', ARGV[4])
return {{'ok'}}
"""

# KEYS current, id list, manifest, hash …  ARGV epoch, number, token, then an entry for each hash
# As REFRESH, for items: the list of an item stays where there is no new one.
REFRESH_ITEMS = f"""{FRESH}
add_new(3, 'items')
local at = 3
for i = 4, #KEYS do at = write_hash(KEYS[i], at) end
return {{'ok'}}
"""

# KEYS current, vector set, manifest
# ARGV epoch, number, token, ef, m, quantization, then by item: id, vector
# The vector set is in another slot of a Cluster than the hashes, and is written after them. A vector set that
# Redis has lost is not begun anew with a few items.
REFRESH_INDEX = f"""{FRESH}
if redis.call('EXISTS', KEYS[2]) == 1 then
  for i = 7, #ARGV, 3 do
    redis.call('VADD', KEYS[2], 'FP32', ARGV[i + 1], ARGV[i], ARGV[6], 'EF', ARGV[4],
               'SETATTR', ARGV[i + 2], 'M', ARGV[5])
  end
end
return {{'ok'}}
"""

# KEYS current, manifest, id list, hash    ARGV epoch, user
# Removes a user from a generation, also from one that is being built. O(length of the list).
ERASE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
redis.call('UNLINK', KEYS[4])
redis.call('HDEL', KEYS[2], 'moved_user:' .. ARGV[2])
local listed = redis.call('LREM', KEYS[3], 0, ARGV[2])
if listed > 0 and redis.call('HEXISTS', KEYS[2], 'users') == 1 then
  redis.call('HINCRBY', KEYS[2], 'users', -listed)
end
return {'ok'}
"""

# KEYS current, owner, trending behaviors, trending of one
# ARGV epoch, behavior, ttl_s, owned_s (0: by the worker), then score, item, …
# One writer at a time: who writes with ``owned_s`` has the lists of all behaviors for so long, and meanwhile
# the worker is told ``owned`` and changes nothing.
TRENDING = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if ARGV[4] ~= '0' then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[4])
elseif redis.call('EXISTS', KEYS[2]) == 1 then
  return {'owned'}
end
if #ARGV > 4 then redis.call('SADD', KEYS[3], ARGV[2]) end
redis.call('DEL', KEYS[4])
if #ARGV > 4 then
  redis.call('ZADD', KEYS[4], unpack(ARGV, 5))
  redis.call('EXPIRE', KEYS[4], ARGV[3])
end
return {'ok'}
"""

# KEYS current and manifest of a part      ARGV epoch, the served number
# A part that has lost its manifest stays without: the next look finds that out.
FOLLOW = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'gen', ARGV[2])
if redis.call('HEXISTS', KEYS[2], 'token') == 1 then redis.call('HSET', KEYS[2], 'status', 'live') end
return {'ok'}
"""

# KEYS current, manifest, key …            ARGV number, ttl_s (0: for ever), what to note in the manifest
# A generation gets a TTL only while it is not served, and loses it only while it is.
SET_TTL = """
local served = redis.call('HGET', KEYS[1], 'gen') == ARGV[1]
if served ~= (ARGV[2] == '0') then return {'moved'} end
redis.call('PERSIST', KEYS[1])  -- as in CHOOSE (choice.py)
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'keys_expire', ARGV[3]) end
for i = 3, #KEYS do
  if served then redis.call('PERSIST', KEYS[i]) else redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return {'ok'}
"""

# KEYS current, manifest                   ARGV epoch, number
# From here on the generation is neither served nor written, and no rollback leads to it. Works in a full
# Redis.
RETIRE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
if redis.call('HGET', KEYS[1], 'gen') == ARGV[2] then return {'served'} end
if redis.call('HGET', KEYS[1], 'previous') == ARGV[2] then redis.call('HDEL', KEYS[1], 'previous') end
redis.call('HDEL', KEYS[2], 'status', 'token')
return {'ok'}
"""


class Scripts:
    """Runs the scripts for one writer and turns their refusals into errors."""

    def __init__(self, client: redis.Redis, epoch: int) -> None:
        self._client = client
        self.epoch = epoch
        self._wire = Wire(client)
        self._registered: dict[str, Script] = {}
        self._sent = deque[Command]()  # without an answer yet

    def run(self, lua: str, keys: Sequence[str | bytes], args: Sequence[Any]) -> list[str]:
        """Run a script; return the words of its answer."""
        return [part.decode() for part in self._script(lua)(keys, args)]

    def run_or_refuse(
        self, lua: str, number: int, keys: Sequence[str | bytes], args: Sequence[Any]
    ) -> list[str]:
        """Run a script about generation ``number``; return the answer, or raise unless it is ``ok``."""
        answer = self.run(lua, keys, args)
        self.refuse(answer, number)
        return answer

    def run_many(
        self, lua: str, number: int, calls: Iterable[tuple[Sequence[str | bytes], Sequence[Any]]]
    ) -> None:
        """Run a script many times, several times for each answer that is waited for; raise at a refusal."""
        digest = self._script(lua).sha

        def commands() -> Iterator[Command]:
            for keys, args in calls:
                command = Command(keys[0], packed("EVALSHA", digest, len(keys), *keys, *args))
                self._sent.append(command)
                yield command

        self._sent.clear()
        for answer in self._wire.ask(commands()):
            command, told = self._sent.popleft(), answer
            if isinstance(told, NoScriptError):
                self._client.script_load(lua)
                told = next(self._wire.ask([command]))
            self.refuse([part.decode() for part in told], number)

    def refuse(self, answer: Sequence[str], number: int) -> None:
        """Raise the error that a script's answer means, unless it is ``ok``."""
        match answer:
            case ["ok", *_]:
                return
            case ["stale", epoch]:
                raise StaleWorkerError(
                    f"one with epoch {epoch} has taken over from this worker of epoch {self.epoch}, "
                    "which must stop"
                )
            case ["gone"]:
                raise StaleWorkerError(
                    f"another worker has taken over generation {number}, so this one must stop"
                )
            case ["lost"] | ["gap"]:
                raise LostError(
                    f"Redis has lost generation {number} while it was written, as after FLUSHALL, an older "
                    "dump or an eviction; it is published again"
                )
            case ["taken", newest]:
                raise GenerationExistsError(
                    f"generation {number} is not above {newest}, the newest; take next_number()"
                )
            case ["chosen", by]:
                raise ChosenError(
                    f"an operator ({by or 'unknown'}) has chosen what is served, so generation {number} is "
                    "not put into service; driftgraph status shows the choice"
                )
            case ["not_current", current]:
                raise NotCurrentError(
                    f"generation {current or 'none'} is served, not {number}; embed again with its model"
                )
            case _:
                raise StoreError(f"unexpected answer of Redis for generation {number}: {answer}")

    def _script(self, lua: str) -> Script:
        if lua not in self._registered:
            self._registered[lua] = self._client.register_script(lua)
        return self._registered[lua]
