"""``driftgraph run`` started again with another configuration, beside a real Kafka and a real Redis."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest
import redis as redis_py

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.demo.shop import Shop
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services.conftest import RealKafka
from tests.services.test_live import fill, recent_shop
from tests.services.updaters import CODE, RunningUpdater, configured, model_served, run_to_its_end, until

pytestmark = pytest.mark.services

RELATIONS = "[relations.click]\n        [relations.favorite]\n        [relations.purchase]\n"


@dataclass
class Place:
    """An updater that ran for one generation and was stopped, and what it left."""

    config: Path
    client: redis_py.Redis
    shop: Shop

    def reader(self, namespace: str = "shop") -> EmbeddingReader:
        return EmbeddingReader(self.client, namespace=namespace)

    def served(self, namespace: str = "shop") -> dict[str, str]:
        """The manifest of what is served."""
        store = GenerationStore(self.client, namespace=namespace, epoch=1 << 40)
        [served] = [one for one in store.generations() if one.current]
        return dict(served.manifest)

    def copy(self, name: str, *changes: tuple[str, str], namespace: str) -> Path:
        """The same updater in another folder, with another configuration and namespace."""
        folder = self.config.parent.with_name(name)
        shutil.copytree(self.config.parent, folder)
        text = self.config.read_text(encoding="utf-8").replace(str(self.config.parent), str(folder))
        for old, new in (*changes, ('namespace = "shop"', f'namespace = "{namespace}"')):
            assert old in text, old
            text = text.replace(old, new)
        config = folder / self.config.name
        config.write_text(text, encoding="utf-8")
        (folder / "output.log").unlink()
        return config


@pytest.fixture(scope="module")
def place(real_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    topic, shop = f"changed-{uuid4().hex[:8]}", recent_shop()
    fill(real_kafka, topic, shop)
    with EmbeddedRedis() as server, closing(connect(server.url)) as client:
        folder = tmp_path_factory.mktemp("changed") / "one"
        folder.mkdir()
        config = configured(folder, kafka=real_kafka.address, topic=topic, redis=server.url)
        found = Place(config, client, shop)
        with RunningUpdater(config) as updater:
            until("the model is served", lambda: updater.status() and model_served(client), 240)
            until("the model is saved", (folder / "var/trainer/1").is_dir)
            assert updater.terminate()[0] == 0
        yield found


def status_of(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, "status", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def goes_on(place: Place, config: Path, namespace: str) -> tuple[dict[str, Any], str]:
    """Run until something is published in the namespace; its status and what it printed."""
    with RunningUpdater(config) as updater:
        until(
            f"a generation is published: {updater.output()}",
            lambda: updater.status() and place.reader(namespace).current(),
            120,
        )
        updater.wait_for("a status after it", lambda s: s["state"] == "running" and s["worker"]["pid"])
        status = updater.status()
        assert updater.terminate()[0] == 0
        return status, updater.output()


def test_relations_in_another_order_in_a_new_namespace_serve_the_same_vectors_at_once(place: Place) -> None:
    """And the folder was moved: the model is published there without a fit."""
    turned = "[relations.purchase]\n[relations.click]\n[relations.favorite]\n"
    config = place.copy("turned", (RELATIONS, turned), namespace="turned")
    status, output = goes_on(place, config, "turned")
    assert (status["worker"]["starts"], status["worker"]["failures"]) == (1, 0)
    assert status["events"]["read"] == 0, "the window goes on, too"
    assert place.served("turned")["model_version"] == "1"
    users = sorted({place.shop.user_ids[n] for n in place.shop.user.tolist()})
    one, two = (place.reader(name).batch(users=users, items=[]).users for name in ("shop", "turned"))
    np.testing.assert_allclose(two, one, atol=1e-4)
    assert " is new" not in output
    assert " is no relation" not in output


def test_a_new_relation_starts_fresh_and_a_removed_one_goes(place: Place) -> None:
    config = place.copy(
        "other", (RELATIONS, "[relations.view]\n[relations.click]\n[relations.purchase]\n"), namespace="other"
    )
    status, output = goes_on(place, config, "other")
    assert status["worker"]["failures"] == 0
    clicks = int((place.shop.behavior == 0).sum())
    assert (status["window"]["view"], status["window"]["click"]) == (0, clicks)
    assert re.search(
        r"view is new: it has events from now on; to fill it from the topic, remove \S+checkpoints", output
    )
    gone = int((place.shop.behavior == 1).sum())
    assert f"favorite is no relation now: its {gone:,} events are gone" in output
    assert "model version 1 goes on: view is new and untrained, favorite is gone" in output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dim = 16", "dim = 32", "the saved model has dim 16, this configuration 32: set model.dim = 16"),
        ("dim = 16", "dim = 16\nheads = 2", "has heads 4, this configuration 2: set model.heads = 4"),
        ("dim = 16", "dim = 16\nlayers = 2", "has layers 1, this configuration 2: set model.layers = 1"),
    ],
)
def test_another_size_is_refused_at_the_start_and_without_the_saved_model_it_goes(
    place: Place, old: str, new: str, words: str
) -> None:
    name = re.sub(r"\W+", "", new)
    config = place.copy(name, (old, new), namespace=name)
    refused = run_to_its_end(config)
    assert refused.returncode == 1
    [line] = refused.stderr.strip().splitlines()
    assert words in line
    trainer = config.parent / "var" / "trainer"
    assert f"or remove {trainer}; a new model then starts from the window" in line
    if new == "dim = 32":
        shutil.rmtree(trainer)
        goes_on(place, config, name)
        assert place.served(name)["dim"] == "32"


def test_a_device_that_is_not_there_is_refused_at_the_start(place: Place) -> None:
    config = place.copy("cuda", ('device = "cpu"', 'device = "cuda:63"'), namespace="cuda")
    refused = run_to_its_end(config)
    assert refused.returncode == 2
    [_, line] = refused.stderr.strip().splitlines()
    assert "model.device = cuda:63, but PyTorch" in line


def test_another_shard_says_that_the_window_is_filled_from_the_topic(place: Place) -> None:
    config = place.copy("shard", (RELATIONS, f'shard = "1/2"\n{RELATIONS}'), namespace="shard")
    status, output = goes_on(place, config, "shard")
    assert 0 < status["events"]["applied"] < len(place.shop)
    assert "is of topic" in output
    assert "shard 1/2: the window is filled from the topic" in output


def has_failed(times: int, status: dict[str, Any]) -> bool:
    return bool(status["worker"]["failures"] == times)


def test_a_worker_that_is_killed_again_and_again_is_an_error_state(place: Place) -> None:
    """Ingestion goes on; state, reason and exit code tell it."""
    config = place.copy("killed", namespace="killed")
    with RunningUpdater(config) as updater:
        for failures in (1, 2):
            updater.wait_for("a worker runs", lambda s: s["worker"]["pid"])
            os.kill(updater.status()["worker"]["pid"], signal.SIGKILL)
            updater.wait_for("it is seen", partial(has_failed, failures))
        updater.wait_for("it is degraded", lambda s: s["state"] == "degraded")
        why = "ended by signal 9 (SIGKILL); is memory short?"
        assert updater.status()["why"] == f"the worker failed 2 times in a row, last: {why}"
        told = status_of(config)
        assert told.returncode == 1
        assert "degraded, pid" in told.stdout
        assert f"failed 2 times in a row, last: {why}" in told.stdout
        until("it publishes all the same", lambda: place.reader("killed").current(), 90)
        assert updater.status()["state"] == "degraded", "it runs for seconds only"
        assert updater.terminate()[0] == 0


def again(config: Path, namespace: str, *changes: tuple[str, str]) -> str:
    """Write the changes into the configuration, which then publishes into another namespace; return that."""
    text = re.sub(r'namespace = ".*"', f'namespace = "{namespace}"', config.read_text(encoding="utf-8"))
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    (config.parent / "output.log").unlink(missing_ok=True)
    return namespace


ATTRIBUTES = '[events.attributes.item]\ncategory = "category"\nbrand = "category"\n'
ITEM_FIELD = 'item = {category = "category"}\n'
SHOWN = '[events]\nimpressions = ["show"]\nattribution = "1h"\n'


def test_attributes_impressions_and_negatives_come_and_go_with_the_model_and_the_window(place: Place) -> None:
    """Three starts after the first: each says what is new or gone, makes no fit, and no worker fails."""
    config = place.copy("parts", (RELATIONS, RELATIONS + SHOWN + ATTRIBUTES), namespace="parts1")
    again(
        config, "parts1", ("dim = 16", "dim = 16\nnegatives = {click = 5, purchase = 10}"), ("3650d", "3651d")
    )
    rows, clicks = len(place.shop), int((place.shop.behavior == 0).sum())

    def started(namespace: str) -> str:
        status, output = goes_on(place, config, namespace)
        assert (status["worker"]["starts"], status["worker"]["failures"]) == (1, 0), output
        assert (status["events"]["read"], status["window"]["click"]) == (0, clicks)
        assert place.served(namespace)["model_version"] == "1"
        assert "Traceback" not in output
        return output

    output = started("parts1")
    assert "show is new: it has events from now on" in output
    assert "attribute item.category is new: it has what events say from now on" in output
    assert "model version 1 goes on\n" in output
    again(config, "parts2", ('category = "category"', 'category = "tags"'), ('brand = "category"\n', ""))
    output = started("parts2")
    assert "attribute item.category is of the kind tags now and was category: its values of before" in output
    assert "attribute item.brand is not configured now: its values are gone" in output
    assert "show is" not in output
    again(
        config,
        "parts3",
        (SHOWN, ""),
        (ATTRIBUTES[:24], "[events.attributes.user]"),
        ("\nnegatives = {click = 5, purchase = 10}", ""),
    )
    output = started("parts3")
    assert "show is no relation now: its 0 events are gone" in output
    assert "attribute item.category is not configured now: its values are gone" in output
    assert "attribute user.category is new" in output
    assert rows == sum(updater_window(config).values())


def updater_window(config: Path) -> dict[str, int]:
    """What the last status says of the window."""
    found: dict[str, int] = msgspec.json.decode((config.parent / "var/status/updater.json").read_bytes())[
        "window"
    ]
    return found


@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        ("own", ("dim = 16", 'dim = 16\ncustom = "tests.model.custom_models:Mean"'), 1,
         "tests.model.custom_models:Mean: remove model.custom and model.backend to go on with it, or remove"),
        ("missing", ("dim = 16", 'dim = 16\ncustom = "no.such:Thing"'), 1,
         "remove model.custom and model.backend"),
        ("backend", ("dim = 16", 'dim = 16\nbackend = "dgl"'), 2, "name its class in custom"),
        ("unknown", ("dim = 16", "dim = 16\nnegatives = {stare = 3}"), 2,
         "model.negatives names 'stare', which is no relation; the relations are click, favorite, purchase"),
        ("both", (RELATIONS, RELATIONS + '[events]\nimpressions = ["favorite"]\n'), 2,
         "events.impressions has favorite, which is a relation too"),
        ("kind", (RELATIONS, RELATIONS + '[events.attributes.item]\nsize = "length"\n'), 2,
         "size should be of a kind category, tags, number, text"),
        ("file", (RELATIONS, f'{RELATIONS}[events.attributes]\nitem_file = "gone.csv"\n{ITEM_FIELD}'), 1,
         "gone.csv"),
    ],
)  # fmt: skip
def test_another_network_and_parts_that_cannot_be_are_refused_in_one_sentence(
    place: Place, name: str, change: tuple[str, str], code: int, words: str
) -> None:
    config = place.copy(f"refused-{name}", change, namespace="refused")
    refused = run_to_its_end(config)
    assert refused.returncode == code, refused.stderr
    assert words in refused.stderr.strip().splitlines()[-1]
    assert "Traceback" not in refused.stderr
