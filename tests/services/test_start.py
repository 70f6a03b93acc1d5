"""A start serves: ``driftgraph run`` on each real file, moved to now, and what a reader then gets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import SystemClock
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.test_real_files import FILES, RealFile, the_events
from tests.services.updaters import RunningUpdater, until

pytestmark = pytest.mark.services

MINUTE_MS = 60_000
DAY_MS = 86_400_000
NEWEST = 20_000  # events of a file; what a whole one costs is in docs/LOG.md
PARTITIONS = 4
LONG_S = 300.0  # on a machine that does other things; a start of this size takes seconds

Row = tuple[str, str, str, int]


@dataclass(frozen=True)
class Start:
    """A topic with history and an updater's configuration for it."""

    config: Path
    topic: str
    rows: list[Row]


def moved_to_now(file: RealFile, path: Path) -> list[Row]:
    """(user, item, relation, ms) of the newest events, in order of time, the last one a minute ago."""
    rows = sorted(the_events(file, path).elements(), key=lambda row: row[3])[-NEWEST:]
    behind_ms = SystemClock().now_ms() - MINUTE_MS - rows[-1][3]
    return [(user, item, relation, ms + behind_ms) for user, item, relation, ms in rows]


def started(kafka: RealKafka, folder: Path, redis: str, rows: list[Row]) -> Start:
    topic = f"start-{uuid4().hex[:8]}"
    make_topic(kafka.address, topic, PARTITIONS)
    produce(
        kafka.address,
        topic,
        [
            {
                "key": user,
                "value": msgspec.json.encode(
                    {"user_id": user, "item_id": item, "behavior": relation, "ts": ms}
                ),
                "timestamp": ms,
            }
            for user, item, relation, ms in rows
        ],
    )
    names = sorted({relation for _, _, relation, _ in rows})
    config = folder / "driftgraph.toml"
    config.write_text(
        f"""
        name = "{topic}"
        data_dir = "{folder / "var"}"
        [kafka]
        bootstrap_servers = "{kafka.address}"
        topic = "{topic}"
        {"".join(f'[relations."{name}"]{chr(10)}' for name in names)}
        [window]
        span = "{(rows[-1][3] - rows[0][3]) // DAY_MS + 2}d"
        [time]
        idle_timeout = "1s"
        [model]
        device = "cpu"
        [redis]
        url = "{redis}"
        """,
        encoding="utf-8",
    )
    return Start(config, topic, rows)


def worker_said(start: Start) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((start.config.parent / "var/status/worker.json").read_bytes())
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_start_on_a_topic_with_history_serves_everybody(
    real_kafka: RealKafka, shared_data: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Lists within seconds, then the model if the gate lets it; nobody waits six hours for the next fit."""
    rows = moved_to_now(FILES[name], shared_data(name))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        reader = EmbeddingReader(client, namespace="driftgraph")
        start = started(real_kafka, tmp_path, server.url, rows)
        updater = stack.enter_context(RunningUpdater(start.config))
        until(
            f"something is served: {updater.output()}", lambda: updater.status() and reader.current(), LONG_S
        )
        newest = list(dict.fromkeys(user for user, *_ in reversed(rows)))[:20]
        touched = {user: {i for u, i, _, _ in rows if u == user} for user in newest}
        for user, items in touched.items():
            found = reader.recommend(user, 10)
            assert found.source == "list", user
            assert len(found.items) == 10
            assert not {item for item, _ in found.items} & items
        until("strangers, too", lambda: reader.recommend("a stranger", 5).source == "trending")
        # the model: accepted, or refused with a reason that an operator can read
        until("the first fit ends", lambda: updater.status() and worker_said(start)["fit"], LONG_S)
        fit = worker_said(start)["fit"]
        if fit["accepted"]:
            until("the model is served", lambda: reader.made_by() == "model", LONG_S)
            served = GenerationStore(client, namespace="driftgraph", epoch=0).generations()[-1]
            assert served.manifest["made_by"] == "model"
            until(
                "it says so",
                lambda: f"generation {served.number} (model version 1)" in updater.output(),
            )
        else:
            assert fit["code"] == "popularity"
            assert fit["reason"] in updater.output()
        assert updater.terminate()[0] == 0
