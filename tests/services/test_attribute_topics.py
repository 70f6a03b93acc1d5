"""Attributes from compacted topics on a real Kafka: ``driftgraph run`` and ``doctor`` beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from driftgraph.app.commands.doctor.checks import examine
from driftgraph.app.commands.doctor.findings import State
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings, load
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.attributes.fields import tokens_of
from driftgraph.stream.events import Strings
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM, USER
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_attributes import event, live_tables, tokens_by_id
from tests.services.test_kafka import make_topic
from tests.services.updaters import (
    TASTED,
    RunningUpdater,
    configured,
    model_served,
    run_to_its_end,
    two_tastes,
    until,
)

pytestmark = pytest.mark.services

CATALOG = {"retention.ms": "604800000", "cleanup.policy": "compact"}


def config_of(folder: Path, kafka: str, topic: str, redis: str, topics: Mapping[str, str]) -> Path:
    path = configured(folder, kafka=kafka, topic=topic, redis=redis)
    lines = [f'{side}_topic = "{name}"' for side, name in topics.items()]
    tables = [f'[events.attributes.{side}]\nsort = "category"\n' for side in topics]
    path.write_text(
        "\n".join(
            [
                path.read_text(encoding="utf-8"),
                '[checkpoint]\nevery = "1s"\n[events.attributes]',
                *lines,
                *tables,
            ]
        ),
        encoding="utf-8",
    )
    return path


class Catalog:
    """A compacted topic of two partitions, and what it says by now: id → sort."""

    def __init__(self, address: str, topic: str) -> None:
        self.address, self.topic = address, topic
        self.sorts: dict[str, str] = {}
        make_topic(address, topic, 2, **CATALOG)

    def say(self, sorts: Mapping[str, str | None], time_ms: int) -> None:
        records: list[dict[str, Any]] = []
        for name, sort in sorts.items():
            value = None if sort is None else json.dumps({"sort": sort}).encode()
            place = sum(map(ord, name)) % 2
            records.append({"key": name, "value": value, "partition": place, "timestamp": time_ms})
            self.sorts.pop(name, None)
            if sort is not None:
                self.sorts[name] = sort
        produce(self.address, self.topic, records)

    def tokens(self) -> dict[str, list[int]]:
        """What the tables should have, by id."""
        return {
            name: tokens_of("category", Strings.of([sort]))[0][0].tolist()
            for name, sort in self.sorts.items()
        }


def told(settings: Settings, side: int, before_ms: int) -> dict[str, list[int]]:
    """What the running updater's table has of the ids with a value, by id."""
    return {
        name: own for name, own in tokens_by_id(*live_tables(settings), side, before_ms).items() if any(own)
    }


def send_clicks(kafka: RealKafka, topic: str, clicks: Sequence[tuple[str, str, int]]) -> None:
    produce(
        kafka.address,
        topic,
        [{"value": event(user, item, at), "key": user, "timestamp": at} for user, item, at in clicks],
    )


def listed_after_a_click(kafka: RealKafka, topic: str, reader: EmbeddingReader, user: str) -> list[str]:
    """Let a user touch an item; the list that is made after that."""
    now_ms = SystemClock().now_ms()
    send_clicks(kafka, topic, [(user, "i2", now_ms)])
    until("a list after the click", lambda: reader.recommend(user, 1).event_ms == now_ms)
    return [item for item, _ in reader.recommend(user, 100).items]


def test_an_item_of_a_topic_is_served_leaves_with_a_tombstone_and_survives_a_kill(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    items = Catalog(real_kafka.address, f"{topic}-items")
    users = Catalog(real_kafka.address, f"{topic}-users")
    now_ms = SystemClock().now_ms()
    before_ms = now_ms + 600_000
    items.say({f"i{n}": f"taste{n % 2}" for n in range(40)}, now_ms - 3_600_000)
    users.say({f"u{n}": f"camp{n % 2}" for n in range(300)}, now_ms - 3_600_000)
    bad = {"key": "i-bad", "value": b"no json", "partition": 1, "timestamp": now_ms}
    produce(real_kafka.address, items.topic, [bad])
    send_clicks(real_kafka, topic, two_tastes(TASTED, now_ms - 60_000))
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        topics = {"item": items.topic, "user": users.topic}
        config = config_of(tmp_path, real_kafka.address, topic, server.url, topics)
        settings, reader, keys = load(config), EmbeddingReader(client, namespace="shop"), Keys("shop")
        with RunningUpdater(config) as updater:
            until("the model is served", lambda: updater.status() and model_served(client), 180)
            assert told(settings, ITEM, before_ms) == items.tokens()
            assert told(settings, USER, before_ms) == users.tokens()
            assert updater.status()["attributes"]["left_out"] == 1
            assert f"the topic {items.topic}: 1 records say no attributes" in updater.output()
            assert f"left out, such as {items.topic}[1]@" in updater.output()

            number = reader.current()
            assert not client.exists(keys.item(number, "new-0"))
            items.say({"new-0": "taste0", "new-1": "taste1"}, SystemClock().now_ms())
            until("a new item is in Redis", lambda: client.exists(keys.item(number, "new-0")))
            until("its neighbor, too", lambda: client.exists(keys.item(number, "new-1")))
            assert reader.current() == number, "no publish brought them"
            assert "new-0" in listed_after_a_click(real_kafka, topic, reader, "u4")

            items.say({"new-0": None, "i7": "other"}, SystemClock().now_ms())
            until("the tombstone is taken", lambda: told(settings, ITEM, before_ms) == items.tokens())
            listed = listed_after_a_click(real_kafka, topic, reader, "u6")
            assert "new-0" not in listed
            assert "new-1" in listed

            items.say({"last-1": "taste1", "i9": None}, SystemClock().now_ms())  # perhaps in no checkpoint
            until("they are taken", lambda: told(settings, ITEM, before_ms) == items.tokens())
            updater.process.kill()
            updater.process.wait(10)
        items.say({"i11": "while it was away", "i13": None}, SystemClock().now_ms())
        with RunningUpdater(config) as updater:
            updater.wait_for("it goes on", lambda s: s["attributes"], 120)
            until("all is as said", lambda: told(settings, ITEM, before_ms) == items.tokens())
            assert told(settings, USER, before_ms) == users.tokens()
            status = updater.status()["attributes"]
            assert status["read"] < len(users.sorts), "the checkpoint had the rest"
            assert updater.terminate()[0] == 0


def test_a_topic_of_attributes_that_is_not_there_is_said_by_doctor_and_run(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    with EmbeddedRedis() as server:
        config = config_of(tmp_path, real_kafka.address, topic, server.url, {"item": f"{topic}-none"})
        [found] = [check for check in examine(load(config)).checks if check.name == "attributes"]
        assert found.state is State.FAIL
        assert f"no topic '{topic}-none'" in found.detail
        ended = run_to_its_end(config)
        assert ended.returncode == 1
        assert f"no topic '{topic}-none'" in ended.stderr


def test_doctor_says_what_a_topic_of_attributes_keeps_and_which_records_are_bad(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 1)
    items, users = Catalog(real_kafka.address, f"{topic}-items"), f"{topic}-users"
    make_topic(real_kafka.address, users, 1, **{"retention.ms": "604800000"})
    now_ms = SystemClock().now_ms()
    items.say({"i1": "a", "i2": None}, now_ms)
    records: list[dict[str, Any]] = [{"key": "u1", "value": b"[1]"}, {"key": None, "value": b'{"sort": "a"}'}]
    produce(real_kafka.address, users, [{**one, "timestamp": now_ms} for one in records])
    topics = {"item": items.topic, "user": users}
    config = config_of(tmp_path, real_kafka.address, topic, "redis://127.0.0.1:1/0", topics)
    checks = [check for check in examine(load(config)).checks if check.name == "attributes"]
    of_users, of_items, of_records = checks
    assert of_users.state is State.WARN
    assert "retention.ms = 604800000" in of_users.detail
    assert "set cleanup.policy=compact" in of_users.detail
    assert (of_items.state, of_items.detail) == (
        State.OK,
        f"the topic {items.topic} is compacted: 2 partitions",
    )
    assert of_records.state is State.WARN
    assert "4 records of" in of_records.detail
    assert "2 say no attributes" in of_records.detail
    assert "such as" in of_records.detail
