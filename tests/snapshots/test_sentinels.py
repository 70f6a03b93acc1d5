"""Generations and readers under Sentinels: the primary is replaced, crashes or hangs; another takes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from driftgraph.snapshots.generations.keys import (
    RedisUnavailableError,
    StoreError,
    connect,
    connect_async,
)
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import AsyncEmbeddingReader, EmbeddingReader
from tests.redis_topologies import SERVICE, WatchedPair, ask
from tests.services_redis import USERS, publish
from tests.snapshots.test_topologies import assert_no_orphans, serves, whole_life
from tests.waits import until


def test_a_primary_that_sentinels_name(pair: WatchedPair) -> None:
    with contextlib.closing(connect(pair.url)) as client:
        whole_life(client, "shop")


@pytest.mark.parametrize("step", ["_write", "_build_index", "_verify", "_tidy"])
def test_a_failover_during_a_publish_leaves_one_whole_generation(
    pair: WatchedPair, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The primary changes before a step: the old or the new one is served, and the next try publishes.

    The former primary still takes writes, so a publish could go on there and be lost.
    """
    with contextlib.closing(connect(pair.url)) as client:
        store = GenerationStore(client, namespace="shop", epoch=1)
        store.trending.replace({"click": {"i1": 1.0}})
        publish(store, 1)
        until_replicated(client)
        before = EmbeddingReader(client, namespace="shop")
        assert before.current() == 1
        real = getattr(store, step)

        def moved(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            until_replicated(client)
            pair.fail_over()
            return real(*args, **options)

        monkeypatch.setattr(store, step, moved)
        with contextlib.suppress(StoreError):
            publish(store, 2)
        monkeypatch.undo()
        number = tried_again(EmbeddingReader(client, namespace="shop").current)
        assert number == (1 if step in ("_write", "_build_index") else 2), (
            "all was replicated before the others"
        )
        assert tried_again(before.current) == number
        serves(client, "shop", number)
        publish(store, newest := store.next_number())
        assert before.current() == newest
        serves(client, "shop", newest)
        assert_no_orphans(store, client)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_calls_and_readers_go_on_at_the_next_primary(
    pair: WatchedPair, kind: str, how: signal.Signals
) -> None:
    """The primary goes while it keeps a call waiting, and while a reader has a connection to it."""
    pair.hasten()
    with contextlib.closing(connect(pair.url)) as client:
        publish(GenerationStore(client, namespace="shop", epoch=1), 1)
        until_replicated(client)

    async def in_asyncio() -> None:
        client = connect_async(pair.url, call_timeout_s=1, retries=9)
        reader = AsyncEmbeddingReader(client, namespace="shop")
        waiting = asyncio.create_task(client.execute_command("BLPOP", "nothing", 0.5))  # type: ignore[no-untyped-call]
        crash = asyncio.create_task(asyncio.to_thread(pair.crash, how))
        while not crash.done():
            assert (await reader.batch(users=USERS)).users_found.all()
        assert await waiting is None
        await client.aclose()

    if kind == "asyncio":
        asyncio.run(in_asyncio())
        return
    with (
        contextlib.closing(connect(pair.url, call_timeout_s=1, retries=9)) as client,
        ThreadPoolExecutor() as threads,
    ):
        reader = EmbeddingReader(client, namespace="shop")
        waiting = threads.submit(client.blpop, "nothing", 0.5)
        crash = threads.submit(pair.crash, how)
        while not crash.done():
            assert reader.batch(users=USERS).users_found.all()
        assert waiting.result() is None


def test_without_another_server_the_error_says_that_there_is_no_primary(pair: WatchedPair) -> None:
    pair.hasten()
    pair.crash()
    with contextlib.closing(connect(pair.url, call_timeout_s=0.5, retries=1)) as client:
        reader = EmbeddingReader(client, namespace="shop")
        assert reader.current() == 0
        [port] = pair.primary_ports()
        os.kill(ask(port, "INFO", "server")["process_id"], signal.SIGKILL)
        for sentinel in pair.sentinel_ports:
            until(lambda s=sentinel: b"s_down" in ask(s, "SENTINEL", "MASTER", SERVICE)[b"flags"])  # type: ignore[misc]
        with pytest.raises(RedisUnavailableError, match="the Sentinels name no primary that is up"):
            reader.current()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_sentinel_that_ends_connections_is_asked_once_before_the_next(pair: WatchedPair, kind: str) -> None:
    taken = list[int]()

    def refuse(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                listener.accept()[0].close()
                taken.append(1)

    async def in_asyncio(url: str) -> None:
        client = connect_async(url)
        assert await client.ping()
        await client.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, args=(listener,), daemon=True).start()
        url = pair.url.replace("sentinel://", f"sentinel://127.0.0.1:{listener.getsockname()[1]},")
        if kind == "asyncio":
            asyncio.run(in_asyncio(url))
        else:
            with contextlib.closing(connect(url)) as client:
                assert client.ping()
    assert len(taken) == 1


@pytest.mark.parametrize("act", ["rollback", "promote", "erase"])
def test_after_a_failover_what_must_not_be_lost_is_done_at_the_next_primary(
    pair: WatchedPair, act: str
) -> None:
    """The store has a connection to the former primary, which takes writes for some seconds."""
    with contextlib.closing(connect(pair.url)) as client:
        store = GenerationStore(client, namespace="shop", epoch=1)
        publish(store, 1)
        publish(store, 2)
        until_replicated(client)
        pair.fail_over()
        match act:
            case "rollback":
                assert store.rollback() == 1
            case "promote":
                assert store.promote(1) == 1
            case _:
                store.erase(["u7"])
    with contextlib.closing(connect(pair.url)) as client:
        found = EmbeddingReader(client, namespace="shop").batch(users=USERS)
        assert found.generation == (2 if act == "erase" else 1)
        assert found.users_found.sum() == len(USERS) - (act == "erase")


def until_replicated(client: redis.Redis) -> None:
    assert client.execute_command("WAIT", 1, 5_000) == 1  # type: ignore[no-untyped-call]


def tried_again(act: Callable[[], int]) -> int:
    """As a worker does: Redis may be away for some seconds."""
    for _ in range(10):
        with contextlib.suppress(StoreError):
            return act()
    return act()


def test_a_service_that_no_sentinel_watches_is_named(pair: WatchedPair) -> None:
    url = pair.url.replace(f"/{SERVICE}", "/other")
    with (
        contextlib.closing(connect(url, retries=0)) as client,
        pytest.raises(RedisUnavailableError, match="the primary of 'other' did not answer"),
    ):
        publish(GenerationStore(client, namespace="shop", epoch=1), 1)
