"""What a long command does at a signal: it ends at SIGINT and SIGTERM, and reads its configuration at SIGHUP.

Each signal sets an event that the command checks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopping(stopped: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event instead of ending the process."""

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001  Python calls it so
        stopped.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def reloading(asked: threading.Event, stopped: threading.Event) -> Iterator[None]:
    """SIGHUP sets ``asked``; or ``stopped``, if the terminal of the command is gone: it says both."""
    on_terminal = _is_terminal()

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001  Python calls it so
        (stopped if on_terminal and not _is_terminal() else asked).set()

    before = signal.signal(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _is_terminal() -> bool:
    return sys.__stderr__ is not None and os.isatty(sys.__stderr__.fileno())
