"""The refresher: users and items stay fresh whatever the worker is at, and never of two generations."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings
from driftgraph.app.publishing import served_items
from driftgraph.app.publishing.next_generation import GenerationWriter
from driftgraph.app.publishing.refresher import GenerationRefresh, Refresher, Round, Serving
from driftgraph.app.publishing.served_items import ServedItems
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.process import loop, refresh_thread, worker_start
from driftgraph.app.training.process.refresh_thread import RefreshThread, refreshing
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.network.served_model import ServedModel
from driftgraph.model.options import ListLengths
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import Keys, StaleWorkerError, StoreError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.arrays import F32, U32
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph, HeterographView
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Cut, WindowView
from tests.model.custom_models import Hanging
from tests.services_redis import NAMESPACE
from tests.shop_worlds import RELATIONS, batch_of, grow, one_event, small_shop, trainer_of
from tests.waits import until

SHOP = small_shop()
LATER_MS = int(SHOP.time_ms.max()) + 5_000
USER_ID, ITEM_ID = SHOP.user_ids[int(SHOP.user[0])], SHOP.item_ids[int(SHOP.item[0])]


@pytest.fixture
def graph(tmp_path: Path) -> Heterograph:
    """The writer of a window in files; a worker reads it as another process does."""
    graph = Heterograph.create(
        tmp_path / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),)
    )
    grow(graph, batch_of(SHOP, 0, len(SHOP) * 2 // 3))
    return graph


def worker_on(tmp_path: Path, store: GenerationStore, **model: object) -> Worker:
    tables = {
        "data_dir": tmp_path,
        "relations": {r.name: {"span": f"{r.span_ms}ms"} for r in RELATIONS},
        "model": {"dim": 16, "heads": 2, "device": "cpu", **model},
    }
    return worker_start.attached(Settings.model_validate(tables), tmp_path / "window", store)


@contextlib.contextmanager
def beside(worker: Worker, server: EmbeddedRedis) -> Iterator[RefreshThread]:
    """The thread that refreshes, with a connection of its own."""
    assert worker.refresher is not None
    assert worker.store is not None
    with contextlib.closing(connect(server.url)) as client:
        worker.refresher.store = worker.store.beside(client)
        with refreshing(worker.refresher, worker.status) as thread:
            yield thread


def event_ms_of(client: redis.Redis, user: str) -> int | None:
    return EmbeddingReader(client, namespace=NAMESPACE).recommend(user, 1).event_ms


def click(graph: Heterograph, user: str, item: str, n: int) -> int:
    grow(graph, one_event(user, item, 0, LATER_MS + n))
    return LATER_MS + n


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- beside what takes long ----------------------------------------------------------------------------


def test_users_and_new_items_are_refreshed_while_a_fit_hangs(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
) -> None:  # fmt: skip
    worker = worker_on(tmp_path, store, custom="tests.model.custom_models:Hanging")
    Hanging.hangs.clear()
    Hanging.goes_on.clear()
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    grow(graph, batch_of(SHOP, len(SHOP) * 2 // 3))
    with beside(worker, redis_server) as refreshes:
        Hanging.hangs.set()
        fit = in_thread(lambda: worker.cycle(worker.graph.moment()))
        try:
            for n in range(3):
                at_ms, key = click(graph, "newcomer", f"new {n}", n), f"shop:emb:1:item:new {n}"
                until(lambda at_ms=at_ms: event_ms_of(redis_client, "newcomer") == at_ms)  # type: ignore[misc]
                until(lambda key=key: redis_client.exists(key))  # type: ignore[misc]
            assert fit.is_alive(), "the fit has ended, and proved nothing"
            refreshes.check()
        finally:
            Hanging.goes_on.set()
            fit.join(60)
    assert not refreshes.is_alive()
    assert worker.published == 2
    assert event_ms_of(redis_client, "newcomer") == LATER_MS + 2
    assert store.standing(2) is Standing.SERVED


def test_while_a_generation_is_written_the_one_before_is_refreshed_and_the_switch_takes_nothing_back(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    verified, goes_on, verify = threading.Event(), threading.Event(), store._verify

    def slow(*args: Any, **named: Any) -> None:
        verify(*args, **named)
        verified.set()
        assert goes_on.wait(60)

    monkeypatch.setattr(store, "_verify", slow)
    with beside(worker, redis_server) as refreshes:
        publish = in_thread(lambda: worker.publish(worker.graph.moment()))
        assert verified.wait(60)
        at_ms = click(graph, "newcomer", "new item", 1)
        until(lambda: event_ms_of(redis_client, "newcomer") == at_ms)
        assert EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 1
        refreshes.stop()  # so that only the publish can bring the newcomer into generation 2
        goes_on.set()
        publish.join(60)
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 2
    assert event_ms_of(redis_client, "newcomer") == at_ms
    assert redis_client.exists("shop:emb:2:item:new item")
    assert {store.standing(2) for _ in range(10)} == {Standing.SERVED}


def test_no_round_goes_on_at_a_switch_and_an_error_leaves_the_generation_before(
    graph: Heterograph, tmp_path: Path, store: GenerationStore
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    refresher, view = worker.refresher, worker.graph
    assert refresher is not None
    with contextlib.suppress(StoreError), refresher.switching_to(tagged(view, 2)):
        raise StoreError("Redis is away")
    assert refresher.number == 1
    kept, rounds = cast(GenerationRefresh, Recorded()), list[Round]()
    with refresher.switching_to(kept):
        click(graph, "newcomer", "new item", 1)
        waits = in_thread(lambda: rounds.append(refresher.round(view.moment())))
        waits.join(0.3)
        assert waits.is_alive(), "a round went on at the switch"
    waits.join(60)
    assert rounds == [Round()], "it was one of the generation that was switched to"


def test_a_fit_changes_nothing_of_what_is_refreshed(
    graph: Heterograph, tmp_path: Path, store: GenerationStore
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    view, moment = worker.graph.edges, worker.graph.moment()
    rows = np.unique(view.events(moment.cut).user)
    served, trained = worker.trainer.served_model(), worker.trainer
    before = served.users(view, rows, moment.cut)
    assert np.array_equal(before, trained.embed_users(view, rows, moment.cut))
    grow(graph, batch_of(SHOP, len(SHOP) * 2 // 3))
    assert trained.fit(view, worker.since, worker.graph.moment().cut).accepted
    assert np.array_equal(before, served.users(view, rows, moment.cut))
    assert not np.array_equal(before, trained.embed_users(view, rows, moment.cut))


# --- one generation ------------------------------------------------------------------------------------


class Tagged:
    """A model each vector of which is full of the number of its generation."""

    def __init__(self, number: int) -> None:
        self.number, self.cold = number, trainer_of().cold

    def users(self, view: object, rows: U32, cut: Cut, times_ms: object = None) -> F32:
        return np.full((len(rows), 4), self.number, np.float32)

    def new_items(self, view: object, rows: U32, cut: Cut, time_ms: int) -> F32:
        return self.users(view, rows, cut)

    def items(self, view: object, rows: U32, cut: Cut, time_ms: int, popularity: Popularity) -> F32:
        return self.users(view, rows, cut)

    def popularity(self, view: WindowView) -> Popularity:
        return Popularity([1], view.rows(ITEM))


def tagged(graph: HeterographView, number: int) -> GenerationRefresh:
    """Everybody is due; an item that is new has the number in its last channel, too."""
    versions, rows = graph.moment().versions, np.zeros(1, np.uint32)
    items = ServedItems(rows, np.full((1, 4), number, np.float32), np.zeros(1, np.bool_), versions[ITEM])
    nothing = Cut(0, (0, 0, 0), (0, 0, 0))
    model = cast(ServedModel, Tagged(number))
    serving = Serving(number, 4, model, None, None, nothing, versions[USER][:0], items)
    return GenerationRefresh(serving, graph, ListLengths(lists=0, similar=0))


def test_no_reader_sees_two_generations_while_they_are_published_and_refreshed(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(refresh_thread, "LOOK_EVERY_S", 0.0)
    view = HeterographView.attach(tmp_path / "window")
    worker = Worker(view, trainer_of(), store, checkpoints=None)
    users, items = SHOP.user_ids[:40], SHOP.item_ids[:40]

    def publish(number: int) -> None:
        sides = [
            Vectors(ids, np.full((40, 4), number, np.float32), np.zeros(40, np.int64))
            for ids in (users, items)
        ]
        kept = tagged(view, number)
        assert worker.refresher is not None
        store.publish(
            number,
            sides[0],
            sides[1],
            {},
            at_switch=partial(worker.refresher.switching_to, kept),
        )

    seen, stopped, wrong = set[int](), threading.Event(), list[str]()

    def read() -> None:
        with contextlib.closing(connect(redis_server.url)) as client:
            reader = EmbeddingReader(client, namespace=NAMESPACE)
            while not stopped.is_set():
                found = reader.batch(users=users, items=items)
                seen.add(found.generation)
                if not ((found.users == found.generation).all() and (found.items == found.generation).all()):
                    wrong.append(f"generation {found.generation} has {np.unique(found.users)}")

    publish(1)
    with beside(worker, redis_server) as refreshes:
        readers = [in_thread(read) for _ in range(2)]
        for number in range(2, 21):
            grow(graph, one_event(users[number], items[number], 0, LATER_MS + number))
            publish(number)
            if number % 4 == 0:  # the switches between are as fast as they come
                until(partial(seen.__contains__, number))
        assert worker.refresher is not None
        facts = worker.refresher.facts
        until(lambda: facts()["users"] > 40 and facts()["waiting"] == 0)
        refreshes.check()
        stopped.set()
        for one in readers:
            one.join(30)
    assert wrong == []
    assert {4, 8, 12, 16, 20} <= seen


# --- erasure -------------------------------------------------------------------------------------------


def test_an_erasure_waits_for_the_round_that_has_the_name_already_and_nobody_comes_back(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    assert worker.refresher is not None
    named, goes_on = threading.Event(), threading.Event()
    own = store.beside(connect(redis_server.url))
    write = own.refresh

    def slow(number: int, users: Vectors) -> None:
        assert USER_ID in users.ids
        named.set()
        assert goes_on.wait(60)
        write(number, users)

    monkeypatch.setattr(own, "refresh", slow)
    worker.refresher.store = own
    refresher = worker.refresher
    click(graph, USER_ID, ITEM_ID, 1)
    round_ = in_thread(lambda: refresher.round(worker.graph.moment()))
    assert named.wait(60)
    graph.erase([USER_ID])
    erasure = in_thread(lambda: worker.erase([USER_ID]))
    erasure.join(0.3)
    assert erasure.is_alive(), "it is done, and the round brings the user back"
    goes_on.set()
    round_.join(60)
    erasure.join(60)
    assert not erasure.is_alive()
    assert list(redis_client.scan_iter(f"*user:{USER_ID}")) == []
    monkeypatch.setattr(own, "refresh", write)
    refresher.round(worker.graph.moment())
    assert list(redis_client.scan_iter(f"*user:{USER_ID}")) == []


# --- what goes wrong -----------------------------------------------------------------------------------


def test_what_redis_refused_is_refreshed_when_it_takes_it_and_the_status_says_why(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(refresh_thread, "PAUSES_S", (0.05,))
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())

    def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "status" / "worker.json").read_bytes())["refresh"]
        return found

    with beside(worker, redis_server) as refreshes:
        redis_client.config_set("maxmemory", 1)
        first_ms = click(graph, "first", ITEM_ID, 1)
        until(lambda: "maxmemory" in str(told() and told()["trouble"]))
        second_ms = click(graph, "second", ITEM_ID, 2)
        redis_client.config_set("maxmemory", 0)
        until(lambda: event_ms_of(redis_client, "second") == second_ms)
        until(lambda: event_ms_of(redis_client, "first") == first_ms)
        until(lambda: told()["trouble"] is None and told()["users"] >= 2)
        refreshes.check()


def test_a_fault_is_told_and_tried_again_and_after_five_the_loop_ends_with_it(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(refresh_thread, "FAULT_PAUSES_S", (0,))
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    refresher = worker.refresher
    assert refresher is not None
    left, whole = [3], refresher.round

    def faulty(*args: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ZeroDivisionError("a fault of ours")
        return whole(*args)

    monkeypatch.setattr(refresher, "round", faulty)
    with beside(worker, redis_server) as refreshes:
        at_ms = click(graph, "newcomer", ITEM_ID, 1)
        until(lambda: event_ms_of(redis_client, "newcomer") == at_ms)
        refreshes.check()
        assert "ZeroDivisionError: a fault of ours; try 3 of 5" in caplog.text
        left[0] = 1_000
        until(lambda: not refreshes.is_alive())
        settings = Settings.model_validate({"data_dir": tmp_path})
        with pytest.raises(ZeroDivisionError, match="a fault of ours"):
            loop._Loop(settings, worker, Marks, refreshes).run(lambda _: False)
    assert left[0] == 1_000 - 5


def test_a_thread_that_ends_without_a_word_is_seen(
    tmp_path: Path, graph: Heterograph, store: GenerationStore
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.refresher is not None
    thread = RefreshThread(worker.refresher, worker.status)
    with pytest.raises(RuntimeError, match="ended without a word"):
        thread.check()


def test_a_newer_worker_ends_the_thread_and_the_loop(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
) -> None:  # fmt: skip
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    with beside(worker, redis_server) as refreshes:
        redis_client.hset(Keys(NAMESPACE).current, "epoch", 9)
        click(graph, "newcomer", ITEM_ID, 1)
        until(lambda: not refreshes.is_alive())
        with pytest.raises(StaleWorkerError):
            refreshes.check()


def test_after_a_rollback_nothing_is_written_and_once_the_generation_is_back_all_that_came_is(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_server: EmbeddedRedis,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(refresh_thread, "NOT_SERVED_S", 0.05)
    worker = worker_on(tmp_path, store)
    for _ in range(2):
        worker.publish(worker.graph.moment())
    assert worker.refresher is not None
    refresher = worker.refresher
    with beside(worker, redis_server) as refreshes:
        assert store.rollback() == 1
        at_ms = click(graph, "newcomer", ITEM_ID, 1)
        until(lambda: refresher.facts()["generation"] == 0)
        assert list(redis_client.scan_iter("*user:newcomer")) == []
        redis_client.hset(Keys(NAMESPACE).current, mapping={"gen": 2, "left": 0})
        until(lambda: event_ms_of(redis_client, "newcomer") == at_ms)
        refreshes.check()


# --- items ---------------------------------------------------------------------------------------------


def served_vector(client: redis.Redis, item: str, number: int) -> F32:
    blob = cast(bytes, client.hget(Keys(NAMESPACE).item(number, item), "embedding"))
    return np.frombuffer(blob, "<f4")


def test_a_new_item_is_whole_at_once_and_goes_with_its_generation(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis
) -> None:
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    before = int(cast(bytes, redis_client.hget("shop:emb:1:manifest", "items")))
    for n in range(5):
        click(graph, SHOP.user_ids[n], "new item", n)
    worker.refresh(worker.graph.moment())
    moment = worker.graph.moment()
    row = np.array(
        [worker.graph.names(ITEM, _rows(moment.versions[ITEM]), moment).index("new item")], np.uint32
    )
    expected = worker.trainer.new_items(worker.graph.edges, row, moment.cut, moment.cut.watermark_ms + 1)[0]
    found = served_vector(redis_client, "new item", 1)
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-5)
    assert redis_client.hget("shop:emb:1:manifest", "items") == b"%d" % (before + 1)
    assert redis_client.llen("shop:emb:1:item-ids") == before + 1
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.similar("new item", 3).items, "its users touched other items, so that it has similar ones"
    if redis_client.exists("shop:emb:1:items"):
        assert redis_client.execute_command("VCARD", "shop:emb:1:items") == before + 1  # type: ignore[no-untyped-call]
    assert {store.standing(1) for _ in range(10)} == {Standing.SERVED}
    for _ in range(4):
        worker.publish(worker.graph.moment())
    assert list(redis_client.scan_iter("shop:emb:1:*")) == []


def test_a_known_item_is_written_where_it_has_moved_and_nowhere_else(
    graph: Heterograph,
    tmp_path: Path,
    store: GenerationStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_items, "MOVED", 0.005)  # this shop is so calm that nothing moves by more
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    moment = worker.graph.moment()
    names = worker.graph.names(ITEM, _rows(moment.versions[ITEM]), moment)
    before = {name: served_vector(redis_client, name, 1) for name in names if name is not None}
    grow(graph, batch_of(SHOP, len(SHOP) * 2 // 3))
    worker.refresh(worker.graph.moment())
    after = {name: served_vector(redis_client, name, 1) for name in before}
    distance = {name: 1 - _cosine(before[name], after[name]) for name in before}
    written = {name for name in before if not np.array_equal(before[name], after[name])}
    assert written
    assert all(distance[name] > 0.005 for name in written)
    assert all(before[name][-1] == after[name][-1] for name in before), "popularity is that of the publish"
    assert len(written) < len(before)
    if redis_client.exists("shop:emb:1:items"):
        one = min(written)
        user = np.append(after[one], 0).astype("<f4").tobytes()
        best = cast(
            "list[bytes]",
            redis_client.execute_command("VSIM", "shop:emb:1:items", "FP32", user, "COUNT", 500, "TRUTH"),  # type: ignore[no-untyped-call]
        )
        exact = sorted(
            (name for name in names if name),
            key=lambda name: -float(served_vector(redis_client, name, 1) @ after[one]),
        )
        assert [name.decode() for name in best[:3]] == exact[:3]


def _rows(versions: U32) -> U32:
    return np.arange(len(versions), dtype=np.uint32)


def _cosine(a: F32, b: F32) -> float:
    a, b = a[:-1], b[:-1]
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# --- who waits -----------------------------------------------------------------------------------------


def test_who_got_a_row_between_the_owners_of_a_moment_and_its_cut_waits_for_the_next(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis
) -> None:
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    owners = worker.graph.moment().versions
    at_ms = click(graph, "newcomer", ITEM_ID, 1)
    torn = replace(worker.graph.moment(), versions=owners)
    assert worker.refresh(torn) == 0
    assert worker.refresh(worker.graph.moment()) == 1
    assert event_ms_of(redis_client, "newcomer") == at_ms


def test_an_item_that_got_a_row_between_the_owners_of_a_moment_and_its_cut_is_no_fault_of_a_publish(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis
) -> None:
    """It comes with the next refresh, and a known item is as new as any."""
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    owners = worker.graph.moment().versions
    click(graph, SHOP.user_ids[0], "new item", 1)
    worker.publish(replace(worker.graph.moment(), versions=owners))
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert reader.items(["new item", ITEM_ID])[1].tolist() == [False, True]
    click(graph, SHOP.user_ids[1], "new item", 2)
    worker.refresh(worker.graph.moment())
    assert reader.items(["new item"])[1].all()


def test_who_acts_goes_before_a_backlog_and_nobody_waits_behind_who_acted_later(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("driftgraph.app.publishing.refresher.USERS_AT_ONCE", 3)
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    refresher = worker.refresher
    assert refresher is not None
    for n in range(5):
        click(graph, f"new {n}", ITEM_ID, n)
    assert refresher.round(worker.graph.moment())[::2] == (3, 2)
    assert sorted(k.decode()[-1] for k in redis_client.scan_iter("*user:new *")) == ["0", "1", "2"]
    backlog = sorted({SHOP.user_ids[n] for n in SHOP.user[: len(SHOP) // 2].tolist()})[:40]
    refresher.erase(backlog, lambda: None)  # as if they had come back, so that they are made anew
    click(graph, "new 5", ITEM_ID, 8)
    refresher.round(worker.graph.moment())
    assert len(list(redis_client.scan_iter("*user:new *"))) == 6
    while refresher.round(worker.graph.moment()).waiting:
        pass
    assert refresher.facts()["users"] == 6 + len(backlog)
    facts = refresher.facts()["freshness"]
    assert facts["event"]["recent"] == 6, "who is made anew did nothing"


def test_who_waits_at_a_switch_keeps_the_place_in_line(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Five acted, three were refreshed, a generation without any of them is served, and others act."""
    monkeypatch.setattr("driftgraph.app.publishing.refresher.USERS_AT_ONCE", 3)
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    refresher, older = worker.refresher, worker.graph.moment()
    assert refresher is not None
    for n in range(5):
        click(graph, f"new {n}", ITEM_ID, n)
    assert refresher.round(worker.graph.moment())[::2] == (3, 2)
    monkeypatch.setattr(GenerationWriter, "_catch_up", lambda *_: 0)
    worker.publish(older)
    for n in range(5, 9):
        click(graph, f"new {n}", ITEM_ID, n)
    assert refresher.round(worker.graph.moment())[::2] == (3, 6)
    in_new = (k.decode()[-1] for k in redis_client.scan_iter(f"*:{worker.published}:user:new *"))
    assert sorted(in_new) == ["0", "1", "2"], "who could be read before comes back first: it acted first"
    while refresher.round(worker.graph.moment()).waiting:
        pass
    facts = refresher.facts()["freshness"]
    assert facts["event"]["recent"] == 9, "each event is counted once, when it could be read first"


class Recorded:
    """In the place of a GenerationRefresh: whom it took over; ``meanwhile`` is called as it looks."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.taken: list[object] = []
        self.upto, self._meanwhile = Cut(0, (1, 1, 1), (1, 1, 1)), meanwhile

    def see(self, *_: object) -> None:
        self._meanwhile()

    def take_over(self, former: object, *_: object) -> None:
        self.taken.append(former)

    def round(self, *_: object) -> Round:
        return Round()


def test_a_switch_in_the_middle_of_a_round_takes_over_in_the_next(
    graph: Heterograph, store: GenerationStore
) -> None:
    refresher = Refresher(graph, store, SystemClock())
    second = Recorded()
    first = Recorded(lambda: refresher.serve(cast(GenerationRefresh, second)))
    refresher.serve(cast(GenerationRefresh, first))
    refresher.round(graph.moment())
    assert (first.taken, second.taken) == ([], [])
    for _ in range(2):
        refresher.round(graph.moment())
        assert second.taken == [first]


def test_the_mark_that_another_thread_writes_is_no_loss(
    store: GenerationStore, redis_server: EmbeddedRedis, graph: Heterograph, tmp_path: Path
) -> None:
    worker = worker_on(tmp_path, store)
    worker.publish(worker.graph.moment())
    assert worker.refresher is not None
    refresher, n = worker.refresher, 0
    with beside(worker, redis_server):
        while refresher.facts()["users"] < 40:
            n += 1
            click(graph, f"new {n}", ITEM_ID, n)
            assert store.standing(1) is Standing.SERVED


def test_lists_rank_by_the_vectors_that_the_refresh_has_written(
    graph: Heterograph, tmp_path: Path, store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_items, "MOVED", 0.005)
    worker = worker_on(tmp_path, store)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    put = dict[int, F32]()

    def noted(own: ScoredLists, rows: U32, vectors: F32) -> None:
        put.update(zip(rows.tolist(), vectors, strict=True))

    monkeypatch.setattr(ScoredLists, "put", noted)
    grow(graph, batch_of(SHOP, len(SHOP) * 2 // 3))
    click(graph, USER_ID, "new item", 1)
    worker.refresh(worker.graph.moment())
    moment = worker.graph.moment()
    names = worker.graph.names(ITEM, np.array(sorted(put), np.uint32), moment)
    assert "new item" in names
    assert len(put) > 1
    reader = EmbeddingReader(store._client, namespace=NAMESPACE)
    served, found = reader.items([name or "" for name in names])
    assert found.all()
    assert np.array_equal(served, np.array([put[row] for row in sorted(put)]))
