"""Whatever Redis does wrong, ``driftgraph run`` reads on, takes no more memory, and serves the newest then.

Events come all the time, so that a fit is due and users are to be refreshed in each fault, which lasts longer
than the lease. test_redis_forgets.py and test_faults_seen.py look closer at some of them.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import redis as redis_py
from confluent_kafka import Producer
from redis.exceptions import MovedError

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.saved_model import SavedModel
from driftgraph.app.console.status_files import told
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.snapshots.generations.lease import TTL_S
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import event
from tests.redis_topologies import cluster_ports, port_of
from tests.services.conftest import RealKafka
from tests.services.redis_door import Door
from tests.services.test_faults_seen import stopped
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, configured, model_served, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

EVENTS_A_SECOND = 300  # so that a fit is due every ten seconds
FAULT_S = TTL_S + 2.0
ENDED_WITHIN_S = 120.0  # some seconds on a machine that is not busy; the log has them
UPDATER_MB, WORKER_MB = 32, 96  # by which the memory of a process may grow in a fault; a fit takes some


class Shop(threading.Thread):
    """Produces clicks by taste all the time; ``count`` are acknowledged."""

    def __init__(self, address: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": address, "log_level": 0})
        self._is_over = threading.Event()

    def run(self) -> None:
        rng = np.random.default_rng(0)
        while not self._is_over.wait(0.1):
            for user in rng.integers(0, 300, EVENTS_A_SECOND // 10).tolist():
                self.click(f"u{user}", f"i{int(rng.integers(0, 20)) * 2 + user % 2}")
            self._producer.poll(0)

    def click(self, user: str, item: str) -> int:
        """A click of now; its time."""
        now_ms = SystemClock().now_ms()
        value = event(user, item, time_ms=now_ms)
        self._producer.produce(self._topic, value, key=user, timestamp=now_ms, on_delivery=self._acknowledged)
        return now_ms

    def end(self) -> None:
        self._is_over.set()
        self.join()
        self._producer.flush(30)

    def _acknowledged(self, error: Any, _: Any) -> None:
        assert error is None, error
        self.count += 1


@dataclass
class World:
    """What runs, the Redis behind the door, and the events that come."""

    updater: RunningUpdater
    redis: EmbeddedRedis
    client: redis_py.Redis  # of the Redis itself
    door: Door
    shop: Shop
    folder: Path

    def consumed(self) -> int:
        return int(self.updater.status()["events"]["read"])

    def worker(self) -> dict[str, Any]:
        found = told(self.folder / "var", "worker")
        assert found is not None
        return dict(found)

    def says(self) -> str:
        """What the status says that is in the worker's way."""
        worker = self.worker()
        return f"{worker['trouble']}; {(worker['refresh'] or {}).get('trouble')}"

    def knows(self, user: str, at_ms: int) -> bool:
        """Whether what is served has an event of a user."""
        found = EmbeddingReader(self.client, namespace="shop").recommend(user, 1)
        return (found.event_ms or 0) >= at_ms

    def serves_what_was_accepted(self) -> bool:
        """Whether Redis has the newest model that the gate has accepted."""
        number = EmbeddingReader(self.client, namespace="shop").current()
        version = self.client.hget(Keys("shop").of(number, "manifest"), "model_version")
        saved, _ = checkpoint.latest(self.folder / "var" / "trainer", is_ours=False)
        return saved is not None and int(version or 0) == SavedModel.of(saved).model_version

    def memory_mb(self) -> dict[str, float]:
        """What each process has for itself, without mapped files."""
        pids = {"updater": self.updater.process.pid, "worker": self.updater.status()["worker"]["pid"]}
        return {who: private_mb(pid) for who, pid in pids.items()}


def private_mb(pid: int) -> float:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1_024


@pytest.fixture(scope="module")
def world(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    topic, folder = f"wrong-{uuid4().hex[:8]}", tmp_path_factory.mktemp("wrong")
    make_topic(real_kafka.address, topic, 2)
    with (
        EmbeddedRedis(settings=["--enable-debug-command", "yes"]) as server,
        Door(port_of(server)) as door,
        contextlib.closing(connect(server.url)) as client,
    ):
        config = configured(
            folder, kafka=real_kafka.address, topic=topic, redis=f"redis://127.0.0.1:{door.port}/0"
        )
        shop = Shop(real_kafka.address, topic)
        shop.start()
        try:
            with RunningUpdater(config) as updater:
                found = World(updater, server, client, door, shop, folder)
                until("the model is served", lambda: updater.status() and model_served(client), 300)
                before = model_served(client)
                until("and the next one", lambda: model_served(client) > before, 120)
                yield found
        finally:
            shop.end()


# --- what Redis does wrong: each begins a fault, and ends it -------------------------------------------


@contextlib.contextmanager
def refuses(world: World) -> Iterator[None]:
    world.door.close()
    yield
    world.door.open()


@contextlib.contextmanager
def hangs(world: World) -> Iterator[None]:
    with stopped(int(world.client.info("server")["process_id"])):
        yield


@contextlib.contextmanager
def is_full(world: World) -> Iterator[None]:
    world.client.config_set("maxmemory", 1)
    yield
    world.client.config_set("maxmemory", 0)


@contextlib.contextmanager
def is_a_replica(world: World) -> Iterator[None]:
    """Of a primary that is away, so that it keeps its data."""
    world.client.execute_command("REPLICAOF", "127.0.0.1", 1)  # type: ignore[no-untyped-call]
    yield
    world.client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def loads(world: World) -> Iterator[None]:
    """It reads its dump, with a pause at each key."""
    pause_us = int(1_000_000 * (FAULT_S + 3) / world.client.dbsize())
    world.client.config_set("key-load-delay", pause_us)
    world.client.config_set("loading-process-events-interval-bytes", 1_024)
    with (
        contextlib.closing(connect(world.redis.url, call_timeout_s=60, retries=0)) as waiting,
        ThreadPoolExecutor() as threads,
    ):
        loaded = threads.submit(waiting.execute_command, "DEBUG", "RELOAD")
        yield
        assert loaded.result()


@contextlib.contextmanager
def is_of_a_cluster(world: World) -> Iterator[None]:
    """The address is that of a node of a Cluster, and the node has none of our slots."""
    with cluster_ports() as ports:
        [other, *_] = [port for port in ports if not owns(port, "shop:emb:current")]
        world.door.lead_to(other)
        yield
        world.door.lead_to(port_of(world.redis))


def owns(port: int, key: str) -> bool:
    with contextlib.closing(redis_py.Redis(port=port)) as client:
        try:
            client.get(key)
        except MovedError:
            return False
        return True


@contextlib.contextmanager
def forgets(world: World) -> Iterator[None]:
    """Everything, and once more at the end."""
    world.client.flushall()
    yield
    world.client.flushall()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refuses, "Connection (refused|closed)"),
        (hangs, "Timeout"),
        (is_full, "is at its maxmemory"),
        (is_a_replica, "is a replica and takes no writes; set redis.url to the primary"),
        (loads, "it still loads its data"),
        (is_of_a_cluster, r"is a node of a Cluster.*redis\+cluster://"),
        (forgets, None),
    ],
)
def test_ingestion_goes_on_and_the_newest_is_served_afterwards(
    world: World, fault: Callable[[World], contextlib.AbstractContextManager[None]], said: str | None
) -> None:
    until("the newest model is served", world.serves_what_was_accepted, ENDED_WITHIN_S)
    starts, before_mb = world.updater.status()["worker"]["starts"], world.memory_mb()
    produced, consumed, began_s, lag_max = world.shop.count, world.consumed(), time.monotonic(), 0
    user = fault.__name__
    with fault(world):
        while time.monotonic() < began_s + FAULT_S / 2:
            lag_max = max(lag_max, world.shop.count - world.consumed())
            time.sleep(0.2)
        at_ms = world.shop.click(user, "i1")
        if said is not None:
            until(f"the status says {said}: {world.says()}", lambda: re.search(said, world.says()))
        while time.monotonic() < began_s + FAULT_S:
            lag_max = max(lag_max, world.shop.count - world.consumed())
            time.sleep(0.2)
        came = world.shop.count
        until("all that came is read, in the fault", lambda: world.consumed() >= came, 30)
        lasted_s, grown_mb = time.monotonic() - began_s, world.memory_mb()
        rates = [(n / lasted_s) for n in (came - produced, world.consumed() - consumed)]
        ended_s = time.monotonic()
    freed_s = time.monotonic()
    until("it knows what came in the fault", lambda: world.knows(user, at_ms), ENDED_WITHIN_S)
    known_s = time.monotonic()
    until("the newest model is served", world.serves_what_was_accepted, ENDED_WITHIN_S)
    newest_s = time.monotonic()
    until(f"nothing is in the way: {world.says()}", lambda: world.says() == "None; None", ENDED_WITHIN_S)
    grown_mb = {who: grown_mb[who] - before_mb[who] for who in before_mb}
    print(
        f"{user}: {lasted_s:.1f} s ({freed_s - ended_s:.1f} s to end it), {rates[0]:.0f} events/s came, "
        f"{rates[1]:.0f} read, lag {lag_max} at most; "
        f"memory {', '.join(f'{who} {mb:+.1f} MB' for who, mb in grown_mb.items())}; afterwards what came "
        f"meanwhile after {known_s - freed_s:.1f} s, the newest model after {newest_s - freed_s:.1f} s"
    )
    assert grown_mb["updater"] < UPDATER_MB
    assert grown_mb["worker"] < WORKER_MB
    assert world.updater.status()["worker"]["starts"] == starts
