"""Catching up a topic whose partitions hold very different amounts for an hour of event time."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import pytest

from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation
from tests.kafka_brokers import DECODER, NOW_MS, event, produce
from tests.model_worlds import without_marks
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services

HOUR_MS = 3_600_000
DOWNTIME_MS = 48 * HOUR_MS  # what there is to catch up
COUNTS = (4_000, 20_000, 40_000)  # events of it by partition; a fourth partition has none
BATCH = 200
READ_S = 1.0  # what a batch costs: an updater that decodes slowly
ALIGNMENT_MS = HOUR_MS // 4
RULES = WatermarkRules(
    out_of_orderness_ms=5_000, allowed_lateness_ms=HOUR_MS, idle_timeout_ms=10_000, future_skew_ms=300_000
)


@pytest.fixture(scope="module")
def topic(real_kafka: RealKafka) -> str:
    """Each partition is in order and ends now."""
    name = f"uneven-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name, len(COUNTS) + 1)
    records = [
        {
            "value": event(f"u{p}-{n}", time_ms=NOW_MS - DOWNTIME_MS + (n + 1) * DOWNTIME_MS // count),
            "partition": p,
        }
        for p, count in enumerate(COUNTS)
        for n in range(count)
    ]
    produce(real_kafka.address, name, records)
    return name


@dataclass(frozen=True)
class CaughtUp:
    """How a catch-up went."""

    ingest: Ingest
    disorder_ms: int  # how far an event was behind the newest before it, at most
    holds: int  # how often a partition was held


def catch_up(address: str, topic: str, alignment_ms: int) -> CaughtUp:
    """As the updater's loop does it, with a clock that goes by the events read."""
    clock = ManualClock(NOW_MS)
    options = KafkaOptions(topics=(topic,), client={"bootstrap.servers": address}, batch_max=BATCH)
    source = KafkaSource(options, DECODER, clock)
    watermark = Watermark(RULES, clock)
    watermark.assign(source.partitions)
    relations = tuple(Relation(name, 10 * DOWNTIME_MS, 1 << 17) for name in ("click", "buy"))
    graph = Heterograph.create(None, relations, user_rows=1 << 17, item_rows=1 << 10)
    ingest = Ingest(graph, watermark, MemoryDeadLetters(), without_marks())
    newest_ms = disorder_ms = holds = 0
    held: frozenset[int] = frozenset()
    for _ in range(20_000):
        decoded = source.next_batch(0.02)
        assert decoded is not None
        if len(decoded.batch):
            disorder_ms = max(disorder_ms, newest_ms - int(decoded.batch.time_ms.min()))
            newest_ms = max(newest_ms, int(decoded.batch.time_ms.max()))
        assert list(ingest.take(decoded)) == []
        wanted = watermark.align(alignment_ms, source.behind)
        holds, held = holds + len(wanted - held), wanted
        source.hold(wanted)
        clock.advance(round(READ_S * 1_000 * decoded.read_count / BATCH))
        watermark.tick(away=source.away, caught_up=source.caught_up)
        if source.caught_up:
            break
    source.close()
    assert ingest.counts.read == sum(COUNTS)
    return CaughtUp(ingest, disorder_ms, holds)


def test_with_alignment_no_event_is_late_and_disorder_is_bounded(real_kafka: RealKafka, topic: str) -> None:
    done = catch_up(real_kafka.address, topic, ALIGNMENT_MS)
    assert (done.ingest.counts.late, done.ingest.counts.applied) == (0, sum(COUNTS))
    a_batch_ms = BATCH * DOWNTIME_MS // min(COUNTS)
    assert done.holds > 10
    assert done.disorder_ms <= ALIGNMENT_MS + 2 * a_batch_ms


def test_without_it_what_comes_first_makes_the_rest_late(real_kafka: RealKafka, topic: str) -> None:
    done = catch_up(real_kafka.address, topic, 365 * 24 * HOUR_MS)
    assert done.holds <= len(COUNTS), "only for a partition that had shown nothing yet"
    assert done.ingest.counts.late > sum(COUNTS) // 10
    assert done.disorder_ms > DOWNTIME_MS // 4
