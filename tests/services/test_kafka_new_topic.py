"""A topic that was deleted and made anew: the old offsets say nothing about it, and it is told."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.kafka import topic_ids
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.topic_ids import TopicIds
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce, read_count, read_until, source_of
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured, run_to_its_end

pytestmark = pytest.mark.services


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    name = f"events-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, name)
    return name


def users_of(parts: list[Decoded]) -> list[str]:
    return [user for part in parts for user in part.batch.user.to_list()]


def fill(address: str, topic: str, prefix: str, count: int, time_ms: int | None = None) -> None:
    """prefix0, prefix1, … on partition 0."""
    more: dict[str, Any] = {} if time_ms is None else {"time_ms": time_ms}
    produce(address, topic, [{"value": event(f"{prefix}{n}", **more), "partition": 0} for n in range(count)])


def make_anew(address: str, topic: str, partitions: int = 2) -> None:
    """Delete it, and make one of the same name as soon as the brokers allow it."""
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic])[topic].result(30)
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end
        try:
            return make_topic(address, topic, partitions)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def stopped_at_100(address: str, topic: str) -> tuple[dict[str, int], dict[str, str]]:
    """The position and the ids of a checkpoint after 100 events."""
    fill(address, topic, "old", 100)
    source = source_of(address, topic)
    read_until(source, lambda parts: len(users_of(parts)) == 100 and bool(source.topic_ids))
    source.close()
    return dict(source.position()), dict(source.topic_ids)


@pytest.mark.parametrize("count", [150, 100, 20])
@pytest.mark.parametrize("policy", ["fail", "earliest", "latest"])
def test_a_start_on_a_topic_that_was_made_anew_follows_the_policy(
    real_kafka: RealKafka, topic: str, policy: str, count: int
) -> None:
    """However many events it has: more than the position, as many, or fewer."""
    position, ids = stopped_at_100(real_kafka.address, topic)
    make_anew(real_kafka.address, topic)
    fill(real_kafka.address, topic, "new", count)

    def start() -> KafkaSource:
        return source_of(real_kafka.address, topic, position=position, topic_ids=ids, out_of_range=policy)

    if policy == "fail":
        with pytest.raises(SourceError, match=f"cannot go on reading {topic}: .* was made anew") as told:
            start()
        assert ids[topic] in str(told.value)
        assert "kafka.out_of_range" in str(told.value)
        return
    source = start()
    assert source.topic_ids[topic] != ids[topic]
    fill(real_kafka.address, topic, "later", 1)
    seen = users_of(read_until(source, lambda parts: "later0" in users_of(parts)))
    assert seen == [*(f"new{n}" for n in range(count if policy == "earliest" else 0)), "later0"]
    assert source.lost == ({} if policy == "earliest" else {f"{topic}[0]": count})
    position, ids = dict(source.position()), dict(source.topic_ids)
    source.close()
    again = start()
    fill(real_kafka.address, topic, "last", 1)
    assert users_of(read_count(again, 1)) == ["last0"], "the new one is the known one now"
    again.close()


def test_a_topic_made_anew_under_a_running_source_ends_it(real_kafka: RealKafka, topic: str) -> None:
    fill(real_kafka.address, topic, "old", 100)
    source = source_of(real_kafka.address, topic)
    read_until(source, lambda parts: len(users_of(parts)) == 100 and bool(source.topic_ids))
    make_anew(real_kafka.address, topic)
    fill(real_kafka.address, topic, "new", 150)
    with pytest.raises(SourceError, match=r"was made anew|is gone"):
        read_until(source, lambda _: False)
    source.close()


@pytest.mark.parametrize("count", [150, 20])
@pytest.mark.parametrize("partitions", [2, 1, 3])
def test_a_running_source_goes_on_in_the_new_topic_if_it_may(
    real_kafka: RealKafka, topic: str, count: int, partitions: int
) -> None:
    """Every event of the new one comes, also those before the old position; of fewer, none comes twice."""
    fill(real_kafka.address, topic, "old", 100)
    source = source_of(real_kafka.address, topic, out_of_range="earliest", new_partitions_every_s=0.5)
    read_until(source, lambda parts: len(users_of(parts)) == 100 and bool(source.topic_ids))
    before = source.topic_ids[topic]
    make_anew(real_kafka.address, topic, partitions)
    fill(real_kafka.address, topic, "new", count)
    wanted = [f"new{n}" for n in range(count)]
    seen = users_of(
        read_until(
            source,
            lambda parts: set(users_of(parts)) >= set(wanted) and source.topic_ids[topic] != before,
            60,
        )
    )
    assert seen[-count:] == wanted
    if count == 20:
        assert len(seen) == 20
    assert source.partitions == tuple(range(partitions))
    assert source.position()[f"{topic}[0]"] == count
    fill(real_kafka.address, topic, "later", 1)
    assert users_of(read_count(source, 1)) == ["later0"]
    source.close()


def test_fewer_partitions_show_a_new_topic_where_no_id_is_known(real_kafka: RealKafka, topic: str) -> None:
    """A checkpoint from before ids were kept, or a broker that has none."""
    fill(real_kafka.address, topic, "u", 3)
    position = {f"{topic}[{p}]": 1 for p in range(4)}
    with pytest.raises(SourceError, match=re.escape(f"it has no {topic}[2] any more")):
        source_of(real_kafka.address, topic, position=position)
    source = source_of(real_kafka.address, topic, position=position, out_of_range="earliest")
    assert users_of(read_count(source, 3)) == ["u0", "u1", "u2"]
    source.close()


def test_a_position_without_an_id_goes_on_and_learns_it(real_kafka: RealKafka, topic: str) -> None:
    position, ids = stopped_at_100(real_kafka.address, topic)
    fill(real_kafka.address, topic, "more", 5)
    source = source_of(real_kafka.address, topic, position=position)
    parts = read_until(source, lambda parts: len(users_of(parts)) == 5 and bool(source.topic_ids))
    assert users_of(parts) == [f"more{n}" for n in range(5)]
    assert source.topic_ids == ids
    source.close()


def test_another_cluster_with_a_topic_of_that_name_is_told(real_kafka: RealKafka, topic: str) -> None:
    fill(real_kafka.address, topic, "u", 10)
    ids = {topic: "xJ0wglNZT9qG6nJSiINgDA"}
    with pytest.raises(SourceError, match="or is of another cluster"):
        source_of(real_kafka.address, topic, position={f"{topic}[0]": 5}, topic_ids=ids)


def test_brokers_that_tell_no_id_change_nothing(
    real_kafka: RealKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Kafka 2.8 the id is 0; a broker that does not answer leaves what is known."""
    ids = TopicIds({"bootstrap.servers": "127.0.0.1:1"}, [topic], {topic: "known"})
    assert ids.changed_now(0.2) == {}
    assert ids.known == {topic: "known"}
    found = TopicIds({"bootstrap.servers": real_kafka.address}, [topic], {})
    assert found.changed_now(10) == {}
    monkeypatch.setattr(topic_ids, "NO_ID", found.known[topic])
    old = TopicIds({"bootstrap.servers": real_kafka.address}, [topic], {topic: "known"})
    assert old.changed_now(10) == {}
    assert old.known == {topic: "known"}
    for one in (ids, found, old):
        one.close()


def state_of(folder: Path) -> dict[str, Any]:
    newest = max((folder / "var/checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    found: dict[str, Any] = msgspec.json.decode((newest / "state.json").read_bytes())
    return found


def test_run_tells_a_new_topic_and_goes_on_in_it_when_it_may(
    real_kafka: RealKafka, topic: str, tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    """100 events read, the topic deleted and made anew, 150 produced: none of them is passed over."""
    now_ms = SystemClock().now_ms()
    config = configured(
        tmp_path, kafka=real_kafka.address, topic=topic, redis=redis_server.url, namespace=topic
    )
    fill(real_kafka.address, topic, "old", 100, now_ms)

    def applied(count: int) -> Callable[[dict[str, Any]], bool]:
        return lambda status: status["events"]["applied"] == count

    with RunningUpdater(config) as updater:
        updater.wait_for("all is applied", applied(100), 120)
        assert updater.terminate()[0] == 0
    before = state_of(tmp_path)["topic_ids"][topic]
    make_anew(real_kafka.address, topic)
    fill(real_kafka.address, topic, "new", 150, now_ms)
    failed = run_to_its_end(config)
    assert failed.returncode == 1
    assert f"cannot go on reading {topic}" in failed.stderr.splitlines()[-1]
    config.write_text(
        config.read_text(encoding="utf-8").replace("[kafka]", '[kafka]\nout_of_range = "earliest"'),
        encoding="utf-8",
    )
    with RunningUpdater(config) as updater:
        updater.wait_for("all of the new one is applied", applied(150), 120)
        status = updater.status()
        assert status["window"]["click"] == 250
        assert status["position"][f"{topic}[0]"] == 150
        assert "was made anew" in updater.output()
        assert updater.terminate()[0] == 0
    assert state_of(tmp_path)["topic_ids"][topic] != before
