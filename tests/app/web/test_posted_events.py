"""Events posted over HTTP: judged as the updater judges them, and safe on the topic before the answer."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.web import posted_events
from driftgraph.app.web.posted_events import NotPostedError, PostedEvents, parts_of
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.formats.event_rules import RowOrigin, Rows
from driftgraph.stream.kafka import batch_producer
from driftgraph.stream.kafka.batch_producer import BatchProducer, NotDeliveredError, Record
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import TOKEN, Port, served
from tests.kafka_brokers import mock_kafka

NOBODY = "127.0.0.1:1"  # a port on which nobody listens


def settings_of(folder: Path, kafka: str, **tables: object) -> Settings:
    return load(
        None,
        {
            "data_dir": str(folder),
            "relations": {"click": {}, "buy": {}},
            "kafka": {"bootstrap_servers": kafka, "options": {"log_level": 0}},
            "redis": {"url": "redis://127.0.0.1:1"},
            "web": {"listen": "127.0.0.1:0", "token": TOKEN},
            **tables,
        },
    )


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


@pytest.fixture(scope="module")
def port(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with served(settings_of(tmp_path_factory.mktemp("web"), broker, events={"ignore": ["view"]})) as found:
        yield found


def event(user: str, item: str = "i1", behavior: str = "click", **more: object) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "behavior": behavior, "ts": SystemClock().now_ms(), **more}


def on_topic(address: str, topic: str = "events") -> list[tuple[bytes, bytes]]:
    """Key and value of every record."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "log_level": 0})
    with contextlib.closing(consumer):
        found = []
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            consumer.assign([TopicPartition(topic, partition, low)])
            end_s = time.monotonic() + 30
            while high > low and time.monotonic() < end_s:
                message = consumer.poll(1)
                if message is not None and message.error() is None:
                    found.append((message.key() or b"", message.value() or b""))
                    if (message.offset() or 0) + 1 >= high:
                        break
    return found


def post(
    port: Port, body: object, *, kind: str = "application/json", token: str | None = TOKEN
) -> tuple[int, Any]:
    return port.ask("/api/events", method="POST", token=token, body=body, kind=kind)


def test_a_batch_is_on_the_topic_when_it_is_answered(port: Port, broker: str) -> None:
    batch = [event(f"u{n % 3}", f"i{n}", note="ä") for n in range(20)] + [event("u1", behavior="view")]
    assert post(port, batch) == (200, {"delivered": 20, "ignored": 1})
    found = on_topic(broker)
    assert sorted(found) == sorted((one["user_id"].encode(), json.dumps(one).encode()) for one in batch[:20])
    lines = "\n".join(json.dumps(event("liner", f"i{n}")) for n in range(3)).encode() + b"\n\n"
    assert post(port, lines, kind="application/x-ndjson") == (200, {"delivered": 3, "ignored": 0})
    assert [key for key, _ in on_topic(broker)].count(b"liner") == 3


def test_of_a_batch_with_a_bad_event_nothing_is_sent_and_each_is_named(port: Port, broker: str) -> None:
    before = len(on_topic(broker))
    status, said = post(port, [event("u1"), event("u2", behavior="hover"), event("u3"), {"user_id": "u4"}, 7])
    assert (status, said["delivered"], said["more"]) == (400, 0, 0)
    assert [(one["position"], one["reason"]) for one in said["errors"]] == [
        (1, "unknown_behavior"), (3, "missing_field"), (4, "not_object"),
    ]  # fmt: skip
    assert all(one["detail"] for one in said["errors"])
    assert len(on_topic(broker)) == before


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{}", "application/json", 400, "should be a JSON array"),
        (b"[1,", "application/json", 400, "should be a JSON array"),
        (b"[]", "application/json", 400, "has no event"),
        (b"\n \n", "application/x-ndjson", 400, "has no event"),
        (b"[" * 100_000, "application/json", 400, "should be a JSON array"),
        (b"[%s]" % b",".join([b"1"] * 1_001), "application/json", 400, "1,000 are the most"),
        (b"[" + b" " * (1 << 20) + b"]", "application/json", 413, "may have 1,048,576 bytes"),
        (b"[1]", "text/plain", 415, "Content-Type: application/json or application/x-ndjson"),
        (b"[1]", "application/x-www-form-urlencoded", 415, "Content-Type"),
    ],
)
def test_what_is_no_batch_is_refused(port: Port, body: bytes, kind: str, status: int, said: str) -> None:
    got, answer = post(port, body, kind=kind)
    assert (got, said in answer["error"]) == (status, True), answer


def test_many_errors_are_counted_beyond_those_that_are_told(tmp_path: Path) -> None:
    posted = PostedEvents(settings_of(tmp_path, NOBODY), SystemClock())
    status, said = posted.take(json.dumps([{}] * 150).encode(), is_lines=False)
    assert (status, len(said["errors"]), said["more"]) == (400, 100, 50)


def test_without_kafka_it_is_said_soon_and_how_many_were_delivered(tmp_path: Path) -> None:
    with served(settings_of(tmp_path, NOBODY)) as port:
        status, said = post(port, [event("u1"), event("u2")])
        assert (status, said["delivered"], said["of"]) == (503, 0, 2)
        assert f"Kafka at {NOBODY} has acknowledged 0 of 2 events" in said["error"]
        assert port.ask("/livez")[0] == 200


def test_nothing_of_a_batch_that_failed_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_producer, "ANSWER_WITHIN_S", 0.2)
    with mock_kafka() as address:
        host, _, number = address.rpartition(":")
        producer = BatchProducer({"bootstrap.servers": NOBODY, "log_level": 0}, "events")
        with pytest.raises(NotDeliveredError, match="acknowledged 0 of 1") as caught:
            producer.send([Record(b"u", b"lost", 1_000)])
        assert (caught.value.delivered, caught.value.count) == (0, 1)
        producer._client["bootstrap.servers"] = f"{host}:{number}"
        monkeypatch.setattr(batch_producer, "ANSWER_WITHIN_S", 30.0)
        producer.send([Record(b"u", b"kept", 1_000)])
        assert on_topic(address) == [(b"u", b"kept")]


def test_a_record_that_is_too_large_is_said_and_the_others_are_counted() -> None:
    with mock_kafka() as address:
        producer = BatchProducer({"bootstrap.servers": address, "log_level": 0}, "events")
        records = [Record(b"u", b"small", 1_000), Record(b"u", b"x" * (2 << 20), 1_000)]
        with pytest.raises(NotDeliveredError, match=r"message\.max\.bytes"):
            producer.send(records)
        producer.send(records[:1])


def test_a_configuration_that_kafka_refuses_is_said() -> None:
    producer = BatchProducer({"bootstrap.servers": NOBODY, "no.such.thing": 1}, "events")
    with pytest.raises(NotDeliveredError, match="refuses its configuration"):
        producer.send([Record(b"u", b"x", 1)])


@pytest.mark.parametrize("format_", ["json", "segment", "ga4-mp", "snowplow", "cloudevents"])
def test_each_event_is_judged_as_the_updater_judges_it(tmp_path: Path, format_: str) -> None:
    """The golden events of each preset, good ones and others, one by one against the decoder of the topic."""
    settings = settings_of(
        tmp_path, NOBODY, events={"format": format_}, relations={"click": {}, "purchase": {}}
    )
    golden = Path(__file__).parents[2] / "golden" / f"{format_}.json"
    found = json.loads(golden.read_text(encoding="utf-8")) if golden.exists() else []
    payloads = [json.dumps(one.get("event", one)).encode() for one in found if isinstance(one, dict)]
    payloads += [json.dumps(event("u1")).encode(), b"{", b"7", b"null", b'"\xff"']
    judged = PostedEvents(settings, SystemClock()).judged(payloads)
    decoder = topic_decoder(settings, event_rules(settings, SystemClock()))
    at = RowOrigin("", timestamp_ms=SystemClock().now_ms())
    expected = decoder.decode(Rows(payloads, lambda _: at))
    assert [one["reason"] for one in judged.errors] == [one.reason for one in expected.rejected]
    users = expected.batch.user.to_list()
    assert len(judged.records) + len(judged.errors) + judged.ignored == len(payloads)
    assert {one.key.decode() for one in judged.records} == set(users) | {one.user for one in expected.erased}


@pytest.mark.parametrize("format_", ["arrow", "csv"])
def test_a_format_that_is_not_json_cannot_be_posted(tmp_path: Path, format_: str) -> None:
    posted = PostedEvents(settings_of(tmp_path, NOBODY, events={"format": format_}), SystemClock())
    with pytest.raises(ConfigError, match=f"events.format = {format_} is not JSON"):
        posted.take(b"[1]", is_lines=False)


def test_a_request_to_erase_has_the_key_of_its_user(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, NOBODY, events={"erase": "forget"})
    [record] = (
        PostedEvents(settings, SystemClock())
        .judged([json.dumps({"user_id": "u9", "behavior": "forget", "ts": SystemClock().now_ms()}).encode()])
        .records
    )
    assert record.key == b"u9"


def test_the_parts_are_the_bytes_that_were_sent() -> None:
    parts = [b'{"a": 1.0e5,  "b":"\\u00e4"}', b"[ 1 ]", b"null"]
    assert parts_of(b"[" + b" , ".join(parts) + b"]", is_lines=False) == parts
    assert parts_of(b"\r\n".join(parts), is_lines=True) == parts
    with pytest.raises(NotPostedError, match="1,000 are the most"):
        parts_of(b"1\n" * (posted_events.EVENTS_MAX + 1), is_lines=True)
