"""Results for people: a table of a replay whose intervals may have had nothing to score."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from driftgraph.app.console.output import print_generations, print_replay
from driftgraph.app.console.scorers import gain_of
from driftgraph.model.score.scorer import PARTS as SCORE


def generation(number: int, recall: float) -> dict[str, Any]:
    shares = {"vectors": 0.5, "bank": 0.3, "paths": 0.2}
    return {
        "generation": number,
        "model_version": number,
        "metrics": {"recall_at_20": recall},
        "shares": {part: share if math.isfinite(recall) else math.nan for part, share in shares.items()},
        "baselines": {
            "recent_popularity": {"recall_at_20": recall / 2},
            "co_visitation": {"recall_at_20": recall / 4},
            "frozen_first": {"recall_at_20": recall / 8},
            "started_anew": {"recall_at_20": recall / 16},
            **{part: {"recall_at_20": recall * share} for part, share in shares.items()},
        },
    }


REPORT: dict[str, Any] = {
    "events_read": 3,
    "loss": math.nan,
    "generations": [generation(1, 0.5), generation(2, math.nan)],
    "overall": {
        "metrics": {"model": {"recall_at_20": 0.5}, "co_visitation": {"recall_at_20": 0.125}},
        "shares": {"vectors": 0.2, "bank": 0.7, "paths": 0.1},
    },
}


def printed_report(report: dict[str, Any], width: int = 80, *, terminal: bool = False) -> str:
    out = io.StringIO()
    print_replay(report, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def printed(width: int, *, terminal: bool) -> str:
    return printed_report(REPORT, width, terminal=terminal)


@pytest.mark.parametrize(("width", "terminal"), [(119, True), (120, True), (80, False)])
def test_a_replay_shows_the_baselines_and_each_part_with_its_share(width: int, terminal: bool) -> None:
    """A metric of no event is a blank. A pipe has no width, so that one table is whole there, too."""
    text = printed(width, terminal=terminal)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 119
    lines = [" ".join(line.split()) for line in text.splitlines()]
    start = lines.index(f"generation version model co-visitation popularity first anew {ALONE}")
    assert lines[start + 1 : start + 4] == [
        "1 1 0.5000 0.1250 0.2500 0.0625 0.0312 0.2500 50 % 0.1500 30 % 0.1000 20 %",
        "2 2",
        "overall 0.5000 0.1250 20 % 70 % 10 %",
    ]
    assert "what moves the score: popularity 70 %, vectors 20 %, paths 10 %" in text
    assert "nan" not in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("model", "baseline", "count", "said"),
    [
        (0.5, 0.125, 4_000, "2,000 (50.0%) were in its user's 20 best, 500 (12.5%) in those of "
         "co-visitation, the best baseline: 4.00 times as many, more than chance explains"),
        (0.0037, 0.0015, 7_321, "27 (0.4%)"),
        (0.0037, 0.0015, 7_321, "2.45 times as many, more than chance explains"),
        (0.06, 0.05, 1_000, "1.20 times as many, which chance explains as well: replay more events"),
        (0.1, 0.2, 4_000, "0.50 times as many, fewer than chance explains: the model is worse"),
        (0.01, 0.0, 4_000, "0 (0.0%) in those of co-visitation, the best baseline: 40 more, more than"),
    ],
)  # fmt: skip
def test_a_replay_ends_with_what_one_gains(model: float, baseline: float, count: int, said: str) -> None:
    metrics = {"model": {"recall_at_20": model}, "co_visitation": {"recall_at_20": baseline}}
    overall = {"metrics": metrics, "evaluated_events": count, "gain": gain_of(metrics, count)}
    last = printed_report({**REPORT, "warnings": ["much came late"], "overall": overall}).splitlines()[-1]
    assert last.startswith(f"what the model gains: of {count:,} events that it had not seen, ")
    assert said in last


def test_a_baseline_that_is_a_model_is_called_so() -> None:
    metrics = {"model": {"recall_at_20": 0.5}, "started_anew": {"recall_at_20": 0.2}}
    overall = {"metrics": metrics, "evaluated_events": 100, "gain": gain_of(metrics, 100)}
    last = printed_report({**REPORT, "overall": overall}).splitlines()[-1]
    assert "20 (20.0%) in those of a model started anew, the best baseline: 2.50 times as many" in last


def test_without_an_evaluation_nothing_is_said_to_be_gained() -> None:
    assert gain_of({"model": {"recall_at_20": math.nan}, "co_visitation": {"recall_at_20": 0.1}}, 5) is None
    assert gain_of({}, 0) is None
    assert "gains" not in printed_report({"events_read": 3})


def test_the_bound_of_a_gain_by_chance_is_that_of_paired_events() -> None:
    """Of models that are as good as the baseline, at most one in twenty is said to be beyond chance."""
    draws = np.random.default_rng(0).random((2_000, 2, 400)) < 0.1
    hits = draws.mean(axis=2)
    found = [
        gain_of({"model": {"recall_at_20": ours}, "co_visitation": {"recall_at_20": theirs}}, 400)
        for ours, theirs in hits.tolist()
    ]
    share = np.mean([gain["beyond_chance"] for gain in found if gain is not None])
    assert 0.02 < share < 0.06


ALONE = "alone, share alone, share alone, share"


def test_a_narrow_terminal_has_two_tables() -> None:
    text = printed(80, terminal=True)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "1 1 0.5000 0.1250 0.2500 0.0625 0.0312" in lines
    assert "1 1 0.5000 0.2500 50 % 0.1500 30 % 0.1000 20 %" in lines
    assert "…" not in text


@pytest.mark.parametrize(
    "chosen", [None, {"generation": 123, "held": True, "by": "ops@db-1", "at_ms": 1_783_000_000_123}]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_the_table_of_generations_is_whole_at_80_columns(
    terminal: bool, chosen: dict[str, object] | None
) -> None:
    manifest = {
        "model_version": 123,
        "published_ms": 1_783_000_000_123,
        "users": 31_882_000,
        "items": 30_985,
        "dim": 64,
    }
    one = {"generation": 123, "current": True, "manifest": manifest, "drift": None, "staleness": None}
    one["choice"] = chosen
    out = io.StringIO()
    print_generations([one], Console(file=out, width=80, force_terminal=terminal, color_system=None))
    assert "…" not in out.getvalue()
    assert " dim" in out.getvalue()
    assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= 80


def test_a_terminal_that_is_too_narrow_for_the_generations_wraps_whole_values() -> None:
    manifest = {"model_version": 1, "published_ms": 1_783_000_000_123, "users": 31_882_000, "items": 3}
    one = {"generation": 1, "current": True, "manifest": manifest, "drift": None, "staleness": None}
    out = io.StringIO()
    narrow = Console(file=out, width=60, force_terminal=True, color_system=None)
    print_generations([one | {"choice": None}], narrow)
    assert "…" not in out.getvalue()
    assert "2026-07-02 13:46:40+00:00  31,882,000      3" in out.getvalue()


def test_every_part_of_the_score_is_named_and_whole_at_80_columns() -> None:
    one = generation(1, 0.5)
    one["shares"] = dict.fromkeys(SCORE, 0.25)
    one["baselines"] |= {part: {"recall_at_20": 0.125} for part in SCORE}
    text = printed_report({"generations": [one], "overall": {"shares": one["shares"]}}, terminal=True)
    assert max(len(line.rstrip()) for line in text.splitlines() if "what moves" not in line) <= 80
    assert text.count("25 %") == 2 * len(SCORE), "in a table, and in what moves the score"
    assert "…" not in text
