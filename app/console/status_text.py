"""Sentences about the status of an updater.

data_dir/status/updater.json ──► [checkpoint_of, …] ──► driftgraph status, driftgraph doctor, the log
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from driftgraph.app.console.head_text import lines_of_heads
from driftgraph.app.console.output import time_of
from driftgraph.app.console.scorers import METRIC_TITLE, best_baseline, measured, shares_text

FOR_PROGRAMS: Final = frozenset(  # fields of a manifest that no person reads
    {"token", "digest", "model_hash", "configuration", "head_state", "epoch", "status", "keys_expire"}
)
FIRST: Final = ("published_ms", "made_by", "model_version", "metrics", "shares", "users", "items", "dim")


def span_of(ms: int) -> str:
    """A duration for people: 12 s, 5 min, 3.2 h, 2.0 d."""
    if ms < 120_000:
        return f"{ms // 1000} s"
    if ms < 7_200_000:
        return f"{ms // 60_000} min"
    return f"{ms / 3_600_000:.1f} h" if ms < 172_800_000 else f"{ms / 86_400_000:.1f} d"


def checkpoint_of(updater: dict[str, Any]) -> str:
    """The state of the checkpoints in a sentence."""
    one = updater["checkpoint"]
    age = span_of(one["age_ms"])
    if one["overdue"]:
        newest = f"the newest, number {one['number']}, is {age} old" if one["number"] else f"none for {age}"
        return f"overdue, {newest}: {one['reason']}"
    said = f"number {one['number']}, {age} old" if one["number"] else "none yet"
    return f"{said}; {one['failure']}" if one["failure"] else said


def first_fit_of(waits: Mapping[str, Any], fit: Mapping[str, Any] | None = None) -> str:
    """When the first fit is due: ``waits`` has the fields of a ``FirstFit``, ``fit`` the last one's end."""
    if waits.get("marked") and fit is None:  # else the gate has refused the fit at that mark
        return "due now: the history of the topic is enough for it"
    early, regular, by_count = waits["early"], waits["regular"], waits["by_count"]
    if early["at_ms"] is None:
        return "due once there are events"
    parts = []
    for one, and_then in ((early, " and event time passes the next quarter of an hour"), (by_count, "")):
        if one is not None and one["events"] < one["needed"]:
            parts.append(f"once {one['needed']:,} events are applied ({one['events']:,} so far){and_then}")
    ready_ms = [one["at_ms"] for one in (early, regular) if one["events"] >= one["needed"]]
    if ready_ms:
        parts.append(f"when event time passes {time_of(min(ready_ms))}")
    else:
        at = time_of(regular["at_ms"])
        parts.append(f"when event time passes {at} and {regular['needed']:,} are applied")
    return f"due {', or '.join(parts)}"


def deduplication_of(status: Mapping[str, Any]) -> str:
    """A sentence about how long event ids are remembered."""
    said = f"{status['ids']:,} event ids in {status['bytes'] / 1e6:,.0f} MB"
    if not status["short"]:
        return said
    return (
        f"{said} reach back {span_of(status['reach_ms'])} of {span_of(status['horizon_ms'])}, and what is "
        "delivered again later counts twice: set deduplication.ids_max higher, or its horizon shorter"
    )


def choice_pairs(choice: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """Whether an operator has put the served generation into service, and whether it is held."""
    if choice is None:
        return []
    who = f"{time_of(choice['at_ms'])}, by {choice['by'] or 'an unknown operator'}"
    pairs: list[tuple[str, object]] = [("chosen", who)] if choice["generation"] else []
    if choice["held"]:
        pairs.append(("held", f"since {who}: nothing else is published until driftgraph promote"))
    return pairs


def topics_of_attributes(status: Mapping[str, Any]) -> str:
    """What was read of the topics of attributes since the start, in a sentence."""
    said = f"{status['read']:,} records read of their topics, {sum(status['lag'].values()):,} to read"
    return f"{said}; {status['left_out']:,} say no attributes" if status["left_out"] else said


def topic_of_delisted(status: Mapping[str, Any]) -> str:
    """What the topic of delisted items says, and what is in the way, in a sentence."""
    said = f"{status['items']:,} items by {status['topic']}, {sum(status['lag'].values()):,} records to read"
    if status["left_out"]:
        said += f"; {status['left_out']:,} delist no item"
    if status["left_over"]:
        said += f"; {status['left_over']:,} are too many and not delisted"
    return f"{said}; not told to Redis: {status['failure']}" if status["failure"] else said


def manifest_pairs(manifest: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The fields of a manifest that people read, without its number, those of JSON in words.

    ``--json`` has all.
    """
    pairs: list[tuple[str, object]] = []
    for name, value in sorted(manifest.items(), key=_place_of):
        if name == "generation" or name in FOR_PROGRAMS:
            continue
        if name.endswith("_ms"):
            pairs.append((name.removesuffix("_ms"), time_of(value)))
        elif name == "metrics":
            pairs.append((METRIC_TITLE, _metrics_of(json.loads(value))))
        elif name == "shares":
            pairs.append((name, shares_text(json.loads(value))))
        elif name == "heads":
            pairs += [(name, line) for line in lines_of_heads(json.loads(value))]
        elif name == "head":
            pairs.append((name, ", ".join(json.loads(value)["relations"])))
        elif name == "weights":
            weights = json.loads(value).items()
            pairs.append((name, ", ".join(f"{feature} {weight:.3f}" for feature, weight in weights)))
        elif name == "cut":
            counts = json.loads(value).items()
            pairs.append((name, ", ".join(f"{relation} {count:,}" for relation, count in counts)))
        else:
            pairs.append((name, value))
    return [(name, value) for name, value in pairs if value not in ("", None)]


def _place_of(field: tuple[str, Any]) -> tuple[int, str]:
    """Where a field stands: Redis gives the fields in no order."""
    name = field[0]
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def _metrics_of(metrics: Mapping[str, Mapping[str, float]]) -> str:
    said = [] if (model := measured(metrics, "model")) is None else [f"model {model:.4f}"]
    if (baseline := best_baseline(metrics)) is not None:
        said.append(f"best baseline {baseline[0]} {baseline[1]:.4f}")
    return ", ".join(said)


def named(generation: int, model_version: int) -> str:
    """``generation 2 (model version 1)``: the number in Redis, and what of the trainer it has.

    A generation of lists, before model version 1, has nothing of it.
    """
    if not model_version:
        return f"generation {generation}"
    version = f"model version {model_version}"
    return f"generation {generation} ({version})" if generation else f"{version}, not published"
