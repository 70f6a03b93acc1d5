"""Recent-K sampling: the K most recent neighbors of a node, strictly before a time, as of a cut.

Reads the records that ``adjacency`` writes, from any process, while the writer goes on. Sequence numbers
only grow, so whatever arrived after the cut is passed over; what left the ring before the cut ends a list.
The caller checks afterwards that no record of the cut was overwritten meanwhile (``window_view.StaleCut``).

A step along a list is a miss to memory that the next step has to wait for. So ``LANES`` lists are walked in
turns: each is asked for its next record, and while that comes the others take their steps.
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
    is_older,
    kernel,
    offset_of,
)
from driftgraph.stream.atomics import load_acquire, prefetch

END_OF_TIME = np.iinfo(np.int64).max

LANES = 16  # lists walked in turns by one thread: about as many misses as a core has in flight
HEADS_AHEAD = 32  # lists between the prefetch of a head and its use

# What a lane is doing with the records it has asked for.
IDLE = 0
FIND = 1  # SLOT is newer than wanted: go on to the record at LONG, or else to the one at SHORT
TAKE = 2  # the record at SHORT is the next to be taken
# A lane's words.
DOING, SEED, RELATION, SLOT, LONG, SHORT, AT_MS, AT_OFFSET, FOUND = range(9)
LANE_WORDS = 9


@kernel
def _usable(
    words: Any, times: Any, reserved: Any, relation: int, side: int, node: int, slot: int,
    start: int, capacity: int, first: int, count: int, than_ms: int, than_offset: int,
) -> bool:  # fmt: skip
    """Whether ``slot`` (-1: none) is an event of the node's list behind (than_ms, than_offset).

    Events that arrived after the cut are part of the list (offset >= count); the caller passes over them.
    """
    if slot < 0:
        return False
    offset = offset_of(slot, start, capacity)
    if offset >= count and offset >= load_acquire(reserved, relation) - first:
        return False
    return is_older(words, times, side, node, slot, offset, than_ms, than_offset)


@kernel
def _look_at(words: Any, pointer: int) -> int:
    """The slot that a pointer names, asked for; -1 for none."""
    if pointer == 0:
        return -1
    prefetch(words, (pointer - 1) * WORDS)
    return pointer - 1


@kernel
def _begin(
    lane: Any, words: Any, heads: Any, seed: int, relation: int, node: int, relation_count: int
) -> None:  # fmt: skip
    """Set a lane to the head of a list."""
    pointer = np.int64(load_acquire(heads, (node * relation_count + relation) * HEAD_WORDS))
    lane[SEED], lane[RELATION], lane[FOUND] = seed, relation, 0
    lane[AT_MS], lane[AT_OFFSET] = END_OF_TIME, END_OF_TIME
    lane[LONG], lane[SHORT] = -1, _look_at(words, pointer)
    lane[DOING] = FIND


@kernel
def _find(
    lane: Any, words: Any, times: Any, reserved: Any, side: int, node: int, before_ms: int,
    start: int, capacity: int, first: int, count: int,
) -> None:  # fmt: skip
    """One step towards the newest event before ``before_ms``: O(log² degree) of them are expected."""
    relation, at_ms, at_offset = lane[RELATION], lane[AT_MS], lane[AT_OFFSET]
    slot = lane[LONG]
    jumps = _usable(
        words, times, reserved, relation, side, node, slot, start, capacity, first, count, at_ms, at_offset
    )
    if not jumps or times[slot * TIMES + TIME] < before_ms:
        slot = lane[SHORT]
        if not _usable(
            words, times, reserved, relation, side, node, slot,
            start, capacity, first, count, at_ms, at_offset,
        ):  # fmt: skip
            lane[DOING] = IDLE
            return
    time_ms = times[slot * TIMES + TIME]
    if time_ms < before_ms:
        lane[SHORT] = slot  # in the cache, and behind AT_MS: taken in the next turn
        lane[DOING] = TAKE
        return
    lane[AT_MS], lane[AT_OFFSET] = time_ms, offset_of(slot, start, capacity)
    lane[LONG] = _look_at(words, np.int64(words[slot * WORDS + SKIP + side]))
    lane[SHORT] = _look_at(words, np.int64(words[slot * WORDS + PREV + side]))


@kernel
def recent_events(
    words: Any, times: Any, heads: Any, reserved: Any, side: int, nodes: Any, before_ms: Any, fanout: Any,
    starts: Any, capacities: Any, firsts: Any, counts: Any, spans_ms: Any, watermark_ms: int,
    neighbor_BRK: Any, time_BRK: Any, count_BR: Any,
) -> None:  # fmt: skip
    """Fill the outputs for seeds B, relations R and up to ``fanout[r]`` neighbors; see ``WindowView``."""
    relation_count = len(starts)
    row_count = len(heads) // (HEAD_WORDS * relation_count)
    lanes = np.zeros((LANES, LANE_WORDS), np.int64)
    total = len(nodes) * relation_count
    begun, busy = 0, 1
    while busy:
        busy = 0
        for number in range(LANES):
            lane = lanes[number]
            while lane[DOING] == IDLE and begun < total:
                seed, relation = begun // relation_count, begun % relation_count
                ahead = min(begun + HEADS_AHEAD, total - 1) // relation_count
                if nodes[ahead] < row_count:
                    prefetch(heads, np.int64(nodes[ahead]) * relation_count * HEAD_WORDS)
                if nodes[seed] < row_count and counts[relation] and fanout[relation]:
                    _begin(lane, words, heads, seed, relation, np.int64(nodes[seed]), relation_count)
                begun += 1
            if lane[DOING] == IDLE:
                continue
            busy += 1
            b, r = lane[SEED], lane[RELATION]
            node = np.int64(nodes[b])
            start, capacity, first, count = starts[r], capacities[r], firsts[r], counts[r]
            if lane[DOING] == FIND:
                _find(lane, words, times, reserved, side, node, before_ms[b], start, capacity, first, count)
                continue
            slot = lane[SHORT]
            if not _usable(
                words, times, reserved, r, side, node, slot, start, capacity, first, count,
                lane[AT_MS], lane[AT_OFFSET],
            ):  # fmt: skip
                lane[DOING] = IDLE
                continue
            time_ms = times[slot * TIMES + TIME]
            if time_ms < max(before_ms[b], watermark_ms) - spans_ms[r]:
                lane[DOING] = IDLE
                continue
            offset = offset_of(slot, start, capacity)
            if offset < count:
                found = lane[FOUND]
                neighbor_BRK[b, r, found] = words[slot * WORDS + 1 - side]
                time_BRK[b, r, found] = time_ms
                lane[FOUND] = found + 1
                count_BR[b, r] = found + 1
                if found + 1 == fanout[r]:
                    lane[DOING] = IDLE
                    continue
            lane[AT_MS], lane[AT_OFFSET] = time_ms, offset
            lane[SHORT] = _look_at(words, np.int64(words[slot * WORDS + PREV + side]))
