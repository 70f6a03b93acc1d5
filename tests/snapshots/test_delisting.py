"""Items that an operator takes out: of every generation, list and search, also of those that come later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from driftgraph.snapshots.generations import delisting
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.delisting import DelistError, ForgottenError
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Listed, Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services_redis import DIM, ITEMS, NAMESPACE, USERS, assert_no_remains

GONE = ["i3", 'i"7', "i:8 {x}"]
NAMES = [*ITEMS[:10], *GONE[1:]]


def listed(ids: list[str]) -> Listed:
    return msgspec.json.encode(ids), np.arange(len(ids), 0, -1, dtype="<f4").tobytes()


def side(ids: list[str], number: int, rng: np.random.Generator) -> Vectors:
    lists = [listed(rng.permutation(NAMES)[: rng.integers(0, 8)].tolist()) for _ in ids]
    times = np.arange(len(ids), dtype=np.int64) + 1_783_000_000_000
    return Vectors(ids, np.full((len(ids), DIM), number, np.float32), times, None, lists)


def publish(store: GenerationStore, number: int) -> None:
    rng = np.random.default_rng(number)
    facts: dict[str, str | int | float] = {"lists": 8, "similar": 8}
    store.publish(number, side(USERS, number, rng), side(NAMES, number, rng), facts)


def contents(client: redis.Redis, without: list[str] = []) -> dict[str, Any]:  # noqa: B006
    """Everything about items in every generation, and the plain way to leave some out."""
    found: dict[str, Any] = {}
    for key in sorted(client.scan_iter(f"{NAMESPACE}:emb:*", count=10_000)):
        kind = key.decode().split(":", 3)[-1]
        if kind.startswith(("user:", "item:")):
            if kind.removeprefix("item:") in without:
                continue
            fields: Any = client.hgetall(key)
            for ids, scores in (("list", "list_scores"), ("similar", "similar_scores")):
                if ids.encode() in fields:
                    pairs = zip(
                        msgspec.json.decode(fields[ids.encode()], type=list[str]),
                        np.frombuffer(fields[scores.encode()], "<f4").tolist(),
                        strict=True,
                    )
                    fields[ids.encode()] = [pair for pair in pairs if pair[0] not in without]
                    del fields[scores.encode()]
            found[key.decode()] = fields
        elif kind == "item-ids":
            raw: Any = client.lrange(key, 0, -1)
            found[key.decode()] = [i for i in raw if i.decode() not in without]
        elif kind == "items":
            found[key.decode()] = client.execute_command("VCARD", key) - len(without)  # type: ignore[no-untyped-call]
    return found


def delist(store: GenerationStore, items: list[str]) -> int:
    store.delisting.change(items, "SADD")
    return store.delisting.remove(items)


def test_delisted_items_leave_every_generation_and_nothing_else_changes(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    for number in (1, 2):
        publish(store, number)
    store.trending.replace({"click": {"i1": 2.0, "i3": 1.0}})
    wanted = contents(redis_client, GONE)
    assert delist(store, GONE) > 0
    assert contents(redis_client) == wanted
    assert store.standing(2) is Standing.SERVED
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    assert not reader.items(GONE)[1].any()
    assert [i for i, _ in reader.trending("click")] == ["i1"]
    store.trending.replace({"click": {"i1": 2.0, "i3": 1.0}})
    assert [i for i, _ in reader.trending("click")] == ["i1"]
    assert delist(store, GONE) == 0, "again it changes nothing"
    assert contents(redis_client) == wanted
    assert store.rollback() == 1
    assert not reader.items(GONE)[1].any(), "the target of a rollback has none of them"
    redis_client.delete(f"{NAMESPACE}:trending", f"{NAMESPACE}:trending:click")
    assert_no_remains_but_the_set(store, redis_client)


def test_a_generation_that_goes_while_its_lists_are_mended_holds_nothing_up(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delisting, "LISTS_PER_LOOK", 100)
    monkeypatch.setattr(delisting, "LISTS_AT_ONCE", 100)
    for number in (1, 2):
        publish(store, number)
    store.delisting.change(GONE, "SADD")
    store.delisting.look()  # the newest generation's are not through
    redis_client.hdel(f"{NAMESPACE}:emb:1:manifest", "status", "token")
    assert store.clean_up() == 1
    for _ in range(3):
        store.delisting.look()
    number, _ = store.delisting.newest()
    assert redis_client.hget(f"{NAMESPACE}:emb:2:manifest", delisting.FIELD) == str(number).encode()


def assert_no_remains_but_the_set(store: GenerationStore, client: redis.Redis) -> None:
    client.delete(f"{NAMESPACE}:delisted")
    assert_no_remains(store, client)


def test_what_is_published_and_refreshed_later_has_none_of_them_until_they_are_listed_again(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    before = contents(redis_client)
    delist(store, GONE)
    publish(store, 2)
    store.refresh(2, side(USERS[:20], 2, np.random.default_rng(5)))
    found = contents(redis_client)
    assert not any(key.endswith(f":item:{item}") for key in found for item in GONE)
    for fields in (f for f in found.values() if isinstance(f, dict)):
        assert not {i for i, _ in [*fields.get(b"list", []), *fields.get(b"similar", [])]} & set(GONE)
    store.delisting.change(GONE, "SREM")
    publish(store, 3)
    again = {key: fields for key, fields in contents(redis_client).items() if ":3:" in key}
    assert len(again) == len(before), "as a publish was before"


def test_the_worker_finishes_what_a_killed_command_began_a_part_at_a_time(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        publish(store, number)
    wanted = contents(redis_client, GONE)
    store.delisting.change(GONE, "SADD")  # and then it was killed
    monkeypatch.setattr(delisting, "LISTS_PER_LOOK", 30)
    monkeypatch.setattr(delisting, "LISTS_AT_ONCE", 10)
    worker = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    looks = 0
    while contents(redis_client) != wanted:
        worker.delisting.look()
        looks += 1
        assert looks < 40
        store.erase([USERS[looks]])
        wanted = {key: value for key, value in wanted.items() if not key.endswith(f":user:{USERS[looks]}")}
    assert looks > 4
    for _ in range(12):
        worker.delisting.look()
    calls = 0
    run = Scripts.run_many

    def counted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        run(*args)

    monkeypatch.setattr(Scripts, "run_many", counted)
    worker.delisting.look()
    assert calls == 0, "what agrees is not looked at again"


@pytest.mark.parametrize("is_listed_again", [False, True])
def test_a_redis_that_forgets_has_it_again_from_the_file_of_the_worker(
    is_listed_again: bool, store: GenerationStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    store.delisting.keep_in(tmp_path / "delisted.json")
    publish(store, 1)
    delist(store, GONE)
    store.delisting.look()
    if is_listed_again:
        store.delisting.change(GONE[:1], "SREM")
        store.delisting.look()
    redis_client.flushall()
    other = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)  # a start after it
    other.delisting.keep_in(tmp_path / "delisted.json")
    other.delisting.look()
    left = set(GONE[1:] if is_listed_again else GONE)
    assert other.delisting.newest()[1] == left
    publish(other, 1)
    assert not EmbeddingReader(redis_client, namespace=NAMESPACE).items(sorted(left))[1].any()


def test_a_damaged_file_and_too_many_items_are_told(
    store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.delisting.change(["a"], "SADD")
    (tmp_path / "delisted.json").write_text("{")
    store.delisting.keep_in(tmp_path / "delisted.json")
    store.delisting.look()
    assert "cannot be read, so Redis alone says" in caplog.text
    assert msgspec.json.decode((tmp_path / "delisted.json").read_bytes())[1] == ["a"]
    monkeypatch.setattr(delisting, "DELISTED_MAX", 2)
    with pytest.raises(DelistError, match="1 items are delisted, and at most 2 can be"):
        store.delisting.change(["b", "c"], "SADD")


def test_an_item_is_out_while_the_command_or_the_topic_has_it(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    """Random acts of both, held against two plain sets; every reader, publish and refresh follows."""
    rng, by_command, by_topic = np.random.default_rng(7), set[str](), set[str]()
    publish(store, 1)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    for number in range(2, 22):
        items = rng.permutation(NAMES)[: rng.integers(1, 4)].tolist()
        is_topic, more = bool(rng.integers(2)), bool(rng.integers(3))
        own = by_topic if is_topic else by_command
        if not more and not is_topic and by_topic.intersection(items):
            with pytest.raises(DelistError, match="delisted by the topic of delisted items"):
                store.delisting.change(items, "SREM")
        else:
            store.delisting.change(items, "SADD" if more else "SREM", by_topic=is_topic)
            own.update(items) if more else own.difference_update(items)
        found = store.delisting.found()
        assert (set(found.by_command), set(found.by_topic)) == (by_command, by_topic)
        assert store.delisting.newest()[1] == by_command | by_topic
        listed_now = {item for one in reader.recommend(USERS, 8) for item, _ in one.items}
        assert not listed_now & (by_command | by_topic), "before anything was removed"
        store.trending.replace({"click": dict.fromkeys(NAMES, 1.0)})
        assert {i for i, _ in reader.trending("click", 99)} == set(NAMES) - by_command - by_topic
        publish(store, number)
        assert [i for i in NAMES if not reader.items([i])[1][0]] == [
            i for i in NAMES if i in by_command | by_topic
        ]


def test_a_change_by_a_topic_waits_until_what_redis_forgot_is_restored(
    store: GenerationStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    store.delisting.keep_in(tmp_path / "delisted.json")
    store.delisting.change(["a"], "SADD")
    store.delisting.change(["b"], "SADD", by_topic=True)
    store.delisting.look()
    redis_client.flushall()
    with pytest.raises(ForgottenError):
        store.delisting.change(["c"], "SADD", by_topic=True)
    assert store.delisting.newest()[1] == set(), "else the newer number would hide that the set is gone"
    store.delisting.restored()
    store.delisting.change(["c"], "SADD", by_topic=True)
    found = store.delisting.found()
    assert (set(found.by_command), set(found.by_topic)) == ({"a"}, {"b", "c"})


def test_changes_that_never_end_hold_up_no_list(
    store: GenerationStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic may delist an item each second; a pass over all lists takes longer than that."""
    publish(store, 1)
    wanted = contents(redis_client, GONE)
    monkeypatch.setattr(delisting, "LISTS_PER_LOOK", 30)
    monkeypatch.setattr(delisting, "LISTS_AT_ONCE", 10)
    store.delisting.change(GONE, "SADD", by_topic=True)
    for n in range(12):
        store.delisting.change([f"other-{n}"], "SADD", by_topic=True)
        store.delisting.look()
    assert contents(redis_client) == wanted
    assert store.delisting.look() == frozenset()
    store.delisting.change(["other-3"], "SREM", by_topic=True)
    assert store.delisting.look() == {"other-3"}
