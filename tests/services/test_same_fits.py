"""The same events through Kafka and ``run``, and as a file through ``replay``: the same fits, bit for bit."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import torch
from safetensors.torch import load as tensors_of
from torch import Tensor

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


Payload = tuple[bytes, bytes, int]  # key, canonical JSON, event time

PRICE_MS = 6 * 3_600_000  # a price lasts so long
IN_EVENTS = """
[events.attributes.item]
category = "category"
price = { kind = "number", field = "price.now" }
[events.attributes.user]
camp = "category"
"""
IN_A_FILE = """
[events.attributes]
item_file = "{folder}/items.csv"
user_file = "{folder}/users.csv"
[events.attributes.item]
category = "category"
[events.attributes.user]
camp = "category"
"""
SHOWN = """
[events]
impressions = ["show"]
attribution = "30m"
"""


@dataclass(frozen=True)
class Fit:
    """One fit: up to which sequence numbers, what was said of it, its examples, what it left."""

    cut: tuple[int, ...]
    said: str
    examples: tuple[int, int]
    model_hash: str
    heads: str  # their hash


def busy_shop(event_count: int) -> Shop:
    """Three days of 40 users; with 6,000 events one comes back when all its events have expired."""
    return open_shop(
        ShopOptions(
            user_count=40, item_count=40, category_count=6, event_count=event_count, start_ms=START_MS,
            span_ms=72 * HOUR_MS,
        )
    )  # fmt: skip


def payloads_of(shop: Shop) -> list[Payload]:
    """The shop's events."""
    return [(*pair, ms) for pair, ms in zip(shop.payloads(), shop.time_ms.tolist(), strict=True)]


def with_attributes(shop: Shop, events: list[Payload]) -> list[Payload]:
    """Prices change every six hours, a third of the events say nothing, a few what is no price.

    So an item has no more values between two fits than are kept of a field.
    """
    rng, found = random.Random(5), list[Payload]()
    for key, value, time_ms in events:
        told = json.loads(value)
        if rng.random() < 0.67:
            told |= {"category": shop.category_of(told["item_id"]), "camp": f"camp{len(found) % 3}"}
            price = random.Random(f"{told['item_id']} {time_ms // PRICE_MS}").uniform(1, 99)
            told |= {"price": {"now": "cheap" if rng.random() < 0.01 else round(price, 2)}}
        found.append((key, json.dumps(told).encode(), time_ms))
    return found


def with_impressions(shop: Shop, events: list[Payload]) -> list[Payload]:
    """With each event, and at its own time, its item and another are shown."""
    rng, found = random.Random(6), list[Payload]()
    for key, value, time_ms in events:
        told = json.loads(value)
        for item in (told["item_id"], rng.choice(shop.item_ids)):
            shown = {"user_id": told["user_id"], "item_id": item, "behavior": "show", "ts": time_ms}
            found.append((key, json.dumps(shown).encode(), time_ms))
        found.append((key, value, time_ms))
    return found


def as_they_are(_: Shop, events: list[Payload]) -> list[Payload]:
    """Without anything beside."""
    return events


def write_files(shop: Shop, folder: Path) -> None:
    """The catalogs that ``IN_A_FILE`` names."""
    for name, ids, column, value in (
        ("items", shop.item_ids, "category", shop.category_of),
        ("users", shop.user_ids, "camp", lambda user: f"camp{len(user) + ord(user[-1]) % 3}"),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([f"{name[:-1]}_id", column])
            rows.writerows([[one, value(one)] for one in ids])


def hash_of_heads(tensors: dict[str, Tensor]) -> str:
    """Of the weights and the certainty of every head in a trainer's state."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("answer_heads.")}
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(own):
        digest.update(name.encode() + own[name].numpy().tobytes())
    return digest.hexdigest()


def replayed(
    config: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Fit], list[GenerationReport]]:
    """The fits of a replay but the last, which is of the rest of the file."""
    fits, cycle = list[Fit](), Worker.cycle

    def noted(worker: Worker, moment: Moment) -> tuple[GenerationReport, Any]:
        report, predictions = cycle(worker, moment)
        examples = (report.fit.new_examples, report.fit.replayed_examples)
        heads = hash_of_heads(worker.trainer.state_dict()[0])
        fits.append(Fit(moment.cut.next, said_of(describe(report)), examples, worker.model_hash, heads))
        return report, predictions

    settings = load(config)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "cycle", noted)
        report = replay(settings, events, redis="none", predictions=None, progress=NoProgress())
    assert len(fits) == len(report.generations)
    return fits[:-1], list(report.generations)


def produce_part(kafka: RealKafka, topic: str, events: list[Payload]) -> None:
    records = [{"value": value, "key": key, "timestamp": time_ms} for key, value, time_ms in events]
    produce(kafka.address, topic, records)


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

    def saved(self) -> tuple[tuple[int, ...], str]:
        """The cut of the newest saved model, and the hash of its heads."""
        found, _ = checkpoint.latest(self.data_dir / "trainer", is_ours=False)
        assert found is not None
        cut = tuple(int(number) for number in str(found.facts["next"]).split())
        return cut, hash_of_heads(tensors_of(found.read("trainer.safetensors")))


@pytest.mark.parametrize(
    ("every", "event_count", "more", "and_more"),
    [
        ("6h", 6_000, "", as_they_are),
        ("auto", 9_000, "", as_they_are),
        ("12h", 4_000, IN_EVENTS, with_attributes),
        ("12h", 4_000, IN_A_FILE, as_they_are),
        ("12h", 3_000, SHOWN, with_impressions),
    ],
    ids=["every 6h", "auto", "attributes in events", "attributes in files", "impressions"],
)
def test_the_same_events_have_the_same_fits_live_and_in_a_replay(
    real_kafka: RealKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    every: str, event_count: int, more: str, and_more: Callable[[Shop, list[Payload]], list[Payload]],
) -> None:  # fmt: skip
    """Cuts, examples, metrics, model, heads. Events come until one passes a mark, and go on after the fit
    there. With impressions a mark counts edges alone.
    """
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the worker's process reads
    topic, shop = f"same-{uuid4().hex[:8]}", busy_shop(event_count)
    make_topic(real_kafka.address, topic, 1)
    events, file = and_more(shop, payloads_of(shop)), tmp_path / "shop.jsonl"
    file.write_bytes(b"".join(value + b"\n" for _, value, _ in events))
    write_files(shop, tmp_path)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        config = tmp_path / "driftgraph.toml"
        config.write_text(
            CONFIG.format(
                topic=topic, folder=tmp_path / "var", kafka=real_kafka.address, redis=server.url,
                namespace=topic, every=every,
            ) + more.replace("{folder}", str(tmp_path)),
            encoding="utf-8",
        )  # fmt: skip
        fits, generations = replayed(config, file, monkeypatch)
        accepted = [fit for fit, one in zip(fits, generations[:-1], strict=True) if one.fit.accepted]
        assert len(accepted) >= FITS_MIN, [fit.said for fit in fits]
        assert len({fit.model_hash for fit in accepted}) == len(accepted)
        edges = [0, *(sum(fit.cut) + 1 for fit in fits)]
        produce_part(real_kafka, topic, events[: edges[1]])
        live = Live(stack.enter_context(RunningUpdater(config)), tmp_path / "var")
        has_model = False
        for number, fit in enumerate(fits):
            if number:
                produce_part(real_kafka, topic, events[edges[number] : edges[number + 1]])
            live.wait_for_fits(number + 1)
            assert live.said() == [one.said for one in fits[: number + 1]]
            assert live.examples() == fit.examples
            has_model = has_model or fit in accepted
            if has_model:
                assert live.saved() == (fit.cut, fit.heads)
        window = live.updater.status()["window"]
        assert sum(window.values()) < edges[-1], "some events have expired meanwhile"
        store = GenerationStore(client, namespace=topic, epoch=0)
        assert hashes(store) == [fit.model_hash for fit in accepted]
        if more == SHOWN:
            assert len({fit.heads for fit in fits}) > FITS_MIN - 1, "the heads learn at each fit"
