"""Which client an address asks for: one server, a primary that Sentinels name, or a Cluster.

    redis.url ──► [client_of] ──► redis-py's Redis, Sentinel or RedisCluster ──► keys.connect

Forms of an address, each with ``rediss`` instead of ``redis`` for TLS::

    redis://[user:password@]host[:6379][/db][?options]                             one server
    unix:///path[?options]                                                         the same
    redis+sentinel://[user:password@]host[:26379][,host…]/service[/db][?options]   the primary of a service
    redis+cluster://[user:password@]host[:6379][,host…][?options]                  a Cluster

User and password are those of the servers that hold data. Sentinels with a login of their own get it behind
the ``?``: ``sentinel_username`` and ``sentinel_password``. The other options are redis-py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from driftgraph.snapshots.generations.servers.failover import (
    AsyncPatientRetry,
    AsyncWatchedConnection,
    AsyncWatchedSSLConnection,
    PatientRetry,
    WatchedConnection,
    WatchedSSLConnection,
)

SENTINEL_PORT: Final = 26_379
SERVER_PORT: Final = 6_379


def client_of(url: str, options: dict[str, Any]) -> redis.Redis:
    """A client with the ``options`` of redis-py. Only a Cluster is asked at once, for its nodes.

    A client of a Cluster has the methods of ``redis.Redis`` that this package uses, and is taken for one.

    Raises:
        ValueError, TypeError: If redis-py does not know something in the address.
        redis.RedisError: If no node of a Cluster answers, or redis-py does not know something.
    """
    address = _taken_apart(url, options)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]  # type: ignore[no-untyped-call]
        return cast("redis.Redis", RedisCluster(startup_nodes=nodes, **address.options))
    if address.kind == "sentinel":
        once = {**address.of_sentinels, "retry": Retry(NoBackoff(), 0)}  # the next Sentinel knows it, too
        patient = {**address.options, "retry": PatientRetry(_patience_s(options))}
        patient["connection_class"] = WatchedSSLConnection if patient.get("ssl") else WatchedConnection
        sentinels = Sentinel(address.hosts, sentinel_kwargs=once, **patient)  # type: ignore[no-untyped-call]
        client = cast("redis.Redis", sentinels.master_for(address.service))  # type: ignore[no-untyped-call]
    else:
        client = redis.Redis.from_url(url, **address.options)
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)  # finds an option that it does not know
    return client


def async_client_of(url: str, options: dict[str, Any]) -> redis.asyncio.Redis:
    """As ``client_of``, for asyncio. Nothing is asked yet."""
    address = _taken_apart(url, options)
    if address.kind == "cluster":
        nodes = [AsyncClusterNode(host, port) for host, port in address.hosts]
        return cast("redis.asyncio.Redis", AsyncRedisCluster(startup_nodes=nodes, **address.options))
    client: redis.asyncio.Redis
    if address.kind == "sentinel":
        once = {**address.of_sentinels, "retry": AsyncRetry(NoBackoff(), 0)}
        patient = {**address.options, "retry": AsyncPatientRetry(_patience_s(options))}
        is_tls = patient.get("ssl")
        patient["connection_class"] = AsyncWatchedSSLConnection if is_tls else AsyncWatchedConnection
        sentinels = AsyncSentinel(address.hosts, sentinel_kwargs=once, **patient)  # type: ignore[no-untyped-call]
        client = sentinels.master_for(address.service, connection_pool_class=_AsyncPool)
    else:
        client = redis.asyncio.Redis.from_url(url, **address.options)
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


def _patience_s(options: dict[str, Any]) -> float:
    """How long all but the last try take in a server that is silent: so long a failover is waited for."""
    return float(options["retry"].get_retries() * options["socket_timeout"])


class _AsyncPool(AsyncSentinelConnectionPool):
    """Closes the connections to the Sentinels with its own."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


class _Address(NamedTuple):
    kind: str  # sentinel, cluster or nothing: one server, whose address redis-py reads
    options: dict[str, Any]
    hosts: Sequence[tuple[str, int]] = ()
    service: str = ""
    of_sentinels: Mapping[str, Any] = MappingProxyType({})  # options of the connections to Sentinels


def _taken_apart(url: str, options: dict[str, Any]) -> _Address:
    scheme, _, kind = url.partition("://")[0].lower().partition("+")
    if kind != "cluster":
        options = {**options, "retry_on_error": [redis.ConnectionError, redis.TimeoutError]}
    if not kind:
        return _Address(kind, options)
    parts = urlsplit(url)
    login, _, addresses = parts.netloc.rpartition("@")
    port = SENTINEL_PORT if kind == "sentinel" else SERVER_PORT
    hosts = [host_and_port(one, port) for one in addresses.split(",")]
    service, _, database = parts.path.strip("/").partition("/")
    # redis-py reads the rest, as if it were the address of the first host alone
    given = parse_url(f"{scheme}://{f'{login}@' if login else ''}host/{database}?{parts.query}")  # type: ignore[no-untyped-call]
    given = {name: value for name, value in given.items() if name not in ("host", "port", "connection_class")}
    all_options: dict[str, Any] = {**given, **options}
    if scheme == "rediss":
        all_options["ssl"] = True
    if kind == "cluster":
        return _Address(kind, all_options, hosts)
    of_sentinels = {
        name: all_options[name]
        for name in all_options
        if name.startswith(("ssl", "socket_")) or name == "protocol"
    }
    for name in ("username", "password"):
        if (value := all_options.pop(f"sentinel_{name}", None)) is not None:
            of_sentinels[name] = value
    return _Address(kind, all_options, hosts, unquote(service), of_sentinels)


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[::1]:port`` in two."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or default


def is_cluster(client: redis.Redis | redis.asyncio.Redis) -> bool:
    """Whether a client is that of a Cluster."""
    return isinstance(client, RedisCluster | AsyncRedisCluster)


def server_of(client: redis.Redis, key: str) -> redis.Redis:
    """A client of the one server that has ``key``: the client itself, unless it is that of a Cluster."""
    if not isinstance(client, RedisCluster):
        return client
    node = cast("ClusterNode", client.get_node_from_key(key))  # None only where a replica is asked for
    return cast("redis.Redis", client.get_redis_connection(node))


def follow_primary(client: redis.Redis) -> None:
    """Ask the Sentinels of a client which server is the primary; connections to another one are left.

    A former primary takes writes for some ten seconds, until the Sentinels make it a replica, and loses them
    then. Without an answer of the Sentinels the connections stay.
    """
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        with suppress(redis.RedisError):
            pool.get_master_address()  # type: ignore[no-untyped-call]


def is_watched(client: redis.Redis | redis.asyncio.Redis) -> bool:
    """Whether Sentinels name the server, so that another one takes over from it."""
    pool = getattr(client, "connection_pool", None)
    return isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool)


def describe(client: redis.Redis | redis.asyncio.Redis) -> str:
    """The address of a client's server for an error message, without the password."""
    if is_cluster(client):
        manager = cast("Any", client).nodes_manager
        nodes = (manager.nodes_cache or manager.startup_nodes).values()
        return ",".join(sorted(f"{node.host}:{node.port}" for node in nodes if node.server_type != "replica"))
    settings: dict[str, Any] = client.connection_pool.connection_kwargs
    if "path" in settings:
        return f"unix:{settings['path']}"
    if (service := getattr(client.connection_pool, "service_name", None)) is not None:
        return f"the primary of {service!r}"
    return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
