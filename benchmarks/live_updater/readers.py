"""The readers that ``benchmarks/ingest.py`` and ``web.py`` compare, each in a process of its own.

    python readers.py READER BROKERS TOPIC COUNT      prints {"per_s": …, "version": …}

Each reads the topic from its start until it has COUNT events. Its rate is that of the last nine tenths, so
that starting, connecting and compiling are no part of it. What it writes goes into the folder where it runs.
Only what a reader needs is imported: Quix Streams runs in another environment, which has no driftgraph.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

BATCH = 10_000  # messages of one read, as driftgraph takes them
WAIT_S = 0.1
RELATIONS = ("click", "favorite", "purchase")
# as the updater has it, for all on librdkafka: its own 1 s costs each of them nine tenths of the rate
TUNED = {"fetch.queue.backoff.ms": 10}


class Meter:
    """Counts to ``count`` and knows how fast the last nine tenths went."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen, self._warm_count = 0, 0
        self._warm_s = self._last_s = 0.0

    def add(self, number: int) -> bool:
        """Count ``number`` more; whether that is all."""
        self._seen += number
        if not self._warm_count and self._seen >= self._count // 10:
            self._warm_count, self._warm_s = self._seen, time.perf_counter()
        if self._seen < self._count:
            return False
        self._last_s = time.perf_counter()
        return True

    def tell(self, package: str) -> None:
        """Print the rate."""
        per_s = (self._seen - self._warm_count) / (self._last_s - self._warm_s)
        figures = {"per_s": round(per_s), "version": f"{package} {version(package)}"}
        os.write(1, f"{json.dumps(figures)}\n".encode())  # Faust takes sys.stdout for its log

    def end(self, package: str) -> NoReturn:
        """Print the rate and leave at once: some of the readers cannot be stopped cleanly."""
        self.tell(package)
        os._exit(0)


def ours(brokers: str, topic: str, count: int, listen: str | None = None) -> None:
    """Kafka to window: the updater itself, as ``driftgraph run`` starts it, until the window is full.

    With ``listen``, where it serves HTTP or "off", it waits after its first read for a file named go.
    """
    from driftgraph.app.commands.embedded import EmbeddedRedis
    from driftgraph.app.console.progress import NoProgress
    from driftgraph.app.live import run as live
    from driftgraph.stream.window.heterograph import HeterographView

    meter = Meter(count)

    class Counting(NoProgress):
        """Stops the updater after the last event, before it starts its worker."""

        def advance(self, n: int) -> None:
            while listen is not None and not Path("go").exists():
                time.sleep(0.01)
            if meter.add(n):
                os.kill(os.getpid(), signal.SIGTERM)

    with EmbeddedRedis() as redis:
        settings = updater_settings(brokers, topic, redis.url, {} if listen is None else {"listen": listen})
        live.run(settings, progress=Counting())
    read = json.loads((settings.data_dir / "status" / "updater.json").read_bytes())["events"]
    held = sum(HeterographView.attach(settings.data_dir / "window").moment().cut.next)
    if any(one != count for one in (read["read"], read["applied"], held)):
        raise SystemExit(f"of {count} events the window holds {held}; the updater says {read}")
    meter.tell("driftgraph")


def updater_settings(brokers: str, topic: str, redis_url: str, web: dict[str, str] | None = None) -> Any:
    """The updater's configuration: all defaults, but where to read and what, and a Redis of its own."""
    from driftgraph.app.config.settings import Settings

    return Settings.model_validate(
        {
            "data_dir": Path("data").absolute(),
            "kafka": {"bootstrap_servers": brokers, "topic": topic, "start": "earliest"},
            "relations": {name: {} for name in RELATIONS},
            "redis": {"url": redis_url},
            "web": web or {},
        }
    )


def updater(brokers: str, topic: str, _count: int) -> None:
    """The same, until it is told to stop, for whoever looks into its window."""
    from driftgraph.app.commands.embedded import EmbeddedRedis
    from driftgraph.app.console.progress import NoProgress
    from driftgraph.app.live import run as live

    with EmbeddedRedis() as redis:
        live.run(updater_settings(brokers, topic, redis.url), progress=NoProgress())


def msgspec_loop(brokers: str, topic: str, count: int) -> None:
    """Consumes and decodes, and does nothing else."""
    import msgspec

    class Event(msgspec.Struct, gc=False):
        event_id: str
        user_id: str
        item_id: str
        behavior: str
        ts: int

    _decode_all(brokers, topic, count, msgspec.json.Decoder(Event).decode)


def json_loop(brokers: str, topic: str, count: int) -> None:
    """The same with Python's own json."""
    _decode_all(brokers, topic, count, json.loads)


def _decode_all(brokers: str, topic: str, count: int, decode: Any) -> None:
    from confluent_kafka import Consumer

    client = {
        "bootstrap.servers": brokers,
        "group.id": f"benchmark-{os.getpid()}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "log_level": 0,
    }
    meter, consumer = Meter(count), Consumer(client | TUNED)
    consumer.subscribe([topic])
    while True:
        messages = consumer.consume(BATCH, WAIT_S)
        for message in messages:
            if (error := message.error()) is not None:
                raise SystemExit(error.str())
            decode(message.value())
        if meter.add(len(messages)):
            meter.end("confluent-kafka")


def faust_agent(brokers: str, topic: str, count: int) -> None:
    """An agent that counts what its stream gives, JSON decoded."""
    import faust
    from faust.cli.faust import cli

    app = faust.App(
        f"benchmark-{os.getpid()}", broker=f"kafka://{brokers}", store="memory://", value_serializer="json",
        datadir=os.getcwd(),
    )  # fmt: skip
    meter = Meter(count)

    @app.agent(app.topic(topic))
    async def read(stream: Any) -> None:
        async for _ in stream:
            if meter.add(1):
                meter.end("faust-streaming")

    app.finalize()
    cli(["worker", "--without-web", "-l", "error"], app=app)


def quix_streams(brokers: str, topic: str, count: int) -> None:
    """A streaming dataframe that counts its rows, JSON decoded."""
    from quixstreams import Application  # type: ignore[import-not-found, unused-ignore]

    meter = Meter(count)

    def add(_: object) -> None:
        if meter.add(1):
            meter.end("quixstreams")

    app = Application(
        broker_address=brokers, consumer_group=f"benchmark-{os.getpid()}", auto_offset_reset="earliest",
        loglevel="ERROR", state_dir=os.getcwd(), consumer_extra_config=TUNED,
    )  # fmt: skip
    app.dataframe(app.topic(topic, value_deserializer="json")).update(add)
    app.run()


READERS: dict[str, Callable[[str, str, int], None]] = {
    "driftgraph": ours,
    "port-on": partial(ours, listen="127.0.0.1:0"),
    "port-off": partial(ours, listen="off"),
    "updater": updater,
    "msgspec": msgspec_loop,
    "json": json_loop,
    "quix": quix_streams,
    "faust": faust_agent,
}

if __name__ == "__main__":
    name, brokers, topic, count = sys.argv[1:]
    READERS[name](brokers, topic, int(count))
