"""Sentences about why a worker ended: for the log, the status file and ``driftgraph status``."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final

HINTS: Final = {
    signal.SIGKILL: "is memory short?",
    signal.SIGBUS: "is the disk of the window full?",
    signal.SIGSEGV: "a fault in native code",
    signal.SIGABRT: "a fault in native code",
    signal.SIGILL: "a program for another processor",
}


def failed(failures: int, why: str) -> str:
    """The text about so many failures in a row."""
    return f"failed {failures} times in a row, last: {why}" if failures > 1 else f"failed: {why}"


def worker_of(status: Mapping[str, Any]) -> str | None:
    """What ``status`` tells of a worker that has failed, by the updater's status of it; None if none has."""
    if not status.get("failures"):
        return None
    now = f"it runs again, pid {status['pid']}" if status.get("pid") else "it is being started again"
    return f"{failed(status['failures'], status['why'])}; {now}"


def end_of(status: int | None, words: str) -> str:
    """Why a process ended, by its exit status and the reason that it sent."""
    if status is not None and status < 0:
        try:
            number = signal.Signals(-status)
        except ValueError:
            return f"ended by signal {-status}"
        hint = HINTS.get(number)
        return f"ended by signal {-status} ({number.name})" + (f"; {hint}" if hint else "")
    return words or f"ended with status {status} and without a word; what it printed may tell why"
