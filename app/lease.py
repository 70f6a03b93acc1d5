"""The lease: of several updaters of one name, one works.

    standby ──► [LeaseClient.take] ──► [Lease.held, Lease.check] ──► Updater
                                            │ renewed by a thread of its own, never by the poll loop
                                            └─► LeaseOwner ──► worker, which publishes under it

Keys, with ``{name}`` the updater's name, and its shard where there are several::

    {ns}:lease:{name}           HASH    token, host, pid, epoch, place of the holder; it runs out by itself
    {ns}:lease-epoch:{name}     STRING  the epoch of the last holder; it stays

Taking the lease raises the fencing epoch of publish.py in the same script, so from then on the worker of a
former holder writes nothing. Epochs are not below Redis' clock in seconds: they grow even if Redis has
forgotten the one before.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import redis

from driftgraph.app.config import Settings
from driftgraph.app.errors import DriftgraphError
from driftgraph.app.redis_schema import Keys, StoreError, connect, redis_errors

TTL_S: Final = 9.0  # how long a dead holder keeps others waiting
RENEW_S: Final = 3.0  # so that two renewals may fail
RETRY_S: Final = 1.0  # while Redis does not answer
CALL_TIMEOUT_S: Final = 2.0

log = logging.getLogger(__name__)

# KEYS lease, lease epoch, current         ARGV token, host, pid, ttl_ms, place
# Sent twice, it gives the same epoch. The fence is raised too, or an older worker could write until ours
# does. A holder of our own place is dead: its lock is ours.
TAKE = """
local token = redis.call('HGET', KEYS[1], 'token')
if token == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {'ok', redis.call('HGET', KEYS[1], 'epoch')}
end
if token and (ARGV[5] == '' or redis.call('HGET', KEYS[1], 'place') ~= ARGV[5]) then return {'held'} end
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local fence = tonumber(redis.call('HGET', KEYS[3], 'epoch') or '0')
local seconds = tonumber(redis.call('TIME')[1])
local epoch = string.format('%.0f', math.max(last + 1, fence + 1, seconds))
redis.call('SET', KEYS[2], epoch)
redis.call('HSET', KEYS[3], 'epoch', epoch)
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'host', ARGV[2], 'pid', ARGV[3], 'epoch', epoch,
           'place', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ok', epoch}
"""

# KEYS lease, lease epoch, current         ARGV token, host, pid, ttl_ms, place, epoch
# A lease that ran out, or that Redis has forgotten, is taken again unless somebody had it in between. Where
# it is still there nothing but its end changes, which a Redis at its maxmemory does too.
RENEW = """
local token = redis.call('HGET', KEYS[1], 'token')
if token == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {'ok'}
end
local holder = redis.call('HMGET', KEYS[1], 'host', 'pid')
if token then return {'lost', holder[1] or '', holder[2] or ''} end
local epoch, last = tonumber(ARGV[6]), tonumber(redis.call('GET', KEYS[2]) or '0')
if last > epoch then return {'lost', '', ''} end
local fence = tonumber(redis.call('HGET', KEYS[3], 'epoch') or '0')
redis.call('SET', KEYS[2], ARGV[6])
if fence < epoch then redis.call('HSET', KEYS[3], 'epoch', ARGV[6]) end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'host', ARGV[2], 'pid', ARGV[3], 'epoch', ARGV[6],
           'place', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ok'}
"""

# KEYS lease                               ARGV token
RELEASE = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ok'}
"""


class LeaseLostError(DriftgraphError):
    """Another updater of this name works now."""


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """Whose lease a worker publishes under."""

    name: str  # of the lease
    token: str  # of the process that holds it; says nothing outside of Redis


@dataclass(frozen=True, slots=True)
class Holder:
    """What Redis says of a lease. ``host`` is empty where nobody holds it; ``epoch`` is the last holder's."""

    host: str
    pid: str
    epoch: int


def lease_name(settings: Settings) -> str:
    """Shards of one name work beside each other, so each has its own lease."""
    shard = settings.kafka.shard
    return settings.name if settings.kafka.shard_of()[1] == 1 else f"{settings.name}:{shard}"


def elapsed_s() -> float:
    """Seconds that only grow, also while this process is stopped or the machine asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseClient:
    """What one process asks Redis about one lease. One thread at a time uses it.

    ``place`` names the lock that this process holds, if any: a lease that was taken under the same lock is a
    dead process', and is taken over at once.

    Every method raises StoreError within some seconds if Redis does not do what it should.
    """

    def __init__(
        self, client: redis.Redis, *, namespace: str, name: str, place: str = "", ttl_s: float = TTL_S
    ) -> None:
        self.owner = LeaseOwner(name, uuid.uuid4().hex)
        self.ttl_s = ttl_s
        self._client = client
        self._place = place
        keys = Keys(namespace)
        self._names = [keys.lease(name), keys.lease_epoch(name), keys.current]
        self._who = [self.owner.token, socket.gethostname(), os.getpid(), round(ttl_s * 1_000), place]
        self._scripts = {lua: client.register_script(lua) for lua in (TAKE, RENEW, RELEASE)}

    @classmethod
    def of(cls, settings: Settings, place: str) -> LeaseClient:
        """A client with a connection of its own and little patience: who asks will ask again."""
        client = connect(
            settings.redis.address(),
            connect_timeout_s=CALL_TIMEOUT_S,
            call_timeout_s=CALL_TIMEOUT_S,
            retries=0,
        )
        return cls(client, namespace=settings.redis.namespace, name=lease_name(settings), place=place)

    def holder(self) -> Holder:
        """Who has the lease; nobody if a dead process of our place does."""
        with redis_errors(self._client, "looking at the lease"):
            pipe = self._client.pipeline(transaction=True)
            pipe.hmget(self._names[0], "host", "pid", "place")
            pipe.get(self._names[1])
            (host, pid, place), epoch = cast("tuple[list[bytes | None], bytes | None]", tuple(pipe.execute()))
        is_ours = place is not None and place.decode() == self._place != ""
        return Holder("" if is_ours else (host or b"").decode(), (pid or b"").decode(), int(epoch or 0))

    def take(self) -> int | None:
        """Take the lease if nobody has it; its epoch, or None."""
        answer = self._run(TAKE, "taking the lease", self._names, self._who)
        return int(answer[1]) if answer[0] == "ok" else None

    def renew(self, epoch: int) -> Holder | None:
        """Confirm the lease; None, or who has it now."""
        answer = self._run(RENEW, "renewing the lease", self._names, [*self._who, epoch])
        return None if answer[0] == "ok" else Holder(answer[1], answer[2], 0)

    def release(self) -> None:
        """Give it up, if it is ours."""
        self._run(RELEASE, "releasing the lease", self._names[:1], self._who[:1])

    def close(self) -> None:
        """Leave Redis; the lease stays until it runs out."""
        self._client.close()

    def _run(self, lua: str, doing: str, keys: Sequence[str], args: Sequence[Any]) -> list[str]:
        with redis_errors(self._client, doing):
            return [part.decode() for part in self._scripts[lua](keys, args)]


class Lease:
    """A lease that was taken and is renewed by a thread until ``release``.

    Always true: while ``held``, Redis gives the lease to nobody else. (It runs out here before it does there,
    since time counts from before a request was sent.) So a process that was stopped for longer than the ttl
    knows when it goes on. What it had begun before, such as a write to its own data_dir, it may still end;
    what it sends to Redis is refused there.
    """

    def __init__(
        self,
        client: LeaseClient,
        epoch: int,
        taken_s: float,
        *,
        renew_s: float = RENEW_S,
        now_s: Callable[[], float] = elapsed_s,
    ) -> None:
        self.owner = client.owner
        self.epoch = epoch
        self._client = client
        self._renew_s = renew_s
        self._now_s = now_s
        self._confirmed_s = taken_s  # when the last confirmed request was about to be sent
        self._lost: str | None = None
        self._failure: str | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether it is confirmed now. Cheap: no I/O."""
        return self._lost is None and self._now_s() < self._confirmed_s + self._client.ttl_s

    def check(self) -> None:
        """Do nothing, or end this updater.

        Raises:
            LeaseLostError: Another one has the lease. (Redis being away is no reason.)
        """
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {"held": self.held, "epoch": self.epoch, "failure": self._lost or self._failure}

    def release(self) -> None:
        """Give it up at once, so that a standby goes on."""
        self._closing.set()
        self._thread.join(3 * CALL_TIMEOUT_S)
        if self.held:  # else Redis is away, and asking it once more would only delay the end
            try:
                self._client.release()
            except StoreError as error:
                log.warning("%s; a standby waits until the lease runs out", error)
        self._client.close()

    def _run(self) -> None:
        pause_s = self._renew_s
        while self._lost is None and not self._closing.wait(pause_s):
            pause_s = self._renew_s if self._renewed() else min(RETRY_S, self._renew_s)

    def _renewed(self) -> bool:
        sent_s = self._now_s()
        try:
            holder = self._client.renew(self.epoch)
        except Exception as error:  # whatever it is: without this thread nothing would ever be committed
            if self._failure is None:
                log.warning("%s; without the lease no position is committed", error)
            self._failure = str(error)
            return False
        if holder is not None:
            who = (
                f"pid {holder.pid} on {holder.host}" if holder.host else "another one, which has ended since,"
            )
            self._lost = (
                f"the updater with {who} has taken over the lease of {self.owner.name!r} while this one did "
                "not renew it; this one ends, and waits as a standby when it is started again"
            )
            return True
        if self._failure is not None:
            log.warning("the lease is confirmed again")
        self._failure = None
        self._confirmed_s = sent_s
        return True
