"""Lists that are published while the first fit is made: who waits for whom, and what a failure costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.config.settings import Settings
from driftgraph.app.training.beside import Beside
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.process import loop
from driftgraph.app.training.work_counts import WorkCounts
from driftgraph.snapshots.generations.keys import RedisUnavailableError, StaleWorkerError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.ingest.fit_schedule import Mark, Marks
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import StaleCut
from tests.shop_worlds import batch_of, graph_of, small_shop, trainer_of
from tests.waits import until

SHOP = small_shop()
LONG_S = 60.0


def begun(graph: Heterograph, store: GenerationStore, folder: Path) -> loop._Loop:
    """A loop whose first fit is due, and nothing is served."""
    mark = Mark(graph.moment().cut, graph.owners(), is_early=False)
    worker = Worker(graph, trainer_of(), store, checkpoints=folder / "trainer")
    return loop._Loop(Settings.model_validate({"data_dir": folder}), worker, lambda: Marks(regular=mark))


def made_by(store: GenerationStore) -> str:
    served = store.served()
    return "nothing" if served is None else str(served.manifest["made_by"])


def test_lists_are_served_before_the_first_fit_has_ended(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of([batch_of(SHOP)])
    looking = begun(graph, store, tmp_path)
    worker, served = looking.worker, list[str]()
    fit = worker.trainer.fit

    def fit_behind_the_lists(*given: Any, **named: Any) -> Any:
        publish = worker._beside._publish
        assert publish is not None
        publish.result(LONG_S)
        served.append(made_by(store))
        return fit(*given, **named)

    monkeypatch.setattr(worker.trainer, "fit", fit_behind_the_lists)
    looking._step(graph.moment())
    assert worker.refresher is not None
    assert served == ["co-visitation and popularity"]
    assert (made_by(store), worker.published, worker.refresher.number) == ("model", 2, 2)


def test_a_fit_that_ends_first_waits_for_the_lists_and_changes_nothing_in_them(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of([batch_of(SHOP)])
    looking = begun(graph, store, tmp_path)
    worker, published = looking.worker, list[tuple[int, str, int]]()
    first, publish = worker._first, store.publish

    def lists_behind_the_fit(*given: Any) -> Any:
        until(lambda: worker.trainer.model_version, LONG_S)
        return first(*given)

    def told(number: int, users: Any, items: Any, manifest: Any, *rest: Any, **named: Any) -> None:
        published.append((number, manifest["made_by"], manifest["model_version"]))
        publish(number, users, items, manifest, *rest, **named)

    monkeypatch.setattr(worker, "_first", lists_behind_the_fit)
    monkeypatch.setattr(store, "publish", told)
    looking._step(graph.moment())
    assert published == [(1, "co-visitation and popularity", 0), (2, "model", 1)]
    assert made_by(store) == "model"


def test_lists_that_redis_refuses_cost_the_fit_nothing(
    store: GenerationStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = graph_of([batch_of(SHOP)])
    looking = begun(graph, store, tmp_path)
    worker, publish = looking.worker, store.publish

    def refused(number: int, users: Any, items: Any, manifest: Any, *rest: Any, **named: Any) -> None:
        if manifest["made_by"] != "model":
            raise RedisUnavailableError("Redis is away")
        publish(number, users, items, manifest, *rest, **named)

    monkeypatch.setattr(store, "publish", refused)
    looking._step(graph.moment())
    assert "the lists that are served until there is a model are not published: Redis is away" in caplog.text
    assert worker.status.work.redis_errors["publish"] == 1
    assert (made_by(store), worker.trainer.model_version) == ("model", 1)


def test_lists_wait_for_no_fit_that_is_not_due(store: GenerationStore, tmp_path: Path) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker = Worker(graph, trainer_of(), store, checkpoints=tmp_path / "trainer")
    loop._Loop(Settings.model_validate({"data_dir": tmp_path}), worker, Marks)._step(graph.moment())
    assert (made_by(store), worker.trainer.model_version) == ("co-visitation and popularity", 0)


@pytest.mark.parametrize("error", [StaleWorkerError("a newer one"), KeyError("a fault of ours")])
def test_who_waits_is_told_what_must_end_the_worker(error: Exception) -> None:
    def publish() -> None:
        raise error

    beside = Beside(WorkCounts())
    with pytest.raises(type(error)), beside.during(publish):
        pass


@pytest.mark.parametrize("error", [StaleCut("the ring moved on"), RedisUnavailableError("away")])
def test_who_waits_is_not_told_what_the_next_publish_makes_good(error: Exception) -> None:
    def publish() -> None:
        raise error

    work = WorkCounts()
    beside = Beside(work)
    with beside.during(publish):
        beside.wait()
        beside.wait()
    assert work.redis_errors["publish"] == isinstance(error, RedisUnavailableError)
