"""The same events through Kafka and ``run``, and as a file through ``replay``: the same fits, bit for bit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import torch

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.replay import replay
from driftgraph.app.config.settings import load
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.demo.shop import BEHAVIORS, Shop, ShopOptions, open_shop
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.generation_report import GenerationReport, describe
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.window.heterograph import Moment
from tests.kafka_brokers import produce
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic
from tests.services.updaters import RunningUpdater, until

pytestmark = pytest.mark.services

HOUR_MS = 3_600_000
START_MS = 1_782_864_000_000
FITS_MIN = 3  # that were accepted

CONFIG = """
name = "{topic}"
data_dir = "{folder}"
[kafka]
bootstrap_servers = "{kafka}"
topic = "{topic}"
start = "earliest"
[relations.click]
span = "30h"
[relations.favorite]
span = "60h"
[relations.purchase]
span = "90h"
[time]
out_of_orderness = "1s"
idle_timeout = "1h"
[fit]
every = "12h"
[model]
dim = 16
device = "cpu"
[redis]
url = "{redis}"
namespace = "{namespace}"
keep = 20
"""


@dataclass(frozen=True)
class Fit:
    """One fit: up to which sequence numbers, what was said of it, its examples, and the model after it."""

    cut: tuple[int, ...]
    said: str
    examples: tuple[int, int]
    model_hash: str


def busy_shop() -> Shop:
    """Three days in which nobody and nothing is gone for as long as a span."""
    return open_shop(
        ShopOptions(
            user_count=40, item_count=40, category_count=6, event_count=3_000, start_ms=START_MS,
            span_ms=72 * HOUR_MS,
        )
    )  # fmt: skip


def replayed(
    config: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Fit], list[GenerationReport]]:
    """The fits of a replay but the last, which is of the rest of the file."""
    fits, plain = list[Fit](), Worker.cycle

    def noted(worker: Worker, moment: Moment) -> tuple[GenerationReport, Any]:
        report, predictions = plain(worker, moment)
        examples = (report.fit.new_examples, report.fit.replayed_examples)
        fits.append(Fit(moment.cut.next, describe(report), examples, worker._model_hash()))
        return report, predictions

    settings = load(config)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "cycle", noted)
        report = replay(settings, events, redis="none", predictions=None, progress=NoProgress())
    assert len(fits) == len(report.generations)
    return fits[:-1], list(report.generations)


def produce_part(kafka: RealKafka, topic: str, shop: Shop, part: slice) -> None:
    payloads = [*shop.payloads()][part]
    times = shop.time_ms[part].tolist()
    produce(
        kafka.address,
        topic,
        [
            {"value": value, "key": key, "timestamp": time_ms}
            for (key, value), time_ms in zip(payloads, times, strict=True)
        ],
    )


def hashes(store: GenerationStore) -> list[str]:
    """Of the models that were published, oldest first."""
    found = sorted(store.generations(), key=lambda one: one.number)
    return [one.manifest["model_hash"] for one in found if one.manifest["made_by"] == "model"]


def trained_up_to(folder: Path) -> tuple[int, ...]:
    """The cut of the newest saved model."""
    found, _ = checkpoint.latest(folder / "trainer")
    assert found is not None
    return tuple(int(number) for number in str(found.facts["next"]).split())


def test_the_same_events_have_the_same_fits_live_and_in_a_replay(
    real_kafka: RealKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts, examples, metrics and model. Events come until one passes a mark, then the fit there is waited for."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the worker's process reads
    topic, shop = f"same-{uuid4().hex[:8]}", busy_shop()
    make_topic(real_kafka.address, topic, 1)
    events = tmp_path / "shop.jsonl"
    events.write_bytes(b"".join(value + b"\n" for _, value in shop.payloads()))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        config = tmp_path / "driftgraph.toml"
        config.write_text(
            CONFIG.format(
                topic=topic, folder=tmp_path / "var", kafka=real_kafka.address, redis=server.url,
                namespace=topic,
            ),
            encoding="utf-8",
        )  # fmt: skip
        fits, generations = replayed(config, events, monkeypatch)
        accepted = [fit for fit, one in zip(fits, generations[:-1], strict=True) if one.fit.accepted]
        assert len(accepted) >= FITS_MIN, [fit.said for fit in fits]
        assert len({fit.model_hash for fit in accepted}) == len(accepted)
        updater: RunningUpdater | None = None
        edges = [0, *(sum(fit.cut) + 1 for fit in fits)]
        for number, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            produce_part(real_kafka, topic, shop, slice(start, stop))
            updater = updater or stack.enter_context(RunningUpdater(config))
            said = lambda: [
                line.partition("worker: model ")[2].partition(", served as")[0]
                for line in updater.output().splitlines()
                if "worker: model " in line
            ]
            until(f"fit {number + 1}; {updater.output()}", lambda: updater.status() and len(said()) > number, 120)
            assert said() == [fit.said for fit in fits[: number + 1]]
            told = msgspec.json.decode((tmp_path / "var/status/worker.json").read_bytes())["fit"]
            assert (told["new_examples"], told["replayed_examples"]) == fits[number].examples
            if fits[number] in accepted:
                assert trained_up_to(tmp_path / "var") == fits[number].cut
        store = GenerationStore(client, namespace=topic, epoch=0)
        assert hashes(store) == [fit.model_hash for fit in accepted]
        window = updater.status()["window"]
        assert sum(window.values()) < edges[-1], "some events have expired meanwhile"
