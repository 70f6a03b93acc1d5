"""Recent-K sampling: the K most recent neighbors of a node, strictly before a time, as of a cut.

Reads the records that ``adjacency`` writes, from any process, while the writer goes on. Sequence numbers
only grow, so whatever arrived after the cut is passed over; what left the ring before the cut ends a list.
The caller checks afterwards that no record of the cut was overwritten meanwhile (``view.StaleCut``).

A step along a list is a miss to memory that the next step has to wait for. So ``BLOCK`` lists are walked
together, one step of each in a round: a record is asked for in one round and used in the next. First all find
their newest event before the time, then all take their neighbors, so that a round's steps are alike and the
processor guesses its branches right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.events import I64
from driftgraph.stream.kernels.atomics import load, load_acquire, prefetch
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.adjacency import (
    HEAD_WORDS,
    PREV,
    SKIP,
    TIME,
    TIMES,
    WORDS,
    is_older,
    offset_of,
)

END_OF_TIME = np.iinfo(np.int64).max

BLOCK = 64  # lists walked together: a round takes longer than a miss, and what it asks for fits the cache

# What is kept of each list of a block: one cache line.
NUMBER, NODE, RELATION, BEFORE_MS = range(4)  # which one it is: seed * R + relation; its node; its time
SLOT, LONG, AT_MS, AT_OFFSET = range(4, 8)  # where the walk is: next slot, next by skip, event last seen
LIST_WORDS = 8


def scratch() -> tuple[I64, I64]:
    """What one call of ``recent_events`` works in."""
    return np.empty(BLOCK * LIST_WORDS, np.int64), np.empty(BLOCK, np.int64)


@helper
def _usable(
    words: Any, times: Any, reserved: Any, side: int, starts: Any, capacities: Any, firsts: Any, counts: Any,
    lists: Any, at: int, slot: int,
) -> bool:  # fmt: skip
    """Whether ``slot`` is an event of the node's list behind the one last seen.

    Events that arrived after the cut are part of the list (offset >= count); the caller passes over them.
    """
    r = load(lists, at + RELATION)
    offset = offset_of(slot, load(starts, r), load(capacities, r))
    if offset >= load(counts, r) and offset >= load_acquire(reserved, r) - load(firsts, r):
        return False
    than_ms, than_offset = load(lists, at + AT_MS), load(lists, at + AT_OFFSET)
    return is_older(words, times, side, load(lists, at + NODE), slot, offset, than_ms, than_offset)


@helper
def _look_at(words: Any, pointer: int) -> int:
    """The slot that a pointer names, asked for; -1 for none."""
    prefetch(words, max(pointer - 1, 0) * WORDS)
    return pointer - 1


@kernel
def _find(
    words: Any, times: Any, reserved: Any, side: int, starts: Any, capacities: Any, firsts: Any, counts: Any,
    lists: Any, live: Any, live_count: int,
) -> int:  # fmt: skip
    """Walk to each list's newest event before its time: O(log² degree) rounds are expected.

    ``live`` says where in ``lists`` those are that have a head, at SLOT; in the end those that have such an
    event, there.
    """
    found = 0
    while live_count:
        kept = 0
        for j in range(found, found + live_count):
            at = load(live, j)
            slot = load(lists, at + LONG)
            before_ms = load(lists, at + BEFORE_MS)
            if (
                slot < 0
                or load(times, slot * TIMES + TIME) < before_ms
                or not _usable(
                    words, times, reserved, side, starts, capacities, firsts, counts, lists, at, slot
                )
            ):
                slot = load(lists, at + SLOT)
                if slot < 0 or not _usable(
                    words, times, reserved, side, starts, capacities, firsts, counts, lists, at, slot
                ):
                    continue
            time_ms = load(times, slot * TIMES + TIME)
            if time_ms < before_ms:  # into the front part, in exchange for a list that goes on
                lists[at + SLOT] = slot
                live[found + kept], live[found] = live[found], at
                found += 1
                continue
            r = load(lists, at + RELATION)
            lists[at + AT_MS] = time_ms
            lists[at + AT_OFFSET] = offset_of(slot, load(starts, r), load(capacities, r))
            lists[at + LONG] = _look_at(words, np.int64(load(words, slot * WORDS + SKIP + side)))
            lists[at + SLOT] = _look_at(words, np.int64(load(words, slot * WORDS + PREV + side)))
            live[found + kept] = at
            kept += 1
        live_count = kept
    return found


@kernel
def _take(
    words: Any, times: Any, reserved: Any, side: int, starts: Any, capacities: Any, firsts: Any, counts: Any,
    fanout: Any, spans_ms: Any, watermark_ms: int, neighbor_N: Any, time_N: Any, count_N: Any,
    lists: Any, live: Any, live_count: int,
) -> None:  # fmt: skip
    """Take the neighbors of each list from the slot found on. The outputs are flat; N counts their places."""
    width = len(neighbor_N) // max(len(count_N), 1)
    while live_count:
        kept = 0
        for j in range(live_count):
            at = load(live, j)
            slot, r = load(lists, at + SLOT), load(lists, at + RELATION)
            time_ms = load(times, slot * TIMES + TIME)
            if time_ms < max(load(lists, at + BEFORE_MS), watermark_ms) - load(spans_ms, r):
                continue
            if not _usable(words, times, reserved, side, starts, capacities, firsts, counts, lists, at, slot):
                continue
            offset = offset_of(slot, load(starts, r), load(capacities, r))
            if offset < load(counts, r):
                number = load(lists, at + NUMBER)
                taken = load(count_N, number)
                neighbor_N[number * width + taken] = load(words, slot * WORDS + 1 - side)
                time_N[number * width + taken] = time_ms
                count_N[number] = taken + 1
                if taken + 1 == load(fanout, r):
                    continue
            pointer = np.int64(load(words, slot * WORDS + PREV + side))
            if pointer == 0:
                continue
            lists[at + SLOT] = _look_at(words, pointer)
            lists[at + AT_MS], lists[at + AT_OFFSET] = time_ms, offset
            live[kept] = at
            kept += 1
        live_count = kept


@kernel
def recent_events(
    words: Any, times: Any, heads: Any, row_count: int, reserved: Any, side: int, nodes: Any,
    before_ms: Any, fanout: Any, starts: Any, capacities: Any, firsts: Any, counts: Any, spans_ms: Any,
    watermark_ms: int,
    neighbor_N: Any, time_N: Any, count_N: Any, lists: Any, live: Any,
) -> None:  # fmt: skip
    """Fill the outputs, [B, R, K] and [B, R] laid out flat and all zero, for seeds B.

    See ``WindowView.recent``; a relation gives up to ``fanout[r]`` neighbors. ``scratch`` makes the last two.
    """
    relation_count = len(starts)
    seeds_at_once = max(1, BLOCK // relation_count)
    for begin in range(0, len(nodes), seeds_at_once):
        end = min(begin + seeds_at_once, len(nodes))
        for b in range(begin, end):
            prefetch(heads, np.int64(nodes[b]) * relation_count * HEAD_WORDS)
        live_count = 0
        for b in range(begin, end):
            node = np.int64(nodes[b])
            if node >= row_count:
                continue
            for r in range(relation_count):
                pointer = np.int64(load_acquire(heads, (node * relation_count + r) * HEAD_WORDS))
                if pointer == 0 or load(counts, r) == 0 or load(fanout, r) == 0:
                    continue
                at = live_count * LIST_WORDS
                lists[at + NUMBER], lists[at + NODE], lists[at + RELATION] = b * relation_count + r, node, r
                lists[at + BEFORE_MS] = before_ms[b]
                lists[at + AT_MS], lists[at + AT_OFFSET] = END_OF_TIME, END_OF_TIME
                lists[at + SLOT], lists[at + LONG] = _look_at(words, pointer), -1
                live[live_count] = at
                live_count += 1
        live_count = _find(
            words, times, reserved, side, starts, capacities, firsts, counts, lists, live, live_count
        )
        _take(
            words, times, reserved, side, starts, capacities, firsts, counts, fanout, spans_ms, watermark_ms,
            neighbor_N, time_N, count_N, lists, live, live_count,
        )  # fmt: skip
