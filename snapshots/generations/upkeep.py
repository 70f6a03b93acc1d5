"""Keeps a published generation published: checks Redis about every second and decides what to do.

    loop ──► [Upkeep.look] ──► GenerationStore.standing ──► publish again, wait, or nothing

Redis may forget keys: by FLUSHALL, a restart without its data, an older dump, an eviction. An operator's
rollback leaves a mark in Redis, and so is not taken for that.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final

from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.store import GenerationStore

PAUSE_LOOKS_MIN: Final = 60  # calls before the next repair: a Redis that evicts would evict the repair
PAUSE_LOOKS_MAX: Final = 3_600

log = logging.getLogger(__name__)


class ToDo(Enum):
    """What the worker has to do after a check."""

    NOTHING = 0
    PUBLISH = 1  # the generation is gone, is an older state, or lacks keys
    WRITE_TRENDING = 2  # only the lists of rising items are gone, or nobody else writes them any more
    REST = 3  # an operator rolled back: nothing is refreshed until the next publish


class Upkeep:
    """Checks one generation at a time.

    Always true: a generation that is gone is published again at once; a generation that keeps losing single
    keys is published again at once, then at growing intervals of 60 to 3,600 calls.
    """

    def __init__(self, store: GenerationStore) -> None:
        self._store = store
        self._pause = PAUSE_LOOKS_MIN
        self._looks_left = 0  # calls before the next repair of single keys
        self._rests = False

    def look(self, number: int) -> ToDo:
        """Check whether Redis serves all of generation ``number``.

        Raises:
            StoreError: If Redis does not answer, or a newer worker has taken over.
        """
        standing = self._store.standing(number)
        rested, self._rests = self._rests, standing is Standing.ROLLED_BACK
        self._looks_left = max(0, self._looks_left - 1)
        if standing is Standing.ROLLED_BACK:
            if not rested:
                log.warning("an operator rolled back from generation %d: no refresh until the next", number)
            return ToDo.REST
        if standing is Standing.LOST:
            log.warning("Redis has lost generation %d, or refreshes of it; it is published again", number)
            return ToDo.PUBLISH
        trends = self._store.trending.standing() if standing is Standing.SERVED else standing
        if trends is Standing.LOST:
            log.info("nobody keeps the lists of rising items; the worker writes them")
            return ToDo.WRITE_TRENDING
        if trends is Standing.SERVED:
            if not self._looks_left:
                self._pause = PAUSE_LOOKS_MIN
            return ToDo.NOTHING
        return self._repair(number, ToDo.PUBLISH if standing is Standing.DAMAGED else ToDo.WRITE_TRENDING)

    def _repair(self, number: int, to_do: ToDo) -> ToDo:
        if self._looks_left:
            return ToDo.NOTHING
        what = f"keys of generation {number}" if to_do is ToDo.PUBLISH else "lists of rising items"
        log.warning(
            "Redis has lost %s, which are written again; if it evicts keys, set its maxmemory-policy to "
            "noeviction and give it more memory",
            what,
        )
        self._looks_left, self._pause = self._pause, min(2 * self._pause, PAUSE_LOOKS_MAX)
        return to_do
