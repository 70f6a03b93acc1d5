"""Heads from impressions to Redis: what a reader computes is what the model of the generation says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis

from driftgraph.app.commands.export import export
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.publishing.serving_parts import heads_at, judged_heads
from driftgraph.app.training import trainer_state
from driftgraph.app.training.cycle import Worker
from driftgraph.model.heads import head_parts
from driftgraph.model.heads.head_evaluation import dots
from driftgraph.model.heads.heads import Parts, features, probability
from driftgraph.model.heads.impressions import Asked, Rates, answered
from driftgraph.model.network.neighbors import now_ms
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.erasures import ErasureList
from driftgraph.snapshots.generations.keys import Keys
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Relation, StaleCut
from tests.saved_windows import checkpointed
from tests.services.test_erase import files_holding, holding
from tests.services_redis import NAMESPACE
from tests.shop_worlds import DAY_MS, RELATIONS, batch_of, graph_of, grow, one_event, small_shop, trainer_of

SHOP = small_shop()
NAMES = [relation.name for relation in RELATIONS]
SHOWN = len(RELATIONS)
WITH_SHOWN = (*RELATIONS, Relation("impression", 30 * DAY_MS, 1 << 15, is_edge=False))


def shown_shop(first: int, stop: int | None = None) -> EventBatch:
    """The shop's events, each with an impression of its item right before and one of another item."""
    batch, rng = batch_of(SHOP, first, stop), np.random.default_rng(first)
    rows: list[tuple[str, str, int, int]] = []
    for n in range(len(batch)):
        user, item = batch.user.bytes_at(n).decode(), batch.item.bytes_at(n).decode()
        time_ms = int(batch.time_ms[n])
        other = SHOP.item_ids[int(rng.integers(0, len(SHOP.item_ids)))]
        rows += [(user, item, SHOWN, time_ms), (user, other, SHOWN, time_ms)]
        rows.append((user, item, int(batch.relation[n]), time_ms))
    users, items, relations, times = zip(*rows, strict=True)
    columns = np.array(relations, np.uint8), np.array(times, np.int64)
    return EventBatch(Strings.of(users), Strings.of(items), *columns)


def served(worker: Worker, graph: Heterograph) -> None:
    """Two fits: the heads learn in the second, and it is published."""
    edge = len(SHOP) * 2 // 3
    grow(graph, shown_shop(0, edge))
    assert worker.cycle(graph.moment())[0].fit.accepted
    grow(graph, shown_shop(edge))
    report, _ = worker.cycle(graph.moment())
    assert report.fit.accepted
    assert report.heads is not None
    assert report.heads.impressions > 500
    assert report.heads.heads[NAMES[0]].answered > 100


def expected(
    worker: Worker, graph: Heterograph, reader: EmbeddingReader, user: str, items: list[str]
) -> dict[str, list[float]]:
    """The heads' probabilities of a moment, from all of the window and the published vectors."""
    moment = graph.moment()
    at_ms = now_ms(graph.edges, moment.cut)
    shown = answered(graph.window.events(moment.cut), SHOWN, worker.trainer.options.attribution_ms)
    rows = [
        {
            name: row
            for row, name in enumerate(
                graph.names(side, np.arange(len(moment.versions[side]), dtype=np.uint32), moment)
            )
        }
        for side in (0, 1)
    ]
    asked = Asked(
        np.full(len(items), rows[0][user], np.uint32),
        np.array([rows[1][item] for item in items], np.uint32),
        np.full(len(items), at_ms, np.int64),
    )
    counts = Rates(shown, (len(moment.versions[0]), len(moment.versions[1]))).before(asked)
    vectors = reader.batch(users=[user] * len(items), items=items)
    parts = Parts(dots(vectors.users, vectors.items), vectors.items[:, -1])
    return {
        name: probability(
            features(counts, parts, b, NAMES), worker.trainer.heads.heads[name].weight_F
        ).tolist()
        for b, name in enumerate(NAMES)
    }


def test_a_reader_computes_what_the_heads_say(redis_client: redis.Redis, store: GenerationStore) -> None:
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), store, checkpoints=None)
    served(worker, graph)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    items = [SHOP.item_ids[n] for n in np.unique(SHOP.item)[:20]]
    for user in (SHOP.user_ids[n] for n in np.unique(SHOP.user)[:5]):
        found = reader.scores(user, items)
        assert (found.source, found.user_found) == ("heads", True)
        assert found.items_found.all()
        for name, chances in expected(worker, graph, reader, user, items).items():
            assert found.by_behavior[name].tolist() == pytest.approx(chances, rel=1e-4), name
        assert len(set(found.by_behavior[NAMES[0]].tolist())) > 10


def test_a_refresh_renews_what_is_known_of_a_user(redis_client: redis.Redis, store: GenerationStore) -> None:
    """Thirty impressions without a click lower the user's number, and nobody else's."""
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), store, checkpoints=None)
    served(worker, graph)

    def number(user: str) -> float:
        key = Keys(NAMESPACE).user(worker.published, user)
        return float(np.frombuffer(cast("bytes", redis_client.hget(key, "head")), "<f4")[0])

    user, other = SHOP.user_ids[int(SHOP.user[-1])], SHOP.user_ids[int(SHOP.user[0])]
    items = [SHOP.item_ids[n] for n in np.unique(SHOP.item)[:10]]
    before, of_other, later_ms = number(user), number(other), int(SHOP.time_ms.max())
    for n in range(30):
        grow(graph, one_event(user, items[n % 10], SHOWN, later_ms + 1 + n))
    grow(graph, one_event(user, "unseen", 0, later_ms + 40))
    assert worker.refresh(graph.moment()) == 1
    assert number(user) < before - 0.3
    assert number(other) == of_other


def test_the_newest_events_of_a_user_give_the_rates_of_the_whole_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two ways to the same number: for all users at a publish, and for some at a refresh."""
    monkeypatch.setattr(head_parts, "NEWEST", 1_000)
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), None, checkpoints=None)
    served(worker, graph)
    moment = graph.moment()
    parts = heads_at(worker.trainer, graph, moment)
    assert parts is not None
    rows = np.unique(graph.edges.events(moment.cut).user)
    times_ms = np.full(len(rows), now_ms(graph.edges, moment.cut))
    ours, theirs = parts.users_later(graph.window, rows, times_ms, moment.cut), parts.users(rows)
    assert np.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert len(np.unique(ours[:, 0])) > 50


def test_a_saved_state_goes_on_with_the_heads_by_name(tmp_path: Path) -> None:
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), None, checkpoints=tmp_path)
    served(worker, graph)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    other = trainer_of()
    trainer_state.restore(other, found, graph, graph.moment())
    for name, head in worker.trainer.heads.heads.items():
        assert other.heads.heads[name].mean_F.tolist() == head.mean_F.tolist()
    assert "click" in json.loads(str(trainer_state.evaluated(found)["heads"]))["heads"]


def test_impressions_alone_make_no_fit_and_touch_nobody(
    redis_client: redis.Redis, store: GenerationStore
) -> None:
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), store, checkpoints=None)
    served(worker, graph)
    worker.refresh(graph.moment())
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    grow(graph, one_event(SHOP.user_ids[0], "only shown", SHOWN, int(SHOP.time_ms.max()) + 1))
    assert worker.refresh(graph.moment()) == 0
    found = reader.scores(SHOP.user_ids[0], ["only shown"])
    assert not found.items_found.any()
    assert 0 < found.by_behavior[NAMES[0]][0] < 1


def test_a_fit_does_not_wait_for_impressions_that_have_left_their_ring(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), None, checkpoints=None)
    edge = len(SHOP) * 2 // 3
    grow(graph, shown_shop(0, edge))
    assert worker.cycle(graph.moment())[0].fit.accepted
    grow(graph, shown_shop(edge))
    moment = graph.moment()

    def overwritten(*_: object, **__: object) -> None:
        raise StaleCut("relation 'impression': event 3 of the cut was overwritten")

    monkeypatch.setattr("driftgraph.app.publishing.serving_parts.evaluate_heads", overwritten)
    report, _ = worker.cycle(moment)
    assert report.fit.accepted
    assert report.heads is None
    assert "the heads learn nothing of this interval: relation 'impression'" in caplog.text


def test_without_impressions_or_a_model_there_is_nothing_to_judge() -> None:
    for relations, first in ((RELATIONS, batch_of(SHOP)), (WITH_SHOWN, shown_shop(0))):
        graph = graph_of([first], relations)
        trainer, moment = trainer_of(), graph.moment()
        assert judged_heads(trainer, graph, moment.cut, moment) == (None, None)
        assert heads_at(trainer, graph, moment) is None


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_restart_refreshes_users_by_the_heads_of_the_generation(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path, is_refused: bool
) -> None:
    """Not by the weights and rates of now: base and items' numbers in Redis are those of the publish."""
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), store, checkpoints=tmp_path)
    served(worker, graph)
    later_ms = int(SHOP.time_ms.max()) + 1
    for n in range(300):  # hardly anybody answers any more
        grow(graph, one_event(SHOP.user_ids[n % 80], SHOP.item_ids[n % 100], SHOWN, later_ms + n))
    grow(graph, one_event(SHOP.user_ids[0], SHOP.item_ids[0], 0, later_ms + 300))
    if is_refused:
        sample = judged_heads(worker.trainer, graph, worker.seen, graph.moment())[1]
        assert sample is not None
        worker.trainer.heads.learn(sample)  # as a fit does that the gate refuses
        worker._save(graph.moment())
    worker.refresh(graph.moment())
    key = Keys(NAMESPACE).user(worker.published, SHOP.user_ids[0])
    expected_bytes = redis_client.hget(key, "head")

    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    again = Worker(graph, trainer_of(), store, checkpoints=tmp_path)
    trainer_state.restore(again.trainer, found, graph, graph.moment())
    again.model_hash = worker.model_hash
    again.go_on()
    assert again.published == worker.published
    redis_client.hset(key, "head", b"")
    assert again.refresh(graph.moment()) > 1, "everybody, since nobody knows up to which event they are"
    assert redis_client.hget(key, "head") == expected_bytes


def test_other_impressions_are_published_anew(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    """A generation with heads is none of a worker without: its refreshed users would have no number."""
    graph = graph_of([], WITH_SHOWN)
    worker = Worker(graph, trainer_of(), store, checkpoints=tmp_path)
    served(worker, graph)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    plain = graph_of([batch_of(SHOP)])
    again = Worker(plain, trainer_of(), store, checkpoints=tmp_path)
    trainer_state.restore(again.trainer, found, plain, plain.moment())
    again.model_hash = worker.model_hash
    again.go_on()
    assert again.published == 0


@pytest.mark.parametrize(
    "text", ["", "{}", '{"relations":["click"],"weights":[[1.0]],"shown":[[1.0]]}', "null"]
)
def test_heads_of_a_manifest_that_cannot_be_read_are_none(text: str) -> None:
    assert head_parts.ServedHeads.of_state(text, NAMES, attribution_ms=1) is None


def test_an_erased_user_is_gone_from_impressions_heads_checkpoints_and_exports(
    redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    """Of two users one clicked, and one was only shown an item."""
    anns, later_ms = ["ann-who-clicked", "ann-who-was-shown"], int(SHOP.time_ms.max()) + 1
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "var",
            "relations": {r.name: {"span": f"{r.span_ms}ms", "capacity": r.capacity} for r in RELATIONS},
            "events": {"impressions": ["impression"]},
            "window": {"user_rows": 1 << 12, "item_rows": 1 << 12},
        }
    )
    graph = Heterograph.create(None, WITH_SHOWN, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),))
    worker = Worker(graph, trainer_of(), store, checkpoints=tmp_path / "var/trainer")
    grow(graph, one_event(anns[0], SHOP.item_ids[0], SHOWN, int(SHOP.time_ms.min())))
    grow(graph, one_event(anns[0], SHOP.item_ids[0], 0, int(SHOP.time_ms.min()) + 1))
    served(worker, graph)
    for n, user in enumerate([*anns, anns[0]]):
        grow(graph, one_event(user, SHOP.item_ids[n], SHOWN, later_ms + n))
    worker.publish(graph.moment())
    checkpointed(settings, graph)
    key = Keys(NAMESPACE).user(worker.published, anns[0])
    assert redis_client.hexists(key, "head")
    assert files_holding(tmp_path / "var/trainer", anns[0])

    def exported(folder: str) -> tuple[list[str], int]:
        told = export(
            settings, tmp_path / folder, format_="parquet", parts=None, source=None, progress=NoProgress()
        )
        users = pq.read_table(tmp_path / folder / "users.parquet")["id"].to_pylist()
        return sorted({*users} & {*anns}), told["edges"]["impression"]

    names, shown = exported("before")
    assert names == anns
    erased = ErasureList(tmp_path / "var/erasures")
    erased.append(erased.load().hashes(Strings.of(anns)), np.full((2, 2), later_ms + 9, np.int64))
    assert exported("of the checkpoint of before") == ([], shown - 4)

    graph.erase(anns)
    worker.erase(anns)
    assert not holding(redis_client, "ann-who-")
    assert not redis_client.exists(key)
    assert not files_holding(tmp_path / "var/trainer", "ann-who-")
    moment = graph.moment()
    events = graph.arrivals(SHOWN, moment.cut.first[SHOWN], moment.cut.next[SHOWN], moment)
    assert not set(events.users.to_list()) & set(anns)
    checkpointed(settings, graph)
    assert exported("after") == ([], shown - 4)
    worker.publish(graph.moment())
    assert not holding(redis_client, "ann-who-")
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert not reader.scores(anns[0], [SHOP.item_ids[0]]).user_found
