"""Keeps a published generation published: checks Redis about every second and decides what to do.

    loop ──► [Upkeep.look] ──► GenerationStore.standing ──► publish again, wait, or nothing

Redis may forget keys: by FLUSHALL, a restart without its data, an older dump, an eviction. What an operator
does is numbered (choice.py), and so is not taken for that.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final

from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.store import GenerationStore

PAUSE_LOOKS_MIN: Final = 60  # calls before the next repair: a Redis that evicts would evict the repair
PAUSE_LOOKS_MAX: Final = 3_600
AT_ONCE_MAX: Final = 3  # losses of a whole generation that are repaired without a pause
EVICTS: Final = (
    "if it evicts keys (maxmemory), set its maxmemory-policy to noeviction and give it more memory"
)

log = logging.getLogger(__name__)


class ToDo(Enum):
    """What the worker has to do after a check."""

    NOTHING = 0
    PUBLISH = 1  # the generation is gone, is an older state, or lacks keys
    WRITE_TRENDING = 2  # only the lists of rising items are gone, or nobody else writes them any more
    REST = 3  # a lost generation waits for its publish: nothing is refreshed
    FOLLOW = 4  # an operator has chosen what is served


class Upkeep:
    """Checks one generation at a time.

    Always true: a generation that is gone is published again at once; from its fourth loss on it is published
    again at growing intervals of 60 to 3,600 calls, until it has stayed for 3,600. A generation that keeps
    losing single keys is published again at once, then at such intervals.
    """

    def __init__(self, store: GenerationStore) -> None:
        self._store = store
        self._pause = PAUSE_LOOKS_MIN
        self._looks_left = 0  # calls before the next repair of single keys
        self._losses = 0  # of the whole generation, since it stayed
        self._loss_pause = PAUSE_LOOKS_MIN
        self._loss_looks_left = 0  # before it is published again
        self._looks_since_loss = 0

    def look(self, number: int) -> ToDo:
        """Check whether Redis serves all of generation ``number``.

        Raises:
            StoreError: If Redis does not answer, or a newer worker has taken over.
        """
        standing = self._store.standing(number)
        self._looks_left = max(0, self._looks_left - 1)
        self._loss_looks_left = max(0, self._loss_looks_left - 1)
        self._looks_since_loss += 1
        if self._looks_since_loss > PAUSE_LOOKS_MAX:
            self._losses, self._loss_pause = 0, PAUSE_LOOKS_MIN
        if standing is Standing.CHOSEN:
            return ToDo.FOLLOW
        if standing is Standing.LOST:
            return self._publish_again(number)
        trends = self._store.trending.standing() if standing is Standing.SERVED else standing
        if trends is Standing.LOST:
            log.info("no Faust app writes the lists of rising items; the worker does")
            return ToDo.WRITE_TRENDING
        if trends is Standing.SERVED:
            if not self._looks_left:
                self._pause = PAUSE_LOOKS_MIN
            return ToDo.NOTHING
        return self._repair(number, ToDo.PUBLISH if standing is Standing.DAMAGED else ToDo.WRITE_TRENDING)

    def _publish_again(self, number: int) -> ToDo:
        self._looks_since_loss = 0
        if self._loss_looks_left:
            return ToDo.REST
        self._losses += 1
        log.warning("Redis has lost generation %d, or refreshes of it; it is published again", number)
        if self._losses >= AT_ONCE_MAX:
            self._loss_looks_left = self._loss_pause
            self._loss_pause = min(2 * self._loss_pause, PAUSE_LOOKS_MAX)
            log.warning(
                "Redis has lost what it serves %d times; if it does so again, it serves nothing for up to %d "
                "s, as another publish might be evicted too; %s",
                self._losses,
                self._loss_looks_left,
                EVICTS,
            )
        return ToDo.PUBLISH

    def _repair(self, number: int, to_do: ToDo) -> ToDo:
        if self._looks_left:
            return ToDo.NOTHING
        what = f"keys of generation {number}" if to_do is ToDo.PUBLISH else "lists of rising items"
        log.warning("Redis has lost %s, which are written again; %s", what, EVICTS)
        self._looks_left, self._pause = self._pause, min(2 * self._pause, PAUSE_LOOKS_MAX)
        return to_do
