"""How vectors are written: what each form keeps, and what readers and refreshes make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.snapshots.generations import memory
from driftgraph.snapshots.generations.keys import Keys, RedisFullError, StoreError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vector_forms import FLOAT32, Form, bytes_of, decoded, encoded
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services_redis import NAMESPACE, assert_serves_only, keys_by_scan, publish

FORMS: list[Form] = ["float32", "float16", "int8"]
BOUNDS = {"float32": 0.0, "float16": 2**-11, "int8": 0.5 / 127}  # of the largest component


@given(
    st.lists(st.lists(st.floats(-1_000, 1_000, width=32), min_size=5, max_size=5), max_size=8),
    st.sampled_from(FORMS),
)
def test_each_form_keeps_its_precision(rows: list[list[float]], form: Form) -> None:
    vectors = np.array(rows, np.float32).reshape(-1, 5)
    blobs = encoded(vectors, form)
    assert {len(blob) for blob in blobs} <= {bytes_of(form, 5)}
    back = decoded(blobs, form, 5)
    assert back.dtype == np.float32
    assert back.shape == vectors.shape
    if len(vectors):
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        assert (np.abs(back - vectors) <= BOUNDS[form] * largest * 1.001 + 1e-7).all()


def test_a_form_of_a_later_version_is_refused(store: GenerationStore, redis_client: redis.Redis) -> None:
    publish(store, 1)
    redis_client.hset(Keys(NAMESPACE).of(1, "manifest"), "vectors", "int4")
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    for read in (lambda: reader.users(["u1"]), lambda: reader.recommend("u1")):
        with pytest.raises(StoreError, match="'int4', which this version of driftgraph cannot read; update"):
            read()


def random_side(prefix: str, count: int, dim: int = 16) -> Vectors:
    rng = np.random.default_rng(count)
    ids = [f"{prefix}{n}" for n in range(count)]
    return Vectors(ids, rng.standard_normal((count, dim), dtype=np.float32), np.zeros(count, np.int64))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_reader_decodes_by_the_manifest(redis_client: redis.Redis, form: Form, *, cached: bool) -> None:
    """Lookups, rankings by vector set and by catalog; then a refresh by another configuration."""
    users, items = random_side("u", 20), random_side("i", 300)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, vectors=form)
    store.publish(1, users, items, {})
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE, cache_items=cached)
    kept = decoded(encoded(users.vectors, form), form, 16)
    assert np.array_equal(reader.users(users.ids)[0], kept)
    kept_items = decoded(encoded(items.vectors, form), form, 16)
    scores = kept_items @ kept[3]
    best = np.argsort(-scores, kind="stable")[:10]
    found = reader.recommend("u3", 10)
    assert [i for i, _ in found.items] == [items.ids[n] for n in best]
    np.testing.assert_allclose([score for _, score in found.items], scores[best], rtol=1e-5)

    other = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, vectors="float32")
    moved = random_side("u", 19)
    other.refresh(1, moved)
    assert np.array_equal(reader.users(moved.ids)[0], decoded(encoded(moved.vectors, form), form, 16))


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_probabilities_are_of_the_decoded_vectors(redis_client: redis.Redis, form: Form) -> None:
    """As those of the same vectors decoded and written as float32."""
    users, items = random_side("u", 2), random_side("i", 40)
    head: dict[str, str | int | float] = {"head": '{"relations": ["click"], "base": [-1.0], "dot": [0.5]}'}
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    found = []
    forms: list[tuple[int, Form]] = [(1, form), (2, "float32")]
    for number, vectors in forms:
        store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, vectors=vectors)
        if vectors == FLOAT32:
            users, items = (
                replace(side, vectors=decoded(encoded(side.vectors, form), form, 16))
                for side in (users, items)
            )
        store.publish(number, users, items, head)
        found.append(reader.scores("u1", items.ids).by_behavior["click"])
    assert len({*found[0].tolist()}) > 30
    assert np.array_equal(found[0], found[1])


def test_what_float16_cannot_hold_is_refused_before_anything_is_written(redis_client: redis.Redis) -> None:
    users, items = random_side("u", 3), random_side("i", 3)
    items.vectors[1, 2] = 70_000
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, vectors="float16")
    with pytest.raises(ValueError, match=r"item vectors have a component beyond 65504, .* publish\.vectors"):
        store.publish(1, users, items, {})
    assert keys_by_scan(redis_client) == set()


# --- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "form", "lists"), [(32, "float32", 0), (64, "int8", 0), (128, "float16", 100)]
)
def test_the_memory_of_a_generation_is_known_before_it_is_written(
    redis_client: redis.Redis, dim: int, form: Form, lists: int
) -> None:
    """Within 15 % of what the real server takes more."""
    listed = (
        [(b'["item-12345"' + b',"item-12345"' * lists + b"]", bytes(4 * lists))] * 6_000 if lists else None
    )
    users = random_side("user-", 6_000, dim)
    users = Vectors(users.ids, users.vectors, users.event_ms, lists=listed)
    items = random_side("item-", 4_000, dim)
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, vectors=form)
    before = redis_client.info("memory")["used_memory"]
    store.publish(1, users, items, {})
    took = redis_client.info("memory")["used_memory"] - before
    expected = sum(memory.generation_bytes(users, items, form, "float32"))
    assert 0.85 < expected / took < 1.15, (expected, took)


def test_a_publish_that_would_not_fit_is_refused_with_numbers(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    before = keys_by_scan(redis_client)
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] + 400_000)
    says = (
        r"generation 2 needs about \d+(\.\d+)? MB in Redis at .*, which has \d{3} kB left of its maxmemory of"
    )
    with pytest.raises(RedisFullError, match=says):
        publish(store, 2, users=20_000)
    assert keys_by_scan(redis_client) == before
    assert_serves_only(redis_client, 1)
    redis_client.config_set("maxmemory", 0)
