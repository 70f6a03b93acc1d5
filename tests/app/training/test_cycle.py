"""The worker: what a cycle publishes, what a refresh changes, and what a failure leaves as it was."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import redis
import torch
from safetensors.torch import load

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.app.config import saved_model
from driftgraph.app.config.saved_model import OtherModelError
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.drift_text import drift_in
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.publishing import by_id
from driftgraph.app.publishing.by_id import touched_items
from driftgraph.app.training import trainer_state
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.device import device_of
from driftgraph.app.training.generation_report import GenerationReport, describe
from driftgraph.app.training.prediction_rows import PredictionRows
from driftgraph.app.training.process import loop, worker_start
from driftgraph.app.training.process.refresh_thread import RefreshThread
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.model.fitting.gate import Verdict
from driftgraph.model.network.neighbors import now_ms
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import Keys, RedisUnavailableError, StoreError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.arrays import U32
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.ingest.fit_schedule import Mark, Marks
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import ANEW, Life
from driftgraph.stream.window.writer import Cut, Relation, StaleCut
from tests.services_redis import NAMESPACE
from tests.shop_worlds import (
    DAY_MS,
    RELATIONS,
    START_MS,
    batch_of,
    graph_of,
    grow,
    one_event,
    small_shop,
    trainer_of,
)

SHOP = small_shop()


def worker_of(
    graph: Heterograph, store: GenerationStore | None = None, *, checkpoints: Path | None = None
) -> Worker:
    return Worker(graph, trainer_of(), store, checkpoints=checkpoints)


def two_cycles(worker: Worker, graph: Heterograph) -> tuple[GenerationReport, PredictionRows]:
    """A first fit of two thirds of the shop, a second of all; the second's report and predictions."""
    edge = len(SHOP) * 2 // 3
    grow(graph, batch_of(SHOP, 0, edge))
    first, nothing = worker.cycle(graph.moment())
    assert first.fit.accepted
    assert nothing is None
    grow(graph, batch_of(SHOP, edge))
    report, predictions = worker.cycle(graph.moment())
    assert report.fit.accepted
    assert predictions is not None
    return report, predictions


def named(graph: Heterograph, side: int, rows: U32) -> list[str]:
    names = graph.names(side, rows, graph.moment())
    assert None not in names
    return [name for name in names if name]


def contents(client: redis.Redis) -> dict[str, Any]:
    """Everything that Redis holds: a hash as its fields, other types as Redis writes them."""
    return {
        key.decode(): client.hgetall(key) if client.type(key) == b"hash" else client.dump(key)
        for key in client.scan_iter(count=10_000)
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The keys that came, went or differ."""
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


# --- touched -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, 200])
def test_touched_items_agree_with_a_sorted_list(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random events of two relations, repeats, users without any: newest first, each item once."""
    monkeypatch.setattr(by_id, "TOUCHED_MAX", limit)
    monkeypatch.setattr(by_id, "USERS_AT_ONCE", 2)
    relations = (Relation("click", 40_000_000, 1 << 10), Relation("buy", 90_000_000, 1 << 10))
    chance = random.Random(limit)
    times = chance.sample(range(100_000_000), 150)
    events = [
        (f"u{chance.randrange(7)}", f"i{chance.randrange(12)}", chance.randrange(2), START_MS + time_ms)
        for time_ms in times
    ]
    graph = graph_of([], relations)
    user, item, relation, time_ms = zip(*events, strict=True)
    columns = Strings.of(user), Strings.of(item)
    grow(graph, EventBatch(*columns, np.array(relation, np.uint8), np.array(time_ms, np.int64)))
    moment = graph.moment()
    now = now_ms(graph.window, moment.cut)
    rows = np.unique(graph.window.events(moment.cut).user)
    touched, _, newest_ms = touched_items(graph, rows, moment)
    for name, items, newest in zip(named(graph, USER, rows), touched, newest_ms.tolist(), strict=True):
        mine = sorted((e for e in events if e[0] == name), key=lambda e: -e[3])
        kept = [
            [e for e in mine if e[2] == r and e[3] >= now - relations[r].span_ms][:limit] for r in range(2)
        ]
        both = sorted([*kept[0], *kept[1]], key=lambda e: -e[3])
        assert items == list(dict.fromkeys(e[1] for e in both))[:limit]
        assert newest == (both[0][3] if both else 0)
    assert max(len(items) for items in touched) > 6 or limit == 3


# --- a cycle -----------------------------------------------------------------------------------------


def test_a_cycle_publishes_every_live_user_and_item_by_id(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    report, _ = two_cycles(worker, graph)
    assert (report.generation, report.model_version) == (2, 2)
    embedding = worker.trainer.embed(graph.window, graph.moment().cut)
    users, items = named(graph, USER, embedding.user_rows), named(graph, ITEM, embedding.item_rows)
    assert set(users) == {SHOP.user_ids[n] for n in SHOP.user.tolist()}
    assert set(items) == {SHOP.item_ids[n] for n in SHOP.item.tolist()}
    batch = EmbeddingReader(redis_client, namespace=NAMESPACE).batch(users=users, items=items)
    assert batch.generation == 2
    np.testing.assert_array_equal(batch.users, embedding.user)
    np.testing.assert_array_equal(batch.items, embedding.item)


def test_the_manifest_says_what_was_published(redis_client: redis.Redis, store: GenerationStore) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    report, _ = two_cycles(worker, graph)
    first, second = (generation.manifest for generation in store.generations())
    assert second["watermark_ms"] == str(SHOP.time_ms.max())
    assert json.loads(second["metrics"]) == report.evaluation.metrics
    assert drift_in(first) == {"drift": None, "staleness": None}
    told = drift_in(second)
    assert report.drift is not None
    assert report.drift["items"]["top"]
    assert told["drift"]["behaviors"] == report.drift["behaviors"]
    assert told["drift"]["items"] == report.drift["items"]
    assert told["staleness"]["fits_ago"].keys() == {"1"}
    assert told["staleness"] == report.to_json()["staleness"]
    assert (second["generation"], second["model_version"]) == ("2", "2")
    assert second["model_hash"] != first["model_hash"]
    assert sum(json.loads(second["cut"]).values()) == len(SHOP)


def test_recommendations_leave_out_what_was_touched_and_strangers_get_what_is_trending(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of()
    two_cycles(worker_of(graph, store), graph)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    user = int(np.argmax(np.bincount(SHOP.user)))
    touched = {SHOP.item_ids[n] for n in SHOP.item[SHOP.user == user].tolist()}
    found = reader.recommend(SHOP.user_ids[user], 20)
    assert found.source == "list"
    assert touched.isdisjoint(item for item, _ in found.items)
    assert found.event_ms == SHOP.time_ms[SHOP.user == user].max()
    stranger = reader.recommend("nobody", 5)
    assert stranger.source == "trending"
    recent = SHOP.item[SHOP.time_ms > SHOP.time_ms.max() - 2 * DAY_MS]
    frequent = {SHOP.item_ids[n] for n in np.argsort(-np.bincount(recent))[:30].tolist()}
    assert {item for item, _ in stranger.items} <= frequent


def test_anybody_can_recompute_the_metrics_from_the_predictions() -> None:
    """Recall@20 and MRR@20 from the rows equal the reported ones, up to ties at one place."""
    graph = graph_of()
    report, rows = two_cycles(worker_of(graph), graph)
    count = report.evaluation.event_count
    assert len(rows.ts_ms) == len(rows.user_id) == len(rows.item_id) == len(rows.top_items) == count > 100
    assert rows.generation == report.evaluated_generation == report.evaluation.model_version == 1
    places = [
        top.index(item) + 1 if item in top else 0
        for item, top in zip(rows.item_id, rows.top_items, strict=True)
    ]
    metrics = report.evaluation.metrics["model"]
    assert sum(place > 0 for place in places) / count == pytest.approx(metrics["recall_at_20"], abs=2 / count)
    assert sum(1 / p for p in places if p) / count == pytest.approx(metrics["mrr_at_20"], abs=2 / count)
    assert metrics["recall_at_20"] > 0.1
    known = {SHOP.item_ids[n] for n in SHOP.item.tolist()}
    happened = {
        (SHOP.user_ids[user], SHOP.item_ids[item], time_ms)
        for user, item, time_ms in zip(
            SHOP.user.tolist(), SHOP.item.tolist(), SHOP.time_ms.tolist(), strict=True
        )
    }
    for user, item, time_ms, top in zip(rows.user_id, rows.item_id, rows.ts_ms, rows.top_items, strict=True):
        assert (user, item, time_ms) in happened
        assert len(top) == len(set(top)) == 20
        assert known.issuperset(top)


def test_predictions_name_what_a_row_was_called_when_it_was_a_candidate() -> None:
    """All items of the first interval expire, and new ones take over their rows before it is scored."""
    relations = tuple(Relation(r.name, DAY_MS, 1 << 14) for r in RELATIONS)
    graph = graph_of([], relations)
    worker = Worker(graph, trainer_of(relations), None, checkpoints=None)

    def interval(prefix: str, start_ms: int) -> EventBatch:
        chance = random.Random(prefix)
        users = [f"u{chance.randrange(20)}" for _ in range(300)]
        items = [f"{prefix}{chance.randrange(30)}" for _ in range(300)]
        times = np.arange(300, dtype=np.int64) * 1_000 + start_ms
        return EventBatch(Strings.of(users), Strings.of(items), np.zeros(300, np.uint8), times)

    grow(graph, interval("old", START_MS))
    assert worker.cycle(graph.moment())[0].fit.accepted
    grow(graph, interval("new", START_MS + DAY_MS - 60_000))  # most of the old ones are still live
    grow(graph, one_event("u1", "new1", 0, START_MS + 3 * DAY_MS))  # now none is
    grow(graph, interval("other", START_MS + 3 * DAY_MS))
    _, rows = worker.cycle(graph.moment())
    assert rows is not None
    assert {name[:3] for top in rows.top_items for name in top} <= {"old"}
    assert "" not in rows.item_id
    assert "" not in rows.user_id


def test_a_rejected_fit_leaves_redis_as_it_was(redis_client: redis.Redis, store: GenerationStore) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    before = contents(redis_client)
    worker.trainer.norms = [(1e9, 1e9)]  # no candidate is anywhere near
    later = int(SHOP.time_ms.max()) + 1_000
    for n in range(200):
        graph.apply(one_event(f"u{n % 9}", f"i{n % 17}", 0, later + n))
    graph.expire(later + 200)
    report, predictions = worker.cycle(graph.moment())
    assert (report.fit.accepted, report.fit.code) == (False, "norm")
    assert (report.generation, report.model_version) == (2, 2)
    assert predictions is not None
    assert changes(before, contents(redis_client)) == set()
    assert worker.since == graph.moment().cut


def test_a_cycle_without_new_events_changes_nothing(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    before = contents(redis_client)
    report, _ = worker.cycle(graph.moment())
    assert report.fit.code == "no_events"
    assert changes(before, contents(redis_client)) == set()


def test_an_empty_window_is_not_published(redis_client: redis.Redis, store: GenerationStore) -> None:
    """Everything expired: what Redis serves stays."""
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    before = contents(redis_client)
    graph.expire(int(SHOP.time_ms.max()) + 60 * DAY_MS)
    worker.publish(graph.moment())
    assert changes(before, contents(redis_client)) == set()


# --- refresh -----------------------------------------------------------------------------------------


def test_a_refresh_changes_the_touched_users_only(redis_client: redis.Redis, store: GenerationStore) -> None:
    """An event after the publish is in the vector and the touched list of its user; a new user appears."""
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    user = SHOP.user_ids[int(SHOP.user[0])]
    best = reader.recommend(user, 1).items[0][0]
    before = contents(redis_client)
    at_ms = int(SHOP.time_ms.max()) + 5_000
    grow(graph, one_event(user, best, 2, at_ms))
    grow(graph, one_event("newcomer", best, 0, at_ms + 1))
    assert worker.refresh(graph.moment()) == 2
    head = f"{NAMESPACE}:emb:{worker.published}:"
    changed = {f"{head}{key}" for key in (f"user:{user}", "user:newcomer", "user-ids", "manifest")}
    assert changes(before, contents(redis_client)) == changed
    found = reader.recommend(user, 20)
    assert found.event_ms == at_ms
    assert best not in [item for item, _ in found.items]
    newcomer = reader.recommend("newcomer", 5)
    assert (newcomer.source, newcomer.event_ms) == ("list", at_ms + 1)
    assert worker.refresh(graph.moment()) == 0


def test_a_refresh_that_redis_refused_is_made_good_by_the_next(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    at_ms = int(SHOP.time_ms.max()) + 5_000
    grow(graph, one_event("newcomer", SHOP.item_ids[0], 0, at_ms))
    redis_client.config_set("maxmemory", 1)
    with pytest.raises(StoreError, match="maxmemory"):
        worker.refresh(graph.moment())
    redis_client.config_set("maxmemory", 0)
    assert worker.refresh(graph.moment()) == 1
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.recommend("newcomer", 1).event_ms == at_ms


def test_a_worker_without_the_state_that_an_operator_went_back_to_rests_also_without_a_manifest(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """By a start, and by a worker whose publish failed while the operator went back."""
    graph = graph_of([])
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    assert store.rollback() == 1
    redis_client.delete(Keys(NAMESPACE).of(2, "manifest"))
    worker.published = 0
    assert not worker.may_publish(graph.moment())
    assert (worker.published, worker.is_rolled_back) == (0, True)
    [current] = [one.number for one in store.generations() if one.current]
    assert current == 1


def test_a_disk_that_does_not_take_the_state_delays_the_publish_and_loses_no_fit(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop goes on, says it, and publishes the same model when there is room again."""
    graph = graph_of([batch_of(SHOP)])
    worker = worker_of(graph, store, checkpoints=tmp_path / "trainer")
    looking = loop._Loop(
        Settings.model_validate({"data_dir": tmp_path}), worker, lambda: Marks(regular=mark_of(graph))
    )
    full, tries = True, 0
    write = checkpoint.write

    def written(*args: Any, **named: Any) -> Any:
        nonlocal tries
        tries += 1
        if full:
            raise checkpoint.CheckpointError("no room")
        return write(*args, **named)

    monkeypatch.setattr(checkpoint, "write", written)
    monkeypatch.setattr(loop, "REDIS_PAUSES_S", (0,))

    def wait(_: float) -> bool:
        nonlocal full
        full = tries < 3
        return worker.published > 0 and worker.trainer.model_version > 0

    looking.run(wait)
    assert tries == 4, "three tries in vain, and one"
    assert worker.trainer.model_version == 1, "one fit"
    assert [one.manifest["made_by"] for one in store.generations() if one.current] == ["model"]
    assert "no room; it is tried again and again" in caplog.text


def test_a_redis_that_is_away_is_said_to_be_back_once_and_only_when_it_is(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rounds that ask Redis nothing are no sign of it."""
    graph = graph_of([batch_of(SHOP)])
    worker = worker_of(graph, store)
    worker.publish(graph.moment())
    # as in the live worker, another thread refreshes
    thread = cast(RefreshThread, SimpleNamespace(check=lambda: None, is_refused=False))
    looking = loop._Loop(Settings.model_validate({"data_dir": tmp_path}), worker, Marks, thread)
    rounds, away_until = 0, 4 * loop.ROUNDS_PER_LOOK

    def look() -> None:
        if rounds < away_until:
            raise RedisUnavailableError("Redis did not answer")

    def wait(_: float) -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == away_until:
            assert "takes what it should again" not in caplog.text
        return rounds > 2 * away_until

    assert worker.store is not None
    monkeypatch.setattr(worker.store.delisting, "restored", look)
    monkeypatch.setattr(loop, "REDIS_PAUSES_S", (0,))
    with caplog.at_level("WARNING"):
        looking.run(wait)
    said = [record.getMessage() for record in caplog.records if record.name == loop.log.name]
    assert said == [
        "Redis did not answer; it is tried again and again", "Redis takes what it should again"
    ]  # fmt: skip


def test_a_pause_ends_as_soon_as_a_refresh_that_was_refused_is_taken(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a READONLY or a full Redis: the newest generation does not wait for the longest pause."""
    worker = worker_of(graph_of([batch_of(SHOP)]), store)
    thread = SimpleNamespace(check=lambda: None, is_refused=False)
    looking = loop._Loop(
        Settings.model_validate({"data_dir": tmp_path}), worker, Marks, cast(RefreshThread, thread)
    )
    refused, waits = iter([False, True, True, False]), list[float]()

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        thread.is_refused = next(refused)
        return False

    assert not looking._pause(1_000, wait)
    assert waits == 4 * [loop.REFRESH_LOOK_S]
    assert looking._pause(1_000, lambda _: True), "asked to stop"
    thread.is_refused = False
    assert not looking._pause(0, lambda _: False)


def test_after_a_rollback_nothing_is_refreshed_until_the_next_publish(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of()
    worker = worker_of(graph, store)
    two_cycles(worker, graph)
    assert store.rollback() == 1
    before = contents(redis_client)
    at_ms = int(SHOP.time_ms.max()) + 5_000
    grow(graph, one_event("newcomer", SHOP.item_ids[0], 0, at_ms))
    assert [worker.refresh(graph.moment()) for _ in range(2)] == [0, 0]
    assert changes(before, contents(redis_client)) == set()
    worker.follows = worker.choice  # as the next fit does
    worker.publish(graph.moment())
    grow(graph, one_event("newcomer", SHOP.item_ids[1], 0, at_ms + 1))
    assert worker.refresh(graph.moment()) == 1
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.recommend("newcomer", 1).event_ms == at_ms + 1


# --- Redis away --------------------------------------------------------------------------------------


def test_a_publish_into_an_absent_redis_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    graph = graph_of([batch_of(SHOP)])
    with contextlib.closing(connect(f"redis://127.0.0.1:{port}/0", retries=0)) as client:
        worker = worker_of(graph, GenerationStore(client, namespace=NAMESPACE, epoch=1))
        with pytest.raises(RedisUnavailableError, match=f"127.0.0.1:{port}"):
            worker.cycle(graph.moment())
        assert (worker.trainer.model_version, worker.published) == (1, 0)
        assert worker.refresh(graph.moment()) == 0
        with pytest.raises(StoreError):
            worker.publish(graph.moment())
        monkeypatch.setattr("driftgraph.app.commands.embedded.free_port", lambda: port)
        with EmbeddedRedis():
            worker.publish(graph.moment())
            assert worker.published == 1
            assert EmbeddingReader(client, namespace=NAMESPACE).current() == 1


# --- before the first model version -----------------------------------------------------------------------


def test_before_the_first_generation_lists_are_served_refreshed_and_then_replaced_by_the_model(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """What a known user gets: never nothing, never what the user has touched, marked as what it is."""
    graph = graph_of([batch_of(SHOP)])
    worker, reader = worker_of(graph, store), EmbeddingReader(redis_client, namespace=NAMESPACE)
    moment = graph.moment()
    assert worker.may_publish(moment)
    worker.publish(moment)
    served = next(g for g in store.generations() if g.current)
    assert served.manifest["made_by"] == "co-visitation and popularity"
    user = named(graph, USER, np.zeros(1, np.uint32))[0]
    before = reader.recommend(user, 10)
    assert (before.source, len(before.items)) == ("list", 10)
    favorite = before.items[0][0]
    grow(graph, one_event(user, favorite, 0, now_ms(graph.window, moment.cut) + 1_000))
    assert worker.refresh(graph.moment()) == 1
    after = reader.recommend(user, 10)
    assert after.source == "list"
    assert favorite not in [item for item, _ in after.items]
    assert (after.event_ms or 0) > (before.event_ms or 0)
    vectors, found = reader.users([user])
    assert found.all()
    assert vectors[0, -1] == 1
    report, _ = worker.cycle(graph.moment())
    assert report.fit.accepted
    assert reader.recommend(user, 10).source == "list"
    assert next(g for g in store.generations() if g.current).manifest["made_by"] == "model"


def test_a_model_of_an_earlier_life_is_not_replaced_by_lists(store: GenerationStore) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker_of(graph, store).cycle(graph.moment())
    without_state = worker_of(graph, store)
    assert not without_state.may_publish(graph.moment())


@pytest.mark.parametrize(
    ("before", "now", "replaced"),
    [("events", "events", False), ("events", "films", True), ("", "films", False), ("events", "", False)],
)
def test_a_model_of_another_topic_is_replaced_by_lists_of_ours(
    before: str, now: str, replaced: bool, store: GenerationStore
) -> None:
    graph = graph_of([batch_of(SHOP)])
    first, ours = worker_of(graph, store), worker_of(graph, store)
    first.topic, ours.topic = before, now
    first.cycle(graph.moment())
    assert ours.may_publish(graph.moment()) == replaced


def test_an_empty_window_has_nothing_to_publish(store: GenerationStore) -> None:
    graph = graph_of([])
    assert not worker_of(graph, store).may_publish(graph.moment())


def test_until_a_first_generation_is_accepted_every_fit_sees_the_whole_window(
    store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker = worker_of(graph, store)
    refuse = Verdict(False, "popularity", "worse than popularity")
    with monkeypatch.context() as patch:
        patch.setattr("driftgraph.model.trainer.judge", lambda *_, **__: refuse)
        report, _ = worker.cycle(graph.moment())
    assert (report.fit.accepted, report.fit.refused) == (False, ("worse than popularity",) * 3)
    assert describe(report).startswith("no new generation: worse than popularity (3 attempts")
    assert sum(worker.since.next) == 0
    assert worker.seen == graph.moment().cut
    again, _ = worker.cycle(graph.moment())
    assert again.fit.accepted
    assert again.fit.new_examples == report.fit.new_examples
    assert worker.since == worker.seen


# --- state -------------------------------------------------------------------------------------------


def test_a_row_that_changed_hands_since_the_fit_is_saved_as_the_new_owners() -> None:
    """A checkpoint at an erasure may be long after the fit: no item wakes up with another's state."""
    graph = graph_of()
    worker = worker_of(graph)
    two_cycles(worker, graph)
    moment, row = graph.moment(), 0
    table = worker.trainer.table
    before, rows = table.weight[row].clone(), table.rows
    assert table.steps[row] > 0
    later = moment.versions[ITEM].copy()
    later[row] += 2  # as it lost its owner and got another
    later_moment = replace(moment, versions=(moment.versions[USER], later))
    files, _ = trainer_state.save(worker.trainer, graph, later_moment, worker.since, worker.seen)
    saved = load(files["trainer.safetensors"])
    assert saved["table.version"].numpy().astype(np.uint32).tolist() == later.tolist()
    assert int(saved["table.steps"][row]) == 0
    assert not torch.equal(saved["table.weight"][row], before)
    assert len(saved["table.steps"]) == rows


def test_a_state_goes_on_beside_a_graph_that_was_read_anew(tmp_path: Path) -> None:
    """The rows have other numbers: each user and item has the vector that it had, and training goes on."""
    graph = graph_of()
    worker = worker_of(graph, checkpoints=tmp_path)
    two_cycles(worker, graph)
    found, damaged = checkpoint.latest(tmp_path)
    assert damaged == []
    assert found is not None
    assert (found.facts["watermark_ms"], found.facts["model_version"]) == (int(SHOP.time_ms.max()), 2)

    order = np.random.default_rng(5).permutation(len(SHOP))
    anew = graph_of()
    grow(anew, batch_of(SHOP).take(order))  # all of it is inside the spans, so only the rows differ
    resumed = trainer_of()
    trainer_state.restore(resumed, found, anew, anew.moment())
    assert resumed.model_version == 2

    then = worker.trainer.embed(graph.window, graph.moment().cut)
    now = resumed.embed(anew.window, anew.moment().cut)
    for side, rows, vectors, rows_now, vectors_now in (
        (USER, then.user_rows, then.user, now.user_rows, now.user),
        (ITEM, then.item_rows, then.item, now.item_rows, now.item),
    ):
        names, names_now = named(graph, side, rows), named(anew, side, rows_now)
        assert names != names_now
        assert set(names) == set(names_now)
        place = {name: n for n, name in enumerate(names_now)}
        np.testing.assert_allclose(vectors_now[[place[name] for name in names]], vectors, atol=1e-5)
    one, other = worker.trainer.state_dict()[0], resumed.state_dict()[0]
    assert other["table.steps"].sum() == one["table.steps"].sum() > 0
    for part in ("serving", "first"):
        names = named(graph, ITEM, one[f"{part}.item_rows"].numpy().astype(np.uint32))
        by_name = dict(zip(names, one[f"{part}.item"].numpy(), strict=True))
        names = named(anew, ITEM, other[f"{part}.item_rows"].numpy().astype(np.uint32))
        assert set(names) == set(by_name)
        np.testing.assert_array_equal(other[f"{part}.item"].numpy(), [by_name[name] for name in names])


def test_a_vector_of_a_former_owner_is_not_given_to_the_new_one(tmp_path: Path) -> None:
    """Generation 1 knew items whose rows belong to others by now: they are forgotten, not renamed."""
    relations = (Relation("click", DAY_MS, 1 << 14),)
    graph = graph_of([], relations)
    worker = Worker(graph, trainer_of(relations), None, checkpoints=tmp_path)

    def interval(prefix: str, start_ms: int) -> EventBatch:
        users = [f"u{n % 15}" for n in range(200)]
        items = [f"{prefix}{n * 7 % 20}" for n in range(200)]
        times = np.arange(200, dtype=np.int64) * 1_000 + start_ms
        return EventBatch(Strings.of(users), Strings.of(items), np.zeros(200, np.uint8), times)

    grow(graph, interval("old", START_MS))
    worker.cycle(graph.moment())
    grow(graph, one_event("u1", "bridge", 0, START_MS + 3 * DAY_MS))
    grow(graph, interval("new", START_MS + 3 * DAY_MS))
    worker.erase(["nobody"])  # saves it as of now
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    anew = graph_of([interval("new", START_MS + 3 * DAY_MS)], relations)
    resumed = trainer_of(relations)
    trainer_state.restore(resumed, found, anew, anew.moment())
    assert resumed.first is not None
    assert len(resumed.first.item_rows) == 0


def test_a_new_worker_goes_on_where_the_window_has_come_to(store: GenerationStore, tmp_path: Path) -> None:
    """Two fits; a window that went on from between them takes the first, a window filled anew the second."""
    settings = settings_of(tmp_path)

    def opened(name: str, batch: EventBatch, history: tuple[Life, ...]) -> Worker:
        graph = Heterograph.create(
            tmp_path / name, RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=history
        )
        graph.apply(batch)
        graph.expire(int(batch.time_ms.max()))
        graphs.append(graph)
        return worker_start.attached(settings, tmp_path / name, store)

    graphs: list[Heterograph] = []
    shop, half = batch_of(SHOP), batch_of(SHOP, 0, len(SHOP) // 2)
    worker = opened("one", half, (Life("one"),))
    worker.cycle(worker.graph.moment())
    until = worker.graph.window.cut().next
    grow(graphs[0], batch_of(SHOP, len(SHOP) // 2))
    worker.cycle(worker.graph.moment())
    assert worker.trainer.model_version == 2

    went_on = opened("two", half, (Life("one", until), Life("two")))
    assert (went_on.trainer.model_version, went_on.since.next) == (1, until)
    anew = opened("three", half, (Life("three"),))
    assert (anew.trainer.model_version, anew.since) == (2, anew.graph.window.cut())
    same = opened("four", shop, (Life("one"),))
    assert (same.trainer.model_version, same.since.next) == (2, worker.since.next)


def settings_of(
    folder: Path, relations: Sequence[Relation] = RELATIONS, model: dict[str, int] | None = None
) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder,
            "relations": {r.name: {"span": f"{r.span_ms}ms"} for r in relations},
            "model": {"dim": 16, "device": "cpu", **(model or {})},
        }
    )


def renamed_batch(batch: EventBatch, relations: Sequence[Relation]) -> EventBatch:
    """The shop's events for a window of these relations; without those of others."""
    names = [r.name for r in relations]
    place = np.array([names.index(r.name) if r.name in names else 255 for r in RELATIONS], np.uint8)
    moved = replace(batch, relation=place[batch.relation])
    return moved.take(np.flatnonzero(moved.relation != 255))


def test_a_worker_goes_on_with_other_relations(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    """In another order it predicts the same; of a new one nothing is trained on; a gone one's trends go."""
    graphs: list[Heterograph] = []

    def opened(name: str, relations: Sequence[Relation], history: tuple[Life, ...]) -> Worker:
        graph = Heterograph.create(
            tmp_path / name, relations, user_rows=1 << 12, item_rows=1 << 12, history=history
        )
        graph.apply(renamed_batch(batch_of(SHOP), relations))
        graph.expire(int(SHOP.time_ms.max()))
        graphs.append(graph)
        return worker_start.attached(settings_of(tmp_path, relations), tmp_path / name, store)

    first = opened("one", RELATIONS, (Life("one"),))
    first.cycle(first.graph.moment())
    until = first.graph.window.cut().next
    then = first.trainer.embed(first.graph.window, first.graph.moment().cut)

    turned = opened("two", RELATIONS[::-1], (Life("one", until[::-1]), Life("two")))
    assert (turned.trainer.model_version, turned.since.next) == (1, until[::-1])
    now = turned.trainer.embed(turned.graph.window, turned.graph.moment().cut)
    for side, vectors, there in ((USER, then.user, now.user), (ITEM, then.item, now.item)):
        names, names_there = (
            named(graph, side, rows)
            for graph, rows in (
                (graphs[0], then.user_rows if side == USER else then.item_rows),
                (graphs[1], now.user_rows if side == USER else now.item_rows),
            )
        )
        place = {name: n for n, name in enumerate(names_there)}
        np.testing.assert_allclose(there[[place[name] for name in names]], vectors, atol=1e-5)

    click, favorite, purchase = RELATIONS
    other = (Relation("view", DAY_MS, 1 << 10), purchase, click)
    changed = opened("three", other, (Life("one", (ANEW, until[2], until[0])), Life("three")))
    assert changed.since.next == (0, until[2], until[0])
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.trending(favorite.name)
    changed.publish(changed.graph.moment())
    assert reader.trending(favorite.name) == []
    assert reader.trending(click.name)
    grow(graphs[2], one_event("newcomer", SHOP.item_ids[0], 0, int(SHOP.time_ms.max()) + 1))
    report, _ = changed.cycle(changed.graph.moment())
    assert report.fit.new_examples == 1, "the events from before are not new because a relation is"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"dim": 32}, "the saved model has dim 16, this configuration 32: set model.dim = 16 to go on"),
        ({"heads": 2}, "the saved model has heads 4, this configuration 2: set model.heads = 4"),
        (
            {"dim": 8, "heads": 2, "layers": 2},
            "has dim 16, layers 1 and heads 4, this configuration 8, 2 and 2: set model.dim = 16, "
            "model.layers = 1 and model.heads = 4",
        ),
    ],
)
def test_a_model_of_another_size_is_refused_with_what_to_do(
    model: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """By ``run`` before it begins, and by the worker."""
    trained_in(tmp_path)
    saved_model.check(settings_of(tmp_path))
    for said in refusals(settings_of(tmp_path, model=model)):
        assert words in said
        assert START_ANEW.format(tmp_path / "trainer") in said


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_model_of_another_format_is_refused_with_what_to_do_and_what_it_served_stays(
    number: int, redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    """Without the folder that the sentence names, Redis has the old model's vectors until the new one's."""
    trained_in(tmp_path, store)
    found, _ = checkpoint.latest(tmp_path / "trainer")
    assert found is not None
    meta = json.dumps({"format": number, "generation": 1, "relations": ["click"]}).encode()
    files = {name: found.read(name) for name in found.files} | {"trainer.json": meta}
    checkpoint.write(tmp_path / "trainer", found.number + 1, files.items(), found.facts)
    settings = settings_of(tmp_path)
    for said in refusals(settings):
        assert f"{tmp_path / 'trainer' / '2'}: the saved model has format {number}, this version" in said
        assert "driftgraph reads 5 alone: run the version that saved it, or remove" in said
        assert START_ANEW.format(tmp_path / "trainer") in said

    shutil.rmtree(tmp_path / "trainer")
    saved_model.check(settings)
    reader, users = EmbeddingReader(redis_client, namespace=NAMESPACE), SHOP.user_ids[:3]
    before = reader.users(users)[0]
    anew = worker_start.attached(settings, tmp_path / "window", store)
    assert not anew.may_publish(anew.graph.moment())
    assert (reader.current(), reader.users(users)[0].tolist()) == (1, before.tolist())
    report, _ = anew.cycle(anew.graph.moment())
    assert (report.generation, report.model_version, reader.current()) == (2, 1, 2)


START_ANEW = (
    "or remove {}; a new model then starts from the window within 15m of event time, and Redis serves what "
    "it has until then"
)


def trained_in(folder: Path, store: GenerationStore | None = None) -> None:
    """Leave what a worker leaves that has made its first fit on the shop's events."""
    graph = Heterograph.create(
        folder / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),)
    )
    grow(graph, batch_of(SHOP))
    worker = worker_start.attached(settings_of(folder), folder / "window", cast(GenerationStore, store))
    report, _ = worker.cycle(worker.graph.moment())
    assert report.fit.accepted


def refusals(settings: Settings) -> Iterator[str]:
    """What ``run`` says before it begins, and what the worker says."""
    nowhere = cast(GenerationStore, None)
    for refuse in (
        lambda: saved_model.check(settings),
        lambda: worker_start.attached(settings, settings.data_dir / "window", nowhere),
    ):
        with pytest.raises(OtherModelError) as refused:
            refuse()
        yield str(refused.value)


def test_no_saved_model_and_a_damaged_one_refuse_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    saved_model.check(settings)
    (tmp_path / "trainer" / "3").mkdir(parents=True)
    (tmp_path / "trainer" / "3" / "manifest.json").write_text("{")
    saved_model.check(settings)
    assert saved_model.newest(tmp_path) is None


@pytest.mark.parametrize("wanted", ["cuda:7", "cuda:63"])
def test_a_device_that_is_not_here_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(
        ConfigError, match=f"model.device = {wanted}, but PyTorch .* sees .* CUDA devices here"
    ):
        device_of(wanted)
    assert device_of("cpu") == "cpu"


def test_the_newest_generation_is_kept_even_if_the_trends_are_not_published(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> None:
        raise StoreError("Redis went away")

    graph = graph_of([batch_of(SHOP)])
    worker = worker_of(graph, store, checkpoints=tmp_path)
    monkeypatch.setattr(store.trending, "replace", away)
    with pytest.raises(StoreError, match="went away"):
        worker.cycle(graph.moment())
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.number, worker.published) == (1, 1)


def test_a_refused_fit_is_saved_and_not_made_again_by_a_start(store: GenerationStore, tmp_path: Path) -> None:
    """The events of a refused fit are behind the worker, also after a start, as if it had never ended."""
    graph = Heterograph.create(
        tmp_path / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),)
    )
    settings = settings_of(tmp_path)
    worker = worker_start.attached(settings, tmp_path / "window", store)
    two_cycles(worker, graph)
    worker.trainer.norms = [(1e9, 1e9)]  # no candidate is anywhere near
    later = int(SHOP.time_ms.max()) + 1_000
    for n in range(200):
        graph.apply(one_event(f"u{n % 9}", f"i{n % 17}", 0, later + n))
    graph.expire(later + 200)
    report, _ = worker.cycle(graph.moment())
    assert not report.fit.accepted
    again = worker_start.attached(settings, tmp_path / "window", store)
    assert (again.since.next, again.seen.next) == (worker.since.next, worker.seen.next)
    assert (again.trainer.fit_count, again.trainer.model_version) == (worker.trainer.fit_count, 2)


# --- the loop ----------------------------------------------------------------------------------------------


class MarkedLoop:
    """A loop whose marks and fits are ours: a fit takes no time, and what happens in it is ``meanwhile``."""

    def __init__(self, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker, self.marks, self.fits = worker, Marks(), list[Cut]()
        self.meanwhile: Callable[[], None] = lambda: None
        settings = Settings.model_validate({"data_dir": folder})
        self.loop = loop._Loop(settings, worker, lambda: self.marks)
        monkeypatch.setattr(self.loop, "_fit", self._fit)
        worker.published = 1  # or it would publish first

    def add(self, mark: Mark) -> None:
        self.marks = self.marks.having(mark)

    def step(self) -> None:
        self.loop._step(self.worker.graph.moment())

    def _fit(self, mark: Mark) -> None:
        self.meanwhile()
        self.fits.append(mark.cut)
        self.worker.seen = mark.cut


def mark_of(graph: Heterograph, *, early: bool = False) -> Mark:
    """Where the graph is now."""
    return Mark(graph.window.cut(), graph.owners(), early)


def test_an_early_mark_is_for_a_worker_without_a_model_and_an_old_one_for_nobody(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused first fit is made again at the next mark of any kind; with a model at a regular one."""
    graph = graph_of([batch_of(SHOP)])
    marked = MarkedLoop(worker_of(graph, store), tmp_path, monkeypatch)
    marked.step()
    assert marked.fits == [], "there has been no mark"
    marked.add(first := mark_of(graph, early=True))
    for _ in range(3):
        marked.step()
    assert marked.fits == [first.cut], "a mark has one fit"
    grow(graph, one_event("u", "i", 0, int(SHOP.time_ms.max()) + 1))
    marked.add(second := mark_of(graph, early=True))
    marked.worker.trainer.model_version = 1
    marked.step()
    assert marked.fits == [first.cut]
    marked.worker.trainer.model_version = 0
    marked.step()
    assert marked.fits == [first.cut, second.cut]


def test_marks_that_pass_while_a_fit_is_made_become_one(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of([batch_of(SHOP)])
    marked = MarkedLoop(worker_of(graph, store), tmp_path, monkeypatch)
    marked.worker.trainer.model_version = 1
    passed: list[Mark] = []

    def pass_three() -> None:
        for n in range(3):
            grow(graph, one_event("u", "i", 0, int(SHOP.time_ms.max()) + 1 + n))
            passed.append(mark_of(graph))
            marked.add(passed[-1])
        marked.meanwhile = lambda: None

    marked.meanwhile = pass_three
    marked.add(first := mark_of(graph))
    for _ in range(4):
        marked.step()
    assert marked.fits == [first.cut, passed[-1].cut]


def test_a_fit_is_made_at_its_mark_and_what_came_since_is_published(
    store: GenerationStore, redis_client: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is, bit for bit, that of a fit at the mark when nothing had come behind it."""
    graph = graph_of([batch_of(SHOP)])
    mark = mark_of(graph)
    there = worker_of(graph_of([batch_of(SHOP)]), None)
    there.cycle(there.graph.moment())
    newest_ms = int(SHOP.time_ms.max())
    grow(graph, one_event("newcomer", SHOP.item_ids[0], 0, newest_ms + 1))
    worker = worker_of(graph, store)
    looking = loop._Loop(Settings.model_validate({"data_dir": tmp_path}), worker, Marks)
    looking._fit(mark)
    assert worker.since == mark.cut
    assert worker.trainer.model_version == there.trainer.model_version == 1
    assert worker.model_hash == there.model_hash
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).recommend("newcomer", 1).source == "list"
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_a_fit_whose_mark_has_left_the_ring_is_made_at_the_newest_moment(
    store: GenerationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless the fit is made already, and only its vectors are not published."""
    small = [replace(relation, capacity=1 << 10) for relation in RELATIONS]
    graph = graph_of([batch_of(SHOP, 0, 500)], small)
    mark = mark_of(graph)
    grow(graph, batch_of(SHOP, 500))
    with pytest.raises(StaleCut):
        graph.window.check(mark.cut)
    worker = worker_of(graph, None)
    looking = loop._Loop(Settings.model_validate({"data_dir": tmp_path}), worker, Marks)
    looking._fit(mark)
    assert "so it is made on the window as it is now; raise window.capacity" in caplog.text
    assert worker.seen == graph.window.cut()
    with pytest.raises(StaleCut):
        looking._fit(mark)


def test_the_loop_serves_lists_first_and_says_why_a_model_was_refused(
    store: GenerationStore,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker, reader = worker_of(graph, store), EmbeddingReader(redis_client, namespace=NAMESPACE)
    looking = loop._Loop(
        Settings.model_validate({"data_dir": tmp_path}),
        worker,
        lambda: Marks(early=mark_of(graph, early=True)),
    )
    user = named(graph, USER, np.zeros(1, np.uint32))[0]
    refuse = Verdict(False, "popularity", "the loss is worse than recent popularity's")
    with monkeypatch.context() as patch:
        patch.setattr("driftgraph.model.trainer.judge", lambda *_, **__: refuse)
        looking._step(graph.moment())
    assert "no new generation: the loss is worse than recent popularity's" in caplog.text
    assert reader.recommend(user).source == "list"
    before = reader.current()
    looking._step(graph.moment())
    assert reader.current() == before + 1, "the lists are made anew, as popularity has moved on"
    assert reader.recommend(user).source == "list"


def test_a_ring_that_is_too_small_is_told_and_not_tried_in_silence(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph = graph_of([batch_of(SHOP)])
    status = WorkerStatus(tmp_path / "worker.json", SystemClock(), NoProgress())
    worker = Worker(graph, trainer_of(), store, checkpoints=None, status=status)
    looking = loop._Loop(
        Settings.model_validate({"data_dir": tmp_path}), worker, lambda: Marks(mark_of(graph))
    )

    def stale(*_: object) -> None:
        raise StaleCut("the ring has turned")

    waits = iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(worker, "cycle", stale)
        looking.run(lambda _: next(waits))
    assert caplog.text.count("events leave their ring while the worker reads them") == 1
    told = json.loads((tmp_path / "worker.json").read_bytes())
    assert "raise window.capacity" in told["trouble"]
    waits = iter([False, True])
    looking.run(lambda _: next(waits))
    assert json.loads((tmp_path / "worker.json").read_bytes())["trouble"] is None


def test_an_operators_rollback_of_lists_stays(store: GenerationStore, redis_client: redis.Redis) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker = worker_of(graph, store)
    for _ in range(2):
        worker.publish(graph.moment())
    assert store.rollback() == 1
    worker.look(graph.moment())
    assert worker.is_rolled_back
    again = worker_of(graph, store)
    again.go_on()
    assert (again.published, again.is_rolled_back) == (0, True)
    assert not again.may_publish(graph.moment())


def test_a_relation_without_live_events_has_no_list_of_rising_items_and_is_not_missed(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    graph = graph_of([batch_of(SHOP)])
    worker, reader = worker_of(graph, store), EmbeddingReader(redis_client, namespace=NAMESPACE)
    worker.publish(graph.moment())
    name = graph.window.relations[0].name
    assert reader.trending(name)
    users = named(graph, USER, np.unique(graph.window.events(graph.moment().cut).user))
    graph.erase(users)
    newest_ms = int(SHOP.time_ms.max())
    grow(graph, one_event("u", "i", 1, newest_ms + 1))
    worker.publish(graph.moment())
    assert reader.trending(name) == []
    assert store.trending.standing() == "served"
