"""Nothing lost, nothing twice, never stalled: updaters on a real Kafka, killed, stopped and slowed.

What was produced is the ledger; what the windows hold, by name, has to be the same.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.heterograph import HeterographView
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured, model_served, until

pytestmark = pytest.mark.services

BEHAVIORS = ("click", "favorite", "purchase")
SHARDS, PARTITIONS, FAULTS = 3, 6, 20
PER_S = 400  # events, while the faults go on

Ledger = Counter[tuple[str, str, str, int]]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"crashes-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name, PARTITIONS)
    return name


def held(folder: Path) -> Ledger:
    """What the window in a data_dir holds: user, item, behavior, time."""
    graph = HeterographView.attach(folder / "var/window")
    found: Ledger = Counter()
    moment = graph.moment()
    for r, relation in enumerate(graph.window.relations):
        events = graph.arrivals(r, moment.cut.first[r], moment.cut.next[r], moment)
        users, items = events.users.to_list(), events.items.to_list()
        assert not events.lost.any()
        for user, item, time_ms in zip(events.user, events.item, events.time_ms.tolist(), strict=True):
            found[users[user], items[item], relation.name, time_ms] += 1
    return found


def committed(address: str, group: str, topic: str) -> int:
    """The sum of the group's offsets."""
    parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    with closing(Consumer({"bootstrap.servers": address, "group.id": group, "log_level": 0})) as consumer:
        return sum(max(0, part.offset) for part in consumer.committed(parts, timeout=10))


def move_to_start(address: str, group: str, topic: str) -> None:
    """As someone with a tool for consumer groups would."""
    parts = [TopicPartition(topic, p, 0) for p in range(PARTITIONS)]
    with closing(Consumer({"bootstrap.servers": address, "group.id": group, "log_level": 0})) as consumer:
        consumer.commit(offsets=parts, asynchronous=False)


class Shop(threading.Thread):
    """Produces events until it is told to end, and keeps the ledger. No two are alike."""

    def __init__(self, address: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.ledger: Ledger = Counter()
        self.end = threading.Event()
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "log_level": 0})
        self._last_ms = 0

    def run(self) -> None:
        rng = random.Random(7)
        while not self.end.wait(0.05):
            for _ in range(PER_S // 20):
                self._last_ms = max(self._last_ms + 1, SystemClock().now_ms())
                user, item = f"u{rng.randrange(300)}", f"i{rng.randrange(200)}"
                behavior = rng.choice(BEHAVIORS)
                value = event(user, item, behavior, self._last_ms)
                if rng.random() < 0.5:  # half of them have an id, and some of those come twice
                    value = value.replace(b"{", b'{"event_id":"%d",' % self._last_ms, 1)
                    if rng.random() < 0.1:
                        self._producer.produce(self._topic, value, key=user)
                self._producer.produce(self._topic, value, key=user)
                self.ledger[user, item, behavior, self._last_ms] += 1
            self._producer.poll(0)
        assert self._producer.flush(30) == 0


def shard_config(folder: Path, kafka: RealKafka, topic: str, redis_url: str, index: int, count: int) -> Path:
    folder.mkdir()
    name = f"shard{index}"
    config = configured(folder, kafka=kafka.address, topic=topic, redis=redis_url, namespace=name)
    text = config.read_text(encoding="utf-8")
    text = text.replace(f'name = "{topic}"', f'name = "{topic}-{name}"')
    text = text.replace("[relations.click]", f'shard = "{index}/{count}"\n[relations.click]')
    config.write_text(text + '[checkpoint]\nevery = "1s"\n', encoding="utf-8")
    return config


def caught_up(updater: RunningUpdater, kafka: RealKafka, topic: str) -> None:
    """Wait until it has read all of its partitions, by the broker's own word where they end."""
    ask = {"bootstrap.servers": kafka.address, "group.id": "ends", "log_level": 0}
    with closing(Consumer(ask)) as consumer:
        ends = {
            f"{topic}[{p}]": consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
            for p in range(PARTITIONS)
        }

    def is_there(status: dict[str, Any]) -> bool:
        return status["state"] == "running" and all(
            offset == ends[part] for part, offset in status["position"].items()
        )

    updater.wait_for("it has read all", is_there, 90)


def test_three_shards_that_are_killed_and_stopped_hold_what_was_produced(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path
) -> None:
    """Twenty faults at random: kill -9 and a new start, or kill -STOP and -CONT."""
    configs = [
        shard_config(tmp_path / f"shard{i}", real_kafka, topic, redis_url, i, SHARDS) for i in range(SHARDS)
    ]
    rng = random.Random(20_251)
    shop = Shop(real_kafka.address, topic)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(RunningUpdater(c, fault="no-worker")) for c in configs]
        shop.start()
        for updater in running:
            updater.wait_for("a checkpoint", lambda s: s["checkpoint"]["number"] > 0, 240)  # kernels compile
        kills = 0
        for _ in range(FAULTS):
            index = rng.randrange(SHARDS)
            shop.end.wait(rng.uniform(0.0, 1.5))
            if rng.random() < 0.6:
                kills += 1
                running[index].process.kill()
                running[index].process.wait(10)
                running[index] = stack.enter_context(RunningUpdater(configs[index], fault="no-worker"))
            else:
                running[index].process.send_signal(signal.SIGSTOP)
                shop.end.wait(rng.uniform(0.1, 2.0))
                running[index].process.send_signal(signal.SIGCONT)
        shop.end.set()
        shop.join(60)
        for updater in running:
            caught_up(updater, real_kafka, topic)
        windows = [held(config.parent) for config in configs]
        assert sum(windows, Counter()) == shop.ledger, "nothing lost, nothing twice"
        users = [{user for user, *_ in window} for window in windows]
        assert sum(len(one) for one in users) == len(set[str]().union(*users)), "each user in one window"
        assert all(windows)
        went_on = sum(updater.output().count("goes on from checkpoint") for updater in running)
        assert kills > 5
        assert went_on > 0, "all starts were killed before they could say so"


def test_a_restart_goes_on_from_the_checkpoint_and_not_from_the_committed_offsets(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path
) -> None:
    """Someone moves the group's offsets, and the newest checkpoint is damaged: the one before is used."""
    config = shard_config(tmp_path / "one", real_kafka, topic, redis_url, 0, 1)
    now_ms = SystemClock().now_ms()

    def act(first: int, stop: int) -> None:
        produce(
            real_kafka.address,
            topic,
            [
                {"value": event(f"u{n % 9}", f"i{n}", time_ms=now_ms + n), "key": f"u{n % 9}"}
                for n in range(first, stop)
            ],
        )

    act(0, 50)
    with RunningUpdater(config, fault="no-worker") as updater:
        updater.wait_for("all are in", lambda s: s["events"]["applied"] == 50)
        group = f"{topic}-shard0"
        until("a checkpoint of them", lambda: committed(real_kafka.address, group, topic) == 50)
        number = updater.status()["checkpoint"]["number"]
        updater.wait_for("and two more", lambda s: s["checkpoint"]["number"] >= number + 2)
        updater.process.kill()
        updater.process.wait(10)
    newest = max((tmp_path / "one/var/checkpoints").iterdir(), key=lambda path: int(path.name))
    damaged = newest / "state.json"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    move_to_start(real_kafka.address, group, topic)
    act(50, 60)
    with RunningUpdater(config, fault="no-worker") as again:
        again.wait_for("the rest is in", lambda s: s["events"]["applied"] == 10)
        assert again.status()["events"]["read"] == 10
        assert len(held(config.parent)) == 60
        assert f"checkpoint {newest} is damaged" in again.output()
        assert (
            f"goes on from checkpoint {int(newest.name) - 1}, with 50 events in the window" in again.output()
        )


@pytest.mark.parametrize(
    ("fault", "begins"), [("long-fit", "the fit begins"), ("slow-disk", "an fsync begins")]
)
def test_a_fit_of_half_a_minute_and_a_slow_disk_keep_no_event_waiting(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path, fault: str, begins: str
) -> None:
    """Looked at while it goes on: for longer than one fsync takes, and for much less than the fit does."""
    config = shard_config(tmp_path / "one", real_kafka, topic, redis_url, 0, 1)
    shop = Shop(real_kafka.address, topic)
    with RunningUpdater(config, fault=fault) as updater:
        updater.wait_for("it runs", lambda s: s["state"] == "running", 240)
        shop.start()
        until("it is slow now", lambda: begins in updater.output(), 90)
        before, gaps = updater.status(), list[int]()
        for _ in range(80):
            shop.end.wait(0.1)
            gaps.append(updater.status()["poll_gap_max_ms"])
        after = updater.status()
        assert after["events"]["applied"] - before["events"]["applied"] > 5 * PER_S, "of eight seconds"
        assert max(gaps) <= 1_000
        if fault == "long-fit":
            assert (after["worker"]["pid"], after["worker"]["starts"]) == (before["worker"]["pid"], 1)
        else:
            assert after["checkpoint"]["number"] <= before["checkpoint"]["number"] + 1, "the disk was slow"
        shop.end.set()
        shop.join(60)
        caught_up(updater, real_kafka, topic)
        assert held(config.parent) == shop.ledger


def test_a_fit_that_was_saved_and_not_published_is_published_by_the_next_start_of_the_worker(
    real_kafka: RealKafka, topic: str, redis_url: str, tmp_path: Path
) -> None:
    """The worker is killed between the two; the updater starts it again, and no second fit is made."""
    config = shard_config(tmp_path / "one", real_kafka, topic, redis_url, 0, 1)
    now_ms = SystemClock().now_ms()
    produce(
        real_kafka.address,
        topic,
        [
            {"value": event(f"u{n % 60}", f"i{n % 7 + 7 * (n % 60 % 5)}", time_ms=now_ms - 4_000 + n)}
            for n in range(4_000)
        ],
    )
    with (
        RunningUpdater(config, fault="killed-before-publish") as updater,
        closing(connect(redis_url)) as client,
    ):
        until("the model is served", lambda: model_served(client, "shard0"), 300)
        assert (config.parent / "killed").exists()
        assert updater.status()["worker"]["starts"] == 2
        before, after = updater.output().split("worker: model version 1 goes on")
        assert "worker: training" in before
        assert "worker: training" not in after, "the fit was not lost"
        manifest = client.hgetall(Keys("shard0").of(model_served(client, "shard0"), "manifest"))
        assert manifest[b"model_version"] == b"1"
        assert len(list((config.parent / "var/trainer").iterdir())) == 1
