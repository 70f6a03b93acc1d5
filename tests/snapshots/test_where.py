"""Conditions on attributes: the same answer from lists, a vector set, a catalog, and the plainest code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from driftgraph.snapshots.generations.keys import StoreError, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import NO_LIST, ItemAttributes, Vectors
from driftgraph.snapshots.reading.where import Where, key_of, token_of, where_of
from driftgraph.stream.attributes.fields import number_of, tokens_of
from driftgraph.stream.events import Strings
from tests.readers import MakeReader

RNG = np.random.default_rng(21)
COUNT, DIM, TOP = 300, 8, 6
ITEM = RNG.standard_normal((COUNT, DIM)).astype(np.float32)
USER = RNG.standard_normal((12, DIM)).astype(np.float32)
SORTS = ["shoes", "Boots & more", "帽子", ""]
TAGS = ["red", "warm", "two words"]
SORT = [SORTS[n] for n in RNG.integers(0, 4, COUNT)]
TAGGED = [[t for t in TAGS if RNG.integers(2)] for _ in range(COUNT)]
PRICE = [None if n == 0 else float(np.float32(n / 10 - 2)) for n in RNG.integers(0, 60, COUNT)]
SAID = ItemAttributes(
    ("sort", "tags", "price"),
    [
        msgspec.json.encode(
            ({key_of("sort"): [token_of(SORT[n])]} if SORT[n] else {})
            | ({key_of("tags"): sorted(map(token_of, TAGGED[n]))} if TAGGED[n] else {})
            | ({} if PRICE[n] is None else {key_of("price"): PRICE[n]})
        )
        if SORT[n] or TAGGED[n] or PRICE[n] is not None
        else b""
        for n in range(COUNT)
    ],
)
LISTS = [RNG.permutation(COUNT)[:40].tolist() if n % 2 else None for n in range(len(USER))]


def publish(store: GenerationStore, said: ItemAttributes | None = SAID) -> None:
    lists = [
        NO_LIST
        if one is None
        else (msgspec.json.encode([f"i{n}" for n in one]), np.arange(40, 0, -1, dtype="<f4").tobytes())
        for one in LISTS
    ]
    users = Vectors([f"u{n}" for n in range(len(USER))], USER, np.arange(len(USER)), None, lists)
    items = Vectors([f"i{n}" for n in range(COUNT)], ITEM, np.arange(COUNT), attributes=said)
    store.publish(store.next_number(), users, items, {"lists": 40})


def may_come(n: int, where: dict[str, Any]) -> bool:
    """By the values themselves: no token, no JSON."""
    for name, value in where.items():
        texts = [value] if isinstance(value, str) else value
        if name == "price":
            low, high = (
                (-np.inf if value[0] is None else value[0]),
                (np.inf if value[1] is None else value[1]),
            )
            price = PRICE[n]
            if price is None or not np.float32(low) <= price <= np.float32(high):
                return False
        elif not set(texts) & ({SORT[n]} if name == "sort" else set(TAGGED[n])):
            return False
    return True


def by_hand(user: int, where: dict[str, Any]) -> list[str]:
    listed = [n for n in LISTS[user] or () if may_come(n, where)]
    if len(listed) < TOP:
        order = np.argsort(-(ITEM.astype(np.float64) @ USER[user].astype(np.float64))).tolist()
        listed = [n for n in order if may_come(n, where)]
    return [f"i{n}" for n in listed][:TOP]


def some_where(rng: np.random.Generator) -> dict[str, Any]:
    where: dict[str, Any] = {}
    if rng.integers(2):
        where["sort"] = [str(rng.choice(SORTS[:3])), tuple(SORTS[:2]), ["nobody has it"]][rng.integers(3)]
    if rng.integers(2):
        where["tags"] = str(rng.choice(TAGS))
    if rng.integers(2) or not where:
        low, high = sorted((rng.integers(0, 60, 2) / 10 - 2).tolist())
        where["price"] = [(low, high), (None, high), (low, None), (None, None)][rng.integers(4)]
    return where


@pytest.mark.parametrize("ranked_by", ["vector set", "graph", "catalog", "no vector sets"])
def test_every_way_answers_as_the_plainest_code(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader, ranked_by: str
) -> None:
    publish(store)
    manifest = "shop:emb:1:manifest"
    if ranked_by == "no vector sets":
        redis_client.hset(manifest, "index", "none")
    elif ranked_by == "graph" and redis_client.hget(manifest, "index") != b"none":  # as on Valkey
        redis_client.hset(manifest, "index", "graph")
    reader = make_reader(redis_client, cache_items=ranked_by == "catalog")
    rng, users = np.random.default_rng(4), [f"u{n}" for n in range(len(USER))]
    for _ in range(25):
        where = some_where(rng)
        wanted = [by_hand(n, where) for n in range(len(USER))]
        found = reader.recommend(users, TOP, where=where)
        assert [[i for i, _ in one.items] for one in found] == wanted, where
        one = reader.recommend("u1", TOP, where=where, exclude=wanted[1][:1])
        assert not {i for i, _ in one.items} - {f"i{n}" for n in range(COUNT) if may_come(n, where)}
        assert wanted[1][:1] not in [[i] for i, _ in one.items]


def test_a_user_without_the_right_to_vector_sets_gets_the_same_answers(
    redis_client: redis.Redis, user_url: Callable[[str], str], make_reader: MakeReader
) -> None:
    url = user_url("~* &* +@all -vadd -vcard -vrem -vsim")
    with contextlib.closing(connect(url)) as client:
        publish(GenerationStore(client, namespace="shop", epoch=1))
        assert redis_client.hget("shop:emb:1:manifest", "index") == b"none"
        reader, rng = make_reader(client), np.random.default_rng(8)
        for _ in range(10):
            where = some_where(rng)
            found = reader.recommend([f"u{n}" for n in range(len(USER))], TOP, where=where)
            assert [[i for i, _ in one.items] for one in found] == [
                by_hand(n, where) for n in range(len(USER))
            ]


def test_a_refresh_brings_attributes_and_a_delisted_item_none(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store)
    only = {"sort": "new sort"}
    reader = make_reader(redis_client)
    assert not reader.recommend("u0", TOP, where=only).items
    said = ItemAttributes(SAID.names, [msgspec.json.encode({key_of("sort"): [token_of("new sort")]})] * 2)
    store.refreshes.items(1, Vectors(["i5", "new"], ITEM[:2], np.arange(2), attributes=said))
    reader = make_reader(redis_client)  # without vector sets a reader keeps the items that it has read
    assert {i for i, _ in reader.recommend("u0", TOP, where=only).items} == {"i5", "new"}
    store.delisting.change(["i5"], "SADD")
    assert [i for i, _ in reader.recommend("u0", TOP, where=only).items] == ["new"]
    publish(store)
    assert len(SAID.rows) == COUNT
    assert reader.recommend("u0", TOP, where={"sort": "shoes"}).items
    other = ItemAttributes(("another",), said.rows)
    store.refreshes.items(2, Vectors(["i6", "i7"], ITEM[:2], np.arange(2), attributes=other))
    kept = redis_client.hget("shop:emb:2:item:i7", "attributes")
    assert kept == SAID.rows[7], "of a process with other fields"


def test_a_condition_that_cannot_be_asked_is_refused(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    reader = make_reader(redis_client)
    assert reader.recommend("u0", TOP, where={"sort": "shoes"}).source == "none"
    publish(store)
    with pytest.raises(
        StoreError, match="has no attribute 'colour' of items to choose by, but 'sort', 'tags'"
    ):
        reader.recommend("u0", TOP, where={"colour": "red"})
    for bad in (3, (1, 2, 3), (), ("a", 1), (float("nan"), None), None):
        with pytest.raises(
            ValueError, match="where\\['price'\\] must be a text, several texts, or two numbers"
        ):
            reader.recommend("u0", TOP, where={"price": bad})  # type: ignore[dict-item]
    publish(store, None)
    with pytest.raises(StoreError, match="to choose by, but none"):
        reader.recommend("u0", TOP, where={"sort": "shoes"})


def test_unknown_users_get_what_rises_in_the_category(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish(store)
    store.trending.replace({"click": {f"i{n}": float(COUNT - n) for n in range(100)}})
    found = make_reader(redis_client).recommend("nobody", TOP, where={"sort": "shoes"})
    assert found.source == "trending"
    assert [i for i, _ in found.items] == [f"i{n}" for n in range(100) if SORT[n] == "shoes"][:TOP]


def test_tokens_are_those_of_the_stream() -> None:
    rng = np.random.default_rng(5)
    alphabet = list("abcXYZ 019-_é帽子😀")
    texts = ["".join(rng.choice(alphabet, rng.integers(1, 40))).strip() or "a" for _ in range(500)]
    tokens, _ = tokens_of("category", Strings.of(texts))
    assert [token_of(text) for text in texts] == tokens[:, 0].tolist()
    numbers, _ = tokens_of("number", Strings.of(["19.99"]))
    own = msgspec.json.encode({key_of("price"): float(number_of(numbers[0])[0])})
    assert Where({"price": (19.99, 19.99)}).fits(own), "the bound is rounded as the value is"
    assert not Where({"price": (20, None)}).fits(own)
    assert Where({"price": (None, 1e300)}).fits(own)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"sort": "shoes", "price": [null, 50]}', {"sort": "shoes", "price": (None, 50)}),
        ('{"tags": ["red", "warm"], "price": [-1.5, 2e1]}', {"tags": ["red", "warm"], "price": (-1.5, 20)}),
        ("{}", {}),
    ],
)  # fmt: skip
def test_where_as_json_means_what_it_means_in_python(text: str, wanted: dict[str, Any]) -> None:
    found = Where(where_of(text))
    assert (found.names, found.expression()) == (tuple(wanted), Where(wanted).expression())
    assert [found.fits(one) for one in SAID.rows] == [may_come(n, wanted) for n in range(COUNT)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sort=shoes", "where must be a JSON object such as"),
        ('["shoes"]', "where must be a JSON object such as"),
        ('{"sort": {"is": "shoes"}}', "where must be a JSON object such as"),
        ('{"price": 5}', "where must be a JSON object such as"),
        ("", "got ''"),
        ('{"price": [1' + "0" * 400 + ", null]}", "0…"),
        ('{"sort": ' + "[" * 100_000, "where must be a JSON object such as"),
        ('{"sort": "\udce9"}', "where must be a JSON object such as"),
        ('{"price": [1, 2, 3]}', "where\\['price'\\] must be a text, several texts, or two numbers"),
        ('{"price": ["a", 1]}', "where\\['price'\\] must be a text, several texts, or two numbers"),
        ('{"sort": []}', "where\\['sort'\\] must be a text, several texts, or two numbers"),
    ],
)  # fmt: skip
def test_where_that_cannot_be_read_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        where_of(text)
    assert len(str(error.value)) < 400
