"""How fast one client process reads what was published, beside bare redis-py, Feast and RedisVL.

    random vectors, lists ──► GenerationStore ──► Redis ──► redis-py's loops, readers ──► answers a second

    python benchmarks/publish_reads.py [--json] [--quick]

Everything alternates in short turns, so that what else the machine does hits all alike; shares are medians
over the turns, and rates those of the best tenth of the turns. Redis runs on the same machine, and redis-py
parses in Python, as without its extra ``hiredis``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import msgspec
import numpy as np
import redis

from benchmarks.feature_stores.read_peers import beside_feast, beside_redisvl
from benchmarks.report import Figures, Required, at_least, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots import AsyncEmbeddingReader, EmbeddingReader, connect, connect_async
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors

NAMESPACE: Final = "driftgraph"  # that examples/feast_views.py has
PROJECT: Final = "shop"
USERS, ITEMS, DIM = 10_000, 5_000, 64
LISTED, TOUCHED, TOP = 100, 30, 20  # ids in a list, the default; touched items; items asked for
BATCH = 100
TURNS, QUICK_TURNS = 120, 25
PEER_TURNS = 5  # fewer by this factor, since a turn of a peer takes longer
ONE_BY_ONE, BATCHES = 100, 3  # calls in a turn
TASKS = 100  # at once, of the asynchronous reader
SHARE, SHARE_OF_GET = 0.9, 0.8
VECTORS_PER_S, LISTS_PER_S = 250_000, 12_000

Call = Callable[[int], object]


def ids_of(side: str, count: int) -> list[str]:
    """Ids of 11 characters."""
    return [f"{side}{n:010d}" for n in range(count)]


def publish(client: redis.Redis) -> tuple[int, Vectors, Vectors]:
    """Publish random users with lists; returns the bytes of a list and touched items, users and items."""
    rng, items = np.random.default_rng(1), ids_of("i", ITEMS)
    scores = np.sort(rng.random(LISTED).astype("<f4"))[::-1].tobytes()
    lists = [
        (msgspec.json.encode([items[n] for n in rng.integers(0, ITEMS, LISTED)]), scores)
        for _ in range(USERS)
    ]
    touched = [[items[n] for n in rng.integers(0, ITEMS, TOUCHED)] for _ in range(USERS)]
    vectors = [rng.standard_normal((n, DIM), dtype=np.float32) for n in (USERS, ITEMS)]
    users = Vectors(ids_of("u", USERS), vectors[0], np.zeros(USERS, np.int64), touched, lists)
    own = Vectors(items, vectors[1], np.zeros(ITEMS, np.int64))
    store = GenerationStore(client, namespace=NAMESPACE, epoch=1, feast=PROJECT)
    store.publish(1, users, own, {"lists": LISTED})
    list_bytes = len(lists[0][0]) + len(scores) + len(msgspec.json.encode(touched[0]))
    return list_bytes, replace(users, lists=None), own


def calls_of(
    client: redis.Redis, reader: EmbeddingReader, list_bytes: int
) -> dict[str, tuple[Call, int, int]]:
    """What is timed: the call with its number, how many calls a turn has, and answers a call."""
    ids, begin = ids_of("u", USERS), f"{NAMESPACE}:emb:1:user:"
    client.set("bare", b"x" * list_bytes)

    def many(n: int) -> list[str]:
        first = n * BATCH % USERS
        return ids[first : first + BATCH]

    def piped(n: int) -> object:
        pipe = client.pipeline(transaction=False)
        for one in many(n):
            pipe.hget(f"{begin}{one}", "embedding")
        return pipe.execute()

    return {
        "bare_hget": (lambda n: client.hget(f"{begin}{ids[n % USERS]}", "embedding"), ONE_BY_ONE, 1),
        "users": (lambda n: reader.users([ids[n % USERS]]), ONE_BY_ONE, 1),
        "bare_get": (lambda _: client.get("bare"), ONE_BY_ONE, 1),
        "recommend": (lambda n: reader.recommend(ids[n % USERS], TOP), ONE_BY_ONE, 1),
        "bare_pipelined_hget": (piped, BATCHES, BATCH),
        "users_in_batches": (lambda n: reader.users(many(n)), BATCHES, BATCH),
        "recommend_in_batches": (lambda n: reader.recommend(many(n), TOP), BATCHES, BATCH),
    }  # fmt: skip


def timed(calls: dict[str, tuple[Call, int, int]], turns: int) -> dict[str, np.ndarray]:
    """Seconds of an answer in each turn, [turns] for each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        for name, (call, count, answers) in calls.items():
            begun = time.perf_counter()
            for n in range(turn * count, (turn + 1) * count):
                call(n)
            seconds[name].append((time.perf_counter() - begun) / (count * answers))
    return {name: np.array(found) for name, found in seconds.items()}


async def by_tasks(url: str, turns: int) -> float:
    """Recommendations a second of ``TASKS`` tasks that share an asynchronous reader, in the best tenth."""
    client, ids, seconds = connect_async(url), ids_of("u", USERS), list[float]()
    reader = AsyncEmbeddingReader(client, namespace=NAMESPACE)
    for turn in range(turns):
        begun = time.perf_counter()
        await asyncio.gather(*(reader.recommend(ids[(turn * TASKS + n) % USERS], TOP) for n in range(TASKS)))
        seconds.append((time.perf_counter() - begun) / TASKS)
    await client.aclose()
    return 1 / float(np.quantile(seconds, 0.1))


def measure(*, quick: bool) -> tuple[Figures, list[Required]]:
    """The figures, and the bounds that must hold."""
    turns = QUICK_TURNS if quick else TURNS
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        list_bytes, users, items = publish(client)
        reader = EmbeddingReader(client, namespace=NAMESPACE)
        found = timed(calls_of(client, reader, list_bytes), turns)
        with contextlib.closing(connect(server.url, cache_users=USERS)) as keeping:
            hot = EmbeddingReader(keeping, namespace=NAMESPACE)
            kept = timed({"hot": (lambda _: hot.recommend(ids_of("u", 1)[0], TOP), ONE_BY_ONE, 1)}, turns)[
                "hot"
            ]
        asynchronous = asyncio.run(by_tasks(server.url, turns))
        version = client.info("server")["redis_version"]
        feast = beside_feast(
            server.url, reader, ids_of("u", USERS), project=PROJECT, batch=BATCH, turns=turns // PEER_TURNS
        )
    redisvl = beside_redisvl(users, items, top=TOP, turns=turns // PEER_TURNS)
    rate = {name: round(1 / float(np.quantile(one, 0.1))) for name, one in found.items()}
    share = {
        ours: round(float(np.median(found[bare] / found[ours])), 2)
        for ours, bare in (
            ("users", "bare_hget"), ("recommend", "bare_get"), ("users_in_batches", "bare_pipelined_hget"),
        )
    }  # fmt: skip
    figures: Figures = {
        "machine": machine(), "redis": version, "redis_py": redis.__version__, "dim": DIM, "batch": BATCH,
        "list_bytes": list_bytes, "per_s": rate, "share_of_bare": share,
        "recommend_by_100_tasks_per_s": round(asynchronous),
        "recommend_of_a_hot_user_per_s": round(1 / float(np.quantile(kept, 0.1))),
        "vectors_beside_feast": feast, "ranking_beside_redisvl": redisvl,
    }  # fmt: skip
    lists = max(rate["recommend_in_batches"], asynchronous)
    required = [
        at_least("users one by one / bare HGET loop", share["users"], SHARE),
        at_least("users in batches of 100, vectors a second", rate["users_in_batches"], VECTORS_PER_S),
        at_least("recommend one by one / bare GET loop", share["recommend"], SHARE_OF_GET),
        at_least("recommend async or batched, a second", lists, LISTS_PER_S),
        at_least("users one by one / Feast", feast.get("one_by_one", {}).get("ratio"), 1),
        at_least("users in batches of 100 / Feast", feast.get("in_batches", {}).get("ratio"), 1),
    ]
    return figures, required


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="How fast one client process reads what was published.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer turns, within ten seconds")
    given = parser.parse_args()
    figures, required = measure(quick=given.quick)
    finish(figures, required, as_json=given.json)


if __name__ == "__main__":
    main()
