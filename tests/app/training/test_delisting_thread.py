"""What is relisted is in the served generation again, as it was published."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.console.worker_socket import NoAnswerError
from driftgraph.app.training.process import delisting_thread
from driftgraph.app.training.process.delisting_thread import delisting, relist
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import Keys, StoreError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.window.heterograph import Heterograph
from tests.app.publishing.test_refresher import ITEM_ID, graph, worker_on
from tests.services_redis import NAMESPACE
from tests.waits import until

__all__ = ["graph"]  # a fixture


def item_keys(client: redis.Redis) -> dict[str, Any]:
    """Everything of the items of generation 1, with the order of no list."""
    found: dict[str, Any] = {
        key.decode(): client.hgetall(key) for key in client.scan_iter("shop:emb:1:item:*", count=10_000)
    }
    found["ids"] = sorted(client.lrange("shop:emb:1:item-ids", 0, -1))
    found["index"] = client.execute_command("VCARD", "shop:emb:1:items")  # type: ignore[no-untyped-call]
    found["items"] = client.hget("shop:emb:1:manifest", "items")
    return found


@pytest.mark.parametrize("from_the_start", [False, True])
def test_a_relisted_item_is_as_it_was_published(
    from_the_start: bool, graph: Heterograph, tmp_path: Path, store: GenerationStore,
    redis_client: redis.Redis, redis_server: EmbeddedRedis,
) -> None:  # fmt: skip
    worker = worker_on(tmp_path, store)
    assert worker.refresher is not None
    with pytest.raises(NoAnswerError):
        relist(worker.refresher, store, [ITEM_ID])
    if from_the_start:
        store.delisting.change([ITEM_ID], "SADD", by_topic=True)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    published = item_keys(redis_client)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    with (
        contextlib.closing(connect(redis_server.url)) as client,
        delisting(store.beside(client), worker.refresher, tmp_path / "delisted.json", worker.status),
    ):
        if not from_the_start:
            store.delisting.change([ITEM_ID, "nobody knows it"], "SADD", by_topic=True)
        until(lambda: not reader.items([ITEM_ID])[1].any() and (tmp_path / "delisted.json").exists())
        assert store.standing(1) is Standing.SERVED
        store.delisting.change([ITEM_ID, "nobody knows it"], "SREM", by_topic=True)
        until(lambda: bool(reader.items([ITEM_ID])[1].all()))
        until(lambda: item_keys(redis_client)["index"] == len(item_keys(redis_client)["ids"]))
    assert store.standing(1) is Standing.SERVED
    again = item_keys(redis_client)
    if not from_the_start:
        key = Keys(NAMESPACE).item(1, ITEM_ID)
        assert again["ids"] == published["ids"]
        assert again["items"] == published["items"]
        for field in (b"embedding", b"event_ms"):
            assert again[key][field] == published[key][field]
        near = [i for i, _ in reader.similar(ITEM_ID).items]
        assert near
        assert ITEM_ID not in near
    assert np.isfinite(reader.items([ITEM_ID])[0]).all()


def test_a_worker_that_was_away_writes_what_was_relisted_meanwhile(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    store.delisting.keep_in(tmp_path / "delisted.json")
    store.delisting.change([ITEM_ID], "SADD")
    assert store.delisting.look() == frozenset()
    other = GenerationStore(redis_client, namespace=NAMESPACE, epoch=store.epoch)  # a new process
    other.delisting.change([ITEM_ID], "SREM")
    other.delisting.keep_in(tmp_path / "delisted.json")
    relisted = other.delisting.look()
    assert relisted == {ITEM_ID}
    assert other.delisting.look() == frozenset()
    assert worker.refresher is not None
    assert relist(worker.refresher, store, relisted) == 1
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).items([ITEM_ID])[1].all()


def test_a_failure_of_the_pass_is_in_the_status_until_a_try_succeeds(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a fault of ours: the thread does not end with it."""
    worker, failures = worker_on(tmp_path, store), iter([StoreError("Redis is full"), ValueError("ours")])
    whole, told = store.delisting.look, list[str | None]()

    def look() -> frozenset[str]:
        for failure in failures:
            raise failure
        return whole()

    def tell(trouble: str | None) -> None:
        told.append(trouble)
        WorkerStatus.delisting(worker.status, trouble)

    monkeypatch.setattr(delisting_thread, "PAUSE_S", 0.01)
    monkeypatch.setattr(store.delisting, "look", look)
    monkeypatch.setattr(worker.status, "delisting", tell)
    assert worker.refresher is not None
    with delisting(store, worker.refresher, tmp_path / "delisted.json", worker.status):
        until(lambda: told[2:])
    assert told[:3] == ["Redis is full", "unexpected ValueError: ours", None]
    assert json.loads((tmp_path / "status" / "worker.json").read_bytes())["delisting"] is None
