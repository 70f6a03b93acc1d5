"""Waiting for what another thread or process does: until it is so, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_true: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Look every 10 ms until ``is_true`` says so. The end is far away, since a machine may be busy."""
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, f"not in {timeout_s:g} s"
        time.sleep(0.01)
