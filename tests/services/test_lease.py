"""Two updaters of one name, on a real Kafka and a real Redis: one works, the other stands by.

What was produced is the ledger; the window of the one that works has to hold it, each event once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.heterograph import HeterographView
from tests.kafka_brokers import event, produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import TASTED, RunningUpdater, configured, model_served, two_tastes, until

pytestmark = pytest.mark.services

TAKEN_OVER_WITHIN_S = 90.0  # nine seconds of a lease, and a start
ENDS_WITHIN_S = 25.0  # whoever stops it for good waits 30 s


@dataclass
class World:
    """A topic and what was put on it, a Redis, and folders for updaters."""

    kafka: RealKafka
    topic: str
    redis_url: str
    client: redis_py.Redis
    folder: Path
    ledger: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def act(self, count: int) -> int:
        """Produce clicks of now, each later than all before; the time of the last."""
        newest_ms = max((time_ms for _, _, time_ms in self.ledger), default=0)
        clicks = two_tastes(count, max(SystemClock().now_ms(), newest_ms + count))
        records = [{"value": event(u, i, time_ms=t), "key": u} for u, i, t in clicks]
        produce(self.kafka.address, self.topic, records)
        self.ledger.update(clicks)
        return clicks[-1][2]

    def config(self, name: str, data_of: str | None = None, every: str = "1s") -> Path:
        """A configuration in a folder of its own, with its own data_dir or that of another."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        path = configured(folder, kafka=self.kafka.address, topic=self.topic, redis=self.redis_url)
        text = path.read_text(encoding="utf-8") + f'[checkpoint]\nevery = "{every}"\n'
        if data_of is not None:
            text = text.replace(f'"{folder / "var"}"', f'"{self.folder / data_of / "var"}"')
        path.write_text(text, encoding="utf-8")
        return path

    def window(self, name: str) -> Counter[tuple[str, str, int]]:
        """What the window of a data_dir holds."""
        graph = HeterographView.attach(self.folder / name / "var/window")
        moment, found = graph.moment(), Counter[tuple[str, str, int]]()
        for r in range(len(graph.window.relations)):
            events = graph.arrivals(r, moment.cut.first[r], moment.cut.next[r], moment)
            users, items = events.users.to_list(), events.items.to_list()
            rows = zip(events.user, events.item, events.time_ms.tolist(), strict=True)
            found.update((users[u], items[i], t) for u, i, t in rows)
        return found

    def told(self, name: str, state: str) -> dict[str, Any]:
        """A status file as it is, whoever wrote it; empty if there is none."""
        with contextlib.suppress(FileNotFoundError):
            path = self.folder / name / f"var/status/{state}.json"
            found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
            return found
        return {}

    def holds_the_ledger(self, name: str, updater: RunningUpdater, timeout_s: float = 90.0) -> None:
        updater.wait_for("it has read all", lambda _: self.window(name) == self.ledger, timeout_s)


@pytest.fixture
def world(real_kafka: RealKafka, tmp_path: Path) -> Iterator[World]:
    topic = f"lease-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 2)
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        found = World(real_kafka, topic, server.url, client, tmp_path)
        found.act(TASTED)
        yield found


def works(updater: RunningUpdater, timeout_s: float = 90.0) -> None:
    updater.wait_for("it works", lambda s: s["state"] == "running" and s["lease"]["held"], timeout_s)


def waits(updater: RunningUpdater, why: str) -> None:
    until(f"it waits: {updater.output()}", lambda: why in updater.output(), 60)


def has_ended(updater: RunningUpdater, timeout_s: float = 30.0) -> int:
    return updater.process.wait(timeout_s)


def test_the_second_waits_says_so_and_goes_on_after_a_kill(world: World) -> None:
    """Own data_dirs. The ledger is in the window of the second, the events that nobody applied too."""
    with RunningUpdater(world.config("one")) as first:
        works(first)
        until("the first publishes", EmbeddingReader(world.client, namespace="shop").current, 90)
        with RunningUpdater(world.config("two")) as second:
            waits(second, f"the updater with pid {first.process.pid} on ")
            assert f"has the lease of '{world.topic}'" in second.output()
            assert world.told("two", "standby")["pid"] == second.process.pid
            assert world.told("two", "updater") == {}
            world.act(100)
            world.holds_the_ledger("one", first)
            first.process.kill()
            has_ended(first)
            world.act(50)
            works(second, TAKEN_OVER_WITHIN_S)
            world.holds_the_ledger("two", second)
            assert world.told("two", "standby") == {}


def test_a_second_on_the_same_folder_waits_and_goes_on_where_the_first_was(world: World) -> None:
    """It leaves the status of the first alone, and after a kill it does not wait for the lease."""
    with RunningUpdater(world.config("one")) as first:
        works(first)
        first.wait_for("it has a checkpoint", lambda s: s["checkpoint"]["number"] > 0)
        with RunningUpdater(world.config("two", data_of="one")) as second:
            waits(second, f"is in use by the updater with pid {first.process.pid}")
            assert world.told("one", "updater")["pid"] == first.process.pid
            assert world.told("one", "standby")["pid"] == second.process.pid
            world.act(100)
            world.holds_the_ledger("one", first)
            first.process.kill()
            has_ended(first)
            is_its = lambda: world.told("one", "updater").get("pid") == second.process.pid  # noqa: E731
            until(f"it takes over: {second.output()}", is_its, TAKEN_OVER_WITHIN_S)
            assert "has the lease of" not in second.output(), "its own lock had answered that"
            world.act(50)
            until("all is there once", lambda: world.window("one") == world.ledger)
            assert "goes on from checkpoint" in second.output()


def test_a_first_that_stood_still_neither_commits_nor_publishes(world: World) -> None:
    """It and its worker are stopped until the second has published; then both come back and end."""
    reader = EmbeddingReader(world.client, namespace="shop")
    configs = [world.config(name, every="4s") for name in ("one", "two")]
    with RunningUpdater(configs[0]) as first, RunningUpdater(configs[1]) as second:
        one, two = (first, second) if until("one works", lambda: _leader(world)) == "one" else (second, first)
        names = ("one", "two") if one is first else ("two", "one")
        works(one)
        published = until("it publishes", lambda: model_served(world.client), 90)
        pids = [one.process.pid, one.status()["worker"]["pid"]]
        number = one.status()["checkpoint"]["number"]
        one.wait_for("the next is seconds away", lambda s: s["checkpoint"]["number"] > number)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        stopped = world.told(names[0], "updater")
        world.act(60)
        works(two, TAKEN_OVER_WITHIN_S)
        until("the second publishes", lambda: reader.current() > published, 90)
        epoch, served = read_epoch(world.client, "shop"), reader.current()
        checkpoints = sorted(os.listdir(world.folder / names[0] / "var/checkpoints"))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert has_ended(one) == 1
        assert f"the updater with pid {two.process.pid} on " in one.output().splitlines()[-1]
        assert "waits as a standby when it is started again" in one.output().splitlines()[-1]
        assert (read_epoch(world.client, "shop"), reader.current()) == (epoch, served)
        assert sorted(os.listdir(world.folder / names[0] / "var/checkpoints")) == checkpoints
        now = world.told(names[0], "updater")["checkpoint"]
        assert {**now, "age_ms": 0} == {**stopped["checkpoint"], "age_ms": 0}
        until("its worker has ended", lambda: not os.path.exists(f"/proc/{pids[1]}"))
        at_ms = world.act(10)
        user = max(world.ledger, key=lambda click: click[2])[0]
        until("the second serves", lambda: reader.recommend(user, 1).event_ms == at_ms)
        works(two)
        world.holds_the_ledger(names[1], two)


def _leader(world: World) -> str | None:
    return next((n for n in ("one", "two") if world.told(n, "updater")), None)


def test_a_clean_stop_hands_over_at_once_and_a_standby_ends_at_once(world: World) -> None:
    with RunningUpdater(world.config("one")) as first:
        works(first)
        with RunningUpdater(world.config("two")) as second, RunningUpdater(world.config("three")) as third:
            for standby in (second, third):
                waits(standby, "has the lease of")
            status, seconds = third.terminate()
            assert (status, seconds < ENDS_WITHIN_S) == (0, True), third.output()
            assert world.told("three", "standby") == {}
            status, seconds = first.terminate()
            assert (status, seconds < ENDS_WITHIN_S) == (0, True), first.output()
            holder = world.client.hget(Keys("shop").lease, "pid")
            assert holder != str(first.process.pid).encode(), "it kept its lease"
            works(second)
            world.holds_the_ledger("two", second)


def test_a_redis_that_restarts_empty_leaves_the_holder_the_holder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away, nothing is committed and events go on; back and empty, the first is served before the second."""
    port = free_port()
    monkeypatch.setattr("driftgraph.app.commands.embedded.free_port", lambda: port)
    server = EmbeddedRedis()
    world.redis_url = server.url
    try:
        with RunningUpdater(world.config("one")) as first:
            works(first)
            with RunningUpdater(world.config("two")) as second:
                waits(second, "has the lease of")
                server.stop()
                first.wait_for("it is not sure any more", lambda s: not s["lease"]["held"])
                number = first.status()["checkpoint"]["number"]
                world.act(100)
                world.holds_the_ledger("one", first)
                time.sleep(2.5)  # checkpoints are due each second
                assert first.status()["checkpoint"]["number"] == number
                server = EmbeddedRedis()
                works(first)
                first.wait_for("it commits again", lambda s: s["checkpoint"]["number"] > number)
                until("the second waits again", lambda: second.output().count("has the lease of") >= 2)
                time.sleep(10)  # longer than a lease
                assert second.process.poll() is None
                assert world.told("two", "updater") == {}
                works(first)
    finally:
        server.stop()


def test_without_redis_it_waits_says_so_and_ends_at_once(world: World) -> None:
    world.redis_url = f"redis://127.0.0.1:{free_port()}/0"
    with RunningUpdater(world.config("one")) as alone:
        waits(alone, "waits for Redis, to know that it is the only updater")
        status, seconds = alone.terminate()
        assert (status, seconds < ENDS_WITHIN_S) == (0, True), alone.output()
        assert world.told("one", "updater") == {}
