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

from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.sentinel import Sentinel

SENTINEL_PORT: Final = 26_379
SERVER_PORT: Final = 6_379


def client_of(url: str, options: dict[str, Any]) -> redis.Redis:
    """A client with the ``options`` of redis-py. Only a Cluster is asked at once, for its nodes.

    A client of a Cluster has the methods of ``redis.Redis`` that this package uses, and is taken for one.

    Raises:
        ValueError, TypeError: If redis-py does not know something in the address.
        redis.RedisError: If no node of a Cluster answers.
    """
    scheme, _, kind = url.partition("://")[0].lower().partition("+")
    if not kind:
        return redis.Redis.from_url(url, **options)
    parts = urlsplit(url)
    login, _, addresses = parts.netloc.rpartition("@")
    hosts = [
        host_and_port(one, SENTINEL_PORT if kind == "sentinel" else SERVER_PORT)
        for one in addresses.split(",")
    ]
    service, _, database = parts.path.strip("/").partition("/")
    # redis-py reads the rest, as if it were the address of the first host alone
    given = parse_url(f"{scheme}://{f'{login}@' if login else ''}host/{database}?{parts.query}")  # type: ignore[no-untyped-call]
    given = {name: value for name, value in given.items() if name not in ("host", "port", "connection_class")}
    all_options: dict[str, Any] = {**given, **options}
    if scheme == "rediss":
        all_options["ssl"] = True
    if kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
        return cast("redis.Redis", RedisCluster(startup_nodes=nodes, **all_options))
    of_sentinels = {
        name: all_options[name]
        for name in all_options
        if name.startswith(("ssl", "socket_")) or name == "protocol"
    }
    for name in ("username", "password"):
        if (value := all_options.pop(f"sentinel_{name}", None)) is not None:
            of_sentinels[name] = value
    sentinels = Sentinel(hosts, sentinel_kwargs=of_sentinels, **all_options)  # type: ignore[no-untyped-call]
    return cast("redis.Redis", sentinels.master_for(unquote(service)))  # type: ignore[no-untyped-call]


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[::1]:port`` in two."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or default


def is_cluster(client: redis.Redis) -> bool:
    """Whether a client is that of a Cluster."""
    return isinstance(client, RedisCluster)


def server_of(client: redis.Redis, key: str) -> redis.Redis:
    """A client of the one server that has ``key``: the client itself, unless it is that of a Cluster."""
    if not isinstance(client, RedisCluster):
        return client
    return cast("redis.Redis", client.get_redis_connection(client.get_node_from_key(key)))
