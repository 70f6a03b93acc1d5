"""``driftgraph run`` under a user to whom neither the package nor the home folder belongs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce
from tests.other_user import UID, OtherUser
from tests.services.test_kafka import make_topic
from tests.services.updaters import configured, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

HOUR_MS = 3_600_000
EVENTS = 300
SERVED_WITHIN_S = 500.0  # with everything to compile, twice: in the updater and in its worker


def fill(kafka: str, topic: str) -> None:
    make_topic(kafka, topic)
    start_ms = SystemClock().now_ms() - HOUR_MS
    records = [
        {"value": event(f"u{n % 20}", f"i{(n * 7 + n // 20) % 15}", time_ms=start_ms + n), "partition": n % 2}
        for n in range(EVENTS)
    ]
    produce(kafka, topic, records)


def test_run_publishes_and_keeps_its_kernels_for_worker_and_next_start(
    kafka_address: str, redis_server: EmbeddedRedis, redis_client: redis_py.Redis, tmp_path: Path
) -> None:
    """The worker is another process, which is spawned: it keeps its kernels beside those of the updater."""
    other, topic = OtherUser(tmp_path), f"events-{uuid4().hex[:8]}"
    fill(kafka_address, topic)
    other.make_data_dir()
    config = configured(other.work, kafka=kafka_address, topic=topic, redis=redis_server.url, namespace=topic)
    reader = EmbeddingReader(redis_client, namespace=topic)
    log = tmp_path / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            other.command("run", "-c", config.name),
            stdout=output,
            stderr=output,
            cwd=other.work,
            env=other.environment,
        )
    try:

        def served() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(reader.recommend("u1", 5).items)

        until("something is served", served, SERVED_WITHIN_S)
        ready = ("status", "-c", config.name, "--check", "--json")
        until("it is ready", lambda: other.run(*ready).returncode == 0, SERVED_WITHIN_S)
        checked = other.run(*ready)
        assert json.loads(checked.stdout)["updater"]["events"]["applied"] == EVENTS
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
    assert "compiled kernels" not in log.read_text()
    kernels = [path.name for path in other.kept.iterdir() if path.suffix == ".nbc"]
    assert {os.stat(other.kept / name).st_uid for name in kernels} == {UID}
    for one in ("recent_kernels.", "ring.", "json_kernels."):  # the worker's, the updater's, the decoder's
        assert any(one in name for name in kernels), kernels
    assert sorted(path.name for path in other.work.iterdir()) == ["driftgraph.toml", "var"]
