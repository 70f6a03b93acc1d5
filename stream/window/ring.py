"""The writer's kernels: events enter the ring of a relation, leave it in turn, or are erased.

Window ──► [append, drop, erase] ──► adjacency: link, unlink
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.kernels.atomics import prefetch
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.adjacency import (
    COUNT,
    DEGREE,
    HEAD_WORDS,
    HIGH,
    ITEM,
    LEVEL_1,
    LONG_AGO,
    NIL,
    PREV,
    STALE,
    TIME,
    TIMES,
    USER,
    WORDS,
    Adjacency,
    Live,
    Side,
    follow,
    level_bit,
    link,
    offset_of,
    unlink,
)
from driftgraph.stream.window.live_count import Blocks

AHEAD = 32  # events between a prefetch and its use: their work takes 200 ns, as long as a miss to memory


class Ring(NamedTuple):
    """A relation's ring: ``capacity`` records from ``base`` on. It holds events ``first`` to ``next_``."""

    relation: int
    relation_count: int
    base: int
    capacity: int
    first: int
    next_: int


class Arrivals(NamedTuple):
    """N events in order of arrival, by row."""

    user: U32
    item: U32
    time_ms: I64


class Emptied(NamedTuple):
    """For each event that left, the node that has no event of its relation any more, or -1."""

    users: I64
    items: I64


@helper
def _users(memory: Adjacency, ring: Ring) -> Side:
    return Side(memory.words, memory.times, memory.user_heads, USER, ring.relation_count)


@helper
def _items(memory: Adjacency, ring: Ring) -> Side:
    return Side(memory.words, memory.times, memory.item_heads, ITEM, ring.relation_count)


@helper
def _head(ring: Ring, node: Any) -> Any:
    return np.int64(node) * ring.relation_count + ring.relation


@helper
def _behind(ring: Ring, slot: int) -> int:
    """The slot that comes after this one in the ring."""
    return slot + 1 if slot + 1 < ring.base + ring.capacity else ring.base


@kernel
def _leave(lists: Side, ring: Ring, slot: int, expired: bool, live: Live) -> Any:
    """Let the event at ``slot`` leave its list on one side; return the node if it was its last, else -1."""
    heads = lists.heads
    node = np.int64(lists.words[slot * WORDS + lists.side])
    head = _head(ring, node)
    if not expired and (heads[head * HEAD_WORDS + DEGREE] & COUNT) > 1:
        unlink(lists, node, head, slot, live)
    degree = heads[head * HEAD_WORDS + DEGREE] - np.uint32(1)
    if heads[head * HEAD_WORDS] == slot + 1:
        degree |= STALE
    heads[head * HEAD_WORDS + DEGREE] = degree
    return node if degree & COUNT == 0 else -1


@kernel
def drop_events(
    memory: Adjacency, ring: Ring, horizon_ms: int, exactly: int, emptied: Emptied
) -> tuple[int, int]:
    """Let the oldest arrivals go: ``exactly`` that many, or, if it is 0, those older than ``horizon_ms``.

    The kernel stops when ``emptied`` is full. It returns (events gone, those of them that had not expired).
    """
    words, times, user_heads, item_heads = memory
    users, items = _users(memory, ring), _items(memory, ring)
    base, capacity = ring.base, ring.capacity
    start = base + ring.first % capacity
    count = ring.next_ - ring.first
    gone, early = 0, 0
    limit = min(exactly or count, len(emptied.users))
    while gone < limit:
        expired = times[start * TIMES + TIME] < horizon_ms
        if not exactly and not expired:
            break
        if words[start * WORDS + USER] == NIL:
            emptied.users[gone] = emptied.items[gone] = -1
            gone += 1
            start = _behind(ring, start)
            continue
        if gone + AHEAD < count:
            ahead = start + AHEAD if start + AHEAD < base + capacity else start + AHEAD - capacity
            prefetch(user_heads, _head(ring, words[ahead * WORDS + USER]) * HEAD_WORDS)
            prefetch(item_heads, _head(ring, words[ahead * WORDS + ITEM]) * HEAD_WORDS)
        live = Live(start, capacity, count - gone)
        emptied.users[gone] = _leave(users, ring, start, expired, live)
        emptied.items[gone] = _leave(items, ring, start, expired, live)
        early += not expired
        gone += 1
        start = _behind(ring, start)
    return gone, early


@helper
def _bury(items: Side, ring: Ring, slot: int, horizon_ms: int, live: Live) -> Any:
    """Make the event at ``slot`` a tombstone; return the item if it was its last, else -1."""
    item = _leave(items, ring, slot, items.times[slot * TIMES + TIME] < horizon_ms, live)
    items.words[slot * WORDS + USER] = items.words[slot * WORDS + ITEM] = NIL
    items.times[slot * TIMES + TIME] = LONG_AGO
    return item


@helper
def _count_erased(blocks: Blocks, offset: int, tail: int) -> None:
    """Count an erased event in its block, unless the block already belongs to the ring's newer turn.

    The newer turn ends at ``tail``.
    """
    size = blocks.size
    if offset // size != tail // size or offset < tail or tail % size == 0:
        blocks.erased[offset // size] += 1


@kernel
def erase_events(
    memory: Adjacency, ring: Ring, user: int, horizon_ms: int, emptied_items: I64, blocks: Blocks
) -> None:
    """Make tombstones of all events of a user; ``emptied_items`` has room for exactly that many.

    ``emptied_items`` gets, for each event, the item that has no event of this relation left, or -1.
    ``blocks`` counts the erased events.
    """
    words, user_heads = memory.words, memory.user_heads
    users, items = _users(memory, ring), _items(memory, ring)
    start = ring.base + ring.first % ring.capacity
    live = Live(start, ring.capacity, ring.next_ - ring.first)
    tail = ring.next_ % ring.capacity
    head = _head(ring, user)
    found, slot = 0, np.int64(user_heads[head * HEAD_WORDS]) - 1
    if slot >= 0 and (
        offset_of(slot, start, live.capacity) >= live.length or words[slot * WORDS + USER] != user
    ):
        slot = -1
    while slot >= 0:
        older = follow(users, user, slot, PREV, live)
        emptied_items[found] = _bury(items, ring, slot, horizon_ms, live)
        _count_erased(blocks, slot - ring.base, tail)
        found += 1
        slot = older
    slot = start
    while found < len(emptied_items):  # rare: expired events that wait for their turn, and that no list holds
        if words[slot * WORDS + USER] == user:
            emptied_items[found] = _bury(items, ring, slot, horizon_ms, live)
            _count_erased(blocks, slot - ring.base, tail)
            found += 1
        slot = _behind(ring, slot)
    for word in range(HEAD_WORDS):
        user_heads[head * HEAD_WORDS + word] = 0


@kernel
def append_events(
    memory: Adjacency, ring: Ring, events: Arrivals, horizon_ms: int, limits: tuple[int, int], left_out: I64
) -> int:
    """Put N events, at most ``capacity``, behind the newest and link each into its two lists.

    The kernel leaves out an event that has expired, and one whose user or item holds as many events of the
    relation as ``limits`` (user, item) allow. It lists these by index in ``left_out`` [N] and returns their
    number. An event of user ``NIL`` becomes a tombstone.
    """
    words, times, user_heads, item_heads = memory
    users, items = _users(memory, ring), _items(memory, ring)
    user, item, time_ms = events
    user_events_max, item_events_max = limits
    total = len(user)
    start = ring.base + ring.first % ring.capacity
    slot = ring.base + ring.next_ % ring.capacity
    before = ring.next_ - ring.first
    out = 0
    for i in range(total):
        if user[i] == NIL:
            words[slot * WORDS + USER] = words[slot * WORDS + ITEM] = NIL
            times[slot * TIMES + TIME] = LONG_AGO
            slot = _behind(ring, slot)
            continue
        if i + AHEAD < total:
            prefetch(user_heads, _head(ring, user[i + AHEAD]) * HEAD_WORDS)
            prefetch(item_heads, _head(ring, item[i + AHEAD]) * HEAD_WORDS)
        soon = i + AHEAD // 2  # its head has arrived by now; one event of 16 needs another record
        if soon < total and user[soon] != NIL and level_bit(slot + AHEAD // 2) > LEVEL_1:
            at = _head(ring, user[soon]) * HEAD_WORDS + HIGH
            prefetch(words, max(np.int64(user_heads[at]) - 1, 0) * WORDS)
            at = _head(ring, item[soon]) * HEAD_WORDS + HIGH
            prefetch(words, max(np.int64(item_heads[at]) - 1, 0) * WORDS)
        user_head, item_head = _head(ring, user[i]), _head(ring, item[i])
        if (
            time_ms[i] < horizon_ms
            or (user_heads[user_head * HEAD_WORDS + DEGREE] & COUNT) >= user_events_max
            or (item_heads[item_head * HEAD_WORDS + DEGREE] & COUNT) >= item_events_max
        ):
            left_out[out] = i
            out += 1
            continue
        words[slot * WORDS + USER] = user[i]
        words[slot * WORDS + ITEM] = item[i]
        times[slot * TIMES + TIME] = time_ms[i]
        live = Live(start, ring.capacity, before + i - out)
        link(users, np.int64(user[i]), user_head, slot, time_ms[i], horizon_ms, live, before + total)
        link(items, np.int64(item[i]), item_head, slot, time_ms[i], horizon_ms, live, before + total)
        slot = _behind(ring, slot)
    return out
