"""Distinct recent neighbors: the K newest distinct neighbors of a node, strictly before a time, as of a cut.

The search and the walk in rounds are those of ``recent_kernels``. Each list of a block has a small hash table
of the neighbors that it has kept, so that an event costs the same for every K. A neighbor that comes again is
counted at its place and takes no other one. The walk along a list ends with the last neighbor that is wanted,
or after a number of events that the caller bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, U16, U32
from driftgraph.stream.kernels.atomics import load
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.adjacency import TIME, TIMES, WORDS, Side, offset_of
from driftgraph.stream.window.recent_kernels import (
    BLOCK,
    LONG,
    NUMBER,
    RELATION,
    SLOT,
    WALK_WORDS,
    Rings,
    Scratch,
    Seeds,
    found_lists,
    is_taken,
    step_on,
)

LEFT = LONG  # of a walk that takes neighbors: the events that it may still look at (LONG is for the search)
SPREAD = 0x9E3779B1  # 2**32 by the golden ratio: the high bits of a product with it are a hash of a row


class FoundDistinct(NamedTuple):
    """The distinct neighbors, [B, R, K] laid out flat, and how many each list gave, [B, R] laid out flat."""

    neighbor_N: U32
    time_N: I64  # of the newest event
    repeats_N: I32  # events looked at
    count_N: I32


class FoundUnion(NamedTuple):
    """The distinct neighbors over all relations, [B, K] laid out flat, and how many each seed has, [B]."""

    neighbor_N: U32
    time_N: I64
    relation_N: U8  # of the newest event
    repeats_N: I32
    count_N: I32


class Tables(NamedTuple):
    """A hash table for each list of a block: where each kept neighbor stands.

    An entry is the neighbor's place among the kept ones + 1; 0 is free. At least half of a table is free.
    """

    entry_T: U16
    size: int  # of one table, a power of two
    shift: int  # from 32 bits of hash to an entry


def tables(width: int, count: int = BLOCK) -> Tables:
    """``count`` tables for up to ``width`` neighbors each."""
    bits = max(2 * width - 1, 1).bit_length()
    return Tables(np.zeros(count << bits, np.uint16), 1 << bits, 32 - bits)


@helper
def _clear(tables: Tables, table: int) -> None:
    for at in range(table, table + tables.size):
        tables.entry_T[at] = 0


@helper
def _entry_of(tables: Tables, table: int, neighbor_N: U32, first: int, neighbor: Any) -> Any:
    """Where ``entry_T`` names the neighbor, or would: the kept neighbors stand from ``first`` on."""
    at = ((np.int64(neighbor) * SPREAD) & 0xFFFFFFFF) >> tables.shift
    while True:
        place = np.int64(load(tables.entry_T, table + at)) - 1
        if place < 0 or load(neighbor_N, first + place) == neighbor:
            return table + at
        at = (at + 1) & (tables.size - 1)


@kernel
def _take_distinct(
    lists: Side, rings: Rings, fanout: I64, found: FoundDistinct, tables: Tables, scratch: Scratch, count: int
) -> None:
    """Take the distinct neighbors of each of ``count`` lists, from the event at SLOT on."""
    words, times, side = lists.words, lists.times, lists.side
    walks, going = scratch
    neighbor_N, time_N, repeats_N, count_N = found
    width = len(neighbor_N) // max(len(count_N), 1)
    while count:
        kept = 0
        for j in range(count):
            at = load(going, j)
            slot, r = load(walks, at + SLOT), load(walks, at + RELATION)
            time_ms = load(times, slot * TIMES + TIME)
            if not is_taken(lists, rings, walks, at, slot, time_ms):
                continue
            offset = offset_of(slot, load(rings.start, r), load(rings.capacity, r))
            if offset < load(rings.length, r):
                number = load(walks, at + NUMBER)
                first, taken = number * width, np.int64(load(count_N, number))
                neighbor = load(words, slot * WORDS + 1 - side)
                entry = _entry_of(tables, at // WALK_WORDS * tables.size, neighbor_N, first, neighbor)
                place = np.int64(load(tables.entry_T, entry)) - 1
                if place < 0:
                    tables.entry_T[entry] = taken + 1
                    neighbor_N[first + taken] = neighbor
                    time_N[first + taken] = time_ms
                    repeats_N[first + taken] = 1
                    count_N[number] = taken + 1
                    if taken + 1 == load(fanout, r):
                        continue
                else:
                    repeats_N[first + place] += 1
                left = load(walks, at + LEFT) - 1
                if left == 0:
                    continue
                walks[at + LEFT] = left
            if step_on(lists, walks, at, slot, time_ms, offset):
                going[kept] = at
                kept += 1
        count = kept


@kernel
def distinct_events(
    lists: Side,
    rings: Rings,
    seeds: Seeds,
    looks: I64,
    found: FoundDistinct,
    tables: Tables,
    scratch: Scratch,
) -> None:
    """Fill ``found``, which is all zero, with up to ``fanout[r]`` distinct neighbors of each seed by each r.

    A list of relation r is looked at for ``looks[r]`` events at most. ``WindowView.distinct`` says which
    neighbors these are.
    """
    walks, going = scratch
    seeds_at_once = max(1, BLOCK // len(rings.start))
    for begin in range(0, len(seeds.node), seeds_at_once):
        end = min(begin + seeds_at_once, len(seeds.node))
        count = found_lists(lists, rings, seeds, scratch, begin, end)
        for j in range(count):
            at = load(going, j)
            walks[at + LEFT] = load(looks, load(walks, at + RELATION))
            _clear(tables, at // WALK_WORDS * tables.size)
        _take_distinct(lists, rings, seeds.fanout, found, tables, scratch, count)


@kernel
def merge_relations(found: FoundDistinct, union: FoundUnion, tables: Tables, next_R: I64) -> None:
    """Fill ``union``, which is all zero, with the newest of all relations' neighbors of each seed.

    ``tables`` is one table, and ``next_R`` is memory to work in: the place in each relation's neighbors.
    """
    width = len(union.neighbor_N) // max(len(union.count_N), 1)
    relation_count = len(next_R)
    list_width = len(found.neighbor_N) // max(len(found.count_N), 1)
    for b in range(len(union.count_N)):
        first, taken = b * width, 0
        _clear(tables, 0)
        for r in range(relation_count):
            next_R[r] = 0
        while True:
            newest, newest_ms = -1, np.int64(0)
            for r in range(relation_count):
                if next_R[r] < found.count_N[b * relation_count + r]:
                    time_ms = found.time_N[(b * relation_count + r) * list_width + next_R[r]]
                    if newest < 0 or time_ms >= newest_ms:  # of one time the last relation, as in ``events``
                        newest, newest_ms = r, time_ms
            if newest < 0:
                break
            source = (b * relation_count + newest) * list_width + next_R[newest]
            next_R[newest] += 1
            neighbor = load(found.neighbor_N, source)
            entry = _entry_of(tables, 0, union.neighbor_N, first, neighbor)
            place = np.int64(load(tables.entry_T, entry)) - 1
            if place >= 0:
                union.repeats_N[first + place] += found.repeats_N[source]
            elif taken < width:
                tables.entry_T[entry] = taken + 1
                union.neighbor_N[first + taken] = neighbor
                union.time_N[first + taken] = newest_ms
                union.relation_N[first + taken] = newest
                union.repeats_N[first + taken] = found.repeats_N[source]
                taken += 1
        union.count_N[b] = taken
