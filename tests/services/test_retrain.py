"""``driftgraph retrain`` as cron has it, on a real Kafka and Redis: beside a running updater, and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import CODE, TASTED, RunningUpdater, configured, model_served, two_tastes, until

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"retrain-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name, 1)
    return name


def retrained(config: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code and what it printed."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE, "retrain", "-c", str(config), "--json", *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=config.parent,
    )
    assert ended.returncode in (0, 3), ended.stderr
    told: dict[str, Any] = msgspec.json.decode(ended.stdout)
    return ended.returncode, told


@pytest.mark.parametrize("fault", [None, "killed-before-publish"])
def test_beside_an_updater_and_after_its_stop(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path, fault: str | None
) -> None:
    """Too few events for a mark of the schedule: only who asks gets a fit. A worker that is killed between
    the save and the publish publishes the one fit when it starts again, and the command still says so.
    """
    namespace = f"shop-{topic}"
    config = configured(tmp_path, kafka=real_kafka.address, topic=topic, redis=redis_url, namespace=namespace)
    config.write_text(config.read_text().replace(f"events = {TASTED}", f"events = {10 * TASTED}"))
    now_ms = SystemClock().now_ms()
    produce(
        real_kafka.address,
        topic,
        [{"value": event(user, item, time_ms=ms)} for user, item, ms in two_tastes(TASTED, now_ms)],
    )
    with closing(connect(redis_url)) as client:
        with RunningUpdater(config, fault=fault) as updater:
            updater.wait_for("it is full", lambda s: s["state"] == "running")
            code, told = retrained(config)
            assert (code, told["outcome"], told["made_by"]) == (0, "published", "worker")
            assert told["model_version"] == 1
            assert told["generation"] == model_served(client, namespace)
            assert updater.status()["worker"]["starts"] == (1 if fault is None else 2)
            assert updater.output().count("worker: training model version 1\n") == 1
            assert updater.terminate()[0] == 0
        code, told = retrained(config)
        assert (code, told["outcome"], told["made_by"]) == (0, "nothing new", "retrain")
        assert told["generation"] == model_served(client, namespace)
        code, told = retrained(config, "--full")
        assert (code == 0) == (told["outcome"] == "published")
        served = model_served(client, namespace)
        with RunningUpdater(config) as updater:
            until("the worker goes on", lambda: "goes on" in updater.output())
            code, told = retrained(config)
            assert (code, told["outcome"], told["generation"]) == (0, "nothing new", served)
