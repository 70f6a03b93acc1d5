"""The events of a node by all relations as one sequence, newest first, strictly before a time, as of a cut.

    recent_kernels: find, usable ──► [begin, ready, next_event] ──► path_kernels

The sequence is in the reverse order of (time, relation, arrival). As in ``recent_kernels``, many nodes are
walked together: a call of ``next_event`` takes one event of one node and asks memory for the record after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.arrays import I64
from driftgraph.stream.kernels.atomics import load, load_acquire
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.adjacency import HEAD_WORDS, PREV, TIME, TIMES, WORDS, Side, offset_of
from driftgraph.stream.window.recent_kernels import (
    AT_MS,
    AT_OFFSET,
    BEFORE_MS,
    END_OF_TIME,
    LONG,
    NODE,
    NUMBER,
    RELATION,
    SLOT,
    WALK_WORDS,
    Rings,
    Scratch,
    find,
    look_at,
    usable,
)

# ``find`` needs neither word of a list any more once it is found:
STATE, NEXT_MS = NUMBER, LONG  # what SLOT names, and its time if it is the list's next event
ENDED, UNSEEN, NEXT = range(3)  # nothing; an event nobody has looked at; the next event of the list


def room_for(nodes: int, relation_count: int) -> Scratch:
    """The memory to walk so many nodes together."""
    lists = nodes * relation_count
    return Scratch(np.zeros(lists * WALK_WORDS, np.int64), np.zeros(lists, np.int64))


@helper
def begin(
    side: Side,
    rings: Rings,
    scratch: Scratch,
    place: int,
    node: Any,
    before_ms: int,
    row_count: int,
    count: int,
) -> int:  # pragma: no cover - compiled
    """Put the lists of a node at ``place`` among the nodes; ``count`` lists were put in; return how many are.

    A node at or above ``row_count`` has no events.
    """
    walks, going = scratch
    relation_count = len(rings.start)
    for r in range(relation_count):
        at = (place * relation_count + r) * WALK_WORDS
        walks[at + STATE] = ENDED
        if node >= row_count or load(rings.length, r) == 0:
            continue
        pointer = np.int64(load_acquire(side.heads, (node * side.width + r) * HEAD_WORDS))
        if pointer == 0:
            continue
        walks[at + NODE], walks[at + RELATION], walks[at + BEFORE_MS] = node, r, before_ms
        walks[at + AT_MS], walks[at + AT_OFFSET] = END_OF_TIME, END_OF_TIME
        walks[at + SLOT], walks[at + LONG] = look_at(side.words, pointer), -1
        going[count] = at
        count += 1
    return count


@kernel
def ready(side: Side, rings: Rings, scratch: Scratch, count: int) -> None:  # pragma: no cover - compiled
    """Walk all ``count`` lists that ``begin`` put in to their newest event before the time."""
    count = find(side, rings, scratch, count)
    for j in range(count):
        scratch.walks[load(scratch.going, j) + STATE] = UNSEEN


@helper
def _step(side: Side, rings: Rings, walks: I64, at: int, slot: int, time_ms: int) -> None:  # pragma: no cover
    """Go on to the event behind ``slot``."""
    r = load(walks, at + RELATION)
    pointer = np.int64(load(side.words, slot * WORDS + PREV + side.side))
    walks[at + AT_MS] = time_ms
    walks[at + AT_OFFSET] = offset_of(slot, load(rings.start, r), load(rings.capacity, r))
    walks[at + SLOT] = look_at(side.words, pointer)
    walks[at + STATE] = ENDED if pointer == 0 else UNSEEN


@helper
def _look(side: Side, rings: Rings, walks: I64, at: int) -> None:  # pragma: no cover - compiled
    """Look at the list's unseen event, and at those behind it while they arrived after the cut."""
    r = load(walks, at + RELATION)
    oldest_ms = max(load(walks, at + BEFORE_MS), rings.watermark_ms) - load(rings.span_ms, r)
    while load(walks, at + STATE) == UNSEEN:
        slot = load(walks, at + SLOT)
        time_ms = load(side.times, slot * TIMES + TIME)
        if time_ms < oldest_ms or not usable(side, rings, walks, at, slot):
            walks[at + STATE] = ENDED
        elif offset_of(slot, load(rings.start, r), load(rings.capacity, r)) < load(rings.length, r):
            walks[at + STATE] = NEXT
            walks[at + NEXT_MS] = time_ms
        else:
            _step(side, rings, walks, at, slot, time_ms)


@helper
def next_event(side: Side, rings: Rings, walks: I64, place: int) -> Any:  # pragma: no cover - compiled
    """Take the next event of the node at ``place``: slot, relation and time; slot -1 if there is none."""
    relation_count = len(rings.start)
    newest, newest_ms = -1, np.int64(0)
    for r in range(relation_count):
        at = (place * relation_count + r) * WALK_WORDS
        if load(walks, at + STATE) == UNSEEN:
            _look(side, rings, walks, at)
        if load(walks, at + STATE) == NEXT and (newest < 0 or load(walks, at + NEXT_MS) >= newest_ms):
            newest, newest_ms = r, load(walks, at + NEXT_MS)
    if newest < 0:
        return np.int64(-1), np.int64(0), newest_ms
    at = (place * relation_count + newest) * WALK_WORDS
    slot = load(walks, at + SLOT)
    _step(side, rings, walks, at, slot, newest_ms)
    return slot, np.int64(newest), newest_ms
