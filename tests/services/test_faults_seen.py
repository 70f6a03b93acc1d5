"""Faults of a real ``driftgraph run``, seen from outside: by /readyz, by status, and by the alerts.

Each fault is caused, seen, ended, and no longer seen. The data_dir is a small disk of its own, which only
root can make.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from uuid import uuid4

import pytest
import redis as redis_py
from confluent_kafka.admin import AdminClient

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.status_files import told
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import Port
from tests.kafka_brokers import event, produce
from tests.services.alerting import Alerting
from tests.services.conftest import RealKafka, free_port
from tests.services.test_delisted_topic import COMPACTED, say
from tests.services.test_kafka import make_topic
from tests.services.updaters import (
    CODE,
    FAULTY,
    TASTED,
    RunningUpdater,
    configured,
    model_served,
    run_to_its_end,
    two_tastes,
    until,
)

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

DISK_MB = 160  # of which a full one leaves nothing
ROOM_BYTES = 16_384  # for status files, and not for a checkpoint
SEEN_WITHIN_S = 60.0  # ten on a machine that is not busy; the log has the seconds


@dataclass
class World:
    """What runs, who looks at it, and where it listens."""

    updater: RunningUpdater
    kafka: RealKafka
    topic: str
    redis: redis_py.Redis
    port: Port
    alerting: Alerting
    folder: Path
    built_in: str | None = None  # a fault of the program that runs

    @property
    def data_dir(self) -> Path:
        return self.folder / "var"

    def codes(self) -> set[str]:
        """What /readyz says; that nothing answers is a fault too."""
        try:
            return {one["code"] for one in self.port.ask("/readyz")[1]["troubles"]}
        except URLError:
            return {"no answer"}

    def status(self) -> dict[str, Any]:
        """What ``driftgraph status`` says."""
        program = ["-c", CODE] if self.built_in is None else [str(FAULTY)]
        environment = os.environ | ({} if self.built_in is None else {"FAULT": self.built_in})
        command = [sys.executable, *program, "status", "-c", str(self.updater.config), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, env=environment
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def end(self) -> None:
        """Kill the updater that runs now."""
        self.updater.__exit__()

    def said_by_status(self) -> set[str]:
        return {one["code"] for one in self.status()["troubles"]}

    def is_well(self) -> bool:
        return not self.codes() and not self.alerting.firing()

    @contextlib.contextmanager
    def fault(self, code: str, alert: str) -> Iterator[None]:
        """In the block the fault has been caused and is seen by everybody; afterwards by nobody.

        Enter it when the fault is there; end the fault in the block.
        """
        began_s = time.monotonic()
        until(f"/readyz says {code}", lambda: code in self.codes(), SEEN_WITHIN_S)
        told_s = time.monotonic()
        until(f"{alert} fires", lambda: alert in self.alerting.firing(), SEEN_WITHIN_S)
        fired_s = time.monotonic()
        assert code in self.said_by_status()
        yield
        ended_s = time.monotonic()
        until(f"{code} is over: {self.codes()}", lambda: code not in self.codes(), SEEN_WITHIN_S)
        until(f"{alert} clears", lambda: alert not in self.alerting.firing(), SEEN_WITHIN_S)
        cleared_s = time.monotonic()
        print(
            f"{code}: said after {told_s - began_s:.1f} s, fired after {fired_s - began_s:.1f} s, "
            f"cleared {cleared_s - ended_s:.1f} s after its end"
        )
        assert code not in self.said_by_status()

    def produce(self, count: int) -> None:
        clicks = two_tastes(count, SystemClock().now_ms())
        records = [{"value": event(u, i, time_ms=t), "key": u, "timestamp": t} for u, i, t in clicks]
        produce(self.kafka.address, self.topic, records)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own at ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def world(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run that serves its model, and a Prometheus that looks at it."""
    topic, folder, number = f"faults-{uuid4().hex[:8]}", tmp_path_factory.mktemp("faults"), free_port()
    make_topic(real_kafka.address, topic, 2)
    make_topic(real_kafka.address, f"{topic}-gone", 2, **COMPACTED)
    with contextlib.ExitStack() as stack:
        if os.getuid() == 0:
            stack.enter_context(small_disk(folder / "var"))
        server = stack.enter_context(EmbeddedRedis())
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        with config.open("a", encoding="utf-8") as file:
            file.write(f'\n[web]\nlisten = "127.0.0.1:{number}"\n[checkpoint]\nevery = "2s"\n')
            file.write(f'[events]\ndelisted_topic = "{topic}-gone"\n')
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        stack.enter_context(pytest.MonkeyPatch.context()).delenv("DRIFTGRAPH__WEB__LISTEN")
        alerting = Alerting(folder, number)
        stack.callback(alerting.stop)
        updater = RunningUpdater(config)
        port = Port(f"http://127.0.0.1:{number}")
        found = World(updater, real_kafka, topic, client, port, alerting, folder)
        stack.callback(found.end)
        found.produce(TASTED)
        until("the model is served", lambda: updater.status() and model_served(client), 300)
        until("all is well", found.is_well)
        yield found


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still meanwhile, unless it was killed in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_killed_worker(world: World) -> None:
    os.kill(world.updater.status()["worker"]["pid"], signal.SIGKILL)
    until("the alert fires", lambda: "DriftgraphWorkerDown" in world.alerting.firing(), SEEN_WITHIN_S)
    until("it is at work again", world.is_well)


def test_a_stopped_worker(world: World) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped(world.updater.status()["worker"]["pid"]))
        with world.fault("worker_silent", "DriftgraphWorkerSilent"):
            stack.close()


def test_a_stopped_updater(world: World) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped(world.updater.process.pid))
        with world.fault("updater_silent", "DriftgraphUpdaterSilent"):
            until("it is not alive", lambda: world.port.ask("/livez")[0] == 503, SEEN_WITHIN_S)
            stack.close()
    assert world.port.ask("/livez")[0] == 200


def test_a_redis_that_hangs(world: World) -> None:
    pid = world.redis.info("server")["process_id"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped(pid))
        with world.fault("redis_away", "DriftgraphRedisAway"):
            assert world.port.ask("/livez")[0] == 200
            stack.close()


def test_a_redis_that_was_flushed(world: World) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            stopped(world.updater.status()["worker"]["pid"])
        )  # else it is over too soon to be seen
        world.redis.flushall()
        with world.fault("no_generation", "DriftgraphNoGeneration"):
            stack.close()
    assert model_served(world.redis)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_kafka_that_was(world: World, how: str) -> None:
    with contextlib.ExitStack() as stack:
        if how == "killed":
            world.kafka.kill()
            stack.callback(world.kafka.start)
        else:
            stack.enter_context(stopped(world.kafka.pid))
        with world.fault("kafka_away", "DriftgraphKafkaAway"):
            assert world.port.ask("/livez")[0] == 200
            stack.close()


def test_a_topic_of_delisted_items_that_is_deleted(world: World) -> None:
    """What was delisted stays so meanwhile, and what the topic says when it is there again is taken."""
    gone = f"{world.topic}-gone"
    reader = EmbeddingReader(world.redis, namespace="shop")
    say(world.kafka, gone, {"i4": b"1"})
    until("i4 is delisted", lambda: not reader.items(["i4"])[1].any())
    admin = AdminClient({"bootstrap.servers": world.kafka.address})
    admin.delete_topics([gone])[gone].result(30)
    with world.fault("delisting_failing", "DriftgraphDelistingFailing"):
        assert not reader.items(["i4"])[1].any()
        assert world.port.ask("/readyz")[0] == 200, "fresh vectors are served"
        make_topic(world.kafka.address, gone, 2, **COMPACTED)
        say(world.kafka, gone, {"i6": b"1"})
    until("i6 is delisted alone", lambda: reader.items(["i4", "i6"])[1].tolist() == [True, False])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a small disk")
def test_a_full_disk(world: World) -> None:
    filler = world.data_dir / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with world.fault("disk_full", "DriftgraphDiskFull"):
        assert world.updater.process.poll() is None, "ingestion goes on"
        assert world.port.ask("/livez")[0] == 200, "nobody may kill it for that"
        os.truncate(filler, filler.stat().st_size - ROOM_BYTES)
        until("it says why no checkpoint is written", lambda: "checkpoint_failing" in world.codes())
        until("the alert fires", lambda: "DriftgraphCheckpointFailing" in world.alerting.firing())
        filler.unlink()
    until("checkpoints are written again", world.is_well)


def test_a_fit_that_is_stuck(world: World) -> None:
    assert world.updater.terminate()[0] == 0
    world.built_in = "stuck-fit"
    world.updater = RunningUpdater(world.updater.config, fault=world.built_in)
    until("it is well", world.is_well, 120)
    world.produce(TASTED)
    with world.fault("worker_stuck", "DriftgraphWorkerStuck"):
        os.kill(world.updater.status()["worker"]["pid"], signal.SIGKILL)
    until("the fit is made by the next one", world.is_well)
    world.built_in = None


@pytest.mark.parametrize(
    ("fault", "mended", "said"),
    [
        ('topic = "never-made"', "", "has no topic 'never-made'"),
        ("dim = 32", "dim = 16", "model.dim"),
    ],
    ids=["a topic that is not there", "a saved model of another size"],
)
def test_a_start_that_is_refused(world: World, fault: str, mended: str, said: str) -> None:
    """Nothing answers at the port then, and ``status`` has the sentence."""
    assert world.updater.terminate()[0] == 0
    config = world.updater.config
    right = config.read_text(encoding="utf-8")
    config.write_text(right.replace(mended or f'topic = "{world.topic}"', fault), encoding="utf-8")
    refused = run_to_its_end(config)
    assert refused.returncode != 0
    assert said in refused.stderr
    until("the alert fires", lambda: "DriftgraphDown" in world.alerting.firing(), SEEN_WITHIN_S)
    [trouble] = [one for one in world.status()["troubles"] if one["code"] == "updater_ended"]
    assert said in trouble["said"]
    start = told(world.data_dir, "start")
    assert start is not None
    assert start["state"] == "failed"
    config.write_text(right, encoding="utf-8")
    world.updater = RunningUpdater(config)
    until("it is well again", world.is_well, 120)
    assert told(world.data_dir, "start") is None
