"""The steps from a target to what lies around the visits of its items, in compiled loops.

    merged_walk ──► [history_of, visits_of, near] ──► path_kernels

A target is worked on in three steps: the items of its user's newest events; the newest visits of all these
items, walked together; what lies around each visit in its visitor's sequence, ``BLOCK`` visits together. The
last step is nearly all of the work. Its results are used in the order of the visits, so that no answer
depends on which walk ended first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.kernels.atomics import load, prefetch
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.kernels.hashing import GOLDEN
from driftgraph.stream.window.adjacency import HEAD_WORDS, ITEM, USER, WORDS, Side
from driftgraph.stream.window.merged_walk import begin, next_event, ready, room_for
from driftgraph.stream.window.recent_kernels import Rings, Scratch

BLOCK = 64  # visits worked on together
SCAN = 16  # newest events of a user that are looked at for each distinct item wanted
NOT_REACHED = -1


class Lists(NamedTuple):
    """The window as of a cut."""

    users: Side
    items: Side
    rings: Rings
    user_rows: int  # a row at or above it has no event
    item_rows: int


class Targets(NamedTuple):
    """N questions. A history is given if ``bounds`` has N + 1 numbers, and else is that of ``user``."""

    user: U32  # ``NIL``: nobody
    before_ms: I64
    bounds: I64
    given: U32


class Limits(NamedTuple):
    """``paths.Shape``, as kernels take it."""

    history: int
    visits: int
    lag: int
    kept: int  # visits of a target
    reach: int
    rows: int  # at most so many paths of a target


class Room(NamedTuple):
    """The memory that one thread works in. H items, V visits of each, B = ``BLOCK``, L places."""

    walk: Scratch
    going: I64  # [max(H, B)] the nodes that go on
    via: I64  # [H] the items of the history, the time and the relation of the user's newest event with each
    via_ms: I64
    via_relation: I64
    visit_count: I64  # [H]
    visitor: I64  # [H · V]
    visit_slot: I64
    visit_ms: I64
    chance: I64
    chosen: I64  # places in the four above, in order
    near: I64  # [B · 2 L] slot · R + relation: L later events in a ring, L earlier events
    later: I64  # [B] events of the visitor after the visit
    earlier: I64  # [B] how many of at most L there are; ``NOT_REACHED``


def room(limits: Limits, relation_count: int) -> Room:
    """The memory for one thread."""
    together, visits = max(limits.history, BLOCK), limits.history * limits.visits

    def numbers(count: int) -> I64:
        return np.zeros(count, np.int64)

    return Room(
        room_for(together, relation_count), numbers(together), *(numbers(limits.history) for _ in range(4)),
        *(numbers(visits) for _ in range(5)), numbers(BLOCK * 2 * limits.lag), numbers(BLOCK), numbers(BLOCK),
    )  # fmt: skip


@kernel
def history_of(lists: Lists, targets: Targets, n: int, limits: Limits, room: Room) -> int:  # pragma: no cover
    """Fill in the items of target ``n``, newest first, and return how many there are."""
    if len(targets.bounds) > 0:
        first = targets.bounds[n]
        count = min(targets.bounds[n + 1] - first, limits.history)
        for k in range(count):
            room.via[k] = targets.given[first + k]
        return count
    side, rings, before_ms = lists.users, lists.rings, targets.before_ms[n]
    user = np.int64(targets.user[n])
    ready(side, rings, room.walk, begin(side, rings, room.walk, 0, user, before_ms, lists.user_rows, 0))
    count = 0
    for _ in range(SCAN * limits.history):
        slot, r, time_ms = next_event(side, rings, room.walk.walks, 0)
        if slot < 0:
            break
        item = np.int64(load(side.words, slot * WORDS + ITEM))
        known = False
        for k in range(count):
            known |= load(room.via, k) == item
        if not known:
            room.via[count], room.via_ms[count], room.via_relation[count] = item, time_ms, r
            count += 1
            if count == limits.history:
                break
    return count


@helper
def _mixed(h: Any, number: Any) -> Any:  # pragma: no cover - compiled
    """One number more in a hash, as ``hashing.fold`` does it."""
    h = (h ^ np.uint64(number)) * GOLDEN
    return h ^ (h >> np.uint64(29))


@kernel
def _choose(limits: Limits, room: Room, count: int) -> int:  # pragma: no cover - compiled
    """Keep the ``limits.kept`` of ``count`` chosen visits with the lowest chance; of equals the first."""
    chance, chosen = room.chance, room.chosen
    highest = np.int64(0)  # the largest number that at most ``kept`` chances are below
    for bit in range(31, -1, -1):
        tried = highest | (np.int64(1) << bit)
        below = 0
        for x in range(count):
            below += load(chance, load(chosen, x)) < tried
        if below <= limits.kept:
            highest = tried
    equals = limits.kept
    for x in range(count):
        equals -= load(chance, load(chosen, x)) < highest
    kept = 0
    for x in range(count):
        at = load(chosen, x)
        if load(chance, at) < highest or (load(chance, at) == highest and equals > 0):
            equals -= load(chance, at) == highest
            chosen[kept] = at
            kept += 1
    return kept


@kernel
def visits_of(
    lists: Lists, targets: Targets, n: int, limits: Limits, room: Room, items: int
) -> Any:  # pragma: no cover
    """Find the newest visits of the ``items`` of a history; return how many are chosen and how many left out.

    Visit ``rank`` of item k is at place k · V + rank.
    """
    side, rings, before_ms, user = lists.items, lists.rings, targets.before_ms[n], np.int64(targets.user[n])
    relation_count = len(rings.start)
    for k in range(items):
        prefetch(side.heads, load(room.via, k) * relation_count * HEAD_WORDS)
    count = 0
    for k in range(items):
        count = begin(side, rings, room.walk, k, load(room.via, k), before_ms, lists.item_rows, count)
        room.going[k], room.visit_count[k] = k, 0
    ready(side, rings, room.walk, count)
    going = items
    while going:
        kept = 0
        for x in range(going):
            k = load(room.going, x)
            slot, _, time_ms = next_event(side, rings, room.walk.walks, k)
            if slot < 0:
                continue
            rank = load(room.visit_count, k)
            at = k * limits.visits + rank
            room.visitor[at] = load(side.words, slot * WORDS + USER)
            room.visit_slot[at], room.visit_ms[at] = slot, time_ms
            room.visit_count[k] = rank + 1
            if rank + 1 < limits.visits:
                room.going[kept] = k
                kept += 1
        going = kept
    count = 0
    for k in range(items):
        for at in range(k * limits.visits, k * limits.visits + load(room.visit_count, k)):
            if load(room.visitor, at) == user:
                continue
            room.chosen[count] = at
            count += 1
    if count <= limits.kept:
        return count, 0
    for x in range(count):
        at = load(room.chosen, x)
        h = _mixed(_mixed(np.uint64(0), user), before_ms)
        h = _mixed(
            _mixed(_mixed(h, load(room.via, at // limits.visits)), load(room.visitor, at)),
            load(room.visit_ms, at),
        )
        room.chance[at] = np.int64(h >> np.uint64(32))
    return limits.kept, count - _choose(limits, room, count)


@kernel
def near(
    lists: Lists, before_ms: int, limits: Limits, room: Room, first: int, count: int
) -> None:  # pragma: no cover
    """Find what lies around ``count`` chosen visits, from the one at ``first`` on."""
    side, rings, lag = lists.users, lists.rings, limits.lag
    relation_count = len(rings.start)
    for b in range(count):
        prefetch(side.heads, load(room.visitor, load(room.chosen, first + b)) * relation_count * HEAD_WORDS)
    put_in = 0
    for b in range(count):
        visitor = load(room.visitor, load(room.chosen, first + b))
        put_in = begin(side, rings, room.walk, b, visitor, before_ms, lists.user_rows, put_in)
        room.later[b], room.earlier[b], room.going[b] = 0, NOT_REACHED, b
    ready(side, rings, room.walk, put_in)
    going = count
    while going:
        kept = 0
        for x in range(going):
            b = load(room.going, x)
            slot, r, _ = next_event(side, rings, room.walk.walks, b)
            if slot < 0:
                continue
            later, earlier = load(room.later, b), load(room.earlier, b)
            if earlier != NOT_REACHED:
                room.near[b * 2 * lag + lag + earlier] = slot * relation_count + r
                room.earlier[b] = earlier + 1
                if earlier + 1 == lag:
                    continue
            elif slot == load(room.visit_slot, load(room.chosen, first + b)):
                room.earlier[b] = 0
            elif later + 1 == limits.reach:
                continue
            else:
                room.near[b * 2 * lag + later % lag] = slot * relation_count + r
                room.later[b] = later + 1
            room.going[kept] = b
            kept += 1
        going = kept


@helper
def end_of(limits: Limits, room: Room, b: int, lag: int) -> int:  # pragma: no cover - compiled
    """The event ``lag`` places after visit ``b``, as ``near`` has it; -1 if there is none."""
    later, earlier, width = load(room.later, b), load(room.earlier, b), limits.lag
    if lag > 0 and lag <= later and earlier != NOT_REACHED:
        return load(room.near, b * 2 * width + (later - lag) % width)
    if lag < 0 and -lag <= earlier:
        return load(room.near, b * 2 * width + width - lag - 1)
    return -1
