"""What an operator has put into service: rollback, promote, and the hold that stops further publishes.

    driftgraph rollback, promote ──► [Choices] ──► {ns}:emb:current ──► Worker, which follows; readers

Each act has a number, the time in ms at which it was done, and a later act always has a higher one. A
publisher says with each switch up to which act its model follows; the switch is refused if there is a newer
one. So a fit that was under way when an operator acted cannot undo the act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

import redis

from driftgraph.snapshots.generations.keys import (
    GoneError,
    Keys,
    NothingToRollBackError,
    StoreError,
    redis_errors,
)
from driftgraph.snapshots.generations.retention import GenerationKeys
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.servers.topologies import follow_primary

Hold = Literal["1", "0", ""]  # from now on; no longer; as it is
FIELDS: Final = ("gen", "choice", "chosen", "chosen_by", "held")

# KEYS current, generations, manifest of the target, its id lists
# ARGV epoch, from, to, channel, event, hold, by
# The caller names both generations: a script must be given its keys, and one that is sent twice must not go
# back twice. A generation whose keys ran out is no target. A rollback after a step forward leads back to
# where the step began, else to the next lower generation.
CHOOSE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if tonumber(ARGV[1]) < epoch then return {'stale', tostring(epoch)} end
local gen, from, to = redis.call('HGET', KEYS[1], 'gen') or '', ARGV[2], ARGV[3]
if gen == to and from ~= to then return {'ok'} end
local previous = redis.call('HGET', KEYS[1], 'previous') or '0'
if gen ~= from or (ARGV[5] == 'rolled_back' and previous ~= to) then return {'moved', gen} end
if redis.call('HGET', KEYS[3], 'status') ~= 'live' or redis.call('EXISTS', KEYS[4], KEYS[5]) ~= 2 then
  return {'gone'}
end
local chosen = redis.call('HGET', KEYS[1], 'chosen') or '0'
if from ~= to then
  local lower = redis.call('ZREVRANGEBYSCORE', KEYS[2], '(' .. to, '-inf', 'LIMIT', 0, 1)[1] or '0'
  previous, chosen = tonumber(from) < tonumber(to) and from or lower, to
end
local now = redis.call('TIME')
local newest = tonumber(redis.call('HGET', KEYS[1], 'choice') or '0')
local act = string.format('%.0f', math.max(newest + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
local held = ARGV[6] ~= '' and ARGV[6] or redis.call('HGET', KEYS[1], 'held') or '0'
redis.call('PERSIST', KEYS[1])  -- so that the next write is no first one: a full Redis is rolled back, too
redis.call('HSET', KEYS[1], 'gen', to, 'previous', previous, 'choice', act, 'chosen', chosen,
           'chosen_by', ARGV[7], 'held', held)
if from == to then return {'ok', ''} end
local told = redis.pcall('PUBLISH', ARGV[4], cjson.encode({event = ARGV[5], gen = tonumber(to),
                                                          previous = tonumber(from)}))
return {'ok', type(told) == 'table' and told.err or ''}
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """The newest act of an operator. ``act_ms`` is its number and its time, 0 if there was none."""

    act_ms: int = 0
    by: str = ""  # user@host, as far as known
    is_held: bool = False  # nothing else is published until promote ends the hold
    generation: int = 0  # that the operator put into service; 0 if another was published since
    served: int = 0  # the generation that is served now

    def number(self) -> int:
        """For comparing two."""
        return self.act_ms

    def to_json(self) -> dict[str, int | str | bool | None]:
        """For people and programs: when it was done, by whom, and what it has chosen (null: a hold alone)."""
        return {
            "at_ms": self.act_ms,
            "by": self.by,
            "generation": self.generation or None,
            "held": self.is_held,
        }

    def said(self) -> str:
        """Who did it, for a sentence."""
        return f"an operator ({self.by})" if self.by else "an operator"


def switch_args(follows: Choice | None) -> list[str | int]:
    """The last arguments of the script SWITCH: the act that a publisher follows, by whom, whether it holds.

    A Redis that has forgotten the act gets it again, with its hold.
    """
    return ["", "", "0"] if follows is None else [follows.act_ms, follows.by, "1" if follows.is_held else "0"]


class Choices:
    """Which generation of a namespace is served, as an operator decides it.

    Every method raises StoreError, as those of GenerationStore do, which owns this.
    """

    def __init__(
        self, client: redis.Redis, keys: Keys, calls: Scripts, tended: GenerationKeys, *, epoch: int
    ) -> None:
        self._client = client
        self._keys = keys
        self._calls = calls
        self._tended = tended
        self._epoch = epoch

    def newest(self) -> Choice:
        """The newest act, and what is served."""
        with redis_errors(self._client, "looking what an operator has chosen"):
            found = cast("list[bytes | None]", self._client.hmget(self._keys.current, FIELDS))
        gen, act, chosen, by, held = ((value or b"").decode() for value in found)
        served = int(gen or 0)
        own = served if served and int(chosen or 0) == served else 0
        return Choice(int(act or 0), by, held == "1", own, served)

    def rollback(self, *, hold: bool = False, by: str = "") -> tuple[int, list[str]]:
        """Serve the generation before the served one; the number of it, and the answer of the script.

        A hold that is on stays on. The generation that was left stays until it is among the oldest, and no
        rollback leads to it.

        Raises:
            NothingToRollBackError: There is no earlier generation, or its keys have run out.
        """
        follow_primary(self._client)
        with redis_errors(self._client, "rolling back"):
            left, target = self._tended.current()
            if not left:
                raise NothingToRollBackError(
                    f"namespace {self._keys.namespace!r} has no generation; publish one first"
                )
            if not target:
                raise NothingToRollBackError(f"there is no generation before {left} to go back to")
            answer = self._choose(left, target, "rolled_back", "1" if hold else "", by)
            if answer[0] == "gone":
                raise NothingToRollBackError(
                    f"generation {target}, the one before {left}, is no longer there: its keys have expired "
                    "or are being removed"
                )
        return target, answer

    def promote(self, number: int | None, *, hold: bool = False, by: str = "") -> tuple[int, list[str]]:
        """Serve a kept generation, older or newer, by default the newest; its number, and the answer.

        Without ``hold`` this ends a hold.

        Raises:
            GoneError: The generation is not kept, or keys of it are missing. What is served stays.
        """
        follow_primary(self._client)
        with redis_errors(self._client, "promoting a generation"):
            served, _ = self._tended.current()
            kept = self._tended.live()
            if not kept or not served:
                raise GoneError(f"namespace {self._keys.namespace!r} has no generation; publish one first")
            target = kept[-1] if number is None else number
            if target not in kept:
                raise GoneError(
                    f"generation {target} is not there: Redis keeps {', '.join(map(str, kept))} (redis.keep "
                    "says how many, redis.ttl how long); promote one of these"
                )
            if missing := self._tended.missing(target):
                others = ", ".join(str(n) for n in kept if n != target) or "none"
                raise GoneError(
                    f"generation {target} has lost {missing:,} keys, so it stays out of service: set the "
                    f"maxmemory-policy of Redis to noeviction, and promote another one (kept: {others})"
                )
            answer = self._choose(served, target, "promoted", "1" if hold else "0", by)
            if answer[0] == "gone":
                raise GoneError(f"the keys of generation {target} have expired just now; promote another one")
        return target, answer

    def _choose(self, served: int, target: int, event: str, hold: Hold, by: str) -> list[str]:
        keys = self._keys
        names = [keys.current, keys.generations, keys.of(target, "manifest")]
        names += self._tended.must_have(target)
        args = [self._epoch, served, target, keys.events, event, hold, by]
        answer = self._calls.run(CHOOSE, names, args)
        if answer[0] == "moved":
            raise StoreError(f"generation {served} was replaced by {answer[1]} meanwhile; look and try again")
        if answer[0] != "gone":
            self._calls.refuse(answer, target)
        return answer
