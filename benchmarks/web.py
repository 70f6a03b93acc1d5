"""What the HTTP port with its metrics and its page costs ingestion, in one run.

    python benchmarks/web.py [--json] [--quick]

An updater reads a topic while three pages are open (``/api/stream``) and a Prometheus scrapes each 5 s. Its
port works and stands still in turns (``live_updater/web_reader.py``), so that the two stretches of a pair are
seconds apart: a shared machine is not equally fast from minute to minute. Two figures say what it costs:

- the rate with it by the rate without it, the median over the pairs. What the readers of the port do on this
  machine counts, too. On a machine that does other work meanwhile this figure is mostly noise;
- the processor time that the port takes a second, which other work hardly moves. Ingestion at its full rate
  takes more than a core, so where all cores are busy the rate falls by less than this share of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks.live_updater.broker import broker, topics
from benchmarks.live_updater.process import SHARED_MEMORY
from benchmarks.live_updater.shop_events import fill
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine

READER = Path(__file__).parent / "live_updater" / "web_reader.py"
PAGES = 3
READER_WITHIN_S = 300.0
SERVED_WITHIN_S = 60.0
COST_MAX = 0.02

Stretch = dict[str, Any]  # a ``web_reader.Stretch``


@dataclass(frozen=True, slots=True)
class Size:
    """How often the topic is read, its events, the pairs of a reading, and how often the port is scraped."""

    events: int
    pairs: int
    readings: int
    scrape_every_s: float


FULL = Size(events=6_000_000, pairs=4, readings=4, scrape_every_s=5)
QUICK = Size(events=1_200_000, pairs=3, readings=1, scrape_every_s=0.5)  # its stretches are short


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="What the HTTP port costs ingestion.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    size, figures = QUICK if given.quick else FULL, dict[str, object](machine=machine(), quick=given.quick)
    memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    topic = f"benchmark-web-{os.getpid()}"
    stretches: list[Stretch] = []
    clients = Clients(size.scrape_every_s)
    with (
        TemporaryDirectory(dir=memory) as folder,
        broker(Path(folder) / "kafka") as address,
        topics(address, topic),
    ):
        fill(address, topic, size.events)
        for number in range(size.readings):
            stretches += read(Path(folder), address, topic, size, clients)
            if not given.json:
                print(f"reading {number + 1} of {size.readings}", file=sys.stderr)
    figures |= {"events": size.events} | costs(stretches) | clients.answered(stretches)
    finish(figures, required_of(figures), as_json=given.json)


def required_of(figures: Figures) -> list[Required]:
    """The bounds: what the port costs, and that its readers got what pages and a Prometheus get."""
    return [
        at_least("rate with the port / without, median of pairs", figures["rate_ratio"], 1 - COST_MAX),
        at_most("the port's share of a core", figures["port_cores"], COST_MAX),
        at_least("messages a second of each page", figures["messages_per_s"], 0.8),
        at_least("scrapes of those due", figures["scrapes"], 0.8),
    ]


def costs(stretches: Sequence[Stretch]) -> Figures:
    """What the port costs, from stretches with it and without it, two after the other of one pair."""
    pairs = [
        sorted(pair, key=lambda one: not one["with_port"])
        for pair in zip(stretches[::2], stretches[1::2], strict=True)
    ]
    rates = [[one["events"] / one["wall_s"] for one in pair] for pair in pairs]
    ratios = [with_port / without for with_port, without in rates]
    worked = [pair[0] for pair in pairs]
    worked_s, port_s = (sum(one[name] for one in worked) for name in ("wall_s", "port_s"))
    return {
        "with_port_per_s": [round(pair[0]) for pair in rates],
        "without_per_s": [round(pair[1]) for pair in rates],
        "rate_ratios": [round(one, 4) for one in ratios],
        "rate_ratio": statistics.median(ratios),
        "port_cores": port_s / worked_s,
        "updater_cores": round(sum(one["updater_s"] for one in worked) / worked_s, 2),
    }


class Clients:
    """Three open pages and a Prometheus, and when they were answered."""

    def __init__(self, scrape_every_s: float) -> None:
        self._scrape_every_s = scrape_every_s
        self._answered_s: defaultdict[str, list[float]] = defaultdict(list)

    def answered(self, stretches: Sequence[Stretch]) -> Figures:
        """How often they were answered while the port worked."""
        worked = [(one["begun_s"], one["wall_s"]) for one in stretches if one["with_port"]]
        total_s = sum(wall_s for _, wall_s in worked)
        counts = {
            name: sum(
                0 <= at_s - begun_s <= wall_s for at_s in self._answered_s[name] for begun_s, wall_s in worked
            )
            for name in ("message", "scrape")
        }
        return {
            "worked_s": round(total_s, 1),
            "messages_per_s": counts["message"] / (PAGES * total_s),
            "scrapes": counts["scrape"] / (total_s / self._scrape_every_s),
        }

    @contextmanager
    def asking(self, address: str) -> Iterator[None]:
        """Read meanwhile."""
        ended = threading.Event()
        threads = [threading.Thread(target=self._listen, args=(address, ended)) for _ in range(PAGES)]
        threads.append(threading.Thread(target=self._scrape, args=(address, ended)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _listen(self, address: str, ended: threading.Event) -> None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/api/stream", timeout=30) as answer:
            while not ended.is_set() and (line := answer.readline()):
                if line == b"event: now\n":
                    self._answered_s["message"].append(time.monotonic())

    def _scrape(self, address: str, ended: threading.Event) -> None:
        with suppress(OSError):  # the updater ends before its readers
            while True:
                with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
                    answer.read()
                self._answered_s["scrape"].append(time.monotonic())
                if ended.wait(self._scrape_every_s):
                    return


def read(folder: Path, address: str, topic: str, size: Size, clients: Clients) -> list[Stretch]:
    """The stretches of one reading of the topic."""
    with TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, str(READER), address, topic, str(size.events), str(size.pairs)]
        with (Path(own) / "errors").open("wb") as errors:
            reader = subprocess.Popen(command, cwd=own, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            with clients.asking(served_by(reader, Path(own))):
                (Path(own) / "go").touch()
                said = reader.communicate(timeout=READER_WITHIN_S)[0]
        finally:
            reader.kill()
            reader.wait()
        if reader.returncode or not said:
            sys.exit(f"the reader failed:\n{(Path(own) / 'errors').read_text(errors='replace')[-2_000:]}")
    stretches: list[Stretch] = json.loads(said.splitlines()[-1])["stretches"]
    if len(stretches) != 2 * size.pairs:
        sys.exit(f"of {2 * size.pairs} stretches the reader measured {len(stretches)}: give it more events")
    return stretches


def served_by(reader: subprocess.Popen[str], folder: Path) -> str:
    """The address of its port, once it is served."""
    end = time.monotonic() + SERVED_WITHIN_S
    while reader.poll() is None and time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError):
            port = json.loads((folder / "data" / "status" / "web.json").read_bytes())["port"]
            return f"http://127.0.0.1:{port}"
        time.sleep(0.05)
    sys.exit(f"HTTP was not served:\n{(folder / 'errors').read_text(errors='replace')[-2_000:]}")


if __name__ == "__main__":
    main()
