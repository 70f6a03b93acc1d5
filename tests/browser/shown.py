"""The page of a data_dir that has the status files of a real run, and generations with a real run's metrics.

A run on a public stream of a shop wrote the files in ``recorded``; its items were renamed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from driftgraph.app.console.status_files import write_json
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.time.clock import SystemClock
from tests.services_redis import filled

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def run_says(folder: Path, *, own: dict[str, Any] | None = None, **changed: Any) -> None:
    """Write both status files as of now; ``changed`` are fields of the updater's, ``own`` of the worker's.

    A dict changes a part of a field, but for the counts by relation and by reason, which are whole.
    """
    now_ms = SystemClock().now_ms()
    told = recorded("updater")
    told |= {"pid": os.getpid(), "time_ms": now_ms, "watermark_ms": now_ms - 1_500}
    told["worker"] |= {"pid": os.getpid()}
    for name, value in changed.items():
        is_part = isinstance(value, dict) and isinstance(told[name], dict) and name not in ("window", "reasons")
        told[name] = {**told[name], **value} if is_part else value
    worker = {**recorded("worker"), "pid": os.getpid(), "time_ms": now_ms, "moved_ms": now_ms, **(own or {})}
    write_json(folder / "status" / "worker.json", worker)
    write_json(folder / "status" / "updater.json", told)


def publish_measured(store: GenerationStore, number: int, *, recall: float | None = None) -> None:
    """Publish a generation whose manifest has the metrics, shares and drift of the recorded one."""
    told = recorded("manifest")
    if recall is not None:
        told["metrics"]["model"]["recall_at_20"] = recall
    facts = {name: value if isinstance(value, int | str) else json.dumps(value) for name, value in told.items()}
    facts |= {"hash": "h", "model_version": number, "moved_user:u7": 0.8}
    store.publish(number, filled("u", 150, number, touched=True), filled("i", 60, number), facts)
