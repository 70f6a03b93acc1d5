"""The reports of quality.py as a picture and as tables: the product and its parts beside the peers.

reports of quality.py DATASET --json ──► [rows_of] ──► [draw] ──► docs/quality.svg
                                             └──► [table] ──► standard output, for docs/quality.md

quality_picture.py REPORT.json …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt  # the backend comes first

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks.offline_evaluation.figures import OURS

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "quality.svg"
SETS = {"explore": ("first contacts", "recall_at_20"), "repeats": ("all targets", "ndcg_at_20")}
PARTS = ("vectors", "bank", "paths", "similar_users", "own", "started_anew", "frozen_first")
COPIES_SHOW = 0.05  # of the product's figure: from there on its parts are said to be of other targets
COLORS = {"ours": "#2f6f4f", "part": "#a9d3bb", "peer": "#9aa3ad"}
WORDS = {"recall_at_20": "Recall@20", "ndcg_at_20": "NDCG@20"}
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "quality", "font.size": 8}


@dataclass(frozen=True, slots=True)
class Row:
    """A scorer: the product (``ours``), one of its parts (``part``) or a ``peer``."""

    name: str
    kind: str
    values: Mapping[str, float]
    ahead: float | None = None  # the product is by so much, in the metric that decides the set,
    ahead_95: tuple[float, float] | None = None  # with its interval


def rows_of(figures: Mapping[str, Any], name: str) -> list[Row]:
    """Every scorer of a set by the event clock, the best first; none where the product was not measured."""
    rows = figures[name]["event"]
    if rows[OURS] is None:
        return []
    metric = SETS[name][1]
    found = [Row(OURS, "ours", rows[OURS])]
    parts, whole = figures["product"]["parts"][name], figures["product"]["whole"][name]
    # in older replays the product's own evaluation counts copies of an event, the other rows do not
    apart = abs(parts["model"][metric] - whole[metric]) > COPIES_SHOW * whole[metric]
    by_rows = " (copies counted)" if apart else ""
    found += [
        Row(f"{OURS}: {one.replace('_', ' ')}{by_rows}", "part", parts[one]) for one in PARTS if one in parts
    ]
    found += [
        Row(peer, "peer", values, values[f"{metric}_behind"], tuple(values[f"{metric}_behind_95"]))
        for peer, values in rows.items()
        if peer != OURS
    ]
    return sorted(found, key=lambda row: -row.values[metric])


def table(figures: Mapping[str, Any], name: str) -> str:
    """The rows as Markdown."""
    words, metric = SETS[name]
    about = f"{figures[name]['targets']:,} targets, peers' windows {figures['every']}, fits {figures['fit']}"
    lines = [
        f"**{figures['dataset']}, {words}**, {about}",
        "",
        f"| scorer | Recall@20 | NDCG@20 | driftgraph is ahead in {WORDS[metric]} by |",
        "|---|---|---|---|",
    ]
    for row in rows_of(figures, name):
        ahead = ""
        if row.ahead is not None and row.ahead_95 is not None:
            low, high = row.ahead_95
            ahead = f"{_number(row.ahead)} ({_number(low)} … {_number(high)})"
        bold = "**" if row.kind == "ours" else ""
        recall, ndcg = (_number(row.values[one]) for one in ("recall_at_20", "ndcg_at_20"))
        lines.append(f"| {bold}{row.name}{bold} | {recall} | {ndcg} | {ahead} |")
    whole = figures["product"]["whole"][name]
    recall, ndcg = (_number(whole[one]) for one in ("recall_at_20", "ndcg_at_20"))
    lines.append(f"| {OURS}, all {whole['targets']:,} targets | {recall} | {ndcg} | |")
    return "\n".join(lines)


def draw(reports: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each dataset and set that the product was measured on."""
    panels = [(one, name) for one in reports for name in SETS if rows_of(one, name)]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False, layout="constrained"
        )
        for axes, (figures, name) in zip(grid[0], panels, strict=True):
            words, metric = SETS[name]
            rows = rows_of(figures, name)[::-1]
            bars = axes.barh(
                [row.name for row in rows],
                [row.values[metric] for row in rows],
                color=[COLORS[row.kind] for row in rows],
            )
            axes.bar_label(bars, [_number(row.values[metric]) for row in rows], padding=2)
            axes.set_title(f"{figures['dataset']}\n{words}, {WORDS[metric]}", loc="left")
            axes.margins(x=0.18)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
            axes.set_xticks([])
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


def _number(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def main() -> None:
    """Print the tables of the reports and draw the picture."""
    reports = [
        json.loads(Path(name).read_text(encoding="utf-8"))["figures"] for name in dict.fromkeys(sys.argv[1:])
    ]
    if not reports:
        sys.exit("name one or more reports of quality.py DATASET --json")
    for figures in reports:
        for name in SETS:
            if rows_of(figures, name):
                print(table(figures, name), end="\n\n")
    draw(reports, PICTURE)


if __name__ == "__main__":
    main()
