"""Our reader beside Feast's and RedisVL's, on the same vectors in the same run.

    publish_reads.py ──► [beside_feast, beside_redisvl] ──► Feast in a process of its own, RedisVL in this one

Short turns of the two alternate. A ratio is the median over the turns, above 1 where our reader is faster.
Rates are those of the best tenth of the turns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import runpy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from benchmarks.feature_stores.feast_client import MISSING, PYTHON, FeastClient
from benchmarks.feature_stores.search_module import search_module
from benchmarks.report import Figures
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots import EmbeddingReader, connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors

CALLS: Final = 20  # in a turn
NO_SEARCH: Final = "no RedisVL or no module search: pip install 'driftgraph[bench]' brings both"
T = TypeVar("T")
EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "redisvl_search.py"


def beside_feast(
    url: str, reader: EmbeddingReader, ids: list[str], *, project: str, batch: int, turns: int
) -> Figures:
    """Vectors of users a second, one by one and in batches: ``users`` and ``get_online_features``."""
    if not PYTHON.exists():
        return {"missing": MISSING}
    figures: Figures = {}
    with FeastClient(url, project) as feast:
        for name, size in (("one_by_one", 1), ("in_batches", batch)):

            def ours(some: list[str], size: int = size) -> float:
                return _seconds(reader.users, [some[n : n + size] for n in range(0, len(some), size)])

            def theirs(some: list[str], size: int = size) -> float:
                return float(np.mean(feast.ask(time="user", ids=some, batch=size, turns=CALLS)))

            seconds = np.empty((turns, 2))
            for turn in range(turns):
                first = turn * size * CALLS % (len(ids) - size * CALLS)
                some = ids[first : first + size * CALLS]
                seconds[turn] = ours(some), theirs(some)
            figures[name] = _compared(seconds / size, "feast")
    return figures


def beside_redisvl(users: Vectors, items: Vectors, *, top: int, turns: int) -> Figures:
    """Recommendations a second, ranked by vectors without lists: of the reader and of the example."""
    module = search_module()
    if module is None or importlib.util.find_spec("redisvl") is None:
        return {"missing": NO_SEARCH}
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    with (
        EmbeddedRedis(settings=["--loadmodule", str(module)]) as server,
        contextlib.closing(connect(server.url)) as client,
    ):
        GenerationStore(client, namespace="shop", epoch=1).publish(1, users, items, {})
        reader = EmbeddingReader(client, namespace="shop")
        index = example["index_of"](client, "shop", 1, users.vectors.shape[1], "float32")
        query = example["VectorQuery"]
        seconds = np.empty((turns, 3))
        for turn in range(turns):
            ids = [users.ids[(turn * CALLS + n) % len(users)] for n in range(CALLS)]
            vectors = [row.tobytes() for row in users.vectors[:CALLS]]
            seconds[turn] = (
                _seconds(lambda user: reader.recommend(user, top), ids),
                _seconds(lambda user: example["best"](client, "shop", user, top), ids),
                _seconds(lambda vector: index.query(query(vector, "embedding", num_results=top)), vectors),
            )
    return {**_compared(seconds[:, :2], "redisvl"), "redisvl_query_alone_per_s": _rate(seconds[:, 2])}


def _seconds(call: Callable[[T], object], given: Sequence[T]) -> float:
    """Of a call, the mean over what is given."""
    begun = time.perf_counter()
    for one in given:
        call(one)
    return (time.perf_counter() - begun) / len(given)


def _compared(seconds: np.ndarray, peer: str) -> Figures:
    """``seconds`` are [turns, 2], ours and the peer's."""
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return {
        "reader_per_s": _rate(seconds[:, 0]),
        f"{peer}_per_s": _rate(seconds[:, 1]),
        "ratio": round(ratio, 2),
    }


def _rate(seconds: np.ndarray) -> int:
    return round(1 / float(np.quantile(seconds, 0.1)))
