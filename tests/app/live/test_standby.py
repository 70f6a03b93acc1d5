"""What a standby waits for: the lock of its data_dir, a lease that somebody has, a Redis that is away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis, free_port
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.live.standby import Standby
from driftgraph.snapshots.generations.keys import Keys, RedisLoginError, RedisUnavailableError, connect
from driftgraph.snapshots.generations.lease import (
    Holder,
    Lease,
    LeaseClient,
    LeaseLostError,
    NamespaceTakenError,
    elapsed_s,
    read_epoch,
)
from tests.services_redis import NAMESPACE

TTL_S = 2.0  # also the time that a standby gives the holder


class Said(NoProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def until(what: str, is_true: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, f"not in {timeout_s:g} s: {what}"
        time.sleep(0.01)


class Waiting:
    """A standby that asks for a lease in a thread, as the main thread of ``run`` does."""

    def __init__(self, folder: Path, client: LeaseClient) -> None:
        self.stop, self.said = threading.Event(), Said()
        self.found: list[Lease | None] = []
        standby = Standby(Settings(data_dir=folder), self.stop, self.said)
        self.thread = threading.Thread(target=lambda: self.found.append(standby.lease(client)))
        self.thread.start()

    def ended(self) -> Lease | None:
        self.thread.join(60)
        assert self.found, f"it still waits: {self.said.lines}"
        return self.found[0]


@pytest.fixture
def first(redis_client: redis.Redis) -> LeaseClient:
    return LeaseClient(redis_client, namespace=NAMESPACE, name="shop", ttl_s=TTL_S)


@pytest.fixture
def second(redis_client: redis.Redis, redis_server: EmbeddedRedis) -> Iterator[LeaseClient]:
    """With connections of its own: a release closes those of ``first``, also in the middle of a call."""
    with closing(connect(redis_server.url)) as client:
        yield LeaseClient(client, namespace=NAMESPACE, name="shop", ttl_s=TTL_S)


def test_a_lease_that_nobody_has_is_taken_without_a_word(second: LeaseClient, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, second)
    lease = waiting.ended()
    assert lease is not None
    assert lease.held
    assert waiting.said.lines == []
    lease.release()


def test_it_names_the_holder_once_and_goes_on_when_that_ends(
    first: LeaseClient, second: LeaseClient, tmp_path: Path
) -> None:
    epoch = first.take()
    assert epoch is not None
    holder = Lease(first, epoch, elapsed_s(), renew_s=TTL_S / 4)
    waiting = Waiting(tmp_path, second)
    told = tmp_path / "status/standby.json"
    until("it is told", told.exists)
    time.sleep(2 * TTL_S)  # it would say more with each look
    assert len(waiting.said.lines) == 1
    assert f"waits as a standby: the updater with pid {os.getpid()} on " in waiting.said.lines[0]
    assert json.loads(told.read_bytes())["why"] == waiting.said.lines[0]
    holder.release()
    lease = waiting.ended()
    assert lease is not None
    assert lease.epoch > epoch
    assert not told.exists()
    lease.release()


def test_the_holder_comes_first_when_redis_has_forgotten_it(
    first: LeaseClient, second: LeaseClient, redis_client: redis.Redis, tmp_path: Path
) -> None:
    epoch = first.take()
    assert epoch is not None
    waiting = Waiting(tmp_path, second)
    until("it waits", lambda: waiting.said.lines)
    redis_client.flushall()
    until("it has seen that", lambda: "is given some seconds" in waiting.said.lines[-1])
    assert first.renew(epoch) is None
    until("it waits again", lambda: "waits as a standby" in waiting.said.lines[-1])
    waiting.stop.set()
    assert waiting.ended() is None


def test_the_holder_comes_first_when_redis_was_away_and_a_dead_one_does_not(
    first: LeaseClient,
    second: LeaseClient,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis is back with what it knew, and the lease ran out meanwhile: its holder may live or not."""
    assert first.take() is not None
    away, look = threading.Event(), second.holder

    def holder() -> Holder:
        if away.is_set():
            raise RedisUnavailableError("Redis is away")
        return look()

    monkeypatch.setattr(second, "holder", holder)
    waiting = Waiting(tmp_path, second)
    until("it waits", lambda: waiting.said.lines)
    away.set()
    until("it misses Redis", lambda: "waits for Redis" in waiting.said.lines[-1])
    redis_client.delete(Keys(NAMESPACE).lease)
    back_s = time.monotonic()
    away.clear()
    lease = waiting.ended()
    assert lease is not None
    assert time.monotonic() - back_s > TTL_S / 2, "the holder had no time to say that it lives"
    lease.release()


@pytest.mark.parametrize("name", ["other", "shop:0/2", "shop (replay)"])
def test_another_name_in_the_namespace_is_refused_with_the_name_of_the_first(
    first: LeaseClient, redis_client: redis.Redis, tmp_path: Path, name: str
) -> None:
    epoch = first.take()
    assert epoch is not None
    holder = Lease(first, epoch, elapsed_s(), renew_s=TTL_S / 4)
    other = LeaseClient(redis_client, namespace=NAMESPACE, name=name, ttl_s=TTL_S)
    says = rf"namespace 'shop' in Redis at .* is in use by 'shop' \(pid {os.getpid()} on .* redis\.namespace"
    with pytest.raises(NamespaceTakenError, match=says):
        Standby(Settings(data_dir=tmp_path), threading.Event(), Said()).lease(other)
    with pytest.raises(NamespaceTakenError, match=says):
        other.take_alone()
    assert holder.held
    assert first.renew(epoch) is None
    assert read_epoch(redis_client, NAMESPACE) == epoch, "the worker of the first is fenced"
    elsewhere = LeaseClient(redis_client, namespace="elsewhere", name=name)
    assert elsewhere.take() is not None
    holder.release()


def test_the_same_name_with_another_topic_is_no_standby(redis_client: redis.Redis, tmp_path: Path) -> None:
    """Two sites, each with the default name and namespace: the second would serve its items to the first."""

    def client(topic: str) -> LeaseClient:
        return LeaseClient(redis_client, namespace=NAMESPACE, name="shop", topic=topic, ttl_s=TTL_S)

    brands = client("brands")
    epoch = brands.take()
    assert epoch is not None
    holder = Lease(brands, epoch, elapsed_s(), renew_s=TTL_S / 4)
    with pytest.raises(NamespaceTakenError, match=r"which follows topic brands, and two .* redis\.namespace"):
        Standby(Settings(data_dir=tmp_path), threading.Event(), Said()).lease(client("videos"))
    waiting = Waiting(tmp_path, client("brands"))
    until("it says so", lambda: waiting.said.lines)
    assert "waits as a standby" in waiting.said.lines[0]
    holder.release()
    lease = waiting.ended()
    assert lease is not None
    lease.release()


@pytest.mark.parametrize(("own", "other"), [("", "brands"), ("brands", "")])
def test_a_version_that_did_not_say_its_topic_has_a_standby(
    redis_client: redis.Redis, own: str, other: str
) -> None:
    """During an upgrade, and for the command retrain beside a replay."""
    holder = LeaseClient(redis_client, namespace=NAMESPACE, name="shop", topic=other, ttl_s=60)
    assert holder.take() is not None
    second = LeaseClient(redis_client, namespace=NAMESPACE, name="shop", topic=own)
    assert second.is_own(second.holder())


def test_another_name_goes_on_once_the_first_is_dead(first: LeaseClient, tmp_path: Path) -> None:
    """Killed, so that nobody releases its lease: the name was changed between two starts, say."""
    assert first.take() is not None
    other = LeaseClient(first._client, namespace=NAMESPACE, name="other", ttl_s=TTL_S)
    waiting = Waiting(tmp_path, other)
    until("it says so", lambda: waiting.said.lines)
    assert "to see whether 'shop' (pid " in waiting.said.lines[0]
    lease = waiting.ended()
    assert lease is not None
    assert other.holder().name == "other"
    lease.release()


def test_another_name_after_a_clean_stop_or_on_the_same_folder_does_not_wait(
    redis_client: redis.Redis,
) -> None:
    first = LeaseClient(redis_client, namespace=NAMESPACE, name="shop", place="a", ttl_s=60)
    other = LeaseClient(redis_client, namespace=NAMESPACE, name="other", place="a", ttl_s=60)
    assert first.take() is not None
    other.take_alone().release()
    LeaseClient(redis_client, namespace=NAMESPACE, name="third").take_alone().release()


def test_one_that_stood_still_while_another_name_took_over_is_told_the_name(
    first: LeaseClient, redis_client: redis.Redis
) -> None:
    epoch = first.take()
    assert epoch is not None
    other = LeaseClient(redis_client, namespace=NAMESPACE, name="other", ttl_s=60)
    until("the first has run out", other.take)
    lease = Lease(first, epoch, elapsed_s(), renew_s=0.05)
    until("it knows", lambda: not lease.held)
    with pytest.raises(
        LeaseLostError, match=r"'other', has taken over .* needs a redis\.namespace of its own"
    ):
        lease.check()
    lease.release()


def test_a_login_that_redis_does_not_accept_ends_a_start(redis_client: redis.Redis, tmp_path: Path) -> None:
    """It would wait for ever for what only a person can mend."""
    kwargs = redis_client.connection_pool.connection_kwargs
    client = connect(f"redis://nobody:secret@{kwargs['host']}:{kwargs['port']}/0", retries=0)
    with pytest.raises(RedisLoginError, match="does not accept the login"):
        Standby(Settings(data_dir=tmp_path), threading.Event(), Said()).lease(
            LeaseClient(client, namespace=NAMESPACE, name="shop")
        )
    client.close()


def test_it_ends_at_once_when_told_while_redis_is_away(tmp_path: Path) -> None:
    address = f"redis://127.0.0.1:{free_port()}/0"
    client = LeaseClient(connect(address, retries=0), namespace=NAMESPACE, name="shop")
    waiting = Waiting(tmp_path, client)
    until("it says so", lambda: waiting.said.lines)
    assert "waits for Redis, to know that it is the only updater of 'shop'" in waiting.said.lines[0]
    told_s = time.monotonic()
    waiting.stop.set()
    assert waiting.ended() is None
    assert time.monotonic() - told_s < 8, "it waited for Redis"
    assert not (tmp_path / "status/standby.json").exists()


def test_the_second_of_a_folder_waits_for_its_lock_and_the_places_agree(tmp_path: Path) -> None:
    settings, stop = Settings(data_dir=tmp_path), threading.Event()
    first, second, said = Standby(settings, stop, Said()), Standby(settings, stop, Said()), Said()
    third, got = Standby(settings, stop, said), list[bool]()

    def wait() -> None:
        with third.lock() as locked:
            got.append(locked)

    thread = threading.Thread(target=wait)
    with first.lock() as locked:
        assert locked
        thread.start()
        until("it says so", lambda: said.lines)
        assert f"{tmp_path} is in use by the updater with pid {os.getpid()}" in said.lines[0]
        assert got == []
    thread.join(10)
    assert got == [True]
    with second.lock():
        assert second.place == first.place == third.place != ""
    stop.set()
    with second.lock() as locked:
        assert not locked


def test_another_folder_is_another_place(tmp_path: Path) -> None:
    stop, places = threading.Event(), set[str]()
    for name in ("one", "two"):
        standby = Standby(Settings(data_dir=tmp_path / name), stop, Said())
        with standby.lock():
            places.add(standby.place)
    assert len(places) == 2
