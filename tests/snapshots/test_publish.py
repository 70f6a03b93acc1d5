"""Generations: what a reader may see, whatever happens to the publisher or to Redis."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations import keys
from driftgraph.snapshots.generations.keys import (
    GenerationExistsError,
    NotCurrentError,
    NothingToRollBackError,
    StoreError,
)
from driftgraph.snapshots.generations.servers import rights
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.errors import DriftgraphError
from tests.services_redis import (
    DIM,
    NAMESPACE,
    assert_no_remains,
    assert_serves_only,
    filled,
    keys_by_scan,
    publish,
)

# --- the plain contract --------------------------------------------------------------------------------


def test_two_plain_commands_read_a_vector(store: GenerationStore, redis_client: redis.Redis) -> None:
    rng = np.random.default_rng(1)
    users = Vectors(["a:b", "ü 1"], rng.standard_normal((2, DIM)).astype(np.float32), np.array([5, 6]))
    store.publish(7, users, filled("i", 3, 7), {"model_hash": "abc", "watermark_ms": 12, "loss": 0.5})
    number = redis_client.hget("shop:emb:current", "gen")
    assert number == b"7"
    for row, user in enumerate(users.ids):
        blob = redis_client.hget(f"shop:emb:{int(number)}:user:{user}", "embedding")
        assert blob == users.vectors[row].astype("<f4").tobytes()
    assert redis_client.hget("shop:emb:7:user:ü 1", "event_ms") == b"6"
    assert redis_client.hget("shop:emb:7:item:i2", "gen") == b"7"


def test_the_manifest_tells_counts_and_what_the_trainer_says(store: GenerationStore) -> None:
    publish(store, 1)
    store.publish(2, filled("u", 3, 2), filled("i", 2, 2), {"model_hash": "abc", "watermark_ms": 12})
    first, second = store.generations()
    assert (first.number, first.current, second.number, second.current) == (1, False, 2, True)
    wanted = {"users": "3", "items": "2", "dim": "4", "status": "live", "parent": "1", "index": "exact"}
    assert wanted.items() <= second.manifest.items()
    assert second.manifest["model_hash"] == "abc"
    assert int(second.manifest["published_ms"]) > 1_700_000_000_000


def test_touched_items_are_kept_newest_first_up_to_the_limit(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    touched = [f"i{n}" for n in range(keys.TOUCHED_MAX + 5)]
    users = Vectors(["u"], np.ones((1, DIM), np.float32), np.zeros(1, np.int64), [touched])
    store.publish(1, users, filled("i", 2, 1), {})
    raw = redis_client.hget("shop:emb:1:user:u", "touched")
    assert raw is not None
    assert json.loads(raw) == touched[: keys.TOUCHED_MAX]


def test_a_switch_is_announced(store: GenerationStore, redis_client: redis.Redis) -> None:
    channel = redis_client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with contextlib.closing(channel):
        channel.subscribe("shop:emb:events")
        channel.get_message(timeout=5)  # the subscription itself
        publish(store, 1)
        publish(store, 2)
        store.rollback()
        messages = [channel.get_message(timeout=5) for _ in range(3)]
    told = [json.loads(message["data"]) for message in messages if message]
    assert told == [
        {"event": "published", "gen": 1, "previous": 0},
        {"event": "published", "gen": 2, "previous": 1},
        {"event": "rolled_back", "gen": 1, "previous": 2},
    ]


def test_only_the_last_generations_are_kept_and_every_key_is_counted(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    store.trending.replace({"click": {"i1": 3.0}})
    for number in range(1, 7):
        publish(store, number)
    assert [g.number for g in store.generations()] == [4, 5, 6]
    counts = store.count_keys()
    assert counts == {
        "user": 450,
        "item": 180,
        "index": 3,
        "manifest": 3,
        "id_list": 6,
        "trending": 2,
        "pointer": 2,
    }
    assert sum(counts.values()) == len(keys_by_scan(redis_client))


def test_a_server_without_vector_sets_gets_all_but_the_index(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_ASKED_BY", "VNONE")  # a command that the server does not know
    publish(store, 1)
    assert_serves_only(redis_client, 1)
    assert store.generations()[0].manifest["index"] == "none"
    assert store.count_keys()["index"] == 0


# --- bad input -----------------------------------------------------------------------------------------

GOOD = filled("u", 3, 1)


@pytest.mark.parametrize(
    ("users", "items", "says"),
    [
        (filled("u", 0, 1), filled("i", 2, 1), "needs users and items"),
        (GOOD, filled("i", 0, 1), "needs users and items"),
        (
            GOOD,
            Vectors(["a"], np.ones((1, 5), np.float32), np.zeros(1, np.int64)),
            "4 dimensions and items 5",
        ),
        (Vectors(["a", "b", "a"], GOOD.vectors, GOOD.event_ms), filled("i", 2, 1), "'a' is there twice"),
        (Vectors(["a", "", "b"], GOOD.vectors, GOOD.event_ms), filled("i", 2, 1), "id is empty"),
        (Vectors(["a", "b"], GOOD.vectors, GOOD.event_ms), filled("i", 2, 1), "disagree in length"),
        (Vectors(GOOD.ids, GOOD.vectors, GOOD.event_ms, [[]]), filled("i", 2, 1), "disagree in length"),
        (
            Vectors(GOOD.ids, np.ones((3, 4)), GOOD.event_ms),  # type: ignore[arg-type]
            filled("i", 2, 1),
            "float32",
        ),
        (
            Vectors(
                GOOD.ids, np.array([[1] * 4, [1, np.nan, 1, 1], [np.inf] * 4], np.float32), GOOD.event_ms
            ),
            filled("i", 2, 1),
            "2 are not; first: 'u1'",
        ),
        (
            Vectors(GOOD.ids, np.array([[1] * 4, [3e38, 0, 0, 0], [1] * 4], np.float32), GOOD.event_ms),
            filled("i", 2, 1),
            "not longer than 1e\\+18, 1 are not; first: 'u1'",
        ),
    ],
)
def test_unsound_vectors_are_refused_before_anything_is_written(
    store: GenerationStore, redis_client: redis.Redis, users: Vectors, items: Vectors, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        store.publish(1, users, items, {})
    assert redis_client.dbsize() == 0


def test_a_manifest_field_of_the_store_is_refused(store: GenerationStore, redis_client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="'status' is the store's own"):
        store.publish(1, GOOD, filled("i", 2, 1), {"status": "live"})
    assert redis_client.dbsize() == 0


def test_a_number_that_is_not_the_highest_is_refused(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 5)
    for number in (5, 4):
        with pytest.raises(GenerationExistsError, match=f"generation {number} is not above 5"):
            publish(store, number, items=50)
    assert store.next_number() == 6
    assert_serves_only(redis_client, 5)


def test_the_same_content_again_changes_nothing(store: GenerationStore, redis_client: redis.Redis) -> None:
    publish(store, 1)
    publish(store, 2)
    before = redis_client.hgetall("shop:emb:current"), redis_client.hgetall("shop:emb:2:manifest")
    publish(store, 2)
    assert (redis_client.hgetall("shop:emb:current"), redis_client.hgetall("shop:emb:2:manifest")) == before


def test_a_client_that_decodes_is_refused(redis_server: EmbeddedRedis) -> None:
    with (
        contextlib.closing(redis.Redis.from_url(redis_server.url, decode_responses=True)) as client,
        pytest.raises(ValueError, match="decode_responses"),
    ):
        GenerationStore(client, namespace="shop", epoch=1)


# --- rollback and TTL ----------------------------------------------------------------------------------


def test_rollback_goes_back_one_by_one_and_then_says_that_there_is_nothing(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    with pytest.raises(NothingToRollBackError, match="has no generation"):
        store.rollback()
    for number in (1, 2, 3):
        publish(store, number)
    for number in (2, 1):
        assert store.rollback() == number
        assert_serves_only(redis_client, number)
    with pytest.raises(NothingToRollBackError, match="no generation before 1"):
        store.rollback()
    publish(store, store.next_number())
    assert_serves_only(redis_client, 4)
    assert store.rollback() == 1, "the two that were left are not gone back to"


def test_a_generation_with_holes_is_not_gone_back_to(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    publish(store, 2)
    redis_client.delete("shop:emb:1:user-ids")  # what runs out first
    with pytest.raises(NothingToRollBackError, match="generation 1, the one before 2, is no longer there"):
        store.rollback()
    assert_serves_only(redis_client, 2)


def test_the_served_generation_cannot_be_removed(store: GenerationStore, redis_client: redis.Redis) -> None:
    """Somebody rolls back to it between the look and the act."""
    publish(store, 1)
    store._tended._remove(1)
    assert_serves_only(redis_client, 1)


def test_all_but_the_served_generation_have_a_ttl_and_a_rollback_moves_it(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    def expiring() -> dict[str, set[bool]]:
        found: dict[str, set[bool]] = {}
        for key in keys_by_scan(redis_client):
            if (kind := key.split(":")[2]).isdigit():
                found.setdefault(kind, set()).add(redis_client.ttl(key) > 0)
        return found

    for number in (1, 2, 3):
        publish(store, number)
    assert expiring() == {"1": {True}, "2": {True}, "3": {False}}
    store.rollback()
    assert expiring() == {"1": {True}, "2": {False}, "3": {True}}
    store.refresh(2, filled("new", 2, 2))
    publish(store, 4)
    assert expiring() == {"2": {True}, "3": {True}, "4": {False}}


def test_vectors_of_a_user_who_is_gone_run_out_and_those_of_the_served_one_do_not(
    redis_client: redis.Redis,
) -> None:
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, ttl_s=1)
    publish(store, 1)
    publish(store, 2, users=100)  # u100 to u149 are gone
    ends_s = time.monotonic() + 10
    while redis_client.exists("shop:emb:1:user:u149") and time.monotonic() < ends_s:
        threading.Event().wait(0.05)
    batch = EmbeddingReader(redis_client, namespace=NAMESPACE).batch(users=["u0", "u149"])
    assert batch.users_found.tolist() == [True, False]
    with pytest.raises(NothingToRollBackError, match="have expired"):
        store.rollback()
    assert [g.number for g in store.generations()] == [2]
    publish(store, 3, users=100)
    assert_no_remains(store, redis_client)


# --- refresh -------------------------------------------------------------------------------------------


def test_a_refresh_reaches_the_served_generation_and_adds_users(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    fresh = Vectors(["u0", "new"], np.full((2, DIM), 9, np.float32), np.array([7, 8]), [["i5"], ["i6"]])
    store.refresh(1, fresh)
    store.refresh(1, fresh)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    vectors, found = reader.users(["u0", "new", "u1"])
    assert found.all()
    assert vectors[:, 0].tolist() == [9, 9, 1]
    assert redis_client.hget("shop:emb:1:user:new", "event_ms") == b"8"
    assert redis_client.hget("shop:emb:1:user:u0", "touched") == b'["i5"]'
    assert store.generations()[0].manifest["users"] == "151"
    assert_no_remains(store, redis_client)
    for number in (2, 3, 4):
        publish(store, number)
    assert redis_client.exists("shop:emb:1:user:new") == 0, "an added user goes with its generation"


def test_a_refresh_by_the_model_of_another_generation_is_refused(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    with pytest.raises(NotCurrentError, match="none is served, not 1"):
        store.refresh(1, GOOD)
    publish(store, 1)
    publish(store, 2)
    with pytest.raises(NotCurrentError, match="2 is served, not 1"):
        store.refresh(1, filled("u", 150, 1))
    with pytest.raises(ValueError, match="has 4 dimensions, got 5"):
        store.refresh(2, Vectors(["a"], np.ones((1, 5), np.float32), np.zeros(1, np.int64)))
    assert_serves_only(redis_client, 2)


def test_unsound_trending_scores_are_refused(store: GenerationStore, redis_client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="finite"):
        store.trending.replace({"click": {"i1": float("nan")}})
    with pytest.raises(ValueError, match="finite"):
        store.trending.replace({"click": {"i1": 1e308}})  # the sum over two behaviors would be infinite
    with pytest.raises(ValueError, match="at most 1000 items, got 1001"):
        store.trending.replace({"click": {f"i{n}": 1.0 for n in range(1_001)}})
    assert redis_client.dbsize() == 0


def test_trending_is_replaced_not_added_to(store: GenerationStore, redis_client: redis.Redis) -> None:
    store.trending.replace({"click": {"i1": 1.0, "i2": 2.0}})
    store.trending.replace({"click": {"i3": 3.0}})
    assert redis_client.zrange("shop:trending:click", 0, -1, withscores=True) in (
        [(b"i3", 3.0)],
        [[b"i3", 3.0]],
    )
    assert redis_client.ttl("shop:trending:click") > 0


def test_every_store_error_is_one_that_the_command_line_prints() -> None:
    assert issubclass(StoreError, DriftgraphError)
