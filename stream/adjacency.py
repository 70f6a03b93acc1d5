"""The linked temporal adjacency: how an event enters the window and how it leaves (the writer's kernels).

One record of eight 32-bit words an event, half a cache line, so that a step along a list is one miss:

    word  0 user row   1 item row   2,3 event time (int64 ms)   4,5 prev   6,7 skip   (user side, item side)

A relation owns ``capacity`` records from ``base`` on, used as a ring: the event with sequence number s is
at ``base + s % capacity``. On each side, the events of one node form a list from newest to oldest by
(event time, arrival): ``head -> prev -> prev …``. ``skip`` points at some older event of the list, at
insertion the nearest of a higher level (level = trailing zeros of a hash of the slot), so that the first
event before a time is found in O(log² degree) expected steps.

A pointer is slot + 1; 0 is none. Pointers are never cleared when an event leaves: a walker knows a stale
one because the record it finds is out of range, of another node, or not older than the one it came from.
Why that is enough: a record is reused by an event with a higher sequence number, and if that event
belongs to the same list behind the record that the stale pointer is in, it was linked there anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from driftgraph.stream.atomics import prefetch, store_release

USER, ITEM = 0, 1  # the two sides of an event; also the words of its rows

WORDS = 8  # 32-bit words of a record
TIMES = 4  # 64-bit words of a record; the time is the one at index 1
TIME = 1
PREV, SKIP = 4, 6  # words, plus the side
HEAD_WORDS = 4  # head pointer, degree and flag, newest time (two words)
HEAD_TIMES = 2
STALE = np.uint32(1 << 31)  # flag in the degree word: the head's event has left the window
DEGREE = np.uint32(STALE - 1)

AHEAD = 16  # events between a prefetch and its use: about 200 ns of work, a miss to memory

kernel = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


@kernel
def level_bit(slot: int) -> Any:
    """The level of a slot as 2**level: 1 for half of them, 2 for a quarter, …"""
    h = np.uint32(np.uint32(slot) * np.uint32(0x9E3779B1))  # numba widens a product to 64 bits
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA77))
    h = np.uint32(h ^ (h >> np.uint32(13))) | np.uint32(1 << 31)
    return np.uint32(h & (~h + np.uint32(1)))


@kernel
def offset_of(slot: int, base: int, capacity: int, first: int) -> int:
    """How many events after ``first`` the event that occupies (or would next occupy) ``slot`` arrived."""
    offset = slot - base - first % capacity
    return offset + capacity if offset < 0 else offset


@kernel
def is_older(
    words: Any, times: Any, side: int, node: int, slot: int, offset: int, than_ms: int, than_offset: int
) -> bool:
    """Whether ``slot`` holds an event of ``node`` that comes after (than_ms, than_offset) in its list."""
    if words[slot * WORDS + side] != node:
        return False
    time_ms = times[slot * TIMES + TIME]
    return time_ms < than_ms or (time_ms == than_ms and offset < than_offset)


@kernel
def _follow(
    words: Any, times: Any, side: int, node: int, slot: int, field: int,
    base: int, capacity: int, first: int, count: int,
) -> int:  # fmt: skip
    """The live event that ``field`` of a live ``slot`` points at, or -1."""
    pointer = np.int64(words[slot * WORDS + field + side])
    if pointer == 0:
        return -1
    target = pointer - 1
    offset = offset_of(target, base, capacity, first)
    if offset >= count:
        return -1
    own = offset_of(slot, base, capacity, first)
    if is_older(words, times, side, node, target, offset, times[slot * TIMES + TIME], own):
        return target
    return -1


@kernel
def _climb(
    words: Any, times: Any, side: int, node: int, slot: int, low: Any,
    base: int, capacity: int, first: int, count: int,
) -> int:  # fmt: skip
    """From a live ``slot`` along skips to the nearest older event above level ``low``, or -1."""
    while slot >= 0 and level_bit(slot) <= low:
        slot = _follow(words, times, side, node, slot, SKIP, base, capacity, first, count)
    return slot


@kernel
def _newer_neighbor(
    words: Any, times: Any, side: int, node: int, head: int, time_ms: int, arrival: int,
    base: int, capacity: int, first: int, count: int,
) -> int:  # fmt: skip
    """The last event of the list that is newer than (time_ms, arrival offset); ``head`` is."""
    slot = head
    while True:
        target = _follow(words, times, side, node, slot, SKIP, base, capacity, first, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, base, capacity, first):
            target = _follow(words, times, side, node, slot, PREV, base, capacity, first, count)
            if target < 0 or not _is_newer(times, target, time_ms, arrival, base, capacity, first):
                return slot
        slot = target


@kernel
def _is_newer(
    times: Any, slot: int, time_ms: int, arrival: int, base: int, capacity: int, first: int
) -> bool:
    at_ms = times[slot * TIMES + TIME]
    return at_ms > time_ms or (at_ms == time_ms and offset_of(slot, base, capacity, first) > arrival)


@kernel
def _link(
    words: Any, times: Any, heads: Any, head_times: Any, side: int, node: int, head: int, slot: int,
    time_ms: int, base: int, capacity: int, first: int, count: int,
) -> None:  # fmt: skip
    """Put the event at ``slot`` (its row and time already there) into its node's list. O(1) if in order."""
    pointer = np.int64(heads[head * HEAD_WORDS])
    degree = heads[head * HEAD_WORDS + 1]
    newest_ms = head_times[head * HEAD_TIMES + 1]
    at = slot * WORDS
    if degree & STALE and (pointer == slot + 1 or words[(pointer - 1) * WORDS + side] != node):
        pointer = 0  # the head's record was reused: nothing that any valid cut can see is behind it
    if pointer == 0 or time_ms >= newest_ms:
        skip = -1
        if pointer and not degree & STALE:
            skip = _climb(
                words, times, side, node, pointer - 1, level_bit(slot), base, capacity, first, count
            )
        words[at + PREV + side] = pointer
        words[at + SKIP + side] = skip + 1
        head_times[head * HEAD_TIMES + 1] = time_ms
        heads[head * HEAD_WORDS + 1] = (degree & DEGREE) + np.uint32(1)
        store_release(heads, head * HEAD_WORDS, np.uint32(slot + 1))
        return

    # Late: walk to the last newer event. Whatever skip on that walk passes over the new event and starts
    # below its level must point at it from now on, as in any skip list.
    newer = _newer_neighbor(
        words, times, side, node, pointer - 1, time_ms, count, base, capacity, first, count
    )
    own = words[newer * WORDS + PREV + side]
    words[at + PREV + side] = np.uint32(0) if own == slot + 1 else own
    older = _follow(words, times, side, node, newer, PREV, base, capacity, first, count)
    skip = _climb(words, times, side, node, older, level_bit(slot), base, capacity, first, count)
    words[at + SKIP + side] = skip + 1
    heads[head * HEAD_WORDS + 1] = degree + np.uint32(1)
    _point_skips(
        words, times, side, node, pointer - 1, time_ms, count, newer, slot, base, capacity, first, count
    )
    store_release(words, newer * WORDS + PREV + side, np.uint32(slot + 1))


@kernel
def _point_skips(
    words: Any, times: Any, side: int, node: int, head: int, time_ms: int, arrival: int, newer: int, slot: int,
    base: int, capacity: int, first: int, count: int,
) -> None:  # fmt: skip
    """Repeat the walk to ``newer`` and set the skips that pass over the event at ``slot``, if below its level."""
    low = level_bit(slot)
    at = head
    while True:
        target = _follow(words, times, side, node, at, SKIP, base, capacity, first, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, base, capacity, first):
            if level_bit(at) < low:
                store_release(words, at * WORDS + SKIP + side, np.uint32(slot + 1))
            if at == newer:
                return
            target = _follow(words, times, side, node, at, PREV, base, capacity, first, count)
        at = target


@kernel
def _unlink(
    words: Any, times: Any, heads: Any, head_times: Any, side: int, node: int, head: int, slot: int,
    base: int, capacity: int, first: int, count: int,
) -> None:  # fmt: skip
    """Take a live event out of its list although live events are behind it."""
    time_ms = times[slot * TIMES + TIME]
    prev = words[slot * WORDS + PREV + side]
    pointer = np.int64(heads[head * HEAD_WORDS])
    if pointer == slot + 1:
        older = _follow(words, times, side, node, slot, PREV, base, capacity, first, count)
        if older >= 0:
            head_times[head * HEAD_TIMES + 1] = times[older * TIMES + TIME]
            store_release(heads, head * HEAD_WORDS, prev)
        return
    arrival = offset_of(slot, base, capacity, first)
    at = pointer - 1
    while True:
        target = _follow(words, times, side, node, at, SKIP, base, capacity, first, count)
        if target < 0 or not _is_newer(times, target, time_ms, arrival, base, capacity, first):
            if target == slot:
                store_release(words, at * WORDS + SKIP + side, words[slot * WORDS + SKIP + side])
            target = _follow(words, times, side, node, at, PREV, base, capacity, first, count)
            if target == slot:
                store_release(words, at * WORDS + PREV + side, prev)
            if target < 0 or target == slot:
                return
        at = target


@kernel
def _drop_first(
    words: Any, times: Any, heads: Any, head_times: Any, relation: int, relation_count: int,
    base: int, capacity: int, first: int, count: int, expired: bool, emptied: Any, emptied_count: int,
) -> int:  # fmt: skip
    """Let the oldest arrival of a ring go; note each node that has no event of this relation left.

    ``heads``, ``head_times`` and ``emptied`` are pairs (user side, item side). Returns the new length of the
    ``emptied`` lists, which grow together; -1 stands in a list where that side's node has events left.
    """
    slot = base + first % capacity
    for side in range(2):
        node = np.int64(words[slot * WORDS + side])
        head = node * relation_count + relation
        if not expired and (heads[side][head * HEAD_WORDS + 1] & DEGREE) > 1:
            _unlink(
                words, times, heads[side], head_times[side], side, node, head, slot, base, capacity, first, count
            )
        degree = heads[side][head * HEAD_WORDS + 1] - np.uint32(1)
        if heads[side][head * HEAD_WORDS] == slot + 1:
            degree |= STALE
        heads[side][head * HEAD_WORDS + 1] = degree
        emptied[side][emptied_count] = node if degree & DEGREE == 0 else -1
    return emptied_count + 1


@kernel
def append_events(
    words: Any, times: Any, heads: Any, head_times: Any, relation: int, relation_count: int,
    base: int, capacity: int, first: int, next_: int, horizon_ms: int,
    user: Any, item: Any, time_ms: Any, emptied: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Append N events of one relation; return (first, how many left early, length of ``emptied``).

    A full ring lets its oldest arrival go for each new event; one that had not expired counts as truncated.
    ``emptied`` lists need room for N.
    """
    truncated = 0
    emptied_count = 0
    total = len(user)
    for i in range(total):
        if i + AHEAD < total:
            prefetch(heads[USER], (np.int64(user[i + AHEAD]) * relation_count + relation) * HEAD_WORDS)
            prefetch(heads[ITEM], (np.int64(item[i + AHEAD]) * relation_count + relation) * HEAD_WORDS)
        if i + AHEAD // 2 < total:
            for side in range(2):
                row = np.int64(user[i + AHEAD // 2]) if side == USER else np.int64(item[i + AHEAD // 2])
                pointer = np.int64(heads[side][(row * relation_count + relation) * HEAD_WORDS])
                if pointer:
                    prefetch(words, (pointer - 1) * WORDS)
        count = next_ - first
        if count == capacity:
            expired = times[(base + first % capacity) * TIMES + TIME] < horizon_ms
            emptied_count = _drop_first(
                words, times, heads, head_times, relation, relation_count,
                base, capacity, first, count, expired, emptied, emptied_count,
            )  # fmt: skip
            truncated += not expired
            first += 1
            count -= 1
        slot = base + next_ % capacity
        words[slot * WORDS + USER] = user[i]
        words[slot * WORDS + ITEM] = item[i]
        times[slot * TIMES + TIME] = time_ms[i]
        for side in range(2):
            node = np.int64(user[i]) if side == USER else np.int64(item[i])
            head = node * relation_count + relation
            if time_ms[i] < horizon_ms:  # no cut will show it, and its place may be behind records that are gone
                words[slot * WORDS + PREV + side] = 0
                words[slot * WORDS + SKIP + side] = 0
                heads[side][head * HEAD_WORDS + 1] += np.uint32(1)
                continue
            _link(
                words, times, heads[side], head_times[side], side, node, head,
                slot, time_ms[i], base, capacity, first, count,
            )  # fmt: skip
        next_ += 1
    return first, truncated, emptied_count


@kernel
def expire_events(
    words: Any, times: Any, heads: Any, head_times: Any, relation: int, relation_count: int,
    base: int, capacity: int, first: int, next_: int, horizon_ms: int, emptied: Any,
) -> tuple[int, int]:  # fmt: skip
    """Let the oldest arrivals go while they are older than ``horizon_ms``; return (first, length of ``emptied``).

    Stops when ``emptied`` is full; the caller calls again.
    """
    emptied_count = 0
    while first < next_ and emptied_count < len(emptied[0]):
        slot = base + first % capacity
        if times[slot * TIMES + TIME] >= horizon_ms:
            break
        emptied_count = _drop_first(
            words, times, heads, head_times, relation, relation_count,
            base, capacity, first, next_ - first, True, emptied, emptied_count,
        )  # fmt: skip
        first += 1
    return first, emptied_count
