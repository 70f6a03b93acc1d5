"""What the worker does for a user who asked to be forgotten, and what may happen at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.drift_text import MOVED_USER
from driftgraph.app.training import erase_pending
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.erase_pending import erasing
from driftgraph.app.training.process import loop
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.erasures import LETTERS, REDIS, PendingErasures
from driftgraph.snapshots.generations.keys import RedisUnavailableError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.events import Rejected
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from tests.services_redis import keys_by_scan, publish
from tests.shop_worlds import batch_of, graph_of, grow, one_event, small_shop, trainer_of
from tests.waits import until

SHOP = small_shop(800)
USER = SHOP.user_ids[int(SHOP.user[0])]
ITEM = SHOP.item_ids[0]


def trained(store: GenerationStore, checkpoints: Path | None = None) -> tuple[Worker, Heterograph]:
    graph = graph_of([batch_of(SHOP)])
    worker = Worker(graph, trainer_of(), store, checkpoints=checkpoints)
    report, _ = worker.cycle(graph.moment())
    assert report.fit.accepted
    return worker, graph


def keys_of(client: redis.Redis, user: str = USER) -> set[str]:
    return {key for key in keys_by_scan(client) if key.endswith(f":user:{user}")}


def holding(folder: Path, user: str = USER) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and f'"{user}"'.encode() in path.read_bytes()
    ]


def test_no_checkpoint_has_the_user_and_the_newest_has_all_the_others(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    worker, graph = trained(store, tmp_path)
    worker._save(graph.moment())  # as a next fit does
    other = SHOP.user_ids[int(SHOP.user[-1])]
    assert other != USER
    assert len(checkpoint.numbers(tmp_path)) == 2
    assert holding(tmp_path)
    graph.erase([USER])
    fitted, graph.window.history = worker.since, (Life("one"),)
    grow(graph, one_event(other, ITEM, 0, int(SHOP.time_ms.max()) + 1))  # which no fit has seen
    worker.erase([USER])
    assert (holding(tmp_path), keys_of(redis_client)) == ([], set())
    assert len(holding(tmp_path, other)) == 1
    found, damaged = checkpoint.latest(tmp_path)
    assert found is not None
    assert damaged == []
    assert found.facts["model_version"] == worker.trainer.model_version
    assert found.facts["next"] == " ".join(map(str, fitted.next))
    worker._save(graph.moment())
    assert checkpoint.latest(tmp_path)[0] != found, "a later checkpoint must be the newer one"


def test_before_the_first_checkpoint_none_is_written(store: GenerationStore, tmp_path: Path) -> None:
    worker = Worker(graph_of([batch_of(SHOP)]), trainer_of(), store, checkpoints=tmp_path)
    worker.erase([USER])
    assert checkpoint.numbers(tmp_path) == []


def test_a_publish_that_read_the_name_before_the_erasure_is_made_good_after_it(
    redis_client: redis.Redis, store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window forgets the user between the names and the writing of a generation."""
    worker, graph = trained(store)
    whole = store.publish

    def erased_meanwhile(*args: Any, **named: Any) -> None:
        graph.erase([USER])
        whole(*args, **named)

    monkeypatch.setattr(store, "publish", erased_meanwhile)
    worker.publish(graph.moment())
    assert len(keys_of(redis_client)) == 2
    worker.erase([USER])
    assert keys_of(redis_client) == set()


def test_a_moment_of_before_the_erasure_writes_the_user_no_more(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    worker, graph = trained(store)
    grow(graph, one_event(USER, ITEM, 0, int(SHOP.time_ms.max()) + 1))
    before = graph.moment()
    graph.erase([USER])
    worker.erase([USER])
    worker.refresh(before)
    worker.publish(before)
    assert keys_of(redis_client) == set()


def test_a_user_who_is_back_at_once_has_a_vector_again(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    """The new event was refreshed before Redis was asked to forget the old ones, so that went, too."""
    worker, graph = trained(store)
    graph.erase([USER])
    grow(graph, one_event(USER, ITEM, 0, int(SHOP.time_ms.max()) + 1))
    assert worker.refresh(graph.moment()) == 1
    worker.erase([USER])
    assert keys_of(redis_client) == set()
    worker.refresh(graph.moment())
    assert len(keys_of(redis_client)) == 1
    other = SHOP.user_ids[int(SHOP.user[-1])]
    graph.erase([other])
    worker.erase([other])
    assert worker.refresh(graph.moment()) == 0, "all were refreshed, though the user is not back"


# --- the loop and the thread ---------------------------------------------------------------------------


def settings_of(server: EmbeddedRedis, folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder,
            "kafka": {"topic": "t"},
            "redis": {"url": server.url, "namespace": "shop"},
            "relations": {"click": {}},
        }
    )


def pending_in(folder: Path, *users: str) -> PendingErasures:
    (folder / "erasures").mkdir(parents=True)
    pending = PendingErasures(folder / "erasures")
    pending.begin()
    pending.release(pending.write(list(users)))
    return pending


def test_while_a_fit_lasts_a_thread_erases_and_leaves_the_last_word_to_the_loop(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    publish(store, 1)
    letters = FileDeadLetters(tmp_path / "dead_letters")
    for user in ("u3", "u4"):
        letters.put(Rejected("bad_id", "", b"{}", "t[0]@1", key=user.encode()))
    letters.flush()
    pending = pending_in(tmp_path, "u3")
    with erasing(settings_of(redis_server, tmp_path), epoch=1):
        until(lambda: not keys_of(redis_client, "u3"))
        until(lambda: not pending.waiting(LETTERS))
    assert [one.rejected.key for one in FileLetterBox(tmp_path / "dead_letters").letters()] == [b"u4"]
    assert keys_of(redis_client, "u4")
    assert [users for _, users in pending.waiting(REDIS)] == [["u3"]]


def test_the_thread_tries_again_when_redis_is_back(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, store: GenerationStore, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    publish(store, 1)
    monkeypatch.setattr(erase_pending, "PAUSE_S", 0.05)
    pending_in(tmp_path, "u3")
    is_there, tries, erase = threading.Event(), list[int](), GenerationStore.erase

    def absent(self: GenerationStore, users: list[str], *, live_only: bool = False) -> None:
        tries.append(1)
        if not is_there.is_set():
            raise RedisUnavailableError("Redis did not answer")
        erase(self, users, live_only=live_only)

    monkeypatch.setattr(GenerationStore, "erase", absent)
    with erasing(settings_of(redis_server, tmp_path), epoch=1):
        until(lambda: len(tries) >= 2)
        assert keys_of(redis_client, "u3")
        is_there.set()
        until(lambda: not keys_of(redis_client, "u3"))


def test_the_loop_removes_the_file_only_after_redis_did_it(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, store: GenerationStore, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    worker, graph = trained(store)
    graph.erase([USER])
    pending = pending_in(tmp_path, USER)
    looking = loop._Loop(settings_of(redis_server, tmp_path), worker, Marks)
    erase = store.erase

    def absent(users: list[str]) -> None:
        raise RedisUnavailableError(f"Redis did not answer about {users}")

    monkeypatch.setattr(store, "erase", absent)
    waits = iter([False, True])
    looking.run(lambda _: next(waits))
    assert len(pending.waiting(REDIS)) == 1
    assert keys_of(redis_client)
    monkeypatch.setattr(store, "erase", erase)
    waits = iter([False, True])
    looking.run(lambda _: next(waits))
    assert pending.waiting(REDIS) == []
    assert keys_of(redis_client) == set()


def test_a_moved_user_leaves_manifest_and_checkpoint(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    worker, graph = trained(store, tmp_path)
    field = f"{MOVED_USER}{USER}"
    worker.evaluated = {**worker.evaluated, field: 0.5, f"{MOVED_USER}another": 0.4}
    worker._save(graph.moment())
    worker.publish(graph.moment())
    assert any(field.encode() in path.read_bytes() for path in tmp_path.rglob("manifest.json"))
    graph.erase([USER])
    worker.erase([USER])
    assert not any(field.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    newest = store.generations()[-1].manifest
    assert field not in newest
    assert newest[f"{MOVED_USER}another"] == "0.4"
