"""Ends a long command at a signal: SIGINT and SIGTERM set an event that the command checks."""

from __future__ import annotations

import signal
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
