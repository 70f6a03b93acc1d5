"""What waits for dead letters that are not safe yet: reading more events, and the committed position.

Updater ──► [LetterGate.hold_back] ──► source.pause, resume
        └─► [LetterGate.commit]    ──► source.commit, of a position whose letters are safe
"""

from __future__ import annotations

import logging
from typing import Any

from driftgraph.app.erasures import DurableErasures
from driftgraph.app.outbox import Outbox
from driftgraph.stream.source import LiveSource, Position

log = logging.getLogger(__name__)


class LetterGate:
    """Keeps a source from getting ahead of its dead letters.

    Always true: the source is paused while ``closed``; no position was committed that has a letter or a
    request to erase before it which is not safe.
    """

    def __init__(self, source: LiveSource, letters: Outbox, erasures: DurableErasures | None = None) -> None:
        self.closed = False
        self._source = source
        self._letters = letters
        self._erasures = erasures
        self._next: tuple[int, int, Position] = (0, 0, {})  # letters and erasures safe before it, position

    def hold_back(self) -> None:
        """Pause the source while too many letters wait for their place; the caller goes on polling it."""
        letters, erasures = self._letters, self._erasures
        if not self.closed and erasures is not None and erasures.full:
            self.closed = True
            self._source.pause()
            log.error("requests to erase wait: events are read when they are noted (%s)", erasures.failure)
        elif not self.closed and letters.full:
            self.closed = True
            self._source.pause()
            why = letters.failure or "their place is slow"
            log.error("%d dead letters wait: events are read when they are kept (%s)", letters.waiting, why)
        elif self.closed and letters.has_room and (erasures is None or erasures.has_room):
            self.closed = False
            self._source.resume()
            log.warning("what waited for its place is safe: events are read")

    def commit(self, applied: Position) -> None:
        """Commit the position of an earlier call if its letters are safe by now, and remember this one."""
        letters, erasures, position = self._next
        known = self._erasures
        if self._letters.safe_count >= letters and (known is None or known.safe_count >= erasures):
            if position:
                self._source.commit(position)
            self._next = (self._letters.put_count, 0 if known is None else known.put_count, applied)

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "kept": self._letters.safe_count,
            "waiting": self._letters.waiting,
            "failure": self._letters.failure,
            "reading_paused": self.closed,
        }
