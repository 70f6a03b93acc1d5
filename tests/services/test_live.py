"""The live system as processes: a real Kafka, a real Redis, ``driftgraph run``, and what may happen to it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.app.demo.shop import BEHAVIORS, Shop, ShopOptions, open_shop
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured, model_served, run_to_its_end, until

pytestmark = pytest.mark.services

DAY_MS = 86_400_000
SIGTERM_WITHIN_S = 25.0  # whoever stops it for good waits 30 s
OLD_COUNT = 40  # events of three weeks ago, beyond every span: a start does not read them


def recent_shop() -> Shop:
    """Four days of events that end some hours ago."""
    now_ms = SystemClock().now_ms()
    return open_shop(
        ShopOptions(
            user_count=80,
            item_count=120,
            category_count=6,
            event_count=3_000,
            start_ms=now_ms - 4 * DAY_MS - DAY_MS // 2,
            span_ms=4 * DAY_MS,
        )
    )


def fill(kafka: RealKafka, topic: str, shop: Shop) -> None:
    """A topic as it is after months: old events, then the shop's, stamped with their event times."""
    make_topic(kafka.address, topic, 2)
    old_ms = SystemClock().now_ms() - 21 * DAY_MS
    old = [
        {"value": event(f"old{n}", time_ms=old_ms + n), "partition": n % 2, "timestamp": old_ms + n}
        for n in range(OLD_COUNT)
    ]
    times = shop.time_ms.tolist()
    new = [
        {"value": value, "key": key, "partition": n % 2, "timestamp": time_ms}
        for n, ((key, value), time_ms) in enumerate(zip(shop.payloads(), times, strict=True))
    ]
    produce(kafka.address, topic, [*old, *new])


@dataclass
class Live:
    """A running updater and what stands around it."""

    updater: RunningUpdater
    kafka: RealKafka
    topic: str
    shop: Shop
    client: redis_py.Redis

    @property
    def reader(self) -> EmbeddingReader:
        return EmbeddingReader(self.client, namespace="shop")

    def act(self, user: str, item: str, count: int = 1) -> int:
        """Let a user click on an item now; the time of the last click."""
        first_ms = SystemClock().now_ms()
        times = range(first_ms, first_ms + count)
        produce(
            self.kafka.address,
            self.topic,
            [{"value": event(user, item, time_ms=t), "key": user} for t in times],
        )
        return times[-1]


@pytest.fixture(scope="module")
def live(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    topic, shop = f"live-{uuid4().hex[:8]}", recent_shop()
    fill(real_kafka, topic, shop)
    folder = tmp_path_factory.mktemp("live")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        updater = stack.enter_context(RunningUpdater(config))
        found = Live(updater, real_kafka, topic, shop, client)
        until("the model is served", lambda: updater.status() and model_served(client), 120)
        yield found


def test_a_start_fills_the_window_from_the_longest_span_ago_and_says_so(live: Live) -> None:
    count = len(live.shop)
    live.updater.wait_for("the window is full", lambda s: s["events"]["applied"] >= count)
    status = live.updater.status()
    assert status["events"]["read"] == status["events"]["applied"] == count, "the old ones were read too"
    assert status["window"] == {n: int((live.shop.behavior == b).sum()) for b, n in enumerate(BEHAVIORS)}
    assert status["state"] == "running"
    assert sum(status["lag"].values()) == 0
    assert f"filling the window: {count:,}/{count:,}" in live.updater.output()
    assert f"the window is full: {count:,} events applied" in live.updater.output()


def test_readers_are_served_from_the_published_generation(live: Live) -> None:
    user = live.shop.user_ids[int(live.shop.user[0])]
    found = live.reader.recommend(user, 10)
    assert (found.source, len(found.items)) == ("list", 10)
    [served] = [g for g in GenerationStore(live.client, namespace="shop", epoch=1).generations() if g.current]
    assert served.manifest["model_version"] == "1"
    assert int(served.manifest["users"]) == len(set(live.shop.user.tolist()))


def test_an_event_is_in_its_users_vector_without_another_fit(live: Live) -> None:
    user = live.shop.user_ids[int(live.shop.user[0])]
    generation = live.reader.current()
    vector = live.reader.users([user])[0]
    best = live.reader.recommend(user, 1).items[0][0]
    at_ms = live.act(user, best)
    until("the refresh is readable", lambda: live.reader.recommend(user, 1).event_ms == at_ms)
    assert live.reader.current() == generation
    assert (live.reader.users([user])[0] != vector).any()
    assert best not in [item for item, _ in live.reader.recommend(user, 100).items]
    live.act("newcomer", best)
    until("a new user has a vector", lambda: live.reader.recommend("newcomer", 1).source == "list")


def test_a_bad_message_costs_itself(live: Live) -> None:
    before = live.updater.status()["events"]
    produce(live.kafka.address, live.topic, [{"value": b"{"}, {"value": event("u1", behavior="stares")}])
    live.updater.wait_for("both are counted", lambda s: s["events"]["rejected"] == before["rejected"] + 2)
    assert live.updater.status()["reasons"] == {"bad_json": 1, "unknown_behavior": 1}
    at_ms = live.act("after-bad", live.shop.item_ids[0])
    until("the next is served", lambda: live.reader.recommend("after-bad", 1).event_ms == at_ms)


def test_a_broker_that_goes_away_stops_time_and_nothing_else(live: Live) -> None:
    """The window stays, the log says it once, and the next event after the outage is served."""
    now_ms = SystemClock().now_ms()
    live.updater.wait_for("a status of now", lambda s: s["time_ms"] > now_ms)
    window = live.updater.status()["window"]
    live.kafka.kill()
    try:
        live.updater.wait_for("the updater knows", lambda s: s["kafka_away"])
        assert live.updater.status()["window"] == window
    finally:
        live.kafka.start()
    at_ms = live.act("after-outage", live.shop.item_ids[0])
    until("it is served", lambda: live.reader.recommend("after-outage", 1).event_ms == at_ms)
    live.updater.wait_for("it says that Kafka is back", lambda s: not s["kafka_away"])
    output = live.updater.output()
    assert (output.count("Kafka is away"), output.count("Kafka is back")) == (1, 1)
    assert "rdkafka" not in output


def test_a_killed_worker_is_started_again_while_ingestion_goes_on(live: Live) -> None:
    """It goes on with the generation that it had, knows the events that came meanwhile, and both can end."""
    generation = live.reader.current()
    before = live.updater.status()
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    at_ms = live.act("meanwhile", live.shop.item_ids[0], count=50)
    live.updater.wait_for(
        "events are applied without a worker",
        lambda s: s["events"]["applied"] >= before["events"]["applied"] + 50,
    )
    live.updater.wait_for(
        "it is started again", lambda s: s["worker"]["starts"] == before["worker"]["starts"] + 1
    )
    until("it refreshes", lambda: live.reader.recommend("meanwhile", 1).event_ms == at_ms, 90)
    assert live.reader.current() == generation, "the same model is not published again"
    [served] = [g for g in GenerationStore(live.client, namespace="shop", epoch=9).generations() if g.current]
    assert served.manifest["model_version"] == "1"
    why = "ended by signal 9 (SIGKILL); is memory short?"
    assert f"the worker failed: {why}; it is started again" in live.updater.output()


def test_sigterm_ends_it_in_time_also_after_a_worker_was_killed(live: Live) -> None:
    """The last test of this updater. The worker dies as it waits, and the stop must not wait for the dead."""
    pid = live.updater.status()["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    status, seconds = live.updater.terminate()
    assert (status, seconds < SIGTERM_WITHIN_S) == (0, True), live.updater.output()


def test_redis_may_come_later_and_a_restart_goes_on(
    real_kafka: RealKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start waits for Redis, since it cannot know that it is alone. Then a clean restart:
    the topic is read anew, the rows have other numbers, and the model goes on where it was."""
    topic, shop, port = f"live-{uuid4().hex[:8]}", recent_shop(), free_port()
    fill(real_kafka, topic, shop)
    config = configured(tmp_path, kafka=real_kafka.address, topic=topic, redis=f"redis://127.0.0.1:{port}/0")
    user = shop.user_ids[int(shop.user[0])]
    with contextlib.closing(connect(f"redis://127.0.0.1:{port}/0")) as client:
        reader = EmbeddingReader(client, namespace="shop")
        with RunningUpdater(config) as updater:
            until("it misses Redis", lambda: f"Redis at 127.0.0.1:{port} did not answer" in updater.output())
            assert updater.status() == {}
            monkeypatch.setattr("driftgraph.app.commands.embedded.free_port", lambda: port)
            with EmbeddedRedis():
                updater.wait_for("all is applied", lambda s: s["events"]["applied"] == len(shop), 180)
                output = updater.output()
                assert (output.count("did not answer"), output.count("Redis is there")) == (1, 1), output
                number = until("the model is served", lambda: model_served(client), 120)
                vector = reader.users([user])[0]
                assert updater.status()["worker"]["starts"] == 1
                status, seconds = updater.terminate()
                assert (status, seconds < SIGTERM_WITHIN_S) == (0, True), updater.output()
                with RunningUpdater(config) as again:
                    until("it goes on", lambda: f"serves generation {number}" in again.output())
                    assert model_served(client) == number, "the same model is not published again"
                    [served] = [
                        g
                        for g in GenerationStore(client, namespace="shop", epoch=9).generations()
                        if g.current
                    ]
                    assert served.manifest["model_version"] == "1"
                    assert abs(reader.users([user])[0] - vector).max() < 1e-4
                    assert again.terminate()[0] == 0


def test_a_start_waits_for_kafka_with_one_line_and_says_when_it_is_there(
    kafka_program: Path, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Also where dead letters go to a topic, which a start makes."""
    broker, topic = RealKafka(kafka_program, tmp_path / "kafka"), f"live-{uuid4().hex[:8]}"
    try:
        make_topic(broker.address, topic, 2)
        produce(broker.address, topic, [{"value": event("u1", time_ms=SystemClock().now_ms())}])
        broker.kill()
        config = configured(
            tmp_path, kafka=broker.address, topic=topic, redis=redis_server.url, namespace=topic
        )
        text = config.read_text(encoding="utf-8") + '[dead_letters]\nto = "kafka"\n'
        config.write_text(text, encoding="utf-8")
        told = tmp_path / "var/status/standby.json"
        with RunningUpdater(config) as updater:
            until(f"it waits: {updater.output()}", told.exists)
            why = msgspec.json.decode(told.read_bytes())["why"]
            assert why.startswith(f"waits for Kafka: cannot reach Kafka at {broker.address}")
            assert "Connection refused" in why
            broker.start()
            updater.wait_for("all is applied", lambda s: s["events"]["applied"] == 1)
            output = updater.output()
            assert (output.count("waits for Kafka"), output.count("Kafka is there")) == (1, 1), output
            assert "rdkafka" not in output
            assert not told.exists()
            assert updater.terminate()[0] == 0
    finally:
        broker.stop()


def test_a_start_that_waits_for_kafka_ends_when_told(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    config = configured(
        tmp_path, kafka=f"127.0.0.1:{free_port()}", topic="t", redis=redis_server.url, namespace="waits"
    )
    with RunningUpdater(config) as updater:
        until("it waits", (tmp_path / "var/status/standby.json").exists)
        status, seconds = updater.terminate()
        assert (status, seconds < SIGTERM_WITHIN_S) == (0, True), updater.output()
        output = updater.output()
        assert (output.count("waits for Kafka"), output.count("Traceback")) == (1, 0), output
    assert not (tmp_path / "var/status/standby.json").exists()


def test_the_first_start_finds_events_whose_records_are_older_than_they_are(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """A span of 10 days: the clock of the event was ahead of the record's by up to lateness and skew."""
    topic, now_ms = f"live-{uuid4().hex[:8]}", SystemClock().now_ms()
    start_ms, hour_ms = now_ms - 10 * DAY_MS, 3_600_000
    make_topic(real_kafka.address, topic, 1)
    times = {
        "too-old": (start_ms - 3 * hour_ms, start_ms - 2 * hour_ms),
        "ahead": (start_ms - hour_ms, start_ms + hour_ms),
        "usual": (start_ms + 2 * hour_ms, start_ms + 2 * hour_ms),
    }
    produce(
        real_kafka.address,
        topic,
        [{"value": event(u, time_ms=own), "timestamp": record} for u, (record, own) in times.items()],
    )
    config = configured(
        tmp_path, kafka=real_kafka.address, topic=topic, redis=redis_server.url, namespace=topic
    )
    with RunningUpdater(config) as updater:
        updater.wait_for("the window is full", lambda s: s["state"] == "running")
        status = updater.status()
        assert (status["events"]["read"], status["window"]["click"]) == (2, 2)


def test_a_missing_topic_is_one_sentence(
    real_kafka: RealKafka, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    config = configured(tmp_path, kafka=real_kafka.address, topic="never-made", redis=redis_server.url)
    failed = run_to_its_end(config)
    assert failed.returncode == 1
    start, *_, line = failed.stderr.strip().splitlines()
    assert "follows topic never-made and publishes to " in start
    assert "has no topic 'never-made'" in line
