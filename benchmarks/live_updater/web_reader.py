"""The updater that ``benchmarks/web.py`` measures: with its HTTP port at work and standing still in turns.

    python benchmarks/live_updater/web_reader.py BROKERS TOPIC COUNT PAIRS      prints {"stretches": [ … ]}

It reads the topic from its start, as ``driftgraph run`` does, and Redis serves a generation with the metrics
of a real run meanwhile. Before its first read it waits for a file named go, so that the readers of the port
are there. The first tenth of the events warms up. The others are PAIRS pairs of stretches of as many events:
in one of a pair the port's process works, in the other it is stopped by SIGSTOP. The order changes from pair
to pair, since a window that grows gets slower.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the file can be run as it is

from benchmarks.live_updater.readers import updater_settings
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.live import run as live
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from tests.browser.shown import publish_measured


@dataclass(slots=True)
class Stretch:
    """Some events, and what they took: seconds of the wall, and processor seconds of both processes."""

    with_port: bool
    events: int
    begun_s: float  # by the clock that all processes share, time.monotonic
    wall_s: float
    updater_s: float
    port_s: float


class Turns(NoProgress):
    """Lets the port work and stand still in turns while events are counted."""

    def __init__(self, count: int, pairs: int) -> None:
        self._warm, self._size = count // 10, (count - count // 10) // (2 * pairs)
        self._order = [with_port for n in range(pairs) for with_port in ((True, False), (False, True))[n % 2]]
        self._count = count
        self._seen = self._begun = 0
        self._before = (0.0, 0.0, 0.0)
        self._port = 0
        self.stretches: list[Stretch] = []

    def advance(self, n: int) -> None:
        """Count; a stretch ends with the read in which its last event is."""
        while not Path("go").exists():
            time.sleep(0.01)
        self._seen += n
        if not self._port and self._seen >= self._warm:
            self._port = int(json.loads(Path("data/status/web.json").read_bytes())["pid"])
            self._begin()
        elif self._port and (self._seen - self._begun >= self._size or self._seen >= self._count):
            self._end()
        if self._seen >= self._count:
            os.kill(self._port, signal.SIGCONT)  # so that it can end
            os.kill(os.getpid(), signal.SIGTERM)

    def _begin(self) -> None:
        at = len(self.stretches)
        if at < len(self._order):
            os.kill(self._port, signal.SIGCONT if self._order[at] else signal.SIGSTOP)
        self._begun, self._before = self._seen, self._now()

    def _end(self) -> None:
        if len(self.stretches) == len(self._order):
            return
        passed = (now - then for now, then in zip(self._now(), self._before, strict=True))
        events, with_port = self._seen - self._begun, self._order[len(self.stretches)]
        self.stretches.append(Stretch(with_port, events, self._before[0], *passed))
        self._begin()

    def _now(self) -> tuple[float, float, float]:
        of_port = ~self._port << 3 | 2  # the clock of a process, as clock_getcpuclockid(3) makes it
        return time.monotonic(), time.process_time(), time.clock_gettime(of_port)


def main() -> None:
    """Read all, and print the stretches."""
    brokers, topic, count, pairs = sys.argv[1:]
    turns = Turns(int(count), int(pairs))
    with EmbeddedRedis() as redis:
        settings = updater_settings(brokers, topic, redis.url, {"listen": "127.0.0.1:0"})
        client = connect(redis.url)
        publish_measured(GenerationStore(client, namespace=settings.redis.namespace, epoch=1), 1)
        client.close()
        live.run(settings, progress=turns)
    print(json.dumps({"stretches": [asdict(one) for one in turns.stretches]}))


if __name__ == "__main__":
    main()
