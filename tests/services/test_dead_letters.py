"""Dead letters on a real broker: a poison flood, a place that is away, the way back, and what a kill does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.letters import Letter
from driftgraph.stream.dead_letters.redrive import purge
from driftgraph.stream.dead_letters.topic import KafkaDeadLetters, TopicLetterBox
from driftgraph.stream.events import Rejected
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import CODE, RunningUpdater, configured, run_to_its_end, until

pytestmark = pytest.mark.services

NOW_MS = SystemClock().now_ms() - 60_000


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name)
    return name


def configuration(folder: Path, kafka: RealKafka, redis: EmbeddedRedis, topic: str, more: str = "") -> Path:
    path = configured(folder, kafka=kafka.address, topic=topic, redis=redis.url)
    path.write_text(path.read_text(encoding="utf-8") + more, encoding="utf-8")
    return path


def driftgraph(config: Path, *argv: str) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-c", CODE, *argv, "-c", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=config.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def events_of(behavior: str, count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"value": event(f"u{n % 50}", f"i{n}", behavior, NOW_MS + n), "key": f"u{n % 50}", "partition": n % 2}
        for n in range(first, first + count)
    ]


def records_of(address: str, topic: str) -> Iterator[Any]:
    """Every record that is on a topic now."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "test",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while (record := consumer.poll(10)) is not None and record.error() is None:
                yield record
    finally:
        consumer.close()


def committed(address: str, topic: str) -> int:
    """Offsets that the updater has told its group, all partitions together."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "log_level": 0})
    found = consumer.committed([TopicPartition(topic, p) for p in range(2)], timeout=20)
    consumer.close()
    return sum(max(0, one.offset) for one in found)


# --- the breaker -----------------------------------------------------


def test_a_poison_flood_stops_the_updater_and_a_fix_loses_nothing(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, topic: str, tmp_path: Path
) -> None:
    """A deploy renames a behavior: 5,000 events that nobody knows. The updater stops before they are all dead
    letters; starts without a fix stop again and add none; with the fix every event is applied.
    """
    config = configuration(tmp_path, real_kafka, redis_server, topic, "[events]\nreject_window = 1000\n")
    produce(real_kafka.address, topic, [*events_of("click", 2_000), *events_of("typo", 20)])
    with RunningUpdater(config) as updater:
        updater.wait_for("the good ones are applied", lambda s: s["events"]["applied"] == 2_000)
        produce(real_kafka.address, topic, events_of("view", 5_000))
        until("it stops", lambda: updater.process.poll() is not None)
        assert updater.process.returncode == 1
        last = updater.output().strip().splitlines()[-1]
    assert "of the last" in last
    assert "for unknown_behavior, such as" in last
    assert "events.reject_share_max" in last
    status = json.loads((tmp_path / "var/status/updater.json").read_bytes())
    assert (status["state"], status["why"]) == ("failed", last.removeprefix("driftgraph: "))
    assert committed(real_kafka.address, topic) < 2_020 + 5_000

    def kept() -> list[str]:
        return [one.rejected.origin for one in FileLetterBox(tmp_path / "var/dead_letters").letters()]

    before = kept()
    assert 20 <= len(before) < 2_020
    for _ in range(2):
        again = run_to_its_end(config)
        assert again.returncode == 1
        assert "rejected, more than events.reject_share_max" in again.stderr
    after = kept()
    assert len(set(after)) == len(after) < 2_020, "a letter was kept twice, or the flood went through"

    config.write_text(config.read_text(encoding="utf-8") + "[relations.view]\n", encoding="utf-8")
    with RunningUpdater(config) as updater:
        updater.wait_for(
            "all is applied", lambda s: s["window"]["click"] == 2_000 and s["window"]["view"] == 5_000
        )
        assert updater.status()["events"]["rejected"] == 20
        assert updater.terminate()[0] == 0
    assert set(kept()) == set(after), "the 20 were kept again"


# --- the topic -----------------------------------------------------


def test_letters_in_a_topic_are_seen_sent_back_and_recognized(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, topic: str, tmp_path: Path
) -> None:
    """A letter is byte-identical; sent back without a fix it comes again with one attempt; with the fix it is
    applied, and once, although its producer repeats it: it has an event_id.
    """
    config = configuration(tmp_path, real_kafka, redis_server, topic, '[dead_letters]\nto = "kafka"\n')
    view = event("u1", "i1", "view", NOW_MS).replace(b"{", b'{"event_id":"e1",', 1)
    headers = [("trace", b"\x00\xff"), ("trace", b"2")]
    bad = {"value": view, "key": b"u\xff", "headers": headers, "timestamp": NOW_MS - 5, "partition": 1}
    produce(real_kafka.address, topic, [*events_of("click", 10), bad])
    with RunningUpdater(config) as updater:
        updater.wait_for("the letter is safe", lambda s: s["dead_letters"]["kept"] == 1)
        [record] = records_of(real_kafka.address, f"{topic}.dlq")
        assert (record.value(), record.key(), record.timestamp()[1]) == (view, b"u\xff", NOW_MS - 5)
        assert record.headers()[:2] == headers
        told = driftgraph(config, "dlq", "ls")
        assert (told["open"], told["reasons"][0]["example"]["origin"]) == (1, f"{topic}[1]@5")
        assert driftgraph(config, "dlq", "retry")["sent"] == 1
        updater.wait_for("it comes again", lambda s: s["dead_letters"]["kept"] == 2)
        assert updater.terminate()[0] == 0
    [group] = driftgraph(config, "dlq", "ls")["reasons"]
    assert (group["count"], group["tried_before"]) == (1, 1)
    shown = driftgraph(config, "dlq", "show", group["example"]["id"])
    assert (shown["attempts"], shown["payload"], shown["key"]) == (1, view.decode(), "75 ff")
    assert driftgraph(config, "dlq", "retry")["sent"] == 1
    assert driftgraph(config, "dlq", "retry")["sent"] == 0
    back = [r for r in records_of(real_kafka.address, topic) if r.value() == view]
    assert [dict(r.headers()).get("driftgraph.attempts") for r in back] == [None, b"1", b"2"]
    assert {(r.key(), r.partition(), r.timestamp()[1]) for r in back} == {(b"u\xff", 1, NOW_MS - 5)}
    config.write_text(config.read_text(encoding="utf-8") + "[relations.view]\n", encoding="utf-8")
    with RunningUpdater(config) as updater:
        updater.wait_for("it is applied once", lambda s: s["window"]["view"] == 1)
        produce(real_kafka.address, topic, [bad])
        updater.wait_for("and a repeat is known", lambda s: s["events"]["duplicate"] == 1)


def test_a_purge_of_a_topic_removes_the_records_in_front_of_the_first_open_letter(
    real_kafka: RealKafka, topic: str
) -> None:
    name = f"{topic}.dlq"
    make_topic(real_kafka.address, name, 1)
    place = KafkaDeadLetters({"bootstrap.servers": real_kafka.address}, topic=name)
    for number in range(20):
        reason = "bad_json" if number < 8 or number == 15 else "bad_id"
        place.put(Rejected(reason, "…", b"%d" % number, f"{topic}[0]@{number}", timestamp_ms=NOW_MS))
    place.flush()
    box = TopicLetterBox({"bootstrap.servers": real_kafka.address}, name)
    assert purge(box, reason="bad_json") == 9

    def left() -> list[Letter]:
        return [one for one in box.letters() if not one.done]

    assert [int(one.rejected.payload) for one in left()] == [n for n in range(8, 20) if n != 15]
    assert [int(one.rejected.payload) for one in box.newest(6)] == [19, 18, 17, 16, 14, 13]
    assert next(records_of(real_kafka.address, name)).value() == b"8", "the bytes are still there"
    assert purge(box, before_ms=1) == 0
    assert purge(box) == 12
    assert left() == box.newest(6) == []
    assert list(records_of(real_kafka.address, name)) == []
    place.put(Rejected("bad_id", "…", b"new", f"{topic}[0]@99"))
    place.flush()
    assert [one.id for one in left()] == ["0-22"], "two records of what is done, and its own name"


def test_a_time_that_the_topic_refuses_is_kept_in_a_header(real_kafka: RealKafka, topic: str) -> None:
    name = f"{topic}.dlq"
    make_topic(real_kafka.address, name, 1, **{"message.timestamp.after.max.ms": "1000"})
    letter = Rejected("time_in_future", "…", b"x", f"{topic}[0]@1", timestamp_ms=NOW_MS + 86_400_000)
    place = KafkaDeadLetters({"bootstrap.servers": real_kafka.address}, topic=name)
    place.put(letter)
    place.put(replace(letter, timestamp_ms=NOW_MS))
    place.flush()
    found = [
        one.rejected for one in TopicLetterBox({"bootstrap.servers": real_kafka.address}, name).letters()
    ]
    assert sorted(found, key=str) == sorted([letter, replace(letter, timestamp_ms=NOW_MS)], key=str)


# --- a place that is away -----------------------------------------------------


@contextmanager
def folder_gone(folder: Path) -> Iterator[None]:
    """Where the folder of letters was there is a file."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("in the way", encoding="utf-8")
    yield
    folder.unlink()
    aside.rename(folder)


@contextmanager
def topic_refuses(address: str, topic: str) -> Iterator[None]:
    """The topic takes no record of more than 100 bytes."""

    def allow(size: int) -> None:
        admin = AdminClient({"bootstrap.servers": address})
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for answer in admin.incremental_alter_configs([resource]).values():
            answer.result(20)

    allow(100)
    yield
    allow(1 << 20)


@pytest.mark.parametrize("place", ["files", "kafka"])
def test_a_place_that_is_away_pauses_reading_and_costs_nothing(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, topic: str, tmp_path: Path, place: str
) -> None:
    """12,000 bad events and no place for them: the updater lives, says so, reads no further, commits nothing
    that it would lose. When the place is back all letters are there, and the events behind them are applied.
    """
    more = f'[dead_letters]\nto = "{place}"\n[events]\nreject_share_max = 1\n'
    config, folder = (
        configuration(tmp_path, real_kafka, redis_server, topic, more),
        tmp_path / "var/dead_letters",
    )
    with RunningUpdater(config) as updater:
        updater.wait_for("it runs", lambda s: s["state"] == "running")
        away = folder_gone(folder) if place == "files" else topic_refuses(real_kafka.address, f"{topic}.dlq")
        with away:
            produce(real_kafka.address, topic, events_of("typo", 12_000))
            updater.wait_for("it pauses", lambda s: s["reading_paused"] and s["dead_letters"]["failure"])
            status = updater.status()
            assert status["dead_letters"]["kept"] == 0
            assert 10_000 <= status["dead_letters"]["waiting"] <= 20_000
            assert committed(real_kafka.address, topic) == 0
            produce(real_kafka.address, topic, events_of("click", 100))
            for _ in range(3):
                time.sleep(1.2)
                later = updater.status()
                assert later["time_ms"] > status["time_ms"], "the loop stands still"
                status = later
            assert status["events"]["applied"] == 0
            assert "dead letters cannot be " in updater.output()
            assert "events are read when there is room again" in updater.output()
        updater.wait_for("reading goes on", lambda s: s["events"]["applied"] == 100, 90)
        updater.wait_for("all letters are safe", lambda s: s["dead_letters"]["waiting"] == 0)
        until("the position is told", lambda: committed(real_kafka.address, topic) == 12_100)
        assert (updater.status()["events"]["late"], updater.status()["dead_letters"]["failure"]) == (0, None)
        assert "dead letters are kept again" in updater.output()
        assert updater.terminate()[0] == 0
    topic_box = TopicLetterBox({"bootstrap.servers": real_kafka.address}, f"{topic}.dlq")
    box = FileLetterBox(folder) if place == "files" else topic_box
    origins = Counter(one.rejected.origin for one in box.letters())
    assert (len(origins), sum(origins.values())) == (12_000, 12_000)


# --- a kill in the middle of a retry -----------------------------------------------------


@pytest.mark.parametrize("after_s", [0.9, 1.2])
def test_a_retry_that_is_killed_goes_on_where_it_was(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, topic: str, tmp_path: Path, after_s: float
) -> None:
    """No letter is lost, and at most one chunk of a thousand is sent twice."""
    config = configuration(tmp_path, real_kafka, redis_server, topic)
    place = FileDeadLetters(tmp_path / "var/dead_letters")
    for number in range(30_000):
        place.put(Rejected("bad_id", "…", b"%d" % number, f"{topic}[{number % 2}]@{number}"))
    place.close()
    command = [sys.executable, "-c", CODE, "dlq", "retry", "-c", str(config)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        time.sleep(after_s)
        process.kill()
    told = driftgraph(config, "dlq", "ls")
    sent = driftgraph(config, "dlq", "retry")["sent"]
    assert (sent, told["open"] + told["done"]) == (told["open"], 30_000)
    back = Counter(record.value() for record in records_of(real_kafka.address, topic))
    assert len(back) == 30_000
    assert sum(back.values()) <= 31_000


# --- produce -----------------------------------------------------


def test_produce_makes_the_topic_and_what_it_wrote_is_applied(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    name = f"made-{uuid4().hex[:8]}"
    path = tmp_path / "events.csv"
    rows = [f"u{n % 40},i{n % 90},click,{NOW_MS + n}" for n in range(5_000)]
    path.write_text("\n".join(["user_id,item_id,behavior,timestamp", *rows, "u1,,click,1"]), encoding="utf-8")
    config = configuration(tmp_path, real_kafka, redis_server, name)
    told = driftgraph(config, "produce", str(path), "--partitions", "3")
    assert (told["produced"], told["rejected"], told["created"], told["topic"]) == (5_000, 1, True, name)
    records = list(records_of(real_kafka.address, name))
    assert {r.partition() for r in records} == {0, 1, 2}
    users = {(r.key(), r.partition()) for r in records}
    assert len(users) == 40, "a user is in two partitions"
    assert sorted(r.timestamp()[1] for r in records) == [NOW_MS + n for n in range(5_000)]
    with RunningUpdater(config) as updater:
        updater.wait_for("all is applied", lambda s: s["events"]["applied"] == 5_000)
    assert driftgraph(config, "produce", str(path))["created"] is False
