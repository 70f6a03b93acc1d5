"""What the HTTP port costs ingestion: with it, scraped and read each second, against without it.

    python benchmarks/web.py [--json] [--quick]

The updater reads a topic from its start, as ``benchmarks/ingest.py`` lets it, with the port and without it in
turns: the median of the rounds' ratios counts, since a shared machine is not equally fast from minute to
minute. Meanwhile one client scrapes /metrics and five read /api/status, each once a second over a connection
of its own, as Prometheus and five open pages do. Their own work is on the same machine and counts, too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks.live_updater.broker import broker, topics
from benchmarks.live_updater.process import READERS, SHARED_MEMORY
from benchmarks.live_updater.shop_events import fill
from benchmarks.report import Figures, Required, at_least, finish, machine

STATUS_READERS = 5
EVERY_S = 1.0
READER_WITHIN_S = 300.0
SERVED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """Events of one reading, and how many rounds of two readings."""

    events: int
    rounds: int


FULL = Size(events=6_000_000, rounds=9)
QUICK = Size(events=1_000_000, rounds=2)


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="What the HTTP port costs ingestion.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    size, figures = QUICK if given.quick else FULL, dict[str, object](machine=machine(), quick=given.quick)
    memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    topic = f"benchmark-web-{os.getpid()}"
    with (
        TemporaryDirectory(dir=memory) as folder,
        broker(Path(folder) / "kafka") as address,
        topics(address, topic),
    ):
        fill(address, topic, size.events)
        figures |= measured(Path(folder), address, topic, size, note=not given.json)
    finish(figures, required_of(figures), as_json=given.json)


def required_of(figures: Figures) -> list[Required]:
    """The bounds: what it costs, and that it was asked as often as it should be."""
    name = "rate with the port / without, median of rounds"
    return [
        at_least(name, figures["ratio"], 0.98),
        at_least("answers of a second of reading", figures["answers_per_s"], 0.8 * (1 + STATUS_READERS)),
    ]


def measured(folder: Path, address: str, topic: str, size: Size, *, note: bool) -> Figures:
    """Rates of each round; which of the two comes first in turns."""
    rounds: list[dict[str, float]] = []
    clients = Clients()
    for number in range(size.rounds):
        names = ("port-on", "port-off")
        one = {}
        for name in names if number % 2 else reversed(names):
            one[name] = read(folder, address, topic, size.events, name, clients)
            if note:
                print(f"round {number + 1} of {size.rounds}, {name}: {one[name]:,.0f}/s", file=sys.stderr)
        rounds.append(one)
    ratios = [one["port-on"] / one["port-off"] for one in rounds]
    return {
        "events": size.events,
        "with_port_per_s": [round(one["port-on"]) for one in rounds],
        "without_per_s": [round(one["port-off"]) for one in rounds],
        "ratios": [round(one, 4) for one in ratios],
        "ratio": statistics.median(ratios),
        "answers": dict(clients.answers),
        "answers_per_s": sum(clients.answers.values()) / clients.seconds if clients.seconds else None,
    }


class Clients:
    """One client of /metrics and five of /api/status, and how often they were answered."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.seconds = 0.0

    @contextmanager
    def asking(self, port: int) -> Iterator[None]:
        """Ask meanwhile."""
        ended = threading.Event()
        paths = ["/metrics", *["/api/status"] * STATUS_READERS]
        threads = [threading.Thread(target=self._ask, args=(port, path, ended)) for path in paths]
        begun_s = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            self.seconds += time.perf_counter() - begun_s

    def _ask(self, port: int, path: str, ended: threading.Event) -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with suppress(OSError, http.client.HTTPException):  # the updater ends before its readers
            while True:
                line.request("GET", path)
                answer = line.getresponse()
                answer.read()
                self.answers[f"{path} {answer.status}"] += 1
                if ended.wait(EVERY_S):
                    break
        line.close()


def read(folder: Path, address: str, topic: str, count: int, name: str, clients: Clients) -> float:
    """Events a second of one reading."""
    with TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, str(READERS), name, address, topic, str(count)]
        with (Path(own) / "errors").open("wb") as errors:
            reader = subprocess.Popen(command, cwd=own, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            if name == "port-on":
                with clients.asking(port_of(reader, Path(own))):
                    said = finished(reader, Path(own))
            else:
                said = finished(reader, Path(own))
        finally:
            reader.kill()
            reader.wait()
        if reader.returncode not in (0, -9) or not said:
            sys.exit(f"the reader failed:\n{(Path(own) / 'errors').read_text(errors='replace')[-2_000:]}")
    return float(json.loads(said.splitlines()[-1])["per_s"])


def finished(reader: subprocess.Popen[str], folder: Path) -> str:
    """Let it read, and return what it printed."""
    (folder / "go").touch()
    return reader.communicate(timeout=READER_WITHIN_S)[0]


def port_of(reader: subprocess.Popen[str], folder: Path) -> int:
    """Where it serves, once it does."""
    end = time.monotonic() + SERVED_WITHIN_S
    while reader.poll() is None and time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads((folder / "data" / "status" / "web.json").read_bytes())["port"])
        time.sleep(0.05)
    sys.exit(f"HTTP was not served:\n{(folder / 'errors').read_text(errors='replace')[-2_000:]}")


if __name__ == "__main__":
    main()
