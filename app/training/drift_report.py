"""Drift by external id: the rows that moved get the names that they had at the fit.

Trainer, drift_of ──► [drift_by_name] ──► GenerationReport ──► manifest, report
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import Any

from driftgraph.model.evaluation.drift import Moved, drift_of
from driftgraph.model.evaluation.evaluate import Staleness
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.view import StaleCut
from driftgraph.stream.window.writer import Cut

log = logging.getLogger(__name__)


def drift_by_name(
    trainer: Trainer, graph: HeterographView, since: Cut, moment: Moment
) -> dict[str, Any] | None:
    """What moved by the accepted fit of [since, moment), as JSON values; None if that is not known."""
    try:
        found = drift_of(
            graph.edges,
            since,
            moment.cut,
            then=trainer.before,
            now=trainer.serving,
            seed=trainer.options.seed,
        )
    except StaleCut:
        log.warning("what moved by the fit is not known: events of it have left the ring meanwhile")
        return None
    if found is None:
        return None
    behaviors = {
        name: {k: _real(v) for k, v in asdict(behavior).items()} for name, behavior in found.behaviors.items()
    }
    return {
        "users": _named(found.users, USER, graph, moment),
        "items": _named(found.items, ITEM, graph, moment),
        "behaviors": behaviors,
    }


def staleness_of(found: Staleness | None) -> dict[str, Any] | None:
    """How older generations did, as JSON values."""
    if found is None or not found.event_count:
        return None
    ages = {str(age): metrics for age, metrics in found.fits_ago.items()}
    return {"events": found.event_count, "vectors": found.vectors, "fits_ago": ages}


def _named(moved: Moved, side: int, graph: HeterographView, moment: Moment) -> dict[str, Any]:
    names = graph.names(side, moved.rows, moment)
    pairs = zip(names, moved.scores.tolist(), strict=True)
    top = [{"id": name, "score": score} for name, score in pairs if name]
    return {"measured": moved.measured, "median": _real(moved.median), "top": top}


def _real(value: float) -> float | None:
    return value if math.isfinite(value) else None
