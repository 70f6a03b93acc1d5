"""Sentences about the status of an updater.

data_dir/status/updater.json ──► [checkpoint_of, …] ──► driftgraph status, driftgraph doctor, the log
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def deduplication_of(status: Mapping[str, Any]) -> str:
    """A sentence about how long event ids are remembered."""
    said = f"{status['ids']:,} event ids in {status['bytes'] / 1e6:,.0f} MB"
    if not status["short"]:
        return said
    return (
        f"{said} reach back {span_of(status['reach_ms'])} of {span_of(status['horizon_ms'])}, and what is "
        "delivered again later counts twice: set deduplication.ids_max higher, or its horizon shorter"
    )
