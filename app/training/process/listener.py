"""Hears the updater in the worker's process: where fits are due, the log's level, and that it is gone.

updater ──► a pipe ──► [Listener: a thread] ──► the loop
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

import msgspec

from driftgraph.app.console import logs
from driftgraph.stream.ingest.fit_schedule import Marks

LOOK_EVERY_S: Final = 0.2  # whether an updater that has closed its end is gone


class Listener(threading.Thread):
    """Hears what the updater says through the pipe: the newest marks, the log's level, and that it is closed.

    When the updater was killed it ends this process at once, also in the middle of a fit: the next updater
    starts a worker of its own.
    """

    def __init__(self, updater: Connection, updater_pid: int) -> None:
        super().__init__(name="listener", daemon=True)
        self.marks = Marks()
        self._updater = updater
        self._updater_pid = updater_pid
        self._is_closed = threading.Event()
        self._begins = threading.Event()  # or it is closed

    def is_told_to_begin(self) -> bool:
        """Wait until the window is full; False if the updater closes its end before."""
        self._begins.wait()
        return not self._is_closed.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, less if the updater closes its end; whether it has."""
        return self._is_closed.wait(seconds)

    def run(self) -> None:
        """Until there is no updater."""
        with suppress(EOFError, OSError):
            while True:
                said = self._updater.recv_bytes()
                self.marks, level, is_full = msgspec.json.decode(said, type=tuple[Marks, str, bool])
                logs.set_level(level)
                if is_full:
                    self._begins.set()
        self._is_closed.set()
        self._begins.set()
        while os.getppid() == self._updater_pid:  # it has only asked us to end, and kills us if we do not
            time.sleep(LOOK_EVERY_S)
        os._exit(1)
