"""Redis forgets what was published: FLUSHALL, a restart, an older dump, an eviction. The worker sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from driftgraph.app.training.cycle import Worker
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.generations import upkeep as upkeep_module
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import LostError, StaleWorkerError, VerifyError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.upkeep import PAUSE_LOOKS_MIN, ToDo, Upkeep
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.snapshots.reading.ranking import Ranking
from driftgraph.stream.window.heterograph import Heterograph
from tests.services_redis import NAMESPACE, assert_no_remains, assert_serves_only, filled, publish
from tests.shop_worlds import batch_of, graph_of, grow, one_event, small_shop, trainer_of

Dump = dict[bytes, bytes]
SHOP = small_shop()
LATER_MS = int(SHOP.time_ms.max()) + 5_000


def dump(client: redis.Redis) -> Dump:
    return {key: client.dump(key) or b"" for key in client.scan_iter(count=10_000)}


def come_back_from(client: redis.Redis, older: Dump) -> None:
    client.flushall()
    for key, value in older.items():
        client.restore(key, 0, value)


def evict(client: redis.Redis, pattern: str, count: int | None = None) -> None:
    keys = sorted(client.scan_iter(pattern, count=10_000))[:count]
    assert keys
    client.delete(*keys)


# --- what a look finds --------------------------------------------------------------------------------


FORGETS: dict[str, tuple[Callable[[redis.Redis], Any], Standing]] = {
    "nothing": (lambda _: None, Standing.SERVED),
    "everything": (lambda c: c.flushall(), Standing.LOST),
    "current": (lambda c: c.delete("shop:emb:current"), Standing.LOST),
    "its number": (lambda c: c.hdel("shop:emb:current", "gen"), Standing.LOST),
    "its manifest": (lambda c: c.delete("shop:emb:2:manifest"), Standing.LOST),
    "its status": (lambda c: c.hdel("shop:emb:2:manifest", "status"), Standing.LOST),
    "its vector set": (lambda c: c.delete("shop:emb:2:items"), Standing.DAMAGED),
    "its list of users": (lambda c: c.delete("shop:emb:2:user-ids"), Standing.DAMAGED),
    "its list of items": (lambda c: c.delete("shop:emb:2:item-ids"), Standing.DAMAGED),
    "its users": (lambda c: evict(c, "shop:emb:2:user:*"), Standing.DAMAGED),
    "its items": (lambda c: evict(c, "shop:emb:2:item:*"), Standing.DAMAGED),
    "an older generation": (lambda c: evict(c, "shop:emb:1:*"), Standing.SERVED),
    "who the generations are": (lambda c: c.delete("shop:emb:generations"), Standing.SERVED),
}


@pytest.mark.parametrize("what", FORGETS)
def test_a_look_tells_what_redis_has_forgotten(
    store: GenerationStore, redis_client: redis.Redis, what: str
) -> None:
    forget, standing = FORGETS[what]
    publish(store, 1)
    publish(store, 2)
    forget(redis_client)
    assert store.standing(2) is standing


def test_single_hashes_that_are_gone_are_found_by_some_look(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1, users=2_000)
    evict(redis_client, "shop:emb:1:user:*", 40)
    assert Standing.DAMAGED in {store.standing(1) for _ in range(200)}


def test_a_user_who_was_erased_or_added_is_no_damage(store: GenerationStore) -> None:
    publish(store, 1)
    store.erase([f"u{n}" for n in range(0, 150, 2)])
    store.refresh(1, filled("new", 7, 1))
    assert {store.standing(1) for _ in range(20)} == {Standing.SERVED}
    store.erase([f"u{n}" for n in range(150)] + [f"new{n}" for n in range(7)])
    assert store.standing(1) is Standing.SERVED


def test_a_dump_from_before_a_refresh_is_older_and_one_from_after_it_is_not(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    store.refresh(1, filled("u", 150, 1))
    before = dump(redis_client)
    store.refresh(1, filled("u", 150, 1))
    after = dump(redis_client)
    come_back_from(redis_client, after)
    assert store.standing(1) is Standing.SERVED
    come_back_from(redis_client, before)
    assert store.standing(1) is Standing.LOST


def test_a_refresh_cut_in_the_middle_is_not_taken_for_whole(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dump is of a moment between two chunks of one refresh."""
    publish(store, 1)
    taken = list[Dump]()
    real = store._calls.run_many

    def one_by_one(lua: str, number: int, calls: Any) -> None:
        for call in calls:
            real(lua, number, [call])
            taken.append(dump(redis_client))

    monkeypatch.setattr(store._calls, "run_many", one_by_one)
    store.refresh(1, filled("u", 150, 1))
    assert len(taken) == 2
    come_back_from(redis_client, taken[0])
    assert store.standing(1) is Standing.LOST
    come_back_from(redis_client, taken[1])
    assert store.standing(1) is Standing.SERVED


def test_the_same_number_by_somebody_else_is_not_ours(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    redis_client.flushall()
    GenerationStore(redis_client, namespace=NAMESPACE, epoch=1).publish(
        1, filled("u", 150, 8), filled("i", 60, 8), {}
    )
    assert store.standing(1) is Standing.LOST


def test_the_fence_that_redis_has_forgotten_is_put_back_by_a_look(redis_client: redis.Redis) -> None:
    older = GenerationStore(redis_client, namespace=NAMESPACE, epoch=6)
    publish(older, 1)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=7)
    publish(store, 2)
    redis_client.hdel("shop:emb:current", "epoch")
    assert store.standing(2) is Standing.SERVED
    with pytest.raises(StaleWorkerError):
        older.refresh(2, filled("u", 3, 1))
    with pytest.raises(StaleWorkerError):
        older.standing(1)


# --- during a publish --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_write", "_build_index", "_verify", "_own_fields"])
def test_a_redis_that_is_emptied_during_a_publish_is_no_other_worker(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Emptied before each step: the worker tries again, and ends only for a worker that is there."""
    publish(store, 1)
    real = getattr(store, step)

    def emptied(*args: Any, **options: Any) -> Any:
        redis_client.flushall()
        return real(*args, **options)

    monkeypatch.setattr(store, step, emptied)
    if step == "_own_fields":  # before anything is written
        publish(store, 2)
    else:
        with pytest.raises((LostError, VerifyError)):
            publish(store, 2)
    monkeypatch.undo()
    number = store.next_number()
    assert number == 3
    publish(store, number)
    assert_serves_only(redis_client, number)
    assert_no_remains(store, redis_client)


def test_emptied_after_the_vectors_were_verified_nothing_is_switched(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store._verify

    def then_emptied(*args: Any, **options: Any) -> None:
        real(*args, **options)
        redis_client.flushall()

    monkeypatch.setattr(store, "_verify", then_emptied)
    with pytest.raises(LostError, match="has lost generation 1 while it was written"):
        publish(store, 1)
    assert redis_client.dbsize() == 0


# --- readers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_a_reader_follows_a_generation_of_the_same_number(redis_client: redis.Redis, cached: bool) -> None:
    """Redis is emptied and a new worker begins at 1 again: what the reader remembers of 1 is another's."""
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE, cache_items=cached)
    for number in (1, 5):
        redis_client.flushall()
        items = Vectors(["i0", f"only{number}"], np.full((2, 4), number, np.float32), np.zeros(2, np.int64))
        users = Vectors(["u"], np.ones((1, 4), np.float32), np.zeros(1, np.int64))
        GenerationStore(redis_client, namespace=NAMESPACE, epoch=1).publish(1, users, items, {})
        assert dict(reader.recommend("u").items) == {"i0": 4.0 * number, f"only{number}": 4.0 * number}


def test_one_answer_is_of_one_publish_also_where_two_have_one_number(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptied and published anew between the user's vector and the items: the answer is the new one's."""

    def publish_anew(value: float) -> None:
        redis_client.flushall()
        store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
        items = Vectors(["i0"], np.full((1, 4), value, np.float32), np.zeros(1, np.int64))
        users = Vectors(["u"], np.full((1, 4), value, np.float32), np.zeros(1, np.int64))
        store.publish(1, users, items, {})

    publish_anew(1)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    rank, done = Ranking.rank, list[int]()

    def between(*args: Any) -> Any:
        if not done:
            done.append(1)
            publish_anew(5)
        return rank(*args)

    monkeypatch.setattr(Ranking, "rank", between)
    assert reader.recommend("u").items == [("i0", 100.0)]


# --- the worker --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    """Trained once; no test here trains it further."""
    worker = Worker(graph_of([batch_of(SHOP)]), trainer_of(), None, checkpoints=None)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    return worker.trainer


@pytest.fixture
def world(store: GenerationStore, trainer: Trainer) -> tuple[Heterograph, Worker]:
    """Two generations of a small shop are published."""
    graph = graph_of([batch_of(SHOP)])
    worker = Worker(graph, trainer, store, checkpoints=None)
    for _ in range(2):
        worker.publish(graph.moment())
    assert worker.published == 2
    return graph, worker


def serves(client: redis.Redis, user: str) -> int | None:
    """Up to which event the served vector of a user knows."""
    return EmbeddingReader(client, namespace=NAMESPACE).recommend(user, 1).event_ms


def click(graph: Heterograph, user: str, n: int) -> int:
    grow(graph, one_event(user, SHOP.item_ids[n], 0, LATER_MS + n))
    return LATER_MS + n


def test_after_a_flush_the_next_look_publishes_again_with_a_higher_number(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis
) -> None:
    graph, worker = world
    at_ms = click(graph, "newcomer", 0)
    worker.refresh(graph.moment())
    for number in (3, 4):
        redis_client.flushall()
        worker.look(graph.moment())
        assert worker.published == number
        assert serves(redis_client, "newcomer") == at_ms
        assert EmbeddingReader(redis_client, namespace=NAMESPACE).recommend("nobody").source == "trending"
        at_ms = click(graph, "newcomer", number)
        assert worker.refresh(graph.moment()) == 1
        assert serves(redis_client, "newcomer") == at_ms


def test_a_refresh_that_finds_nothing_served_publishes_again(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis
) -> None:
    graph, worker = world
    redis_client.flushall()
    at_ms = click(graph, "newcomer", 0)
    worker.refresh(graph.moment())
    assert serves(redis_client, "newcomer") == at_ms


@pytest.mark.parametrize("rolled_back", [False, True])
def test_an_older_dump_is_replaced_also_one_of_a_rollback_of_then(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis, store: GenerationStore, rolled_back: bool
) -> None:
    graph, worker = world
    if rolled_back:
        assert store.rollback() == 1
        worker.look(graph.moment())
        worker.follows = worker.choice  # as the next fit does
    older = dump(redis_client)
    worker.publish(graph.moment())
    worker.publish(graph.moment())
    assert worker.published == 4
    at_ms = click(graph, "newcomer", 0)
    come_back_from(redis_client, older)
    worker.look(graph.moment())
    assert worker.published == 5
    assert serves(redis_client, "newcomer") == at_ms


def test_a_rollback_stays_and_a_flush_after_it_does_not(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph, worker = world
    worker.publish(graph.moment())
    assert [store.rollback(), store.rollback()] == [2, 1]
    before = redis_client.hgetall("shop:emb:current")
    for n in range(3):
        click(graph, "newcomer", n)
        worker.look(graph.moment())
        assert worker.refresh(graph.moment()) > 0, "it is of the model that made the one before"
        assert serves(redis_client, "newcomer") == LATER_MS + n
    assert redis_client.hgetall("shop:emb:current") == before
    redis_client.flushall()
    worker.look(graph.moment())
    assert worker.published == 4
    assert serves(redis_client, "newcomer") == LATER_MS + 2


def test_a_rollback_stays_also_if_it_is_not_the_first(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph, worker = world
    for number in (3, 4):
        store.rollback()
        worker.look(graph.moment())
        worker.follows = worker.choice  # as the next fit does
        worker.publish(graph.moment())
        assert worker.published == number
        assert store.choices.newest().generation == 0
    assert store.rollback() == 1
    worker.look(graph.moment())
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 1


def test_a_rollback_after_a_flush_stays(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph, worker = world
    redis_client.flushall()
    worker.look(graph.moment())
    worker.publish(graph.moment())
    assert worker.published == 4
    assert store.rollback() == 3
    worker.look(graph.moment())
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 3
    worker.follows = worker.choice
    worker.publish(graph.moment())
    worker.look(graph.moment())
    assert worker.published == EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 5


def test_a_restart_after_a_rollback_does_not_publish_the_model_that_was_left(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph, worker = world
    store.rollback()
    restarted = Worker(graph, worker.trainer, store, checkpoints=None)
    restarted.go_on()
    assert restarted.published == 1
    click(graph, "newcomer", 0)
    restarted.look(graph.moment())
    assert restarted.refresh(graph.moment()) > 0
    redis_client.flushall()
    restarted.look(graph.moment())
    assert restarted.published == EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 3


def test_a_restart_with_another_model_than_the_one_left_publishes(
    world: tuple[Heterograph, Worker], store: GenerationStore
) -> None:
    graph, _ = world
    store.rollback()
    other = Worker(graph, trainer_of(), store, checkpoints=None)
    other.go_on()
    assert other.published == 0


def test_lists_of_rising_items_that_are_gone_are_written_again(
    world: tuple[Heterograph, Worker], redis_client: redis.Redis
) -> None:
    graph, worker = world
    before = redis_client.zrange("shop:trending:click", 0, -1, withscores=True)
    evict(redis_client, "shop:trending*")
    worker.look(graph.moment())
    assert worker.published == 2
    assert redis_client.zrange("shop:trending:click", 0, -1, withscores=True) == before


def test_a_redis_that_keeps_losing_keys_is_repaired_at_once_and_then_at_growing_intervals(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    upkeep, number, repaired = Upkeep(store), 1, list[int]()
    publish(store, number)
    for n in range(1, 4 * PAUSE_LOOKS_MIN):
        redis_client.delete(f"shop:emb:{number}:items")
        if upkeep.look(number) is ToDo.PUBLISH:
            repaired.append(n)
            number += 1
            publish(store, number)
    assert repaired == [1, 1 + PAUSE_LOOKS_MIN, 1 + 3 * PAUSE_LOOKS_MIN]
    redis_client.flushall()
    assert upkeep.look(number) is ToDo.PUBLISH, "what is gone altogether waits for nothing"


@pytest.mark.parametrize("what", ["current", "1:manifest", "*"])
def test_a_redis_that_keeps_losing_all_that_it_serves_is_given_growing_pauses(
    store: GenerationStore, redis_client: redis.Redis, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Three times at once; then it would evict what is published as well."""
    upkeep, number, repaired = Upkeep(store), 1, list[int]()
    publish(store, number)
    for n in range(1, 4 * PAUSE_LOOKS_MIN):
        evict(redis_client, f"shop:emb:{what.replace('1:', f'{number}:')}")
        found = upkeep.look(number)
        if found is ToDo.PUBLISH:
            repaired.append(n)
            number += 1
            publish(store, number)
        else:
            assert found is ToDo.REST, "nothing may be refreshed into what is gone"
            publish(store, number := number + 1)
    assert repaired == [1, 2, 3, 3 + PAUSE_LOOKS_MIN, 3 + 3 * PAUSE_LOOKS_MIN]
    assert "serves nothing for up to 60 s" in caplog.text
    assert "set its maxmemory-policy to noeviction" in caplog.text


def test_after_an_hour_in_which_it_stayed_a_loss_is_repaired_at_once_again(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "PAUSE_LOOKS_MAX", 80)
    upkeep, number = Upkeep(store), 1
    publish(store, number)
    for _ in range(2):
        for _ in range(3):
            redis_client.flushall()
            assert upkeep.look(number) is ToDo.PUBLISH
            number += 1
            publish(store, number)
        for _ in range(81):
            assert upkeep.look(number) is ToDo.NOTHING
