"""The lists of rising items, what a reader gives to users nobody knows: one writer at a time keeps them.

    the worker, or the Faust app ──► [TrendingLists.replace] ──► Redis ──► EmbeddingReader

The writer is the worker. While somebody else writes them with ``owned_s``, as the Faust app does every few
seconds, they are that one's, by a key that runs out by itself, and the worker's are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import redis

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.check import Standing
from driftgraph.snapshots.generations.delisting import rising_without
from driftgraph.snapshots.generations.keys import Keys, redis_errors
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.vectors import NORM_MAX

TRENDING_MAX = 1_000  # items of a behavior; a reader asks for tens


class TrendingLists:
    """The lists of one namespace.

    Always true: ``_written`` names the behaviors whose lists this writer wrote, with items; None where the
    lists are not ours, or half written.
    """

    def __init__(self, client: redis.Redis, keys: Keys, calls: Scripts, *, epoch: int, ttl_s: int) -> None:
        self._client = client
        self._keys = keys
        self._calls = calls
        self._epoch = epoch
        self._ttl_s = ttl_s
        self._written: set[str] | None = set()

    def replace(self, lists: Mapping[str, Mapping[str, float]], *, owned_s: int = 0) -> bool:
        """Replace all lists, by behavior; those of behaviors that are not named go.

        Returns:
            Whether they were written: not where somebody else keeps them.

        Raises:
            ValueError: More than ``TRENDING_MAX`` items, or a score whose sums could not be finite.
        """
        for behavior, scores in lists.items():
            if len(scores) > TRENDING_MAX:
                raise ValueError(
                    f"trending takes at most {TRENDING_MAX} items, got {len(scores)}; send the highest"
                )
            if not (np.abs(list(scores.values())) <= NORM_MAX).all():
                raise ValueError(f"trending scores of {behavior!r} must be finite, {NORM_MAX:g} at most")
        keys = self._keys
        self._written = None
        with redis_errors(self._client, "reading which items are delisted"):
            sets = [self._client.smembers(name) for name in (keys.delisted, keys.delisted_by_topic)]
        delisted = {item.decode() for one in cast("list[set[bytes]]", sets) for item in one}
        lists = rising_without(lists, delisted) if delisted else lists
        with redis_errors(self._client, "writing what is trending"):
            known = cast("set[bytes]", self._client.smembers(keys.trending_behaviors))
            gone = {name.decode() for name in known}.difference(lists)
            for behavior in (*lists, *sorted(gone)):
                names = [keys.current, keys.trending_owner, keys.trending_behaviors, keys.trending(behavior)]
                scored = lists.get(behavior, {}).items()
                parts = [part for item, score in scored for part in (float(score), item)]
                args = [self._epoch, behavior, self._ttl_s, owned_s, *parts]
                answer = self._calls.run(scripts.TRENDING, names, args)
                if answer == ["owned"]:
                    return False
                self._calls.refuse(answer, 0)
        self._written = {behavior for behavior, scores in lists.items() if scores}
        return True

    def written_by_others(self) -> None:
        """From here on the lists count as not ours, until they are written."""
        self._written = None

    def standing(self) -> Standing:
        """What became of the lists since they were written.

        ``SERVED`` also while somebody else keeps them; ``LOST`` once that one keeps them no longer, and after
        a write that failed; ``DAMAGED`` if Redis has lost some.
        """
        names = [self._keys.trending_behaviors, *map(self._keys.trending, self._written or ())]
        pipe = self._client.pipeline(transaction=False)
        with redis_errors(self._client, "looking for what is trending"):
            pipe.exists(self._keys.trending_owner)
            pipe.exists(*names)
            is_owned, there = pipe.execute()
        if is_owned:
            self._written = None
            return Standing.SERVED
        if self._written is None:
            return Standing.LOST
        return Standing.SERVED if not self._written or there == len(names) else Standing.DAMAGED
