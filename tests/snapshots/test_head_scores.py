"""Probabilities of a reader: the sum that the manifest and the hashes hold, of one generation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import redis

from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from tests.readers import MakeReader
from tests.services_redis import publish

RNG = np.random.default_rng(3)
USER = RNG.standard_normal((3, 8)).astype(np.float32)
ITEM = RNG.standard_normal((5, 8)).astype(np.float32)
OF_USER = RNG.standard_normal((3, 2)).astype(np.float32)
OF_ITEM = RNG.standard_normal((5, 2)).astype(np.float32)
HEAD: dict[str, Any] = {"relations": ["click", "buy"], "base": [-1.0, -3.0], "dot": [0.3, 0.6]}


def publish_heads(store: GenerationStore, number: int, *, shift: float = 0.0, head: Any = HEAD) -> None:
    ids, none = [f"u{n}" for n in range(3)], np.zeros
    users = Vectors(ids, USER, none(3, np.int64), [[]] * 3, heads=OF_USER + np.float32(shift))
    items = Vectors([f"i{n}" for n in range(5)], ITEM, none(5, np.int64), heads=OF_ITEM)
    store.publish(number, users, items, {} if head is None else {"head": json.dumps(head)})


def plain(user: int | None, item: int | None, behavior: int) -> float:
    logit = HEAD["base"][behavior]
    logit += 0 if user is None else float(OF_USER[user, behavior])
    logit += 0 if item is None else float(OF_ITEM[item, behavior])
    if user is not None and item is not None:
        logit += HEAD["dot"][behavior] * float(USER[user, :-1] @ ITEM[item, :-1])
    return float(1 / (1 + np.exp(-logit)))


def test_probabilities_are_the_sum_of_what_was_published(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    """Known and unknown users and items; the last channels of the vectors have no part in it."""
    publish_heads(store, 1)
    reader = make_reader(redis_client)
    for user in (0, 1, 2, None):
        found = reader.scores("nobody" if user is None else f"u{user}", ["i4", "nothing", "i0"])
        assert (found.generation, found.source, found.user_found) == (1, "heads", user is not None)
        assert found.items_found.tolist() == [True, False, True]
        for b, behavior in enumerate(("click", "buy")):
            expected = [plain(user, item, b) for item in (4, None, 0)]
            assert found.by_behavior[behavior].tolist() == pytest.approx(expected, rel=1e-5)
    assert reader.scores("u0", []).by_behavior["click"].tolist() == []


def test_one_round_trip_answers(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader, round_trips: list[int]
) -> None:
    publish_heads(store, 1)
    reader = make_reader(redis_client)
    reader.current()
    round_trips.clear()
    reader.scores("u0", ["i0", "i1"])
    assert round_trips == [1 + 1 + 2 + 1], "current, user, items, manifest"


def test_a_switch_changes_all_of_it_and_a_rollback_changes_it_back(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish_heads(store, 1)
    reader = make_reader(redis_client)
    first = reader.scores("u0", ["i0"])
    publish_heads(store, 2, shift=1.0, head={**HEAD, "base": [0.0, 0.0]})
    second = reader.scores("u0", ["i0"])
    assert second.generation == 2
    odds = [p.by_behavior["click"][0] / (1 - p.by_behavior["click"][0]) for p in (first, second)]
    assert odds[1] / odds[0] == pytest.approx(np.exp(2.0), rel=1e-5), "of the base, and of the user"
    store.rollback()
    assert reader.scores("u0", ["i0"]).by_behavior["click"][0] == first.by_behavior["click"][0]


def test_a_refresh_renews_the_number_of_a_user_and_keeps_those_of_items(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish_heads(store, 1)
    reader = make_reader(redis_client)
    one = np.zeros(1, np.int64)
    store.refresh(1, Vectors(["u0", "new"], USER[[1, 2]], np.repeat(one, 2), [[], []], heads=OF_USER[[1, 2]]))
    for name, row in (("u0", 1), ("new", 2), ("u1", 1)):
        found = reader.scores(name, ["i3"]).by_behavior["click"][0]
        assert found == pytest.approx(plain(row, 3, 0), rel=1e-5)


def test_a_generation_without_heads_says_so(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    reader = make_reader(redis_client)
    nothing = reader.scores("u1", ["i1", "i2"])
    assert (nothing.generation, nothing.source, nothing.by_behavior) == (0, "none", {})
    publish(store, 1)
    off = reader.scores("u1", ["i1", "none"])
    assert (off.generation, off.source, off.by_behavior, off.user_found) == (1, "off", {}, True)
    assert off.items_found.tolist() == [True, False]


def test_numbers_that_are_not_finite_are_not_published(store: GenerationStore) -> None:
    items = Vectors(["i0"], ITEM[:1], np.zeros(1, np.int64), heads=np.array([[np.nan, 0]], np.float32))
    users = Vectors(["u0"], USER[:1], np.zeros(1, np.int64), [[]], heads=OF_USER[:1])
    with pytest.raises(ValueError, match="the heads' numbers of items must be finite"):
        store.publish(1, users, items, {})
    assert store.generations() == []


def test_erasing_a_user_leaves_nothing_of_its_number(
    store: GenerationStore, redis_client: redis.Redis, make_reader: MakeReader
) -> None:
    publish_heads(store, 1)
    store.erase(["u0"])
    found = make_reader(redis_client).scores("u0", ["i0"])
    assert not found.user_found
    assert found.by_behavior["click"][0] == pytest.approx(plain(None, 0, 0), rel=1e-5)
