"""Results for people: a table of a replay whose intervals may have had nothing to score."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from driftgraph.app.console.output import print_replay


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


def printed(width: int, *, terminal: bool) -> str:
    out = io.StringIO()
    print_replay(REPORT, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


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


ALONE = "alone, share alone, share alone, share"


def test_a_narrow_terminal_has_two_tables() -> None:
    text = printed(80, terminal=True)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "1 1 0.5000 0.1250 0.2500 0.0625 0.0312" in lines
    assert "1 1 0.5000 0.2500 50 % 0.1500 30 % 0.1000 20 %" in lines
    assert "…" not in text
