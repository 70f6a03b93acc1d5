"""What Feast reads from our Redis is what the served generation has, whatever happened in between."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from benchmarks.feature_stores.feast_client import MISSING, PYTHON, FeastClient
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.builders import generation_store
from driftgraph.app.config.settings import Settings
from driftgraph.snapshots.generations import feast, memory
from driftgraph.snapshots.generations.feast import SIDES, murmur3, view_of
from driftgraph.snapshots.generations.keys import RedisFullError, StaleWorkerError, StoreError, connect
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.servers.rights import WRITER, acl_rule
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services_redis import assert_no_remains, keys_by_scan

NAMESPACE, PROJECT = "driftgraph", "shop"  # the namespace that examples/feast_views.py has
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "feast.json"
DIM = 3
OTHER = b"\x01\x02\x03\x04"  # the field of another feature view of the same entity

MakeStore = Callable[..., GenerationStore]
Copies = dict[tuple[str, str], tuple[list[float], int]]


@pytest.fixture
def make(redis_client: redis.Redis) -> MakeStore:
    """Makes stores that copy for Feast, in an empty Redis."""

    def store(project: str = PROJECT, epoch: int = 1, **options: Any) -> GenerationStore:
        client = options.pop("client", redis_client)
        return GenerationStore(client, namespace=NAMESPACE, epoch=epoch, feast=project, **options)

    return store


@pytest.fixture(scope="module")
def peer(redis_server: EmbeddedRedis) -> Iterator[FeastClient]:
    """Feast itself."""
    if not PYTHON.exists():
        pytest.skip(MISSING)
    with FeastClient(redis_server.url, PROJECT) as client:
        yield client


def side(ids: list[str], seed: int) -> Vectors:
    rng = np.random.default_rng(seed)
    times = 1_783_000_000_000 + rng.integers(0, 10**6, len(ids))
    return Vectors(ids, rng.standard_normal((len(ids), DIM), dtype=np.float32), times)


def ids_of(kind: str, numbers: range) -> list[str]:
    return [f"{kind}{n}" for n in numbers]


def publish(store: GenerationStore, number: int, users: range = range(40), items: range = range(30)) -> None:
    store.publish(number, side(ids_of("u", users), number), side(ids_of("i", items), -number % 99), {})


def copies(client: redis.Redis, project: str = PROJECT) -> Copies:
    """What Feast would find: the floats and the number in the values of each id that has one."""
    found = Copies()
    for kind in SIDES:
        view = view_of(project, NAMESPACE, kind)
        vector, number, time = view.fields()
        begin = struct.pack("<III", 1, 2, len(view.join_key)) + view.join_key.encode()
        for key in client.scan_iter(count=10_000):
            row: Any = client.hgetall(key) if key.startswith(begin) and key.endswith(project.encode()) else {}
            if not row.keys() & {vector, number, time}:
                continue
            assert {vector, number, time} <= row.keys(), "a copy is whole"
            _, length = struct.unpack_from("<II", key, len(begin))
            entity_id = key[len(begin) + 8 :][:length].decode()
            digits = [byte & 0x7F for byte in row[number][1:]]
            value = sum(digit << 7 * n for n, digit in enumerate(digits))
            found[kind, entity_id] = np.frombuffer(row[vector][-4 * DIM :], "<f4").tolist(), value
    return found


def served(client: redis.Redis) -> Copies:
    """The plain way: every hash of the served generation."""
    number = int(client.hget(f"{NAMESPACE}:emb:current", "gen") or 0)
    found = Copies()
    for kind in SIDES:
        begin = f"{NAMESPACE}:emb:{number}:{kind}:"
        for key in client.scan_iter(f"{begin}*", count=10_000):
            blob: Any = client.hget(key, "embedding")
            found[kind, key.decode().removeprefix(begin)] = np.frombuffer(blob, "<f4").tolist(), number
    return found


def assert_agrees(store: GenerationStore, client: redis.Redis) -> None:
    wanted = served(client)
    assert copies(client, store.feast.project) == wanted
    noted: dict[str, Any] = {kind: client.zrange(f"{NAMESPACE}:feast:{kind}", 0, -1) for kind in SIDES}
    assert {(kind, one.decode()) for kind in SIDES for one in noted[kind]} == wanted.keys()


@pytest.mark.parametrize("row", json.loads(GOLDEN.read_text("utf-8"))["rows"], ids=lambda row: row["id"][:8])
def test_the_bytes_are_those_that_feast_wrote(
    make: MakeStore, redis_client: redis.Redis, row: dict[str, Any]
) -> None:
    vectors = np.array([row["embedding"]], np.float32)
    one = Vectors([row["id"]], vectors, np.array([row["event_ms"]], np.int64))
    beside = Vectors(["beside"], vectors, np.zeros(1, np.int64))
    sides = (one, beside) if row["side"] == "user" else (beside, one)
    make().publish(row["generation"], *sides, {})
    fields: Any = redis_client.hgetall(bytes.fromhex(row["key"]))
    assert {name.hex(): value.hex() for name, value in fields.items()} == row["fields"]


def test_feast_itself_writes_the_golden_bytes(peer: FeastClient, redis_client: redis.Redis) -> None:
    for row in json.loads(GOLDEN.read_text("utf-8"))["rows"]:
        peer.ask(
            write=row["side"],
            rows=[{name: row[name] for name in ("id", "embedding", "generation", "event_ms")}],
        )
        fields: Any = redis_client.hgetall(bytes.fromhex(row["key"]))
        assert {name.hex(): value.hex() for name, value in fields.items()} == row["fields"]


def test_feast_itself_reads_the_vectors_of_the_reader(
    peer: FeastClient, make: MakeStore, redis_client: redis.Redis
) -> None:
    store = make()
    hostile = ["u 1", "é😀", "a:b {c}\n", "x" * 1024]
    store.publish(300, side(hostile, 1), side(["u 1"], 2), {})
    store.refresh(300, side(["u 1"], 3))
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    told = peer.ask(read="user", ids=[*hostile, "nobody"])
    assert told["embedding"][:-1] == reader.users(hostile)[0].tolist()
    assert told["embedding"][-1] is None
    assert told["generation"] == [300] * 4 + [None]
    assert peer.ask(read="item", ids=["u 1"])["embedding"] == reader.items(["u 1"])[0].tolist()
    store.erase(["u 1"])
    assert peer.ask(read="user", ids=["u 1", "é😀"])["generation"] == [None, 300]


def test_a_switch_replaces_copies_and_removes_those_of_ids_that_left(
    make: MakeStore, redis_client: redis.Redis
) -> None:
    store = make()
    publish(store, 1)
    assert_agrees(store, redis_client)
    left = view_of(PROJECT, NAMESPACE, "user").key("u3")
    redis_client.hset(left, OTHER, b"another team's")
    publish(store, 2, users=range(20, 60))
    assert_agrees(store, redis_client)
    assert redis_client.hgetall(left) == {OTHER: b"another team's"}
    assert store.rollback() == 1
    assert_agrees(store, redis_client)
    assert len(redis_client.hgetall(left)) == 4


def test_refreshes_erasures_and_delistings_reach_feast(make: MakeStore, redis_client: redis.Redis) -> None:
    store = make()
    publish(store, 1)
    store.refresh(1, side(["u1", "new"], 7))
    store.refreshes.items(1, side(["i1", "new"], 8))
    assert_agrees(store, redis_client)
    assert ("user", "new") in copies(redis_client)
    operator = make(project="")  # a command that knows nothing of Feast
    operator.erase(["u1", "u39"])
    operator.delisting.change(["i1"], "SADD")
    operator.delisting.remove(["i1"])
    assert_agrees(store, redis_client)
    assert {("user", "u1"), ("item", "i1")}.isdisjoint(copies(redis_client))


def test_a_choice_by_a_command_without_the_option_is_followed_by_the_look(
    make: MakeStore, redis_client: redis.Redis
) -> None:
    store = make()
    publish(store, 1, users=range(10))
    publish(store, 2)
    assert make(project="").rollback() == 1
    assert copies(redis_client).keys() != served(redis_client).keys(), "nobody has looked"
    store.feast.look()
    assert_agrees(store, redis_client)


@pytest.mark.parametrize("seed", range(6))
def test_after_any_acts_and_failures_a_look_makes_it_what_is_served(
    make: MakeStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Acts in random order, each of which may be cut off before any of its calls, beside the plain way."""
    chance, store, number = random.Random(seed), make(), 0
    monkeypatch.setattr(feast, "IDS_AT_ONCE", 7)
    left = [10**9]  # calls until the connection fails
    run_many, run = Scripts.run_many, Scripts.run

    def cut(method: Any) -> Any:
        def called(self: Scripts, *args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise redis.ConnectionError("cut off")
            return method(self, *args)

        return called

    monkeypatch.setattr(Scripts, "run_many", cut(run_many))
    monkeypatch.setattr(Scripts, "run", cut(run))
    for _ in range(25):
        left[0] = chance.randrange(40) if chance.random() < 0.5 else 10**9
        first, act = chance.randrange(30), chance.randrange(6)
        with contextlib.suppress(StoreError):
            if act < 2 or not number:
                number = max(number + 1, store.next_number())
                publish(store, number, users=range(first, first + 30), items=range(first, first + 20))
            elif act == 2:
                store.refresh(
                    store.choices.newest().served, side(ids_of("u", range(first, first + 9)), first)
                )
            elif act == 3:
                store.erase(ids_of("u", range(first, first + 3)))
            elif act == 4:
                store.delisting.change([f"i{first}"], "SADD")
                store.delisting.remove([f"i{first}"])
            else:
                store.rollback()
        left[0] = 10**9
        store.feast.look()
        if act < 2 or act > 4:
            assert_agrees(store, redis_client)


def test_another_project_and_none_take_away_what_was_copied(
    make: MakeStore, redis_client: redis.Redis
) -> None:
    publish(make(), 1)
    other = make(project="media")
    other.feast.look()
    assert copies(redis_client) == {}
    assert_agrees(other, redis_client)
    off = make(project="")
    off.feast.look()
    assert copies(redis_client, "media") == {}
    assert {key for key in keys_by_scan(redis_client) if not key.startswith(f"{NAMESPACE}:emb:")} == set()
    assert_no_remains(off, redis_client)


def test_the_configured_project_is_that_of_the_store_and_of_the_one_beside(redis_client: redis.Redis) -> None:
    settings = Settings.model_validate({"publish": {"feast": PROJECT}, "redis": {"namespace": NAMESPACE}})
    store = generation_store(settings, redis_client, epoch=1)
    publish(store, 1)
    store.beside(redis_client).refresh(1, side(["u1"], 5))
    assert_agrees(store, redis_client)
    assert len(copies(redis_client)) == 70


def test_keys_are_counted(make: MakeStore, redis_client: redis.Redis) -> None:
    store = make()
    publish(store, 1, users=range(3), items=range(3))
    own = sum(key.startswith(NAMESPACE.encode()) for key in redis_client.scan_iter())
    assert sum(store.count_keys().values()) == own


def test_a_worker_that_was_replaced_copies_nothing(make: MakeStore, redis_client: redis.Redis) -> None:
    old = make()
    publish(old, 1)
    new = make(epoch=2)
    publish(new, 2)
    with pytest.raises(StaleWorkerError):
        old.feast.follow()
    with pytest.raises(StaleWorkerError):
        old.feast.gone("user", ["u1"])
    assert_agrees(new, redis_client)


def test_a_generation_of_another_form_has_no_copies_and_that_is_told(
    make: MakeStore, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    publish(make(project="", vectors="int8"), 1)
    store = make()
    publish(store, 2)
    assert caplog.records == []
    assert store.rollback() == 1
    assert copies(redis_client) == {}
    assert "generation 1 is not written as float32, so Feast has none of its vectors" in caplog.text


def test_without_rights_on_the_keys_of_feast_the_rest_goes_on(
    make: MakeStore,
    redis_client: redis.Redis,
    user_url: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rule = acl_rule(WRITER, NAMESPACE, channel=f"{NAMESPACE}:emb:events")
    with contextlib.closing(connect(user_url(rule))) as client:
        store = make(client=client)
        publish(store, 1)
        store.refresh(1, side(["u1"], 5))
        assert len(served(redis_client)) == 70
        assert [one.levelno for one in caplog.records] == [logging.WARNING]
        assert f"the ACL rule ~*{PROJECT} gives the right" in caplog.text
    with contextlib.closing(connect(user_url(f"{rule} ~*{PROJECT}"))) as client:
        store = make(client=client)
        store.feast.look()
        assert_agrees(store, redis_client)


def test_the_memory_of_copies_is_known_before(make: MakeStore, redis_client: redis.Redis) -> None:
    users, items = (
        Vectors(
            [f"{kind}{n:010}" for n in range(2_000)], np.ones((2_000, 64), np.float32), np.full(2_000, 10**12)
        )
        for kind in "ui"
    )
    make(project="").publish(1, users, items, {})
    before = redis_client.info("memory")["used_memory"]
    store = make()
    store.feast.look()
    taken = redis_client.info("memory")["used_memory"] - before
    assert 0.9 < taken / memory.copies_bytes(users, items) < 1.1
    store.feast.project = ""
    store.feast.look()
    needed = sum(memory.generation_bytes(users, items, "float32", "float32"))
    redis_client.config_set("maxmemory", int(redis_client.info("memory")["used_memory"] + 1.2 * needed))
    with pytest.raises(RedisFullError, match="generation 2 needs about"):
        make().publish(2, users, items, {})


def test_a_namespace_of_a_cluster_is_refused(redis_client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="feast needs a namespace without braces"):
        GenerationStore(redis_client, namespace="{shop}", epoch=1, feast=PROJECT)


def test_the_hash_is_murmur3() -> None:
    """The published test values of MurmurHash3_x86_32 with seed 0."""
    assert murmur3(b"") == 0
    assert murmur3(b"test") == 0xBA6BD213
    assert murmur3(b"Hello, world!") == 0xC0363E43
    assert murmur3(b"The quick brown fox jumps over the lazy dog") == 0x2E4FF723


def test_an_erasure_while_all_are_copied_leaves_nobody_else_out(
    make: MakeStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shortens the list of ids that is being read."""
    monkeypatch.setattr(feast, "IDS_AT_ONCE", 7)
    publish(make(project=""), 1)
    store, other, run_many = make(), make(project=""), Scripts.run_many
    left = ids_of("u", range(30))

    def copied(self: Scripts, *args: Any) -> None:
        run_many(self, *args)
        if self is store._calls and left:
            other.erase([left.pop(0)])

    monkeypatch.setattr(Scripts, "run_many", copied)
    store.feast.follow()
    assert len(served(redis_client)) < 70
    assert_agrees(store, redis_client)


def test_what_is_not_served_yet_is_not_copied(make: MakeStore, redis_client: redis.Redis) -> None:
    store, seen = make(), list[Copies]()
    publish(store, 1)

    @contextlib.contextmanager
    def refresh() -> Iterator[None]:
        store.refresh(2, side(["u1"], 9))
        seen.append(copies(redis_client))
        yield

    store.publish(2, side(ids_of("u", range(5)), 2), side(["i1"], 2), {}, at_switch=refresh)
    assert {number for _, number in seen[0].values()} == {1}
    assert_agrees(store, redis_client)


def test_a_refresh_for_a_project_that_has_no_copies_yet_waits_for_the_look(
    make: MakeStore, redis_client: redis.Redis
) -> None:
    publish(make(), 1)
    other = make(project="media")
    other.refresh(1, side(["u1"], 9))
    assert copies(redis_client, "media") == {}, "nobody would know of it"
    other.feast.look()
    assert_agrees(other, redis_client)
