"""What do smaller vectors lose? The answers of readers over float16 and int8, beside those over float32.

    a served generation ──► its vectors, published anew in each form ──► EmbeddingReader.recommend ──► overlap

    vector_forms.py --redis URL [--namespace NS] [--users 1000] [--json]

It reads the served generation of a namespace, and publishes it without lists into Redis servers of its own,
so every answer is ranked by vectors: by the vector set, and by a reader that keeps all items. The standard
is float32 ranked by all items.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import msgspec
import numpy as np
import redis

from benchmarks.report import Figures, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.answers import Recommendation
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vector_forms import Form
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader

FORMS: list[tuple[Form, str]] = [
    ("float32", "float32"),
    ("float16", "float32"),
    ("int8", "float32"),
    ("float32", "int8"),
    ("int8", "int8"),
]
TOP, USERS_AT_ONCE = 20, 50


@dataclass(frozen=True, slots=True)
class Answers:
    """The items of each user, best first, and their scores."""

    items: list[list[str]]
    scores: list[list[float]]

    @classmethod
    def of(cls, found: list[Recommendation]) -> Answers:
        """Those of a reader."""
        return cls([[i for i, _ in one.items] for one in found], [[s for _, s in one.items] for one in found])

    def beside(self, right: Answers) -> Figures:
        """How much of the right answers is there, and how far the scores of common items are off."""
        pairs = list(zip(self.items, right.items, strict=True))
        off = [
            abs(score - dict(zip(ids, scores, strict=True))[item])
            for own, own_scores, ids, scores in zip(
                self.items, self.scores, right.items, right.scores, strict=True
            )
            for item, score in zip(own, own_scores, strict=True)
            if item in ids
        ]
        spread = float(np.mean([scores[0] - scores[-1] for scores in right.scores]))
        return {
            "recall": round(float(np.mean([len({*a} & {*b}) / len(b) for a, b in pairs])), 5),
            "first_is_the_same": round(float(np.mean([a[0] == b[0] for a, b in pairs])), 4),
            "score_off_of_spread": round(float(np.mean(off)) / spread, 5),
        }


def side(client: redis.Redis, namespace: str, kind: str) -> Vectors:
    """All users or items of the served generation, with the newest items that each user touched."""
    reader, keys = EmbeddingReader(client, namespace=namespace), Keys(namespace)
    number = reader.current()
    names = [
        i
        for part in keys.parts
        for i in cast("list[bytes]", client.lrange(part.of(number, f"{kind}-ids"), 0, -1))
    ]
    ids = [name.decode() for name in names]
    vectors, found = reader.users(ids) if kind == "user" else reader.items(ids)
    pipe = client.pipeline(transaction=False)
    for key in keys.hashes(kind, number, ids):
        pipe.hmget(key, "event_ms", "touched")
    rows = pipe.execute()
    kept = np.flatnonzero(found).tolist()
    touched = [msgspec.json.decode(rows[n][1] or b"[]", type=list[str]) for n in kept]
    times = np.array([int(rows[n][0] or 0) for n in kept], np.int64)
    return Vectors([ids[n] for n in kept], vectors[kept], times, touched if kind == "user" else None)


def answers(client: redis.Redis, users: list[str], *, cache_items: bool) -> Answers:
    """What a reader recommends to each user."""
    reader = EmbeddingReader(client, namespace="forms", cache_items=cache_items)
    found: list[Recommendation] = []
    for start in range(0, len(users), USERS_AT_ONCE):
        found += reader.recommend(users[start : start + USERS_AT_ONCE], TOP)
    return Answers.of(found)


def measured(users: Vectors, items: Vectors, asked: list[str]) -> list[Figures]:
    """For each form the bytes in Redis and both ways to rank, beside float32 ranked by all items."""
    found: list[Figures] = []
    right: Answers | None = None
    for form, index in FORMS:
        with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
            before = int(client.info("memory")["used_memory"])
            store = GenerationStore(client, namespace="forms", epoch=1, vectors=form, index=index)
            store.publish(1, users, items, {})
            memory = int(client.info("memory")["used_memory"]) - before
            by_all = answers(client, asked, cache_items=True)
            by_set = answers(client, asked, cache_items=False)
        right = right or by_all
        own: Figures = {"vectors": form, "index": index, "megabytes": round(memory / 1e6, 1)}
        found.append(own | {"by_all_items": by_all.beside(right), "by_vector_set": by_set.beside(right)})
    return found


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--namespace", default="driftgraph")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with contextlib.closing(connect(asked.redis)) as client:
        users, items = side(client, asked.namespace, "user"), side(client, asked.namespace, "item")
    rng = np.random.default_rng(0)
    some: list[int] = rng.permutation(len(users))[: asked.users].tolist()
    own = Vectors(
        [users.ids[n] for n in some],
        users.vectors[some],
        users.event_ms[some],
        [(users.touched or [])[n] for n in some],
    )
    figures: Figures = {
        "machine": machine(),
        "users": len(own),
        "items": len(items),
        "dim": items.vectors.shape[1],
        "forms": measured(own, items, list(own.ids)),
    }
    finish(figures, [], as_json=asked.json)


if __name__ == "__main__":
    main()
