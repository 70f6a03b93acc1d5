"""Generations when something dies: the publisher, the older of two workers, or Redis. Readers see one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.snapshots.generations import keys, scripts
from driftgraph.snapshots.generations import store as store_module
from driftgraph.snapshots.generations.keys import (
    RedisFullError,
    RedisUnavailableError,
    StaleWorkerError,
    VerifyError,
    connect,
)
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests import publishing_process
from tests.services_redis import (
    DIM,
    ITEMS,
    NAMESPACE,
    USERS,
    assert_no_remains,
    assert_serves_only,
    filled,
    keys_by_scan,
    publish,
)

# --- a publisher that dies -----------------------------------------------------------------------------


def test_a_publish_killed_at_any_point_leaves_one_whole_generation(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    """SIGKILL a real process after each thing that it sends; look as a reader, restart, clean, publish.

    It publishes generation 3 after 1 and 2 and keeps two, so the removal of 1 is cut at each point as well.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.publishing_process"])
    sent = processes.Value("i", 0)

    def publish_in_a_process(dies_after: int) -> int | None:
        redis_client.flushall()
        redis_client.script_flush()  # so that each process has the same to send
        store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, keep=2)
        publish(store, 1)
        publish(store, 2)
        redis_client.script_flush()
        child = processes.Process(target=publishing_process.run, args=(redis_server.url, 3, dies_after, sent))
        child.start()
        child.join(30)
        return child.exitcode

    assert publish_in_a_process(0) == 0
    assert_serves_only(redis_client, 3)
    assert sent.value > 30

    served = list[int]()
    for dies_after in range(1, sent.value + 1):
        assert publish_in_a_process(dies_after) == -signal.SIGKILL
        served.append(EmbeddingReader(redis_client, namespace=NAMESPACE).current())
        assert_serves_only(redis_client, served[-1])

        restarted = GenerationStore(redis_client, namespace=NAMESPACE, epoch=2, keep=2)
        restarted.clean_up()
        assert_serves_only(redis_client, served[-1])
        assert_no_remains(restarted, redis_client)
        assert [g.number for g in restarted.generations()] == [served[-1] - 1, served[-1]]
        assert redis_client.ttl(f"shop:emb:{served[-1]}:user:u0") == -1
        assert 0 < redis_client.ttl(f"shop:emb:{served[-1] - 1}:item:i59") <= store_module.TTL_S

        publish(restarted, 4)
        assert_serves_only(redis_client, 4)
        assert_no_remains(restarted, redis_client)
    assert set(served) == {2, 3}
    assert served == sorted(served)


def test_a_reader_sees_one_generation_while_others_are_published_and_rolled_back(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, keep=2)
    publish(store, 1)
    done, seen, faults = threading.Event(), list[int](), list[str]()

    def read() -> None:
        with contextlib.closing(connect(redis_server.url)) as client:
            reader = EmbeddingReader(client, namespace=NAMESPACE)
            while not done.is_set():
                batch = reader.batch(users=USERS, items=ITEMS)
                values = {*np.unique(batch.users), *np.unique(batch.items)}
                if values != {batch.generation} or not (batch.users_found.all() and batch.items_found.all()):
                    faults.append(f"generation {batch.generation} showed {values}")
                seen.append(batch.generation)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(2, 16):
            publish(store, number)
            if number % 5 == 0:
                store.rollback()
    finally:
        done.set()
        thread.join(30)
    assert faults == []
    assert len(set(seen)) > 5


# --- two workers ---------------------------------------------------------------------------------------


def test_a_stale_worker_can_neither_publish_nor_refresh_nor_roll_back(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    publish(store, 2)
    newer = GenerationStore(redis_client, namespace=NAMESPACE, epoch=2)
    newer.clean_up()
    before = keys_by_scan(redis_client)
    for act in (
        lambda: publish(store, 3),
        lambda: store.refresh(2, filled("u", 3, 9)),
        lambda: store.trending.replace({"click": {"i1": 1.0}}),
        store.rollback,
        store.clean_up,
    ):
        with pytest.raises(StaleWorkerError, match="epoch 2 has taken over from this worker of epoch 1"):
            act()
    assert_serves_only(redis_client, 2)
    assert keys_by_scan(redis_client) == before
    assert read_epoch(redis_client, NAMESPACE) == 2


@pytest.mark.parametrize(
    ("newer_epoch", "says"), [(2, "one with epoch 2 has taken over"), (1, "taken over generation 2")]
)
def test_a_worker_that_is_overtaken_half_way_writes_no_more(
    store: GenerationStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    newer_epoch: int,
    says: str,
) -> None:
    """The newer one publishes the same number between the older one's hashes and its index."""
    publish(store, 1)
    newer = GenerationStore(redis_client, namespace=NAMESPACE, epoch=newer_epoch)
    build_index = store._build_index

    def overtaken(number: int, token: str, items: Vectors) -> str:
        newer.publish(2, filled("u", 150, 2), filled("i", 60, 2), {"by": "newer"})
        return build_index(number, token, items)

    monkeypatch.setattr(store, "_build_index", overtaken)
    with pytest.raises(StaleWorkerError, match=says):
        store.publish(2, filled("u", 150, 8), filled("i", 70, 8), {"by": "older"})
    assert redis_client.execute_command("VCARD", "shop:emb:2:items") == 60  # type: ignore[no-untyped-call]
    assert_serves_only(redis_client, 2)
    assert_no_remains(newer, redis_client)


def test_what_reads_back_different_is_not_switched_to(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, 1)
    verify = store._verify

    def damage(key: str) -> None:
        def first_damaged(number: int, users: Vectors, items: Vectors, *, indexed: bool) -> None:
            if key.endswith("u0"):
                redis_client.hset(key, "embedding", b"\0" * 4 * DIM)
            elif key.endswith(":items"):
                redis_client.execute_command("VREM", key, "i3")  # type: ignore[no-untyped-call]
            else:
                redis_client.delete(key)
            verify(number, users, items, indexed=indexed)

        monkeypatch.setattr(store, "_verify", first_damaged)

    for key, says in (
        ("shop:emb:2:user:u0", "'u0' of generation 2 reads back different"),
        ("shop:emb:2:item:i1", "59 item keys and lists 60, where 60 were written"),
        ("shop:emb:2:items", "59 of 60 items"),
    ):
        damage(key)
        with pytest.raises(VerifyError, match=says):
            publish(store, 2)
        assert_serves_only(redis_client, 1)


# --- a Redis that is away, silent or full --------------------------------------------------------------


def test_a_refused_connection_is_an_error_soon() -> None:
    port = free_port()
    with contextlib.closing(connect(f"redis://127.0.0.1:{port}/0")) as client:
        store, begin_s = GenerationStore(client, namespace="shop", epoch=1), time.monotonic()
        with pytest.raises(
            RedisUnavailableError,
            match=rf"127\.0\.0\.1:{port} did not answer while (publishing|reading which items are delisted)",
        ):
            publish(store, 1)
        assert time.monotonic() - begin_s < keys.CALL_FAILS_WITHIN_S


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_silent_server_is_an_error_within_the_stated_time(silent_port: int) -> None:
    with contextlib.closing(connect(f"redis://127.0.0.1:{silent_port}/0")) as client:
        store, begin_s = GenerationStore(client, namespace="shop", epoch=1), time.monotonic()
        with pytest.raises(RedisUnavailableError, match="did not answer"):
            publish(store, 1)
        assert time.monotonic() - begin_s < keys.CALL_FAILS_WITHIN_S


def test_a_server_that_falls_silent_during_a_publish_serves_the_newest_afterwards(
    store: GenerationStore,
    redis_client: redis.Redis,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stop the real server between hashes and index, go on, try again."""
    publish(store, 1)
    server_pid = redis_client.info("server")["process_id"]
    impatient = connect(redis_server.url, call_timeout_s=0.2, retries=1)
    worker = GenerationStore(impatient, namespace=NAMESPACE, epoch=1)
    build_index = worker._build_index

    def stopped(number: int, token: str, items: Vectors) -> str:
        os.kill(server_pid, signal.SIGSTOP)
        return build_index(number, token, items)

    monkeypatch.setattr(worker, "_build_index", stopped)
    begin_s = time.monotonic()
    try:
        with pytest.raises(RedisUnavailableError, match="did not answer while publishing generation 2"):
            publish(worker, 2)
        took_s = time.monotonic() - begin_s
    finally:
        os.kill(server_pid, signal.SIGCONT)
    assert took_s < keys.CALL_TIMEOUT_S * 3, "it had the patience of others"
    assert_serves_only(redis_client, 1)
    monkeypatch.undo()
    publish(worker, 2)
    assert_serves_only(redis_client, 2)
    assert_no_remains(store, redis_client)
    impatient.close()


def test_a_full_server_is_an_error_and_the_newest_is_live_when_there_is_room(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 400_000)
    with pytest.raises(RedisFullError, match="maxmemory"):
        publish(store, 2, users=20_000)
    assert_serves_only(redis_client, 1)
    redis_client.config_set("maxmemory", 1)  # remains can be removed all the same
    with pytest.raises(RedisFullError, match="maxmemory"):
        publish(store, 2)
    assert store.clean_up() == 0
    assert_no_remains(store, redis_client)
    redis_client.config_set("maxmemory", 0)
    publish(store, 2)
    assert_serves_only(redis_client, 2)
    assert_no_remains(store, redis_client)


def test_a_chunk_after_one_that_failed_writes_no_keys_that_no_list_names(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """A full server has room again in the middle of a pipeline: the client's own buffers count as used."""
    redis_client.hset("shop:emb:1:manifest", "token", "mine")
    names = ["shop:emb:current", "shop:emb:1:manifest", "shop:emb:1:user-ids", "shop:emb:1:user:u100"]
    args = [1, "mine", 100, "u100", 2, "embedding", b"vector"]
    assert store._calls.run(scripts.WRITE, names, args) == ["gap"]
    assert redis_client.exists(*names[2:]) == 0


def test_after_the_switch_trouble_with_older_ones_is_left_to_the_next_time(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise redis.TimeoutError("too slow")

    publish(store, 1)
    monkeypatch.setattr(store, "_tidy", fails)
    publish(store, 2)
    assert_serves_only(redis_client, 2)
    assert redis_client.ttl("shop:emb:1:user:u0") == -1
    monkeypatch.undo()
    store.clean_up()
    assert redis_client.ttl("shop:emb:1:user:u0") > 0
