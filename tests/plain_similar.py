"""The plainest possible user-kNN: dictionaries over a ``PlainWindow``."""

from __future__ import annotations

import math

import numpy as np

from driftgraph.stream.arrays import F64
from driftgraph.stream.walks.similar_users import Shape
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import LOOKS
from driftgraph.stream.window.writer import Cut
from tests.plain_window import PlainWindow


def newest(plain: PlainWindow, side: int, node: int, before_ms: int, k: int, cut: Cut) -> list[int]:
    """The k newest distinct neighbors of one node."""
    asked = np.array([node], np.uint32), np.array([before_ms])
    found = plain.distinct_union(side, *asked, k, cut, LOOKS)
    rows: list[int] = found.neighbor_BK[0, : found.count_B[0]].tolist()
    return rows


def plain_similar(
    plain: PlainWindow, user: int, before_ms: int, cut: Cut, shape: Shape, weights: tuple[F64, F64]
) -> tuple[dict[int, float], int]:
    """The sums of one target by item, and how many users were left out."""
    history = newest(plain, USER, user, before_ms, shape.history, cut)
    similarity: dict[int, float] = {}
    for place, item in enumerate(history):
        weight = weights[0][place] * (weights[1][item] if item < len(weights[1]) else 1)
        for visitor in newest(plain, ITEM, item, before_ms, shape.visitors, cut):
            if visitor != user:
                similarity[visitor] = similarity.get(visitor, 0) + weight
    best = set(sorted(similarity, key=lambda v: -similarity[v])[: shape.neighbors])  # sorted is stable
    total: dict[int, float] = {}
    for visitor in [v for v in similarity if v in best]:
        items = newest(plain, USER, visitor, before_ms, shape.items, cut)
        for item in [i for i in items if i not in history]:
            total[item] = total.get(item, 0) + similarity[visitor] / math.sqrt(len(items))
    return total, len(similarity) - len(best)
