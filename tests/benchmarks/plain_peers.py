"""The peers as their formulas say them: loops over lists of events, nothing shared and nothing fast."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.offline_evaluation.prequential import Stream, stream_of
from driftgraph.stream.arrays import F64

DAY_MS = 86_400_000


def tiny_stream(seed: int, *, events: int = 260, users: int = 14, items: int = 11) -> Stream:
    """Random events in three behaviors over six days; many share a time, and users repeat items."""
    rng = np.random.default_rng(seed)
    time_ms = np.sort(rng.integers(0, 60, events)) * DAY_MS // 10 + DAY_MS
    user, item = rng.integers(0, users, events), rng.integers(0, items, events)
    names = [f"u{n}" for n in user], [f"i{n}" for n in item]
    return stream_of(*names, [("click", "buy", "fav")[n] for n in rng.integers(0, 3, events)], time_ms)


class Plain:
    """A stream as lists, cut before a time."""

    def __init__(self, stream: Stream, before_ms: int) -> None:
        columns = (stream.user, stream.item, stream.behavior, stream.time_ms)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self.events = [row for row in rows if row[3] < before_ms]
        self.before_ms, self.items, self.users = before_ms, len(stream.item_ids), len(stream.user_ids)

    def zeros(self) -> F64:
        return np.zeros(self.items)

    def sequence(self, user: int) -> list[tuple[int, int]]:
        """(item, time) of a user, without events that repeat the item before."""
        kept: list[tuple[int, int]] = []
        for u, item, _, time_ms in self.events:
            if u == user and (not kept or kept[-1][0] != item):
                kept.append((item, time_ms))
        return kept

    def newest_distinct(self, user: int, most: int) -> list[int]:
        found: list[int] = []
        for u, item, _, _ in reversed(self.events):
            if u == user and item not in found:
                found.append(item)
        return found[:most]

    def touched(self, user: int) -> list[int]:
        """Distinct items, the first contact first."""
        return list(dict.fromkeys(item for u, item, _, _ in self.events if u == user))

    def matrix(self) -> F64:
        matrix = np.zeros((self.users, self.items))
        for user, item, _, _ in self.events:
            matrix[user, item] = 1
        return matrix


def popularity(plain: Plain, half_life_ms: float) -> F64:
    out = plain.zeros()
    for _, item, _, time_ms in plain.events:
        out[item] += 2 ** ((time_ms - plain.before_ms) / half_life_ms)
    return out


def own(plain: Plain, user: int, half_life_ms: float, weights: list[float]) -> F64:
    out = plain.zeros()
    for u, item, behavior, time_ms in plain.events:
        if u == user:
            out[item] += weights[behavior] * 2 ** ((time_ms - plain.before_ms) / half_life_ms)
    return out


def co_visitation(plain: Plain, user: int, *, history: int, lag_max: int, power: float) -> F64:
    degree, out = plain.zeros(), plain.zeros()
    sequences = [[item for item, _ in plain.sequence(v)] for v in range(plain.users)]
    for sequence in sequences:
        for item in sequence:
            degree[item] += 1
    for place, j in enumerate(plain.newest_distinct(user, history)):
        for sequence in sequences:
            for x, visited in enumerate(sequence):
                for y, item in enumerate(sequence):
                    if visited == j and item != j and 0 < abs(y - x) <= lag_max:
                        near = (1.0 if y > x else 0.5) / abs(y - x)
                        out[item] += near / (1 + place) * degree[j] ** -power * degree[item] ** -power
    return out


def item_knn(plain: Plain, user: int, *, decay: float, power: float, history: int) -> F64:
    matrix, out = plain.matrix(), plain.zeros()
    degree, lengths = matrix.sum(0), matrix.sum(1)
    for place, j in enumerate(plain.newest_distinct(user, history)):
        for v in range(plain.users):
            for i in range(plain.items):
                if i != j and matrix[v, i] and matrix[v, j]:
                    out[i] += decay**place * (degree[i] * degree[j]) ** -power / math.sqrt(lengths[v])
    return out


def stan(
    plain: Plain,
    user: int,
    *,
    neighbors: int,
    history: int,
    age_scale_ms: float,
    place_scale: float,
    near_scale: float,
) -> F64:
    recent = plain.newest_distinct(user, history)
    similar: list[tuple[float, int, int]] = []
    for v in range(plain.users):
        sequence = plain.sequence(v)
        shared = [k for k, j in enumerate(recent) if any(item == j for item, _ in sequence)]
        if v == user or not shared:
            continue
        match = max(x for x, (item, _) in enumerate(sequence) if item == recent[shared[0]])
        weight = sum(math.exp(-k / place_scale) for k in shared) / math.sqrt(len(recent) * len(sequence))
        similar.append((weight * math.exp(-(plain.before_ms - sequence[match][1]) / age_scale_ms), v, match))
    out = plain.zeros()
    for weight, v, match in sorted(similar, reverse=True)[:neighbors]:
        for x, (item, _) in enumerate(plain.sequence(v)):
            out[item] += weight * math.exp(-abs(x - match) / near_scale)
    return out


def ease(plain: Plain, row: F64, ridge: float, chosen: list[int] | None = None) -> F64:
    """x B; −inf for items that are not chosen."""
    chosen = list(range(plain.items)) if chosen is None else chosen
    matrix = plain.matrix()[:, chosen]
    inverse = np.linalg.inv(matrix.T @ matrix + ridge * np.eye(len(chosen)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    out = np.full(plain.items, -np.inf)
    out[chosen] = row[chosen] @ weights
    return out
