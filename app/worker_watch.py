"""The GPU worker's process as the updater sees it: started, watched over, started again.

Updater ──► [WorkerProcess.tend] ──► a process that runs ``worker_process.main``
"""

from __future__ import annotations

import logging
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from driftgraph.app import worker_process
from driftgraph.app.config import Settings
from driftgraph.app.lease import LeaseOwner
from driftgraph.stream.clock import Clock

WORKER_STOPS_WITHIN_S = 6.0  # then it is killed; a publish survives that, a fit is lost
RESTART_PAUSES_MS = (0, 1_000, 5_000, 15_000, 60_000)  # before the n-th start of a worker that keeps dying
STEADY_MS = 120_000  # a worker that lived so long starts without a pause again

log = logging.getLogger(__name__)


class WorkerProcess:
    """The GPU worker's process as its parent sees it.

    The worker holds the other end of a pipe and ends when ours is closed, by us or by our death. (An event
    that both wait for would block us for ever once a worker is killed while it waits.)
    """

    def __init__(self, settings: Settings, window_dir: Path, owner: LeaseOwner, clock: Clock) -> None:
        self._settings = settings
        self._owner = owner
        self._window_dir = window_dir
        self._clock = clock
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._changed_ms = 0  # when it was started, or seen to have ended
        self._failures = 0  # in a row
        self.starts = 0
        self.state = "not started"

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None or self.state != "running" else self._process.pid

    def tend(self) -> None:
        """Start it if it does not run and its pause is over."""
        now_ms = self._clock.now_ms()
        if self._process is not None and self._process.is_alive():
            if now_ms - self._changed_ms > STEADY_MS:
                self._failures = 0
            return
        if self._process is not None and self.state == "running":
            self.state = f"ended with {self._process.exitcode}"
            log.error("the worker %s; it is started again", self.state)
            self._changed_ms = now_ms
            self._failures += 1
        pause_ms = RESTART_PAUSES_MS[min(self._failures, len(RESTART_PAUSES_MS) - 1)]
        if now_ms - self._changed_ms >= pause_ms:
            self._start()
            self._changed_ms = now_ms

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is None:
            return
        self._process.join(WORKER_STOPS_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.state = "stopped"

    def _start(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        theirs, self._pipe = self._context.Pipe(duplex=False)
        with theirs:
            self._process = self._context.Process(
                target=worker_process.main,
                args=(self._settings, self._window_dir, self._owner, theirs),
                name="driftgraph-worker",
            )
            self._process.start()
        self.starts += 1
        self.state = "running"
