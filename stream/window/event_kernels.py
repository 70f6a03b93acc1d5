"""The live events of a cut as columns in order of time: the loops of ``WindowView.events``.

Shape suffixes: E events of all relations, relation after relation; R relations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U8, U32, Mask
from driftgraph.stream.kernels.atomics import load
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.adjacency import ITEM, TIME, TIMES, USER, WORDS


class Columns(NamedTuple):
    """Room for events, [E]."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64
    is_new: Mask


class Part(NamedTuple):
    """Events of one relation by sequence number: ``start`` to ``stop``, new from ``new`` on."""

    relation: int
    start: int
    stop: int
    new: int
    base: int  # the slot that the ring begins at
    capacity: int
    oldest_ms: int  # older events are not live


@kernel
def collect(
    words: U32, times: I64, part: Part, into: Columns, count: int
) -> int:  # pragma: no cover - compiled
    """Write the live events of a part behind the ``count`` that are there; return how many are now."""
    for number in range(part.start, part.stop):
        slot = part.base + number % part.capacity
        time_ms = load(times, slot * TIMES + TIME)
        if time_ms >= part.oldest_ms:
            into.user[count] = load(words, slot * WORDS + USER)
            into.item[count] = load(words, slot * WORDS + ITEM)
            into.relation[count] = part.relation
            into.time_ms[count] = time_ms
            into.is_new[count] = number >= part.new
            count += 1
    return count


@kernel
def merged(time_ms: I64, next_R: I64, end_R: I64, order: I64) -> bool:  # pragma: no cover - compiled
    """Fill the stable order by time, if each relation's events (``next_R`` to ``end_R``) are in it already.

    The result says whether they are. ``next_R`` is used up.
    """
    relation_count = len(next_R)
    for r in range(relation_count):
        for at in range(next_R[r] + 1, end_R[r]):
            if time_ms[at] < time_ms[at - 1]:
                return False
    for count in range(len(order)):
        oldest, oldest_ms = -1, np.int64(0)
        for r in range(relation_count):
            if next_R[r] < end_R[r] and (oldest < 0 or time_ms[next_R[r]] < oldest_ms):
                oldest, oldest_ms = r, time_ms[next_R[r]]
        order[count] = next_R[oldest]
        next_R[oldest] += 1
    return True
