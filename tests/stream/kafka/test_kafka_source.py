"""The Kafka source against librdkafka's mock broker; what that cannot do is in ``tests/services``."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.kafka import read_ahead
from driftgraph.stream.kafka.partition import TOPIC_STRIDE
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.first_start import start_of
from driftgraph.stream.sources.source import LiveSource
from driftgraph.stream.time.clock import ManualClock
from tests.decoded import events_of
from tests.kafka_brokers import DECODER, NOW_MS, event, mock_kafka, produce, read_count, read_until, source_of

HOUR_MS = 3_600_000


@pytest.fixture
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


def fill(address: str, count: int, topic: str = "events") -> None:
    """``count`` events u0, u1, … round the 4 partitions."""
    produce(address, topic, [{"value": event(f"u{n}"), "partition": n % 4} for n in range(count)])


def users_of(parts: list[Decoded]) -> list[str]:
    return [user for part in parts for user in part.batch.user.to_list()]


def test_every_event_comes_once_with_its_partition(kafka: str) -> None:
    fill(kafka, 40)
    source = source_of(kafka)
    assert isinstance(source, LiveSource)
    parts = read_count(source, 40)
    got = [(e[0], e[4]) for part in parts for e in events_of(part.batch)]
    assert sorted(got) == sorted((f"u{n}", n % 4) for n in range(40))
    assert source.position() == parts[-1].position == {f"events[{p}]": 10 for p in range(4)}
    source.close()
    assert source.next_batch(0) is None


def test_it_goes_on_from_any_position_it_told(kafka: str) -> None:
    fill(kafka, 20)
    first = source_of(kafka, batch_max=3)
    seen: list[str] = []
    while len(seen) < 20:
        seen += users_of(read_count(first, 1))
        rest = source_of(kafka, position=first.position(), start="latest")
        assert sorted(seen + users_of(read_count(rest, 20 - len(seen)))) == sorted(f"u{n}" for n in range(20))
        rest.close()
    first.close()


def test_a_bad_record_is_told_with_all_that_came_with_it(kafka: str) -> None:
    bad = {
        "value": b"{",
        "key": b"k\xff",
        "headers": [("a", b"1"), ("a", None)],
        "partition": 2,
        "timestamp": NOW_MS,
    }
    produce(
        kafka,
        "events",
        [bad, {"value": None, "key": b"u1", "partition": 2}, {"value": event("u1"), "partition": 2}],
    )
    source = source_of(kafka)
    parts = read_count(source, 3)
    letters = [letter for part in parts for letter in part.rejected]
    assert [(letter.origin, letter.reason, letter.key) for letter in letters] == [
        ("events[2]@0", "bad_json", b"k\xff")
    ]
    assert [erasure.user for part in parts for erasure in part.erased] == ["u1"]
    assert (letters[0].payload, letters[0].timestamp_ms) == (b"{", NOW_MS)
    assert letters[0].headers == (("a", b"1"), ("a", None))
    assert source.position()["events[2]"] == 3
    source.close()


def test_shards_share_the_partitions_without_overlap(kafka: str) -> None:
    fill(kafka, 40)
    shards = [source_of(kafka, shard=(i, 3)) for i in range(3)]
    assert [shard.partitions for shard in shards] == [(0, 3), (1,), (2,)]
    users = [users_of(read_count(shard, count)) for shard, count in zip(shards, (20, 10, 10), strict=True)]
    assert sorted(user for part in users for user in part) == sorted(f"u{n}" for n in range(40))
    for shard in shards:
        shard.close()


def test_more_shards_than_partitions_leave_one_without_any(kafka: str) -> None:
    fill(kafka, 1)
    source = source_of(kafka, shard=(7, 8))
    assert source.partitions == ()
    part = source.next_batch(0.05)
    assert part is not None
    assert part.read_count == 0
    source.close()


def test_several_topics_have_different_numbers(kafka: str) -> None:
    fill(kafka, 4, "a")
    fill(kafka, 4, "b")
    options = KafkaOptions(topics=("b", "a"), client={"bootstrap.servers": kafka, "log_level": 0})
    source = KafkaSource(options, DECODER, ManualClock(NOW_MS))
    got = [(e[0], e[4]) for part in read_count(source, 8) for e in events_of(part.batch)]
    assert sorted(got) == sorted((f"u{n}", k * TOPIC_STRIDE + n) for k in (0, 1) for n in range(4))
    assert source.partitions == (0, 1, 2, 3, *(TOPIC_STRIDE + n for n in range(4)))
    source.close()


def test_latest_starts_behind_what_is_there(kafka: str) -> None:
    fill(kafka, 8)
    source = source_of(kafka, start="latest")
    assert source.position() == {f"events[{p}]": 2 for p in range(4)}
    fill(kafka, 4)
    assert sorted(users_of(read_count(source, 4))) == ["u0", "u1", "u2", "u3"]
    source.close()


def test_the_end_is_seen_and_the_lag_counted(kafka: str) -> None:
    fill(kafka, 8)
    source = source_of(kafka, batch_max=1)
    read_count(source, 1)
    assert not source.caught_up
    read_until(source, lambda _: source.caught_up)
    assert source.lag() == {f"events[{p}]": 0 for p in range(4)}
    assert not source.away
    fill(kafka, 8)
    read_count(source, 1)
    assert not source.caught_up, "seven more are there"
    read_until(source, lambda _: source.caught_up)
    source.pause()
    assert not source.caught_up, "events may be coming that a paused source cannot see"
    source.close()


def test_a_paused_source_returns_nothing_and_loses_nothing(kafka: str) -> None:
    fill(kafka, 4)
    source = source_of(kafka)
    read_until(source, lambda _: source.caught_up)
    source.pause()
    fill(kafka, 8)
    for _ in range(10):
        part = source.next_batch(0.05)
        assert part is not None
        assert part.read_count == 0
    source.resume()
    assert len(users_of(read_count(source, 8))) == 8
    source.close()


def test_a_commit_is_seen_by_lag_tools_and_never_read_back(kafka: str) -> None:
    fill(kafka, 8)
    source = source_of(kafka, group_id="shop")
    read_count(source, 8)
    asked = [TopicPartition("events", p) for p in range(4)]
    tool = Consumer({"bootstrap.servers": kafka, "group.id": "shop", "log_level": 0})
    assert {tp.offset for tp in tool.committed(asked, timeout=10)} == {-1001}, "reading alone commits nothing"
    source.commit({"events[0]": 1, "events[3]": 2, "gone[0]": 7})

    def seen(_: list[Decoded]) -> bool:
        return [tp.offset for tp in tool.committed(asked, timeout=10)] == [1, -1001, -1001, 2]

    read_until(source, seen)
    source.close()
    tool.close()
    again = source_of(kafka, group_id="shop")
    assert len(users_of(read_count(again, 8))) == 8
    again.close()


def test_a_broker_that_goes_away_is_told_and_costs_nothing() -> None:
    with mock_kafka() as address:
        fill(address, 4)
        source = source_of(address)
        read_until(source, lambda _: source.caught_up)
        assert not source.away
    before = source.position()
    read_until(source, lambda _: source.away)
    assert not source.caught_up
    assert source.position() == before
    source.close()


def test_an_unreachable_broker_is_told_in_one_sentence() -> None:
    with pytest.raises(
        SourceError, match=r"cannot reach Kafka at 127\.0\.0\.1:1 within 0\.5 s .*check the address"
    ):
        source_of("127.0.0.1:1", connect_timeout_s=0.5)


def test_a_topic_that_is_not_there_is_told_and_not_made(kafka: str) -> None:
    fill(kafka, 1)
    for _ in range(2):
        with pytest.raises(SourceError, match="has no topic 'evnets'; create it or name another one"):
            source_of(kafka, "evnets")


def test_an_offset_that_is_gone_is_told_and_never_jumped(kafka: str) -> None:
    fill(kafka, 4)
    source = source_of(kafka, position={f"events[{p}]": 99 for p in range(4)})
    with pytest.raises(
        SourceError, match=r"cannot go on reading events\[\d\]@99: .*has offsets 0 to 1 there now"
    ):
        read_count(source, 1)
    source.close()


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"enable.auto.commit": True}, "enable.auto.commit must be false, got True; remove it"),
        ({"isolation.level": "read_uncommitted"}, "isolation.level must be read_committed"),
        ({"group.id": "other"}, "group.id must be driftgraph, got other"),
        ({"no.such.property": 1}, "Kafka refuses its configuration: .*no.such.property"),
    ],
)
def test_a_property_that_fights_ours_or_is_none_is_refused(client: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        source_of("127.0.0.1:1", client=client)


def test_a_property_that_agrees_or_is_free_is_passed_on(kafka: str) -> None:
    fill(kafka, 1)
    source = source_of(kafka, client={"enable.auto.commit": "false", "client.id": "me", "fetch.min.bytes": 1})
    assert users_of(read_count(source, 1)) == ["u0"]
    source.close()


def test_no_address_is_told() -> None:
    with pytest.raises(SourceError, match=r"bootstrap\.servers"):
        KafkaSource(KafkaOptions(topics=("t",), client={}), DECODER, ManualClock(NOW_MS))


def test_where_a_start_begins() -> None:
    assert start_of("earliest", NOW_MS) == "earliest"
    assert start_of("latest", NOW_MS) == "latest"
    assert start_of(5, NOW_MS) == 5
    assert start_of("last=1h", NOW_MS) == NOW_MS - HOUR_MS
    assert start_of("ts=2026-07-02T13:46:40Z", NOW_MS) == start_of("ts=1783000000", NOW_MS) == NOW_MS
    for wrong in ("yesterday", "ts=2026-07-02", "last=soon", "", "ts=", "first=1h"):
        with pytest.raises(SourceError, match=f"cannot start at '{wrong}'"):
            start_of(wrong, NOW_MS)


# --- partitions held back -----------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_and_paused_at_random_comes_once_and_in_order(
    kafka: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause drops what librdkafka has prefetched of a partition; reading goes on at our position.

    Every other time with a thread that reads ahead.
    """
    if seed % 2:
        monkeypatch.setattr(read_ahead, "AT_ONCE", 20)
        monkeypatch.setattr(read_ahead, "AHEAD_FROM", 30)
    count, rng = 4_000, random.Random(seed)
    fill(kafka, count)
    source = source_of(kafka, batch_max=97)
    seen: list[list[str]] = [[], [], [], []]
    held: set[int] = set()
    paused = False
    end = time.monotonic() + 60
    while sum(map(len, seen)) < count:
        assert time.monotonic() < end, f"{sum(map(len, seen))} of {count} came"
        part = source.next_batch(0.02)
        assert part is not None
        for user, _, _, _, partition, *_ in events_of(part.batch):
            assert not paused, "it came from a paused source"
            assert partition not in held, "it came from a partition that is held"
            seen[partition].append(user)
        if rng.random() < 0.3:
            held = {p for p in range(4) if rng.random() < 0.4}
            source.hold(held)
        if rng.random() < 0.05:
            source._assign()  # as after a loss: what was read ahead comes again
        if rng.random() < 0.3:
            paused = not paused and rng.random() < 0.5
            (source.pause if paused else source.resume)()
    assert seen == [[f"u{n}" for n in range(p, count, 4)] for p in range(4)]
    source.close()


def test_a_fault_of_a_read_ahead_is_told_by_the_next_one(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "AHEAD_FROM", 1)
    fill(kafka, 8)
    source = source_of(kafka)
    reads = iter([KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))])
    read = source._reader._read

    def failing(timeout_s: float) -> list[Message]:
        if threading.current_thread() is not threading.main_thread() and (fault := next(reads, None)):
            raise fault
        return read(timeout_s)

    monkeypatch.setattr(source._reader, "_read", failing)
    with pytest.raises(SourceError, match="ask for READ on it"):
        read_until(source, lambda _: False)
    source.close()


def test_a_source_that_holds_a_partition_cannot_say_that_it_has_caught_up(kafka: str) -> None:
    fill(kafka, 8)
    source = source_of(kafka)
    read_until(source, lambda _: source.caught_up)
    source.hold([1])
    assert not source.caught_up
    fill(kafka, 4)
    assert sorted(users_of(read_count(source, 3))) == ["u0", "u2", "u3"]
    source.hold([])
    assert users_of(read_count(source, 1)) == ["u1"]
    source.close()


def test_a_partition_is_behind_until_it_has_come_to_where_it_ended(kafka: str) -> None:
    fill(kafka, 8)
    source = source_of(kafka, batch_max=1)
    assert set(source.behind) == {0, 1, 2, 3}, "no end is known"
    read_until(source, lambda _: source.caught_up)
    assert set(source.behind) == set()
    read_until(source, lambda _: len(source._signals.ends_before) == 4)
    produce(kafka, "events", [{"value": event(f"u{n}"), "partition": 3} for n in range(3)])
    read_count(source, 1)
    assert set(source.behind) == set(), "it has passed the end of a second ago"
    source.pause()
    read_until(source, lambda _: set(source.behind) == {3})
    source.resume()
    read_count(source, 2)
    assert set(source.behind) == set()
    source.close()


def test_a_broker_that_is_slow_to_say_whether_a_topic_is_there_is_asked_again(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop polls on between two short looks."""
    fill(kafka, 4)
    source, asked = source_of(kafka, start="latest"), list[float]()

    class Slow:
        def __init__(self, consumer: Consumer) -> None:
            self._consumer = consumer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._consumer, name)

        def list_topics(self, topic: str, timeout: float) -> Any:
            asked.append(timeout)
            if len(asked) < 3:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return self._consumer.list_topics(topic, timeout=timeout)

    monkeypatch.setattr(source, "_consumer", Slow(source._consumer))
    source._signals.topic_missing = True
    read_until(source, lambda _: len(asked) == 3)
    for _ in range(3):
        source.next_batch(0.01)
    assert asked == [0.5] * 3, "it was there, so nobody asks any more"
    source.close()
