"""Peers that look at whom a user shares items with: co-visitation, item-kNN and a session-kNN (STAN).

They keep no state: each score is computed from the users' sequences as they were strictly before a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.offline_evaluation.prequential import Index
from driftgraph.stream.arrays import F64, I64
from driftgraph.stream.kernels.compile import plain_kernel

BACKWARD = 0.5  # what was visited before an item counts half of what was visited after it
NEIGHBOR_ITEMS_MAX = 100  # newest items of another user that item-kNN counts
SESSION_ITEMS_MAX = 50  # of another user's sequence, the newest
VISITS_MAX = 1_000  # newest visits of an item in which STAN looks for neighbors


@plain_kernel
def _before(time_ms: I64, begin: int, end: int, before_ms: int) -> int:
    """The place behind the last event of [begin, end) that is strictly before a time."""
    while begin < end:
        middle = (begin + end) // 2
        if time_ms[middle] < before_ms:
            begin = middle + 1
        else:
            end = middle
    return begin


@plain_kernel
def newest_distinct(index: Index, user: int, before_ms: int, found: I64) -> int:
    """Write the user's newest distinct items, the newest first; return how many."""
    begin, count = index.user_start[user], 0
    e = _before(index.user_time, begin, index.user_start[user + 1], before_ms) - 1
    while e >= begin and count < len(found):
        item, known = index.user_item[e], False
        for k in range(count):
            known = known or found[k] == item
        if not known:
            found[count] = item
            count += 1
        e -= 1
    return count


@plain_kernel
def _divide_by_degree(index: Index, before_ms: int, power: float, out: F64) -> None:
    for i in range(len(out)):
        if out[i] > 0:
            degree = (
                _before(index.item_time, index.item_start[i], index.item_start[i + 1], before_ms)
                - index.item_start[i]
            )
            out[i] *= float(max(degree, 1)) ** -power


@plain_kernel
def _co_visits(
    index: Index, user: int, before_ms: int, lag_max: int, power: float, recent: I64, out: F64
) -> None:
    for k in range(newest_distinct(index, user, before_ms, recent)):
        j, begin = recent[k], index.item_start[recent[k]]
        end = _before(index.item_time, begin, index.item_start[j + 1], before_ms)
        weight = float(end - begin) ** -power / (1 + k)
        for e in range(begin, end):
            v, place = index.item_user[e], index.item_place[e]
            for lag in range(1, lag_max + 1):
                after, before = place + lag, place - lag
                if (
                    after < index.user_start[v + 1]
                    and index.user_time[after] < before_ms
                    and index.user_item[after] != j
                ):
                    out[index.user_item[after]] += weight / lag
                if before >= index.user_start[v] and index.user_item[before] != j:
                    out[index.user_item[before]] += BACKWARD * weight / lag
    _divide_by_degree(index, before_ms, power, out)


class CoVisitation:
    """Items visited near the user's newest items by anybody, 1 / lag, divided by both degrees to a power.

    ``index`` has no event whose item is that of the user's event before.
    """

    def __init__(self, index: Index, *, history: int, lag_max: int, power: float) -> None:
        self._index, self._lag_max, self._power = index, lag_max, power
        self._recent = np.zeros(history, np.int64)

    def retrain(self, until_ms: int) -> None:
        """Nothing is frozen."""

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """Zero for what is not near."""
        out[:] = 0
        _co_visits(self._index, user, before_ms, self._lag_max, self._power, self._recent, out)


@plain_kernel
def _neighbors(
    index: Index, once: Index, user: int, before_ms: int, decay: float, power: float, recent: I64, out: F64
) -> None:
    for k in range(newest_distinct(index, user, before_ms, recent)):
        j, begin = recent[k], once.item_start[recent[k]]
        end = _before(once.item_time, begin, once.item_start[j + 1], before_ms)
        weight = decay**k * float(end - begin) ** -power
        for e in range(begin, end):
            v = once.item_user[e]
            first = once.user_start[v]
            last = _before(once.user_time, first, once.user_start[v + 1], before_ms)
            share = weight / np.sqrt(last - first)
            for x in range(max(first, last - NEIGHBOR_ITEMS_MAX), last):
                if once.user_item[x] != j:
                    out[once.user_item[x]] += share
    _divide_by_degree(once, before_ms, power, out)


class ItemKNN:
    """Items of the same users as the user's 20 newest, which count by ``decay`` to the power of their place.

    Each user is one vote a pair, divided by the root of how many items he has; both items' degrees count to
    ``power``. ``once`` has the first contacts alone.
    """

    def __init__(self, index: Index, once: Index, *, decay: float, power: float, history: int = 20) -> None:
        self._index, self._once, self._decay, self._power = index, once, decay, power
        self._recent = np.zeros(history, np.int64)

    def retrain(self, until_ms: int) -> None:
        """Nothing is frozen."""

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """Zero for what no user has in common."""
        out[:] = 0
        _neighbors(self._index, self._once, user, before_ms, self._decay, self._power, self._recent, out)


class Scratch(NamedTuple):
    """Per user: similarity, place of the newest shared item (−1: none), the last item that was counted."""

    similarity: F64
    match: I64
    counted: I64
    found: I64


@plain_kernel
def _find_neighbors(
    index: Index,
    user: int,
    before_ms: int,
    place_scale: float,
    age_scale_ms: float,
    recent: I64,
    scratch: Scratch,
) -> int:
    """Fill the scratch of everybody who shares an item with the user; return how many are found."""
    similarity, match, counted, found = scratch
    count, length = 0, newest_distinct(index, user, before_ms, recent)
    for k in range(length):
        begin = index.item_start[recent[k]]
        end = _before(index.item_time, begin, index.item_start[recent[k] + 1], before_ms)
        for e in range(end - 1, max(begin, end - VISITS_MAX) - 1, -1):
            v = index.item_user[e]
            if v == user or (match[v] >= 0 and counted[v] == k):
                continue
            if match[v] < 0:
                match[v] = index.item_place[e]
                found[count] = v
                count += 1
            counted[v] = k
            similarity[v] += np.exp(-k / place_scale)
    for v in found[:count]:
        begin = index.user_start[v]
        own = _before(index.user_time, begin, index.user_start[v + 1], before_ms) - begin
        age_ms = before_ms - index.user_time[match[v]]
        similarity[v] *= np.exp(-age_ms / age_scale_ms) / np.sqrt(float(length) * min(own, SESSION_ITEMS_MAX))
    return count


@plain_kernel
def _stan(
    index: Index, user: int, before_ms: int, neighbors: int, scales: tuple[float, float, float],
    recent: I64, scratch: Scratch, out: F64,
) -> None:  # fmt: skip
    similarity, match, _, found = scratch
    count = _find_neighbors(index, user, before_ms, scales[0], scales[1], recent, scratch)
    least = 0.0
    if count > neighbors:
        least = np.sort(similarity[found[:count]])[count - neighbors]
    for v in found[:count]:
        if similarity[v] >= least:
            begin = index.user_start[v]
            end = _before(index.user_time, begin, index.user_start[v + 1], before_ms)
            for e in range(max(begin, end - SESSION_ITEMS_MAX), end):
                out[index.user_item[e]] += similarity[v] * np.exp(-abs(e - match[v]) / scales[2])
        similarity[v], match[v] = 0.0, -1


class Stan:
    """Session-kNN with decay by place, age and nearness; a user's whole sequence is one session.

    Similarity of two users: the shared items among the user's newest, each exp(−place / place_scale), over
    the root of both lengths, times exp(−age of the neighbor's newest shared item / age_scale_ms). An item of
    one of the most similar ``neighbors`` counts by exp(−distance to the shared item / near_scale).

    Source: Garg et al., "Sequence and Time Aware Neighborhood for Session-based Recommendations", SIGIR 2019.
    """

    def __init__(
        self, index: Index, users: int, *, neighbors: int, age_scale_ms: float,
        place_scale: float = 5.0, near_scale: float = 5.0, history: int = 20,
    ) -> None:  # fmt: skip
        self._index, self._neighbors = index, neighbors
        self._scales = (place_scale, age_scale_ms, near_scale)
        self._recent = np.zeros(history, np.int64)
        zeros = (np.zeros(users, np.int64) for _ in range(2))
        self._scratch = Scratch(np.zeros(users), np.full(users, -1), *zeros)

    def retrain(self, until_ms: int) -> None:
        """Nothing is frozen."""

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """Zero for what no neighbor has."""
        out[:] = 0
        _stan(self._index, user, before_ms, self._neighbors, self._scales, self._recent, self._scratch, out)
