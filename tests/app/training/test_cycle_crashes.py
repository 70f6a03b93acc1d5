"""A worker killed at every point of a cycle: the next start goes on as if nothing had happened.

The oracle is a worker that was not killed: the same weights, to the bit, and the same metrics.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings
from driftgraph.app.training.process import worker_start
from driftgraph.app.training.retraining import Request, Requests
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from tests.cycle_process import POINTS, run, steps, worker_started
from tests.services_redis import NAMESPACE, assert_no_remains, publish
from tests.shop_worlds import RELATIONS, batch_of, grow, small_shop

SHOP = small_shop()
SERVED_BEFORE, FIT_IS_KEPT_FROM, SWITCHED_FROM = 1, "save: rename", "publish: switch"


@dataclass(frozen=True)
class World:
    """A window, a trainer's state of two thirds of it, and what a cycle on the rest comes to."""

    folder: Path
    url: str
    graph: Heterograph
    uncrashed: Mapping[str, str]  # the manifest

    def settings(self, data_dir: Path) -> Settings:
        return _settings(data_dir, self.url)


def _settings(data_dir: Path, url: str) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "relations": {r.name: {"span": f"{r.span_ms}ms"} for r in RELATIONS},
            "model": {"dim": 16, "device": "cpu"},
            "redis": {"url": url, "namespace": NAMESPACE},
        }
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> World:
    folder = tmp_path_factory.mktemp("world")
    settings = _settings(folder, redis_server.url)
    with closing(connect(redis_server.url)) as client:
        client.flushall()
    graph = Heterograph.create(
        folder / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),)
    )
    edge = len(SHOP) * 2 // 3
    grow(graph, batch_of(SHOP, 0, edge))
    first = worker_start.attached(settings, folder / "window", cast(GenerationStore, None))
    report, _ = first.cycle(first.graph.moment())
    assert report.fit.accepted
    grow(graph, batch_of(SHOP, edge))
    shutil.copytree(folder / "trainer", folder / "uncrashed" / "trainer")
    worker = worker_started(_settings(folder / "uncrashed", redis_server.url), folder / "window", epoch=1)
    steps(settings, worker, 2)
    assert worker.store is not None
    newest = worker.store.generations()[-1]
    assert newest.current
    assert newest.manifest["metrics"]
    return World(folder, redis_server.url, graph, dict(newest.manifest))


@pytest.fixture
def data_dir(world: World, tmp_path: Path) -> Path:
    shutil.copytree(world.folder / "trainer", tmp_path / "trainer")
    return tmp_path


def killed(world: World, data_dir: Path, point: str) -> None:
    """A process of its own that makes a cycle, and dies at ``point``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cycle_process"])
    process = context.Process(target=run, args=(world.settings(data_dir), world.folder / "window", point))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def served(client: redis.Redis) -> tuple[int, Mapping[str, str]]:
    """The number and the manifest of what readers get, after a look that all of it is there."""
    store = GenerationStore(client, namespace=NAMESPACE, epoch=9)
    current = next(one for one in store.generations() if one.current)
    users, items = (
        [
            i.decode()
            for i in cast("list[bytes]", client.lrange(f"{NAMESPACE}:emb:{current.number}:{kind}-ids", 0, -1))
        ]
        for kind in ("user", "item")
    )
    batch = EmbeddingReader(client, namespace=NAMESPACE).batch(users=users, items=items)
    assert batch.generation == current.number
    assert batch.users_found.all()
    assert batch.items_found.all()
    assert (len(users), len(items)) == (int(current.manifest["users"]), int(current.manifest["items"]))
    return current.number, current.manifest


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_the_next_start_serves_what_was_saved_and_loses_no_fit(
    point: str, world: World, data_dir: Path, redis_client: redis.Redis
) -> None:
    killed(world, data_dir, point)
    places = list(POINTS)
    place = places.index(point)
    is_kept, is_switched = (
        place >= next(n for n, name in enumerate(places) if name.startswith(first))
        for first in (FIT_IS_KEPT_FROM, SWITCHED_FROM)
    )
    number, manifest = served(redis_client)
    assert number == 1 + is_switched
    assert (manifest["model_hash"] == world.uncrashed["model_hash"]) == is_switched

    settings = world.settings(data_dir)
    worker = worker_started(settings, world.folder / "window", epoch=2)
    assert (worker.since.next == worker.graph.moment().cut.next) == is_kept, "what is saved is trained on"
    is_served = is_switched or not is_kept
    assert worker.published == (number if is_served else 0), "what is saved and served is not published again"
    steps(settings, worker, 1)
    now, manifest = served(redis_client)
    assert now == number + (not is_switched), "what is saved is published, or the fit is made again"
    steps(settings, worker, 1)
    worker.look(worker.graph.moment())  # as a second later
    assert served(redis_client) == (now, manifest)
    for name in ("model_hash", "metrics", "evaluated_events", "watermark_ms", "users", "items"):
        assert manifest[name] == world.uncrashed[name], f"{name} is that of a worker that was not killed"
    generations = GenerationStore(redis_client, namespace=NAMESPACE, epoch=9).generations()
    hashes = [one.manifest["model_hash"] for one in generations]
    assert len(set(hashes)) == len(hashes) == 2, "a model has one generation"
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert all(reader.trending(relation.name) for relation in RELATIONS)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=9)
    assert_no_remains_but_trends(store, redis_client)


def assert_no_remains_but_trends(store: GenerationStore, client: redis.Redis) -> None:
    client.delete(f"{NAMESPACE}:trending", *(f"{NAMESPACE}:trending:{r.name}" for r in RELATIONS))
    assert_no_remains(store, client)


def test_what_an_operator_went_back_from_is_not_published_by_a_start_and_the_next_fit_is(
    world: World, data_dir: Path, redis_client: redis.Redis
) -> None:
    """Killed after the next fit was saved: that is a new model, which no operator has seen."""
    settings = world.settings(data_dir)
    publish(GenerationStore(redis_client, namespace=NAMESPACE, epoch=1), 1)  # whose state is not there
    worker = worker_started(settings, world.folder / "window", epoch=1)
    worker.publish(worker.graph.moment())
    assert worker.published == 2
    assert GenerationStore(redis_client, namespace=NAMESPACE, epoch=1).rollback() == 1
    again = worker_started(settings, world.folder / "window", epoch=1)
    assert (again.published, again.is_rolled_back) == (0, True)
    killed(world, data_dir, "save | publish")
    assert served(redis_client)[0] == 1, "the start did not publish, and the fit was not yet published"
    steps(settings, worker_started(settings, world.folder / "window", epoch=2), 1)
    number, manifest = served(redis_client)
    assert number > 2
    assert manifest["model_hash"] == world.uncrashed["model_hash"]


@pytest.mark.parametrize("point", ["gate | save", "save | publish", "publish: switch | tidy"])
def test_a_retrain_that_was_asked_for_is_answered_after_a_kill_and_made_once(
    point: str, world: World, data_dir: Path, redis_client: redis.Redis
) -> None:
    """The worker finds the request again; a fit that was saved is published, and answers it."""
    requests, request = Requests(data_dir), Request.new(full=False)
    with requests.ask(request):
        killed(world, data_dir, point)
        assert requests.answered(request) is None
        worker = worker_started(world.settings(data_dir), world.folder / "window", epoch=2)
        steps(world.settings(data_dir), worker, 2)
        answer = requests.answered(request)
        assert requests.waiting() is None
        fits = worker.trainer.fit_count
        steps(world.settings(data_dir), worker, 2)
    number, manifest = served(redis_client)
    assert answer is not None
    assert (answer.outcome, answer.model_version, answer.generation) == ("published", 2, number)
    assert manifest["model_hash"] == world.uncrashed["model_hash"]
    assert worker.trainer.fit_count == fits == 2
