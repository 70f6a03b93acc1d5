"""The same events through Kafka and ``run``, and as a file through ``replay``: the same fits, bit for bit."""

from __future__ import annotations

import contextlib
import re
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
from driftgraph.app.demo.shop import Shop, ShopOptions, open_shop
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
FIT_WITHIN_S = 120.0
FIT = re.compile(r"worker: (generation \d+ \(model version \d+\).*|no new generation: .*)")

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
every = "{every}"
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


def busy_shop(event_count: int) -> Shop:
    """Three days of 40 users; with 6,000 events one comes back when all its events have expired."""
    return open_shop(
        ShopOptions(
            user_count=40, item_count=40, category_count=6, event_count=event_count, start_ms=START_MS,
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
        fits.append(Fit(moment.cut.next, said_of(describe(report)), examples, worker.model_hash))
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


def said_of(line: str) -> str:
    """A line about a fit, without the number under which Redis has it: the lists before took one."""
    return re.sub(r"generation \d+ \((model version \d+)\)", r"\1", line)


@dataclass(frozen=True)
class Live:
    """A running updater, and what its worker says of fits."""

    updater: RunningUpdater
    data_dir: Path

    def said(self) -> list[str]:
        return [said_of(line[1]) for line in map(FIT.search, self.updater.output().splitlines()) if line]

    def wait_for_fits(self, count: int) -> None:
        until(
            f"fit {count}; {self.updater.output()}",
            lambda: self.updater.status() and len(self.said()) >= count,
            FIT_WITHIN_S,
        )

    def examples(self) -> tuple[int, int]:
        """Of the newest fit."""
        fit = msgspec.json.decode((self.data_dir / "status/worker.json").read_bytes())["fit"]
        return fit["new_examples"], fit["replayed_examples"]

    def trained_up_to(self) -> tuple[int, ...]:
        """The cut of the newest saved model."""
        found, _ = checkpoint.latest(self.data_dir / "trainer")
        assert found is not None
        return tuple(int(number) for number in str(found.facts["next"]).split())


@pytest.mark.parametrize(("every", "event_count"), [("6h", 6_000), ("auto", 9_000)])
def test_the_same_events_have_the_same_fits_live_and_in_a_replay(
    real_kafka: RealKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, event_count: int
) -> None:
    """Cuts, examples, metrics, model. Events come until one passes a mark, and go on after the fit there."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the worker's process reads
    topic, shop = f"same-{uuid4().hex[:8]}", busy_shop(event_count)
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
                namespace=topic, every=every,
            ),
            encoding="utf-8",
        )  # fmt: skip
        fits, generations = replayed(config, events, monkeypatch)
        accepted = [fit for fit, one in zip(fits, generations[:-1], strict=True) if one.fit.accepted]
        assert len(accepted) >= FITS_MIN, [fit.said for fit in fits]
        assert len({fit.model_hash for fit in accepted}) == len(accepted)
        edges = [0, *(sum(fit.cut) + 1 for fit in fits)]
        produce_part(real_kafka, topic, shop, slice(0, edges[1]))
        live = Live(stack.enter_context(RunningUpdater(config)), tmp_path / "var")
        for number, fit in enumerate(fits):
            if number:
                produce_part(real_kafka, topic, shop, slice(edges[number], edges[number + 1]))
            live.wait_for_fits(number + 1)
            assert live.said() == [one.said for one in fits[: number + 1]]
            assert live.examples() == fit.examples
            if fit in accepted:
                assert live.trained_up_to() == fit.cut
        window = live.updater.status()["window"]
        assert sum(window.values()) < edges[-1], "some events have expired meanwhile"
        store = GenerationStore(client, namespace=topic, epoch=0)
        assert hashes(store) == [fit.model_hash for fit in accepted]
