"""Reading waits when too many dead letters are not safe yet.

Updater ──► [LetterGate.hold_back] ──► source.pause, resume
"""

from __future__ import annotations

import logging
from typing import Any

from driftgraph.app.outbox import Outbox
from driftgraph.stream.source import LiveSource

log = logging.getLogger(__name__)


class LetterGate:
    """Keeps a source from getting ahead of its dead letters.

    Always true: the source is paused while ``closed``.
    """

    def __init__(self, source: LiveSource, letters: Outbox) -> None:
        self.closed = False
        self._source = source
        self._letters = letters

    def hold_back(self) -> None:
        """Pause the source while too many letters wait for their place; the caller goes on polling it."""
        letters = self._letters
        if not self.closed and letters.full:
            self.closed = True
            self._source.pause()
            why = letters.failure or "their place is slow"
            log.error("%d dead letters wait: events are read when they are kept (%s)", letters.waiting, why)
        elif self.closed and letters.has_room:
            self.closed = False
            self._source.resume()
            log.warning("dead letters are kept again: events are read")

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "kept": self._letters.safe_count,
            "waiting": self._letters.waiting,
            "failure": self._letters.failure,
            "reading_paused": self.closed,
        }
