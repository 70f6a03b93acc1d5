"""Log lines during an outage: one at once, one each minute, and one when it is over.

standby, updater, worker ──► [OutageLog.missing, OutageLog.over] ──► log, progress
a library that logs each try ──► [FewLines] ──► its handlers

A process that waits tries again each second or sooner; a line for each try would hide all other lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

SAY_EVERY_S: Final = 60.0


class OutageLog:
    """Logs what is missing, and not too often.

    Always true: as long as one thing is missing there is one line a minute about it, however often its text
    changes.
    """

    def __init__(self, say: Callable[[str], object], *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._now_s = now_s
        self._about: str | None = None
        self._said_s = 0.0

    def missing(self, text: str, about: str = "it") -> None:
        """Log that something is missing, if the last line was about something else or is a minute old."""
        now_s = self._now_s()
        if about != self._about or now_s - self._said_s >= SAY_EVERY_S:
            self._about, self._said_s = about, now_s
            self._say(text)

    def over(self, text: str = "") -> None:
        """Log that the outage is over, if it was logged."""
        if self._about is not None and text:
            self._say(text)
        self._about = None


class FewLines(logging.Filter):
    """Lets a line of one kind through once a minute, and says how many were left out since.

    Args:
        kinds: Part of a line → its kind; a line with none of these parts is of a kind with those of the same
            template.
    """

    def __init__(self, kinds: Mapping[str, str], *, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._kinds = kinds
        self._now_s = now_s
        self._said: dict[str, tuple[float, int]] = {}  # kind → when, and how many lines since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is to be logged; those below WARNING always are."""
        if record.levelno < logging.WARNING:
            return True
        text, now_s = record.getMessage(), self._now_s()
        kind = next((kind for part, kind in self._kinds.items() if part in text), str(record.msg))
        said_s, left_out = self._said.get(kind, (-SAY_EVERY_S, 0))
        if now_s - said_s < SAY_EVERY_S:
            self._said[kind] = said_s, left_out + 1
            return False
        self._said[kind] = now_s, 0
        if left_out:
            record.msg, record.args = f"{text} (and {left_out:,} lines like it)", ()
        return True
