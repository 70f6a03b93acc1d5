"""Supervises the process of the GPU worker for the updater: starts it, watches it, starts it again.

    Updater ──► [Supervisor.tend] ──► a process that runs ``work``
                       └──►── the newest marks, where a fit is due
                       └──◄── why it ended, through a pipe

A worker that ends is started again with growing pauses. A worker that ends again and again is failing.
"""

from __future__ import annotations

import logging
import multiprocessing
import select
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from driftgraph.app.config.settings import Settings
from driftgraph.app.live.worker_end import end_of, failed
from driftgraph.snapshots.generations.lease import LeaseOwner
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.processes import start_shielded
from driftgraph.stream.time.clock import Clock

WORKER_STOPS_WITHIN_S: Final = 6.0  # then it is killed; a publish survives that, a fit is lost
RESTART_PAUSES_MS: Final = (1_000, 5_000, 15_000, 60_000)  # before the next start of one that keeps ending
STEADY_MS: Final = 120_000  # a worker that lives so long, and twice as long as those that failed, is well
LONG_MS: Final = 3_600_000  # a failure after so long a life does not count with earlier ones
FAILING_FROM: Final = 2  # failures in a row; a single one may be an accident
SAY_EVERY_MS: Final = 60_000  # between two log lines with the same reason

log = logging.getLogger(__name__)


def work(settings: Settings, window_dir: Path, owner: LeaseOwner, updater: Connection) -> None:
    """Run in the worker's process. Only it imports torch, which takes some seconds, and 200 MB."""
    from driftgraph.app.training.process import loop  # noqa: PLC0415

    loop.main(settings, window_dir, owner, updater)


class Told(NamedTuple):
    """What the updater says to its worker."""

    marks: Marks
    level: str  # of the log
    is_full: bool = False  # whether the window has all that the topics had at the start


class Supervisor:
    """Starts and stops the worker's process. It is the parent's side.

    The worker holds the other end of a pipe and ends when ours is closed, by us or by our death. (An event
    that both wait for would block us for ever once a worker is killed while it waits.) We send the newest
    marks, again to each worker that is started; it sends why it ends. Nothing here waits for it. It may be
    started while the window is filled: until it hears of marks, it waits.
    """

    def __init__(self, settings: Settings, window_dir: Path, owner: LeaseOwner, clock: Clock) -> None:
        self._settings = settings
        self._owner = owner
        self._window_dir = window_dir
        self._clock = clock
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._is_running = False
        self._is_stopped = False
        self._told = self._sent = Told(Marks(), settings.log.level)  # ``_sent`` to the worker that runs
        self._changed_ms = 0  # when the process was started, or its end was noticed
        self._longest_ms = 0  # the longest life of the workers that failed
        self._said: tuple[str, int] = ("", 0)
        self.starts = 0
        self.failures = 0  # in a row
        self.why = ""  # the reason of the last failure

    @property
    def pid(self) -> int | None:
        """The pid of the running process."""
        return self._process.pid if self._process is not None and self._is_running else None

    @property
    def state(self) -> str:
        """``not started``, ``running``, ``failed`` (until its next start), ``failing``, ``stopped``."""
        if self._is_stopped:
            return "stopped"
        if self.is_failing:
            return "failing"
        if self._is_running:
            return "running"
        return "failed" if self.failures else "not started"

    @property
    def is_failing(self) -> bool:
        """Whether the worker ends again and again."""
        return self.failures >= FAILING_FROM

    @property
    def trouble(self) -> str | None:
        """A sentence that says why nothing is published; None unless the worker is failing."""
        return f"the worker {failed(self.failures, self.why)}" if self.is_failing else None

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "state": self.state,
            "pid": self.pid,
            "starts": self.starts,
            "failures": self.failures,
            "why": self.why or None,
        }

    def tell(self, marks: Marks) -> None:
        """The window is full, and a worker begins with it. These are the marks that it should know of.

        It is told with the next ``tend`` that finds room in the pipe.
        """
        self._told = self._told._replace(marks=marks, is_full=True)

    def reload(self, settings: Settings) -> None:
        """Other settings, of which the level of the log holds at once, for this worker as for later ones."""
        self._settings = settings
        self._told = self._told._replace(level=settings.log.level)

    def tend(self) -> None:
        """Start it if it does not run and its pause is over; send it the newest marks."""
        now_ms = self._clock.now_ms()
        if self._is_running:
            assert self._process is not None
            if self._process.is_alive():
                self._tell_recovery(now_ms - self._changed_ms)
                self._send()
                return
            self._is_running = False
            why = end_of(self._process.exitcode, self._last_words())
            self._note_failure(why, now_ms, lived_ms=now_ms - self._changed_ms)
            self._changed_ms = now_ms
        if now_ms - self._changed_ms >= pause_after(self.failures, RESTART_PAUSES_MS):
            try:
                self._start()
            except OSError as error:  # the system has no room for a process: ingestion goes on
                self._note_failure(f"cannot be started: {error.strerror or error}", now_ms, lived_ms=0)
            self._changed_ms = now_ms

    def stop(self) -> None:
        """Ask the worker to end, and kill it if it does not."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self._is_stopped = True
        if self._process is None:
            return
        self._process.join(WORKER_STOPS_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._is_running = False

    def _start(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        theirs, self._pipe = self._context.Pipe()
        with theirs:
            process = self._context.Process(
                target=work,
                args=(self._settings, self._window_dir, self._owner, theirs),
                name="driftgraph-worker",
            )
            self.starts += 1
            start_shielded(process)
        self._process, self._is_running, self._sent = process, True, Told(Marks(), self._settings.log.level)

    def _send(self) -> None:
        """Send what is new, if there is room: a worker that stands still reads nothing."""
        assert self._pipe is not None
        if self._told == self._sent:
            return
        room = select.poll()
        room.register(self._pipe, select.POLLOUT)
        if room.poll(0):
            with suppress(OSError):  # it has just ended; the next one is told
                self._pipe.send_bytes(msgspec.json.encode(self._told))
            self._sent = self._told

    def _last_words(self) -> str:
        """The reason that the worker sent before it ended; empty without one."""
        assert self._pipe is not None
        with suppress(EOFError, OSError):  # it was killed, perhaps while it sent
            if self._pipe.poll():
                return self._pipe.recv_bytes().decode(errors="replace")
        return ""

    def _note_failure(self, why: str, now_ms: int, *, lived_ms: int) -> None:
        if lived_ms > LONG_MS:
            self.failures = self._longest_ms = 0
        self.failures += 1
        self.why = why
        self._longest_ms = max(self._longest_ms, lived_ms)
        said, said_ms = self._said
        if why != said or now_ms - said_ms >= SAY_EVERY_MS:
            self._said = why, now_ms
            log.error("the worker %s; it is started again", failed(self.failures, why))

    def _tell_recovery(self, lived_ms: int) -> None:
        if self.failures and lived_ms > min(LONG_MS, max(STEADY_MS, 2 * self._longest_ms)):
            log.warning("the worker is well again: it has run for %d s", lived_ms // 1_000)
            self.failures = self._longest_ms = 0
            self.why = ""
