"""The heads' metrics in words: of a replay, and of the served generation's manifest.

HeadEvaluation as JSON values ──► [lines_of_heads] ──► replay, status, generations
HeadEvaluations of all intervals ──► [heads_together] ──► replay's report
probabilities of a reader as JSON values ──► [print_chances] ──► scores
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

METRICS: Final = {  # of a head, in the order in which people read of them
    "log_loss": "log loss",
    "user_auc": "AUC per user",
    "auc": "AUC",
    "ece": "calibration error",
}


def lines_of_heads(found: Mapping[str, Any] | None) -> list[str]:
    """Three lines for each behavior that anything was answered by, beside the running rates."""
    if not found or not found["impressions"]:
        return []
    lines = []
    for name, one in found["heads"].items():
        if not one["answered"]:
            continue
        head, rates = one["metrics"]["head"], one["metrics"]["running_rates"]
        said = [
            f"{title} {_shown(head[metric])} ({_shown(rates[metric])})" for metric, title in METRICS.items()
        ]
        served = ", served" if not one["is_served"] else ""
        lines += [
            f"head {name}: {', '.join(said[:2])},",
            f"  {', '.join(said[2:])};",
            f"  {one['answered']:,} of {found['impressions']:,} impressions answered; "
            f"in brackets the running rates{served}",
        ]
    return lines


def print_chances(value: Mapping[str, Any], console: Console) -> None:
    """A line for each item, with the probability of each behavior."""
    unknown = [one["item"] for one in value["items"] if not one["known"]]
    if not value["known"]:
        said = f"generation {value['generation']} does not know user {value['user']!r}"
        print(f"{said}: the probabilities are those of an average user", file=sys.stderr)
    if unknown:
        said = f"generation {value['generation']} does not know {', '.join(map(repr, unknown))}"
        print(f"{said}: the probabilities are those of an average item", file=sys.stderr)
    names = list(value["items"][0]["probability"])
    table = Table("item", *names, box=None, pad_edge=False)
    for one in value["items"]:
        table.add_row(escape(one["item"]), *(f"{one['probability'][name]:.5f}" for name in names))
    console.print(table)


def heads_together(intervals: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The metrics over intervals, each by its impressions; a metric that an interval lacks does not count."""
    known = [one for one in intervals if one and one["impressions"]]
    if not known:
        return None
    heads: dict[str, Any] = {}
    for name, newest in known[-1]["heads"].items():
        metrics: dict[str, dict[str, float | None]] = {}
        for scorer, values in newest["metrics"].items():
            metrics[scorer] = {
                metric: _mean(
                    (one["impressions"], one["heads"][name]["metrics"][scorer][metric]) for one in known
                )
                for metric in values
            }
        answered = sum(one["heads"][name]["answered"] for one in known)
        heads[name] = {"answered": answered, "is_served": newest["is_served"], "metrics": metrics}
    return {
        "impressions": sum(one["impressions"] for one in known),
        "late": sum(one["late"] for one in known),
        "heads": heads,
    }


def _mean(pairs: Iterable[tuple[int, float | None]]) -> float | None:
    """The mean of the values that are numbers, by weight; None if none is."""
    real = [(weight, value) for weight, value in pairs if value is not None and math.isfinite(value)]
    total = sum(weight for weight, _ in real)
    return sum(weight * value for weight, value in real) / total if total else None


def _shown(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.4f}"
