"""The linked temporal adjacency: the records of events, and the two lists that each event is in.

Each event has one record of eight 32-bit words. That is half a cache line, so a step along a list is one
miss:

    word  0 user row   1 item row   2,3 event time (int64 ms)   4,5 prev   6,7 skip   (user side, item side)

A relation owns ``capacity`` records from ``base`` on and uses them as a ring: the event with sequence number
s is at ``base + s % capacity``. On each side, the events of one node form a list from newest to oldest by
(event time, arrival): ``head -> prev -> prev …``. ``skip`` points at an older event of the list. When an
event is put in, that is the nearest one of a higher level. A hash of the slot gives the level: three of four
slots have level 0, three of four others have level 1, and so on. So a walk finds the first event before a
time in O(log² degree) expected steps.

A node's head has six words for each relation: the newest event; the number of events, with a flag; the newest
event of level 1 or higher; the newest event of level 2 or higher; the newest time (two words). Because of the
two high events, 15 of 16 events that come in order of time need no other record, which would be a miss each.

A pointer is slot + 1; 0 means that there is no event. No pointer is cleared when an event leaves. A walker
recognizes a stale pointer by the record that it leads to: the record is out of range, or of another node, or
not older than the one before it. That is enough, because only an event with a higher sequence number reuses a
record. If that event belongs to the same list, behind the record with the stale pointer, it is linked there
anyway.

An erased event stays in the ring as a tombstone until its turn comes. A tombstone belongs to no node, and its
time has long expired.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.kernels.atomics import load, store_release
from driftgraph.stream.kernels.compile import helper, kernel

USER, ITEM = 0, 1  # the two sides of an event; also the words of its rows

WORDS = 8  # 32-bit words of a record
TIMES = 4  # 64-bit words of a record; the time is the one at index 1
TIME = 1
PREV, SKIP = 4, 6  # words, plus the side
HEAD_WORDS = 6
DEGREE, TOWER, HIGH, NEWEST = 1, 2, 3, 4  # words of a head behind the pointer; the time takes two
LEVEL_0, LEVEL_1 = np.uint32(1), np.uint32(4)  # as ``level_bit`` has them
STALE = np.uint32(1 << 31)  # flag in the count word: the head's event has left the window
COUNT = np.uint32(STALE - 1)
NIL = np.uint32(0xFFFFFFFF)  # the rows of a tombstone: no node has that one
LONG_AGO = np.iinfo(np.int64).min  # its time


class Adjacency(NamedTuple):
    """The memory of the records and of both sides' heads, as kernels take it."""

    words: U32  # ``WORDS`` of each record
    times: I64  # the same memory, ``TIMES`` of each record
    user_heads: U32  # ``HEAD_WORDS`` of each node and relation
    item_heads: U32


class Side(NamedTuple):
    """The records, and the heads of one side's nodes."""

    words: U32
    times: I64
    heads: U32
    side: int  # ``USER`` or ``ITEM``
    width: int  # relations that a node has heads for, of which a reader may see the first alone


class Live(NamedTuple):
    """The events that a relation's ring holds: ``length`` of them, the oldest at slot ``start``."""

    start: int
    capacity: int
    length: int


@helper
def level_bit(slot: int) -> Any:
    """The level of a slot, as 4**level: three of four slots give 1, three of four others give 4, …"""
    h = np.uint32(np.uint32(slot) * np.uint32(0x9E3779B1))  # numba widens a product to 64 bits
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA77))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    pairs = np.uint32((h | (h >> np.uint32(1))) & np.uint32(0x55555555)) | np.uint32(1 << 30)
    return np.uint32(pairs & (~pairs + np.uint32(1)))


@helper
def _newest_ms(heads: Any, head: int) -> Any:
    at = head * HEAD_WORDS + NEWEST
    return np.int64(heads[at]) | (np.int64(heads[at + 1]) << 32)


@helper
def _set_newest_ms(heads: Any, head: int, time_ms: int) -> None:
    at = head * HEAD_WORDS + NEWEST
    heads[at] = np.uint32(time_ms & 0xFFFFFFFF)
    heads[at + 1] = np.uint32(time_ms >> 32)


@helper
def offset_of(slot: int, start: int, capacity: int) -> int:
    """How many events after the oldest, which is at slot ``start``, the one at ``slot`` arrived.

    A record that no event occupies gets the offset of the event that would come there next.
    """
    offset = slot - start
    return offset + capacity if offset < 0 else offset


@helper
def is_older(lists: Side, node: int, slot: int, offset: int, than_ms: int, than_offset: int) -> bool:
    """Whether ``slot`` holds an event of ``node`` that comes after (than_ms, than_offset) in its list."""
    if load(lists.words, slot * WORDS + lists.side) != node:
        return False
    time_ms = load(lists.times, slot * TIMES + TIME)
    return time_ms < than_ms or (time_ms == than_ms and offset < than_offset)


@helper
def follow(lists: Side, node: int, slot: int, field: int, live: Live) -> Any:
    """The slot of the live event that ``field`` of a live ``slot`` points at; -1 if there is none."""
    pointer = np.int64(lists.words[slot * WORDS + field + lists.side])
    if pointer == 0:
        return -1
    target = pointer - 1
    offset = offset_of(target, live.start, live.capacity)
    if offset >= live.length:
        return -1
    own = offset_of(slot, live.start, live.capacity)
    if is_older(lists, node, target, offset, lists.times[slot * TIMES + TIME], own):
        return target
    return -1


@helper
def _climb(lists: Side, node: int, slot: int, low: Any, live: Live) -> int:
    """Follow skips from a live ``slot`` to the nearest older event above level ``low``; -1: there is none."""
    while slot >= 0 and level_bit(slot) <= low:
        slot = follow(lists, node, slot, SKIP, live)
    return slot


@helper
def _climb_tower(lists: Side, node: int, tower: int, low: Any, live: Live) -> int:
    """Climb from a head's pointer to a high event, which may be stale; the result is a pointer, too."""
    if (
        tower == 0
        or offset_of(tower - 1, live.start, live.capacity) >= live.length
        or lists.words[(tower - 1) * WORDS + lists.side] != node
    ):
        return 0
    return _climb(lists, node, tower - 1, low, live) + 1


@kernel
def _newer_neighbor(lists: Side, node: int, entry: int, time_ms: int, arrival: int, live: Live) -> int:
    """The last event of the list that is newer than (time_ms, arrival offset). ``entry`` must be newer."""
    slot = entry
    while True:
        target = follow(lists, node, slot, SKIP, live)
        if target < 0 or not _is_newer(lists, target, time_ms, arrival, live):
            target = follow(lists, node, slot, PREV, live)
            if target < 0 or not _is_newer(lists, target, time_ms, arrival, live):
                return slot
        slot = target


@helper
def _entry(lists: Side, node: int, pointer: int, tower: int, high: int, time_ms: int, live: Live) -> int:
    """The slot where a walk to an event of that time begins: a newer high event, or the head's event."""
    for from_head in (high, tower):
        slot = from_head - 1
        if (
            slot >= 0
            and offset_of(slot, live.start, live.capacity) < live.length
            and lists.words[slot * WORDS + lists.side] == node
            and lists.times[slot * TIMES + TIME] > time_ms
        ):
            return slot
    return pointer - 1


@helper
def _is_newer(lists: Side, slot: int, time_ms: int, arrival: int, live: Live) -> bool:
    at_ms = lists.times[slot * TIMES + TIME]
    return at_ms > time_ms or (at_ms == time_ms and offset_of(slot, live.start, live.capacity) > arrival)


@helper
def link(
    lists: Side, node: int, head: int, slot: int, time_ms: int, horizon_ms: int, live: Live, occupied: int
) -> None:
    """Put the event at ``slot``, which has its row and time, into its node's list. O(1) for one in order.

    ``live`` are the events that arrived before it. At most ``occupied`` records are in use after its batch.
    """
    words, heads, side = lists.words, lists.heads, lists.side
    pointer = np.int64(heads[head * HEAD_WORDS])
    degree = heads[head * HEAD_WORDS + DEGREE]
    tower = np.int64(heads[head * HEAD_WORDS + TOWER])
    high = np.int64(heads[head * HEAD_WORDS + HIGH])
    low = level_bit(slot)
    at = slot * WORDS
    if degree & STALE:
        tower = high = 0
        reused = offset_of(pointer - 1, live.start, live.capacity) < occupied
        truncated = _newest_ms(heads, head) >= horizon_ms
        if reused or truncated or words[(pointer - 1) * WORDS + side] != node:
            pointer = 0  # nothing that any valid cut can see is behind it
    if pointer == 0 or time_ms >= _newest_ms(heads, head):
        if low == LEVEL_0:
            skip = tower
        elif low == LEVEL_1:
            skip = high
            tower = slot + 1
        else:
            skip = _climb_tower(lists, node, high, low, live)
            tower = high = slot + 1
        heads[head * HEAD_WORDS + TOWER] = tower
        heads[head * HEAD_WORDS + HIGH] = high
        words[at + PREV + side] = pointer
        words[at + SKIP + side] = skip
        _set_newest_ms(heads, head, time_ms)
        heads[head * HEAD_WORDS + DEGREE] = (degree & COUNT) + np.uint32(1)
        store_release(heads, head * HEAD_WORDS, np.uint32(slot + 1))
        return

    # The event is late: walk to the last newer event. A skip on that walk that passes over the new event and
    # starts below its level must point at it from now on, as in any skip list; no skip before the entry does.
    entry = _entry(lists, node, pointer, tower, high, time_ms, live)
    newer = _newer_neighbor(lists, node, entry, time_ms, live.length, live)
    own = words[newer * WORDS + PREV + side]
    words[at + PREV + side] = np.uint32(0) if own == slot + 1 else own
    older = follow(lists, node, newer, PREV, live)
    words[at + SKIP + side] = _climb(lists, node, older, low, live) + 1
    heads[head * HEAD_WORDS + DEGREE] = degree + np.uint32(1)
    # the record of an event that is gone has any time: at worst a skip is longer or shorter than it could be
    if low > LEVEL_0 and (tower == 0 or not _is_newer(lists, tower - 1, time_ms, live.length, live)):
        heads[head * HEAD_WORDS + TOWER] = slot + 1
    if low > LEVEL_1 and (high == 0 or not _is_newer(lists, high - 1, time_ms, live.length, live)):
        heads[head * HEAD_WORDS + HIGH] = slot + 1
    if low > LEVEL_0:
        _point_skips(lists, node, entry, time_ms, newer, slot, live)
    store_release(words, newer * WORDS + PREV + side, np.uint32(slot + 1))


@kernel
def _point_skips(lists: Side, node: int, entry: int, time_ms: int, newer: int, slot: int, live: Live) -> None:
    """Repeat the walk to ``newer``; each lower skip that passes over the event at ``slot`` now names it."""
    low = level_bit(slot)
    at = entry
    while True:
        target = follow(lists, node, at, SKIP, live)
        if target < 0 or not _is_newer(lists, target, time_ms, live.length, live):
            if level_bit(at) < low:
                store_release(lists.words, at * WORDS + SKIP + lists.side, np.uint32(slot + 1))
            if at == newer:
                return
            target = follow(lists, node, at, PREV, live)
        at = target


@kernel
def unlink(lists: Side, node: int, head: int, slot: int, live: Live) -> None:
    """Take a live event out of its list while live events are behind it."""
    words, times, heads, side = lists.words, lists.times, lists.heads, lists.side
    time_ms = times[slot * TIMES + TIME]
    prev = words[slot * WORDS + PREV + side]
    pointer = np.int64(heads[head * HEAD_WORDS])
    older = follow(lists, node, slot, PREV, live)
    if heads[head * HEAD_WORDS + TOWER] == slot + 1:
        heads[head * HEAD_WORDS + TOWER] = _climb(lists, node, older, LEVEL_0, live) + 1
    if heads[head * HEAD_WORDS + HIGH] == slot + 1:
        heads[head * HEAD_WORDS + HIGH] = _climb(lists, node, older, LEVEL_1, live) + 1
    if pointer == slot + 1:
        if older >= 0:
            _set_newest_ms(heads, head, times[older * TIMES + TIME])
            store_release(heads, head * HEAD_WORDS, prev)
        return
    arrival = offset_of(slot, live.start, live.capacity)
    at = pointer - 1
    while True:
        target = follow(lists, node, at, SKIP, live)
        if target < 0 or not _is_newer(lists, target, time_ms, arrival, live):
            if target == slot:
                store_release(words, at * WORDS + SKIP + side, words[slot * WORDS + SKIP + side])
            target = follow(lists, node, at, PREV, live)
            if target == slot:
                store_release(words, at * WORDS + PREV + side, prev)
            if target < 0 or target == slot:
                return
        at = target
