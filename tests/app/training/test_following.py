"""An operator switches or holds what is served: the worker comes to that model, and goes on from it.

The oracle of a fit after a rollback is a worker that had never made the fit that was left.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis
import torch

from driftgraph.app.config.settings import Settings
from driftgraph.app.training import following
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.kept_states import KeptStates
from driftgraph.app.training.process import loop, worker_start
from driftgraph.app.training.retraining import Request
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import ChosenError, HeldError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream import disk
from tests.app.training.test_go_on import LATER_MS, SHOP, Machine, generations
from tests.app.training.test_go_on import machine as machine  # noqa: PLC0414  the fixture
from tests.cycle_process import marked
from tests.services_redis import NAMESPACE, assert_no_remains
from tests.shop_worlds import grow, one_event


def store_of(client: redis.Redis) -> GenerationStore:
    return GenerationStore(client, namespace=NAMESPACE, epoch=1)


def served(client: redis.Redis) -> int:
    return EmbeddingReader(client, namespace=NAMESPACE).current()


def hash_of(client: redis.Redis, number: int) -> str:
    return next(one.manifest["model_hash"] for one in generations(client) if one.number == number)


def settings_of(machine: Machine) -> Settings:
    return Settings.model_validate({"data_dir": machine.folder})


def at_a_mark(machine: Machine, worker: Worker) -> None:
    """Look around twice, with a mark where the graph is now."""
    for _ in range(2):
        marks = marked(machine.graph)
        loop._Loop(settings_of(machine), worker, lambda now=marks: now)._step(worker.graph.moment())  # type: ignore[misc]


def seen_by_all(machine: Machine, worker: Worker) -> None:
    worker.look(worker.graph.moment())
    machine.step(worker)


def test_after_a_rollback_users_are_refreshed_by_the_model_that_is_served_then(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    assert (worker.published, worker.trainer.model_version) == (3, 2)
    assert store_of(redis_client).rollback() == 2
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    seen_by_all(machine, worker)
    machine.step(worker)
    assert (worker.published, worker.trainer.model_version) == (2, 1)
    assert worker.model_hash == hash_of(redis_client, 2)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.recommend("new", 1).event_ms == LATER_MS
    moment = worker.graph.moment()
    row = next(
        n for n, name in enumerate(machine.graph.names(0, np.arange(len(moment.versions[0])), moment))  # type: ignore[arg-type]
        if name == "new"
    )  # fmt: skip
    own = worker.trainer.embed_users(worker.graph.edges, np.array([row], np.uint32), moment.cut,
                                     np.array([LATER_MS + 1], np.int64))  # fmt: skip
    assert np.allclose(reader.users(["new"])[0], own, rtol=1e-5)


def test_the_fit_after_a_rollback_is_that_of_a_worker_that_never_made_the_one_that_was_left(
    machine: Machine, redis_client: redis.Redis
) -> None:
    """It comes at the next mark, begins with the older model, and has all events since."""
    torch.set_num_threads(1)  # so that the same fit gives the same bits
    before = machine.folder / "before"
    shutil.copytree(machine.folder / "trainer" / "1", before / "trainer" / "1")
    worker = machine.start()
    grow(machine.graph, one_event("early", SHOP.item_ids[0], 0, LATER_MS - 1))
    store_of(redis_client).rollback()
    at_a_mark(machine, worker)
    assert (worker.published, worker.trainer.fit_count) == (2, 1), "the mark is one of before the rollback"
    seen = worker.seen
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    at_a_mark(machine, worker)
    assert (worker.published, served(redis_client)) == (4, 4)

    other = GenerationStore(redis_client, namespace="other", epoch=1)
    never = worker_start.attached(machine.settings(before), machine.folder / "one", other)
    assert never.since.next < seen.next < worker.since.next == worker.seen.next
    never.seen = seen  # what is evaluated teaches the scorer
    assert never.cycle(never.graph.moment())[0].fit.accepted
    theirs, ours = (store.served() for store in (other, store_of(redis_client)))
    assert theirs is not None
    assert ours is not None
    for name in ("model_hash", "model_version", "weights", "trained_to_ms"):
        assert ours.manifest[name] == theirs.manifest[name]


def test_a_look_brings_what_feast_has_to_the_served_generation(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    assert worker.store is not None
    worker.store.feast.project = "shop"
    seen_by_all(machine, worker)
    assert redis_client.hgetall(f"{NAMESPACE}:feast") == {
        b"project": b"shop",
        b"gen": b"%d" % served(redis_client),
    }
    store_of(redis_client).rollback()
    seen_by_all(machine, worker)
    assert redis_client.hget(f"{NAMESPACE}:feast", "gen") == b"%d" % served(redis_client)


@pytest.mark.parametrize("hold", [False, True])
def test_promote_goes_forward_and_back_and_the_worker_with_it(
    hold: bool, machine: Machine, redis_client: redis.Redis
) -> None:
    worker, store = machine.start(), store_of(redis_client)
    for number in (2, 3, 2, 3):
        assert store.promote(number, hold=hold) == number
        seen_by_all(machine, worker)
        machine.step(worker)
        assert (worker.published, worker.model_hash) == (number, hash_of(redis_client, number))
        assert worker.trainer.model_version == number - 1
        again = machine.start()
        assert (again.published, again.model_hash) == (number, hash_of(redis_client, number))
        worker = again
    assert store.rollback() == 2, "the one before the newest switch"


def test_while_it_is_held_nothing_else_is_published_and_users_are_refreshed(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker, store = machine.start(), store_of(redis_client)
    assert store.rollback(hold=True, by="ann@host") == 2
    for n in range(3):
        grow(machine.graph, one_event(f"new{n}", SHOP.item_ids[n], 0, LATER_MS + n))
        seen_by_all(machine, worker)
        at_a_mark(machine, worker)
        assert (worker.published, served(redis_client)) == (2, 2)
        assert (
            EmbeddingReader(redis_client, namespace=NAMESPACE).recommend(f"new{n}", 1).event_ms
            == LATER_MS + n
        )
        worker = machine.start()
    asked = loop._Loop(settings_of(machine), worker, lambda: marked(machine.graph)).retrain(
        Request.new(full=False), worker.graph.moment()
    )
    assert (asked.outcome, asked.reason) == (
        "held", "an operator (ann@host) holds what is served: driftgraph promote ends the hold",
    )  # fmt: skip
    with pytest.raises(HeldError, match=r"ann@host.* holds generation 2, so nothing is published"):
        following.adopt(worker)
    assert store.promote(2) == 2
    seen_by_all(machine, worker)
    at_a_mark(machine, worker)
    assert served(redis_client) == worker.published == 4
    assert worker.trainer.model_version == 2, "a descendant of the one that was held"


def test_a_fit_under_way_does_not_undo_what_an_operator_does_meanwhile(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    fit = worker.trainer.fit

    def interrupted(*args: object, **named: object) -> object:
        found = fit(*args, **named)  # type: ignore[arg-type]
        store_of(redis_client).rollback()
        return found

    worker.trainer.fit = interrupted  # type: ignore[assignment]
    with pytest.raises(ChosenError, match="an operator"):
        worker.cycle(worker.graph.moment())
    worker.trainer.fit = fit  # type: ignore[method-assign]
    assert (served(redis_client), worker.trainer.model_version) == (2, 3)
    machine.step(worker)
    machine.step(worker)
    assert (worker.published, worker.trainer.model_version, served(redis_client)) == (2, 1, 2)
    again = machine.start()
    assert (again.published, again.trainer.model_version) == (2, 1)
    redis_client.delete(*list(redis_client.scan_iter(f"{NAMESPACE}:trending*")))
    again.store.clean_up()  # type: ignore[union-attr]
    assert_no_remains(store_of(redis_client), redis_client)


@pytest.mark.parametrize("is_started", [True, False])
def test_a_flush_leaves_the_hold_and_the_model_that_is_held(
    is_started: bool, machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    store_of(redis_client).rollback(hold=True, by="ann@host")
    seen_by_all(machine, worker)
    held = worker.model_hash
    machine.step(worker)
    redis_client.flushall()
    if is_started:
        worker = machine.start()
    worker.look(worker.graph.moment())
    machine.step(worker)
    newest = store_of(redis_client).choices.newest()
    assert (newest.is_held, newest.by, newest.generation) == (True, "ann@host", 0)
    assert hash_of(redis_client, served(redis_client)) == held
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    at_a_mark(machine, worker)
    assert worker.model_hash == held


def test_states_are_kept_as_long_as_the_generations_that_they_made(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    states = worker.states
    assert states is not None
    for n in range(3):
        for _ in range(2):  # refused fits save, too
            worker.erase([f"nobody{n}"])
            worker._save(worker.graph.moment())
            worker._save(worker.graph.moment())
        hashes = {one.manifest.get("model_hash") for one in generations(redis_client)} - {None}
        assert all(states.of(model_hash) is not None for model_hash in hashes if model_hash)
        grow(machine.graph, one_event(f"new{n}", SHOP.item_ids[n], 0, LATER_MS + n))
        machine.fitted(worker)
    worker._save(worker.graph.moment())
    kept = {
        str(checkpoint.opened(states.root / str(n)).facts["model_hash"])
        for n in checkpoint.numbers(states.root)
    }
    assert kept == {one.manifest["model_hash"] for one in generations(redis_client)}
    assert len(checkpoint.numbers(states.root)) <= checkpoint.KEEP + 3


def test_an_erased_user_is_in_no_state_and_a_rollback_still_has_its_model(
    machine: Machine, redis_client: redis.Redis
) -> None:
    worker = machine.start()
    user = SHOP.user_ids[int(SHOP.user[0])]
    assert worker.states is not None
    older = worker.states.of(hash_of(redis_client, 2))
    assert older is not None
    row = older.read("names.json").count(f'"{user}"'.encode())
    assert row == 1
    machine.graph.erase([user])
    worker.erase([user])
    holding = [
        path for path in worker.states.root.rglob("*")
        if path.is_file() and f'"{user}"'.encode() in path.read_bytes()
    ]  # fmt: skip
    assert holding == []
    then = older.files["trainer.safetensors"].size
    now = worker.states.of(hash_of(redis_client, 2))
    assert now is not None
    assert now.files["trainer.safetensors"].size < then, "its vectors are gone, too"
    store_of(redis_client).rollback()
    seen_by_all(machine, worker)
    assert (worker.published, worker.model_hash) == (2, hash_of(redis_client, 2))


def test_without_the_state_it_says_so_and_rests_until_the_next_fit(
    machine: Machine, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    worker, store = machine.start(), store_of(redis_client)
    store.promote(1)  # somebody else's, without a model
    for _ in range(3):
        seen_by_all(machine, worker)
    assert (served(redis_client), worker.published, worker.is_rolled_back) == (1, 0, True)
    assert caplog.text.count("so nothing is refreshed until the next fit") == 1
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    at_a_mark(machine, worker)
    assert served(redis_client) == worker.published == 4


DEATHS: dict[str, Callable[[], None]] = {
    "rolled back | load": lambda: _die(following, "load"),
    "load | save": lambda: _die(following, "load", after=True),
    "save | refresh": lambda: _die(KeptStates, "write", after=True),
    "in the save": lambda: _die(disk, "replace"),
}


def _die(owner: object, name: str, *, after: bool = False) -> None:
    """Let this process die before or after it calls a function."""
    function = getattr(owner, name)

    def mortal(*args: object, **named: object) -> None:
        if after:
            function(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, mortal)


def follow_and_die(machine_folder: Path, url: str, point: str) -> None:
    """A worker that starts beside a rollback, or sees one, and dies on its way to the older model."""
    client = connect(url)
    from driftgraph.stream.window.heterograph import HeterographView

    machine = Machine(machine_folder, client, HeterographView.attach(machine_folder / "one"))  # type: ignore[arg-type]
    worker = machine.start()
    assert worker.published == 3
    GenerationStore(client, namespace=NAMESPACE, epoch=1).rollback()
    DEATHS[point]()
    worker.look(worker.graph.moment())
    for _ in range(2):
        machine.step(worker)


@pytest.mark.parametrize("point", DEATHS)
def test_a_worker_killed_on_its_way_to_the_older_model_comes_to_it_at_its_next_start(
    point: str, machine: Machine, redis_client: redis.Redis, redis_server: object
) -> None:
    process = multiprocessing.get_context("forkserver").Process(
        target=follow_and_die, args=(machine.folder, redis_server.url, point)  # type: ignore[attr-defined]
    )  # fmt: skip
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert served(redis_client) == 2
    worker = machine.start()
    for _ in range(2):
        machine.step(worker)
        assert (worker.published, worker.model_hash) == (2, hash_of(redis_client, 2))
        assert served(redis_client) == 2
        worker = machine.start()
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    at_a_mark(machine, worker)
    assert (served(redis_client), worker.trainer.model_version) == (4, 2)
