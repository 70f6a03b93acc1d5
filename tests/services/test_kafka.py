"""The Kafka source and the dead letters on a real broker: what the mock one cannot do."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from driftgraph.stream.dead_letters.topic import KafkaDeadLetters
from driftgraph.stream.errors import SourceError
from tests.kafka_brokers import NOW_MS, event, produce, read_count, read_until, source_of
from tests.services.conftest import RealKafka

pytestmark = pytest.mark.services
HOUR_MS = 3_600_000


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name)
    return name


def make_topic(address: str, name: str, partitions: int = 2, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    forever = {"retention.ms": "-1", **config}  # the events of these tests are of a fixed day
    [made] = admin.create_topics([NewTopic(name, partitions, 1, config=forever)]).values()
    made.result(30)


def fill_hours(address: str, topic: str) -> None:
    """u0 to u3, one an hour up to NOW, on partition 0; partition 1 has u9 of three hours ago."""
    records = [
        {"value": event(f"u{n}"), "partition": 0, "timestamp": NOW_MS - (3 - n) * HOUR_MS} for n in range(4)
    ]
    produce(
        address, topic, [*records, {"value": event("u9"), "partition": 1, "timestamp": NOW_MS - 3 * HOUR_MS}]
    )


@pytest.mark.parametrize(
    ("start", "offsets", "users"),
    [
        ("last=90m", (2, 1), ["u2", "u3"]),
        (f"ts={NOW_MS - 2 * HOUR_MS}", (1, 1), ["u1", "u2", "u3"]),
        (NOW_MS - 3 * HOUR_MS, (0, 0), ["u0", "u1", "u2", "u3", "u9"]),
        ("last=1ms", (3, 1), ["u3"]),
        ("earliest", (0, 0), ["u0", "u1", "u2", "u3", "u9"]),
    ],
)
def test_a_start_by_time_finds_the_first_event_that_is_not_older(
    real_kafka: RealKafka, topic: str, start: str | int, offsets: tuple[int, int], users: list[str]
) -> None:
    fill_hours(real_kafka.address, topic)
    source = source_of(real_kafka.address, topic, start=start)
    assert source.position() == {f"{topic}[0]": offsets[0], f"{topic}[1]": offsets[1]}
    parts = read_count(source, len(users))
    assert sorted(user for part in parts for user in part.batch.user.to_list()) == users
    source.close()


def test_an_aborted_transaction_is_never_seen_and_the_end_is_reached(
    real_kafka: RealKafka, topic: str
) -> None:
    """The markers of transactions take offsets of their own: the position goes past them, the lag is 0."""
    producer = Producer({"bootstrap.servers": real_kafka.address, "transactional.id": topic})
    producer.init_transactions(30)
    for number, keep in enumerate((True, False, True, False)):
        producer.begin_transaction()
        producer.produce(topic, event(f"u{number}"), partition=0)
        producer.flush(30)
        (producer.commit_transaction if keep else producer.abort_transaction)(30)
    source = source_of(real_kafka.address, topic)
    parts = read_until(source, lambda _: source.caught_up)
    assert [user for part in parts for user in part.batch.user.to_list()] == ["u0", "u2"]
    assert source.position() == {f"{topic}[0]": 8, f"{topic}[1]": 0}
    assert source.lag() == {f"{topic}[0]": 0, f"{topic}[1]": 0}
    source.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_compressed_topic_reads_like_any_other(real_kafka: RealKafka, topic: str, codec: str) -> None:
    producer = Producer({"bootstrap.servers": real_kafka.address, "compression.type": codec, "linger.ms": 50})
    for number in range(100):
        producer.produce(topic, event(f"u{number}"), partition=0)
    assert producer.flush(30) == 0
    source = source_of(real_kafka.address, topic)
    users = [user for part in read_count(source, 100) for user in part.batch.user.to_list()]
    assert users == [f"u{number}" for number in range(100)]
    source.close()


def test_partitions_added_later_are_found_and_read_from_their_start(
    real_kafka: RealKafka, topic: str
) -> None:
    source = source_of(real_kafka.address, topic, start="latest", new_partitions_every_s=0.5)
    produce(real_kafka.address, topic, [{"value": event("u0"), "partition": 1}])
    read_count(source, 1)
    admin = AdminClient({"bootstrap.servers": real_kafka.address})
    [grown] = admin.create_partitions([NewPartitions(topic, 4)]).values()
    grown.result(30)
    produce(real_kafka.address, topic, [{"value": event(f"u{p}"), "partition": p} for p in (1, 2, 3)])
    parts = read_count(source, 3)
    assert sorted(user for part in parts for user in part.batch.user.to_list()) == ["u1", "u2", "u3"]
    assert source.partitions == (0, 1, 2, 3)
    position = source.position()
    assert position == {f"{topic}[0]": 0, f"{topic}[1]": 2, f"{topic}[2]": 1, f"{topic}[3]": 1}
    source.close()
    old = {part: offset for part, offset in position.items() if not part.endswith(("[2]", "[3]"))}
    restarted = source_of(real_kafka.address, topic, start="latest", position=old)
    read_count(restarted, 2)
    assert restarted.position() == position
    restarted.close()


def test_a_broker_killed_and_started_again_costs_nothing(real_kafka: RealKafka, topic: str) -> None:
    produce(real_kafka.address, topic, [{"value": event(f"u{n}"), "partition": n % 2} for n in range(10)])
    source = source_of(real_kafka.address, topic)
    seen = [user for part in read_count(source, 10) for user in part.batch.user.to_list()]
    real_kafka.kill()
    try:
        read_until(source, lambda _: source.away)
    finally:
        real_kafka.start()
    produce(real_kafka.address, topic, [{"value": event(f"u{n}"), "partition": n % 2} for n in range(10, 20)])
    seen += [user for part in read_count(source, 10) for user in part.batch.user.to_list()]
    assert sorted(seen) == sorted(f"u{n}" for n in range(20))
    read_until(source, lambda _: source.caught_up)
    source.close()


def test_a_missing_topic_is_told_by_a_broker_that_would_make_it(real_kafka: RealKafka) -> None:
    name = f"missing-{uuid4().hex[:8]}"
    for _ in range(2):
        with pytest.raises(SourceError, match=f"has no topic '{name}'"):
            source_of(real_kafka.address, name)


def test_a_dead_letter_larger_than_its_topic_allows_is_cut_by_the_brokers_word(real_kafka: RealKafka) -> None:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name, 1)
    make_topic(real_kafka.address, f"{name}.dlq", 1, **{"max.message.bytes": "100000"})
    produce(
        real_kafka.address,
        name,
        [{"value": b"x" * 300_000, "key": b"k", "partition": 0}, {"value": event("u0")}],
    )
    source = source_of(real_kafka.address, name)
    parts = read_count(source, 2)
    letters = KafkaDeadLetters({"bootstrap.servers": real_kafka.address}, topic=f"{name}.dlq")
    for part in parts:
        for letter in part.rejected:
            letters.put(letter)
    letters.flush()
    kept = source_of(real_kafka.address, f"{name}.dlq")
    [letter] = [letter for part in read_count(kept, 1) for letter in part.rejected]
    assert (letter.key, letter.payload[:5], dict(letter.headers)["driftgraph.payload.bytes"]) == (
        b"k",
        b"xxxxx",
        b"300000",
    )
    source.close()
    kept.close()
