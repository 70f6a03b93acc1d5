"""The lists of rising items have one writer: the Faust app while it writes them, and else the worker."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis import exceptions as redis_exceptions

from driftgraph.app.cli.faust import options_of
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings
from driftgraph.app.publishing.by_id import trending_by_id
from driftgraph.app.training.cycle import Worker
from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.keys import Keys, StoreError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.faust.options import Sink
from tests.services_redis import NAMESPACE
from tests.shop_worlds import RELATIONS, batch_of, graph_of, small_shop, trainer_of

SHOP = small_shop()
CLICK, FAVORITE, PURCHASE = (relation.name for relation in RELATIONS)
RISING = {CLICK: {"hot": 3.0, "warm": 1.0}, FAVORITE: {}, PURCHASE: {"hot": 2.0}}


@pytest.fixture
def faust_writes(redis_server: EmbeddedRedis) -> Sink:
    """What the Faust app of the configuration does with its lists."""
    settings = Settings.model_validate(
        {
            "relations": {name: {} for name in RISING},
            "redis": {"url": redis_server.url, "namespace": NAMESPACE},
        }
    )
    sink = options_of(settings).sink
    assert sink is not None
    return sink


def lists_of(client: redis.Redis) -> dict[str, dict[str, float]]:
    reader = EmbeddingReader(client, namespace=NAMESPACE)
    return {name: dict(reader.trending(name, 1_000)) for name in RISING}


def test_while_the_faust_app_writes_the_lists_the_worker_leaves_them_alone_and_then_keeps_them_again(
    store: GenerationStore, redis_client: redis.Redis, faust_writes: Sink
) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker = Worker(graph, trainer_of(), store, checkpoints=None)
    moment = graph.moment()
    worker.publish(moment)
    popular = trending_by_id(graph, moment)
    assert all(popular.values())
    assert lists_of(redis_client) == popular

    faust_writes(RISING)
    assert lists_of(redis_client) == RISING, "also the list in which nothing rises"
    for _ in range(2):
        worker.publish(moment)
        worker.look(moment)
        assert lists_of(redis_client) == RISING
    assert worker.published == 3

    owner = Keys(NAMESPACE).trending_owner
    assert 0 < redis_client.ttl(owner) <= 60
    redis_client.delete(owner)  # as it runs out when the app has ended
    worker.look(moment)
    assert lists_of(redis_client) == popular
    assert worker.published == 3, "nothing else is published for it"
    assert sum(store.count_keys().values()) == len(list(redis_client.scan_iter(count=10_000)))


def test_the_lists_of_behaviors_that_their_writer_does_not_know_go(
    store: GenerationStore, redis_client: redis.Redis, faust_writes: Sink
) -> None:
    store.trending.replace({"view": {"i1": 1.0}, CLICK: {"i1": 1.0}})
    faust_writes(RISING)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.trending("view") == []
    assert lists_of(redis_client) == RISING


def test_lists_that_redis_did_not_take_are_written_by_the_next_look(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of before until then, and the generation is served."""
    graph = graph_of([batch_of(SHOP)])
    worker = Worker(graph, trainer_of(), store, checkpoints=None)
    moment = graph.moment()

    run = store._calls.run

    def full(lua: str, *args: Any) -> list[str]:
        if lua is scripts.TRENDING:
            raise redis_exceptions.OutOfMemoryError("OOM command not allowed")
        return run(lua, *args)

    with monkeypatch.context() as patch:
        patch.setattr(store._calls, "run", full)
        with pytest.raises(StoreError, match="maxmemory"):
            worker.publish(moment)
    assert (worker.published, lists_of(redis_client)[CLICK]) == (1, {})
    worker.look(moment)
    assert (worker.published, lists_of(redis_client)) == (1, trending_by_id(graph, moment))
