"""Both readers on each form of Redis answer every question as the blocking one does on one server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import (
    connect,
    connect_async,
)
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Listed, Vectors
from driftgraph.snapshots.generations.wire import Wire
from driftgraph.snapshots.reader import AsyncEmbeddingReader, EmbeddingReader
from driftgraph.snapshots.reading import drivers
from tests.readers import Awaited
from tests.services_redis import NAMESPACE

USERS = [f"u{n}" for n in range(400)]
ITEMS = [*(f"i{n}" for n in range(300)), "i:{odd} ü"]
HEAD = {"relations": ["click", "buy"], "base": [-1.0, -3.0], "dot": [0.3, 0.6]}
GONE = ["i3", "i40", "i:{odd} ü"]


class Place(NamedTuple):
    """A form of Redis, and the namespace that it can have."""

    url: str
    namespace: str


@pytest.fixture(params=["braces on one server", "TLS", "Sentinels", "Cluster"])
def place(request: pytest.FixtureRequest) -> Place:
    match request.param:
        case "braces on one server":
            server: EmbeddedRedis = request.getfixturevalue("redis_server")
            return Place(server.url, "{beside}")
        case "TLS":
            return Place(request.getfixturevalue("tls_url"), "shop")
        case "Sentinels":
            return Place(request.getfixturevalue("pair").url, "shop")
        case _:
            request.getfixturevalue("in_cluster")
            return Place(request.getfixturevalue("cluster_url"), "{shop}")


@pytest.fixture
def awaited() -> Iterator[Callable[[Place], Any]]:
    """Makes asyncio's readers that are called as the blocking one is."""
    loop, opened = asyncio.new_event_loop(), list[Any]()

    def make(place: Place) -> Any:
        opened.append(connect_async(place.url))
        return Awaited(loop, AsyncEmbeddingReader(opened[-1], namespace=place.namespace))

    yield make
    for one in opened:
        loop.run_until_complete(one.aclose())
    loop.close()


def listed(ids: list[str]) -> Listed:
    return msgspec.json.encode(ids), np.arange(len(ids), 0, -1, dtype="<f4").tobytes()


def side(ids: list[str], number: int, *, touched: bool = False) -> Vectors:
    """Random vectors whose products float32 has exactly, heads, and lists for every second one."""
    rng = np.random.default_rng((number, len(ids)))
    lists = [listed(rng.permutation(ITEMS)[:8].tolist()) if n % 2 else (b"", b"") for n in range(len(ids))]
    return Vectors(
        ids,
        rng.integers(-999, 1_000, (len(ids), 6)).astype(np.float32),
        np.arange(len(ids), dtype=np.int64) + 1_783_000_000_000,
        [rng.permutation(ITEMS)[:5].tolist() for _ in ids] if touched else None,
        lists,
        heads=rng.standard_normal((len(ids), 2), dtype=np.float32),
    )


def publish(store: GenerationStore, number: int) -> None:
    facts: dict[str, str | int | float] = {
        "lists": 8,
        "similar": 8,
        "head": json.dumps(HEAD),
        "made_by": f"model {number}",
    }
    store.publish(number, side(USERS, number, touched=True), side(ITEMS, number), facts)


def delist(store: GenerationStore) -> None:
    store.delisting.change(GONE, "SADD")
    assert store.delisting.remove(GONE) > 0


def forget(store: GenerationStore) -> None:
    store.delisting.change(GONE, "SREM")
    publish(store, 4)


STEPS: list[tuple[str, Callable[[GenerationStore], object]]] = [
    ("nothing is there", lambda _: None),
    ("the first publish", lambda store: publish(store, 1)),
    (
        "rising items",
        lambda store: store.trending.replace({"click": {"i1": 2.0, "i3": 3.0}, "buy": {"i1": 1.0}}),
    ),
    ("a second publish", lambda store: publish(store, 2)),
    ("a refresh of users", lambda store: store.refresh(2, side(["u2", "u3", "new"], 8, touched=True))),
    ("a refresh of items", lambda store: store.refreshes.items(2, side(["i5", "i6", "fresh"], 9))),
    ("an erasure", lambda store: store.erase(["u7", "u8"])),
    ("a delisting", delist),
    ("a third publish, without them", lambda store: publish(store, 3)),
    ("a rollback", lambda store: store.rollback()),
    ("a promote", lambda store: store.promote(3)),
    ("they are listed again", forget),
]


def answers(reader: Any) -> dict[str, Any]:
    """What a reader answers to every question, for comparing."""
    some = [*USERS[::40], "u7", "new", "nobody"]
    found = {
        "current": reader.current(),
        "users": reader.users(some),
        "one user": reader.users(["u2"]),
        "items": reader.items([*ITEMS, "fresh", "nothing"]),
        "batch": dataclasses.astuple(reader.batch(users=["u1", "nobody"], items=["i1"])),
        "recommend": [reader.recommend(user, 5) for user in some],
        "many": reader.recommend(some, 6),
        "long": reader.recommend(["u1", "u2"], 20),
        "filters": reader.recommend(
            ["u1", "u2"], 5, exclude=["i9"], allow=ITEMS[:200], min_event_ms=1_783_000_000_100
        ),
        "similar": [reader.similar(item, 5) for item in ("i0", "i1", "i5", "fresh", "nothing")],
        "made_by": reader.made_by(),
        "trending": [reader.trending(name) for name in ("click", "buy", "nothing")],
    }
    chances = reader.scores("u2", ["i1", "i3", "nothing", "fresh"])
    return {**found, "scores": (chances.generation, chances.source, chances.by_behavior, chances.items_found)}


def assert_alike(found: Any, wanted: Any, where: str) -> None:
    match wanted:
        case dict():
            assert found.keys() == wanted.keys(), where
            for name in wanted:
                assert_alike(found[name], wanted[name], f"{where}, {name}")
        case np.ndarray():
            np.testing.assert_array_equal(found, wanted, where)
        case list() | tuple():
            assert len(found) == len(wanted), where
            for one, other in zip(found, wanted, strict=True):
                assert_alike(one, other, where)
        case _:
            assert found == wanted, where


def test_both_readers_answer_as_on_one_server_after_each_step(
    place: Place, awaited: Callable[[Place], Any], redis_client: redis.Redis, tmp_path: Path
) -> None:
    plain_store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    plain = EmbeddingReader(redis_client, namespace=NAMESPACE)
    with (
        contextlib.closing(connect(place.url)) as client,
        contextlib.closing(connect(place.url, cache_users=100)) as keeping,
    ):
        store = GenerationStore(client, namespace=place.namespace, epoch=1)
        store.clean_up()
        readers = {
            "blocking": EmbeddingReader(client, namespace=place.namespace),
            "catalog": EmbeddingReader(client, namespace=place.namespace, cache_items=True),
            "asyncio": awaited(place),
        }
        if "protocol" not in place.url:
            readers["keeping"] = EmbeddingReader(keeping, namespace=place.namespace)
        for name, act in STEPS:
            act(plain_store)
            act(store)
            wanted = answers(plain)
            for kind, reader in readers.items():
                assert_alike(answers(reader), wanted, f"{kind} reader after {name}")
            if wanted["current"]:
                assert {store.standing(wanted["current"]) for _ in range(20)} == {Standing.SERVED}
        keys = {key.decode() for key in client.scan_iter(f"{place.namespace[:-1]}*", count=10_000)}
        assert sum(store.count_keys().values()) == len(keys)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_generation_that_goes_while_the_nodes_of_a_cluster_are_asked_is_noticed(
    in_cluster: redis.Redis,
    cluster_url: str,
    awaited: Callable[[Place], Any],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """It is removed after the hashes are read and before the manifest is."""
    store = GenerationStore(in_cluster, namespace="{shop}", epoch=1, keep=2)
    publish(store, 1)
    place = Place(cluster_url, "{shop}")
    reader = EmbeddingReader(in_cluster, namespace="{shop}") if kind == "blocking" else awaited(place)
    assert reader.current() == 1
    due = [2, 3]
    ask, by_client = Wire.ask, drivers._by_client

    def go_on() -> None:
        numbers, due[:] = due[:], []  # a publish asks, too
        for number in numbers:
            publish(store, number)

    def asked(wire: Wire, *commands: Any, **options: Any) -> Iterator[Any]:
        found = list(ask(wire, *commands, **options))
        go_on()
        return iter(found)

    async def asked_by_client(client: Any, commands: Any) -> list[Any]:
        found = await by_client(client, commands)
        go_on()
        return found

    if kind == "blocking":
        monkeypatch.setattr(Wire, "ask", asked)
    else:
        monkeypatch.setattr(drivers, "_by_client", asked_by_client)
    found = reader.batch(users=USERS, items=ITEMS)
    assert found.generation == 3
    assert found.users_found.all()
    assert found.items_found.all()
