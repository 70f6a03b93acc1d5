"""Peers that count: decayed popularity, and the user's own items, with popularity behind (UserDecay).

Both are as of each event, from strictly earlier events. Each is independent of the product's code.
"""

from __future__ import annotations

import numpy as np

from benchmarks.offline_evaluation.prequential import Index, Stream
from driftgraph.stream.arrays import F64, I64
from driftgraph.stream.kernels.compile import plain_kernel

DAY_MS = 86_400_000
RESCALED_AT = 2.0**500  # weights grow with time instead of all counts shrinking
OWN_MAX = 1_000  # newest events of a user that count as own


@plain_kernel
def _advance(
    item: I64, time_ms: I64, place: int, before_ms: int, origin_ms: float, half_life_ms: float, count: F64
) -> tuple[int, float]:
    """Count the events from ``place`` on that are strictly before a time, by weights of the origin."""
    while place < len(time_ms) and time_ms[place] < before_ms:
        weight = 2.0 ** ((time_ms[place] - origin_ms) / half_life_ms)
        if weight > RESCALED_AT:
            count /= weight
            origin_ms, weight = float(time_ms[place]), 1.0
        count[item[place]] += weight
        place += 1
    return place, origin_ms


class Popularity:
    """Events of an item, decayed by a half-life. The scale of the scores has no meaning."""

    def __init__(self, stream: Stream, half_life_ms: float) -> None:
        self._stream = stream
        self._half_life_ms = half_life_ms
        self._place, self._origin_ms = 0, float(stream.time_ms[0]) if len(stream) else 0.0
        self._count = np.zeros(len(stream.item_ids))

    def retrain(self, until_ms: int) -> None:
        """Nothing is frozen."""

    def score(self, user: int, before_ms: int, out: F64) -> None:  # noqa: ARG002  # the same for all users
        """The counts."""
        out[:] = self.counts(before_ms)

    def counts(self, before_ms: int) -> F64:
        """[I] the counts, which the next call changes."""
        self._place, self._origin_ms = _advance(
            self._stream.item, self._stream.time_ms, self._place, before_ms,
            self._origin_ms, self._half_life_ms, self._count,
        )  # fmt: skip
        return self._count


@plain_kernel
def add_own(index: Index, user: int, before_ms: int, half_life_ms: float, weight_B: F64, out: F64) -> None:
    """Add the user's own items: each of his events with the weight of its behavior, decayed."""
    begin = index.user_start[user]
    end = begin + np.searchsorted(index.user_time[begin : index.user_start[user + 1]], before_ms)
    for e in range(max(begin, end - OWN_MAX), end):
        age_ms = before_ms - index.user_time[e]
        out[index.user_item[e]] += weight_B[index.user_behavior[e]] * 2.0 ** (-age_ms / half_life_ms)


class UserDecay:
    """The user's own items, decayed and weighted by behavior; behind them all others by popularity.

    With ``rare_counts_more`` a behavior weighs by the inverse root of its share before the window.
    """

    def __init__(
        self,
        stream: Stream,
        index: Index,
        half_life_ms: float,
        popularity_half_life_ms: float,
        *,
        rare_counts_more: bool,
    ) -> None:
        self._stream, self._index, self._half_life_ms = stream, index, half_life_ms
        self._popularity = Popularity(stream, popularity_half_life_ms)
        self._rare_counts_more = rare_counts_more
        self._weight_B = np.ones(len(stream.behaviors))

    def retrain(self, until_ms: int) -> None:
        """Weigh the behaviors anew."""
        if self._rare_counts_more:
            end = int(np.searchsorted(self._stream.time_ms, until_ms))
            count = np.bincount(self._stream.behavior[:end], minlength=len(self._weight_B))
            self._weight_B = np.sqrt(max(end, 1) / np.maximum(count, 1))

    def own(self, user: int, before_ms: int, out: F64) -> None:
        """The own items alone, zero for all others."""
        out[:] = 0
        add_own(self._index, user, before_ms, self._half_life_ms, self._weight_B, out)

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """Own items first: the smallest of their scores is above every other item's."""
        self.own(user, before_ms, out)
        count = self._popularity.counts(before_ms)
        own = out > 0
        least = out[own].min() if own.any() else 1.0
        out += count * (0.5 * least / max(count.max(), 1e-300))
