"""The scorers of an evaluation for people: the best baseline, the shares, the line of a cycle."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest

from driftgraph.app.console.scorers import best_baseline, shares_text
from driftgraph.app.training.generation_report import GenerationReport, describe

METRICS = {
    "model": {"recall_at_20": 0.31},
    "co_visitation": {"recall_at_20": 0.25},
    "recent_popularity": {"recall_at_20": 0.2},
    "frozen_first": {"recall_at_20": math.nan},
    "vectors": {"recall_at_20": 0.9},
}


def test_the_best_baseline_is_no_part_of_the_model_and_was_measured() -> None:
    assert best_baseline(METRICS) == ("co-visitation", 0.25)
    assert best_baseline({"vectors": {"recall_at_20": 0.9}, "frozen_first": {"recall_at_20": None}}) is None


def test_shares_are_told_the_largest_first_and_only_those_that_count() -> None:
    assert shares_text({"vectors": 0.2, "bank": 0.8, "paths": 0.0}) == "popularity 80 %, vectors 20 %"
    assert shares_text({"vectors": math.nan, "bank": None, "paths": 0.0}) == ""
    assert shares_text({}) == ""


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (METRICS, ": Recall@20 0.3100 on the 1,000 events before it, best baseline co-visitation 0.2500"),
        ({"bank": {"recall_at_20": 0.9}, **{k: METRICS[k] for k in ("co_visitation",)}},
         ": Recall@20 on the 1,000 events before it: co-visitation 0.2500"),
        ({"model": {"recall_at_20": math.nan}}, ""),
    ],
)  # fmt: skip
def test_a_cycle_is_one_line_with_the_model_and_the_best_baseline(
    metrics: dict[str, dict[str, float]], says: str
) -> None:
    report = SimpleNamespace(
        generation=4,
        model_version=3,
        fit=SimpleNamespace(accepted=True, refused=()),
        evaluation=SimpleNamespace(metrics=metrics, event_count=1_000),
    )
    line = describe(cast(GenerationReport, report))
    assert line == f"generation 4 (model version 3){says}"
    assert len(line) <= 120
