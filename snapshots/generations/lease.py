"""The lease: only one of several updaters that publish into one namespace works.

    standby ──► [LeaseClient.take] ──► [Lease.held, Lease.check] ──► Updater
                                            │ renewed by a thread of its own, never by the poll loop
                                            └─► LeaseOwner ──► worker, which publishes under it

Keys::

    {ns}:lease           HASH    name, topic, token, host, pid, epoch, place of the holder; it runs out
    {ns}:lease-epoch     STRING  the epoch of the last holder; it stays

A second updater of the holder's name waits as its standby. An updater of another name or shard is refused:
the two would take turns for ever, each removing the other's generations. So is one of the same name that
follows another topic: it would replace what is served by what another topic says. A replay into a namespace
holds the lease, too.

Taking the lease raises the fencing epoch of store.py in the same script, so from then on the worker of a
former holder writes nothing. Epochs are not below Redis' clock in seconds: they grow even if Redis has
forgotten the previous epoch.
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

from driftgraph.snapshots.generations.keys import (
    Keys,
    StaleWorkerError,
    StoreError,
    connect,
    redis_errors,
    require_usable,
)
from driftgraph.snapshots.generations.servers.topologies import describe
from driftgraph.stream.errors import DriftgraphError

TTL_S: Final = 9.0  # how long a dead holder keeps others waiting
RENEW_S: Final = 3.0  # so that two renewals may fail
RETRY_S: Final = 1.0  # while Redis does not answer
CALL_TIMEOUT_S: Final = 2.0
LOOK_EVERY_S: Final = 0.5  # how often a standby asks for it

log = logging.getLogger(__name__)

# KEYS lease, lease epoch, current         ARGV token, host, pid, ttl_ms, place, name, topic
# Sent twice, it gives the same epoch. The fence is raised too, or an older worker could write until ours
# does. A holder of our own place is dead: its lock is ours. Without the right to PEXPIRE the lease would stay
# for ever, so it is removed. (Asking for that right first would lead past maxmemory: see scripts.py.)
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
           'place', ARGV[5], 'name', ARGV[6], 'topic', ARGV[7])
local ends = redis.pcall('PEXPIRE', KEYS[1], ARGV[4])
if type(ends) == 'table' then
  redis.call('DEL', KEYS[1])
  return redis.error_reply(ends.err)
end
return {'ok', epoch}
"""

# KEYS lease, lease epoch, current         ARGV token, host, pid, ttl_ms, place, name, topic, epoch
# A lease that ran out, or that Redis has forgotten, is taken again unless another process had it in between.
# If it still exists only its end changes, which works also in a Redis at its maxmemory.
RENEW = """
local token = redis.call('HGET', KEYS[1], 'token')
if token == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {'ok'}
end
local holder = redis.call('HMGET', KEYS[1], 'host', 'pid', 'name', 'topic')
if token then return {'lost', holder[1] or '', holder[2] or '', holder[3] or '', holder[4] or ''} end
local epoch, last = tonumber(ARGV[8]), tonumber(redis.call('GET', KEYS[2]) or '0')
if last > epoch then return {'lost', '', '', '', ''} end
local fence = tonumber(redis.call('HGET', KEYS[3], 'epoch') or '0')
redis.call('SET', KEYS[2], ARGV[8])
if fence < epoch then redis.call('HSET', KEYS[3], 'epoch', ARGV[8]) end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'host', ARGV[2], 'pid', ARGV[3], 'epoch', ARGV[8],
           'place', ARGV[5], 'name', ARGV[6], 'topic', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ok'}
"""

# KEYS lease                               ARGV token
RELEASE = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ok'}
"""


# KEYS current, lease                      ARGV token of the lease
# A worker gets an epoch of its own only while its updater holds the lease. A full Redis cannot store the
# epoch, but must let the worker remove keys; no other worker can write then, either.
FENCE = """
local holder = redis.call('HGET', KEYS[2], 'token')
if not holder then return {'no_lease'} end
if holder ~= ARGV[1] then return {'other_lease', redis.call('HGET', KEYS[2], 'pid') or ''} end
local epoch = string.format('%.0f', tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') + 1)
redis.pcall('HSET', KEYS[1], 'epoch', epoch)
return {'ok', epoch}
"""


class LeaseLostError(DriftgraphError):
    """Another updater has the lease now."""


class NamespaceTakenError(DriftgraphError):
    """An updater of another name or topic, or a replay, publishes into the namespace."""


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """The updater under whose lease a worker publishes."""

    name: str  # of the updater, and its shard where there are several
    token: str  # of the process that holds the lease; it is used only in Redis


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a lease in Redis. ``host`` is empty without one; ``epoch`` is the last holder's."""

    host: str
    pid: str
    epoch: int
    name: str = ""
    left_ms: int = 0  # time until it runs out
    topic: str = ""  # that it follows; empty for a replay, and for a version that did not say it

    def lives(self, before: Holder) -> bool:
        """Whether it is the same holder as ``before`` and has renewed the lease since."""
        return (self.host, self.pid) == (before.host, before.pid) and self.left_ms > before.left_ms


NOBODY: Final = Holder("", "", 0)


def read_epoch(client: redis.Redis, namespace: str) -> int:
    """The current fencing epoch, for an operator's command, which acts beside the worker."""
    with redis_errors(client, "reading the epoch"):
        return int(cast("bytes | None", client.hget(Keys(namespace).current, "epoch")) or 0)


def raise_epoch(client: redis.Redis, namespace: str, owner: LeaseOwner) -> int:
    """Raise the fencing epoch by one, for the worker of the updater that holds the lease, and return it.

    Raises:
        StaleWorkerError: If another updater holds the lease.
        StoreError: If no updater holds it at the moment, or Redis does not answer; the caller tries again.
    """
    keys = Keys(namespace)
    with redis_errors(client, "raising the epoch"):
        script = client.register_script(FENCE)
        answer = [part.decode() for part in script([keys.current, keys.lease], [owner.token])]
    match answer:
        case ["ok", epoch]:
            return int(epoch)
        case ["other_lease", pid]:
            raise StaleWorkerError(
                f"the updater with pid {pid} has taken over the lease from {owner.name!r}, "
                "so this worker must stop"
            )
        case _:
            raise StoreError(f"{owner.name!r} does not have the lease just now, so nothing is published")


def elapsed_s() -> float:
    """Seconds of a clock that never goes back and runs also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def impatient(url: str) -> redis.Redis:
    """A client that gives up after one short try, for a caller that asks again."""
    return connect(url, connect_timeout_s=CALL_TIMEOUT_S, call_timeout_s=CALL_TIMEOUT_S, retries=0)


class LeaseClient:
    """The requests of one process to Redis about one lease. One thread at a time uses it.

    ``place`` names the lock that this process holds, if any. A lease that was taken under the same lock
    belongs to a dead process, and is taken over at once.

    Every method raises StoreError within some seconds if Redis does not answer as it should.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        name: str,
        topic: str = "",
        place: str = "",
        ttl_s: float = TTL_S,
    ) -> None:
        self.owner = LeaseOwner(name, uuid.uuid4().hex)
        self.ttl_s = ttl_s
        self._client = client
        self._place = place
        self._topic = topic
        self.namespace = namespace
        keys = Keys(namespace)
        require_usable(client, keys)
        self._names = [keys.lease, keys.lease_epoch, keys.current]
        self._who = [self.owner.token, socket.gethostname(), os.getpid(), round(ttl_s * 1_000), place]
        self._who += [name, topic]
        self._scripts = {lua: client.register_script(lua) for lua in (TAKE, RENEW, RELEASE)}

    def is_own(self, holder: Holder) -> bool:
        """Whether ``holder`` has our name and follows our topic: one of the two is the other's standby."""
        is_other_topic = "" != holder.topic != self._topic != ""
        return holder.name == self.owner.name and not is_other_topic

    def taken_by(self, holder: Holder) -> NamespaceTakenError:
        """The error that says that ``holder`` publishes into the namespace, and what to do."""
        follows = f", which follows topic {holder.topic}" if holder.topic else ""
        return NamespaceTakenError(
            f"namespace {self.namespace!r} in Redis at {describe(self._client)} is in use by {holder.name!r} "
            f"(pid {holder.pid} on {holder.host}){follows}, and two that publish into one would remove each "
            "other's generations; set redis.namespace to another name, or stop that one first"
        )

    def take_alone(self) -> Lease:
        """Take the lease; a holder has some seconds to show that it lives.

        Raises:
            NamespaceTakenError: If the holder lives.
            StoreError: If Redis does not answer as it should.
        """
        before = NOBODY
        while True:
            holder = self.holder()
            if holder.host and holder.lives(before):
                raise self.taken_by(holder)
            taken_s = elapsed_s()
            if not holder.host and (epoch := self.take()) is not None:
                return Lease(self, epoch, taken_s)
            before = holder
            time.sleep(LOOK_EVERY_S)

    def holder(self) -> Holder:
        """The holder of the lease; a dead process of our own place does not count."""
        with redis_errors(self._client, "looking at the lease"):
            pipe = self._client.pipeline(transaction=True)
            pipe.hmget(self._names[0], "host", "pid", "place", "name", "topic")
            pipe.get(self._names[1])
            pipe.pttl(self._names[0])
            told, epoch, left_ms = cast("tuple[list[bytes | None], bytes | None, int]", tuple(pipe.execute()))
        host, pid, place, name, topic = ((part or b"").decode() for part in told)
        live_host = "" if place == self._place != "" else host
        return Holder(live_host, pid, int(epoch or 0), name, left_ms, topic)

    def take(self) -> int | None:
        """Take the lease if it is free. Returns its epoch, or None."""
        answer = self._run(TAKE, "taking the lease", self._names, self._who)
        return int(answer[1]) if answer[0] == "ok" else None

    def renew(self, epoch: int) -> Holder | None:
        """Renew the lease. Returns None, or the holder who has it now."""
        answer = self._run(RENEW, "renewing the lease", self._names, [*self._who, epoch])
        return None if answer[0] == "ok" else Holder(answer[1], answer[2], 0, answer[3], topic=answer[4])

    def release(self) -> None:
        """Give the lease up, if it is ours."""
        self._run(RELEASE, "releasing the lease", self._names[:1], self._who[:1])

    def close(self) -> None:
        """Close the connection. The lease stays until it runs out."""
        self._client.close()

    def _run(self, lua: str, doing: str, keys: Sequence[str], args: Sequence[Any]) -> list[str]:
        with redis_errors(self._client, doing):
            return [part.decode() for part in self._scripts[lua](keys, args)]


class Lease:
    """A lease that was taken and is renewed by a thread until ``release``.

    Always true: while ``held``, Redis gives the lease to no other process. (It runs out here before it does
    in Redis, since time counts from before a request was sent.) So a process that was stopped for longer than
    the ttl notices that when it goes on. It may still end a write to its own data_dir that it had begun;
    Redis refuses its writes.
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
        """Whether the lease is confirmed at the moment. No I/O."""
        return self._lost is None and self._now_s() < self._confirmed_s + self._client.ttl_s

    def check(self) -> None:
        """Do nothing, or end this updater.

        Raises:
            LeaseLostError: If another updater has the lease. (That Redis is away is no reason.)
        """
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {"held": self.held, "epoch": self.epoch, "failure": self._lost or self._failure}

    def release(self) -> None:
        """Give the lease up at once, so that a standby goes on."""
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
        except Exception as error:  # any error: without this thread nothing would ever be committed
            if self._failure is None:
                log.warning("%s; without the lease no position is committed", error)
            self._failure = str(error)
            return False
        if holder is not None:
            who = (
                f"pid {holder.pid} on {holder.host}" if holder.host else "another one, which has ended since,"
            )
            again = "waits as a standby when it is started again"
            if holder.name and not self._client.is_own(holder):
                who, again = f"{who}, {holder.name!r},", "needs a redis.namespace of its own beside that one"
            self._lost = (
                f"the updater with {who} has taken over the lease of {self.owner.name!r} while this one did "
                f"not renew it; this one ends, and {again}"
            )
            return True
        if self._failure is not None:
            log.warning("the lease is confirmed again")
        self._failure = None
        self._confirmed_s = sent_s
        return True
