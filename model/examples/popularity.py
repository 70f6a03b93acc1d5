"""Popularity as of a moment, and from it what a batch's candidates are and how likely each was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.window.writer import Events

PRIOR_COUNT = 0.1  # an item without an event counts as a tenth of one


class Popularity:
    """Events of each item, each worth half as much after a half-life; for several half-lives at once.

    Always true: ``count`` [F, rows] holds exactly the events strictly before ``time_ms``, decayed to it.
    """

    def __init__(self, half_lives_ms: Sequence[float], rows: int) -> None:
        if min(half_lives_ms) <= 0:
            raise ValueError(f"a half-life must be positive, got {list(half_lives_ms)} ms")
        self.half_lives_ms = tuple(half_lives_ms)
        self.count: F64 = np.zeros((len(half_lives_ms), rows))
        self.time_ms = 0
        self._next = 0

    def advance(self, events: Events, time_ms: int) -> None:
        """Go on to ``time_ms``; ``events`` are the same, sorted by time, at every call. Going back raises."""
        if time_ms < self.time_ms:
            raise ValueError(f"popularity is at {self.time_ms} ms and cannot go back to {time_ms} ms")
        stop = int(np.searchsorted(events.time_ms, time_ms, side="left"))
        item, age_ms = events.item[self._next : stop], time_ms - events.time_ms[self._next : stop]
        rows = self.count.shape[1]
        for f, half_life_ms in enumerate(self.half_lives_ms):
            self.count[f] *= 2.0 ** ((self.time_ms - time_ms) / half_life_ms)
            if len(item):
                self.count[f] += np.bincount(item, np.exp2(-age_ms / half_life_ms), minlength=rows)
        self.time_ms, self._next = time_ms, stop

    def go_on(self, item: U32, event_ms: I64, time_ms: int) -> None:
        """Count further events, in any order, and go on to ``time_ms`` if that is later."""
        time_ms = max(time_ms, self.time_ms)
        more = int(item.max(initial=0)) + 1 - self.count.shape[1]
        self.count = np.pad(self.count, ((0, 0), (0, max(0, more))))
        age_ms, rows = np.maximum(time_ms - event_ms, 0), self.count.shape[1]
        for f, half_life_ms in enumerate(self.half_lives_ms):
            self.count[f] *= 2.0 ** ((self.time_ms - time_ms) / half_life_ms)
            self.count[f] += np.bincount(item, np.exp2(-age_ms / half_life_ms), minlength=rows)
        self.time_ms = time_ms

    def features(self, items: U32 | I64) -> F32:
        """[n, F]: the log of each item's share against an equal share, so that 0 is average."""
        rows = max(self.count.shape[1], 1)
        total_F1 = self.count.sum(axis=1, keepdims=True) + PRIOR_COUNT * rows
        share_Fn = (self.count[:, items] + PRIOR_COUNT) / total_F1
        features: F32 = np.log(share_Fn * rows).T.astype(np.float32)
        return features

    def share(self, items: U32 | I64) -> F64:
        """[n]: the probability that the next event is of each item, by the slowest half-life."""
        rows = max(self.count.shape[1], 1)
        share: F64 = (self.count[-1, items] + PRIOR_COUNT) / (self.count[-1].sum() + PRIOR_COUNT * rows)
        return share


def candidates(
    positives: U32, pool: U32, share: F64, *, drawn: int, rng: np.random.Generator, listed: U32 | None = None
) -> tuple[I64, F32]:
    """The distinct candidates of a batch, ascending, and the log probability that each is among them.

    Args:
        positives: [B] items of the batch's examples; all become candidates.
        pool: Items that further negatives are drawn from, uniformly.
        share: [rows] probability of each item to be an example's, as known before the batch.
        drawn: How many to draw from the pool, without replacement.
        rng: The only source of chance here.
        listed: Items of the pool that half of the draws are from.

    An item is a candidate if it is one of B examples' or one of the drawn: 1 − (1 − p)^B (1 − drawn / pool),
    times as much for the draws of ``listed``.
    """
    hard = pool[:0] if listed is None else listed
    of_lists = min(drawn // 2, len(hard))
    draws = [(pool, min(drawn - of_lists, len(pool))), (hard, of_lists)]
    extra = [rng.choice(own, count, replace=False) for own, count in draws if count]
    chosen = np.unique(np.concatenate([positives, *extra]).astype(np.int64))
    missed = np.exp(len(positives) * np.log1p(-np.minimum(share[chosen], 0.999)))
    for own, count in draws:
        if count:
            pooled = np.zeros(len(share), np.bool_)
            pooled[own] = True
            missed = np.where(pooled[chosen], missed * (1 - count / len(own)), missed)
    return chosen, np.log(np.maximum(1 - missed, 1e-9)).astype(np.float32)
