"""``driftgraph retrain``: one fit now, by the worker of a running updater, or here where none runs.

    the lock of data_dir is free ──► newest checkpoint ──► lease ──► one fit ──► generation
    it is held ──► a request to the worker ──► its answer

Two processes never train one model: whoever makes the fit holds the lock of the data_dir and the lease of the
namespace, the updater's worker or this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from driftgraph.app.commands.saved_window import require_relations, saved_window
from driftgraph.app.config import saved_model
from driftgraph.app.config.builders import generation_store, lease_client
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.status_files import told
from driftgraph.app.training.process.loop import retrained
from driftgraph.app.training.retraining import Answer, Request, Requests, RetrainError
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.lease import raise_epoch
from driftgraph.stream import disk

LOOK_EVERY_S: Final = 0.2
STILL_S_MAX: Final = 3_600.0  # without a step of the worker: longer than any stage of a fit that ends
EXIT_CODES: Final = {"published": 0, "nothing new": 0, "rejected": 3, "held": 1}


def retrain(settings: Settings, *, full: bool, progress: Progress) -> dict[str, Any]:
    """Make one fit, and say how it ended and who made it.

    Raises:
        RetrainError: Another retrain is at work, a standby has the folder, or the updater's worker ends again
            and again or stands still.
        NoCheckpointError: No updater runs, and there is no checkpoint.
        ConfigError: No relations are configured.
        DriftgraphError: Redis, the disk or the saved model is not as it should be.
    """
    require_relations(settings)
    saved_model.check(settings)
    request, requests = Request.new(full=full), Requests(settings.data_dir)
    with requests.ask(request):
        wait: _Wait | None = None
        while True:
            with _lock(settings) as is_ours:
                if is_ours:
                    return {**_told(_alone(settings, request, progress)), "made_by": "retrain"}
            if wait is None:
                progress.note(f"an updater works in {settings.data_dir}: its worker is asked for the fit")
                wait = _Wait(settings.data_dir, progress)
            if (answer := requests.answered(request)) is not None:
                progress.close()
                return {**_told(answer), "made_by": "worker"}
            wait.look()
            time.sleep(LOOK_EVERY_S)


class _Wait:
    """The wait for the worker of a running updater: shows what that is at, and ends where no fit can come."""

    def __init__(self, data_dir: Path, progress: Progress) -> None:
        self._data_dir = data_dir
        self._progress = progress
        self._seen: tuple[Any, ...] = ()
        self._moved_s = time.monotonic()

    def look(self) -> None:
        """Show what has changed.

        Raises:
            RetrainError: No fit can come, or nothing has moved for ``STILL_S_MAX``.
        """
        updater, standby, worker = (told(self._data_dir, who) for who in ("updater", "standby", "worker"))
        if updater is not None and updater["state"] == "degraded":
            raise RetrainError(f"no fit is made: {updater['why']}; see driftgraph status")
        if standby is not None and str(standby["pid"]) == (self._data_dir / "lock").read_text().strip():
            raise RetrainError(
                f"no fit is made: pid {standby['pid']}, which has {self._data_dir}, {standby['why']}; run "
                "retrain where the updater that publishes has its data_dir"
            )
        updater, worker = updater or {}, worker or {}
        filled = updater.get("position") if updater.get("state") == "filling" else None
        stage = (
            "the window is filled first"
            if filled
            else f"the worker: {worker.get('stage') or 'between two stages'}"
        )
        total, done = (worker.get("total"), worker.get("done") or 0) if worker.get("stage") else (None, 0)
        seen = (stage, total, done, filled, (updater.get("worker") or {}).get("starts"))
        now_s = time.monotonic()
        if seen != self._seen:
            if seen[:2] != self._seen[:2]:
                self._progress.start(stage, total)
                self._progress.advance(done)
            else:
                self._progress.advance(max(0, done - self._seen[2]))
            self._seen, self._moved_s = seen, now_s
        elif now_s - self._moved_s > STILL_S_MAX:
            raise RetrainError(
                f"no fit has come: for {STILL_S_MAX / 60:.0f} minutes nothing has moved ({stage}); see "
                "driftgraph status, and start the updater again"
            )


def _told(answer: Answer) -> dict[str, Any]:
    found = asdict(answer)
    del found["id"]
    return found


def _alone(settings: Settings, request: Request, progress: Progress) -> Answer:
    """Without an updater: the window as of the newest checkpoint, which stays as it is."""
    graph, number, attributes = saved_window(settings)
    held = sum(graph.window.live().values())
    progress.note(f"no updater works here: one fit on checkpoint {number}, with {held:,} events")
    with ExitStack() as stack:
        lease = lease_client(settings).take_alone()
        stack.callback(lease.release)
        client = connect(settings.redis.address())
        stack.callback(client.close)
        epoch = raise_epoch(client, settings.redis.namespace, lease.owner)
        store = generation_store(settings, client, epoch=epoch)
        store.clean_up()
        return retrained(settings, graph, attributes, store, request, progress)


@contextmanager
def _lock(settings: Settings) -> Iterator[bool]:
    """The lock of data_dir, if it is free; whether it was."""
    path = settings.data_dir / "lock"
    with path.open("a+") as file:
        try:
            held = disk.lock(file.fileno(), path)
        except BlockingIOError:
            yield False
            return
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield True
        finally:
            held.close()
