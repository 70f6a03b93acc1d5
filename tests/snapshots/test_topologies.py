"""Generations in each form of Redis but Sentinels: one server by RESP2 and RESP3, TLS, a Cluster of three."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import (
    PARTS,
    Keys,
    LostError,
    RedisUnavailableError,
    StaleWorkerError,
    StoreError,
    connect,
    redis_errors,
)
from driftgraph.snapshots.generations.lease import LeaseClient, raise_epoch
from driftgraph.snapshots.generations.servers.topologies import describe, server_of
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.wire import Command, Wire, packed
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.errors import ConfigError
from tests.services_redis import ITEMS, USERS, filled, publish

SPREAD = "{shop}"
OF_A_CLUSTER = r"is a node of a Cluster.* redis\+cluster://host:port"


def serves(client: redis.Redis, namespace: str, number: int) -> None:
    """Every user and item is there, by lookup, index and catalog, and of one generation."""
    reader = EmbeddingReader(client, namespace=namespace)
    batch = reader.batch(users=USERS, items=ITEMS)
    assert batch.generation == number
    assert batch.users_found.all()
    assert batch.items_found.all()
    assert {*np.unique(batch.users)} == {*np.unique(batch.items)} == {number}
    ranked = reader.recommend("u5", 7)
    cached = EmbeddingReader(client, namespace=namespace, cache_items=True).recommend("u5", 7)
    assert ranked.source == cached.source == "embedding"
    assert len(ranked.items) == len(cached.items) == 7
    assert {score for _, score in (*ranked.items, *cached.items)} == {4.0 * number**2}
    assert not {"i5", "i0"} & dict(ranked.items).keys(), "touched items"
    assert reader.recommend("nobody", 3).items == [("i1", 1.0)]


def all_keys(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter(count=10_000)}


def assert_no_orphans(store: GenerationStore, client: redis.Redis) -> None:
    assert sum(store.count_keys().values()) == len({k for k in all_keys(client) if ":lease" not in k})


def whole_life(client: redis.Redis, namespace: str) -> None:
    """All that an updater, an operator and a reader do."""
    lease = LeaseClient(client, namespace=namespace, name="shop", ttl_s=60)
    assert lease.take() is not None
    older = GenerationStore(client, namespace=namespace, epoch=raise_epoch(client, namespace, lease.owner))
    publish(older, 1)
    store = GenerationStore(
        client, namespace=namespace, epoch=raise_epoch(client, namespace, lease.owner), keep=2
    )
    store.clean_up()
    store.trending.replace({"click": {"i1": 1.0}})
    for number in (2, 3, 4):
        publish(store, number)
        serves(client, namespace, number)
    assert [g.number for g in store.generations()] == [3, 4]
    assert_no_orphans(store, client)
    with pytest.raises(StaleWorkerError):
        publish(older, 5)
    with pytest.raises(StaleWorkerError):
        older.refresh(4, filled("u", 9, 9))

    reader = EmbeddingReader(client, namespace=namespace)
    store.refresh(4, filled("u", 50, 8))
    store.refresh(4, filled("new", 9, 8))
    vectors, found = reader.users([*USERS[:50], *(f"new{n}" for n in range(9))])
    assert found.all()
    assert (vectors == 8).all()
    served = store.served()
    assert served is not None
    assert served.manifest["users"] == "159"
    store.erase([f"new{n}" for n in range(9)])
    assert not reader.users([f"new{n}" for n in range(9)])[1].any()
    assert {store.standing(4) for _ in range(10)} == {Standing.SERVED}
    assert_no_orphans(store, client)

    assert store.rollback() == 3
    serves(client, namespace, 3)
    keys = Keys(namespace)
    assert client.ttl(keys.user(3, "u0")) == client.ttl(keys.item(3, "i0")) == -1
    assert client.ttl(keys.user(4, "u0")) > 0
    store.refresh(3, filled("u", 150, 3))
    publish(store, store.next_number())
    serves(client, namespace, 5)
    assert_no_orphans(store, client)
    lease.release()


# --- one server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["shop", SPREAD])
@pytest.mark.parametrize("protocol", [2, 3])
def test_one_server(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, protocol: int, namespace: str
) -> None:
    with contextlib.closing(connect(f"{redis_server.url}?protocol={protocol}")) as client:
        whole_life(client, namespace)
    assert len(all_keys(redis_client)) > 400


def test_a_server_with_tls(tls_url: str) -> None:
    with contextlib.closing(connect(tls_url)) as client:
        whole_life(client, "shop")


def test_a_certificate_that_nobody_trusts_is_named(tls_url: str) -> None:
    with (
        contextlib.closing(connect(tls_url.partition("?")[0], retries=0)) as client,
        pytest.raises(RedisUnavailableError, match=r"check rediss:// and the ssl options in redis\.url"),
    ):
        publish(GenerationStore(client, namespace="shop", epoch=1), 1)


# --- a Cluster ---------------------------------------------------------------------------------------


def test_a_cluster(in_cluster: redis.Redis) -> None:
    whole_life(in_cluster, SPREAD)


def test_users_and_items_are_spread_over_the_nodes_and_the_rest_is_on_one(in_cluster: redis.Redis) -> None:
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    store.publish(1, filled("u", 3_000, 1), filled("i", 900, 1), {})
    where: dict[str, list[str]] = {"user": [], "item": [], "control": []}
    for key in all_keys(in_cluster):
        kind = "control" if key.startswith(f"{SPREAD}:") else (key.split(":") * 2)[4]
        if kind in where:
            where[kind].append(describe(server_of(in_cluster, key)))
    assert len({*where["control"]}) == 1
    for kind, count in (("user", 3_000), ("item", 900)):
        assert len(where[kind]) == count
        shares = [where[kind].count(node) / count for node in {*where[kind]}]
        assert len(shares) == 3
        assert min(shares) > 0.2, shares


def test_a_cluster_needs_a_namespace_in_braces(in_cluster: redis.Redis) -> None:
    for make in (
        lambda: GenerationStore(in_cluster, namespace="shop", epoch=1),
        lambda: EmbeddingReader(in_cluster, namespace="shop"),
        lambda: LeaseClient(in_cluster, namespace="shop", name="shop"),
    ):
        with pytest.raises(
            ConfigError, match=r"redis.namespace 'shop' must be in braces in a .*: \"{shop}\""
        ):
            make()


@pytest.mark.parametrize("step", ["claim", "begin", "describe", "follow", "_write", "_verify"])
@pytest.mark.parametrize("after", [True, False])
def test_a_publish_that_dies_at_a_step_leaves_one_whole_generation(
    in_cluster: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool
) -> None:
    """It dies before or after a step; the next worker cleans up and publishes."""
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1, keep=2)
    store.trending.replace({"click": {"i1": 1.0}})
    publish(store, 1)
    publish(store, 2)
    place = store if step.startswith("_") else store._parts
    real = getattr(place, step)

    def dies(*args: Any, **options: Any) -> Any:
        if after:
            real(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, step, dies)
    with pytest.raises(KeyboardInterrupt):
        publish(store, 3)
    monkeypatch.undo()
    number = EmbeddingReader(in_cluster, namespace=SPREAD).current()
    assert number == (3 if step == "follow" else 2)
    serves(in_cluster, SPREAD, number)
    newer = GenerationStore(in_cluster, namespace=SPREAD, epoch=2, keep=2)
    newer.clean_up()
    serves(in_cluster, SPREAD, number)
    assert_no_orphans(newer, in_cluster)
    newer.refresh(number, filled("u", 150, number))
    publish(newer, newer.next_number())
    serves(in_cluster, SPREAD, number + 1)
    assert_no_orphans(newer, in_cluster)


def test_a_switch_that_the_parts_have_not_heard_of_hinders_no_refresh(
    in_cluster: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's process ends between the switch and the parts."""
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    publish(store, 1)
    publish(store, 2)
    operator = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    monkeypatch.setattr(operator._parts, "follow", lambda _: None)
    assert operator.rollback() == 1
    store.refresh(1, filled("u", 150, 7))
    assert (EmbeddingReader(in_cluster, namespace=SPREAD).users(USERS)[0] == 7).all()


def test_a_late_write_of_an_older_worker_is_refused_in_every_part(
    in_cluster: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer worker cleans up and publishes while the older one is between two of its pipelines."""
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    newer = GenerationStore(in_cluster, namespace=SPREAD, epoch=2)
    store.trending.replace({"click": {"i1": 1.0}})
    publish(store, 1)
    real = store._write

    def overtaken(number: int, token: str, kind: str, *rest: Any) -> None:
        if kind == "item":
            newer.clean_up()
            publish(newer, newer.next_number())
        real(number, token, kind, *rest)

    monkeypatch.setattr(store, "_write", overtaken)
    with pytest.raises(StaleWorkerError):
        publish(store, 2)
    serves(in_cluster, SPREAD, 2)
    assert_no_orphans(newer, in_cluster)


def test_once_a_newer_worker_has_raised_the_fence_no_part_takes_a_write(
    in_cluster: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    newer = GenerationStore(in_cluster, namespace=SPREAD, epoch=2)
    real = store._write

    def overtaken(number: int, token: str, kind: str, *rest: Any) -> None:
        if kind == "item":
            newer._claim()
        real(number, token, kind, *rest)

    monkeypatch.setattr(store, "_write", overtaken)
    with pytest.raises(StaleWorkerError):
        publish(store, 1)
    assert [key for key in all_keys(in_cluster) if ":item:" in key] == []


def test_a_node_that_loses_its_data_is_found_and_all_is_published_again(in_cluster: redis.Redis) -> None:
    keys = Keys(SPREAD)
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    store.trending.replace({"click": {"i1": 1.0}})
    publish(store, 1)
    lost = next(
        k
        for k in (p.current for p in keys.parts)
        if server_of(in_cluster, k) is not server_of(in_cluster, keys.current)
    )
    server_of(in_cluster, lost).flushall()
    assert Standing.DAMAGED in {store.standing(1) for _ in range(50)}
    server_of(in_cluster, keys.current).flushall()
    assert store.standing(1) is Standing.LOST
    number = store.next_number()
    assert number == 2
    store.trending.replace({"click": {"i1": 1.0}})
    publish(store, number)
    serves(in_cluster, SPREAD, 2)
    assert_no_orphans(store, in_cluster)


def test_a_cluster_that_is_emptied_during_a_publish_has_lost_the_generation(
    in_cluster: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GenerationStore(in_cluster, namespace=SPREAD, epoch=1)
    real = store._write

    def emptied(number: int, token: str, kind: str, *rest: Any) -> None:
        in_cluster.flushall()
        real(number, token, kind, *rest)

    monkeypatch.setattr(store, "_write", emptied)
    with pytest.raises(LostError):
        publish(store, 1)
    assert all_keys(in_cluster) == set()


def test_the_part_of_an_id_is_its_crc16_as_redis_computes_it(in_cluster: redis.Redis) -> None:
    """``CLUSTER KEYSLOT`` of an id without braces is its CRC16 modulo 16,384."""
    for entity in ("", "u1", "ü", "user with spaces", "a:b", "😀", "x" * 1_024):
        slot = int(server_of(in_cluster, "x").execute_command("CLUSTER", "KEYSLOT", entity))  # type: ignore[no-untyped-call]
        assert Keys(SPREAD).part_of(entity).prefix == f"{{shop:{slot % PARTS}}}"


def test_an_address_of_one_node_alone_is_refused_with_the_form_that_a_cluster_needs(cluster_url: str) -> None:
    """Whether redis-py or our own bytes ask. Only a reader of the node that has ``current`` finds nothing."""
    answered = list[str]()
    for node in cluster_url.partition("://")[2].split(","):
        with contextlib.closing(connect(f"redis://{node}/0")) as client:
            with pytest.raises(StoreError, match=OF_A_CLUSTER):
                publish(GenerationStore(client, namespace="shop", epoch=1), 1)
            calls = [Command(f"k{n}", packed("HGETALL", f"k{n}")) for n in range(20)]
            with pytest.raises(StoreError, match=OF_A_CLUSTER), redis_errors(client, "asking"):
                list(Wire(client).ask(calls))
            with contextlib.suppress(StoreError):
                assert EmbeddingReader(client, namespace="shop").current() == 0
                answered.append(node)
    assert len(answered) == 1


def test_nodes_that_are_away_are_an_error_with_their_address() -> None:
    with pytest.raises(StoreError, match=r"Redis at 127\.0\.0\.1:1,127\.0\.0\.1:2 did not answer"):
        connect("redis+cluster://user:secret@127.0.0.1:1,127.0.0.1:2", retries=0)
