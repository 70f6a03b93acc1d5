"""The peers of the quality benchmark by name, with six settings each, one of which the tuning span chooses.

    PEERS[name].settings ──► tune, each on the same targets ──► PEERS[name].make(…) ──► scored span

The peers that build on another's choice (UserDecay and the blend need a half-life) are tuned after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.offline_evaluation.peers.counting import DAY_MS, Popularity, UserDecay
from benchmarks.offline_evaluation.peers.factors import Ease, Ials
from benchmarks.offline_evaluation.peers.sequences import CoVisitation, ItemKNN, Stan
from benchmarks.offline_evaluation.prequential import Index, Scorer, Stream
from driftgraph.stream.arrays import F64

Settings = Mapping[str, Any]
Chosen = Mapping[str, Settings]  # by peer
FACTORS = 64  # as many numbers as the product gives a vector


class Prepared:
    """A stream with the indexes that peers share."""

    def __init__(self, stream: Stream, seed: int = 0) -> None:
        self.stream, self.seed = stream, seed
        self.eases: dict[float, Ease] = {}  # by ridge: EASE and the blend share what a window's inverse costs

    @cached_property
    def all(self) -> Index:
        """Every event."""
        return self.stream.indexed()

    @cached_property
    def once(self) -> Index:
        """First contacts."""
        return self.stream.indexed(self.stream.first_contacts())

    @cached_property
    def changes(self) -> Index:
        """Without the events that repeat the item of their user's event before."""
        return self.stream.indexed(self.stream.changes())


class Blend:
    """own weight · UserDecay + EASE + popularity weight · popularity, each over its largest score."""

    def __init__(
        self, own: UserDecay, ease: Ease, popularity: Popularity, own_weight: float, popularity_weight: float
    ) -> None:
        self._own, self._ease, self._popularity = own, ease, popularity
        self._weights = (own_weight, popularity_weight)
        self._part = np.zeros(0)

    def retrain(self, until_ms: int) -> None:
        """Of the parts."""
        self._own.retrain(until_ms)
        self._ease.retrain(until_ms)

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """The sum; what EASE cannot tell has nothing from it."""
        if len(self._part) != len(out):
            self._part = np.zeros(len(out))
        self._ease.score(user, before_ms, out)
        out[np.isneginf(out)] = 0
        _scale(out, 1.0)
        self._own.own(user, before_ms, self._part)
        out += _scale(self._part, self._weights[0])
        self._part[:] = self._popularity.counts(before_ms)
        out += _scale(self._part, self._weights[1])


def _scale(part: F64, weight: float) -> F64:
    part *= weight / max(part.max(initial=0), 1e-300)
    return part


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is made from its settings and from what was chosen for the peers before it."""

    settings: Sequence[Settings]
    make: Callable[[Prepared, Settings, Chosen], Scorer]
    after: tuple[str, ...] = ()  # the peers whose choice it builds on


def _user_decay(data: Prepared, settings: Settings, chosen: Chosen) -> UserDecay:
    return UserDecay(
        data.stream, data.all, settings["half_life_days"] * DAY_MS,
        chosen["popularity"]["half_life_days"] * DAY_MS, rare_counts_more=settings["rare_counts_more"],
    )  # fmt: skip


def _popularity(data: Prepared, settings: Settings) -> Popularity:
    return Popularity(data.stream, settings["half_life_days"] * DAY_MS)


def _ease(data: Prepared, settings: Settings) -> Ease:
    ridge = settings["ridge"]
    if ridge not in data.eases:
        data.eases[ridge] = Ease(data.stream, data.all, ridge)
    return data.eases[ridge]


def _ials(data: Prepared, settings: Settings, *, is_partial: bool) -> Ials:
    return Ials(data.stream, data.all, factors=FACTORS, seed=data.seed, is_partial=is_partial, **settings)


def _blend(data: Prepared, settings: Settings, chosen: Chosen) -> Blend:
    return Blend(
        _user_decay(data, chosen["user_decay"], chosen), _ease(data, chosen["ease"]),
        _popularity(data, chosen["popularity"]), settings["own"], settings["popularity"],
    )  # fmt: skip


def _grid(**values: Sequence[Any]) -> list[Settings]:
    """Every combination of two lists of values."""
    (first, firsts), (second, seconds) = values.items()
    return [{first: a, second: b} for a in firsts for b in seconds]


PEERS: dict[str, Peer] = {
    "popularity": Peer(
        [{"half_life_days": days} for days in (0.04, 0.15, 0.5, 1.5, 5, 20)],
        lambda data, settings, _: _popularity(data, settings),
    ),
    "user_decay": Peer(
        _grid(half_life_days=(1, 3, 10), rare_counts_more=(False, True)), _user_decay, ("popularity",)
    ),
    "co_visitation": Peer(
        _grid(power=(0.5, 0.25), lag_max=(3, 10, 20)),
        lambda data, settings, _: CoVisitation(data.changes, history=20, **settings),
    ),
    "item_knn": Peer(
        _grid(power=(0.1, 0.25, 0.5), decay=(0.8, 1.0)),
        lambda data, settings, _: ItemKNN(data.all, data.once, **settings),
    ),
    "session_knn": Peer(
        _grid(neighbors=(100, 500, 2_000), age_scale_ms=(5 * DAY_MS, 30 * DAY_MS)),
        lambda data, settings, _: Stan(data.changes, len(data.stream.user_ids), **settings),
    ),
    "ease": Peer(
        [{"ridge": ridge} for ridge in (20, 100, 500, 2_000, 8_000, 30_000)],
        lambda data, s, _: _ease(data, s),
    ),
    "ials": Peer(
        _grid(alpha=(1, 5, 20), decay=(0.8, 1.0)),
        lambda data, settings, _: _ials(data, settings, is_partial=False),
    ),
    # a tuning span is one window, in which both are the same
    "ials_partial_fit": Peer(
        [{}], lambda data, _, chosen: _ials(data, chosen["ials"], is_partial=True), ("ials",)
    ),
    "blend": Peer(
        _grid(own=(0.5, 2), popularity=(0.05, 0.3, 1.5)), _blend, ("user_decay", "ease", "popularity")
    ),
}
