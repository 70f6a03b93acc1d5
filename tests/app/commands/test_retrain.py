"""``driftgraph retrain``: one fit, here or by the worker of a running updater, and never two trainers."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console
from typer.testing import CliRunner

from driftgraph.app.cli.main import app
from driftgraph.app.cli.retrain import _print
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.retrain import retrain
from driftgraph.app.commands.saved_window import NoCheckpointError
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress, PlainProgress
from driftgraph.app.console.status_files import write_json
from driftgraph.app.training.process import loop, worker_start
from driftgraph.app.training.retraining import Request, Requests, RetrainError
from driftgraph.model import trainer
from driftgraph.model.fitting.gate import Verdict
from driftgraph.snapshots.checkpoints import checkpoint, window
from driftgraph.snapshots.generations.lease import Holder, LeaseClient, NamespaceTakenError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream import disk
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from tests.cycle_process import retrain_and_die
from tests.saved_windows import checkpointed
from tests.services_redis import NAMESPACE
from tests.shop_worlds import RELATIONS, batch_of, grow, small_shop
from tests.waits import until

SHOP = small_shop()
EPOCH = 1 << 40  # above those that a lease gives out
EDGE = len(SHOP) * 2 // 3


@pytest.fixture
def settings(tmp_path: Path, redis_client: redis.Redis, redis_server: EmbeddedRedis) -> Settings:
    """Of a data_dir that has a checkpoint of two thirds of the events."""
    assert redis_client.dbsize() == 0
    own = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "relations": {r.name: {"span": f"{r.span_ms}ms", "capacity": r.capacity} for r in RELATIONS},
            "window": {"user_rows": 1 << 12, "item_rows": 1 << 12},
            "model": {"dim": 16, "device": "cpu"},
            "redis": {"url": redis_server.url, "namespace": NAMESPACE},
        }
    )
    checkpointed(own, shop_until(EDGE))
    return own


def shop_until(stop: int) -> Heterograph:
    graph = Heterograph.create(None, RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),))
    grow(graph, batch_of(SHOP, 0, EDGE))
    if stop > EDGE:
        grow(graph, batch_of(SHOP, EDGE, stop))
    return graph


def made(settings: Settings, *, full: bool = False) -> dict[str, Any]:
    return retrain(settings, full=full, progress=NoProgress())


def updater_started(settings: Settings) -> Heterograph:
    """The window as an updater restores it: a life of its own on the newest checkpoint."""
    found, state, _ = window.latest(settings.data_dir / "checkpoints", "events 0/1")
    assert found is not None
    assert state is not None
    history = (*state.lives([r.name for r in RELATIONS]), Life("next"))
    graph = Heterograph.create(
        settings.data_dir / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=history
    )
    window.restore(found, state, graph, Deduplicator(), ErasedUsers(bytes(16)))
    return graph


def test_without_an_updater_it_trains_on_the_checkpoint_and_an_updater_goes_on_from_there(
    settings: Settings, redis_client: redis.Redis
) -> None:
    first = made(settings)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert (first["outcome"], first["made_by"], first["model_version"]) == ("published", "retrain", 1)
    assert first["generation"] == reader.current()
    assert first["new_examples"] > 0
    again = made(settings)
    assert (again["outcome"], again["generation"]) == ("nothing new", first["generation"])

    checkpointed(settings, shop_until(len(SHOP)))
    full = made(settings, full=True)
    assert (full["outcome"], full["model_version"]) == ("published", 2)
    graph = updater_started(settings)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=EPOCH)
    worker = worker_start.attached(settings, settings.data_dir / "window", store)
    assert worker.since.next == graph.moment().cut.next, "the updater's worker makes no fit again"
    assert worker.published == full["generation"] == reader.current()
    assert worker.trainer.begun_ms == graph.moment().cut.watermark_ms


@pytest.mark.parametrize("point", ["gate | save", "save | publish", "publish: switch | tidy"])
def test_a_kill_loses_no_fit_that_was_saved_and_the_next_retrain_publishes_it(
    point: str, settings: Settings, redis_client: redis.Redis
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cycle_process"])
    process = context.Process(target=retrain_and_die, args=(settings, point))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    is_saved = point != "gate | save"
    assert bool(checkpoint.numbers(settings.data_dir / "trainer")) == is_saved
    told = made(settings)
    assert told["outcome"] == ("nothing new" if is_saved else "published")
    assert told["model_version"] == 1
    assert told["generation"] == EmbeddingReader(redis_client, namespace=NAMESPACE).current()
    generations = GenerationStore(redis_client, namespace=NAMESPACE, epoch=EPOCH).generations()
    assert [one.manifest["model_version"] for one in generations].count("1") == 1, "the others are lists"


def test_a_rejected_fit_has_an_exit_code_of_its_own_and_changes_nothing(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(settings)
    checkpointed(settings, shop_until(len(SHOP)))
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    before = reader.current()
    monkeypatch.setattr(trainer, "judge", lambda *_, **__: Verdict(False, "holdout", "the holdout is worse"))
    config = settings.data_dir / "driftgraph.toml"
    tables = "".join(
        f'[relations.{r.name}]\nspan = "{r.span_ms}ms"\ncapacity = {r.capacity}\n' for r in RELATIONS
    )
    config.write_text(
        f'data_dir = "{settings.data_dir}"\n{tables}[window]\nuser_rows = 4096\nitem_rows = 4096\n'
        f'[model]\ndim = 16\ndevice = "cpu"\n'
        f'[redis]\nurl = "{settings.redis.address()}"\nnamespace = "{NAMESPACE}"\n'
    )
    said = CliRunner().invoke(app, ["retrain", "-c", str(config)])
    assert said.exit_code == 3
    assert f"the gate rejected the fit, and generation {before} (model version 1) stays: " in said.stdout
    assert "the holdout is worse" in said.stdout
    assert reader.current() == before


def test_beside_an_updater_its_worker_makes_the_fit(settings: Settings, redis_client: redis.Redis) -> None:
    """The updater's lock is held here, and its worker's loop runs in this thread."""
    graph = updater_started(settings)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=EPOCH)
    worker = worker_start.attached(settings, settings.data_dir / "window", store)
    running = loop._Loop(settings, worker, Marks)
    path = settings.data_dir / "lock"
    with path.open("a+") as file, ThreadPoolExecutor(1) as pool:
        with closing(disk.lock(file.fileno(), path)):
            told = pool.submit(made, settings)
            until(lambda: Requests(settings.data_dir).waiting() is not None)
            running._step(graph.moment())  # publishes lists first
            running._step(graph.moment())
            answer = told.result(60)
        assert (answer["outcome"], answer["made_by"], answer["model_version"]) == ("published", "worker", 1)
        assert answer["generation"] == EmbeddingReader(redis_client, namespace=NAMESPACE).current()
    assert sorted(path.name for path in (settings.data_dir / "retrain").iterdir()) == ["lock"]


def test_an_updater_whose_worker_fails_is_not_waited_for(settings: Settings) -> None:
    why = "the worker failed 3 times in a row, last: no memory"
    write_json(
        settings.data_dir / "status" / "updater.json", {"pid": os.getpid(), "state": "degraded", "why": why}
    )
    path = settings.data_dir / "lock"
    with path.open("a+") as file, closing(disk.lock(file.fileno(), path)):
        with pytest.raises(RetrainError, match=r"no fit is made: the worker failed 3 times"):
            made(settings)
        assert Requests(settings.data_dir).waiting() is None


def test_a_standby_that_has_the_folder_is_not_waited_for(settings: Settings) -> None:
    """It has the lock and waits for the lease, so it has no worker that could make a fit."""
    why = "waits as a standby: the updater with pid 7 on other has the lease of 'events'"
    write_json(
        settings.data_dir / "status" / "standby.json", {"pid": os.getpid(), "state": "standby", "why": why}
    )
    path = settings.data_dir / "lock"
    with path.open("a+") as file, closing(disk.lock(file.fileno(), path)):
        file.write(str(os.getpid()))
        file.flush()
        with pytest.raises(
            RetrainError, match=rf"no fit is made: pid {os.getpid()}, which has .* {why}; run"
        ):
            made(settings)
        assert Requests(settings.data_dir).waiting() is None


def test_a_worker_that_stands_still_is_not_waited_for_without_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait begins anew with each step, which is shown."""
    monkeypatch.setattr("driftgraph.app.commands.retrain.STILL_S_MAX", 0.5)
    worker, out = settings.data_dir / "status" / "worker.json", io.StringIO()
    path = settings.data_dir / "lock"

    def at(done: int) -> None:
        told = {"pid": os.getpid(), "state": "running", "stage": "training", "done": done, "total": 9}
        write_json(worker, told)

    at(3)
    progress = PlainProgress(out, SystemClock())
    with path.open("a+") as file, closing(disk.lock(file.fileno(), path)), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(retrain, settings, full=False, progress=progress)
        until(lambda: "the worker: training: 0/9" in out.getvalue())
        at(4)
        with pytest.raises(RetrainError, match=r"nothing has moved \(the worker: training\); see driftgraph"):
            asked.result(60)
        progress.close()
    assert "the worker: training: 4/9" in out.getvalue()
    assert Requests(settings.data_dir).waiting() is None


def test_a_fit_that_this_command_makes_shows_its_stages(settings: Settings) -> None:
    out = io.StringIO()
    with PlainProgress(out, SystemClock()) as progress:
        retrain(settings, full=False, progress=progress)
        checkpointed(settings, shop_until(len(SHOP)))
        retrain(settings, full=True, progress=progress)
    said = out.getvalue()
    for stage in (
        "evaluating before model version 2",
        "preparing the fit of model version 2",
        "training model version 2: 0/",
        "vectors of all users and items, the gate, and what the lists learn",
        "ids and lists of all users and items: 0/",
        "publishing generation ",
    ):
        assert f"\n{stage}" in said, stage


def test_a_second_retrain_and_one_beside_another_name_are_refused(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Requests(settings.data_dir).ask(Request.new(full=False)),
        pytest.raises(RetrainError, match="another retrain is at work"),
    ):
        made(settings)
    monkeypatch.setattr(Holder, "lives", lambda *_: True)
    other = LeaseClient(redis_client, namespace=NAMESPACE, name="other")
    held = other.take_alone()
    try:
        with pytest.raises(NamespaceTakenError, match="'other'"):
            made(settings)
    finally:
        held.release()


def test_without_a_checkpoint_nothing_is_published(settings: Settings, redis_client: redis.Redis) -> None:
    for path in (settings.data_dir / "checkpoints").rglob("*.json"):
        path.unlink()
    with pytest.raises(NoCheckpointError, match="none of it can be read"):
        made(settings)
    assert not redis_client.keys(f"{NAMESPACE}:emb:*")


def test_after_a_rollback_the_last_fit_is_not_called_the_served_one() -> None:
    out = io.StringIO()
    told = {"outcome": "nothing new", "generation": 2, "model_version": 1, "new_examples": 0, "reason": ""}
    _print(told, Console(file=out, width=80))
    assert (
        out.getvalue() == "no event has come since the last fit, which made generation 2 (model version 1)\n"
    )
