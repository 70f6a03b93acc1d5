"""What one cycle did: how the serving model ranked the events of the interval, and what came of the fit.

Worker.cycle ──► [GenerationReport] ──► replay's report, demo, log of the worker
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from driftgraph.app.console.drift_text import fields_of
from driftgraph.app.console.output import finite
from driftgraph.app.console.scorers import METRIC_TITLE, best_baseline, measured
from driftgraph.app.console.status_text import named
from driftgraph.app.training.drift_report import staleness_of
from driftgraph.model.evaluation.evaluate import Evaluation
from driftgraph.model.heads.head_evaluation import HeadEvaluation
from driftgraph.model.trainer import FitReport


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """One cycle: how the model that was serving did on the events of the interval, and what came of the fit.

    ``generation`` is Redis's number of what is published after the cycle (0: nothing), ``model_version`` the
    trainer's of the model in it. Without a Redis, generations have the numbers of an empty namespace.
    ``evaluation`` was made before the fit, of ``evaluated_generation`` (0: none had a model), so none of its
    events had been trained on.
    """

    generation: int
    model_version: int
    evaluated_generation: int
    watermark_ms: int
    evaluation: Evaluation
    fit: FitReport
    drift: dict[str, Any] | None = None  # by name; None without an accepted fit, and for the first
    heads: HeadEvaluation | None = None  # None without impressions, and before the first model version

    def to_json(self) -> dict[str, Any]:
        """As JSON values: the model's metrics, and every baseline's on the same events."""
        scorers = dict(self.evaluation.metrics)
        fit = asdict(self.fit)
        return {
            "generation": self.generation,
            "model_version": self.model_version,
            "watermark_ms": self.watermark_ms,
            "evaluated_generation": self.evaluated_generation,
            "evaluated_model_version": self.evaluation.model_version,
            "evaluated_events": self.evaluation.event_count,
            "new_item_share": self.evaluation.new_item_share,
            "cold_user_share": self.evaluation.cold_user_share,
            "candidates": self.evaluation.candidate_count,
            "metrics": scorers.pop("model", None),
            "shares": self.evaluation.shares,
            "baselines": scorers,
            "by_behavior": self.evaluation.by_behavior,
            "slices": self.evaluation.slices,
            "counts": self.evaluation.counts,
            "heads": None if self.heads is None else asdict(self.heads),
            "fit": fit,
            "drift": self.drift,
            "staleness": staleness_of(self.evaluation.staleness),
        }


def facts_of(
    evaluation: Evaluation, drift: dict[str, Any] | None, heads: HeadEvaluation | None = None
) -> dict[str, str | int | float]:
    """What a manifest says of an evaluation, and of what moved by the fit behind it."""
    moved = fields_of(drift, staleness_of(evaluation.staleness))
    if heads is not None:
        moved["heads"] = json.dumps(finite(asdict(heads)))
    if not evaluation.event_count:
        return {**moved}
    return {
        "metrics": json.dumps(evaluation.metrics),
        "evaluated_events": evaluation.event_count,
        "shares": json.dumps(evaluation.shares),
        **moved,
    }


def describe(report: GenerationReport) -> str:
    """One line about a cycle, for people: the model beside the best baseline; ``to_json`` has all."""
    fit = report.fit
    tried = (
        f" ({len(fit.refused)} attempts, each gentler than the one before)" if len(fit.refused) > 1 else ""
    )
    if fit.accepted:
        gentler = f" at attempt {len(fit.refused) + 1}, gentler" if fit.refused else ""
        outcome = f"{named(report.generation, report.model_version)}{gentler}"
    else:
        outcome = f"no new generation: {fit.reason}{tried}"
    metrics, count = report.evaluation.metrics, report.evaluation.event_count
    model, baseline = measured(metrics, "model"), best_baseline(metrics)
    events = "the event before it" if count == 1 else f"the {count:,} events before it"
    rival = "" if baseline is None else f"{baseline[0]} {baseline[1]:.4f}"
    if model is not None:
        beside = f", best baseline {rival}" if rival else ""
        return f"{outcome}: {METRIC_TITLE} {model:.4f} on {events}{beside}"
    return f"{outcome}: {METRIC_TITLE} on {events}: {rival}" if rival else outcome
