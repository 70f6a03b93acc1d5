"""Search among the items with RedisVL, over the hashes that driftgraph writes.

    driftgraph ──► Redis with its module search (Redis 8 as a whole, Redis Stack) ──► [best] ──► a service

Redis indexes the hashes by itself: what is refreshed, new or delisted is so in the index at once. Each
generation has an index of its own, named by its number, so that no answer has items of two. The first
question after a switch makes it, and waits until all items are in it.
"""

from __future__ import annotations

import functools
import json
import time
from typing import Any

from redisvl.index import SearchIndex
from redisvl.query import VectorQuery

SWITCHES_MAX = 3  # during one question; they are minutes apart


def best(client: Any, namespace: str, user: str, top: int) -> list[tuple[str, float]]:
    """The best items for a user by the dot product, as (item, score); empty for an unknown user.

    ``client`` is a ``redis.Redis`` that does not decode answers.
    """
    for _ in range(SWITCHES_MAX):
        number = int(client.hget(f"{namespace}:emb:current", "gen") or 0)
        manifest, begin = f"{namespace}:emb:{number}:manifest", f"{namespace}:emb:{number}:item:"
        vector, touched = client.hmget(f"{namespace}:emb:{number}:user:{user}", "embedding", "touched")
        dim, form = client.hmget(manifest, "dim", "vectors")
        found, seen = list[dict[str, str]](), set(json.loads(touched or "[]"))
        if vector and dim:
            fields, wanted = ["vector_distance"], top + len(seen)
            query = VectorQuery(vector, "embedding", num_results=wanted, return_fields=fields)
            found = index_of(client, namespace, number, int(dim), form.decode()).query(query)
        if client.hget(manifest, "status") == b"live":
            scored = [(one["id"].removeprefix(begin), 1 - float(one["vector_distance"])) for one in found]
            return [(item, score) for item, score in scored if item not in seen][:top]
    raise LookupError(f"namespace {namespace!r} serves no generation; look at driftgraph status")


@functools.lru_cache(maxsize=8)  # a generation's number is used once
def index_of(client: Any, namespace: str, number: int, dim: int, form: str) -> SearchIndex:
    """The index of a generation, with all of its items; older ones without a generation are removed."""
    if form == "int8":
        raise ValueError('RedisVL cannot read publish.vectors = "int8"; set it to "float32" or "float16"')
    exact = {"algorithm": "flat", "distance_metric": "ip", "dims": dim, "datatype": form}
    index = SearchIndex.from_dict(
        {
            "index": {"name": f"{namespace}-items-{number}", "prefix": f"{namespace}:emb:{number}:item"},
            "fields": [{"name": "embedding", "type": "vector", "attrs": exact}],
        },
        redis_client=client,
    )
    if not index.exists():
        try:
            index.create()
        except Exception:
            if not index.exists():  # another process was first
                raise
        for name in client.execute_command("FT._LIST"):
            _, _, other = name.decode().rpartition(f"{namespace}-items-")
            if other.isdigit() and not client.exists(f"{namespace}:emb:{other}:manifest"):
                client.execute_command("FT.DROPINDEX", name)
    while float(index.info()["percent_indexed"]) < 1:
        time.sleep(0.01)
    return index
