"""What a topic and its brokers may do under a running updater: retention, foreign groups, kills, deletion."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce, read_count, read_until, source_of
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured

pytestmark = pytest.mark.services


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name)
    return name


def users_of(parts: list[Decoded]) -> list[str]:
    return [user for part in parts for user in part.batch.user.to_list()]


def fill(address: str, topic: str, first: int, stop: int) -> None:
    """u<first> … on partition 0."""
    produce(address, topic, [{"value": event(f"u{n}"), "partition": 0} for n in range(first, stop)])


def delete_before(address: str, topic: str, offset: int) -> None:
    """As retention does it, at once."""
    admin = AdminClient({"bootstrap.servers": address})
    [deleted] = admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    assert deleted.result(30).low_watermark == offset


# --- retention -----------------------------------------------------


def stopped_at_2(address: str, topic: str) -> dict[str, int]:
    """Two of ten events were read; retention took the first six."""
    fill(address, topic, 0, 10)
    delete_before(address, topic, 6)
    return {f"{topic}[0]": 2, f"{topic}[1]": 0}


def test_events_that_retention_took_stop_the_source_with_all_that_one_needs_to_know(
    real_kafka: RealKafka, topic: str
) -> None:
    source = source_of(real_kafka.address, topic, position=stopped_at_2(real_kafka.address, topic))
    with pytest.raises(SourceError) as told:
        read_count(source, 1)
    assert str(told.value) == (
        f"cannot go on reading {topic}[0]@2: the broker has offsets 6 to 10 there now, so 4 events are gone "
        '(retention?); to go on without them set kafka.out_of_range to "earliest" or "latest", and give the '
        "topic a retention longer than any downtime"
    )
    assert source.position()[f"{topic}[0]"] == 2
    source.close()


@pytest.mark.parametrize(
    ("policy", "rest", "lost"), [("earliest", ["u6", "u7", "u8", "u9"], 4), ("latest", [], 8)]
)
def test_a_policy_goes_on_loudly_and_counts_what_is_left_out(
    real_kafka: RealKafka,
    topic: str,
    caplog: pytest.LogCaptureFixture,
    policy: str,
    rest: list[str],
    lost: int,
) -> None:
    position = stopped_at_2(real_kafka.address, topic)
    source = source_of(real_kafka.address, topic, position=position, out_of_range=policy)
    with caplog.at_level(logging.ERROR, "driftgraph.kafka"):
        seen = users_of(read_until(source, lambda _: bool(source.lost)))
    produce(real_kafka.address, topic, [{"value": event("new"), "partition": 0}])
    produce(real_kafka.address, topic, [{"value": event("other"), "partition": 1}])
    seen += users_of(read_until(source, lambda parts: {"new", "other"} <= set(users_of(parts))))
    assert [user for user in seen if user != "other"] == [*rest, "new"]
    assert source.lost == {f"{topic}[0]": lost}
    assert source.position() == {f"{topic}[0]": 11, f"{topic}[1]": 1}
    [said] = [record.getMessage() for record in caplog.records if "offsets 6 to 10" in record.getMessage()]
    assert f"{lost} are left out" in said
    source.close()


def test_retention_under_a_running_source_counts_only_what_it_had_not_read(
    real_kafka: RealKafka, topic: str
) -> None:
    """It is paused at offset 3 as retention passes it: two are lost, the events before were read."""
    fill(real_kafka.address, topic, 0, 3)
    source = source_of(real_kafka.address, topic, out_of_range="earliest")
    read_until(source, lambda _: source.caught_up)
    source.pause()
    fill(real_kafka.address, topic, 3, 9)
    delete_before(real_kafka.address, topic, 5)
    source.resume()
    assert users_of(read_count(source, 4)) == ["u5", "u6", "u7", "u8"]
    assert source.lost == {f"{topic}[0]": 2}
    source.close()


# --- who else is there -----------------------------------------------------


def test_a_foreign_consumer_that_subscribes_with_our_group_takes_nothing_away(
    real_kafka: RealKafka, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It joins the group, is given both partitions, reads and commits: we read all, and restart as we were.

    Our commits for lag tools are refused meanwhile, which is told once.
    """
    fill(real_kafka.address, topic, 0, 10)
    source = source_of(real_kafka.address, topic, group_id=topic)
    foreign = Consumer(
        {
            "bootstrap.servers": real_kafka.address,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    foreign.subscribe([topic])
    theirs = 0
    end = time.monotonic() + 30
    while theirs < 10:
        assert time.monotonic() < end, f"the foreign consumer has {theirs}"
        message = foreign.poll(0.2)
        theirs += message is not None and message.error() is None
    foreign.commit(asynchronous=False)
    assert users_of(read_count(source, 10)) == [f"u{n}" for n in range(10)]
    with caplog.at_level(logging.WARNING, "driftgraph.kafka"):
        for _ in range(3):
            source.commit({f"{topic}[0]": 4})
            read_until_quiet(source)
    told = [r.getMessage() for r in caplog.records if "lag tools" in r.getMessage()]
    assert len(told) == 1, told
    fill(real_kafka.address, topic, 10, 20)
    assert users_of(read_count(source, 10)) == [f"u{n}" for n in range(10, 20)]
    source.close()
    again = source_of(
        real_kafka.address, topic, group_id=topic, position={f"{topic}[0]": 4, f"{topic}[1]": 0}
    )
    assert users_of(read_count(again, 16)) == [f"u{n}" for n in range(4, 20)], "their commit at 10 moved us"
    again.close()
    foreign.close()


def read_until_quiet(source: KafkaSource) -> None:
    """Half a second of polls, so that answers to commits are served."""
    end = time.monotonic() + 0.5
    read_until(source, lambda _: time.monotonic() > end)


def test_an_open_transaction_is_no_lag_and_does_not_keep_us_from_the_end(
    real_kafka: RealKafka, topic: str
) -> None:
    """The lag is to the last stable offset: nobody can read further. Its events come once it commits."""
    fill(real_kafka.address, topic, 0, 2)
    producer = Producer({"bootstrap.servers": real_kafka.address, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, event("open"), partition=0)
    producer.flush(30)
    source = source_of(real_kafka.address, topic)
    parts = read_until(source, lambda _: source.caught_up)
    assert users_of(parts) == ["u0", "u1"]
    read_until(source, lambda _: source._signals.ends_before.get(f"{topic}[0]") == 2)
    assert source.lag() == {f"{topic}[0]": 0, f"{topic}[1]": 0}
    assert set(source.behind) == set()
    producer.commit_transaction(30)
    assert users_of(read_count(source, 1)) == ["open"]
    source.close()


# --- brokers and topics that go -----------------------------------------------------


def test_a_broker_killed_while_events_are_produced_loses_nothing_and_repeats_nothing(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, topic: str, tmp_path: Path
) -> None:
    """kill -9 in the middle of a stream of numbered events, then a restart on the same data.

    The ledger is what the broker acknowledged to an idempotent producer: each of it was read once, no id
    twice, and the position is the end of both partitions. Event time stands still while nobody answers.
    """
    ledger: set[str] = set()
    stop = threading.Event()

    def acknowledged(name: str, error: object, _: object) -> None:
        if error is None:
            ledger.add(name)

    def keep_producing() -> None:
        producer = Producer(
            {"bootstrap.servers": real_kafka.address, "enable.idempotence": True, "log_level": 0}
        )
        number = 0
        while not stop.is_set():
            name = f"e{number}"
            value = event(f"u{number % 50}", f"i{number % 90}", time_ms=SystemClock().now_ms())
            producer.produce(
                topic,
                value.replace(b"{", b'{"event_id":"%s",' % name.encode(), 1),
                partition=number % 2,
                on_delivery=partial(acknowledged, name),
            )
            producer.poll(0.002)
            number += 1
        assert producer.flush(60) == 0

    thread = threading.Thread(target=keep_producing)
    with RunningUpdater(
        configured(tmp_path, kafka=real_kafka.address, topic=topic, redis=redis_server.url)
    ) as updater:
        updater.wait_for("it runs", lambda s: s["state"] == "running")
        thread.start()
        updater.wait_for("events flow", lambda s: s["events"]["applied"] > 200 and s["watermark_ms"])
        real_kafka.kill()
        try:
            updater.wait_for("it knows", lambda s: s["kafka_away"])
            stood = updater.status()
            time.sleep(4)  # four times the idle timeout of this configuration
            status = updater.status()
            assert status["kafka_away"]
            assert status["time_ms"] >= stood["time_ms"] + 2_000, "the loop goes on"
            assert status["watermark_ms"] == stood["watermark_ms"], "an outage is not silence"
            assert status["window"] == stood["window"]
        finally:
            real_kafka.start()
        updater.wait_for(
            "events flow again", lambda s: s["events"]["applied"] > stood["events"]["applied"] + 200
        )
        stop.set()
        thread.join(90)
        updater.wait_for("all is applied", lambda s: s["events"]["read"] >= len(ledger), 90)
        time.sleep(1.5)
        events, position = updater.status()["events"], updater.status()["position"]
    assert len(ledger) > 400
    assert (events["read"], events["applied"]) == (len(ledger), len(ledger))
    assert (events["duplicate"], events["late"], events["rejected"]) == (0, 0, 0)
    assert sum(position.values()) == len(ledger)


def test_a_topic_that_is_deleted_under_us_is_one_sentence(real_kafka: RealKafka, topic: str) -> None:
    fill(real_kafka.address, topic, 0, 3)
    client = {"topic.metadata.propagation.max.ms": 1_000}  # by default a topic may be away for 30 s
    source = source_of(real_kafka.address, topic, new_partitions_every_s=0.5, client=client)
    read_count(source, 3)
    admin = AdminClient({"bootstrap.servers": real_kafka.address})
    [gone] = admin.delete_topics([topic]).values()
    gone.result(30)
    with pytest.raises(SourceError, match=f"the topic '{topic}' is gone; create it again"):
        read_until(source, lambda _: False)
    source.close()
