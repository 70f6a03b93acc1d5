"""What a reader may be asked for: several users, ids to leave out, ids to choose from, a time."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import redis

from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import NO_LIST, Listed, Vectors
from tests.readers import MakeReader
from tests.services_redis import filled

RNG = np.random.default_rng(11)
COUNT, DIM, LENGTH, TOP = 300, 8, 12, 7
ITEM = RNG.standard_normal((COUNT, DIM)).astype(np.float32)
USER = RNG.standard_normal((20, DIM)).astype(np.float32)
EVENT_MS = RNG.permutation(COUNT)
TOUCHED = [[f"i{n}" for n in RNG.permutation(COUNT)[: RNG.integers(0, 40)]] for _ in USER]
LISTS = [RNG.permutation(COUNT)[:LENGTH].tolist() if n % 2 else None for n in range(len(USER))]


def as_listed(places: list[int] | None) -> Listed:
    if places is None:
        return NO_LIST
    scores = np.arange(len(places), 0, -1).astype("<f4").tobytes()
    return msgspec.json.encode([f"i{n}" for n in places]), scores


def publish_lists(store: GenerationStore, number: int = 1) -> None:
    ids = [f"u{n}" for n in range(len(USER))]
    users = Vectors(ids, USER, np.arange(len(USER)), TOUCHED, [as_listed(one) for one in LISTS])
    items = Vectors([f"i{n}" for n in range(COUNT)], ITEM, EVENT_MS)
    store.publish(number, users, items, {"lists": LENGTH})


def by_hand(user: int, top: int, out: set[str], allow: set[str] | None, min_ms: int) -> tuple[str, list[str]]:
    def may_come(n: int) -> bool:
        name = f"i{n}"
        is_allowed = allow is None or name in allow
        return name not in out and name not in TOUCHED[user] and is_allowed and EVENT_MS[n] >= min_ms

    listed = [f"i{n}" for n in LISTS[user] or () if may_come(n)]
    if len(listed) >= top:
        return "list", listed[:top]
    order = np.argsort(-(ITEM.astype(np.float64) @ USER[user].astype(np.float64))).tolist()
    return "embedding", [f"i{n}" for n in order if may_come(n)][:top]


@pytest.mark.parametrize("ranked_by", ["vector set", "catalog"])
def test_filters_leave_what_they_say_in_the_order_of_lists_and_of_vectors(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader, ranked_by: str
) -> None:
    publish_lists(store)
    reader = make_reader(redis_client, cache_items=ranked_by == "catalog")
    rng, names = np.random.default_rng(3), [f"i{n}" for n in range(COUNT)]
    for trial in range(40):
        out = {names[n] for n in rng.permutation(COUNT)[: rng.integers(0, 100)]} if trial % 2 else set[str]()
        allowed = rng.permutation(COUNT)[: rng.choice([3, 40, 250])]
        allow = {names[n] for n in allowed} if trial % 3 else None
        min_ms = int(rng.choice([0, 150, 290]))
        asked = [f"u{n}" for n in range(len(USER))]
        top = int(rng.choice([1, TOP, 50]))
        found = reader.recommend(
            asked, top, exclude=out, allow=allow, min_event_ms=min_ms if min_ms or trial % 4 else None
        )
        for n, one in enumerate(found):
            assert (one.source, [i for i, _ in one.items]) == by_hand(n, top, out, allow, min_ms)


def test_an_allowed_set_too_large_to_rank_one_by_one_is_searched(
    store: GenerationStore,
    redis_client: redis.Redis,
    make_reader: MakeReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search is made wider until enough allowed items are among the candidates."""
    monkeypatch.setattr("driftgraph.snapshots.reading.ranking.ALLOWED_MAX", 3)
    publish_lists(store)
    reader = make_reader(redis_client)
    for size in (2, 3, 4, 10, 100):
        allow = {f"i{n}" for n in range(size)}
        found = reader.recommend("u0", TOP, allow=allow)
        assert (found.source, [i for i, _ in found.items]) == by_hand(0, TOP, set(), allow, 0)


def test_a_hundred_users_are_one_round_trip_and_a_known_one_is_one(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader, round_trips: list[int]
) -> None:
    publish_lists(store)
    reader = make_reader(redis_client)
    reader.current()
    round_trips.clear()
    asked = [f"u{1 + 2 * (n % 10)}" for n in range(100)]
    found = reader.recommend(asked, 3)
    assert round_trips == [1 + 100 + 1], "current, users, manifest"
    assert [one.items for one in found] == [reader.recommend(user, 3).items for user in asked]
    assert round_trips[1:] == [2] * 100, "current, user"


def test_users_of_all_kinds_come_back_in_the_order_asked(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish_lists(store)
    store.trending.replace({"click": {"i1": 3.0, "i2": 2.0, "i3": 1.0}})
    reader = make_reader(redis_client)
    found = reader.recommend(["nobody", "u1", "u0", "u1", "else"], 2, exclude=["i1"])
    assert [one.source for one in found] == ["trending", "list", "embedding", "list", "trending"]
    assert found[0].items == [("i2", 2.0), ("i3", 1.0)]
    assert found[1] == found[3]
    assert reader.recommend([], 2) == []
    fresh = [i for i in ("i1", "i2", "i3") if EVENT_MS[int(i[1:])] >= 150]
    assert [i for i, _ in reader.recommend("nobody", min_event_ms=150).items] == fresh


HOSTILE = ["a b", "a:b", "{a}", "a}b{", "a\r\nb", "$3\r\nfoo\r\n", "\x00", "😀", "é" * 512, "*", "-ERR no"]


def test_ids_are_taken_as_they_are(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    vectors = RNG.standard_normal((len(HOSTILE), 4)).astype(np.float32)
    times_ms, touched = np.arange(len(HOSTILE)), [[one] for one in HOSTILE]
    lists = [(msgspec.json.encode(HOSTILE), np.arange(len(HOSTILE), 0, -1).astype("<f4").tobytes())] * len(
        HOSTILE
    )
    users = Vectors(HOSTILE, vectors, times_ms, touched, lists)
    store.publish(1, users, Vectors(HOSTILE, vectors, times_ms), {"lists": 20})
    reader = make_reader(redis_client)
    found, there = reader.users([*HOSTILE, "a"])
    assert there.tolist() == [True] * len(HOSTILE) + [False]
    np.testing.assert_array_equal(found[:-1], vectors)
    for one in HOSTILE:
        assert [i for i, _ in reader.recommend(one, 50).items] == [i for i in HOSTILE if i != one]


def test_a_vector_of_another_dimension_is_told(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    from driftgraph.snapshots.generations.keys import StoreError

    store.publish(1, filled("u", 3, 1), filled("i", 3, 1), {})
    redis_client.hset("shop:emb:1:user:u1", "embedding", b"12345")
    reader = make_reader(redis_client)
    with pytest.raises(StoreError, match="has 4 dimensions, but Redis holds a vector of 5 bytes in it"):
        reader.users(["u0", "u1"])
    redis_client.delete("shop:emb:1:user:u1")
    redis_client.set("shop:emb:1:user:u1", "text")
    with pytest.raises(StoreError, match="refused a command while reading embeddings: WRONGTYPE"):
        reader.users(["u0", "u1"])
    assert reader.users(["u0"])[1].all()


def test_what_is_delisted_comes_in_no_answer_from_the_next_read_on(
    make_reader: MakeReader, store: GenerationStore, redis_client: redis.Redis
) -> None:
    """Also before its vectors and the lists that have it are mended: the set alone takes it out."""
    ids = [f"i{n}" for n in range(6)]
    lists = [(msgspec.json.encode(ids), np.arange(6, 0, -1, dtype="<f4").tobytes())]
    rows, times = np.eye(6, 6, dtype=np.float32) + 0.1, np.full(6, 1_783_000_000_000, np.int64)
    items = Vectors(ids, rows, times, None, lists * 6)
    users = Vectors(["listed", "ranked"], rows[:2], times[:2], None, [lists[0], NO_LIST])
    store.publish(1, users, items, {"lists": 7, "similar": 7})
    redis_client.sadd("shop:trending", "click")
    redis_client.zadd("shop:trending:click", dict.fromkeys(ids, 1.0))
    reader = make_reader(redis_client, trending_behavior="click")

    def answers() -> list[set[str]]:
        found = reader.recommend(["listed", "ranked", "nobody"], 6)
        assert [one.source for one in found] == ["list", "embedding", "trending"]
        similar = {i for i, _ in reader.similar("i0", 6).items}
        return [{i for i, _ in one.items} for one in found] + [
            similar,
            {i for i, _ in reader.trending("click", 6)},
            {i for i, _ in reader.recommend("listed", 3).items},
        ]

    assert answers()[:5] == [set(ids)] * 5
    store.delisting.change(["i1", "i4"], "SADD")
    left = set(ids) - {"i1", "i4"}
    assert answers() == [left] * 5 + [{"i0", "i2", "i3"}]
    store.delisting.change(["i4"], "SREM")
    assert answers()[0] == set(ids) - {"i1"}
