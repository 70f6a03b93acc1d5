"""Starts a process that Ctrl-C does not end: a terminal sends it to all, and the first ends the others.

supervisor, web_process, normalize ──► [start_shielded] ──► a process that ends when it is told to

A process that ignores the signal by its own code does so only once that code is imported, after seconds of
loading; a Ctrl-C in these seconds would end it with a traceback.
"""

from __future__ import annotations

import signal
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Final

# SIGHUP comes when a terminal closes, and is for the process that reads its configuration again
SHIELDED: Final = (signal.SIGINT, signal.SIGHUP)


def start_shielded(process: BaseProcess) -> None:
    """Start a process of the method ``spawn`` in which both signals are blocked from its first instruction.

    They stay blocked in it. A process inherits which signals are blocked from the thread that starts it.
    """
    resource_tracker.ensure_running()  # type: ignore[attr-defined,unused-ignore]  # its start would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
