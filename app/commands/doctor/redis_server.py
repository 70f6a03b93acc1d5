"""The checks of ``driftgraph doctor`` on Redis: its version, its memory policy, the rights of the user.

    settings ──► [redis_checks] ──► Check, Check, …

Every right is tried with its command, on keys of the namespace that are removed at the end. The channel of
switches gets {"event": "checked"}.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import redis

from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.config.builders import generation_store, lease_client
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.output import time_of
from driftgraph.snapshots.generations.keys import Keys, connect, redis_errors, require_usable
from driftgraph.snapshots.generations.memory import feast_bytes, hash_bytes, index_bytes
from driftgraph.snapshots.generations.memory import told as told_bytes
from driftgraph.snapshots.generations.servers.rights import (
    VECTOR_SETS,
    WRITER,
    has_vector_sets,
    is_refused_right,
)
from driftgraph.snapshots.generations.servers.topologies import is_cluster, server_of
from driftgraph.snapshots.generations.vector_forms import bytes_of

CHECKED: Final = '{"event": "checked"}'
CONVENIENCES: Final = {"publish", "info", "srem", *VECTOR_SETS}  # a run works without these rights, with less
ID_BYTES: Final = 12  # of an id, while nobody knows better
TOUCHED_GUESS: Final = 20  # items that a user has touched, of TOUCHED_MAX
SCRIPT: Final = "return 1"
SCRATCH: Final = ("hash", "list", "zset", "set", "text", "vectors")


def redis_checks(settings: Settings) -> Iterator[Check]:
    """Check Redis as ``run`` would use it.

    Raises:
        StoreError: If Redis does not answer or refuses the login.
    """
    client = connect(settings.redis.address())
    with contextlib.closing(client):
        keys = Keys(settings.redis.namespace)
        require_usable(client, keys)
        with redis_errors(client, "looking for the node of the namespace"):
            server = server_of(client, keys.current)  # a Cluster's other nodes are taken to be like it
        info = _info(server)
        yield from _server(settings, server, info)
        yield from _size(settings, client, info)
        missing = _refused(server, keys)
        yield _rights(settings, missing)
        if missing.keys() <= CONVENIENCES:
            yield from _held(settings, client)
            yield from _holder(settings)


def _info(client: redis.Redis) -> Mapping[str, Any]:
    """What Redis says about itself; nothing if its user may not ask."""
    with redis_errors(client, "asking what it is"):
        try:
            return cast("Mapping[str, Any]", client.info())
        except redis.RedisError as error:
            if not is_refused_right(error):
                raise
            return {}


def _server(settings: Settings, client: redis.Redis, info: Mapping[str, Any]) -> Iterator[Check]:
    """Check its version, its vector sets, and what it does when it is full."""
    with redis_errors(client, "asking what it is"):
        try:
            sets = has_vector_sets(client, Keys(settings.redis.namespace).of(0, "items"))
            told = "with vector sets" if sets else "without vector sets, so readers rank by themselves"
        except redis.RedisError as error:
            if not is_refused_right(error):
                raise
            told = "whose vector sets its user may not use"
    yield Check("redis", State.OK, f"{settings.redis.public_url()}: {_named(info)}, {told}")
    limit, policy = info.get("maxmemory", 0), str(info.get("maxmemory_policy", "noeviction"))
    if limit and policy.startswith("allkeys"):
        detail = f"maxmemory-policy {policy} removes vectors that are served: set it to noeviction"
        yield Check("redis memory", State.FAIL, detail)
    elif limit and policy != "noeviction":
        detail = f"maxmemory-policy {policy} removes generations to go back to: set it to noeviction"
        yield Check("redis memory", State.WARN, detail)
    elif info:
        most = f"at most {limit / 1e9:.2f} GB" if limit else "no limit"
        yield Check("redis memory", State.OK, f"{policy}, {most}")


def _named(info: Mapping[str, Any]) -> str:
    """Which server it is: one that is compatible says for ``redis_version`` what it is compatible with."""
    if version := info.get("valkey_version"):
        return f"Valkey {version}"
    return f"Redis {info.get('redis_version', 'of a version that its user may not ask for')}"


def _size(settings: Settings, client: redis.Redis, info: Mapping[str, Any]) -> Iterator[Check]:
    """Say how much memory a user and an item take, and check that the generations of what is served fit."""
    own, dim, relations = settings.publish, settings.model.dim, len(settings.relations)
    lists = {"user": own.lists, "item": own.similar}
    size = {}
    for side, length in lists.items():
        values = [bytes_of(own.vectors, dim), 4 * relations]
        values += [TOUCHED_GUESS * (ID_BYTES + 3)] if side == "user" else []
        size[side] = hash_bytes(ID_BYTES, values + ([length * (ID_BYTES + 3), 4 * length] if length else []))
    size["item"] += index_bytes(ID_BYTES, dim, own.index)
    each = (
        f"about {told_bytes(size['user'])} a user and {told_bytes(size['item'])} an item with ids of "
        f"{ID_BYTES} bytes, in each of {settings.redis.keep + 1} generations"
    )
    copy = feast_bytes(ID_BYTES, dim) if own.feast else 0.0
    if own.feast:
        each += f", and about {told_bytes(copy)} of either once, for Feast"
    with redis_errors(client, "looking at what is served"):
        try:
            served = read_served(client, settings.redis.namespace)
        except redis.RedisError as error:
            if not is_refused_right(error):
                raise
            served = None  # the check of the rights says so
    if served is None:
        yield Check("redis size", State.OK, each)
        return
    users, items = served
    needed = (settings.redis.keep + 1) * (users * size["user"] + items * size["item"])
    needed += copy * (users + items)
    limit = int(info.get("maxmemory", 0))
    detail = f"{each}: {told_bytes(needed)} for the {users:,} users and {items:,} items that are served"
    if limit and needed > limit and not is_cluster(client):
        yield Check("redis size", State.FAIL, f"{detail}, more than its maxmemory of {told_bytes(limit)}")
    else:
        yield Check("redis size", State.OK, detail)


def read_served(client: redis.Redis, namespace: str) -> tuple[int, int] | None:
    """How many users and items the served generation has."""
    keys = Keys(namespace)
    gen = cast("bytes | None", client.hget(keys.current, "gen"))
    found = cast("list[bytes | None]", client.hmget(keys.of(int(gen or 0), "manifest"), ["users", "items"]))
    return (int(found[0] or 0), int(found[1] or 0)) if found[0] else None


def _rights(settings: Settings, missing: Mapping[str, str]) -> Check:
    """Check which commands are refused; say what that costs, and the ACL rule that would allow them."""
    keys = Keys(settings.redis.namespace)
    if not missing:
        return Check("redis rights", State.OK, "its user may do all that is needed")
    rules = [f"~{keys.namespace}:*"] if any("access a key" in why for why in missing.values()) else []
    rules += [f"&{keys.events}"] if "access a channel" in missing.get("publish", "") else []
    rules += [f"+{name}" for name, why in missing.items() if "access a" not in why]
    costs = []
    if "publish" in missing:
        costs.append("nobody is told of a new generation")
    if missing.keys() & set(VECTOR_SETS):
        costs.append("readers rank by themselves")
    fails = bool(missing.keys() - CONVENIENCES)
    what = "nothing can be published" if fails else "; ".join(costs) or "a full Redis cannot be told"
    user = settings.redis.username or "USER"
    return Check(
        "redis rights",
        State.FAIL if fails else State.WARN,
        f"its user may not {', '.join(missing)}, so {what}: ACL SETUSER {user} {' '.join(rules)}",
    )


def _refused(client: redis.Redis, keys: Keys) -> dict[str, str]:
    """Try every command; return those that are refused, each with the error of Redis."""
    scratch = f"{keys.namespace}:emb:doctor-{uuid.uuid4().hex[:12]}"
    missing: dict[str, str] = {}
    try:
        with redis_errors(client, "trying what its user may do"):
            for name, command in _attempts(scratch, keys, client).items():
                try:
                    client.execute_command(*command)  # type: ignore[no-untyped-call]
                except redis.RedisError as error:
                    if is_refused_right(error):
                        missing[name] = str(error)
                    elif not (name in VECTOR_SETS and "unknown command" in str(error)):
                        raise
            with client.client() as one:  # type: ignore[no-untyped-call]  # a transaction needs one connection
                for name in ("multi", "exec"):
                    try:
                        one.execute_command(name.upper())
                    except redis.RedisError as error:
                        if is_refused_right(error):
                            missing[name] = str(error)
    finally:
        for kind in SCRATCH:
            with contextlib.suppress(redis.RedisError):
                client.unlink(f"{scratch}:{kind}")
    return missing


def _attempts(scratch: str, keys: Keys, client: redis.Redis) -> dict[str, tuple[Any, ...]]:
    """A harmless call of each command but MULTI and EXEC; those that write come first."""
    table, items, ranked, members, text, vectors = (f"{scratch}:{kind}" for kind in SCRATCH)
    database = cast("int", client.connection_pool.connection_kwargs.get("db", 0))
    sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"  # the digest of SCRIPT
    calls: dict[str, tuple[Any, ...]] = {
        "hset": (table, "n", 1), "hget": (table, "n"), "hmget": (table, "n"), "hgetall": (table,),
        "hexists": (table, "n"), "hincrby": (table, "n", 1), "hdel": (table, "m"),
        "rpush": (items, "a"), "llen": (items,), "lrange": (items, 0, 1), "lpos": (items, "a"),
        "lrem": (items, 0, "b"), "ltrim": (items, 0, 1),
        "zadd": (ranked, 1, "a"), "zrange": (ranked, 0, 1), "zrevrange": (ranked, 0, 1),
        "zrevrangebyscore": (ranked, 2, 0), "zunion": (1, ranked), "zrem": (ranked, "b"),
        "sadd": (members, "a"), "smembers": (members,), "srem": (members, "b"),
        "set": (text, "a"), "get": (text,), "exists": (text,), "expire": (text, 60), "persist": (text,),
        "pexpire": (text, 60_000), "pttl": (text,), "time": (), "select": (database,), "info": ("server",),
        "vadd": (vectors, "VALUES", 1, 1, "a"), "vcard": (vectors,), "vsim": (vectors, "VALUES", 1, 1),
        "vrem": (vectors, "b"),
        "script|load": (SCRIPT,), "script|exists": (sha,), "evalsha": (sha, 0),
        "publish": (keys.events, CHECKED),
        "del": (text,), "unlink": (table,),
    }  # fmt: skip
    return {name: (*name.upper().split("|"), *calls[name]) for name in (*calls,) if name in WRITER}


def _held(settings: Settings, client: redis.Redis) -> Iterator[Check]:
    """Say whether an operator holds what is served."""
    choice = generation_store(settings, client, epoch=0).choices.newest()
    if choice.is_held:
        who, when = choice.said(), time_of(choice.act_ms)
        detail = f"{who} holds generation {choice.served} since {when}: driftgraph promote ends the hold"
        yield Check("redis hold", State.WARN, detail)


def _holder(settings: Settings) -> Iterator[Check]:
    """Check whether another updater publishes into the namespace."""
    lease = lease_client(settings)
    try:
        holder = lease.holder()
    finally:
        lease.close()
    if holder.host and not lease.is_own(holder):
        yield Check("redis namespace", State.FAIL, str(lease.taken_by(holder)))
    elif holder.host:
        said = f"{lease.namespace}: the updater with pid {holder.pid} on {holder.host} publishes into it"
        yield Check("redis namespace", State.OK, said)
    else:
        yield Check("redis namespace", State.OK, f"{lease.namespace}: nobody publishes into it now")
