"""The scorers of an evaluation, as people read of them: the model, the parts of its score, the baselines.

metrics by scorer ──► [measured, best_baseline] ──► one line a cycle, table of a replay, picture of the demo
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

METRIC: Final = "recall_at_20"  # the metric in tables and lines; --json has all metrics
METRIC_TITLE: Final = "Recall@20"
BASELINES: Final = {
    "co_visitation": "co-visitation",
    "recent_popularity": "recent popularity",
    "frozen_first": "frozen first",
    "started_anew": "started anew",
}
PARTS: Final = {  # of the model's score: own items where they may be repeated, the last two with attributes
    "vectors": "vectors",
    "bank": "popularity",
    "paths": "paths",
    "similar_users": "similar users",
    "own": "own items",
    "taste": "tastes",
    "attribute_paths": "attribute paths",
}


def measured(metrics: Mapping[str, Mapping[str, float | None]], scorer: str) -> float | None:
    """A scorer's value; None if it is not there, or of no event."""
    value = (metrics.get(scorer) or {}).get(METRIC)
    return value if value is not None and math.isfinite(value) else None


def best_baseline(metrics: Mapping[str, Mapping[str, float | None]]) -> tuple[str, float] | None:
    """The title and the value of the strongest baseline; None if none was measured."""
    found = [
        (title, value)
        for scorer, title in BASELINES.items()
        if (value := measured(metrics, scorer)) is not None
    ]
    return max(found, key=lambda one: one[1]) if found else None


def gain_of(metrics: Mapping[str, Mapping[str, float | None]], event_count: int) -> dict[str, Any] | None:
    """What the model adds to the best baseline, in events of ``event_count`` that are in the 20 best.

    ``beyond_chance`` says whether the difference is more than 1.96 standard errors. Both rank the same
    events, so the variance of the difference is at most the sum of both counts: McNemar, "Note on the
    sampling error of the difference between correlated proportions", 1947, where no event is in both.
    """
    model, best = measured(metrics, "model"), best_baseline(metrics)
    if model is None or best is None or not event_count:
        return None
    ours, theirs = round(model * event_count), round(best[1] * event_count)
    return {
        "baseline": best[0],
        "model_events": ours,
        "baseline_events": theirs,
        "beyond_chance": abs(ours - theirs) > 1.96 * math.sqrt(ours + theirs),
    }


def shares_text(shares: Mapping[str, float | None]) -> str:
    """``paths 52 %, vectors 30 %, popularity 18 %``: the largest first; empty if nothing is known."""
    known = [
        (title, share)
        for part, title in PARTS.items()
        if (share := shares.get(part)) and math.isfinite(share)
    ]
    known.sort(key=lambda one: -one[1])
    return ", ".join(f"{title} {percent(share)}" for title, share in known)


def percent(share: float | None) -> str:
    """``52 %``; empty for no number."""
    return "" if share is None or not math.isfinite(share) else f"{100 * share:.0f} %"
