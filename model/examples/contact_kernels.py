"""The first event of each user and item among many events, by a hash table of events.

    examples.first_contacts ──► [mark_first, look_up_first]

A look at the table is a miss to memory. So the events are taken in blocks: all entries of a block are asked
for before the first of them is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U8, U32, Mask
from driftgraph.stream.kernels.atomics import prefetch
from driftgraph.stream.kernels.compile import helper, kernel

BLOCK = 64  # events whose entries are asked for together


class Contacts(NamedTuple):
    """Events as columns."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64


@helper
def _entry(events: Contacts, n: int, last: Any) -> Any:  # pragma: no cover - compiled
    """Where the table is searched first for the event's user and item."""
    key = (np.uint64(events.user[n]) << np.uint64(32)) | np.uint64(events.item[n])
    key = (key ^ (key >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return (key ^ (key >> np.uint64(29))) & last


@helper
def _first_of(
    among: Contacts, table: U32, events: Contacts, n: int, at: Any, last: Any
) -> Any:  # pragma: no cover - compiled
    """The entry of the pair of event n, and the first event there, or -1."""
    while True:
        other = np.int64(table[at]) - 1
        if other < 0 or (among.user[other] == events.user[n] and among.item[other] == events.item[n]):
            return at, other
        at = (at + np.uint64(1)) & last


@kernel
def mark_first(events: Contacts, table: U32, is_first: Mask) -> None:  # pragma: no cover - compiled
    """Fill the table, which is zero, with the first event of each pair + 1, and mark what is alike it."""
    last = np.uint64(len(table) - 1)
    for begin in range(0, len(events.user), BLOCK):
        end = min(begin + BLOCK, len(events.user))
        for n in range(begin, end):
            prefetch(table, _entry(events, n, last))
        for n in range(begin, end):
            at, first = _first_of(events, table, events, n, _entry(events, n, last), last)
            if first < 0:
                table[at] = n + 1
                is_first[n] = True
            else:
                is_first[n] = (
                    events.relation[n] == events.relation[first]
                    and events.time_ms[n] == events.time_ms[first]
                )


@kernel
def look_up_first(
    among: Contacts, table: U32, events: Contacts, is_first: Mask
) -> None:  # pragma: no cover - compiled
    """Mark the events that are alike the first of their pair, by the table of ``mark_first``."""
    last = np.uint64(len(table) - 1)
    for n in range(len(events.user)):
        _, first = _first_of(among, table, events, n, _entry(events, n, last), last)
        if first >= 0:
            is_first[n] = (
                events.relation[n] == among.relation[first] and events.time_ms[n] == among.time_ms[first]
            )
