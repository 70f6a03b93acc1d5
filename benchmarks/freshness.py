"""From an event on Kafka to the list that it changed, while the worker fits and publishes.

    python benchmarks/freshness.py [--json] [--quick]

``driftgraph run`` reads a topic of one broker (``DRIFTGRAPH_TEST_KAFKA``, or an Apache Kafka started from
``KAFKA_HOME``) and writes to a Redis that is started here. A producer keeps a steady rate of events over all
users, and fits are due again and again. Beside it a probe lets a user act, and looks every 5 ms into Redis
until that user's list has the event. Each wait is told with what the worker was at when the probe was sent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np
import redis
from confluent_kafka import Producer

from benchmarks.live_updater import process
from benchmarks.live_updater.broker import broker, flush, put, topics
from benchmarks.live_updater.process import running, stage_of, worker_status
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect

GROUPS = 20  # of users with a taste in common: a twentieth of the items each
TASTE = 0.8  # of a user's events are of its group's items
PROBE_EVERY_S = 0.25
LOOK_S = 0.005
LATE_AFTER_S = 60.0  # a probe that is not answered by then counts as this


@dataclass(frozen=True, slots=True)
class Size:
    """Events a second, users, items, events before the first second, events between fits, and seconds."""

    rate: int
    users: int
    items: int
    history: int
    fit_events: int
    seconds: float


FULL = Size(rate=2_000, users=50_000, items=20_000, history=400_000, fit_events=60_000, seconds=180)
QUICK = Size(rate=200, users=5_000, items=2_000, history=40_000, fit_events=4_000, seconds=40)


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="From an event on Kafka to the list that it changed.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, in two minutes")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    figures: Figures = {"machine": machine(), "quick": given.quick}
    topic = f"benchmark-freshness-{os.getpid()}"
    with (
        TemporaryDirectory() as folder,
        broker(Path(folder) / "kafka") as address,
        topics(address, topic),
        EmbeddedRedis() as server,
        closing(connect(server.url)) as client,
    ):
        figures |= measured(Path(folder), address, topic, server.url, client, size, note=not given.json)
    figures["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    finish(figures, required_of(figures), as_json=given.json)


def required_of(figures: Figures) -> list[Required]:
    """The bounds: freshness, and that it was measured under what it is promised for."""
    return [
        at_most("s from produce to a list that can be read, p99", figures["probes"]["p99_s"], 1.0),
        at_least(
            f"events/s produced of {figures['rate']}", figures["produced_per_s"], 0.97 * figures["rate"]
        ),
        at_least("fits meanwhile", figures["fits"], 1),
    ]


def measured(
    folder: Path, address: str, topic: str, url: str, client: redis.Redis, size: Size, *, note: bool
) -> Figures:
    """The figures of one run."""
    config = process.write_configuration(
        folder,
        kafka=address,
        topic=topic,
        redis_url=url,
        relations=["click"],
        span="10d",
        capacity=1 << 21,
        more=f"""
        [time]
        out_of_orderness = "1s"
        idle_timeout = "1s"
        [fit]
        every = "3650d"
        events = {size.fit_events}
        """,
    )
    shop = Shop(size, address, topic)
    shop.fill()
    with running(config) as updater:
        wait_for_model(client, updater, folder)
        if note:
            print("a model is served; probing", file=sys.stderr)
        shop.begin()
        probes = Probes(client, folder, shop)
        probes.run(size.seconds)
        produced = shop.end()
    told = worker_status(folder)
    return {
        "rate": size.rate,
        "users": size.users,
        "items": size.items,
        "produced_per_s": round(produced),
        "probes": summary(probes.waits_s),
        "by_stage": {stage: summary(waits) for stage, waits in sorted(probes.by_stage.items())},
        "fits": probes.fits,
        "generations": probes.generations,
        "worker": {name: one for name, one in (told.get("refresh") or {}).items() if name != "freshness"},
        "told_by_worker": {
            name: {key: value for key, value in one.items() if key != "counts"}
            for name, one in (told.get("refresh") or {}).get("freshness", {}).items()
            if isinstance(one, dict)
        },
    }


class Shop:
    """Users with tastes: what is before the first second, and then a steady rate."""

    def __init__(self, size: Size, address: str, topic: str) -> None:
        self._size, self._topic = size, topic
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "log_level": 0})
        self._probe = Producer({"bootstrap.servers": address, "linger.ms": 0, "log_level": 0})
        self._rng = np.random.default_rng(1)
        self._stopped = threading.Event()
        self._sent, self._begun_s = 0, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def draw(self, count: int) -> list[tuple[str, str]]:
        """Users and items: Zipf's law within the items of a user's group, or within all."""
        size, rng = self._size, self._rng
        user = rng.integers(0, size.users, count)
        own = size.items // GROUPS
        place = np.minimum(rng.pareto(1.0, count), own - 1).astype(np.int64)
        group = np.where(rng.random(count) < TASTE, user % GROUPS, rng.integers(0, GROUPS, count))
        return [
            (f"u{u}", f"i{i}") for u, i in zip(user.tolist(), (group * own + place).tolist(), strict=True)
        ]

    def fill(self) -> None:
        """Two days of events, up to now."""
        end_ms, count = time.time_ns() // 1_000_000, self._size.history
        for n, (user, item) in enumerate(self.draw(count)):
            self._put(self._producer, user, item, end_ms - 2 * 86_400_000 * (count - n) // count)
        flush(self._producer)

    def begin(self) -> None:
        """Produce at the rate from now on."""
        self._begun_s = time.monotonic()
        self._thread.start()

    def end(self) -> float:
        """Stop; events a second so far."""
        self._stopped.set()
        self._thread.join(30)
        return self._sent / (time.monotonic() - self._begun_s)

    def probe(self) -> tuple[str, int]:
        """Let a user act now; who, and when. The broker has it when this returns."""
        [(user, item)] = self.draw(1)
        now_ms = time.time_ns() // 1_000_000
        self._put(self._probe, user, item, now_ms)
        self._probe.poll(0)
        return user, now_ms

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            due = int((time.monotonic() - self._begun_s) * self._size.rate) - self._sent
            for user, item in self.draw(max(0, due)):
                self._put(self._producer, user, item, time.time_ns() // 1_000_000)
            self._sent += max(0, due)
            self._producer.poll(0)

    def _put(self, producer: Producer, user: str, item: str, time_ms: int) -> None:
        value = f'{{"user_id":"{user}","item_id":"{item}","behavior":"click","ts":{time_ms}}}'
        put(producer, self._topic, value.encode(), user.encode())


class Probes:
    """Sends probes and looks for what they change, all that wait at once."""

    def __init__(self, client: redis.Redis, folder: Path, shop: Shop) -> None:
        self._client, self._folder, self._shop = client, folder, shop
        self.waits_s: list[float] = []
        self.by_stage: dict[str, list[float]] = defaultdict(list)
        self._waiting: list[tuple[str, int, float, str]] = []
        self._fit_times, self._numbers = set[int](), set[int]()

    @property
    def fits(self) -> int:
        """Fits that ended meanwhile, accepted or not."""
        return max(0, len(self._fit_times) - 1)

    @property
    def generations(self) -> int:
        """Generations that were switched to meanwhile."""
        return max(0, len(self._numbers) - 1)

    def run(self, seconds: float) -> None:
        """Probe for so long, then wait for those that are left."""
        end_s, next_s = time.monotonic() + seconds, time.monotonic()
        while (now_s := time.monotonic()) < end_s or self._waiting:
            if now_s >= next_s and now_s < end_s:
                told, next_s = worker_status(self._folder), next_s + PROBE_EVERY_S
                if told.get("fit"):
                    self._fit_times.add(told["fit"]["time_ms"])
                user, time_ms = self._shop.probe()
                self._waiting.append((user, time_ms, time.monotonic(), stage_of(told)))
            self._look()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        number = process.served(self._client)
        self._numbers.add(number)
        pipe = self._client.pipeline(transaction=False)
        for user, *_ in self._waiting:
            pipe.hmget(process.KEYS.user(number, user), "event_ms", "list")
        now_s, left = time.monotonic(), []
        for probe, (event_ms, listed) in zip(self._waiting, pipe.execute(), strict=True):
            _, time_ms, sent_s, stage = probe
            if (event_ms and int(event_ms) >= time_ms and listed) or now_s - sent_s > LATE_AFTER_S:
                self.waits_s.append(time.monotonic() - sent_s)
                self.by_stage[stage].append(self.waits_s[-1])
            else:
                left.append(probe)
        self._waiting = left


def wait_for_model(client: redis.Redis, updater: subprocess.Popen[bytes], folder: Path) -> None:
    """Until a generation that a model made is served."""
    end_s = time.monotonic() + process.READY_WITHIN_S
    while time.monotonic() < end_s and updater.poll() is None:
        if process.is_of_model(client, process.served(client)):
            return
        time.sleep(0.1)
    sys.exit(process.no_model(folder))


def summary(waits_s: Sequence[float]) -> Figures:
    """Count, median, p99 and the longest, in seconds."""
    if not waits_s:
        return {"count": 0, "p50_s": None, "p99_s": None, "max_s": None}
    p50, p99, most = np.percentile(waits_s, (50, 99, 100)).tolist()
    return {"count": len(waits_s), "p50_s": round(p50, 3), "p99_s": round(p99, 3), "max_s": round(most, 3)}


if __name__ == "__main__":
    main()
