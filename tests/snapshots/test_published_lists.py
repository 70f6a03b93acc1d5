"""Lists in Redis: written with the vector that they belong to, read by one round trip, of one generation."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np
import pytest
import redis

from driftgraph.snapshots.answers import Recommendation, SimilarItems
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.keys import GenerationExistsError, VerifyError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import NO_LIST, Listed, Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.readers import MakeReader
from tests.services_redis import DIM, assert_no_remains, filled, keys_by_scan

LENGTH = 10
USERS = [f"u{n}" for n in range(30)]
ITEMS = [f"i{n}" for n in range(25)]


def listed(items: Sequence[str], scores: Sequence[float]) -> Listed:
    return msgspec.json.encode(list(items)), np.array(scores, "<f4").tobytes()


def list_of(number: int, count: int = LENGTH, first: int = 0) -> Listed:
    """Items from ``first`` on; the scores descend from ``number``."""
    return listed(ITEMS[first : first + count], [number - n / 64 for n in range(count)])


def users_of(number: int, lists: Sequence[Listed] | None, touched: Sequence[Sequence[str]] = ()) -> Vectors:
    count = len(USERS)
    vectors, times_ms = np.full((count, DIM), number, np.float32), np.full(count, number, np.int64)
    return Vectors(USERS, vectors, times_ms, list(touched) or [[]] * count, lists)


def publish(
    store: GenerationStore, number: int, lists: Listed | None = None, *, length: int = LENGTH
) -> None:
    """Generation ``number``, whose lists tell the number by their scores."""
    users = users_of(number, [lists or list_of(number)] * len(USERS))
    similar = [list_of(number, 3, first=n % 20) for n in range(len(ITEMS))]
    one = filled("i", len(ITEMS), number)
    items = Vectors(one.ids, one.vectors, one.event_ms, lists=similar)
    store.publish(number, users, items, {"lists": LENGTH, "similar": 3})


@pytest.fixture
def reader(redis_client: redis.Redis, make_reader: MakeReader) -> EmbeddingReader:
    return make_reader(redis_client)


def test_lists_are_read_by_one_round_trip_and_by_plain_commands(
    store: GenerationStore,
    reader: EmbeddingReader,
    redis_client: redis.Redis,
    round_trips: list[int],
) -> None:
    publish(store, 1)
    reader.recommend("u1", 5)
    round_trips.clear()
    assert reader.recommend("u1", 5) == Recommendation(
        1, "list", [(f"i{n}", 1 - n / 64) for n in range(5)], event_ms=1
    )
    assert len(round_trips) == 1
    assert reader.similar("i4", 2) == SimilarItems(1, "list", [("i4", 1.0), ("i5", 1 - 1 / 64)])
    assert len(round_trips) == 2
    assert cast("bytes", redis_client.hget("shop:emb:1:user:u1", "list")).startswith(b'["i0","i1",')
    scores = cast("bytes", redis_client.hget("shop:emb:1:user:u1", "list_scores"))
    assert np.frombuffer(scores, "<f4")[2] == 1 - 2 / 64
    assert redis_client.hget("shop:emb:1:item:i4", "similar") == b'["i4","i5","i6"]'


def test_a_reader_notices_who_made_the_generation_that_is_served_now(
    store: GenerationStore, reader: EmbeddingReader
) -> None:
    """Also if it has asked before, and nothing else since."""
    assert reader.made_by() == ""
    for number, maker in ((1, "lists"), (2, "model")):
        one = filled("i", len(ITEMS), number)
        store.publish(number, users_of(number, None), one, {"made_by": maker})
        assert reader.made_by() == maker
    store.rollback()
    assert reader.made_by() == "lists"


def test_what_the_user_has_touched_since_is_left_out(store: GenerationStore, reader: EmbeddingReader) -> None:
    lists = [list_of(1)] * len(USERS)
    touched = [["i3", "i0", "i24"]] * len(USERS)
    store.publish(1, users_of(1, lists, touched), filled("i", len(ITEMS), 1), {"lists": LENGTH})
    found = reader.recommend("u0", 3)
    assert (found.source, [item for item, _ in found.items]) == ("list", ["i1", "i2", "i4"])


@pytest.mark.parametrize(
    ("count", "length", "top", "source"),
    [
        (10, 10, 9, "list"),  # one was touched
        (10, 10, 10, "embedding"),  # nine are left of a list that was cut off
        (10, 12, 10, "list"),  # the list was not cut off: there are no more
        (0, 10, 5, "list"),
    ],
)
def test_where_a_list_is_too_short_items_are_ranked_by_the_vectors(
    store: GenerationStore, reader: EmbeddingReader, count: int, length: int, top: int, source: str
) -> None:
    users = users_of(2, [list_of(2, count)] * len(USERS), [["i0"]] * len(USERS))
    store.publish(2, users, filled("i", len(ITEMS), 2), {"lists": length})
    found = reader.recommend("u0", top)
    assert (found.source, found.event_ms) == (source, 2)
    assert "i0" not in [item for item, _ in found.items]
    if source == "embedding":
        assert [score for _, score in found.items] == [4.0 * DIM] * top
    else:
        assert len(found.items) == min(top, max(0, count - 1))


def test_generations_without_lists_and_of_a_former_form_are_read(
    store: GenerationStore, reader: EmbeddingReader, redis_client: redis.Redis
) -> None:
    store.publish(1, users_of(1, None), filled("i", len(ITEMS), 1), {})
    assert reader.recommend("u1", 5).source == "embedding"
    assert reader.similar("i1") == SimilarItems(1, "off", [])
    redis_client.hset("shop:emb:1:user:u1", "list", '[["i1",0.5],["i2",0.25]]')
    assert reader.recommend("u1", 5).source == "embedding"
    assert reader.recommend("nobody", 5).source == "none"


def test_similar_says_why_there_is_nothing(store: GenerationStore, reader: EmbeddingReader) -> None:
    assert reader.similar("i1") == SimilarItems(0, "none", [])
    publish(store, 1)
    assert reader.similar("x") == SimilarItems(1, "unknown", [])
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        reader.similar("i1", 0)


def test_scores_that_are_not_finite_are_left_out_whoever_wrote_them(
    store: GenerationStore, reader: EmbeddingReader
) -> None:
    publish(store, 1, listed(["a", "b", "c", "d"], [np.nan, 2.0, np.inf, 2.0]))
    assert reader.recommend("u1", 2).items == [("b", 2.0), ("d", 2.0)]


def test_a_list_that_another_writer_has_left_unsorted_is_answered_best_first(
    store: GenerationStore, reader: EmbeddingReader
) -> None:
    publish(store, 1, listed(["a", "d", "c", "b"], [1.0, 2.0, 3.0, 2.0]))
    assert reader.recommend("u1", 3).items == [("c", 3.0), ("b", 2.0), ("d", 2.0)]


# --- refresh, erase, rollback ------------------------------------------------------------------------


def test_a_refresh_writes_the_list_with_the_vector_and_takes_away_one_that_it_does_not_renew(
    store: GenerationStore, reader: EmbeddingReader, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    vectors, times_ms = np.full((3, DIM), 9, np.float32), np.full(3, 9, np.int64)
    ids = ["u0", "new", "u2"]
    store.refresh(1, Vectors(ids, vectors, times_ms, [[]] * 3, [list_of(9, first=5), list_of(9), NO_LIST]))
    for user, first in (("u0", 5), ("new", 0)):
        found = reader.recommend(user, 1)
        assert found == Recommendation(1, "list", [(f"i{first}", 9.0)], event_ms=9)
    assert reader.recommend("u2", 1).source == "embedding", "a list does not outlive its vector"
    assert reader.recommend("u1", 1) == Recommendation(1, "list", [("i0", 1.0)], event_ms=1)
    store.refresh(1, Vectors(["u0"], vectors[:1], times_ms[:1], [[]]))
    assert redis_client.hmget("shop:emb:1:user:u0", ["list", "list_scores"]) == [None, None]
    assert_no_remains(store, redis_client)


def test_an_erased_user_has_no_list_in_any_generation(
    store: GenerationStore, reader: EmbeddingReader, redis_client: redis.Redis
) -> None:
    for number in (1, 2):
        publish(store, number)
    store.erase(["u1"])
    assert reader.recommend("u1", 1).source == "none"
    assert reader.recommend("u2", 1).source == "list"
    assert not [key for key in keys_by_scan(redis_client) if key.endswith(":u1")]


def test_a_rollback_serves_the_lists_of_the_generation_before(
    store: GenerationStore, reader: EmbeddingReader
) -> None:
    for number in (1, 2):
        publish(store, number)
    assert reader.recommend("u1", 1).items == [("i0", 2.0)]
    assert store.rollback() == 1
    assert reader.recommend("u1", 1) == Recommendation(1, "list", [("i0", 1.0)], event_ms=1)
    assert reader.similar("i4", 1) == SimilarItems(1, "list", [("i4", 1.0)])


def test_a_reader_sees_lists_of_one_generation_while_others_are_published_refreshed_and_rolled_back(
    store: GenerationStore, reader: EmbeddingReader
) -> None:
    """The score of a list says the generation and, after its point, the refresh; ``event_ms`` says it too."""
    publish(store, 1)
    answers, faults, stop = list[int](), list[str](), threading.Event()

    def read() -> None:
        for n in itertools.count():
            found = reader.recommend(USERS[n % len(USERS)], 3)
            generation, refreshed = divmod(found.items[0][1] * 100, 100)
            told = (found.event_ms or 0) - found.generation
            if found.source != "list" or generation != found.generation or round(refreshed) != told:
                faults.append(repr(found))
            similar = reader.similar(ITEMS[n % len(ITEMS)], 1)
            if (similar.source, similar.items[0][1]) != ("list", similar.generation):
                faults.append(repr(similar))
            answers.append(found.generation)
            if stop.is_set():
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(2, 12):
            publish(store, number)
            for refreshed in (1, 2, 3):
                lists = [listed(["i1", "i2", "i3"], [number + refreshed / 100, 0.5, 0.25])] * len(USERS)
                vectors = np.full((len(USERS), DIM), number, np.float32)
                times_ms = np.full(len(USERS), number + refreshed)
                store.refresh(number, Vectors(USERS, vectors, times_ms, None, lists))
            if number % 3 == 0:
                store.rollback()
    finally:
        stop.set()
        thread.join(30)
    assert faults == []
    assert len(set(answers)) > 3, "the reader has followed"


# --- what is checked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "field"), [("user:u0", "list"), ("user:u0", "list_scores"), ("item:i0", "similar")]
)
def test_a_list_that_reads_back_different_is_not_switched_to(
    store: GenerationStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    field: str,
    make_reader: MakeReader,
) -> None:
    publish(store, 1)
    verify = store._verify

    def damaged(number: int, users: Vectors, items: Vectors, *, indexed: bool) -> None:
        redis_client.hset(f"shop:emb:2:{key}", field, b"[]")
        verify(number, users, items, indexed=indexed)

    monkeypatch.setattr(store, "_verify", damaged)
    with pytest.raises(VerifyError, match="0' of generation 2 reads back different"):
        publish(store, 2)
    assert make_reader(redis_client).current() == 1


def test_other_lists_are_another_content_and_lists_that_are_evicted_are_noticed(
    store: GenerationStore, reader: EmbeddingReader, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    publish(store, 1)  # the same again changes nothing
    with pytest.raises(GenerationExistsError):  # a retry of what is there already would be fine
        publish(store, 1, list_of(3))
    store.publish(2, users_of(1, [list_of(3)] * len(USERS)), filled("i", len(ITEMS), 1), {"lists": LENGTH})
    assert reader.recommend("u1", 1).items == [("i0", 3.0)]
    assert store.standing(2) is Standing.SERVED
    redis_client.delete(*(f"shop:emb:2:user:{user}" for user in USERS))
    assert store.standing(2) is Standing.DAMAGED


def test_lists_must_be_as_many_as_the_users(store: GenerationStore, redis_client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="disagree in length"):
        store.publish(1, users_of(1, [list_of(1)]), filled("i", 2, 1), {})
    assert redis_client.dbsize() == 0
