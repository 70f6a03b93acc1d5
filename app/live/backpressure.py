"""Reading waits when too much is not safe yet that a position must not pass: dead letters, requests to erase.

Updater ──► [Backpressure.apply] ──► source.pause, resume
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from driftgraph.stream.sources.source import LiveSource

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """What waits for its place, with a limit."""

    @property
    def full(self) -> bool:
        """Whether nothing more should be read."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after it was full."""
        ...

    @property
    def told(self) -> str:
        """What waits, and why, as a sentence for the log."""
        ...


class Backpressure:
    """Keeps a source from getting ahead of what has to be safe.

    Always true: the source is paused while ``paused``.
    """

    def __init__(self, source: LiveSource, waiting: Sequence[Waiting]) -> None:
        self.paused = False
        self._source = source
        self._waiting = waiting

    def apply(self) -> None:
        """Pause the source while too much waits for its place; the caller goes on polling it."""
        if not self.paused and (full := [one for one in self._waiting if one.full]):
            self.paused = True
            self._source.pause()
            log.error("%s; events are read when there is room again", full[0].told)
        elif self.paused and all(one.has_room for one in self._waiting):
            self.paused = False
            self._source.resume()
            log.warning("what waited is safe: events are read")
