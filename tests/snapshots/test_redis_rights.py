"""What a Redis user may do: the rights that are documented are enough, and one that is missing is named."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import (
    RedisLoginError,
    RedisRightsError,
    StoreError,
    connect,
)
from driftgraph.snapshots.generations.lease import LeaseClient, raise_epoch, read_epoch
from driftgraph.snapshots.generations.servers import rights
from driftgraph.snapshots.generations.servers.rights import READER, VECTOR_SETS, WRITER, acl_rule
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services_redis import NAMESPACE, assert_no_remains, assert_serves_only, filled, publish

As = Callable[[str], redis.Redis]
CHANNEL = f"{NAMESPACE}:emb:events"


@pytest.fixture
def as_user(user_url: Callable[[str], str]) -> Iterator[As]:
    """A client of a new user with the ACL rules given."""
    with contextlib.ExitStack() as stack:
        yield lambda rules: stack.enter_context(contextlib.closing(connect(user_url(rules))))


def whole_life(client: redis.Redis) -> GenerationStore:
    """All that an updater, a replay and an operator do in Redis."""
    lease = LeaseClient(client, namespace=NAMESPACE, name="shop", ttl_s=60)
    epoch = lease.take()
    assert epoch is not None
    assert lease.renew(epoch) is None
    assert lease.holder().name == "shop"
    epoch = raise_epoch(client, NAMESPACE, lease.owner)
    assert read_epoch(client, NAMESPACE) == epoch
    store = GenerationStore(client, namespace=NAMESPACE, epoch=epoch, keep=2)
    store.clean_up()
    for _ in range(4):
        publish(store, store.next_number())
    store.refresh(4, filled("new", 3, 4))
    store.erase(["new0"])
    store.trending.replace({"click": {"i1": 1.0}})
    assert store.trending.standing() == "served"
    assert store.standing(4) == "served"
    assert store.rollback() == 3
    assert store.choices.newest().generation == 3
    assert store.promote(4, hold=True) == 4
    assert store.promote(3) == 3
    client.delete("shop:emb:3:user:u3")
    assert "damaged" in {store.standing(3) for _ in range(100)}
    publish(store, store.next_number())
    lease.renew(epoch)
    lease.release()
    return store


def read_all(client: redis.Redis, *, cached: bool) -> None:
    reader = EmbeddingReader(client, namespace=NAMESPACE, cache_items=cached)
    assert reader.recommend("u5", 3).source == "embedding"
    assert reader.recommend("nobody", 3).source == "trending"
    assert reader.users(["u1"])[1].all()
    store = GenerationStore(
        client, namespace=NAMESPACE, epoch=read_epoch(client, NAMESPACE)
    )  # as status does
    assert [g.number for g in store.generations() if g.current] == [5]
    assert store.count_keys()["user"] > 0


def test_the_documented_rights_are_enough(
    as_user: As, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store = whole_life(as_user(acl_rule(WRITER, NAMESPACE, channel=CHANNEL)))
    assert caplog.records == []
    assert_serves_only(redis_client, 5)
    reader = as_user(acl_rule(READER, NAMESPACE))
    for cached in (True, False):
        read_all(reader, cached=cached)
    assert [g.number for g in store.generations()] == [3, 4, 5]


def test_the_readme_names_the_rights_that_are_tested() -> None:
    text = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    for user, rule in (
        ("driftgraph", acl_rule(WRITER, "driftgraph", channel="driftgraph:emb:events")),
        ("reader", acl_rule(READER, "driftgraph")),
    ):
        assert f"ACL SETUSER {user} on >PASSWORD {rule} ```" in text


def test_a_reader_cannot_write(as_user: As, store: GenerationStore) -> None:
    publish(store, 1)
    reader = GenerationStore(as_user(acl_rule(READER, NAMESPACE)), namespace=NAMESPACE, epoch=1)
    for act in (lambda: publish(reader, 2), lambda: reader.refresh(1, filled("u", 1, 9)), reader.clean_up):
        with pytest.raises(RedisRightsError, match="driftgraph doctor names all that are missing"):
            act()


def test_without_channels_the_notice_is_all_that_is_lost(
    as_user: As, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """``~shop:* +@all`` is what Redis 7 gives without a word about channels."""
    store = GenerationStore(as_user("~shop:* +@all resetchannels"), namespace=NAMESPACE, epoch=1, keep=2)
    for number in (1, 2, 3):
        publish(store, number)
        assert_serves_only(redis_client, number)
    assert [g.number for g in store.generations()] == [2, 3]
    assert store.rollback() == 2
    assert_serves_only(redis_client, 2)
    assert_no_remains(store, redis_client)
    [said] = [record.getMessage() for record in caplog.records]
    assert f"&{CHANNEL}" in said


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("~shop:* +@all -@scripting", "'evalsha'"),
        ("~other:* +@all", "No permissions to access a key"),
        ("%R~shop:* +@all", "No permissions to access a key"),
        ("~shop:* +@all -zadd", "'zadd'"),
        ("~shop:* +@all -rpush", "'rpush'"),
    ],
)
def test_a_right_without_which_nothing_goes_is_named_and_nothing_is_switched(
    as_user: As, store: GenerationStore, redis_client: redis.Redis, rules: str, says: str
) -> None:
    publish(store, 1)
    limited = GenerationStore(as_user(rules), namespace=NAMESPACE, epoch=1)
    with pytest.raises(RedisRightsError, match=says):
        publish(limited, 2)
    assert_serves_only(redis_client, 1)


@pytest.mark.parametrize("command", [c for c in WRITER if c not in ("eval", "info", "select", "ping")])
def test_whatever_right_is_missing_what_is_served_is_whole(
    as_user: As, redis_client: redis.Redis, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each command of the list is needed by something; without it no half of anything is ever served."""
    caplog.set_level(logging.CRITICAL)
    first = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    publish(first, 1)
    rule = acl_rule([c for c in WRITER if c != command], NAMESPACE, channel=CHANNEL)
    client = as_user(rule)
    redis_client.script_flush()
    with contextlib.suppress(StoreError, AssertionError):
        whole_life(client)
    served = EmbeddingReader(redis_client, namespace=NAMESPACE).current()
    assert served > 0
    assert_serves_only(redis_client, served)
    assert redis_client.pttl("shop:lease") != -1, "a lease that never ends"


def test_without_the_right_to_expire_older_generations_are_removed_all_the_same(
    as_user: As, redis_client: redis.Redis
) -> None:
    store = GenerationStore(as_user("~shop:* +@all -expire"), namespace=NAMESPACE, epoch=1, keep=2)
    for number in range(1, 6):
        publish(store, number)
    assert [g.number for g in store.generations()] == [4, 5]
    assert_serves_only(redis_client, 5)


@pytest.mark.parametrize("command", VECTOR_SETS[:2])
def test_without_the_right_to_vector_sets_readers_rank_by_themselves(
    as_user: As, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    store = GenerationStore(as_user(f"~shop:* &* +@all -{command}"), namespace=NAMESPACE, epoch=1)
    for number in (1, 2):
        publish(store, number)
    assert_serves_only(redis_client, 2)
    assert store.generations()[-1].manifest["index"] == "none"
    assert redis_client.exists("shop:emb:2:items") == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert "+vadd +vcard +vsim" in said
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).recommend("u1", 2).source == "embedding"


def test_a_wrong_password_is_no_redis_that_is_away(user_url: Callable[[str], str]) -> None:
    with contextlib.closing(connect(user_url("~* +@all").replace(":pw@", ":other@"))) as client:
        store = GenerationStore(client, namespace=NAMESPACE, epoch=1)
        with pytest.raises(RedisLoginError, match=r"does not accept the login .* check redis\.username"):
            publish(store, 1)


def test_a_replica_is_told_from_one_that_is_away(redis_server: EmbeddedRedis) -> None:
    port = redis_server.url.rpartition(":")[2].removesuffix("/0")
    with (
        EmbeddedRedis(settings=["--replicaof", "127.0.0.1", port]) as replica,
        contextlib.closing(connect(replica.url)) as client,
        pytest.raises(StoreError, match="is a replica and takes no writes"),
    ):
        GenerationStore(client, namespace=NAMESPACE, epoch=1).trending.replace({"click": {"i": 1.0}})


def test_a_full_redis_is_rolled_back(store: GenerationStore, redis_client: redis.Redis) -> None:
    """One bad generation filled it: the way back must not need room."""
    publish(store, 1)
    publish(store, 2)
    redis_client.config_set("maxmemory", 1)
    assert store.rollback() == 1
    redis_client.config_set("maxmemory", 0)
    assert_serves_only(redis_client, 1)


def test_vector_sets_are_asked_for_in_one_way(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says yes of a command that it has, and no of one that it has not."""
    assert rights.has_vector_sets(redis_client, "shop:emb:0:items")
    monkeypatch.setattr(rights, "_ASKED_BY", "VNONE")
    assert not rights.has_vector_sets(redis_client, "shop:emb:0:items")
