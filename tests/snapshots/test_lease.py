"""The lease on a real Redis: who gets it, keeps it, has lost it, and what a worker may do under it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.builders import lease_name
from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.sections import KafkaSettings
from driftgraph.snapshots.generations.keys import StaleWorkerError, StoreError, connect
from driftgraph.snapshots.generations.lease import (
    Holder,
    Lease,
    LeaseClient,
    LeaseLostError,
    raise_epoch,
    read_epoch,
)
from driftgraph.snapshots.generations.store import GenerationStore
from tests.services_redis import NAMESPACE, filled, publish
from tests.waits import until

TTL_S = 0.6


def client_of(client: redis.Redis, *, place: str = "", ttl_s: float = TTL_S) -> LeaseClient:
    return LeaseClient(client, namespace=NAMESPACE, name="shop", place=place, ttl_s=ttl_s)


def taken(client: LeaseClient) -> int:
    epoch = client.take()
    assert epoch is not None
    return epoch


@dataclass
class HandClock:
    """The time of a lease, moved by hand: a process that is stopped sees it jump."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def first(redis_client: redis.Redis) -> LeaseClient:
    return client_of(redis_client)


@pytest.fixture
def second(redis_client: redis.Redis) -> LeaseClient:
    return client_of(redis_client)


def test_only_one_has_it_and_a_second_take_by_the_same_changes_nothing(
    first: LeaseClient, second: LeaseClient
) -> None:
    epoch = taken(first)
    assert second.take() is None
    assert taken(first) == epoch
    assert (second.holder().host != "", second.holder().epoch) == (True, epoch)


def test_it_runs_out_and_the_next_has_a_higher_epoch_and_the_first_has_lost(
    first: LeaseClient, second: LeaseClient
) -> None:
    epoch = taken(first)
    until(second.take)
    assert second.holder().epoch > epoch
    lost = first.renew(epoch)
    assert lost is not None
    assert lost.host == second.holder().host


def test_one_who_had_it_in_between_and_has_ended_is_noticed(first: LeaseClient, second: LeaseClient) -> None:
    epoch = taken(first)
    until(second.take)
    second.release()
    assert first.renew(epoch) == Holder("", "", 0)
    assert second.holder().host == "", "a lost lease must not be taken again"


def test_a_lease_that_ran_out_unseen_is_the_same_holders_again(
    first: LeaseClient, second: LeaseClient
) -> None:
    epoch = taken(first)
    until(lambda: not second.holder().host)
    assert first.renew(epoch) is None
    assert second.take() is None


def test_renewing_and_nothing_else_keeps_it(first: LeaseClient, second: LeaseClient) -> None:
    epoch, end = taken(first), time.monotonic() + 2.5 * TTL_S
    while time.monotonic() < end:
        assert first.renew(epoch) is None
        assert second.take() is None
        time.sleep(TTL_S / 4)


def test_a_redis_that_forgot_all_gives_it_back_with_its_fence(
    first: LeaseClient, second: LeaseClient, redis_client: redis.Redis
) -> None:
    epoch = taken(first)
    redis_client.flushall()
    assert first.renew(epoch) is None
    assert second.take() is None
    assert second.holder().epoch == epoch
    assert read_epoch(redis_client, NAMESPACE) == epoch
    with pytest.raises(StaleWorkerError):
        GenerationStore(redis_client, namespace=NAMESPACE, epoch=epoch - 1).clean_up()


def test_the_dead_of_the_same_place_keep_nobody_waiting(redis_client: redis.Redis) -> None:
    dead, next_one = client_of(redis_client, place="a", ttl_s=60), client_of(redis_client, place="a")
    other = client_of(redis_client, place="b")
    epoch = taken(dead)
    assert other.take() is None
    assert next_one.holder().host == ""
    assert taken(next_one) > epoch
    assert other.take() is None


def test_without_a_place_nobody_is_taken_for_dead(first: LeaseClient, second: LeaseClient) -> None:
    taken(first)
    assert second.holder().host != ""
    assert second.take() is None


def test_only_the_holder_can_release(first: LeaseClient, second: LeaseClient) -> None:
    taken(first)
    second.release()
    assert second.take() is None
    first.release()
    assert second.take() is not None


def test_a_full_redis_renews(first: LeaseClient, redis_client: redis.Redis) -> None:
    epoch = taken(first)
    redis_client.config_set("maxmemory", 1)
    assert first.renew(epoch) is None
    first.release()
    with pytest.raises(StoreError, match="maxmemory"):
        first.take()


def test_an_epoch_grows_past_one_that_redis_has_forgotten(
    first: LeaseClient, second: LeaseClient, redis_client: redis.Redis
) -> None:
    epoch = taken(first)
    until(lambda: int(redis_client.time()[0]) > epoch)
    redis_client.flushall()
    assert taken(second) > epoch


def test_shards_of_one_name_are_not_each_others_standbys(redis_client: redis.Redis) -> None:
    shards = ["0/1", "0/2", "1/2"]
    names = [lease_name(Settings(name="shop", kafka=KafkaSettings(shard=shard))) for shard in shards]
    assert names == ["shop", "shop:0/2", "shop:1/2"]
    for n, name in enumerate(names):  # each in a namespace of its own
        taken(LeaseClient(redis_client, namespace=f"shop-{n}", name=name))
        assert LeaseClient(redis_client, namespace=f"shop-{n}", name=names[n - 1]).take() is None


# --- the worker ----------------------------------------------------------------------------------------


def test_taking_the_lease_fences_the_worker_of_the_one_before(
    first: LeaseClient, second: LeaseClient, redis_client: redis.Redis
) -> None:
    taken(first)
    store = GenerationStore(
        redis_client, namespace=NAMESPACE, epoch=raise_epoch(redis_client, NAMESPACE, first.owner)
    )
    publish(store, 1)
    until(second.take)
    for act in (lambda: publish(store, 2), lambda: store.refresh(1, filled("u", 3, 9)), store.clean_up):
        with pytest.raises(StaleWorkerError):
            act()


def test_a_returned_firsts_worker_cannot_raise_the_epoch(
    first: LeaseClient, second: LeaseClient, redis_client: redis.Redis
) -> None:
    taken(first)
    until(second.take)
    epoch = raise_epoch(redis_client, NAMESPACE, second.owner)
    with pytest.raises(StaleWorkerError, match="has taken over the lease from 'shop'"):
        raise_epoch(redis_client, NAMESPACE, first.owner)
    assert read_epoch(redis_client, NAMESPACE) == epoch
    second.release()
    with pytest.raises(StoreError, match="'shop' does not have the lease"):
        raise_epoch(redis_client, NAMESPACE, first.owner)


def test_each_worker_of_the_holder_is_above_the_one_before(
    first: LeaseClient, redis_client: redis.Redis
) -> None:
    epochs = [taken(first), *(raise_epoch(redis_client, NAMESPACE, first.owner) for _ in range(2))]
    assert epochs == sorted(set(epochs))


# --- the thread ----------------------------------------------------------------------------------------


def test_a_process_that_stood_still_knows_before_it_asks(redis_client: redis.Redis) -> None:
    client, clock = client_of(redis_client, ttl_s=9), HandClock()
    lease = Lease(client, taken(client), clock.now_s, renew_s=60, now_s=clock)
    clock.now_s += 8.9
    assert lease.held
    clock.now_s += 0.2
    assert not lease.held
    lease.check()  # not known to be another's
    lease.release()


def test_a_renewal_counts_from_before_it_was_sent(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes after the ttl: it says nothing about now."""
    client, clock = client_of(redis_client, ttl_s=9), HandClock()
    lease = Lease(client, taken(client), clock.now_s, renew_s=60, now_s=clock)
    renew = client.renew

    def slow(epoch: int) -> Holder | None:
        answer = renew(epoch)
        clock.now_s += 9.1
        return answer

    monkeypatch.setattr(client, "renew", slow)
    assert lease._renewed()
    assert not lease.held
    monkeypatch.setattr(client, "renew", renew)
    assert lease._renewed()
    assert lease.held
    lease.release()


def test_the_thread_renews_and_release_hands_over_at_once(
    redis_client: redis.Redis, second: LeaseClient
) -> None:
    client = client_of(redis_client)
    lease = Lease(client, taken(client), time.clock_gettime(time.CLOCK_BOOTTIME), renew_s=0.1)
    end = time.monotonic() + 2 * TTL_S
    while time.monotonic() < end:
        assert lease.held
        assert second.take() is None
        time.sleep(0.05)
    lease.release()
    assert second.take() is not None


def test_a_lost_lease_ends_its_holder_with_a_sentence(redis_client: redis.Redis) -> None:
    client, other = client_of(redis_client), client_of(redis_client, ttl_s=60)
    epoch = taken(client)
    until(other.take)
    lease = Lease(client, epoch, time.clock_gettime(time.CLOCK_BOOTTIME), renew_s=0.05)
    until(lambda: not lease.held)
    with pytest.raises(LeaseLostError, match=r"pid \d+ on \S+ has taken over the lease of 'shop'"):
        lease.check()
    lease.release()
    assert client_of(redis_client).take() is None, "what is the other's was released"


@contextlib.contextmanager
def own_redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


def test_a_redis_that_is_away_makes_it_unsure_and_not_lost() -> None:
    with own_redis() as server:
        client = client_of(connect(server.url, retries=0))
        lease = Lease(client, taken(client), time.clock_gettime(time.CLOCK_BOOTTIME), renew_s=0.05)
        until(lambda: lease.held)
    until(lambda: not lease.held)
    lease.check()
    assert "did not answer" in str(lease.status()["failure"])
    lease.release()
