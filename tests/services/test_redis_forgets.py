"""``driftgraph run`` beside a Redis that forgets, and beside others that want its namespace."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import (
    CODE,
    TASTED,
    RunningUpdater,
    configured,
    model_served,
    run_to_its_end,
    two_tastes,
    until,
)

pytestmark = pytest.mark.services


@dataclass
class World:
    """A running updater with a generation in Redis."""

    updater: RunningUpdater
    kafka: RealKafka
    topic: str
    redis_url: str
    client: redis_py.Redis

    def act(self, user: str) -> int:
        """A click of now; its time."""
        now_ms = SystemClock().now_ms()
        produce(self.kafka.address, self.topic, [{"value": event(user, "i1", time_ms=now_ms), "key": user}])
        return now_ms

    def served(self) -> int:
        return EmbeddingReader(self.client, namespace="shop").current()

    def knows(self, user: str, at_ms: int) -> bool:
        """Whether what is served has an event of a user."""
        found = EmbeddingReader(self.client, namespace="shop").recommend(user, 1)
        return (found.event_ms or 0) >= at_ms


@pytest.fixture(scope="module")
def world(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    topic, now_ms = f"forgets-{uuid4().hex[:8]}", SystemClock().now_ms()
    make_topic(real_kafka.address, topic, 2)
    clicks = two_tastes(TASTED, now_ms - 60_000)
    produce(real_kafka.address, topic, [{"value": event(u, i, time_ms=t), "key": u} for u, i, t in clicks])
    folder = tmp_path_factory.mktemp("forgets")
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        with RunningUpdater(config) as updater:
            found = World(updater, real_kafka, topic, server.url, client)
            until("the model is served", lambda: updater.status() and model_served(client), 120)
            yield found


def test_what_is_flushed_is_published_again_and_refreshed_on(world: World) -> None:
    at_ms = world.act("before")
    until("it is refreshed", lambda: world.knows("before", at_ms), 60)
    for round_ in range(2):
        number = world.served()
        world.client.flushall()
        until("it is published again", lambda n=number: world.served() > n, 60)  # type: ignore[misc]
        at_ms = world.act(f"after{round_}")
        until("it is refreshed", lambda r=round_, t=at_ms: world.knows(f"after{r}", t), 60)  # type: ignore[misc]
    assert "Redis has lost generation" in world.updater.output()
    assert world.updater.status()["worker"]["starts"] == 1


def test_a_rollback_stays_and_users_are_refreshed_until_redis_is_flushed(world: World) -> None:
    world.client.hset("shop:emb:current", "gen", 0)  # lost, so that there are two generations
    number = until("there is another", world.served)
    store = GenerationStore(
        world.client, namespace="shop", epoch=read_epoch(world.client, "shop"), keep=3, ttl_s=600
    )
    until("there are two", lambda: len(store.generations()) >= 2)
    number = world.served()
    world.client.hset("shop:emb:current", "previous", store.generations()[-2].number)
    went_to = store.rollback()
    before = world.client.hgetall("shop:emb:current")
    until("the worker has seen it", lambda: "refresh and the next fit go on" in world.updater.output())
    at_ms = world.act("during")
    until("it is refreshed", lambda: world.knows("during", at_ms), 60)
    assert world.client.hgetall("shop:emb:current") == before
    assert world.served() == went_to
    world.client.flushall()
    until("it is published again", lambda: world.served() > number, 60)
    until("with what came meanwhile", lambda: world.knows("during", at_ms), 60)


def test_another_name_and_a_replay_are_refused_and_the_first_goes_on(world: World, tmp_path: Path) -> None:
    config = configured(tmp_path, kafka=world.kafka.address, topic=world.topic, redis=world.redis_url)
    text = config.read_text(encoding="utf-8").replace(f'name = "{world.topic}"', 'name = "other"')
    config.write_text(text, encoding="utf-8")
    epoch = read_epoch(world.client, "shop")
    done = run_to_its_end(config)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "namespace 'shop' in Redis at 127.0.0.1:" in last
    assert f"is in use by '{world.topic}' (pid {world.updater.process.pid} on " in last
    assert "set redis.namespace to another name" in last

    file = tmp_path / "events.csv"
    file.write_text("user_id,item_id,behavior,timestamp\nu1,i1,click,1783000000\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CODE, "replay", str(file), "-c", str(config)],
        capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"is in use by '{world.topic}'" in done.stderr.strip().splitlines()[-1]
    assert read_epoch(world.client, "shop") == epoch, "the worker of the first was fenced"
    at_ms = world.act("still")
    until("the first goes on", lambda: world.knows("still", at_ms), 60)
