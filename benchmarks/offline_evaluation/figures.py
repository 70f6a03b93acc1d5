"""From ranks to figures: metrics of every scorer, paired differences to ours, and slices.

Targets, ranks by scorer ──► [set_figures] ──► metrics, intervals by user, slices ──► quality.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.offline_evaluation.prequential import Stream, Targets, gains_of, metrics_of, paired_intervals
from benchmarks.report import Figures
from driftgraph.stream.arrays import F64, I64, Index, Mask

METRICS = ("recall_at_20", "ndcg_at_20", "mrr_at_20")
HEAD_SHARE = 0.5  # the head are the fewest items that made this share of the events before the window
OURS = "driftgraph"


def set_figures(ours: Sequence[F64], peers: Mapping[str, F64], targets: Targets, *, seed: int) -> Figures:
    """Metrics of all scorers on the targets of one set, and what ours is ahead of each peer.

    Args:
        ours: [T] ranks of each seed; nan where that seed did not rank the target. Empty: not measured.
        peers: [T] ranks by peer.
        targets: T of them.
        seed: Of the resampling.
    """
    figures: Figures = {name: metrics_of(rank) for name, rank in peers.items()}
    asked = [np.flatnonzero(~np.isnan(rank)) for rank in ours]
    if not sum(map(len, asked)):
        return {OURS: None, **figures}
    pooled = np.concatenate(asked)
    gains = gains_of(np.concatenate([rank[at] for rank, at in zip(ours, asked, strict=True)]))
    by_seed = [metrics_of(rank[at]) for rank, at in zip(ours, asked, strict=True)]
    own = dict(zip(METRICS, gains.mean(0).tolist(), strict=True))
    spread = {name: float(np.std([one[name] for one in by_seed])) for name in METRICS}
    theirs = np.stack([gains_of(rank[pooled]) for rank in peers.values()])
    for column, metric in enumerate(METRICS):
        intervals = paired_intervals(gains[:, column], theirs[:, :, column], targets.user[pooled], seed=seed)
        for place, name in enumerate(peers):
            difference = float(gains[:, column].mean() - theirs[place, :, column].mean())
            figures[name][f"{metric}_behind"] = difference
            figures[name][f"{metric}_behind_95"] = intervals[place].tolist()
    return {OURS: {**own, "targets": len(pooled), "spread_over_seeds": spread}, **figures}


def slices_of(stream: Stream, targets: Targets) -> dict[str, Mask]:
    """[T] masks by name. What a slice knows of an event is known before it, or at its window's start."""
    first_item, first_user = (_first_ms(number, stream) for number in (stream.item, stream.user))
    head = np.zeros(len(targets), np.bool_)
    for window_ms in np.unique(targets.window_ms).tolist():
        inside = targets.window_ms == window_ms
        head[inside] = np.isin(targets.item[inside], _head(stream, window_ms))
    pair = stream.user * len(stream.item_ids) + stream.item
    order = np.unique(pair, return_index=True)
    own = targets.user * len(stream.item_ids) + targets.item
    touched = stream.time_ms[order[1]][np.searchsorted(order[0], own)] < targets.time_ms
    masks = {
        "head": head,
        "tail": ~head,
        "new user": first_user[targets.user] >= targets.time_ms,
        "item new in the window": first_item[targets.item] >= targets.window_ms,
        "repeat": touched,
        "first contact": ~touched,
    }
    for number, name in enumerate(stream.behaviors):
        of_behavior = targets.behavior == number
        masks[name] = of_behavior
        masks[f"{name}, touched before"] = of_behavior & touched
        masks[f"{name}, never touched"] = of_behavior & ~touched
    return {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}


def sliced(ours: Sequence[F64], peers: Mapping[str, F64], masks: Mapping[str, Mask]) -> Figures:
    """Metrics of every scorer by slice, with the number of targets."""
    rows: Figures = {}
    for name, mask in masks.items():
        own = np.concatenate([rank[mask & ~np.isnan(rank)] for rank in ours]) if ours else np.zeros(0)
        rows[name] = {"targets": int(mask.sum()), OURS: metrics_of(own) if len(own) else None}
        rows[name].update({peer: metrics_of(rank[mask]) for peer, rank in peers.items()})
    return rows


def _first_ms(number: I64, stream: Stream) -> I64:
    found = np.full(int(number.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(found, number, stream.time_ms)
    return found


def _head(stream: Stream, before_ms: int) -> Index:
    end = int(np.searchsorted(stream.time_ms, before_ms))
    count = np.bincount(stream.item[:end], minlength=len(stream.item_ids))
    order = np.argsort(-count, kind="stable")
    if end == 0:
        return order[:0]
    return order[: int(np.searchsorted(np.cumsum(count[order]), HEAD_SHARE * end)) + 1]
