"""doctor beside a real Redis: each of its checks is seen to say yes and no."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
import redis

from driftgraph.app.commands.doctor import redis_server
from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.commands.doctor.redis_server import CONVENIENCES, redis_checks
from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.app.config.settings import Settings
from driftgraph.snapshots.generations.keys import (
    RedisFullError,
    RedisLoginError,
    RedisUnavailableError,
    StoreError,
)
from driftgraph.snapshots.generations.lease import LeaseClient
from driftgraph.snapshots.generations.servers import rights
from driftgraph.snapshots.generations.servers.rights import VECTOR_SETS, WRITER, acl_rule
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.errors import ConfigError
from tests.redis_topologies import cluster
from tests.services_redis import NAMESPACE, keys_by_scan, publish

UserUrl = Callable[[str], str]
CHANNEL = f"{NAMESPACE}:emb:events"


def checks(url: str, **settings: object) -> dict[str, Check]:
    found = redis_checks(Settings.model_validate({"redis": {"url": url, "namespace": NAMESPACE}, **settings}))
    return {check.name: check for check in found}


def test_a_redis_with_all_that_is_needed_is_fine_and_left_as_it_was(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    found = checks(redis_server.url)
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(
        ["redis", "redis memory", "redis size", "redis rights", "redis namespace"], State.OK
    )
    assert found["redis"].detail.endswith("with vector sets")
    assert keys_by_scan(redis_client) == set()


def test_valkey_is_called_so() -> None:
    assert redis_server._named({"redis_version": "7.2.4", "valkey_version": "9.1.2"}) == "Valkey 9.1.2"
    assert redis_server._named({"redis_version": "7.2.4"}) == "Redis 7.2.4"


def test_a_redis_without_vector_sets_is_told_from_one_with(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_ASKED_BY", "VNONE")  # which the real server does not know
    assert "without vector sets" in checks(redis_server.url)["redis"].detail


@pytest.mark.parametrize(
    ("policy", "limit", "state"),
    [
        ("allkeys-lru", "100mb", State.FAIL),
        ("volatile-lru", "100mb", State.WARN),
        ("noeviction", "100mb", State.OK),
        ("allkeys-lru", "0", State.OK),
    ],
)
def test_a_policy_that_removes_what_is_served_is_told(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, policy: str, limit: str, state: State
) -> None:
    redis_client.config_set("maxmemory", limit)
    redis_client.config_set("maxmemory-policy", policy)
    try:
        found = checks(redis_server.url)["redis memory"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("maxmemory", 0)
    assert (found.state, policy in found.detail) == (state, True)


def test_a_full_a_replica_an_absent_and_a_closed_redis_are_told_apart(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, user_url: UserUrl
) -> None:
    redis_client.config_set("maxmemory", 1)
    with pytest.raises(RedisFullError, match="maxmemory"):
        checks(redis_server.url)
    redis_client.config_set("maxmemory", 0)
    port = redis_server.url.rpartition(":")[2].removesuffix("/0")
    with (
        EmbeddedRedis(settings=["--replicaof", "127.0.0.1", port]) as replica,
        pytest.raises(StoreError, match="is a replica"),
    ):
        checks(replica.url)
    with pytest.raises(RedisUnavailableError, match="is it running"):
        checks(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(RedisLoginError, match=r"check redis\.username and redis\.password"):
        checks(user_url("~* +@all").replace(":pw@", ":other@"))
    with pytest.raises(RedisUnavailableError, match="did not answer"):
        checks(redis_server.url.replace("redis://", "rediss://"))


@pytest.mark.parametrize(
    ("rules", "state", "says"),
    [
        ("~shop:* &* +@all", State.OK, "may do all"),
        ("~shop:* +@all", State.WARN, "may not publish, so nobody is told of a new generation: ACL SETUSER "
         "USER &shop:emb:events"),
        ("~shop:* &shop:emb:events +@all -@scripting", State.FAIL, "so nothing can be published: ACL "
         "SETUSER USER +script|load +script|exists +evalsha"),
        ("~other:* &* +@all", State.FAIL, "ACL SETUSER USER ~shop:*"),
        ("%R~shop:* &* +@all", State.FAIL, "ACL SETUSER USER ~shop:*"),
        ("~shop:* &* +@read +@write +@scripting +@pubsub +@connection +@transaction +time +info", State.WARN,
         "readers rank by themselves: ACL SETUSER USER +vadd +vcard +vsim"),
    ],
)  # fmt: skip
def test_what_the_user_may_not_do_is_named_with_the_rule_that_allows_it(
    user_url: UserUrl, redis_client: redis.Redis, rules: str, state: State, says: str
) -> None:
    url = user_url(rules)
    redis_client.script_flush()
    found = checks(url)["redis rights"]
    assert found.state is state, found.detail
    assert says in found.detail
    assert keys_by_scan(redis_client) == set()
    if state is not State.OK:
        rule = found.detail.rpartition("ACL SETUSER USER ")[2].split()
        redis_client.execute_command("ACL", "SETUSER", "user0", *rule)  # type: ignore[no-untyped-call]
        assert checks(url)["redis rights"].state is State.OK, "the rule did not help"


@pytest.mark.parametrize("command", WRITER)
def test_each_right_that_is_missing_is_found(
    user_url: UserUrl, redis_client: redis.Redis, command: str
) -> None:
    rule = acl_rule([c for c in WRITER if c != command], NAMESPACE, channel=CHANNEL)
    found = checks(user_url(rule))["redis rights"]
    assert found.state is (State.WARN if command in CONVENIENCES else State.FAIL)
    assert found.detail.endswith(f"ACL SETUSER USER +{command}")
    assert command == "unlink" or keys_by_scan(redis_client) == set()


def test_the_documented_rights_are_all_that_doctor_asks_for(user_url: UserUrl) -> None:
    found = checks(user_url(acl_rule(WRITER, NAMESPACE, channel=CHANNEL)))
    assert {check.state for check in found.values()} == {State.OK}


def test_another_name_in_the_namespace_is_found_and_the_own_is_none(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    lease = LeaseClient(redis_client, namespace=NAMESPACE, name="first", ttl_s=60)
    assert "nobody publishes into it now" in checks(redis_server.url)["redis namespace"].detail
    assert lease.take() is not None
    found = checks(redis_server.url, name="second")["redis namespace"]
    assert (found.state, "is in use by 'first' (pid " in found.detail) == (State.FAIL, True)
    assert checks(redis_server.url, name="first")["redis namespace"].state is State.OK


def test_an_updater_of_another_topic_in_the_namespace_is_found(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    lease = LeaseClient(redis_client, namespace=NAMESPACE, name="driftgraph", topic="brands", ttl_s=60)
    assert lease.take() is not None
    found = checks(redis_server.url)["redis namespace"]
    assert (found.state, "which follows topic brands" in found.detail) == (State.FAIL, True)


def test_readers_of_the_channel_are_told_that_nothing_was_switched(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    channel = redis_client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with contextlib.closing(channel):
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=5)
        checks(redis_server.url)
        message = channel.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b'{"event": "checked"}'


def test_vector_sets_are_all_conveniences() -> None:
    assert CONVENIENCES.issuperset(VECTOR_SETS)
    assert CONVENIENCES.issubset(WRITER)


def test_the_size_of_a_user_and_of_what_is_served_is_told(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    none = checks(redis_server.url, publish={"lists": 0, "similar": 0})["redis size"]
    assert none.state is State.OK
    assert re.fullmatch(r"about [\d.]+ k?B a user and .* in each of 4 generations", none.detail)
    half = checks(redis_server.url, publish={"lists": 0, "similar": 0, "vectors": "int8"})["redis size"]
    assert float(half.detail.split()[1]) < 1_000 > float(none.detail.split()[1])
    feast = checks(redis_server.url, publish={"lists": 0, "similar": 0, "feast": "shop"})["redis size"]
    assert feast.detail == none.detail + ", and about 724 B of either once, for Feast"
    publish(GenerationStore(redis_client, namespace=NAMESPACE, epoch=1), 1)
    redis_client.config_set("maxmemory", "100mb")
    assert "for the 150 users and 60 items that are served" in checks(redis_server.url)["redis size"].detail
    redis_client.hset("shop:emb:1:manifest", "users", 10_000_000)
    found = checks(redis_server.url)["redis size"]
    redis_client.config_set("maxmemory", 0)
    assert (found.state, "more than its maxmemory of 105 MB" in found.detail) == (State.FAIL, True)


def test_a_cluster_is_checked_on_the_node_of_the_namespace() -> None:
    with cluster() as url:
        settings = {"redis": {"url": url, "namespace": "{shop}"}}
        found = {check.name: check for check in redis_checks(Settings.model_validate(settings))}
        assert {check.state for check in found.values()} == {State.OK}
        assert "redis rights" in found
        with pytest.raises(ConfigError, match="must be in braces"):
            checks(url)
