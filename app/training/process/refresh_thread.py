"""The thread that refreshes beside the worker's loop, which may be in a fit or a publish for minutes.

shared memory ──► [refreshing: a thread] ──► Refresher.round ──► Redis, by a connection of its own
                       └─ what it does, and what is in its way ──► data_dir/status/worker.json
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from driftgraph.app.publishing.refresher import Refresher
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.snapshots.generations.keys import (
    CALL_FAILS_WITHIN_S,
    NotCurrentError,
    StaleWorkerError,
    StoreError,
)
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.window.writer import StaleCut

LOOK_EVERY_S: Final = 0.1  # an event waits at most this long for its refresh to begin
NOT_SERVED_S: Final = 1.0  # until it is looked again whether the generation is served
PAUSES_S: Final = (0.5, 1, 2, 5)  # while Redis does not do what it should
FAULT_PAUSES_S: Final = (1, 2, 5, 10, 30)
FAULTS_MAX: Final = 5  # in a row; then the worker ends and is started anew
STALE_FROM: Final = 3  # times in a row are no accident
RING_TOO_SMALL: Final = (
    "events leave their ring while they are read, so that nobody is refreshed; raise window.capacity or "
    "relations.NAME.capacity (driftgraph doctor says by how much)"
)

log = logging.getLogger(__name__)


class RefreshThread(threading.Thread):
    """Makes rounds until it is stopped.

    Always true: it ends only when it is asked to, or with ``failure`` set, which ``check`` raises in the
    worker's loop. What Redis or a fault prevents is tried again with growing pauses, and told in the status.
    """

    def __init__(self, refresher: Refresher, status: WorkerStatus, faults: Path | None = None) -> None:
        """``faults`` is the file for the traceback of a fault of ours."""
        super().__init__(name="refreshing", daemon=True)
        self.failure: Exception | None = None
        self._refresher, self._status, self._faults_path = refresher, status, faults
        self._stopped = threading.Event()
        self._failures = self._faults = self._stale = 0  # in a row
        self._outage, self._ring = OutageLog(log.warning), OutageLog(log.warning)

    def stop(self) -> None:
        """Ask it to end, and wait as long as a call of Redis may take."""
        self._stopped.set()
        self.join(CALL_FAILS_WITHIN_S)

    @property
    def is_refused(self) -> bool:
        """Whether Redis did not take the newest round."""
        return self._failures > 0

    def check(self) -> None:
        """Raise what ended the thread, if it has ended by itself."""
        if self.failure is not None:
            raise self.failure
        if not self.is_alive() and not self._stopped.is_set():
            raise RuntimeError("the thread that refreshes users has ended without a word")

    def run(self) -> None:
        """Rounds, at once where somebody waits for the next."""
        pause_s = LOOK_EVERY_S
        while not self._stopped.wait(pause_s):
            try:
                done = self._refresher.round(self._refresher.graph.moment())
            except StaleWorkerError as error:
                self.failure = error
                return
            except Exception as error:
                pause_s = self._pause_after(error)
                if self._faults >= FAULTS_MAX:
                    self.failure = error
                    return
            else:
                pause_s = 0.0 if done.waiting and done.users else LOOK_EVERY_S
                self._is_well()
                self._status.refreshed(self._refresher.facts, None)

    def _pause_after(self, error: Exception) -> float:
        """Tell what went wrong; how long to wait before the next try."""
        if isinstance(
            error, NotCurrentError
        ):  # an operator's rollback, or Redis has lost it: the loop sees to it
            self._status.refreshed(self._refresher.facts, str(error))
            return NOT_SERVED_S
        if isinstance(error, StaleCut):  # the ring moved on meanwhile; the next moment is a newer one
            self._stale += 1
            if self._stale >= STALE_FROM:
                self._ring.missing(RING_TOO_SMALL)
                self._status.refreshed(self._refresher.facts, RING_TOO_SMALL)
            return LOOK_EVERY_S
        if isinstance(error, StoreError):
            self._failures += 1
            self._status.work.redis_errors["refresh"] += 1
            self._outage.missing(f"{error}; users are refreshed when it does")
            self._status.refreshed(self._refresher.facts, str(error))
            return float(pause_after(self._failures, PAUSES_S))
        self._faults += 1
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if self._faults_path is not None:
            try:
                self._faults_path.parent.mkdir(parents=True, exist_ok=True)
                self._faults_path.write_text(traceback.format_exc(), encoding="utf-8")
                said += f" (the traceback is in {self._faults_path})"
            except OSError:
                log.exception("users are not refreshed")
        log.error("users are not refreshed: %s; try %d of %d", said, self._faults, FAULTS_MAX)
        self._status.refreshed(self._refresher.facts, said)
        return float(pause_after(self._faults, FAULT_PAUSES_S))

    def _is_well(self) -> None:
        self._failures = self._faults = self._stale = 0
        self._outage.over("users are refreshed again")
        self._ring.over("the refresh of users keeps up with the window again")


@contextmanager
def refreshing(
    refresher: Refresher, status: WorkerStatus, faults: Path | None = None
) -> Iterator[RefreshThread]:
    """Refresh in a thread meanwhile. It ends with the block, as soon as its call of Redis has ended."""
    thread = RefreshThread(refresher, status, faults)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
