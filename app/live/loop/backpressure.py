"""Pauses reading while too many dead letters or requests to erase wait to become safe.

Updater ──► [Backpressure.apply] ──► source.pause, resume
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from driftgraph.stream.sources.source import LiveSource

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """A queue of things that wait to become safe, with a limit."""

    @property
    def full(self) -> bool:
        """Whether reading should pause."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after a pause."""
        ...

    @property
    def told(self) -> str:
        """A sentence for the log: how many things wait, and why."""
        ...


class Backpressure:
    """Pauses a source while one of its queues is full.

    Always true: the source is paused while ``paused``.
    """

    def __init__(self, source: LiveSource, waiting: Sequence[Waiting]) -> None:
        self.paused = False
        self._source = source
        self._waiting = waiting

    def apply(self) -> None:
        """Pause or resume the source, as the queues tell. The caller goes on polling a paused source."""
        if not self.paused and (full := [one for one in self._waiting if one.full]):
            self.paused = True
            self._source.pause()
            log.error("%s; events are read when there is room again", full[0].told)
        elif self.paused and all(one.has_room for one in self._waiting):
            self.paused = False
            self._source.resume()
            log.warning("what waited is safe: events are read")
