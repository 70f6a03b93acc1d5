"""Recent-K sampling: the K most recent neighbors of a node, strictly before a time, as of a cut.

A kernel reads the records that ``adjacency`` writes, from any process, while the writer goes on. Sequence
numbers only grow. So a walk passes over an event that arrived after the cut, and ends at an event that left
the ring before the cut. The caller checks afterwards that no record of the cut was overwritten
(``view.StaleCut``).

A step along a list is a miss to memory, and the next step has to wait for it. So the kernel walks ``BLOCK``
lists together, one step of each in a round: it asks for a record in one round and uses it in the next. All
lists first find their newest event before the time, and then all take their neighbors. So the steps of a
round are alike, and the processor guesses its branches right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import I32, I64, U32
from driftgraph.stream.kernels.atomics import load, load_acquire, prefetch
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.adjacency import (
    HEAD_WORDS,
    PREV,
    SKIP,
    TIME,
    TIMES,
    WORDS,
    Side,
    is_older,
    offset_of,
)

END_OF_TIME = np.iinfo(np.int64).max

BLOCK = 64  # lists walked together: a round takes longer than a miss, and its records fit the cache

# The state of the walk along one list of a block, one cache line:
NUMBER, NODE, RELATION, BEFORE_MS = range(4)  # the list: seed * R + relation, its node, and the time
SLOT, LONG, AT_MS, AT_OFFSET = range(4, 8)  # the walk: the next slot, the next by skip, the event last seen
WALK_WORDS = 8


class Rings(NamedTuple):
    """The rings as of a cut, each column by relation [R]."""

    start: I64  # the slot of the oldest event
    capacity: I64
    first: I64  # the number of the oldest event
    length: I64
    span_ms: I64
    reserved: I64  # shared: it grows while the writer goes on
    watermark_ms: int


class Seeds(NamedTuple):
    """The nodes [B] whose neighbors are wanted, each before a time, and how many by each relation [R]."""

    node: U32
    before_ms: I64
    fanout: I64
    row_count: int  # a node at or above it has no event


class Found(NamedTuple):
    """The neighbors, [B, R, K] laid out flat, and how many each list gave, [B, R] laid out flat."""

    neighbor_N: U32
    time_N: I64
    count_N: I32


class Scratch(NamedTuple):
    """The memory that one call of ``recent_events`` works in."""

    walks: I64  # ``WALK_WORDS`` of each list of a block
    going: I64  # the place in ``walks`` of each list that goes on


def scratch() -> Scratch:
    """Room for one block of lists."""
    return Scratch(np.empty(BLOCK * WALK_WORDS, np.int64), np.empty(BLOCK, np.int64))


@helper
def usable(lists: Side, rings: Rings, walks: I64, at: int, slot: int) -> bool:
    """Whether ``slot`` is an event of the node's list behind the one last seen.

    An event that arrived after the cut is part of the list, too: its offset is ``length`` or more. The caller
    passes over it.
    """
    r = load(walks, at + RELATION)
    offset = offset_of(slot, load(rings.start, r), load(rings.capacity, r))
    if offset >= load(rings.length, r) and offset >= load_acquire(rings.reserved, r) - load(rings.first, r):
        return False
    than_ms, than_offset = load(walks, at + AT_MS), load(walks, at + AT_OFFSET)
    return is_older(lists, load(walks, at + NODE), slot, offset, than_ms, than_offset)


@helper
def look_at(words: U32, pointer: int) -> int:
    """Prefetch the record that a pointer names, and return its slot; -1 if it names none."""
    prefetch(words, max(pointer - 1, 0) * WORDS)
    return pointer - 1


@helper
def is_taken(lists: Side, rings: Rings, walks: I64, at: int, slot: int, time_ms: int) -> bool:
    """Whether ``slot``, an event of ``time_ms``, is in the relation's span and ``usable``."""
    now_ms = max(load(walks, at + BEFORE_MS), rings.watermark_ms)
    if time_ms < now_ms - load(rings.span_ms, load(walks, at + RELATION)):
        return False
    return usable(lists, rings, walks, at, slot)


@helper
def step_on(lists: Side, walks: I64, at: int, slot: int, time_ms: int, offset: int) -> bool:
    """Go from ``slot`` on to the next older event of the list; false if there is none."""
    pointer = np.int64(load(lists.words, slot * WORDS + PREV + lists.side))
    if pointer == 0:
        return False
    walks[at + SLOT] = look_at(lists.words, pointer)
    walks[at + AT_MS], walks[at + AT_OFFSET] = time_ms, offset
    return True


@kernel
def find(lists: Side, rings: Rings, scratch: Scratch, count: int) -> int:
    """Walk to each list's newest event before its time. O(log² degree) expected rounds.

    At first ``going`` names ``count`` lists with their head at SLOT. At the end it names those that have such
    an event, with that event at SLOT; the result is their number.
    """
    words, times, side = lists.words, lists.times, lists.side
    walks, going = scratch
    found = 0
    while count:
        kept = 0
        for j in range(found, found + count):
            at = load(going, j)
            slot = load(walks, at + LONG)
            before_ms = load(walks, at + BEFORE_MS)
            if (
                slot < 0
                or load(times, slot * TIMES + TIME) < before_ms
                or not usable(lists, rings, walks, at, slot)
            ):
                slot = load(walks, at + SLOT)
                if slot < 0 or not usable(lists, rings, walks, at, slot):
                    continue
            time_ms = load(times, slot * TIMES + TIME)
            if time_ms < before_ms:  # move it to the front part, in exchange for a list that goes on
                walks[at + SLOT] = slot
                going[found + kept], going[found] = going[found], at
                found += 1
                continue
            r = load(walks, at + RELATION)
            walks[at + AT_MS] = time_ms
            walks[at + AT_OFFSET] = offset_of(slot, load(rings.start, r), load(rings.capacity, r))
            walks[at + LONG] = look_at(words, np.int64(load(words, slot * WORDS + SKIP + side)))
            walks[at + SLOT] = look_at(words, np.int64(load(words, slot * WORDS + PREV + side)))
            going[found + kept] = at
            kept += 1
        count = kept
    return found


@kernel
def _take(lists: Side, rings: Rings, fanout: I64, found: Found, scratch: Scratch, count: int) -> None:
    """Take the neighbors of each of ``count`` lists, from the event at SLOT on."""
    words, times, side = lists.words, lists.times, lists.side
    walks, going = scratch
    neighbor_N, time_N, count_N = found
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
                taken = load(count_N, number)
                neighbor_N[number * width + taken] = load(words, slot * WORDS + 1 - side)
                time_N[number * width + taken] = time_ms
                count_N[number] = taken + 1
                if taken + 1 == load(fanout, r):
                    continue
            if step_on(lists, walks, at, slot, time_ms, offset):
                going[kept] = at
                kept += 1
        count = kept


@kernel
def found_lists(lists: Side, rings: Rings, seeds: Seeds, scratch: Scratch, begin: int, end: int) -> int:
    """Begin the walks of the seeds from ``begin`` to ``end``, and search each for its newest event.

    The result is the number of lists that have such an event. ``going`` names them, with the event at SLOT.
    """
    words, heads = lists.words, lists.heads
    nodes, before_ms, fanout, row_count = seeds
    walks, going = scratch
    relation_count = len(rings.start)
    for b in range(begin, end):
        prefetch(heads, np.int64(nodes[b]) * lists.width * HEAD_WORDS)
    count = 0
    for b in range(begin, end):
        node = np.int64(nodes[b])
        if node >= row_count:
            continue
        for r in range(relation_count):
            pointer = np.int64(load_acquire(heads, (node * lists.width + r) * HEAD_WORDS))
            if pointer == 0 or load(rings.length, r) == 0 or load(fanout, r) == 0:
                continue
            at = count * WALK_WORDS
            walks[at + NUMBER], walks[at + NODE], walks[at + RELATION] = b * relation_count + r, node, r
            walks[at + BEFORE_MS] = before_ms[b]
            walks[at + AT_MS], walks[at + AT_OFFSET] = END_OF_TIME, END_OF_TIME
            walks[at + SLOT], walks[at + LONG] = look_at(words, pointer), -1
            going[count] = at
            count += 1
    return find(lists, rings, scratch, count)


@kernel
def recent_events(lists: Side, rings: Rings, seeds: Seeds, found: Found, scratch: Scratch) -> None:
    """Fill ``found``, which is all zero, with up to ``fanout[r]`` neighbors of each seed by each relation r.

    ``WindowView.recent`` says which neighbors these are.
    """
    seeds_at_once = max(1, BLOCK // len(rings.start))
    for begin in range(0, len(seeds.node), seeds_at_once):
        end = min(begin + seeds_at_once, len(seeds.node))
        count = found_lists(lists, rings, seeds, scratch, begin, end)
        _take(lists, rings, seeds.fanout, found, scratch, count)
