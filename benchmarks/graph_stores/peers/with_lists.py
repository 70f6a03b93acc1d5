"""The plainest peer: a Python list of events for every node and relation, and ``bisect``."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

import numpy as np

from benchmarks.graph_stores.store import Answers, K, Sampler
from benchmarks.traffic import Shop, Traffic
from driftgraph.stream.arrays import I64, U32

Found = list[tuple[int, int, list[int], list[int]]]  # node, relation, neighbors, times


class Lists:
    """Times and neighbors of each (node, relation), oldest first. Right for events in order of time only."""

    whole_window, incremental = True, True
    events_max = 2_000_000  # about 400 bytes an event; its rate falls slowly with the size, so this favors it
    by_relation, hops, seeds_share = True, 1, 0.1

    def __init__(self, relation_count: int) -> None:
        self.relation_count = relation_count
        self._times: tuple[defaultdict[int, list[int]], ...] = (defaultdict(list), defaultdict(list))
        self._neighbors: tuple[defaultdict[int, list[int]], ...] = (defaultdict(list), defaultdict(list))

    def load(self, traffic: Traffic) -> None:
        """The same as ``append``."""
        self.append(traffic)

    def append(self, batch: Traffic) -> None:
        """Two appends to lists for each side of an event."""
        count = self.relation_count
        user_times, item_times = self._times
        user_neighbors, item_neighbors = self._neighbors
        columns = (batch.user, batch.item, batch.relation, batch.time_ms)
        for user, item, relation, time_ms in zip(*(c.tolist() for c in columns), strict=True):
            key = user * count + relation
            user_times[key].append(time_ms)
            user_neighbors[key].append(item)
            key = item * count + relation
            item_times[key].append(time_ms)
            item_neighbors[key].append(user)

    def samplers(self) -> dict[str, Sampler]:
        """Itself."""
        return {"bisect": self}

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Found:
        """A bisection and two slices for each node and relation."""
        times, neighbors, count = self._times[side], self._neighbors[side], self.relation_count
        result: Found = []
        for node, before in zip(nodes.tolist(), before_ms.tolist(), strict=True):
            for relation in range(count):
                key = node * count + relation
                if key in times:
                    end = bisect_left(times[key], before)
                    start = max(0, end - K)
                    result.append((node, relation, neighbors[key][start:end], times[key][start:end]))
        return result

    def found(self, result: Found) -> tuple[U32, I64]:
        """Flat."""
        return (
            np.array([n for *_, neighbors, _ in result for n in neighbors], np.uint32),
            np.array([t for *_, times in result for t in times], np.int64),
        )

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """Flat, with node and relation."""
        result = self.recent(side, nodes, before_ms)
        sizes = [len(times) for *_, times in result]
        neighbor, time_ms = self.found(result)
        return Answers(
            np.repeat([row[0] for row in result], sizes),
            np.repeat([row[1] for row in result], sizes),
            neighbor,
            time_ms,
        )


def make(shop: Shop) -> Lists:
    """Empty."""
    return Lists(len(shop.shares))
