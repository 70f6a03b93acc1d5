"""Results for people: a table of a replay whose intervals may have had nothing to score."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console

from driftgraph.app.console.output import print_replay


def generation(number: int, recall: float) -> dict[str, Any]:
    return {
        "generation": number,
        "model_version": number,
        "metrics": {"recall_at_20": recall},
        "baselines": {"recent_popularity": {"recall_at_20": recall / 2}},
    }


def test_a_metric_of_no_event_is_a_blank_in_the_table() -> None:
    out = io.StringIO()
    report = {
        "events_read": 3,
        "loss": math.nan,
        "generations": [generation(1, 0.5), generation(2, math.nan)],
    }
    print_replay(report, Console(file=out, width=100))
    lines = [line.split() for line in out.getvalue().splitlines() if line[:1] == " "]
    assert lines == [["1", "1", "0.5", "0.25"], ["2", "2"]]
    assert "nan" not in out.getvalue()
