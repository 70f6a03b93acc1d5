"""Prints the results of commands: JSON for programs, tables for people. Only results go to stdout.

a report as JSON values ──► [print_json, print_replay, …] ──► stdout
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from driftgraph.app.console.drift_text import ago, lines_of
from driftgraph.app.console.head_text import lines_of_heads
from driftgraph.app.console.scorers import (
    BASELINES,
    METRIC,
    METRIC_TITLE,
    PARTS,
    measured,
    percent,
    shares_text,
)

MODELS = {"frozen first": "the frozen first model", "started anew": "a model started anew"}  # in a sentence
WIDE = 119  # columns: the baselines and three parts fit in one table
PART_WIDTH = 15  # of the fourth part
TABLE_WIDTH_MAX = 1_000
PARTS_BESIDE = 3  # in a table of 80 columns


def print_json(value: object) -> None:
    """Print one JSON document; a number that JSON cannot write becomes null."""
    print(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_replay(report: Mapping[str, Any], console: Console) -> None:
    """Print the counts, the window, each generation beside baselines and parts, and all together."""
    counts = [
        (k.removesuffix("_ms"), time_of(v) if k.endswith("_ms") else v)
        for k, v in report.items()
        if isinstance(v, int | float | str)
    ]
    window = [(f"window, {name}", count) for name, count in (report.get("window") or {}).items()]
    keys = [(f"redis, {kind}", count) for kind, count in (report.get("redis") or {}).items()]
    reasons = [(f"dead letters, {name}", count) for name, count in (report.get("reasons") or {}).items()]
    print_pairs([(k.replace("_", " "), v) for k, v in counts] + reasons + window + keys, console)
    generations = list(report.get("generations") or [])
    together = report.get("overall") or {}
    overall = together.get("metrics") or {}
    if overall.get("model"):
        others = {name: row for name, row in overall.items() if name != "model"}
        generations.append({
            "generation": "overall", "metrics": overall["model"], "baselines": others,
            "shares": together.get("shares"),
        })  # fmt: skip
    if generations:
        _print_scorers(generations, console)
    if lives_on := shares_text(together.get("shares") or {}):
        _print_lines([f"what moves the score: {lives_on}"], console)
    _print_lines(lines_of_heads(together.get("heads")), console)
    with_drift = [one for one in generations if one.get("drift")]
    if with_drift:
        console.print(f"generation {with_drift[-1]['generation']}, against the one before:", highlight=False)
        _print_lines(lines_of(with_drift[-1]["drift"], None), console)
    for age, one in ((report.get("overall") or {}).get("staleness") or {}).items():
        _print_lines(
            [
                f"vectors as published {ago(age)}: {METRIC_TITLE} {shown(one['metrics'][METRIC])}, "
                f"served {shown(one['vectors'][METRIC])}, on {one['events']:,} events"
            ],
            console,
        )
    sorting = report.get("sorted")
    if sorting:
        console.print(
            f"not in order of time: {sorting['rows']:,} rows were sorted in {sorting['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    for warning in report.get("warnings") or []:
        console.print(f"WARNING: {warning}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    _print_lines(_gain(together), console)


def _gain(together: Mapping[str, Any]) -> Iterator[str]:
    """What one gains, as the last words of the report: the model beside the best baseline."""
    gain, count = together.get("gain"), together.get("evaluated_events")
    if not gain:
        return
    ours, theirs = gain["model_events"], gain["baseline_events"]
    baseline = MODELS.get(gain["baseline"], gain["baseline"])
    times = f"{ours / theirs:.2f} times as many" if theirs else f"{ours:,} more"
    chance = (
        "more than chance explains" if ours > theirs else "fewer than chance explains: the model is worse"
    )
    if not gain["beyond_chance"]:
        chance = "which chance explains as well: replay more events"
    yield ""
    yield (
        f"what the model gains: of {count:,} events that it had not seen, {ours:,} ({ours / count:.1%}) were "
        f"in its user's 20 best, {theirs:,} ({theirs / count:.1%}) in those of {baseline}, the best "
        f"baseline: {times}, {chance}"
    )


def _print_scorers(generations: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A line for each generation: the model, the baselines, and each part of the score alone with its share.

    Where one table is wider than the terminal there are several.
    """
    heads = ["generation", "model\nversion", f"{METRIC_TITLE}\nmodel"]
    of_baselines = ["\n".join(title.split()) for title in BASELINES.values()]
    named = [part for part in PARTS if any(part in (one.get("baselines") or {}) for one in generations)]
    wide = WIDE + PART_WIDTH * max(0, len(named) - 3)
    of_parts = [f"{PARTS[part]}\nalone, share" for part in named]
    rows = []
    for one in generations:
        metrics = {"model": one.get("metrics") or {}, **(one.get("baselines") or {})}
        shares = one.get("shares") or {}
        names = [str(one["generation"]), str(one.get("model_version", "")), _fraction(metrics, "model")]
        baselines = [_fraction(metrics, name) for name in BASELINES]
        parts = [f"{_fraction(metrics, part)} {percent(shares.get(part)):>5}".rstrip() for part in named]
        rows.append((names, baselines, parts))
    if console.width >= wide or not console.is_terminal:
        _print_columns([*heads, *of_baselines, *of_parts], [[*n, *b, *p] for n, b, p in rows], console)
    else:
        _print_columns([*heads, *of_baselines], [[*n, *b] for n, b, _ in rows], console)
        for at in range(0, len(named), PARTS_BESIDE):
            some = slice(at, at + PARTS_BESIDE)
            _print_columns([*heads, *of_parts[some]], [[*n, *p[some]] for n, _, p in rows], console)


def _print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = _table(*heads)
    for row in rows:
        table.add_row(*row)
    _print_table(table, console)


def _print_table(table: Table, console: Console) -> None:
    """Print every value whole: a terminal wraps a line that is wider, and a pipe has no width."""
    width = console.measure(table, options=console.options.update(max_width=TABLE_WIDTH_MAX)).maximum
    if width > console.width:
        console = Console(file=console.file, width=width)
    console.print(table, crop=False)


def _fraction(metrics: Mapping[str, Any], scorer: str) -> str:
    value = measured(metrics, scorer)
    return "" if value is None else f"{value:.4f}"


def print_generations(generations: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a line for each generation that can be served, the newest first."""
    table = _table("generation", "model\nversion", "served", "published", "users", "items", "dim")
    for one in reversed(generations):
        manifest = one["manifest"]
        fields = [shown(manifest.get(key)) for key in ("users", "items", "dim")]
        table.add_row(
            str(one["generation"]),
            shown(manifest.get("model_version", "")),
            _served(one),
            time_of(manifest.get("published_ms")),
            *fields,
        )
    _print_table(table, console)
    for one in generations:
        if one["current"]:
            _print_lines(_chosen(one), console)
            _print_lines(lines_of(one["drift"], one["staleness"]), console)
            _print_lines(lines_of_heads(json.loads(one["manifest"].get("heads") or "null")), console)


def _served(one: Mapping[str, Any]) -> str:
    """Whether a generation is served, and whether it is held, so that nothing replaces it."""
    if not one["current"]:
        return ""
    return "held" if (one["choice"] or {}).get("held") else "now"


def _chosen(one: Mapping[str, Any]) -> list[str]:
    """Who has chosen or held the served generation, and when; nothing where nobody has."""
    choice = one["choice"]
    if choice is None or not (choice["generation"] or choice["held"]):
        return []
    return [f"generation {one['generation']}: chosen by {choice['by']}, {time_of(choice['at_ms'])}"]


def _print_lines(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_pairs(pairs: Sequence[tuple[str, object]], console: Console) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(f"{name:<{width}}  {shown(value)}", markup=False, highlight=False, soft_wrap=True)


def time_of(ms: object) -> str:
    """Milliseconds as a readable UTC time; empty if the value is not a time."""
    if not isinstance(ms, int) or ms <= 0:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    lines = max(column.count("\n") for column in columns)
    for column in columns:
        head = "\n" * (lines - column.count("\n")) + column
        table.add_column(head, justify="right", no_wrap=True)
    return table


def shown(value: object) -> str:
    """A value for people: numbers with commas, nothing for None."""
    if isinstance(value, float):
        if math.isnan(value):  # a metric of no event
            return ""
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def finite(value: object) -> object:
    """The value with numbers that JSON cannot write as None."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
