"""How a reader talks to Redis: its own bytes, connections that end, answers that the client keeps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import RedisUnavailableError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.snapshots.reading import wire
from driftgraph.snapshots.reading.wire import Answers, UnusualError, pack
from tests.readers import MakeReader
from tests.services_redis import NAMESPACE, filled, publish
from tests.snapshots.test_published_lists import publish as publish_lists

values = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def encoded(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n%b" % (len(value), b"".join(map(encoded, value)))


@given(st.lists(values, min_size=1, max_size=6), st.data())
def test_answers_are_the_same_however_they_are_cut(found: list[Any], data: st.DataObject) -> None:
    whole, answers, at = b"".join(map(encoded, found)), Answers(len(found)), 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        at += size
        assert answers.feed(whole[at - size : at]) == (at == len(whole))
    assert answers.found == found


@pytest.mark.parametrize(
    "answer", [b"-ERR no\r\n", b">2\r\n:1\r\n:2\r\n", b"*1\r\n-ERR no\r\n", b":1\r\n:2\r\n"]
)
def test_what_is_no_plain_data_is_left_to_redis_py(answer: bytes) -> None:
    with pytest.raises(UnusualError):
        Answers(1).feed(answer)


def test_commands_are_packed_as_redis_py_packs_them(redis_client: redis.Redis) -> None:
    commands = [
        ("HGET", "a b\r\n", "é"),
        ("VSIM", "k", "FP32", b"\x00\r\n", "COUNT", "3"),
        ("SMEMBERS", "😀"),
    ]
    connection = redis_client.connection_pool.get_connection()
    try:
        assert pack(commands) == b"".join(connection.pack_commands(commands))  # type: ignore[no-untyped-call]
    finally:
        redis_client.connection_pool.release(connection)


def test_long_answers_come_whole(
    store: GenerationStore,
    redis_client: redis.Redis,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "READ_BYTES_MIN", 7)
    store.publish(1, filled("u", 7_000, 1), filled("i", 3, 1), {})
    vectors, found = make_reader(redis_client).users([f"u{n}" for n in range(7_001)])
    assert found.tolist() == [True] * 7_000 + [False]
    assert (vectors[:-1] == 1).all()


def test_a_connection_that_redis_has_closed_is_replaced(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store, 1)
    reader = make_reader(redis_client)
    for _ in range(3):
        assert reader.users(["u1"])[1].all()
        redis_client.client_kill_filter(_type="normal", skipme=False)
        assert reader.recommend("u1", 3).source == "embedding"


def test_readers_give_their_connection_back(store: GenerationStore, redis_server: EmbeddedRedis) -> None:
    publish(store, 1)
    with contextlib.closing(connect(redis_server.url)) as client:
        for _ in range(5):
            assert EmbeddingReader(client, namespace=NAMESPACE).users(["u1"])[1].all()
        assert client.connection_pool.get_connection() is not None
        assert len(client.connection_pool._get_in_use_connections()) == 1  # type: ignore[no-untyped-call]


def test_a_forked_process_has_a_connection_of_its_own(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)

    def socket_after_a_read() -> int:
        assert reader.users(["u1"])[1].all()
        return os.fstat(reader._line._connection._sock.fileno()).st_ino

    ours = socket_after_a_read()
    child = os.fork()
    if not child:
        os._exit(0 if socket_after_a_read() != ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert socket_after_a_read() == ours


def test_a_redis_that_hangs_is_given_up_in_time(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    with contextlib.closing(connect(redis_server.url, call_timeout_s=0.2, retries=0)) as client:
        reader = EmbeddingReader(client, namespace=NAMESPACE)
        assert reader.current() == 0
        redis_client.client_pause(1_000)
        with pytest.raises(RedisUnavailableError, match="did not answer while reading which generation"):
            reader.current()
        redis_client.client_unpause()
        assert reader.current() == 0


# --- answers that the client keeps ---------------------------------------------------------------------


def test_a_hot_user_costs_no_round_trip_and_switches_are_followed(
    store: GenerationStore, redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    """Publish, refresh, roll back and forget: each next answer is the new one."""
    publish_lists(store, 1)
    with contextlib.closing(connect(redis_server.url, cache_users=100)) as client:
        reader = EmbeddingReader(client, namespace=NAMESPACE)
        for _ in range(3):
            assert reader.recommend("u1", 1).items == [("i0", 1.0)]
        redis_client.config_resetstat()
        for _ in range(50):
            assert reader.recommend("u1", 1).items == [("i0", 1.0)]
        assert set(redis_client.info("commandstats")) <= {"cmdstat_config|resetstat"}
        for number in range(2, 8):
            publish_lists(store, number)
            assert reader.recommend("u1", 1).items == [("i0", number)]
            assert reader.users(["u1"])[0].tolist() == [[number] * 4]
        assert store.rollback() == 6
        assert reader.recommend("u1", 1).items == [("i0", 6.0)]
        store.erase(["u1"])
        assert reader.recommend("u1", 1).source == "none"
        redis_client.flushall()
        assert reader.recommend("u1", 1).source == "none"


def test_kept_answers_are_of_one_generation_while_others_are_published(
    store: GenerationStore, redis_server: EmbeddedRedis
) -> None:
    publish_lists(store, 1)
    faults, seen, stop = list[str](), set[int](), threading.Event()

    def read() -> None:
        with contextlib.closing(connect(redis_server.url, cache_users=100)) as client:
            reader = EmbeddingReader(client, namespace=NAMESPACE)
            while not stop.is_set():
                found = reader.recommend("u1", 1)
                seen.add(found.generation)
                if found.items != [("i0", float(found.generation))]:
                    faults.append(repr(found))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(2, 20):
        publish_lists(store, number)
    stop.set()
    thread.join(30)
    assert faults == []
    assert len(seen) > 3


def test_a_reader_imports_neither_a_model_nor_kafka() -> None:
    code = "import driftgraph.snapshots, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported.isdisjoint(
        {"torch", "dgl", "numba", "confluent_kafka", "faust", "pyarrow", "pydantic", "typer", "rich"}
    )
    assert {"numpy", "redis", "msgspec"} <= imported


def test_numpy_rows_may_be_written_to(store: GenerationStore, redis_client: redis.Redis) -> None:
    publish(store, 1)
    vectors, _ = EmbeddingReader(redis_client, namespace=NAMESPACE).users(["u1", "u2"])
    vectors *= np.float32(2)
    assert (vectors == 2).all()
