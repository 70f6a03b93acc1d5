"""How much memory of Redis a generation takes, computed before it is written.

    GenerationStore.publish, doctor ──► [hash_bytes, index_bytes, feast_bytes, generation_bytes] ──► bytes

The constants are measured with Redis 8.2 on 64 bits (jemalloc): the results were within 6 % for 32 to 128
dimensions, ids of 8 to 36 characters, with and without lists (benchmarks/publish.py compares them again).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import redis
from redis.cluster import RedisCluster

from driftgraph.snapshots.generations.calls import index_effort
from driftgraph.snapshots.generations.keys import Keys, RedisFullError
from driftgraph.snapshots.generations.servers.rights import is_refused_right
from driftgraph.snapshots.generations.servers.topologies import describe, server_of
from driftgraph.snapshots.generations.vector_forms import bytes_of
from driftgraph.snapshots.generations.vectors import Vectors

HASH_BYTES = 290  # of a hash with its key, beside the id and the values: embedding, gen and event_ms
FIELD_BYTES = 50  # of each further field, beside its value
HEADER_BYTES = 4  # of a text in Redis
ITEM_IN_INDEX_BYTES = 600  # of an item in a vector set, beside id and vector, at M = 8
LINK_BYTES = 30  # for each neighbor more than that
INDEX_M = 8
FEAST_BYTES = 380  # of a copy for Feast: its hash with key, time and generation, and its place among the ids
VALUE_BYTES = 6  # in front of a vector as Feast has it


def allocated(count: int) -> int:
    """Bytes that jemalloc gives for ``count``: steps of 16 up to 128, then four in each power of two."""
    if count <= 128:
        return -(-count // 16) * 16
    step = 1 << ((count - 1).bit_length() - 3)
    return -(-count // step) * step


def hash_bytes(id_bytes: float, values: Sequence[float]) -> float:
    """Bytes of a user or an item: its key, its place in the id list, and its values, the vector first."""
    inside = sum(allocated(round(size) + HEADER_BYTES) for size in values)
    return HASH_BYTES + 2 * id_bytes + FIELD_BYTES * (len(values) - 1) + inside


def index_bytes(id_bytes: float, dim: int, index: str, *, m: int = INDEX_M) -> float:
    """Bytes of an item in the vector set, whose vectors have one dimension more."""
    vector = allocated((dim + 1) * (1 if index == "int8" else 4) + HEADER_BYTES)
    return ITEM_IN_INDEX_BYTES + LINK_BYTES * (m - INDEX_M) + id_bytes + vector


def feast_bytes(id_bytes: float, dim: int) -> float:
    """Bytes of the copy that Feast has of a user or an item, once, beside all generations."""
    return FEAST_BYTES + 2 * id_bytes + allocated(4 * dim + VALUE_BYTES + HEADER_BYTES)


def side_bytes(vectors: Vectors, form: str) -> float:
    """Bytes of all users or of all items, by the mean size of their values."""
    count, dim = vectors.vectors.shape
    values = [float(bytes_of(form, dim))]
    if vectors.touched is not None:
        values.append(sum(len(msgspec.json.encode(ids)) for ids in vectors.touched) / count)
    if vectors.heads is not None:
        values.append(4.0 * vectors.heads.shape[1])
    if vectors.attributes is not None:
        values.append(attribute_bytes(vectors))
    if vectors.lists is not None:
        values += [sum(len(listed[place]) for listed in vectors.lists) / count for place in (0, 1)]
    return float(count) * hash_bytes(sum(len(i.encode()) for i in vectors.ids) / count, values)


def attribute_bytes(vectors: Vectors) -> float:
    """The mean bytes of what is said of an item."""
    own = vectors.attributes
    return 0.0 if own is None else sum(map(len, own.rows)) / max(1, len(vectors))


def generation_bytes(users: Vectors, items: Vectors, form: str, index: str | None) -> tuple[float, float]:
    """Bytes of all users and items of a generation, and of its vector set; ``index`` is None without one."""
    hashes = side_bytes(users, form) + side_bytes(items, form)
    if index is None:
        return hashes, 0.0
    id_bytes = sum(len(i.encode()) for i in items.ids) / len(items)
    _, _, m = index_effort(len(items))
    own = index_bytes(id_bytes, items.vectors.shape[1], index, m=m) + attribute_bytes(items)
    return hashes, len(items) * own


def copies_bytes(*sides: Vectors) -> float:
    """Bytes of the copies that Feast has of these users and items."""
    return sum(
        len(side) * feast_bytes(sum(len(i.encode()) for i in side.ids) / len(side), side.vectors.shape[1])
        for side in sides
    )


def require_room(client: redis.Redis, keys: Keys, number: int, hashes: float, index: float) -> None:
    """Refuse a generation that would not fit into a Redis that removes nothing by itself.

    ``hashes`` are spread over the nodes of a Cluster; ``index`` is on the node of the namespace. A Redis
    whose user may not ask for its memory is not asked.

    Raises:
        RedisFullError: If a server has less room. Nothing was written.
    """
    try:
        servers = list(_servers(client))
        home = describe(server_of(client, keys.current))
        for server in servers:
            info = server.info("memory")
            limit = int(info.get("maxmemory", 0))
            if not limit or info.get("maxmemory_policy", "noeviction") != "noeviction":
                continue
            needed = hashes / len(servers) + (index if describe(server) == home else 0.0)
            room = limit - int(info["used_memory"])
            if needed > room:
                raise RedisFullError(
                    f"generation {number} needs about {told(needed)} in Redis at {describe(server)}, which "
                    f"has {told(max(room, 0))} left of its maxmemory of {told(limit)}; raise maxmemory, keep "
                    "fewer generations (redis.keep), or write less (publish.vectors, publish.lists)"
                )
    except redis.RedisError as error:
        if not is_refused_right(error):
            raise


def _servers(client: redis.Redis) -> Iterator[redis.Redis]:
    if not isinstance(client, RedisCluster):
        yield client
        return
    for node in client.get_primaries():
        yield client.get_redis_connection(node)


def told(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1_000:
            return f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:.3g} GB"
