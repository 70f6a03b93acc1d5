"""Ingestion beside its peers: JSON events from Kafka into the window, and how soon an event is seen there.

    python benchmarks/ingest.py [--json] [--quick]

One topic on one broker for all: ``DRIFTGRAPH_TEST_KAFKA``, or an Apache Kafka started from ``KAFKA_HOME``.
The readers (``live_updater/readers.py``) run one after the other, each in a process of its own. Ours and the
loop that only consumes and decodes run in turns, and the median of the rounds' ratios counts, since a shared
machine is not equally fast from minute to minute; the slow readers read fewer events, once. Quix Streams pins
an older confluent-kafka than ours: it runs in the environment that ``make bench`` sets up for it.

Latency: events are produced at a steady rate, each with the time at which it is; a reader in another process,
as the worker is, looks into the window every 2 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np

from benchmarks.live_updater.broker import broker, topics
from benchmarks.live_updater.process import READERS, SHARED_MEMORY
from benchmarks.live_updater.shop_events import Sender, fill
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from driftgraph.stream.arrays import I64
from driftgraph.stream.window.heterograph import HeterographView
from driftgraph.stream.window.shared_files import WindowError

QUIX_PYTHON = Path(sys.prefix) / "quix" / "bin" / "python"
READER_WITHIN_S = 120.0
START_WITHIN_S = 60.0
RATE = 10_000  # events/s of the latency
LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class Size:
    """How much is read: events, those that slow readers read, rounds, and the latency's seconds."""

    events: int
    json: int
    quix: int
    faust: int
    rounds: int
    latency_s: float


FULL = Size(events=3_000_000, json=1_000_000, quix=400_000, faust=60_000, rounds=3, latency_s=20)
QUICK = Size(events=1_000_000, json=300_000, quix=100_000, faust=20_000, rounds=2, latency_s=5)


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="Ingestion beside its peers.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    figures: Figures = {"machine": machine()}
    memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with TemporaryDirectory(dir=memory) as folder, broker(Path(folder) / "kafka") as address:
        bench = Bench(address, Path(folder), note=not given.json)
        topic, latency_topic = f"benchmark-{os.getpid()}", f"benchmark-latency-{os.getpid()}"
        with topics(address, topic, latency_topic):
            bench.say(f"producing {size.events:,} events")
            figures["message"] = fill(address, topic, size.events)
            figures["readers"] = bench.rates(topic, size)
            figures["latency"] = bench.latency(latency_topic, size.latency_s)
    finish(figures, required_of(figures), as_json=given.json)


def required_of(figures: Figures) -> list[Required]:
    """The bounds. A reader that could not run is not measured, and its bound does not hold."""
    readers = figures["readers"]
    ours = readers["driftgraph"]["per_s"]

    def beside(name: str) -> float | None:
        return ours / readers[name]["per_s"] if readers[name].get("per_s") else None

    turns = zip(readers["driftgraph"]["rounds"], readers["msgspec"]["rounds"], strict=True)
    return [
        at_least("rate / Faust agent", beside("faust"), 30),
        at_least("rate / Quix Streams", beside("quix"), 4),
        at_least("rate / confluent-kafka with msgspec", statistics.median(a / b for a, b in turns), 0.6),
        at_least(f"events/s produced of {RATE}", figures["latency"]["produced_per_s"], 0.99 * RATE),
        at_most("ms from produce to window, p99", figures["latency"]["p99_ms"], 100),
    ]


class Bench:
    """Runs the readers against one broker, in folders below ``folder``."""

    def __init__(self, address: str, folder: Path, *, note: bool) -> None:
        self._address = address
        self._folder = folder
        self._note = note

    def rates(self, topic: str, size: Size) -> Figures:
        """Events a second of each reader."""
        found: Figures = {"faust": self._read("faust", topic, size.faust)}
        if QUIX_PYTHON.is_file():
            found["quix"] = self._read("quix", topic, size.quix, python=str(QUIX_PYTHON))
        else:
            found["quix"] = {"missing": f"no {QUIX_PYTHON}: make bench installs it, from benchmarks/quix.txt"}
        found["json"] = self._read("json", topic, size.json)
        names = ("driftgraph", "msgspec")
        rounds = [{name: self._read(name, topic, size.events) for name in names} for _ in range(size.rounds)]
        for name in names:
            rates = [one[name]["per_s"] for one in rounds]
            found[name] = rounds[0][name] | {"per_s": statistics.median(rates), "rounds": rates}
        return found

    def _read(self, name: str, topic: str, count: int, python: str = sys.executable) -> Figures:
        self.say(f"{name} reads {count:,} events")
        with TemporaryDirectory(dir=self._folder) as folder:
            command = [python, str(READERS), name, self._address, topic, str(count)]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=READER_WITHIN_S, check=False
            )
        if done.returncode:
            sys.exit(f"the reader {name} failed:\n{done.stderr[-2_000:]}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures | {"events": count}

    def latency(self, topic: str, seconds: float) -> Figures:
        """From produce to visible in the window, of each event, at ``RATE`` events/s."""
        self.say(f"latency at {RATE:,} events/s, {seconds:g} s")
        with TemporaryDirectory(dir=self._folder) as folder:
            command = [sys.executable, str(READERS), "updater", self._address, topic, "0"]
            with (Path(folder) / "output.log").open("wb") as log:
                updater = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            try:
                view = _window_of(updater, Path(folder))
                return self._followed(view, topic, round(RATE * seconds))
            finally:
                updater.send_signal(signal.SIGTERM)
                updater.wait(START_WITHIN_S)

    def _followed(self, view: HeterographView, topic: str, count: int) -> Figures:
        sender = Sender(self._address, topic, count + 1)
        self._connected(sender, view)
        waits: list[I64] = []
        seen, begun_s = view.window.cut(), time.perf_counter()
        last_s, sent_s = begun_s + count / RATE + READER_WITHIN_S, begun_s
        while (found := sum(map(len, waits))) < count:
            now_s = time.perf_counter()
            if now_s > last_s:
                sys.exit(f"of {count} events {found} came into the window")
            while sender.sent <= min(count, (now_s - begun_s) * RATE):  # one was sent before
                sender.send(time.time_ns() // 1_000_000)
                sent_s = now_s
            cut = view.window.cut()
            looked_ms = time.time_ns() // 1_000_000 + 1  # as long as it may have been
            if cut.next != seen.next:
                waits.append(looked_ms - view.window.events(cut, seen).time_ms)
                seen = cut
            sender.poll()
            time.sleep(LOOK_S)
        p50, p99, most = np.percentile(np.concatenate(waits), (50, 99, 100)).tolist()
        return {
            "events": count,
            "produced_per_s": round(count / (sent_s - begun_s)),
            "p50_ms": round(p50, 1),
            "p99_ms": round(p99, 1),
            "max_ms": round(most, 1),
        }

    @staticmethod
    def _connected(sender: Sender, view: HeterographView) -> None:
        """Send one event and wait for it: a producer's first second is not the updater's."""
        sender.send(time.time_ns() // 1_000_000)
        end = time.monotonic() + START_WITHIN_S
        while not sum(view.window.cut().next):
            if time.monotonic() > end:
                sys.exit(f"the first event did not come into the window within {START_WITHIN_S:g} s")
            sender.poll()
            time.sleep(LOOK_S)

    def say(self, text: str) -> None:
        """Say on stderr what is done, where nobody asked for JSON alone."""
        if self._note:
            print(text, file=sys.stderr)


def _window_of(updater: subprocess.Popen[bytes], folder: Path) -> HeterographView:
    """The window of an updater, once it follows the topic."""
    end = time.monotonic() + START_WITHIN_S
    while updater.poll() is None and time.monotonic() < end:
        try:
            status = json.loads((folder / "data" / "status" / "updater.json").read_bytes())
            if status["state"] == "running":
                return HeterographView.attach(folder / "data" / "window")
        except (OSError, WindowError):
            pass
        time.sleep(0.05)
    said = (folder / "output.log").read_text(errors="replace")[-2_000:]
    sys.exit(f"the updater did not start within {START_WITHIN_S:g} s:\n{said}")


if __name__ == "__main__":
    main()
