"""The samplers: from the lists of a window at a cut to the neighborhoods of many nodes.

    WindowView ──► Lists, Question ──► [recent, distinct, distinct_union, drawn] ──► arrays

``WindowView`` says what each answer is, and whether its cut was still whole at the end. This module makes
room for the answers, and has ``recent_kernels`` and ``distinct_kernels`` fill them, on several threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, U32
from driftgraph.stream.kernels.hashing import GOLDEN, fold
from driftgraph.stream.window import distinct_kernels, recent_kernels
from driftgraph.stream.window.adjacency import Side

Answer = TypeVar("Answer")
THREADS = min(os.cpu_count() or 1, 8)
SEEDS_PER_THREAD = 4_096  # with fewer, a thread costs more than it saves
LOOKS = 16  # events that a search for k distinct neighbors looks at, as a multiple of k
DISTINCT_MAX = 4_096  # distinct neighbors asked for: bounds the tables of a thread to 2 MiB


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of one side's nodes, as of a cut."""

    side: Side
    rings: recent_kernels.Rings
    row_count: int  # the heads of later rows may have no room on the disk yet


@dataclass(frozen=True, slots=True)
class Question:
    """Whose neighbors are wanted, B nodes each before a time, and how many by each of R relations."""

    nodes: U32
    times_ms: I64
    fanout: I64

    def seeds(self, part: slice, row_count: int) -> recent_kernels.Seeds:
        """A part of the nodes, as kernels take it."""
        return recent_kernels.Seeds(self.nodes[part], self.times_ms[part], self.fanout, row_count)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, R, K of the answer."""
        return len(self.nodes), len(self.fanout), int(self.fanout.max(initial=0))


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """Recent neighbors. Shape suffixes: B seeds, R relations, K neighbors, newest first.

    The first ``count_BR[b, r]`` of the K are real; the others are zeros.
    """

    neighbor_BRK: U32
    time_ms_BRK: I64
    count_BR: I32


@dataclass(frozen=True, slots=True)
class DistinctNeighborhood(Neighborhood):
    """As ``Neighborhood``, but none comes twice. The time is that of the newest event."""

    repeats_BRK: I32  # the events of the neighbor that were looked at; 1 or more where it is real


@dataclass(frozen=True, slots=True)
class DistinctUnion:
    """Distinct neighbors over all relations, newest first: the first ``count_B[b]`` of the K are real."""

    neighbor_BK: U32
    time_ms_BK: I64
    relation_BK: U8  # of the newest event
    repeats_BK: I32
    count_B: I32


def recent(lists: Lists, question: Question) -> Neighborhood:
    """``WindowView.recent``."""
    shape = question.shape
    result = Neighborhood(
        np.zeros(shape, np.uint32), np.zeros(shape, np.int64), np.zeros(shape[:2], np.int32)
    )

    def fill(part: slice) -> None:
        seeds = question.seeds(part, lists.row_count)
        found = recent_kernels.Found(
            result.neighbor_BRK[part].reshape(-1),
            result.time_ms_BRK[part].reshape(-1),
            result.count_BR[part].reshape(-1),
        )
        recent_kernels.recent_events(lists.side, lists.rings, seeds, found, recent_kernels.scratch())

    in_parallel(fill, shape[0], SEEDS_PER_THREAD)
    return result


def distinct(lists: Lists, question: Question) -> DistinctNeighborhood:
    """``WindowView.distinct``."""
    result = _room_for_distinct(question)

    def fill(part: slice) -> None:
        _fill_distinct(lists, question, part, _found(result, part))

    in_parallel(fill, len(question.nodes), SEEDS_PER_THREAD)
    return result


def distinct_union(lists: Lists, question: Question) -> DistinctUnion:
    """``WindowView.distinct_union``."""
    by_relation = _room_for_distinct(question)
    seed_count, relation_count, width = question.shape
    result = _room_for_union(seed_count, width)

    def fill(part: slice) -> None:
        found = _found(by_relation, part)
        _fill_distinct(lists, question, part, found)
        _merge(found, result, part, relation_count)

    in_parallel(fill, seed_count, SEEDS_PER_THREAD)
    return result


def union(hood: Neighborhood) -> DistinctUnion:
    """Each neighbor of each seed once, over all relations, in the relation of its newest event.

    Of one time, the later relation comes first. A count is the sum of the counts by relation, where ``hood``
    has them; otherwise it is that of the neighbor's events in ``hood``.
    """
    seed_count, relation_count, width = hood.neighbor_BRK.shape
    shape = seed_count, relation_count * width
    if isinstance(hood, DistinctNeighborhood):
        repeats_BRK = hood.repeats_BRK
    else:
        repeats_BRK = np.ones(hood.neighbor_BRK.shape, np.int32)
    by_relation = DistinctNeighborhood(hood.neighbor_BRK, hood.time_ms_BRK, hood.count_BR, repeats_BRK)
    result = _room_for_union(*shape)
    in_parallel(
        lambda part: _merge(_found(by_relation, part), result, part, relation_count),
        seed_count,
        SEEDS_PER_THREAD,
    )
    return result


def _room_for_distinct(question: Question) -> DistinctNeighborhood:
    shape = question.shape
    if shape[2] > DISTINCT_MAX:
        raise ValueError(f"k must be at most {DISTINCT_MAX} for distinct neighbors, got {shape[2]}")
    return DistinctNeighborhood(
        np.zeros(shape, np.uint32),
        np.zeros(shape, np.int64),
        np.zeros(shape[:2], np.int32),
        np.zeros(shape, np.int32),
    )


def _room_for_union(seed_count: int, width: int) -> DistinctUnion:
    shape = seed_count, width
    return DistinctUnion(
        np.zeros(shape, np.uint32),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.int32),
        np.zeros(seed_count, np.int32),
    )


def _merge(
    found: distinct_kernels.FoundDistinct, result: DistinctUnion, part: slice, relation_count: int
) -> None:
    union_ = distinct_kernels.FoundUnion(
        result.neighbor_BK[part].reshape(-1),
        result.time_ms_BK[part].reshape(-1),
        result.relation_BK[part].reshape(-1),
        result.repeats_BK[part].reshape(-1),
        result.count_B[part],
    )
    table = distinct_kernels.tables(result.neighbor_BK.shape[1], 1)
    distinct_kernels.merge_relations(found, union_, table, np.zeros(relation_count, np.int64))


def _found(result: DistinctNeighborhood, part: slice) -> distinct_kernels.FoundDistinct:
    return distinct_kernels.FoundDistinct(
        result.neighbor_BRK[part].reshape(-1),
        result.time_ms_BRK[part].reshape(-1),
        result.repeats_BRK[part].reshape(-1),
        result.count_BR[part].reshape(-1),
    )


def _fill_distinct(
    lists: Lists, question: Question, part: slice, found: distinct_kernels.FoundDistinct
) -> None:
    distinct_kernels.distinct_events(
        lists.side,
        lists.rings,
        question.seeds(part, lists.row_count),
        LOOKS * question.fanout,
        found,
        distinct_kernels.tables(question.shape[2]),
        recent_kernels.scratch(),
    )


def drawn(pool: Neighborhood, question: Question) -> Neighborhood:
    """The neighbors of ``pool`` whose hashes are lowest, as many as each relation's fanout."""
    nodes, times_ms, fanout = question.nodes, question.times_ms, question.fanout
    place_P = np.arange(pool.neighbor_BRK.shape[2])
    chance_BRP = np.zeros(pool.neighbor_BRK.shape, np.uint64)
    seeds = (nodes[:, None, None], times_ms[:, None, None])
    fold((*seeds, pool.neighbor_BRK, pool.time_ms_BRK, place_P), GOLDEN, into=chance_BRP)
    chance_BRP[place_P >= pool.count_BR[:, :, None]] = np.iinfo(np.uint64).max
    width = int(fanout.max(initial=0))
    chosen = np.argsort(chance_BRP, axis=2)[:, :, :width]
    count = np.minimum(pool.count_BR, fanout).astype(np.int32)
    behind = np.arange(width) >= count[:, :, None]
    chosen[behind] = len(place_P)  # sorts them to the end
    chosen.sort(axis=2)
    chosen[behind] = 0
    neighbor: U32 = np.take_along_axis(pool.neighbor_BRK, chosen, 2)
    time_ms: I64 = np.take_along_axis(pool.time_ms_BRK, chosen, 2)
    neighbor[behind] = 0
    time_ms[behind] = 0
    return Neighborhood(neighbor, time_ms, count)


_own = (
    threading.local()
)  # a pool for each thread that asks, so that a refresh is not behind a fit's questions


def in_parallel(work: Callable[[slice], Answer], total: int, per_thread: int) -> list[Answer]:
    """``work(slice)`` over ``total`` rows in order, on as many threads as have ``per_thread`` rows each.

    What ``work`` asks of it in turn is done by its own thread, since the others have work.
    """
    parts = min(THREADS, max(1, total // per_thread))
    if parts == 1 or getattr(_own, "is_part", False):
        return [work(slice(0, total))]
    pool: ThreadPoolExecutor | None = getattr(_own, "pool", None)
    if pool is None:
        pool = _own.pool = ThreadPoolExecutor(
            THREADS, thread_name_prefix="window", initializer=setattr, initargs=(_own, "is_part", True)
        )
    edges = [total * i // parts for i in range(parts + 1)]
    return list(pool.map(work, [slice(a, b) for a, b in pairwise(edges)]))
