"""A topic of delisted items on a real Kafka: ``driftgraph run``, what readers are given, and ``doctor``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from driftgraph.app.commands.doctor.checks import examine
from driftgraph.app.commands.doctor.findings import State
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.builders import delisted_file, generation_store
from driftgraph.app.config.settings import Settings, load
from driftgraph.snapshots.generations.delisting import DelistError
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_attribute_topics import send_clicks
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

COMPACTED = {"retention.ms": "604800000", "cleanup.policy": "compact"}
USERS = [f"u{n}" for n in range(300)]


def config_of(folder: Path, kafka: str, topic: str, redis_url: str) -> Path:
    path = configured(folder, kafka=kafka, topic=topic, redis=redis_url)
    own = f'[checkpoint]\nevery = "1s"\n[events]\ndelisted_topic = "{topic}-gone"\n'
    path.write_text(path.read_text(encoding="utf-8") + "\n" + own, encoding="utf-8")
    return path


def say(kafka: RealKafka, topic: str, values: dict[str, bytes | None]) -> None:
    records: list[dict[str, Any]] = [
        {"key": item, "value": value, "partition": sum(map(ord, item)) % 2} for item, value in values.items()
    ]
    produce(kafka.address, topic, records)


def operator(settings: Settings, client: redis.Redis) -> GenerationStore:
    return generation_store(settings, client, epoch=read_epoch(client, settings.redis.namespace))


def seen(reader: EmbeddingReader, items: Sequence[str]) -> set[str]:
    """Which of the items some answer has: lists, vectors and similar items."""
    lists = reader.recommend(USERS, 40)
    found = {item for one in lists for item, _ in one.items}
    found |= {item for item, there in zip(items, reader.items(items)[1].tolist(), strict=True) if there}
    for neighbor in ("i0", "i1"):
        found |= {item for item, _ in reader.similar(neighbor, 40).items}
    return found & set(items)


def raw(client: redis.Redis, item: str) -> list[bytes]:
    """The keys of every generation that still have the item or name it, as a client of its own sees them."""
    found: list[bytes] = list(client.scan_iter(f"shop:emb:*:item:{item}", count=10_000))
    for key in client.scan_iter("shop:emb:*", count=10_000):
        if client.type(key) == b"hash":
            ids: Any = client.hmget(key, "list", "similar")
            found += [key for one in ids if one and f'"{item}"'.encode() in one]
    return found


def delist(store: GenerationStore, items: Sequence[str]) -> None:
    """As the command does."""
    store.delisting.change(items, "SADD")
    store.delisting.remove(items)


def test_an_item_leaves_with_its_record_and_is_back_with_a_tombstone(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    make_topic(real_kafka.address, f"{topic}-gone", 2, **COMPACTED)
    send_clicks(real_kafka, topic, two_tastes(TASTED, SystemClock().now_ms() - 60_000))
    say(real_kafka, f"{topic}-gone", {"i4": b"sold out", "i6": b"1", " ": b"1", "i8": b"null"})
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        config = config_of(tmp_path, real_kafka.address, topic, server.url)
        settings, reader = load(config), EmbeddingReader(client, namespace="shop")
        with RunningUpdater(config) as updater:
            until("the model is served", partial(model_served, client), 180)
            until("what the topic had is delisted", lambda: seen(reader, ["i4", "i6", "i8"]) == {"i8"})
            updater.wait_for("it is in the status", lambda s: s["delisted"]["items"] == 2)
            updater.wait_for("it is behind no more", lambda s: s["delisted"]["behind_ms"] < 2_000)
            assert updater.status()["delisted"]["left_out"] == 2
            assert "1 records delist no item (bad_id)" in updater.output()
            number = reader.current()

            say(real_kafka, f"{topic}-gone", {"i8": b"{}", "i10": b"{}"})
            until("no reader has them", lambda: not seen(reader, ["i8", "i10"]))
            until("no key has them", lambda: not raw(client, "i8") and not raw(client, "i10"))
            assert 0 < operator(settings, client).rollback() < number
            assert not seen(reader, ["i4", "i6", "i8", "i10"])
            operator(settings, client).promote(number)

            say(real_kafka, f"{topic}-gone", {"i8": None, "i4": None})
            until("they are there again", lambda: bool(reader.items(["i8", "i4"])[1].all()))
            assert reader.current() == number, "no publish brought them"
            delist(operator(settings, client), ["i8"])  # the command, beside the topic
            assert not seen(reader, ["i6", "i8"])
            with pytest.raises(DelistError, match="delisted by the topic of delisted items, such as 'i6'"):
                operator(settings, client).delisting.change(["i6"], "SREM")


def test_what_a_topic_delists_survives_a_kill_and_a_redis_that_forgets(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    make_topic(real_kafka.address, f"{topic}-gone", 2, **COMPACTED)
    send_clicks(real_kafka, topic, two_tastes(400, SystemClock().now_ms() - 60_000))
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        config = config_of(tmp_path, real_kafka.address, topic, server.url)
        settings, reader = load(config), EmbeddingReader(client, namespace="shop")
        with RunningUpdater(config) as updater:
            until("lists are served", lambda: reader.current() > 0, 180)
            say(real_kafka, f"{topic}-gone", {"i6": b"1", "i10": b"1"})
            until("no reader has them", lambda: not seen(reader, ["i6", "i10"]))
            updater.process.kill()
            updater.process.wait(10)
        delist(operator(settings, client), ["i2", "i6"])
        say(real_kafka, f"{topic}-gone", {"i10": None, "i12": b"1"})
        with RunningUpdater(config) as updater:
            until("what came meanwhile is gone", lambda: not seen(reader, ["i2", "i6", "i12"]))
            found = operator(settings, client).delisting.found()
            assert (set(found.by_command), set(found.by_topic)) == ({"i2", "i6"}, {"i6", "i12"})
            until("the worker remembers it", partial(remembers, settings, "i2"), 180)
            client.flushall()
            until("it is published again", lambda: reader.current() > 0)
            until("all is delisted again", lambda: not seen(reader, ["i2", "i6", "i12"]))
            found = operator(settings, client).delisting.found()
            assert (set(found.by_command), set(found.by_topic)) == ({"i2", "i6"}, {"i6", "i12"})
            assert updater.terminate()[0] == 0


def remembers(settings: Settings, item: str) -> bool:
    file = delisted_file(settings)
    return file.exists() and item in file.read_text(encoding="utf-8")


def test_doctor_says_what_the_topic_keeps_and_run_refuses_one_that_is_not_there(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    topic = f"clicks-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 1)
    with EmbeddedRedis() as server:
        config = config_of(tmp_path, real_kafka.address, topic, server.url)
        ended = run_to_its_end(config)
        assert ended.returncode == 1
        assert f"no topic '{topic}-gone'" in ended.stderr
        make_topic(real_kafka.address, f"{topic}-gone", 2, **{"retention.ms": "604800000"})
        say(real_kafka, f"{topic}-gone", {"i1": b"1", "i2": b"1", "i3": None, " ": b"1"})
        kept, records = [check for check in examine(load(config)).checks if check.name == "delisted"]
    assert (kept.state, records.state) == (State.WARN, State.WARN)
    assert "set cleanup.policy=compact" in kept.detail
    assert "4 records of" in records.detail
    assert "which delist 2 items; 1 delist no item" in records.detail
