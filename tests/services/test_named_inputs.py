"""Inputs that broke other systems, on a real broker and into the window: each bad one costs itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from driftgraph.app.config.settings import load
from driftgraph.stream.ingest.ingest import Ingest
from tests.kafka_brokers import event
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.test_real_files import NOW_MS, AllLetters, in_window, ingested

pytestmark = pytest.mark.services

BAD: Sequence[tuple[bytes | None, str]] = (
    (b"", "bad_json"),
    (b"{", "bad_json"),
    (b"[]", "not_object"),
    (b"null", "not_object"),
    (b'"x"', "not_object"),
    (b"\xff\xfe{", "bad_utf8"),
    (b'{"item_id":"i","behavior":"click","ts":1783000000}', "missing_field"),
    (b'{"user_id":"u","item_id":null,"behavior":"click","ts":1783000000}', "bad_id"),
    (event("u", behavior="stares"), "unknown_behavior"),
    (event("x" * 5_000_000), "bad_id"),
    (event("u", time_ms=2_114_380_800_000), "time_in_future"),
    (event("u", time_ms=0), "bad_time"),
    (event("u").replace(b"1783000000000", b'"2026-07-02T13:46:40"'), "time_without_zone"),
    (event("u").replace(b'"u"', b"42.0"), "bad_id"),
    (event("u").replace(b'"u"', b"true"), "bad_id"),
    (event(""), "bad_id"),
    (event(" 42 "), "bad_id"),
    (None, "tombstone"),  # without a key, so of nobody
)


def through(kafka: RealKafka, records: Sequence[dict[str, Any]]) -> tuple[Ingest, AllLetters, str]:
    """Records on partition 0 of a topic of two, ingested; the name of the topic."""
    topic = f"named-{uuid4().hex[:8]}"
    make_topic(kafka.address, topic, 2, **{"max.message.bytes": "10000000"})
    producer = Producer(
        {"bootstrap.servers": kafka.address, "message.max.bytes": 10_000_000, "enable.idempotence": True}
    )  # a batch that is sent again comes before those behind it
    for record in records:
        producer.produce(topic, **{"partition": 0, **record})
    assert producer.flush(30) == 0
    settings = load(options={"relations": {"click": {}}, "window": {"capacity": 1 << 10}})
    ingest, letters, count = ingested(kafka.address, topic, settings)
    assert ingest.counts.read == count == len(records), "an offset was not counted"
    return ingest, letters, topic


def test_each_bad_message_between_good_ones_is_a_dead_letter_with_its_place_and_its_bytes(
    real_kafka: RealKafka,
) -> None:
    records: list[dict[str, Any]] = []
    for number, (value, _) in enumerate(BAD):
        good = event(f"u{number}").replace(b"{", b'{"extra":[1,{"deep":null}],', 1)
        records += [{"value": good}, {"value": value}]
    ingest, letters, topic = through(real_kafka, records)
    assert ingest.counts.applied == len(BAD)
    told = [(one.origin, one.reason, one.payload) for one in letters.all]
    kept = [(value or b"", reason) for value, reason in BAD]
    assert told == [(f"{topic}[0]@{2 * n + 1}", reason, value) for n, (value, reason) in enumerate(kept)]


@pytest.mark.parametrize("place", [0, 50, 100])
def test_one_phone_with_a_clock_in_2037_expires_nothing(real_kafka: RealKafka, place: int) -> None:
    values = [event(f"u{n}", time_ms=NOW_MS + 1_000 * (n // 50)) for n in range(100)]
    values.insert(place, event("phone", time_ms=2_114_380_800_000))
    ingest, letters, _ = through(real_kafka, [{"value": value} for value in values])
    assert sorted(user or "" for user, *_ in in_window(ingest)) == sorted(f"u{n}" for n in range(100))
    assert [one.reason for one in letters.all] == ["time_in_future"]
    assert ingest.watermark.value_ms <= NOW_MS + 1_000


def test_a_tombstone_an_empty_value_a_good_event_and_the_text_null(real_kafka: RealKafka) -> None:
    """The tombstone forgets u1 as of its place and time; offsets advance over all."""
    records: list[dict[str, Any]] = [
        {"value": event("u1"), "key": b"u1"},
        {"value": None, "key": b"u1", "timestamp": NOW_MS},
        {"value": b"", "key": b"u1"},
        {"value": event("u1", "i2", time_ms=NOW_MS + 1), "key": b"u1"},
        {"value": b"null", "key": b"u1"},
    ]
    ingest, letters, topic = through(real_kafka, records)
    assert ingest.counts.erased == 1
    assert [(user, item) for user, item, *_ in in_window(ingest)] == [("u1", "i2")]
    assert [one.origin for one in letters.all] == [f"{topic}[0]@2", f"{topic}[0]@4"]


def test_user_42_and_item_42_in_both_spellings_are_one_user_and_one_item(real_kafka: RealKafka) -> None:
    as_numbers = event("42", "42").replace(b'"42"', b"42")
    ingest, _, _ = through(real_kafka, [{"value": event("42", "42")}, {"value": as_numbers}])
    assert list(in_window(ingest).values()) == [2]
    assert ingest.graph.id_counts == {"user": 1, "item": 1}


def test_one_instant_in_every_unit_is_one_time(real_kafka: RealKafka) -> None:
    seconds = NOW_MS // 1_000
    spelled = [seconds, seconds * 1_000, seconds * 10**6, f'"{seconds}"', '"2026-07-02T15:46:40+02:00"']
    values = [event("u").replace(b"1783000000000", str(ts).encode()) for ts in spelled]
    ingest, _, _ = through(real_kafka, [{"value": value} for value in values])
    assert in_window(ingest) == {("u", "i1", "click", seconds * 1_000): len(spelled)}
