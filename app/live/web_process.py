"""Starts the process that serves HTTP, and starts it again if it ends.

run ──► [WebProcess] ──► app/web/server.py

Ingestion does not depend on it: a port that is taken is a line in the log, and is tried again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final, Self

import msgspec

from driftgraph.app.config.settings import Settings
from driftgraph.app.console.status_files import told
from driftgraph.app.live.worker_end import end_of
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.processes import start_shielded

PAUSES_S: Final = (1, 5, 15, 60)  # before the next start of one that keeps ending
LOOK_EVERY_S: Final = 0.5
STEADY_LOOKS: Final = 20  # one that lives for so many is well
ENDS_WITHIN_S: Final = 4.0  # then it is killed

log = logging.getLogger(__name__)


def serve(settings: Settings, updater_pid: int, updater: Connection) -> None:
    """Run in the process of its own. Only it imports the HTTP server."""
    from driftgraph.app.web import server  # noqa: PLC0415

    server.main(settings, updater_pid, updater)


class WebProcess:
    """The HTTP server's process, tended by a thread in the ``with`` block; none if ``web.listen`` is off."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="web", daemon=True)
        self._outage = OutageLog(log.warning)
        self._pipe: Connection | None = None  # to the process that runs
        self._lock = threading.Lock()  # a reload comes from another thread

    def reload(self, settings: Settings) -> None:
        """Other settings: the process that runs is sent what can change there, a later one has all."""
        from driftgraph.app.web.live_settings import LiveSettings  # noqa: PLC0415

        with self._lock, suppress(OSError):  # it has just ended; the next one has them from the start
            self._settings = settings
            if self._pipe is not None:
                self._pipe.send_bytes(msgspec.json.encode(LiveSettings.of(settings)))

    def __enter__(self) -> Self:
        if self._settings.web.address() is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._pipe is not None:
            self._pipe.close()

    def _tend(self) -> None:
        context, failures = multiprocessing.get_context("spawn"), 0
        while not self._stopped.is_set():
            with self._lock:
                if self._pipe is not None:
                    self._pipe.close()
                theirs, self._pipe = context.Pipe()
                with theirs:
                    process = context.Process(
                        target=serve,
                        args=(self._settings, os.getpid(), theirs),
                        name="driftgraph-web",
                        daemon=True,
                    )
                    start_shielded(process)
            looks = self._watch(process)
            failures = 1 if looks >= STEADY_LOOKS else failures + 1
            if not self._stopped.is_set():
                self._outage.missing(f"HTTP is not served: {self._why(process)}; it is tried again and again")
            self._stopped.wait(pause_after(failures, PAUSES_S))

    def _watch(self, process: BaseProcess) -> int:
        """Wait for its end, or end it; how often it was seen alive."""
        looks = 0
        while process.is_alive() and not self._stopped.wait(LOOK_EVERY_S):
            looks += 1
            if looks == STEADY_LOOKS:
                self._outage.over("HTTP is served again")
        if process.is_alive():
            process.terminate()
            process.join(ENDS_WITHIN_S)
            if process.is_alive():
                process.kill()
                process.join()
        return looks

    def _why(self, process: BaseProcess) -> str:
        told_ = told(self._settings.data_dir, "web") or {}
        of_this = told_.get("pid") == process.pid and told_.get("failure")
        return str(of_this) if of_this else end_of(process.exitcode, "")
