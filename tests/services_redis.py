"""A real Redis for tests, and generations to put into it.

Every vector of the generation ``number`` is filled with ``number``, so a mixture of two shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader

NAMESPACE = "shop"
DIM = 4
USERS = [f"u{n}" for n in range(150)]
ITEMS = [f"i{n}" for n in range(60)]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """An empty Redis."""
    with contextlib.closing(connect(redis_server.url)) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


@pytest.fixture
def user_url(redis_client: redis.Redis, redis_server: EmbeddedRedis) -> Iterator[Callable[[str], str]]:
    """The address for a new user with the ACL rules given, as an operator would make it."""
    names = list[str]()

    def make(rules: str) -> str:
        names.append(f"user{len(names)}")
        redis_client.execute_command("ACL", "SETUSER", names[-1], "on", ">pw", *rules.split())  # type: ignore[no-untyped-call]
        return redis_server.url.replace("redis://", f"redis://{names[-1]}:pw@")

    yield make
    redis_client.execute_command("ACL", "DELUSER", "nobody", *names)  # type: ignore[no-untyped-call]


@pytest.fixture
def store(redis_client: redis.Redis) -> GenerationStore:
    return GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)


def filled(prefix: str, count: int, number: int, *, touched: bool = False) -> Vectors:
    """``count`` vectors of generation ``number``."""
    return Vectors(
        ids=[f"{prefix}{n}" for n in range(count)],
        vectors=np.full((count, DIM), number, np.float32),
        event_ms=np.arange(count, dtype=np.int64) + 1_783_000_000_000,
        touched=[[f"i{n}", "i0"] for n in range(count)] if touched else None,
    )


def publish(store: GenerationStore, number: int, *, users: int = 150, items: int = 60) -> None:
    store.publish(number, filled("u", users, number, touched=True), filled("i", items, number), {"hash": "h"})


def keys_by_scan(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter(count=10_000)}


def assert_serves_only(client: redis.Redis, number: int) -> None:
    """Every user and item is there, and all are of generation ``number``."""
    batch = EmbeddingReader(client, namespace=NAMESPACE).batch(users=USERS, items=ITEMS)
    assert batch.generation == number
    assert batch.users_found.all()
    assert batch.items_found.all()
    assert (batch.users == number).all()
    assert (batch.items == number).all()


def assert_no_remains(store: GenerationStore, client: redis.Redis) -> None:
    """Every key is one that the store knows of, and every generation that has keys can be served."""
    known = {str(g.number) for g in store.generations()}
    keys = keys_by_scan(client)
    assert {key.split(":")[2] for key in keys} - {"current", "generations"} == known
    assert sum(store.count_keys().values()) == len(keys)
