"""Real services for tests: found, started on free ports, stopped at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.conftest import shared_folder
from tests.services.containers import kafka_container, why_no_engine

START_TIMEOUT_S = 60.0  # three seconds on an idle machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kafka_server() -> Path | None:
    """What starts a broker: in ``KAFKA_HOME``, or in the shared folder."""
    named = os.environ.get("KAFKA_HOME")
    shared = shared_folder()
    folders = [Path(named)] if named else [] if shared is None else [shared / "kafka"]
    return next((folder / "kafka-server" for folder in folders if (folder / "kafka-server").is_file()), None)


class RealKafka:
    """One Apache Kafka in its own folder. It may be killed and started again on the same data.

    ``settings`` are broker properties in place of its own, ``scram`` is a ``user=password``, and ``login``
    what a client needs to ask it whether it is there.
    """

    def __init__(
        self,
        server: Path,
        folder: Path,
        settings: Sequence[str] = (),
        scram: str = "",
        login: Mapping[str, str] | None = None,
    ) -> None:
        self._server = server
        self._folder = folder
        self._settings = settings
        self._scram = scram
        self._login = dict(login or {})
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "output.log").open("ab") as log:
            command = ["bash", str(self._server), str(self._folder / "data"), str(self._port)]
            # the second compiler costs more than it gains in the minutes that a broker of ours lives
            environment = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1", **os.environ, "SCRAM": self._scram}
            self._process = subprocess.Popen(
                [*command, *self._settings], stdout=log, stderr=log, env=environment
            )
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, **self._login})
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                admin.list_topics(timeout=1)
            except KafkaException:
                continue
            return
        tail = (self._folder / "output.log").read_text(errors="replace")[-2_000:]
        self.stop()
        raise RuntimeError(f"Kafka did not start in {START_TIMEOUT_S:g} s:\n{tail}")

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None


@pytest.fixture(scope="session")
def kafka_program() -> Path:
    """What starts a broker. Its absence fails where ``DRIFTGRAPH_SHARED`` is set, and skips elsewhere."""
    server, java = kafka_server(), shutil.which("java")
    if server is None or java is None:
        missing = "no Java 17 on PATH" if java is None else "no kafka-server: set KAFKA_HOME to its folder"
        if os.environ.get("DRIFTGRAPH_SHARED"):
            pytest.fail(f"DRIFTGRAPH_SHARED is set, but there is {missing}")
        pytest.skip(missing)
    return server


@pytest.fixture(scope="session")
def real_kafka(kafka_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    """A real broker."""
    broker = RealKafka(kafka_program, tmp_path_factory.mktemp("kafka"))
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def kafka_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The first real broker that is there, for tests that need its address alone.

    ``DRIFTGRAPH_TEST_KAFKA`` → Docker through testcontainers → ``real_kafka``, with its failure or skip.
    """
    given = os.environ.get("DRIFTGRAPH_TEST_KAFKA")
    if given:
        yield given
    elif why_no_engine() is None:
        with kafka_container() as address:
            yield address
    else:
        broker: RealKafka = request.getfixturevalue("real_kafka")
        yield broker.address
