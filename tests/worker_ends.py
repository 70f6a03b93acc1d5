"""Workers that end, as targets for a process of their own."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any


def by_saying_why(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    updater.send_bytes(b"the shelf is empty; fill it")
    raise SystemExit(1)


def by_half_a_word(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    """The length of a message, and then killed."""
    os.write(updater.fileno(), b"\0\0\0\x20half")
    os.kill(os.getpid(), signal.SIGKILL)


def by_a_signal(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def without_a_word(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    os._exit(3)


def not_until_told(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    updater.poll(60)


def not_even_then(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    time.sleep(60)


def by_saying_what_it_was_told(settings: Any, window_dir: Any, owner: Any, updater: Connection) -> None:
    updater.send_bytes(updater.recv_bytes())
    raise SystemExit(1)
