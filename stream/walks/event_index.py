"""The live events of a cut sorted by user and by item, for many questions at that cut.

    WindowView at a cut ──► [EventIndexes] ──► EventIndex ──► paths, similar_users

A walk along the lists of the window misses the cache at each step, and needs no preparation. An index is
read in order of memory, and costs a pass over all events. So a cut gets one as soon as so many questions were
asked at it that the walks cost as much. The answers are the same, to the last bit.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from driftgraph.stream.arrays import I32, I64, U32, Mask
from driftgraph.stream.walks import index_kernels
from driftgraph.stream.walks.index_kernels import EventIndex
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import LOOKS, SEEDS_PER_THREAD, in_parallel
from driftgraph.stream.window.view import Cut, WindowView

EVENTS_PER_QUESTION = 2_000  # events that are sorted in the time that an index saves at one question


class EventIndexes:
    """The index of the cut that is asked at. Several threads may ask at one cut.

    An index answers the questions that have one ``max(time, watermark)``, and so one oldest event: all
    questions about the past, and those of one moment behind the watermark.
    """

    def __init__(self, view: WindowView) -> None:
        self._view = view
        self._key: tuple[Cut, int, int] | None = None  # cut, base, erasures
        self._asked = 0  # questions at the key
        self._index: EventIndex | None = None
        self._lock = threading.Lock()  # the first to need an index makes it, and the others wait

    def at(self, seen: Cut, times_ms: I64) -> EventIndex | None:
        """The index for most of these questions, if it pays. Ask inside of ``WindowView.answered``."""
        if not len(times_ms):
            return None
        base_ms, count = np.unique(np.maximum(times_ms, seen.watermark_ms), return_counts=True)
        key = seen, int(base_ms[count.argmax()]), self._view.erasure_count
        event_count = sum(seen.next) - sum(seen.first)
        with self._lock:
            if key != self._key:
                self._key, self._asked, self._index = key, 0, None
            self._asked += int(count.max())
            if self._index is None and event_count <= self._asked * EVENTS_PER_QUESTION:
                self._index = indexed(self._view, seen, key[1])
            return self._index


def indexed(view: WindowView, seen: Cut, base_ms: int) -> EventIndex:
    """The index of a cut's events for questions of one ``max(time, watermark)``. O(events + rows).

    Raises:
        StaleCut: Events of the cut were overwritten meanwhile.
    """
    events = view.events(seen)
    users = max(view.rows(USER), int(events.user.max(initial=0)) + 1)
    items = max(view.rows(ITEM), int(events.item.max(initial=0)) + 1)
    places = 1 + len(events) + users
    index = EventIndex(
        base_ms, 0, 0,
        np.zeros(users + 1, np.int64),
        np.empty(places, np.uint32), np.empty(places, np.uint32),
        np.empty(places, np.int64), np.empty(places, np.uint8),
        np.zeros(items + 1, np.int64),
        np.empty(len(events), np.uint32),
    )  # fmt: skip
    oldest_R = base_ms - np.array([relation.span_ms for relation in view.relations], np.int64)
    sorted_ = index_kernels.Sorted(events.user, events.item, events.relation, events.time_ms)
    memory = np.empty(users, np.int64), np.empty(items, np.int64)
    newest_ms, longest = index_kernels.fill(sorted_, oldest_R, index, *memory)
    return index._replace(newest_ms=int(newest_ms), longest=int(longest))


def answers(index: EventIndex | None, seen: Cut, times_ms: I64) -> Mask:
    """[N] whether the index has the answers for questions at these times."""
    if index is None:
        return np.zeros(len(times_ms), np.bool_)
    has: Mask = np.maximum(times_ms, seen.watermark_ms) == index.base_ms
    return has


def newest_distinct(
    index: EventIndex, side: int, nodes: U32, times_ms: I64, k: int, relation_count: int
) -> tuple[U32, I32]:
    """Neighbors [B, K] and counts [B], as of ``WindowView.distinct_union``."""
    neighbor_BK, count_B = np.zeros((len(nodes), k), np.uint32), np.zeros(len(nodes), np.int32)
    rows = len(index.first_I if side == USER else index.first_U)

    def fill(part: slice) -> None:
        out = index_kernels.Distinct(
            neighbor_BK[part].reshape(-1), count_B[part], k, LOOKS * k, np.zeros(rows, np.int32),
            np.zeros(relation_count, np.int64),
        )  # fmt: skip
        index_kernels.newest_distinct(index, side, nodes[part], times_ms[part], out)

    in_parallel(fill, len(nodes), SEEDS_PER_THREAD)
    return neighbor_BK, count_B


Columns = tuple[Any, ...]  # arrays by entry, [E, …]


def in_turn(is_first_N: Mask, first: tuple[I64, Columns], second: tuple[I64, Columns]) -> tuple[I64, Columns]:
    """Bounds and columns of N questions from two answers: to those of ``is_first_N``, and to the others."""
    starts_N, counts_N = (np.zeros(len(is_first_N), np.int64) for _ in range(2))
    for mine, (bounds, _), begin in ((is_first_N, first, 0), (~is_first_N, second, int(first[0][-1]))):
        starts_N[mine], counts_N[mine] = begin + bounds[:-1], np.diff(bounds)
    bounds_N1 = np.concatenate([[0], np.cumsum(counts_N)])
    order = np.repeat(starts_N - bounds_N1[:-1], counts_N) + np.arange(bounds_N1[-1])
    pairs = zip(first[1], second[1], strict=True)
    return bounds_N1, tuple(np.concatenate(pair)[order] for pair in pairs)
