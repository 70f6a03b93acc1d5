"""The ring of a relation: how events enter the window, leave it in turn, or are erased (writer kernels).

Window ──► [append, drop, erase] ──► adjacency: link, unlink
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
    follow,
    level_bit,
    link,
    offset_of,
    unlink,
)

AHEAD = 32  # events between a prefetch and its use: about 200 ns of work, a miss to memory


@kernel
def _leave(
    words: Any, times: Any, heads: Any, side: int, relation: int, relation_count: int,
    slot: int, expired: bool, start: int, capacity: int, count: int,
) -> Any:  # fmt: skip
    """Let the event at ``slot`` leave its list on one side; return the node if it was its last, else -1."""
    node = np.int64(words[slot * WORDS + side])
    head = node * relation_count + relation
    if not expired and (heads[head * HEAD_WORDS + DEGREE] & COUNT) > 1:
        unlink(words, times, heads, side, node, head, slot, start, capacity, count)
    degree = heads[head * HEAD_WORDS + DEGREE] - np.uint32(1)
    if heads[head * HEAD_WORDS] == slot + 1:
        degree |= STALE
    heads[head * HEAD_WORDS + DEGREE] = degree
    return node if degree & COUNT == 0 else -1


@kernel
def drop_events(
    words: Any, times: Any, user_heads: Any, item_heads: Any,
    relation: int, relation_count: int, base: int, capacity: int, first: int, next_: int,
    horizon_ms: int, exactly: int, emptied_users: Any, emptied_items: Any,
) -> tuple[int, int]:  # fmt: skip
    """Let the oldest arrivals go: ``exactly`` so many, or with 0 those older than ``horizon_ms``.

    Stops when ``emptied_users`` and ``emptied_items`` are full; they get, for each event, the node that has
    no event of this relation left, or -1. Returns (events gone, those of them that had not expired).
    """
    start = base + first % capacity
    count = next_ - first
    gone, early = 0, 0
    limit = min(exactly or count, len(emptied_users))
    while gone < limit:
        expired = times[start * TIMES + TIME] < horizon_ms
        if not exactly and not expired:
            break
        if words[start * WORDS + USER] == NIL:
            emptied_users[gone] = emptied_items[gone] = -1
            gone += 1
            start = start + 1 if start + 1 < base + capacity else base
            continue
        if gone + AHEAD < count:
            ahead = start + AHEAD if start + AHEAD < base + capacity else start + AHEAD - capacity
            prefetch(
                user_heads, (np.int64(words[ahead * WORDS + USER]) * relation_count + relation) * HEAD_WORDS
            )
            prefetch(
                item_heads, (np.int64(words[ahead * WORDS + ITEM]) * relation_count + relation) * HEAD_WORDS
            )
        emptied_users[gone] = _leave(
            words, times, user_heads, USER, relation, relation_count, start, expired,
            start, capacity, count - gone,
        )  # fmt: skip
        emptied_items[gone] = _leave(
            words, times, item_heads, ITEM, relation, relation_count, start, expired,
            start, capacity, count - gone,
        )  # fmt: skip
        early += not expired
        gone += 1
        start = start + 1 if start + 1 < base + capacity else base
    return gone, early


@helper
def _bury(
    words: Any, times: Any, item_heads: Any, relation: int, relation_count: int, slot: int,
    horizon_ms: int, start: int, capacity: int, count: int,
) -> Any:  # fmt: skip
    """Make the event at ``slot`` a tombstone; return the item if it was its last, else -1."""
    item = _leave(
        words, times, item_heads, ITEM, relation, relation_count, slot,
        times[slot * TIMES + TIME] < horizon_ms, start, capacity, count,
    )  # fmt: skip
    words[slot * WORDS + USER] = words[slot * WORDS + ITEM] = NIL
    times[slot * TIMES + TIME] = LONG_AGO
    return item


@helper
def _count_erased(erased: Any, block: int, offset: int, tail: int) -> None:
    """Count one in its block, unless the ring's newer turn, which ends at ``tail``, has begun there."""
    if offset // block != tail // block or offset < tail or tail % block == 0:
        erased[offset // block] += 1


@kernel
def erase_events(
    words: Any, times: Any, user_heads: Any, item_heads: Any, user: int, relation: int, relation_count: int,
    base: int, capacity: int, first: int, next_: int, horizon_ms: int, emptied_items: Any,
    erased: Any, block: int,
) -> None:  # fmt: skip
    """Make tombstones of all events of a user, as many as ``emptied_items`` has room for.

    It gets, for each, the item that has no event of this relation left, or -1. ``erased`` counts them for
    each ``block`` slots of the ring.
    """
    start = base + first % capacity
    count = next_ - first
    head = user * relation_count + relation
    found, slot = 0, np.int64(user_heads[head * HEAD_WORDS]) - 1
    if slot >= 0 and (offset_of(slot, start, capacity) >= count or words[slot * WORDS + USER] != user):
        slot = -1
    while slot >= 0:
        older = follow(words, times, USER, user, slot, PREV, start, capacity, count)
        emptied_items[found] = _bury(
            words, times, item_heads, relation, relation_count, slot, horizon_ms, start, capacity, count
        )
        _count_erased(erased, block, slot - base, next_ % capacity)
        found += 1
        slot = older
    slot = start
    while found < len(emptied_items):  # rare: expired ones that wait for their turn, and no list knows of
        if words[slot * WORDS + USER] == user:
            emptied_items[found] = _bury(
                words, times, item_heads, relation, relation_count, slot, horizon_ms, start, capacity, count
            )
            _count_erased(erased, block, slot - base, next_ % capacity)
            found += 1
        slot = slot + 1 if slot + 1 < base + capacity else base
    for word in range(HEAD_WORDS):
        user_heads[head * HEAD_WORDS + word] = 0


@kernel
def append_events(
    words: Any, times: Any, user_heads: Any, item_heads: Any, relation: int, relation_count: int,
    base: int, capacity: int, first: int, next_: int, user: Any, item: Any, time_ms: Any,
    horizon_ms: int, user_events_max: int, item_events_max: int, left_out: Any,
) -> int:  # fmt: skip
    """Put N events, at most ``capacity``, behind the newest and link each into its two lists.

    Left out, and listed by index in ``left_out`` [N], are those that expired already and those whose user or
    item holds as many events of the relation as it may. Returns how many these are. An event of user ``NIL``
    becomes a tombstone.
    """
    total = len(user)
    start = base + first % capacity
    slot = base + next_ % capacity
    before = next_ - first
    out = 0
    for i in range(total):
        if user[i] == NIL:
            words[slot * WORDS + USER] = words[slot * WORDS + ITEM] = NIL
            times[slot * TIMES + TIME] = LONG_AGO
            slot = slot + 1 if slot + 1 < base + capacity else base
            continue
        if i + AHEAD < total:
            prefetch(user_heads, (np.int64(user[i + AHEAD]) * relation_count + relation) * HEAD_WORDS)
            prefetch(item_heads, (np.int64(item[i + AHEAD]) * relation_count + relation) * HEAD_WORDS)
        soon = i + AHEAD // 2  # its head is here by now; one event of 16 needs a record besides
        if soon < total and user[soon] != NIL and level_bit(slot + AHEAD // 2) > LEVEL_1:
            at = (np.int64(user[soon]) * relation_count + relation) * HEAD_WORDS + HIGH
            prefetch(words, max(np.int64(user_heads[at]) - 1, 0) * WORDS)
            at = (np.int64(item[soon]) * relation_count + relation) * HEAD_WORDS + HIGH
            prefetch(words, max(np.int64(item_heads[at]) - 1, 0) * WORDS)
        user_head = np.int64(user[i]) * relation_count + relation
        item_head = np.int64(item[i]) * relation_count + relation
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
        link(
            words, times, user_heads, USER, np.int64(user[i]), user_head, slot, time_ms[i], horizon_ms,
            start, capacity, before + i - out, before + total,
        )  # fmt: skip
        link(
            words, times, item_heads, ITEM, np.int64(item[i]), item_head, slot, time_ms[i], horizon_ms,
            start, capacity, before + i - out, before + total,
        )  # fmt: skip
        slot = slot + 1 if slot + 1 < base + capacity else base
    return out
