"""Event time of a real topic: an empty partition, shards without one, a bad clock and a restart."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import ManualClock, TimeRules
from driftgraph.stream.time.watermark import Watermark, WatermarkRules, WatermarkState
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation
from tests.kafka_brokers import NOW_MS, event, produce
from tests.model_worlds import without_marks
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services

MINUTE_MS = 60_000
SKEW_MS = 5 * MINUTE_MS
RULES = WatermarkRules(
    out_of_orderness_ms=1_000, allowed_lateness_ms=MINUTE_MS, idle_timeout_ms=30_000, future_skew_ms=SKEW_MS
)


class Flow:
    """From a topic into a window, as the updater's loop does it, at a time that the test decides."""

    def __init__(
        self,
        address: str,
        topic: str,
        *,
        span_ms: int = 60 * MINUTE_MS,
        shard: tuple[int, int] = (0, 1),
        position: Position | None = None,
        state: WatermarkState | None = None,
        now_ms: int = NOW_MS,
    ) -> None:
        self.clock = ManualClock(now_ms)
        rules = EventRules(Behaviors(["click"]), TimeRules(self.clock, future_skew_ms=SKEW_MS))
        options = KafkaOptions((topic,), {"bootstrap.servers": address}, shard=shard)
        self.source = KafkaSource(options, CanonicalJson(rules), self.clock, start=position)
        self.watermark = Watermark(RULES, self.clock, state)
        self.watermark.assign(self.source.partitions)
        self.letters = MemoryDeadLetters()
        graph = Heterograph.create(
            None, (Relation("click", span_ms, 1 << 12),), user_rows=1 << 10, item_rows=1 << 10
        )
        self.ingest = Ingest(graph, self.watermark, self.letters, without_marks())

    def read_all(self) -> Flow:
        """To the end of every partition."""
        end = time.monotonic() + 30
        while True:
            assert time.monotonic() < end, self.ingest.counts
            decoded = self.source.next_batch(0.1)
            assert decoded is not None
            assert list(self.ingest.take(decoded)) == []
            self.let_time_pass(0)
            if self.source.caught_up:
                return self

    def let_time_pass(self, duration_ms: int) -> None:
        self.clock.advance(duration_ms)
        value_ms = self.watermark.tick(
            away=self.source.away, caught_up=self.source.caught_up, behind=self.source.behind
        )
        self.ingest.graph.expire(value_ms)

    def users(self) -> list[str]:
        """The user of each live event."""
        graph, moment = self.ingest.graph, self.ingest.graph.moment()
        return [user or "" for user in graph.names(0, graph.window.events(moment.cut).user, moment)]

    def reasons(self) -> dict[str, str]:
        """Of each dead letter, by where it was read."""
        return {letter.origin: letter.reason for letter in self.letters.letters}


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"inputs-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name, 2)
    return name


def put(kafka: RealKafka, topic: str, *values: bytes) -> None:
    """On partition 0, in this order."""
    produce(kafka.address, topic, [{"value": value, "partition": 0} for value in values])


@pytest.mark.parametrize("place", [0, 50])
def test_a_clock_in_2037_costs_one_event_also_across_a_restart(
    real_kafka: RealKafka, topic: str, place: int
) -> None:
    """50 events now, 50 a second later, and one of 2037 first or between; a restart; ten more."""
    good = [event(f"u{n}", time_ms=NOW_MS + 1_000 * (n >= 50)) for n in range(100)]
    put(real_kafka, topic, *good[:place], event("phone", time_ms=2_114_380_800_000), *good[place:])
    first = Flow(real_kafka.address, topic).read_all()
    first.let_time_pass(RULES.idle_timeout_ms or 0)  # the other partition is empty
    assert first.watermark.value_ms == NOW_MS
    assert len(first.users()) == 100
    assert first.reasons() == {f"{topic}[0]@{place}": "time_in_future"}
    first.source.close()
    put(real_kafka, topic, *(event(f"n{n}", time_ms=NOW_MS + 2_000) for n in range(10)))
    again = Flow(
        real_kafka.address, topic, position=first.source.position(), state=first.watermark.state()
    ).read_all()
    assert (again.ingest.counts.applied, again.ingest.counts.late, again.reasons()) == (10, 0, {})
    again.source.close()


def test_an_empty_partition_does_not_hold_time_for_longer_than_its_timeout(
    real_kafka: RealKafka, topic: str
) -> None:
    """An hour of event time on one partition of two, and a window of ten minutes."""
    put(
        real_kafka,
        topic,
        *(event(f"u{minute}", time_ms=NOW_MS - (60 - minute) * MINUTE_MS) for minute in range(61)),
    )
    flow = Flow(real_kafka.address, topic, span_ms=10 * MINUTE_MS).read_all()
    assert (flow.watermark.value_ms, len(flow.users())) == (0, 61)
    flow.let_time_pass(RULES.idle_timeout_ms or 0)
    assert flow.watermark.value_ms == NOW_MS - 1_000
    assert sorted(flow.users()) == [f"u{minute}" for minute in range(50, 61)]
    flow.source.close()


def test_more_shards_than_partitions_leave_one_with_nothing_to_do(real_kafka: RealKafka, topic: str) -> None:
    """Three updaters on two partitions."""
    records = [{"value": event(f"u{n}"), "partition": n % 2} for n in range(10)]
    produce(real_kafka.address, topic, records)
    flows = [Flow(real_kafka.address, topic, shard=(index, 3)).read_all() for index in range(3)]
    assert [sorted(flow.users()) for flow in flows] == [
        [f"u{n}" for n in range(0, 10, 2)],
        [f"u{n}" for n in range(1, 10, 2)],
        [],
    ]
    for flow in flows:
        flow.source.close()


def test_a_stop_is_silence_but_not_before_what_came_meanwhile_is_read(
    real_kafka: RealKafka, topic: str
) -> None:
    """Two hours without an updater. In the first, an event every ten minutes; then another stop."""
    put(real_kafka, topic, *(event(f"u{n}", time_ms=NOW_MS) for n in range(100)))
    first = Flow(real_kafka.address, topic).read_all()
    first.source.close()
    put(
        real_kafka,
        topic,
        *(event(f"n{minute}", time_ms=NOW_MS + minute * MINUTE_MS) for minute in range(10, 61, 10)),
    )
    second = Flow(
        real_kafka.address,
        topic,
        position=first.source.position(),
        state=first.watermark.state(),
        now_ms=NOW_MS + 120 * MINUTE_MS,
    ).read_all()
    assert (second.ingest.counts.applied, second.ingest.counts.late) == (6, 0)
    second.let_time_pass(0)
    idle_ms = RULES.idle_timeout_ms or 0
    assert second.watermark.value_ms == NOW_MS + 120 * MINUTE_MS - 1_000 - idle_ms, "silent for an hour"
    second.source.close()
    third = Flow(
        real_kafka.address,
        topic,
        position=second.source.position(),
        state=second.watermark.state(),
        now_ms=NOW_MS + 500 * MINUTE_MS,
    ).read_all()
    third.let_time_pass(0)
    assert third.watermark.value_ms == NOW_MS + 500 * MINUTE_MS - 1_000 - idle_ms
    assert third.users() == []
    third.source.close()
