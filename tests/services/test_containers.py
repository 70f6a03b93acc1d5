"""The same system on services from containers: Kafka and Redis through testcontainers.

Where ``DRIFTGRAPH_TEST_CONTAINERS`` is set (CI sets it) the absence of a Docker engine fails; elsewhere
these tests are skipped with their reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce, read_count, source_of
from tests.services.containers import kafka_container, redis_container, why_no_engine
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured, until

pytestmark = pytest.mark.services

HOUR_MS = 3_600_000
USERS, ITEMS, EVENTS = 30, 20, 600


@pytest.fixture(scope="module")
def engine() -> None:
    """A Docker engine that answers."""
    why_not = why_no_engine()
    if why_not is not None and os.environ.get("DRIFTGRAPH_TEST_CONTAINERS"):
        pytest.fail(f"DRIFTGRAPH_TEST_CONTAINERS is set, but {why_not}")
    if why_not is not None:
        pytest.skip(why_not)


@pytest.fixture(scope="module")
def kafka(engine: None) -> Iterator[str]:
    with kafka_container() as address:
        yield address


@pytest.fixture(scope="module")
def redis_url(engine: None) -> Iterator[str]:
    with redis_container() as url:
        yield url


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(kafka, name)
    return name


def test_a_broker_in_a_container_is_read_like_any_other(kafka: str, topic: str) -> None:
    produce(kafka, topic, [{"value": event(f"u{n}"), "partition": n % 2} for n in range(100)])
    with contextlib.closing(source_of(kafka, topic)) as source:
        users = {user for part in read_count(source, 100) for user in part.batch.user.to_list()}
        assert users == {f"u{n}" for n in range(100)}
        assert sum(source.position().values()) == 100


def test_events_on_kafka_become_vectors_in_redis(
    kafka: str, topic: str, redis_url: str, tmp_path: Path
) -> None:
    """Produce, ``driftgraph run``, read: the users who acted have vectors, and one who acts now gets one."""
    now_ms = SystemClock().now_ms()
    past = [
        (f"u{n % USERS}", f"i{(n * 7 + n // USERS) % ITEMS}", now_ms - 4 * HOUR_MS + n * 1_000)
        for n in range(EVENTS)
    ]
    records = [
        {"value": event(user, item, time_ms=t), "key": user, "partition": n % 2, "timestamp": t}
        for n, (user, item, t) in enumerate(past)
    ]
    produce(kafka, topic, records)
    config = configured(tmp_path, kafka=kafka, topic=topic, redis=redis_url, namespace=topic)
    with RunningUpdater(config) as updater, contextlib.closing(connect(redis_url)) as client:
        updater.wait_for("the window holds all", lambda status: status["events"]["applied"] == EVENTS)
        reader = EmbeddingReader(client, namespace=topic)
        until(f"a generation is served; {updater.output()}", reader.current, 60)
        vectors, found = reader.users([f"u{n}" for n in range(USERS)])
        assert found.all()
        assert (abs(vectors).sum(axis=1) > 0).all()
        assert reader.recommend("u1", 5).source == "list"

        produce(kafka, topic, [{"value": event("newcomer", "i1", time_ms=SystemClock().now_ms())}])
        until("a newcomer has a vector", lambda: reader.users(["newcomer"])[1][0])
        code, _ = updater.terminate()
    assert code == 0
