"""What the worker is at, for whoever waits: on the terminal or in the log, and in a file for ``status``.

Worker, its loop ──► [WorkerStatus] ──► Progress (a bar, or lines of the log)
                                   └──► data_dir/status/worker.json ──► driftgraph status
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftgraph.app.console.progress import (
    LoggedProgress,
    NoProgress,
    Progress,
    Pulse,
    bar_on_terminal,
    how_far,
)
from driftgraph.app.console.status_files import beat, write_json
from driftgraph.app.console.status_text import named
from driftgraph.app.publishing.freshness import freshness_of
from driftgraph.app.training.device import gpu_memory
from driftgraph.app.training.tracing import Tracing
from driftgraph.app.training.work_counts import WorkCounts
from driftgraph.model.fitting.fit_report import FitReport, OnStep
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.time.clock import Clock

WRITE_EVERY_MS = 1_000

log = logging.getLogger(__name__)


class WorkerStatus(NoProgress):
    """A ``Progress`` that also keeps the status file.

    The file says what the worker is at (``stage``, ``done`` of ``total``, ``left_s``; null between two), when
    that last moved (``moved_ms``), how the last fit ended (``fit``), with the reason of every attempt that
    was refused, and how fresh users are (``refresh``). The worker's loop and the thread
    that refreshes both tell it.
    """

    def __init__(
        self, path: Path | None, clock: Clock, shown: Progress, tracing: Tracing | None = None
    ) -> None:
        """``path`` None: there is no file, as in a replay."""
        self.tracing = tracing or Tracing()
        self._path = path
        self.clock = clock
        self._shown = shown
        self._stage = ""  # empty between two
        self._total: int | None = None
        self._done = 0
        self._begun_ms = self._written_ms = self._moved_ms = 0
        self._fit_begun_ms = 0
        self.work = WorkCounts()
        self._lock = threading.Lock()  # one of the threads writes the file
        self._disk = OutageLog(log.warning)
        self._facts: dict[str, Any] = {
            "serves": None, "fit": None, "trouble": None, "refresh": None, "operator": None,
            "delisting": None,
        }  # fmt: skip

    def start(self, label: str, total: int | None = None, span: str = "") -> None:
        """Begin a stage, which is a span of the trace if that has a name for it."""
        self.tracing.stage(span)
        self._stage, self._total, self._done = label, total, 0
        self._begun_ms = self._moved_ms = self.clock.now_ms()
        self._write()
        self._shown.start(label, total)

    def advance(self, n: int) -> None:
        """Count, and write the file when it is old enough."""
        self._done += n
        self._moved_ms = self.clock.now_ms()
        self._shown.advance(n)
        if self.clock.now_ms() - self._written_ms >= WRITE_EVERY_MS:
            self._write()

    def note(self, text: str) -> None:
        """Say one thing."""
        self._shown.note(text)

    def close(self) -> None:
        """Nothing is being done."""
        self._stage = ""
        self.tracing.stage("")
        self._write()
        self._shown.close()

    def steps(self, label: str) -> OnStep:
        """Tell each step of a fit, which begins now; every attempt is a stage of its own."""
        told, self._fit_begun_ms = 0, self.clock.now_ms()

        def on_step(attempt: int, done: int, total: int) -> None:
            nonlocal told
            if done == 1:
                self.start(label if attempt == 1 else f"{label}, attempt {attempt}", total, span="train")
                told = 0
            self.work.steps += done - told
            self.advance(done - told)
            told = done
            if done == total:
                self.start("vectors of all users and items, the gate, and what the lists learn", span="gate")

        return on_step

    def fitted(self, report: FitReport) -> None:
        """Remember how a fit ended."""
        self.work.fitted(report, self.clock.now_ms() - self._fit_begun_ms)
        self._facts["fit"] = {
            "time_ms": self.clock.now_ms(),
            "accepted": report.accepted,
            "code": report.code,
            "reason": report.reason,
            "refused": list(report.refused),
            "new_examples": report.new_examples,
            "replayed_examples": report.replayed_examples,
        }
        self._write()

    def trouble(self, why: str | None) -> None:
        """Remember what keeps the worker from its work, None if nothing does; written if it has changed."""
        if self._facts["trouble"] != why:
            self._facts["trouble"] = why
            self._write()

    def refreshed(self, facts: Callable[[], dict[str, Any]], trouble: str | None) -> None:
        """Remember what was refreshed, and what is in its way; written if that changes, or each second."""
        told = self._facts["refresh"]
        is_old = self.clock.now_ms() - self._written_ms >= WRITE_EVERY_MS
        if told is None or told["trouble"] != trouble or is_old:
            self._facts["refresh"] = {**facts(), "trouble": trouble}
            self._write()

    def delisting(self, trouble: str | None) -> None:
        """Remember what keeps delisted items in lists, None if nothing does; written if that has changed."""
        if self._facts["delisting"] != trouble:
            self._facts["delisting"] = trouble
            self._write()

    def chosen(self, what: str | None) -> bool:
        """Remember the newest rollback or promote, and what it means here; whether that has changed."""
        if self._facts["operator"] == what:
            return False
        self._facts["operator"] = what
        self._write()
        return True

    def published(self, took_ms: int) -> None:
        """Count a publish."""
        self.work.published(took_ms)

    def serves(self, generation: int, model_version: int, made_by: str) -> None:
        """Remember what was published, ``generation`` 0: nothing."""
        what = {"generation": generation, "model_version": model_version, "made_by": made_by}
        self._facts["serves"] = what if generation else None
        self._write()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Write the file each second meanwhile, whatever the worker waits for."""
        pulse = Pulse(self._beat, WRITE_EVERY_MS / 1000)
        pulse.start()
        try:
            yield
        finally:
            pulse.stop()

    def _beat(self) -> None:
        if self.clock.now_ms() - self._written_ms >= WRITE_EVERY_MS:
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._write_alone()

    def _write_alone(self) -> None:
        now_ms = self._written_ms = self.clock.now_ms()
        if self._path is None:
            return
        left_s = None
        if self._total and self._done:
            left_s = round((now_ms - self._begun_ms) / 1000 * max(0, self._total - self._done) / self._done)
        value = {
            "pid": os.getpid(),
            "state": "running",
            "time_ms": now_ms,
            "stage": self._stage or None,
            "done": self._done,
            "total": self._total,
            "left_s": left_s,
            "moved_ms": self._moved_ms,
            "work": self.work.facts(),
            "gpu": gpu_memory(),
            **self._facts,
        }
        try:
            write_json(self._path, value)
        except OSError as error:  # the disk is full: the work goes on
            self._disk.missing(f"{self._path} cannot be written: {error.strerror or error}")
            beat(self._path, now_ms)
        else:
            self._disk.over(f"{self._path} is written again")


def worker_pairs(told: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """For people: what the worker is at, and how the last fit ended."""
    if told is None or told["state"] != "running":
        return []
    at = told["stage"] or "waits until a fit is due"
    far = how_far(told["done"], told["total"], told["left_s"]) if told["stage"] else ""
    pairs: list[tuple[str, object]] = [("worker", f"{at}: {far}" if far else at)]
    if fit := told["fit"]:
        tries = f" ({len(fit['refused'])} attempts)" if len(fit["refused"]) > 1 else ""
        pairs.append(
            ("last fit", "accepted" if fit["accepted"] else f"no new generation{tries}: {fit['reason']}")
        )
    if trouble := told["trouble"]:
        pairs.append(("trouble", trouble))
    if operator := told.get("operator"):
        pairs.append(("operator", operator))
    if serves := told["serves"]:
        what = named(serves["generation"], serves.get("model_version", 0))
        pairs.append(("serves", f"{what}, made by {serves['made_by']}"))
    if refresh := told.get("refresh"):
        pairs.append(("freshness", freshness_of(refresh)))
        pairs += [("trouble", f"users are not refreshed: {why}")] if (why := refresh["trouble"]) else []
    return pairs


def progress_of_worker(clock: Clock, *, is_json: bool = False) -> Progress:
    """A bar where stderr is a terminal, lines of the log where it is not, or where they are JSON."""
    return (None if is_json else bar_on_terminal()) or LoggedProgress(clock)
