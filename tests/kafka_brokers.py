"""Brokers for tests: librdkafka's own mock, and how tests put records on any broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Producer

from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import REPLAY_TIMES, ManualClock

NOW_MS = 1_783_000_000_000
DECODER = CanonicalJson(EventRules(Behaviors(["click", "buy"], ignore=["impression"]), REPLAY_TIMES))


@contextmanager
def mock_kafka() -> Iterator[str]:
    """The address of a mock broker; topics appear with 4 partitions when produced to."""
    owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    yield ",".join(f"{b.host}:{b.port}" for b in owner.list_topics(timeout=10).brokers.values())
    owner.flush(0)


def event(user: str, item: str = "i1", behavior: str = "click", time_ms: int = NOW_MS) -> bytes:
    text = f'{{"user_id":"{user}","item_id":"{item}","behavior":"{behavior}","ts":{time_ms}}}'
    return text.encode()


def produce(address: str, topic: str, records: list[dict[str, Any]]) -> None:
    """Put records (value, key, headers, partition, timestamp) on a topic and wait until all are there."""
    # one request at a time: a batch that is sent again still comes before those behind it
    producer = Producer({"bootstrap.servers": address, "log_level": 0, "max.in.flight": 1})
    failed: list[str] = []
    for record in records:
        producer.produce(
            topic, **record, on_delivery=lambda error, _: failed.append(str(error)) if error else None
        )
    left = producer.flush(30)
    assert not left, f"{left} records not acknowledged"
    assert not failed, failed[0]


def source_of(
    address: str,
    topic: str = "events",
    *,
    position: Position | None = None,
    topic_ids: Mapping[str, str] | None = None,
    **options: Any,
) -> KafkaSource:
    client = {"bootstrap.servers": address, "log_level": 0, **options.pop("client", {})}
    settings = KafkaOptions(topics=(topic,), client=client, **options)
    return KafkaSource(settings, DECODER, ManualClock(NOW_MS), start=position, topic_ids=topic_ids)


def read_until(
    source: KafkaSource, done: Callable[[list[Decoded]], bool], timeout_s: float = 60.0
) -> list[Decoded]:
    """Poll until ``done`` says so of the batches that held something."""
    end, parts = time.monotonic() + timeout_s, list[Decoded]()
    while not done(parts):
        assert time.monotonic() < end, f"not in {timeout_s} s; {sum(p.read_count for p in parts)} events came"
        part = source.next_batch(0.1)
        assert part is not None
        if part.read_count:
            parts.append(part)
    return parts


def read_count(source: KafkaSource, count: int) -> list[Decoded]:
    """Poll until ``count`` events have come."""
    return read_until(source, lambda parts: sum(p.read_count for p in parts) >= count)
