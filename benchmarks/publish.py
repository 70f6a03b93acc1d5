"""How fast a generation is published, beside plain pipelined HSETs of the same bytes in the same run.

    random vectors and lists ──► HSETs by redis-py, GenerationStore.publish ──► vectors a second

    python benchmarks/publish.py [--json] [--quick]

Times are those of a wall clock, with Redis on the same machine. ``publish`` is the whole method: the checks
before, the writing, the verification, the switch. The vector set of the items, which plain HSETs do not have,
is timed apart. Runs of the three alternate, and the median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import msgspec
import numpy as np
import redis

from benchmarks.report import Figures, at_least, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import LIST_FIELDS, Keys, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors

NAMESPACE: Final = "bench"
DIM: Final = 64
USERS, ITEMS = 100_000, 20_000
QUICK_USERS, QUICK_ITEMS = 20_000, 5_000
LISTED = {"user": 100, "item": 50}  # ids in a list: the defaults
RUNS = 5
HSETS_PER_PIPELINE = 1_000
SHARE, SHARE_WITH_LISTS = 0.8, 0.5  # of the rate of plain HSETs


def side_of(side: str, count: int, *, lists: bool) -> Vectors:
    """Random vectors of one side, with lists of random items and times."""
    rng = np.random.default_rng(count)
    length = LISTED[side]
    scores = np.sort(rng.random(length, dtype=np.float32))[::-1].tobytes()
    numbers = rng.integers(0, ITEMS, (count, length)) if lists else np.empty((count, 0), np.int64)
    return Vectors(
        ids=[f"{side}-{n:06d}" for n in range(count)],
        vectors=rng.standard_normal((count, DIM), dtype=np.float32),
        event_ms=1_783_000_000_000 + rng.integers(0, 10**6, count),
        touched=[[f"item-{n:06d}" for n in row[:20]] for row in numbers]
        if lists and side == "user"
        else None,
        lists=[(msgspec.json.encode([f"item-{n:06d}" for n in row]), scores) for row in numbers]
        if lists
        else None,
    )


class TimedStore(GenerationStore):
    """A store that tells how long the vector set took."""

    index_s = 0.0

    def _build_index(self, number: int, token: str, items: Vectors) -> str:
        begun = time.perf_counter()
        try:
            return super()._build_index(number, token, items)
        finally:
            self.index_s = time.perf_counter() - begun


def plain_s(client: redis.Redis, sides: dict[str, Vectors]) -> float:
    """Seconds of HSETs by redis-py, which write the same fields into the same keys."""
    keys = Keys(NAMESPACE)
    client.flushall()
    begun = time.perf_counter()
    for side, vectors in sides.items():
        name = keys.user if side == "user" else keys.item
        pipe = client.pipeline(transaction=False)
        for n, entity in enumerate(vectors.ids):
            fields: dict[Any, Any] = {
                "embedding": vectors.vectors[n].tobytes(),
                "gen": 1,
                "event_ms": int(vectors.event_ms[n]),
            }
            if vectors.touched is not None:
                fields["touched"] = msgspec.json.encode(vectors.touched[n])
            if vectors.lists is not None:
                fields.update(zip(LIST_FIELDS[side], vectors.lists[n], strict=True))
            pipe.hset(name(1, entity), mapping=fields)
            if n % HSETS_PER_PIPELINE == HSETS_PER_PIPELINE - 1:
                pipe.execute()
        pipe.execute()
    return time.perf_counter() - begun


def publish_s(client: redis.Redis, sides: dict[str, Vectors]) -> tuple[float, float]:
    """Seconds of a publish into an empty Redis, and of the vector set in it."""
    client.flushall()
    store = TimedStore(client, namespace=NAMESPACE, epoch=1)
    begun = time.perf_counter()
    store.publish(1, sides["user"], sides["item"], {})
    return time.perf_counter() - begun, store.index_s


def compared(client: redis.Redis, sides: dict[str, Vectors], runs: int) -> Figures:
    """Rates of both ways, the medians of ``runs`` runs in turn."""
    count, seconds = sum(map(len, sides.values())), list[tuple[float, float, float]]()
    for _ in range(runs):
        plain = plain_s(client, sides)
        seconds.append((plain, *publish_s(client, sides)))
    plain, whole, index = np.median(np.array(seconds), axis=0).tolist()
    shares = [run[0] / (run[1] - run[2]) for run in seconds]
    return {
        "vectors": count,
        "bytes_of_redis_a_vector": round(client.info("memory")["used_memory"] / count),
        "plain_hset_per_s": round(count / plain),
        "publish_per_s": round(count / (whole - index)),
        "publish_with_vector_set_per_s": round(count / whole),
        "vector_set_s": round(index, 3),
        "share_of_plain": round(float(np.median(shares)), 2),
        "share_of_plain_runs": [round(share, 2) for share in shares],
        "share_of_plain_with_vector_set": round(plain / whole, 2),
    }


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="How fast a generation is published.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    users, items = (QUICK_USERS, QUICK_ITEMS) if given.quick else (USERS, ITEMS)
    figures: Figures = {"machine": machine(), "dim": DIM, "users": users, "items": items}
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        figures["redis"] = client.info("server")["redis_version"]
        for case, lists in (("vectors", False), ("vectors_and_lists", True)):
            print(case, file=sys.stderr)
            sides = {"user": side_of("user", users, lists=lists), "item": side_of("item", items, lists=lists)}
            figures[case] = compared(client, sides, 3 if given.quick else RUNS)
    required = [
        at_least("verified publish / plain HSETs, vectors", figures["vectors"]["share_of_plain"], SHARE),
        at_least(
            "verified publish / plain HSETs, with lists",
            figures["vectors_and_lists"]["share_of_plain"],
            SHARE_WITH_LISTS,
        ),
    ]
    finish(figures, required, as_json=given.json)


if __name__ == "__main__":
    main()
