"""The lists that a worker publishes, of every live user and item, against the plainest ranking."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import redis

from driftgraph.app.publishing import by_id
from driftgraph.app.training.cycle import Worker
from driftgraph.model.options import ListLengths
from driftgraph.model.score.co_visitation import CoVisitation
from driftgraph.model.score.ranking import PATH_SCALE
from driftgraph.model.score.scorer import PRIOR_F, Scorer, alone
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import Heterograph
from tests.services_redis import NAMESPACE
from tests.shop_worlds import batch_of, graph_of, grow, one_event, small_shop, trainer_of

SHOP = small_shop()
LENGTHS = ListLengths(lists=30, similar=8)
Pairs = list[tuple[str, float]]


def published(
    store: GenerationStore, graph: Heterograph, lengths: ListLengths = LENGTHS, *, trained: bool = True
) -> Worker:
    worker = Worker(graph, trainer_of(), store, checkpoints=None, lengths=lengths)
    if trained:
        assert worker.cycle(graph.moment())[0].fit.accepted
    else:
        worker.publish(graph.moment())
    assert worker.published
    return worker


class Served:
    """What Redis has of the served generation, and the plainest ranking of it."""

    def __init__(self, client: redis.Redis) -> None:
        self.client, self.reader = client, EmbeddingReader(client, namespace=NAMESPACE)
        self.head = f"{NAMESPACE}:emb:{self.reader.current()}:"
        self.items = self.names("item-ids")
        self.item_vectors = self.reader.items(self.items)[0].astype(np.float64)

    def names(self, key: str) -> list[str]:
        return [raw.decode() for raw in cast("list[bytes]", self.client.lrange(self.head + key, 0, -1))]

    def fields(self, key: str) -> set[str]:
        return {raw.decode() for raw in cast("list[bytes]", self.client.hkeys(self.head + key))}

    def exact(self, user: str, touched: set[str]) -> Pairs:
        score = self.item_vectors @ self.reader.users([user])[0][0].astype(np.float64)
        pairs = [(i, s) for i, s in zip(self.items, score.tolist(), strict=True) if i not in touched]
        return sorted(pairs, key=lambda pair: -pair[1])


def touched_of(user: str) -> set[str]:
    mine = SHOP.user == SHOP.user_ids.index(user)
    return {SHOP.item_ids[n] for n in SHOP.item[mine].tolist()}


def same(found: Pairs, exact: Pairs) -> bool:
    return [i for i, _ in found] == [i for i, _ in exact] and np.allclose(
        [s for _, s in found], [s for _, s in exact], rtol=1e-4, atol=1e-5
    )


def test_every_live_user_has_the_exact_best_of_its_vector_and_a_refresh_makes_it_anew(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_id, "USERS_AT_ONCE", 7)
    monkeypatch.setattr(Scorer, "weight_F", property(lambda _: alone("vectors", PRIOR_F)))
    graph = graph_of([batch_of(SHOP)])
    worker = published(store, graph)
    served = Served(redis_client)
    users = served.names("user-ids")
    assert set(users) == {SHOP.user_ids[n] for n in SHOP.user.tolist()}
    for user in users:
        found = served.reader.recommend(user, 30)
        exact = served.exact(user, touched_of(user))
        assert (found.source, found.event_ms is not None) == ("list", True)
        assert same(found.items, exact[:30]), user
    user = users[3]
    best = served.reader.recommend(user, 1).items[0][0]
    before = {other: served.reader.recommend(other, 30) for other in users[:3]}
    at_ms = int(SHOP.time_ms.max()) + 5_000
    grow(graph, one_event(user, best, 2, at_ms))
    assert worker.refresh(graph.moment()) == 1
    found = served.reader.recommend(user, 30)
    assert (found.source, found.event_ms) == ("list", at_ms)
    assert same(found.items, served.exact(user, {*touched_of(user), best})[:30])
    assert {other: served.reader.recommend(other, 30) for other in before} == before


@pytest.mark.parametrize("trained", [True, False])
def test_every_live_item_has_its_neighbors(
    store: GenerationStore, redis_client: redis.Redis, trained: bool
) -> None:
    graph = graph_of([batch_of(SHOP)])
    published(store, graph, trained=trained)
    served, moment = Served(redis_client), graph.moment()
    events = graph.window.events(moment.cut)
    visits = CoVisitation(events, graph.window.rows(ITEM))
    rows = np.unique(events.item)
    names = dict(zip(rows.tolist(), graph.names(ITEM, rows, moment), strict=True))
    assert set(served.items) == set(names.values())
    for row, name in names.items():
        near, score = visits.near(np.array([row], np.uint32), int(events.time_ms[-1]) + 1)
        score = np.log1p(PATH_SCALE * score) if trained else score
        order = np.argsort(-score, kind="stable")[:8]
        found = served.reader.similar(name or "", 8)
        assert found.source == "list"
        np.testing.assert_allclose([s for _, s in found.items], score[order], rtol=1e-6)
        assert {i for i, _ in found.items} <= {names[n] for n in near.tolist()}


def test_lengths_of_0_publish_no_lists_and_readers_rank_by_the_vectors(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    graph = graph_of([batch_of(SHOP)])
    for trained in (False, True):
        worker = published(store, graph, ListLengths(lists=0, similar=0), trained=trained)
        served = Served(redis_client)
        user = served.names("user-ids")[0]
        grow(graph, one_event(user, served.items[0], 0, graph.moment().cut.watermark_ms + 1_000))
        assert worker.refresh(graph.moment()) == 1
        fields = {"embedding", "gen", "event_ms"}
        assert served.fields(f"user:{user}") == {*fields, "touched"}
        assert served.fields(f"item:{served.items[0]}") == fields
        assert served.reader.recommend(user, 5).source == "embedding"
        assert served.reader.similar(served.items[0]).source == "off"


def test_beyond_the_limit_the_most_recent_users_have_lists(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_id, "LISTED_USERS_MAX", 10)
    published(store, graph_of([batch_of(SHOP)]))
    served = Served(redis_client)
    newest_ms = {
        u: int(SHOP.time_ms[SHOP.user == n].max()) for n, u in enumerate(SHOP.user_ids) if n in SHOP.user
    }
    recent = sorted(newest_ms, key=lambda user: -newest_ms[user])[:10]
    users = served.names("user-ids")
    assert {u for u in users if served.reader.recommend(u, 1).source == "list"} == set(recent)
    assert all(served.reader.recommend(u, 1).source == "embedding" for u in set(users) - set(recent))


def test_an_item_that_the_window_has_lost_since_is_in_no_list_of_a_refresh(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """Its row may be another item's by then, which must not be recommended by the vector of the former."""
    graph = graph_of([batch_of(SHOP)])
    worker = published(store, graph)
    served = Served(redis_client)
    at_ms = graph.moment().cut.watermark_ms + 40 * 86_400_000  # beyond every span
    grow(graph, one_event("newcomer", "new item", 0, at_ms))
    assert worker.refresh(graph.moment()) == 1
    found = served.reader.recommend("newcomer", 30)
    assert (found.source, found.items) == ("list", [])
