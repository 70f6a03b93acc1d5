"""The page of a data_dir that has the status files of a real run, and generations with a real run's metrics.

A run on a public stream of a shop wrote the files in ``recorded``; its items were renamed.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Self

from driftgraph.app.console.status_files import beat, write_json
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.time.clock import SystemClock
from tests.services_redis import filled

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


class ToldRun:
    """Status files of an updater and a worker that live: they are renewed twice a second, as of now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "status"
        self._changed: dict[str, Any] | None = {}
        self._of_worker: dict[str, Any] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="told run", daemon=True)

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def says(self, *, worker_file: dict[str, Any] | None = None, **changed: Any) -> None:
        """What differs from the recorded files from now on, of the updater's and of the worker's.

        A dict changes a part of a field, but for the counts by relation and by reason, which are whole.
        """
        with self._lock:
            self._changed, self._of_worker = changed, worker_file or {}
        self._write()

    def says_nothing(
        self, start: dict[str, Any] | None = None, standby: dict[str, Any] | None = None
    ) -> None:
        """As if no updater had run, or as if one starts or stands by."""
        with self._lock:
            self._changed = None
            (self._folder / "updater.json").unlink(missing_ok=True)
            for who, told in (("start", start), ("standby", standby)):
                (self._folder / f"{who}.json").unlink(missing_ok=True)
                if told is not None:
                    self._put(who, {"time_ms": 0, **told, "pid": os.getpid()})

    def _renew(self) -> None:
        while not self._ended.wait(0.5):
            self._write()

    def _write(self) -> None:
        with self._lock:
            now_ms = SystemClock().now_ms()
            worker = {**recorded("worker"), "pid": os.getpid(), "time_ms": now_ms, "moved_ms": now_ms}
            self._put("worker", worker | self._of_worker)
            if self._changed is None:
                return
            told = recorded("updater")
            told |= {"pid": os.getpid(), "time_ms": now_ms, "watermark_ms": now_ms - 1_500}
            told["worker"] |= {"pid": os.getpid()}
            for name, value in self._changed.items():
                is_part = isinstance(value, dict) and name not in ("window", "reasons")
                told[name] = {**(told.get(name) or {}), **value} if is_part else value
            self._put("updater", told)

    def _put(self, who: str, told: dict[str, Any]) -> None:
        write_json(self._folder / f"{who}.json", told)
        beat(self._folder / f"{who}.json", told["time_ms"])  # the time of the file counts, too


def publish_measured(store: GenerationStore, number: int, *, recall: float | None = None) -> None:
    """Publish a generation whose manifest has the metrics, shares and drift of the recorded one."""
    told = recorded("manifest")
    if recall is not None:
        told["metrics"]["model"]["recall_at_20"] = recall
    facts: dict[str, str | int | float] = {
        name: value if isinstance(value, int | str) else json.dumps(value) for name, value in told.items()
    }
    facts |= {"hash": "h", "model_version": number, "moved_user:u7": 0.8}
    store.publish(number, filled("u", 150, number, touched=True), filled("i", 60, number), facts)
