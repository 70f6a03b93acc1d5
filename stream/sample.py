"""Recent-K sampling: the K most recent neighbors of a node, strictly before a time, as of a cut.

Reads the records that ``adjacency`` writes, from any process, while the writer goes on. Sequence numbers
only grow, so whatever arrived after the cut is passed over; what left the ring before the cut ends a list.
The caller checks afterwards that no record of the cut was overwritten meanwhile (``window_view.StaleCut``).

A step along a list is a miss to memory that the next step has to wait for. So ``BLOCK`` lists are walked
together, one step of each in a round: a record is asked for in one round and used in the next. First all find
their newest event before the time, then all take their neighbors, so that a round's steps are alike and the
processor guesses its branches right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.adjacency import (
    HEAD_WORDS,
    PREV,
    SKIP,
    TIME,
    TIMES,
    WORDS,
    helper,
    is_older,
    kernel,
    offset_of,
)
from driftgraph.stream.atomics import load_acquire, prefetch
from driftgraph.stream.events import I64

END_OF_TIME = np.iinfo(np.int64).max

BLOCK = 256  # lists walked together: a round takes longer than a miss, and what it asks for fits the cache

# What is kept of each list of a block: columns of ``lists``.
NUMBER, NODE, RELATION, BEFORE_MS, OLDEST_MS, START, CAPACITY, FIRST, COUNT = range(9)  # do not change
SLOT, LONG, AT_MS, AT_OFFSET, TAKEN = range(9, 14)  # where the walk is: next slot, next by skip, last seen
LIST_WORDS = 14


def scratch() -> tuple[I64, I64]:
    """What one call of ``recent_events`` works in."""
    return np.empty((LIST_WORDS, BLOCK), np.int64), np.empty(BLOCK, np.int64)


@helper
def _usable(words: Any, times: Any, reserved: Any, side: int, lists: Any, l: int, slot: int) -> bool:
    """Whether ``slot`` is an event of the node's list behind the one last seen.

    Events that arrived after the cut are part of the list (offset >= count); the caller passes over them.
    """
    offset = offset_of(slot, lists[START, l], lists[CAPACITY, l])
    if offset >= lists[COUNT, l] and offset >= load_acquire(reserved, lists[RELATION, l]) - lists[FIRST, l]:
        return False
    return is_older(
        words, times, side, lists[NODE, l], slot, offset, lists[AT_MS, l], lists[AT_OFFSET, l]
    )


@helper
def _look_at(words: Any, pointer: int) -> int:
    """The slot that a pointer names, asked for; -1 for none."""
    prefetch(words, max(pointer - 1, 0) * WORDS)
    return pointer - 1


@kernel
def _find(words: Any, times: Any, reserved: Any, side: int, lists: Any, live: Any, live_count: int) -> int:
    """Walk to each list's newest event before its time: O(log² degree) rounds are expected.

    ``live`` names the lists that have a head, at SLOT; in the end those that have such an event, there.
    """
    found = 0
    while live_count:
        kept = 0
        for j in range(found, found + live_count):
            l = live[j]
            slot = lists[LONG, l]
            before_ms = lists[BEFORE_MS, l]
            if (
                slot < 0
                or times[slot * TIMES + TIME] < before_ms
                or not _usable(words, times, reserved, side, lists, l, slot)
            ):
                slot = lists[SLOT, l]
                if slot < 0 or not _usable(words, times, reserved, side, lists, l, slot):
                    continue
            time_ms = times[slot * TIMES + TIME]
            if time_ms < before_ms:  # into the front part, in exchange for a list that goes on
                lists[SLOT, l] = slot
                live[found + kept], live[found] = live[found], l
                found += 1
                continue
            lists[AT_MS, l] = time_ms
            lists[AT_OFFSET, l] = offset_of(slot, lists[START, l], lists[CAPACITY, l])
            lists[LONG, l] = _look_at(words, np.int64(words[slot * WORDS + SKIP + side]))
            lists[SLOT, l] = _look_at(words, np.int64(words[slot * WORDS + PREV + side]))
            live[found + kept] = l
            kept += 1
        live_count = kept
    return found


@kernel
def _take(
    words: Any, times: Any, reserved: Any, side: int, fanout: Any, neighbor_N: Any, time_N: Any, count_N: Any,
    lists: Any, live: Any, live_count: int,
) -> None:  # fmt: skip
    """Take the neighbors of each list from the slot found on. The outputs are flat; N counts their places."""
    width = len(neighbor_N) // max(len(count_N), 1)
    while live_count:
        kept = 0
        for j in range(live_count):
            l = live[j]
            slot = lists[SLOT, l]
            time_ms = times[slot * TIMES + TIME]
            if time_ms < lists[OLDEST_MS, l] or not _usable(words, times, reserved, side, lists, l, slot):
                continue
            offset = offset_of(slot, lists[START, l], lists[CAPACITY, l])
            if offset < lists[COUNT, l]:
                number, taken = lists[NUMBER, l], lists[TAKEN, l]
                neighbor_N[number * width + taken] = words[slot * WORDS + 1 - side]
                time_N[number * width + taken] = time_ms
                taken += 1
                count_N[number] = taken
                lists[TAKEN, l] = taken
                if taken == fanout[lists[RELATION, l]]:
                    continue
            pointer = np.int64(words[slot * WORDS + PREV + side])
            if pointer == 0:
                continue
            lists[SLOT, l] = _look_at(words, pointer)
            lists[AT_MS, l], lists[AT_OFFSET, l] = time_ms, offset
            live[kept] = l
            kept += 1
        live_count = kept


@kernel
def recent_events(
    words: Any, times: Any, heads: Any, reserved: Any, side: int, nodes: Any, before_ms: Any, fanout: Any,
    starts: Any, capacities: Any, firsts: Any, counts: Any, spans_ms: Any, watermark_ms: int,
    neighbor_N: Any, time_N: Any, count_N: Any, lists: Any, live: Any,
) -> None:  # fmt: skip
    """Fill the outputs, [B, R, K] and [B, R] laid out flat, for seeds B and up to ``fanout[r]`` neighbors.

    See ``WindowView.recent``. A list's number is seed * R + relation; ``lists`` and ``live`` are ``scratch()``.
    """
    relation_count = len(starts)
    row_count = len(heads) // (HEAD_WORDS * relation_count)
    seeds_at_once = max(1, BLOCK // relation_count)
    for begin in range(0, len(nodes), seeds_at_once):
        end = min(begin + seeds_at_once, len(nodes))
        for b in range(begin, end):
            prefetch(heads, min(np.int64(nodes[b]), row_count - 1) * relation_count * HEAD_WORDS)
        live_count = 0
        for b in range(begin, end):
            node = np.int64(nodes[b])
            if node >= row_count:
                continue
            for r in range(relation_count):
                pointer = np.int64(load_acquire(heads, (node * relation_count + r) * HEAD_WORDS))
                if pointer == 0 or counts[r] == 0 or fanout[r] == 0:
                    continue
                l = live_count
                lists[NUMBER, l], lists[NODE, l], lists[RELATION, l] = b * relation_count + r, node, r
                lists[BEFORE_MS, l] = before_ms[b]
                lists[OLDEST_MS, l] = max(before_ms[b], watermark_ms) - spans_ms[r]
                lists[START, l], lists[CAPACITY, l] = starts[r], capacities[r]
                lists[FIRST, l], lists[COUNT, l] = firsts[r], counts[r]
                lists[SLOT, l], lists[LONG, l] = _look_at(words, pointer), -1
                lists[AT_MS, l], lists[AT_OFFSET, l], lists[TAKEN, l] = END_OF_TIME, END_OF_TIME, 0
                live[l] = l
                live_count += 1
        live_count = _find(words, times, reserved, side, lists, live, live_count)
        _take(
            words, times, reserved, side, fanout, neighbor_N, time_N, count_N, lists, live, live_count
        )  # fmt: skip
