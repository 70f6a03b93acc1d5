"""What waits for dead letters that are not safe yet: reading more events, and the committed position.

Updater ──► [LetterGate.hold_back] ──► source.pause, resume
        └─► [LetterGate.commit]    ──► source.commit, of a position whose letters are safe
"""

from __future__ import annotations

import logging
from typing import Any

from driftgraph.app.outbox import Outbox
from driftgraph.stream.source import LiveSource, Position

log = logging.getLogger(__name__)


class LetterGate:
    """Keeps a source from getting ahead of its dead letters.

    Always true: the source is paused while ``closed``; no position was committed that has a letter before it
    which is not safe.
    """

    def __init__(self, source: LiveSource, letters: Outbox) -> None:
        self.closed = False
        self._source = source
        self._letters = letters
        self._next: tuple[int, Position] = (0, {})  # (letters that must be safe before it, position)

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

    def commit(self, applied: Position) -> None:
        """Commit the position of an earlier call if its letters are safe by now, and remember this one."""
        count, position = self._next
        if self._letters.safe_count >= count:
            if position:
                self._source.commit(position)
            self._next = (self._letters.put_count, applied)

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "kept": self._letters.safe_count,
            "waiting": self._letters.waiting,
            "failure": self._letters.failure,
            "reading_paused": self.closed,
        }
