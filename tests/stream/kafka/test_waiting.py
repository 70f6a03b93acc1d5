"""While a decoder must wait, its messages are kept, polling goes on, time stands still, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Decoder, NotNowError, Rows
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource
from driftgraph.stream.sources.source import LiveSource, Position
from driftgraph.stream.time.clock import ManualClock
from tests.decoded import events_of
from tests.kafka_brokers import DECODER, NOW_MS, event, mock_kafka, produce


class Moody:
    """The decoder of canonical JSON, as long as what it needs is there."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked = 0

    def decode(self, rows: Rows) -> Decoded:
        self.asked += 1
        if self.is_away:
            raise NotNowError("the registry at http://r has gone fishing")
        return DECODER.decode(rows)


class Wall:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"events-{uuid4().hex[:8]}"
    produce(kafka, name, [{"value": event(f"u{n}"), "partition": n % 2} for n in range(4)])
    return name


def waiting_source(
    kafka: str, topic: str, moody: Moody, wall: Wall | None = None, start: Position | None = None
) -> WaitingSource:
    options = KafkaOptions(topics=(topic,), client={"bootstrap.servers": kafka, "log_level": 0})

    def connect(decoder: Decoder) -> KafkaSource:
        return KafkaSource(options, decoder, ManualClock(NOW_MS), start=start)

    return WaitingSource(connect, moody, give_up_after_s=60, now_s=wall or Wall())


def users_until(source: WaitingSource, count: int, timeout_s: float = 60) -> list[str]:
    users: list[str] = []
    end_s = time.monotonic() + timeout_s
    while len(users) < count:
        assert time.monotonic() < end_s, f"only {users} came"
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert dict(decoded.position) == dict(source.position())
        users += [user for user, *_ in events_of(decoded.batch)]
    return sorted(users)


def poll_until_messages_wait(source: WaitingSource, moody: Moody) -> None:
    end_s = time.monotonic() + 15
    while not moody.asked:
        assert time.monotonic() < end_s, "no message came"
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert decoded.read_count == 0


def test_it_is_a_live_source_and_reads_like_one(kafka: str, topic: str) -> None:
    source = waiting_source(kafka, topic, Moody())
    assert isinstance(source, LiveSource)
    assert users_until(source, 4) == ["u0", "u1", "u2", "u3"]
    assert (source.position()[f"{topic}[0]"], source.position()[f"{topic}[1]"]) == (2, 2)
    source.close()
    assert source.next_batch(0.1) is None


def test_the_pauses_between_its_tries_grow_up_to_five_seconds(kafka: str, topic: str) -> None:
    moody, wall, pauses_s = Moody(), Wall(), list[float]()
    moody.is_away = True
    source = waiting_source(kafka, topic, moody, wall)
    poll_until_messages_wait(source, moody)
    for asked in range(moody.asked, moody.asked + 5):
        pauses_s.append(0)
        while moody.asked == asked:
            assert pauses_s[-1] < 10
            pauses_s[-1] += 0.5
            wall.now_s += 0.5
            source.next_batch(0)
    assert pauses_s == [0.5, 1, 2, 5, 5]
    source.close()


def test_messages_wait_and_are_decoded_when_the_registry_is_back(
    kafka: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    moody, wall = Moody(), Wall()
    moody.is_away = True
    source = waiting_source(kafka, topic, moody, wall)
    before = source.position()
    poll_until_messages_wait(source, moody)
    read = sum(source._source.position().values())
    produce(kafka, topic, [{"value": event("later"), "partition": 0}])
    for _ in range(5):
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert decoded.read_count == 0
    assert moody.asked == 1, "it is not asked at each poll"
    assert sum(source._source.position().values()) == read, "nothing more is fetched: memory stays flat"
    assert source.position() == before, "a checkpoint must not pass the waiting messages"
    assert (source.away, source.caught_up) == (True, False)
    assert sum(source.lag().values()) >= 4
    wall.now_s += 1
    source.next_batch(0.0)
    assert moody.asked == 2
    moody.is_away = False
    wall.now_s += 10
    assert users_until(source, 5) == ["later", "u0", "u1", "u2", "u3"]
    assert not source.away
    assert sum(source.position().values()) == 5
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2, told
    assert "gone fishing" in told[0]
    source.close()


def test_a_source_after_a_crash_reads_all_the_messages_that_waited(kafka: str, topic: str) -> None:
    moody = Moody()
    moody.is_away = True
    first = waiting_source(kafka, topic, moody)
    poll_until_messages_wait(first, moody)
    position = first.position()
    first.close()
    assert users_until(waiting_source(kafka, topic, Moody(), start=position), 4) == ["u0", "u1", "u2", "u3"]


def test_it_gives_up_with_one_sentence(kafka: str, topic: str) -> None:
    moody, wall = Moody(), Wall()
    moody.is_away = True
    source = waiting_source(kafka, topic, moody, wall)
    poll_until_messages_wait(source, moody)
    wall.now_s += 61
    with pytest.raises(SourceError, match="gone fishing, for 61 s now; see that it runs, then start again"):
        source.next_batch(0.1)
    source.close()


def test_a_pause_of_the_caller_outlasts_the_wait(kafka: str, topic: str) -> None:
    moody, wall = Moody(), Wall()
    moody.is_away = True
    source = waiting_source(kafka, topic, moody, wall)
    poll_until_messages_wait(source, moody)
    source.pause()
    moody.is_away = False
    wall.now_s += 10
    decoded = source.next_batch(0.1)
    assert decoded is not None
    came = decoded.read_count
    assert came > 0
    produce(kafka, topic, [{"value": event("later"), "partition": 0}])
    for _ in range(5):
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert decoded.read_count == 0
    source.resume()
    assert "later" in users_until(source, 5 - came)
    source.close()


def test_a_partition_is_held_back_and_none_has_an_end_while_messages_wait(kafka: str, topic: str) -> None:
    moody = Moody()
    source = waiting_source(kafka, topic, moody)
    source.hold([0])
    seen: list[str] = []
    end = time.monotonic() + 20
    while len(seen) < 2:
        assert time.monotonic() < end
        seen += users(source.next_batch(0.1))
    assert sorted(seen) == ["u1", "u3"]
    moody.is_away = True
    source.hold([])
    while not source.away:
        assert time.monotonic() < end
        assert users(source.next_batch(0.1)) == []
    assert source.behind == source.partitions
    assert source.lost == {}
    source.close()


def users(decoded: Decoded | None) -> list[str]:
    assert decoded is not None
    return decoded.batch.user.to_list()
