"""Recent-K sampling: the K most recent neighbors of a node, strictly before a time, as of a cut.

Reads the records that ``adjacency`` writes, from any process, while the writer goes on. Sequence numbers
only grow, so whatever arrived after the cut is passed over; what left the ring before the cut ends a list.
The caller checks afterwards that no record of the cut was overwritten meanwhile (``window.StaleCut``).
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
from driftgraph.stream.atomics import load_acquire

END_OF_TIME = np.iinfo(np.int64).max
RESERVED = 0  # index in a relation's shared counters: sequence numbers below it may be written by now


@kernel
def _next_in_list(
    words: Any, times: Any, reserved: Any, relation: int, side: int, node: int, pointer: int,
    start: int, capacity: int, first: int, count: int, than_ms: int, than_offset: int,
) -> int:  # fmt: skip
    """The slot behind ``pointer`` if it is an event of the node's list that the walk may use or pass, else -1.

    Events that arrived after the cut are part of the list (offset >= count); the caller passes over them.
    """
    if pointer == 0:
        return -1
    slot = pointer - 1
    offset = offset_of(slot, start, capacity)
    if offset >= count and offset >= load_acquire(reserved, relation) - first:
        return -1
    if is_older(words, times, side, node, slot, offset, than_ms, than_offset):
        return slot
    return -1


@kernel
def _first_before(
    words: Any, times: Any, reserved: Any, relation: int, side: int, node: int, pointer: int, before_ms: int,
    start: int, capacity: int, first: int, count: int,
) -> int:  # fmt: skip
    """The newest event of the list strictly before ``before_ms``, or -1. O(log² degree) expected."""
    at_ms, at_offset = END_OF_TIME, END_OF_TIME
    slot = _next_in_list(
        words, times, reserved, relation, side, node, pointer, start, capacity, first, count, at_ms, at_offset
    )
    while slot >= 0:
        at_ms = times[slot * TIMES + TIME]
        if at_ms < before_ms:
            return slot
        at_offset = offset_of(slot, start, capacity)
        target = _next_in_list(
            words, times, reserved, relation, side, node, np.int64(words[slot * WORDS + SKIP + side]),
            start, capacity, first, count, at_ms, at_offset,
        )  # fmt: skip
        if target < 0 or times[target * TIMES + TIME] < before_ms:
            target = _next_in_list(
                words, times, reserved, relation, side, node, np.int64(words[slot * WORDS + PREV + side]),
                start, capacity, first, count, at_ms, at_offset,
            )  # fmt: skip
        slot = target
    return -1


@kernel
def recent_events(
    words: Any, times: Any, heads: Any, reserved: Any, side: int, nodes: Any, before_ms: Any, fanout: Any,
    starts: Any, capacities: Any, firsts: Any, counts: Any, spans_ms: Any, watermark_ms: int,
    neighbor_BRK: Any, time_BRK: Any, count_BR: Any,
) -> None:  # fmt: skip
    """Fill the three outputs for seeds B, relations R and up to ``fanout[r]`` neighbors each; see ``WindowView``."""
    relation_count = len(starts)
    other = 1 - side
    row_count = len(heads) // (HEAD_WORDS * relation_count)
    for b in range(len(nodes)):
        node = np.int64(nodes[b])
        if node >= row_count:
            continue
        for r in range(relation_count):
            start, capacity, first, count = starts[r], capacities[r], firsts[r], counts[r]
            if count == 0:
                continue
            oldest_ms = max(before_ms[b], watermark_ms) - spans_ms[r]
            pointer = np.int64(load_acquire(heads, (node * relation_count + r) * HEAD_WORDS))
            slot = _first_before(
                words, times, reserved, r, side, node, pointer, before_ms[b], start, capacity, first, count
            )
            found = 0
            while slot >= 0 and found < fanout[r]:
                time_ms = times[slot * TIMES + TIME]
                if time_ms < oldest_ms:
                    break
                offset = offset_of(slot, start, capacity)
                if offset < count:
                    neighbor_BRK[b, r, found] = words[slot * WORDS + other]
                    time_BRK[b, r, found] = time_ms
                    found += 1
                slot = _next_in_list(
                    words, times, reserved, r, side, node, np.int64(words[slot * WORDS + PREV + side]),
                    start, capacity, first, count, time_ms, offset,
                )  # fmt: skip
            count_BR[b, r] = found
