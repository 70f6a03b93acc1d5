"""The linked temporal adjacency: the records of events, and the list that each is in on each side.

One record of eight 32-bit words an event, half a cache line, so that a step along a list is one miss:

    word  0 user row   1 item row   2,3 event time (int64 ms)   4,5 prev   6,7 skip   (user side, item side)

A relation owns ``capacity`` records from ``base`` on, used as a ring: the event with sequence number s is
at ``base + s % capacity``. On each side, the events of one node form a list from newest to oldest by
(event time, arrival): ``head -> prev -> prev …``. ``skip`` points at some older event of the list, at
insertion the nearest of a higher level (three of four slots are of level 0, by a hash; three of four others
of level 1; …), so that the first event before a time is found in O(log² degree) expected steps.

A node's head, six words a relation: the newest event; how many there are, and a flag; the newest event of
level 1 or higher, and of level 2 or higher, so that of 16 events in order of time 15 need no other record,
which would be a miss to memory each; the newest time.

A pointer is slot + 1; 0 is none. Pointers are never cleared when an event leaves: a walker knows a stale
one because the record it finds is out of range, of another node, or not older than the one it came from.
Why that is enough: a record is reused by an event with a higher sequence number, and if that event
belongs to the same list behind the record that the stale pointer is in, it was linked there anyway.

An erased event stays in the ring as a tombstone, of no node and long expired, until its turn comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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


@helper
def level_bit(slot: int) -> Any:
    """The level of a slot as 4**level: 1 for three of four, 4 for three of four others, …"""
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
def is_older(
    words: Any, times: Any, side: int, node: int, slot: int, offset: int, than_ms: int, than_offset: int
) -> bool:
    """Whether ``slot`` holds an event of ``node`` that comes after (than_ms, than_offset) in its list."""
    if load(words, slot * WORDS + side) != node:
        return False
    time_ms = load(times, slot * TIMES + TIME)
    return time_ms < than_ms or (time_ms == than_ms and offset < than_offset)


@helper
def follow(
    words: Any, times: Any, side: int, node: int, slot: int, field: int,
    start: int, capacity: int, count: int,
) -> Any:  # fmt: skip
    """The live event that ``field`` of a live ``slot`` points at, or -1."""
    pointer = np.int64(words[slot * WORDS + field + side])
    if pointer == 0:
        return -1
    target = pointer - 1
    offset = offset_of(target, start, capacity)
    if offset >= count:
        return -1
    own = offset_of(slot, start, capacity)
    if is_older(words, times, side, node, target, offset, times[slot * TIMES + TIME], own):
        return target
    return -1


@helper
def _climb(
    words: Any, times: Any, side: int, node: int, slot: int, low: Any,
    start: int, capacity: int, count: int,
) -> int:  # fmt: skip
    """From a live ``slot`` along skips to the nearest older event above level ``low``, or -1."""
    while slot >= 0 and level_bit(slot) <= low:
        slot = follow(words, times, side, node, slot, SKIP, start, capacity, count)
    return slot


@helper
def _climb_tower(
    words: Any, times: Any, side: int, node: int, tower: int, low: Any, start: int, capacity: int, count: int
) -> int:  # fmt: skip
    """The same from a head's pointer to a high event, which may be stale; returns a pointer."""
    if (
        tower == 0
        or offset_of(tower - 1, start, capacity) >= count
        or words[(tower - 1) * WORDS + side] != node
    ):
        return 0
    return _climb(words, times, side, node, tower - 1, low, start, capacity, count) + 1


@kernel
def _newer_neighbor(
    words: Any, times: Any, side: int, node: int, entry: int, time_ms: int, arrival: int,
    start: int, capacity: int, count: int,
) -> int:  # fmt: skip
    """The last event of the list that is newer than (time_ms, arrival offset); ``entry`` is."""
    slot = entry
    while True:
        target = follow(words, times, side, node, slot, SKIP, start, capacity, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, start, capacity):
            target = follow(words, times, side, node, slot, PREV, start, capacity, count)
            if target < 0 or not _is_newer(times, target, time_ms, arrival, start, capacity):
                return slot
        slot = target


@helper
def _entry(
    words: Any, times: Any, side: int, node: int, pointer: int, tower: int, high: int, time_ms: int,
    start: int, capacity: int, count: int,
) -> int:  # fmt: skip
    """Where a walk to an event of that time may begin: at the newest of a high level that is newer yet."""
    for from_head in (high, tower):
        slot = from_head - 1
        if (
            slot >= 0
            and offset_of(slot, start, capacity) < count
            and words[slot * WORDS + side] == node
            and times[slot * TIMES + TIME] > time_ms
        ):
            return slot
    return pointer - 1


@helper
def _is_newer(times: Any, slot: int, time_ms: int, arrival: int, start: int, capacity: int) -> bool:
    at_ms = times[slot * TIMES + TIME]
    return at_ms > time_ms or (at_ms == time_ms and offset_of(slot, start, capacity) > arrival)


@helper
def link(
    words: Any, times: Any, heads: Any, side: int, node: int, head: int, slot: int,
    time_ms: int, horizon_ms: int, start: int, capacity: int, count: int, occupied: int,
) -> None:  # fmt: skip
    """Put the event at ``slot`` (its row and time already there) into its node's list. O(1) if in order.

    ``count`` events arrived before it, ``occupied`` records at most are in use once its batch is in.
    """
    pointer = np.int64(heads[head * HEAD_WORDS])
    degree = heads[head * HEAD_WORDS + DEGREE]
    tower = np.int64(heads[head * HEAD_WORDS + TOWER])
    high = np.int64(heads[head * HEAD_WORDS + HIGH])
    low = level_bit(slot)
    at = slot * WORDS
    if degree & STALE:
        tower = high = 0
        reused = offset_of(pointer - 1, start, capacity) < occupied
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
            skip = _climb_tower(words, times, side, node, high, low, start, capacity, count)
            tower = high = slot + 1
        heads[head * HEAD_WORDS + TOWER] = tower
        heads[head * HEAD_WORDS + HIGH] = high
        words[at + PREV + side] = pointer
        words[at + SKIP + side] = skip
        _set_newest_ms(heads, head, time_ms)
        heads[head * HEAD_WORDS + DEGREE] = (degree & COUNT) + np.uint32(1)
        store_release(heads, head * HEAD_WORDS, np.uint32(slot + 1))
        return

    # Late: walk to the last newer event. Whatever skip on that walk passes over the new event and starts
    # below its level must point at it from now on, as in any skip list; none in front of the entry does.
    entry = _entry(words, times, side, node, pointer, tower, high, time_ms, start, capacity, count)
    newer = _newer_neighbor(words, times, side, node, entry, time_ms, count, start, capacity, count)
    own = words[newer * WORDS + PREV + side]
    words[at + PREV + side] = np.uint32(0) if own == slot + 1 else own
    older = follow(words, times, side, node, newer, PREV, start, capacity, count)
    words[at + SKIP + side] = _climb(words, times, side, node, older, low, start, capacity, count) + 1
    heads[head * HEAD_WORDS + DEGREE] = degree + np.uint32(1)
    # one that is gone reads as any time: at worst a skip is longer or shorter than it could be
    if low > LEVEL_0 and (tower == 0 or not _is_newer(times, tower - 1, time_ms, count, start, capacity)):
        heads[head * HEAD_WORDS + TOWER] = slot + 1
    if low > LEVEL_1 and (high == 0 or not _is_newer(times, high - 1, time_ms, count, start, capacity)):
        heads[head * HEAD_WORDS + HIGH] = slot + 1
    if low > LEVEL_0:
        _point_skips(words, times, side, node, entry, time_ms, count, newer, slot, start, capacity, count)
    store_release(words, newer * WORDS + PREV + side, np.uint32(slot + 1))


@kernel
def _point_skips(
    words: Any, times: Any, side: int, node: int, entry: int, time_ms: int, arrival: int, newer: int,
    slot: int, start: int, capacity: int, count: int,
) -> None:  # fmt: skip
    """Repeat the walk to ``newer``; the skips below its level that pass over the event at ``slot`` get it."""
    low = level_bit(slot)
    at = entry
    while True:
        target = follow(words, times, side, node, at, SKIP, start, capacity, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, start, capacity):
            if level_bit(at) < low:
                store_release(words, at * WORDS + SKIP + side, np.uint32(slot + 1))
            if at == newer:
                return
            target = follow(words, times, side, node, at, PREV, start, capacity, count)
        at = target


@kernel
def unlink(
    words: Any, times: Any, heads: Any, side: int, node: int, head: int, slot: int,
    start: int, capacity: int, count: int,
) -> None:  # fmt: skip
    """Take a live event out of its list although live events are behind it."""
    time_ms = times[slot * TIMES + TIME]
    prev = words[slot * WORDS + PREV + side]
    pointer = np.int64(heads[head * HEAD_WORDS])
    older = follow(words, times, side, node, slot, PREV, start, capacity, count)
    if heads[head * HEAD_WORDS + TOWER] == slot + 1:
        heads[head * HEAD_WORDS + TOWER] = (
            _climb(words, times, side, node, older, LEVEL_0, start, capacity, count) + 1
        )
    if heads[head * HEAD_WORDS + HIGH] == slot + 1:
        heads[head * HEAD_WORDS + HIGH] = (
            _climb(words, times, side, node, older, LEVEL_1, start, capacity, count) + 1
        )
    if pointer == slot + 1:
        if older >= 0:
            _set_newest_ms(heads, head, times[older * TIMES + TIME])
            store_release(heads, head * HEAD_WORDS, prev)
        return
    arrival = offset_of(slot, start, capacity)
    at = pointer - 1
    while True:
        target = follow(words, times, side, node, at, SKIP, start, capacity, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, start, capacity):
            if target == slot:
                store_release(words, at * WORDS + SKIP + side, words[slot * WORDS + SKIP + side])
            target = follow(words, times, side, node, at, PREV, start, capacity, count)
            if target == slot:
                store_release(words, at * WORDS + PREV + side, prev)
            if target < 0 or target == slot:
                return
        at = target
