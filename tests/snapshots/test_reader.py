"""What a ranking service reads: vectors of one generation, recommendations in order of the dot product."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import free_port
from driftgraph.snapshots.answers import Recommendation
from driftgraph.snapshots.generations import calls as calls_module
from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.keys import Keys, RedisUnavailableError, StoreError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors, one_length
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.snapshots.reading.drivers import Line
from driftgraph.snapshots.reading.fetch import SHAPE, Fetch, Hashes, ReplacedError, Steps
from driftgraph.snapshots.reading.lists import Scored
from driftgraph.snapshots.reading.ranking import Described, Ranking
from tests.readers import MakeReader
from tests.services_redis import DIM, NAMESPACE, filled, publish

RNG = np.random.default_rng(5)
USERS = RNG.standard_normal((40, 16)).astype(np.float32)
# Lengths from 0.1 to 10: what is best by cosine is not what is best by dot product.
ITEMS = (RNG.standard_normal((500, 16)) * 10 ** RNG.uniform(-1, 1, (500, 1))).astype(np.float32)
TOUCHED = [[f"i{n}" for n in RNG.permutation(500)[: RNG.integers(0, 120)]] for _ in USERS]


def publish_random(store: GenerationStore, number: int = 1) -> None:
    users = Vectors([f"u{n}" for n in range(len(USERS))], USERS, np.arange(len(USERS)), TOUCHED)
    items = Vectors([f"i{n}" for n in range(len(ITEMS))], ITEMS, np.zeros(len(ITEMS), np.int64))
    store.publish(number, users, items, {})


def best_by_hand(user: int, top: int) -> list[str]:
    score = ITEMS.astype(np.float64) @ USERS[user].astype(np.float64)
    order = [f"i{n}" for n in np.argsort(-score).tolist()]
    return [i for i in order if i not in TOUCHED[user]][:top]


@pytest.fixture(params=["vector set", "cached", "server without vector sets"])
def reader(
    request: pytest.FixtureRequest,
    store: GenerationStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    make_reader: MakeReader,
) -> EmbeddingReader:
    """Each way to rank, on the same published vectors."""
    if request.param == "server without vector sets":
        monkeypatch.setattr(store, "_has_vector_sets", False)
    publish_random(store)
    assert store.count_keys()["index"] == (request.param != "server without vector sets")
    return make_reader(redis_client, cache_items=request.param == "cached")


def test_items_come_in_the_order_of_the_dot_product_without_those_touched(reader: EmbeddingReader) -> None:
    for user in range(len(USERS)):
        found = reader.recommend(f"u{user}", top=20)
        assert (found.generation, found.source, found.event_ms) == (1, "embedding", user)
        assert [item for item, _ in found.items] == best_by_hand(user, 20)
        for item, score in found.items:
            assert score == pytest.approx(float(ITEMS[int(item[1:])] @ USERS[user]), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("top", [1, 499, 500, 1_000])
def test_any_number_of_items_may_be_asked_for(reader: EmbeddingReader, top: int) -> None:
    assert [item for item, _ in reader.recommend("u3", top).items] == best_by_hand(3, top)


def test_equal_scores_come_in_order_of_id(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store, 1, items=5)
    for cache_items in (False, True):
        reader = make_reader(redis_client, cache_items=cache_items)
        assert reader.recommend("u1", 3).items == [("i2", 4.0), ("i3", 4.0), ("i4", 4.0)]


def test_the_graph_of_a_large_catalog_finds_nearly_all(
    store: GenerationStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    make_reader: MakeReader,
) -> None:
    monkeypatch.setattr(calls_module, "EXACT_ITEMS_MAX", 10)
    publish_random(store)
    assert store.generations()[0].manifest["index"] == "graph"
    reader = make_reader(redis_client)
    hits = sum(
        len({item for item, _ in reader.recommend(f"u{user}", 20).items} & {*best_by_hand(user, 20)})
        for user in range(len(USERS))
    )
    assert hits >= 0.95 * 20 * len(USERS)


def test_one_length_makes_cosine_rank_as_the_dot_product_does() -> None:
    rows = one_length(ITEMS).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    np.testing.assert_array_equal(rows[:, :-1].astype(np.float32), ITEMS)
    assert np.isfinite(one_length(np.zeros((3, 4), np.float32))).all()


def test_a_batch_has_rows_in_the_order_asked_and_marks_what_is_not_there(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish_random(store)
    batch = make_reader(redis_client).batch(users=["u7", "nobody", "u7", "i1"], items=["i499", "u1"])
    assert batch.users_found.tolist() == [True, False, True, False]
    assert batch.items_found.tolist() == [True, False]
    np.testing.assert_array_equal(batch.users, [USERS[7], np.zeros(16), USERS[7], np.zeros(16)])
    np.testing.assert_array_equal(batch.items[0], ITEMS[499])


def test_a_batch_costs_one_round_trip_and_a_second_one_after_a_switch(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader, round_trips: list[int]
) -> None:
    publish_random(store)
    reader = make_reader(redis_client)
    reader.users(["u1"])
    for number, trips in ((1, 1), (2, 2), (2, 1)):
        if number == 2 and trips == 2:
            publish_random(store, 2)
        round_trips.clear()
        batch = reader.batch(users=[f"u{n}" for n in range(40)], items=[f"i{n}" for n in range(100)])
        assert (batch.generation, round_trips) == (number, [142] * trips)


def test_a_reader_follows_publish_and_rollback(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    readers = [make_reader(redis_client, cache_items=c) for c in (False, True)]
    publish(store, 1)
    for number in (2, 3, 4, 5):
        for reader in readers:
            reader.recommend("u0")
        publish(store, number, items=60 + number)
        for reader in readers:
            found = reader.recommend("u0", top=100)
            assert found.generation == reader.current() == number
            assert len(found.items) == 60 + number - 1
            assert found.items[0][1] == number * number * DIM
    store.rollback()
    for reader in readers:
        assert reader.recommend("u0").generation == 4
        assert (reader.users(["u0"])[0] == 4).all()


def test_a_generation_that_goes_away_during_a_read_is_read_again(
    store: GenerationStore,
    redis_client: redis.Redis,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Publish until it is removed, between the two round trips of one recommendation."""
    publish(store, 1)
    reader = make_reader(redis_client)
    rank = Ranking.rank

    def meanwhile(ranking: Ranking, served: Described, *args: Any) -> Steps[list[Scored]]:
        if served.publish.generation == 1:
            for number in (2, 3, 4, 5):
                publish(store, number)
        return rank(ranking, served, *args)

    monkeypatch.setattr(Ranking, "rank", meanwhile)
    found = reader.recommend("u0", 2)
    assert (found.generation, found.items) == (5, [("i1", 100.0), ("i10", 100.0)])


def test_a_generation_whose_removal_has_begun_is_not_read(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """What a round trip reads first is still from before the switch; behind it a key is gone."""
    publish(store, 1)
    fetch = Fetch(Keys(NAMESPACE))
    ask = fetch.get(SHAPE, Hashes("user", ("embedding",), ["u0", "u1"]))
    with contextlib.closing(Line(redis_client)) as line:
        current = next(ask)
        commands = ask.send(line.send(current))
        before = line.send(commands[:2])
        publish(store, 2)
        names = ["shop:emb:current", "shop:emb:1:manifest"]
        store._calls.run_or_refuse(scripts.RETIRE, 1, names, [1, 1])
        redis_client.delete("shop:emb:1:user:u1")
        with pytest.raises(ReplacedError):
            ask.send(before + line.send(commands[2:]))


def test_trending_items_of_one_behavior_are_read_best_first(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    reader = make_reader(redis_client)
    assert reader.trending("click") == []
    store.trending.replace({"click": {"b": 3.0, "a": 5.0, "é": 3.0}, "purchase": {"c": 10.0}})
    assert reader.trending("click") == [("a", 5.0), ("b", 3.0), ("é", 3.0)]
    assert reader.trending("click", 1) == [("a", 5.0)]
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        reader.trending("click", 0)


def test_an_unknown_user_gets_what_is_trending_and_is_told_so(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store, 1)
    store.trending.replace({"click": {"a": 5.0, "b": 3.0, "c": 1.0}, "purchase": {"c": 10.0, "a": 1.0}})
    every = make_reader(redis_client)
    assert every.recommend("nobody", 2) == Recommendation(1, "trending", [("c", 11.0), ("a", 6.0)])
    one = make_reader(redis_client, trending_behavior="click")
    assert one.recommend("nobody") == Recommendation(1, "trending", [("a", 5.0), ("b", 3.0), ("c", 1.0)])


def test_a_user_without_any_direction_gets_what_is_trending(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    users = Vectors(["zero"], np.zeros((1, DIM), np.float32), np.zeros(1, np.int64), [[]])
    store.publish(1, users, filled("i", 9, 1), {})
    store.trending.replace({"click": {"a": 5.0}})
    assert make_reader(redis_client).recommend("zero").source == "trending"


def test_before_the_first_publish_nothing_is_found_and_nothing_breaks(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    reader = make_reader(redis_client)
    assert reader.current() == 0
    assert reader.recommend("u0") == Recommendation(0, "none", [])
    vectors, found = reader.users(["u0", "u1"])
    assert (vectors.shape, found.tolist()) == ((2, 0), [False, False])
    publish(store, 1)
    assert reader.recommend("u0").source == "embedding"


def test_a_generation_without_its_manifest_is_an_error_not_a_mixture(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store, 1)
    redis_client.delete("shop:emb:1:manifest")
    with pytest.raises(StoreError, match="generation 1 of namespace 'shop' could not be read whole"):
        make_reader(redis_client).users(["u0"])


def test_a_redis_that_is_away_is_one_sentence(make_reader: MakeReader) -> None:
    with (
        contextlib.closing(connect(f"redis://:secret@127.0.0.1:{free_port()}/0")) as client,
        pytest.raises(RedisUnavailableError, match="did not answer while recommending for 'u0'") as caught,
    ):
        make_reader(client).recommend("u0")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("cached", [True, False])
def test_scores_are_finite_whoever_wrote_the_vectors(
    redis_client: redis.Redis, cached: bool, make_reader: MakeReader
) -> None:
    """An older version, or somebody else, published lengths of 3e38, infinity and NaN."""
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    publish(store, 1, users=3, items=6)
    written = {
        "item:i2": [3e38, 3e38, 0, 0], "item:i3": [np.inf, 0, 0, 0], "item:i4": [np.nan, 0, 0, 0],
        "user:u0": [3e38, 3e38, 3e38, 3e38], "user:u1": [np.inf, 1, 1, 1], "user:u2": [np.nan, 1, 1, 1],
    }  # fmt: skip
    for key, vector in written.items():
        redis_client.hset(f"shop:emb:1:{key}", "embedding", np.array(vector, "<f4").tobytes())
    reader = make_reader(redis_client, cache_items=cached)
    found = reader.recommend("u0", 10)
    assert found.source == "embedding"
    assert found.items[0][0] == "i2"
    assert {item for item, _ in found.items}.isdisjoint(["i3", "i4"])
    assert np.isfinite([score for _, score in found.items]).all()
    store.trending.replace({"click": {"i1": 1.0}})
    redis_client.zadd("shop:trending:click", {"i5": float("inf")})
    for user in ("u1", "u2"):
        assert reader.recommend(user, 10) == Recommendation(1, "trending", [("i1", 1.0)])


def test_top_must_be_positive(redis_client: redis.Redis, make_reader: MakeReader) -> None:
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        make_reader(redis_client).recommend("u0", 0)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"user": 7}, "an id is text, as '7', or a list of such texts, not 7"),
        ({"user": "u1", "exclude": [7]}, "exclude has ids, which are text: give '7', not 7"),
        ({"user": "u1", "exclude": "i7"}, r"exclude has several ids: give \['i7'\], not 'i7'"),
        ({"user": "u1", "allow": {7}}, "allow has ids, which are text: give '7', not 7"),
    ],
)
def test_a_number_is_no_id_and_is_refused_before_it_leaves_nothing_out(
    make_reader: MakeReader, redis_client: redis.Redis, asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        make_reader(redis_client).recommend(**asked)
