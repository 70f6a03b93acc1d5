"""Counts of the worker's work since its start: fits, what the gate decided, publishes, and errors of Redis.

WorkerStatus, loop, refresh_thread ──► [WorkCounts] ──► data_dir/status/worker.json ──► /metrics
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

from driftgraph.model.fitting.fit_report import FitReport

Operation = Literal["publish", "refresh"]


class WorkCounts:
    """Only grows, but for the loss; two threads count, each its own fields."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()  # of the gate: accepted, or the code of the refusal
        self.steps = self.skipped = self.fit_ms = 0
        self.publishes = self.publish_ms = 0
        self.redis_errors: Counter[Operation] = Counter()
        self._loss: float | None = None

    def fitted(self, report: FitReport, took_ms: int) -> None:
        """Count a fit. One without an event is none."""
        if report.code == "no_events":
            return
        self.decisions["accepted" if report.accepted else report.code] += 1
        self.skipped += report.skipped
        self.fit_ms += took_ms
        self._loss = report.loss if math.isfinite(report.loss) else None

    def published(self, took_ms: int) -> None:
        """Count a publish."""
        self.publishes += 1
        self.publish_ms += took_ms

    def facts(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "decisions": dict(self.decisions),
            "steps": self.steps,
            "skipped": self.skipped,
            "fit_ms": self.fit_ms,
            "loss": self._loss,
            "publishes": self.publishes,
            "publish_ms": self.publish_ms,
            "redis_errors": dict(self.redis_errors),
        }
