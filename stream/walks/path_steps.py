"""The steps from a target to what lies around the visits of its items, in compiled loops.

    merged_walk ──► [history_of, visits_of, neighbors_of] ──► path_kernels

A target is worked on in three steps: the items of its user's newest events; the newest visits of all these
items, walked together; what lies around each visit in its visitor's sequence, ``BLOCK`` visitors together.
The last step is nearly all of the work. Its results are used in the order of the visits, so that no answer
depends on which walk ended first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I32, I64, U32
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
    visitor: I64  # [H · V] by visit, as the next five
    visit_slot: I64
    visit_ms: I64
    chance: I64
    next_visit: I64  # of the same visitor; -1
    position: I64  # in the visitor's sequence, from the newest event on; ``NOT_REACHED``
    near: I64  # [H · V, 2 L + 1] slot · R + relation of the event at each lag; -1 if there is none
    chosen: I64  # [H · V] visits, in order
    walked: I64  # [W] visitors, each once, and the number and the first of the chosen visits of each
    pending: I64
    first_visit: I64
    sequence: I64  # [B, reach + L] slot · R + relation of a visitor's events, from the newest on
    seen: I64  # [B] how many of them there are, and how many are wanted
    wanted: I64
    visit_table: (
        I32  # hash tables, a power of two of places: 1 + visit by slot, 1 + place in ``walked``; or 0
    )
    visitor_table: I32


def room(limits: Limits, relation_count: int) -> Room:
    """The memory for one thread."""
    together, visits = max(limits.history, BLOCK), limits.history * limits.visits

    def numbers(count: int) -> I64:
        return np.empty(count, np.int64)

    table = 1 << (2 * visits - 1).bit_length()
    return Room(
        walk=room_for(together, relation_count),
        going=numbers(together),
        via=numbers(limits.history),
        via_ms=numbers(limits.history),
        via_relation=numbers(limits.history),
        visit_count=numbers(limits.history),
        visitor=numbers(visits),
        visit_slot=numbers(visits),
        visit_ms=numbers(visits),
        chance=numbers(visits),
        next_visit=numbers(visits),
        position=numbers(visits),
        near=numbers(visits * (2 * limits.lag + 1)),
        chosen=numbers(visits),
        walked=numbers(visits),
        pending=numbers(visits),
        first_visit=numbers(visits),
        sequence=numbers(BLOCK * (limits.reach + limits.lag)),
        seen=numbers(BLOCK),
        wanted=numbers(BLOCK),
        visit_table=np.empty(table, np.int32),
        visitor_table=np.empty(table, np.int32),
    )


@helper
def is_known(room: Room, count: int, item: int) -> bool:  # pragma: no cover - compiled
    """Whether the item is among the first ``count`` of the history."""
    known = False
    for k in range(count):
        known |= load(room.via, k) == item
    return known


@kernel
def history_of(lists: Lists, targets: Targets, n: int, limits: Limits, room: Room) -> int:  # pragma: no cover
    """Fill in the items of target ``n``, newest first, and return how many there are."""
    if len(targets.bounds) > 0:
        count = 0
        for at in range(targets.bounds[n], targets.bounds[n + 1]):
            if count < limits.history and not is_known(room, count, np.int64(targets.given[at])):
                room.via[count] = targets.given[at]
                count += 1
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
        if not is_known(room, count, item):
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
def choose_visits(
    limits: Limits, room: Room, user: int, before_ms: int, count: int
) -> int:  # pragma: no cover - compiled
    """Keep the ``limits.kept`` of ``count`` chosen visits with the lowest hash; of equals the first."""
    chance, chosen = room.chance, room.chosen
    for x in range(count):
        at = load(chosen, x)
        h = _mixed(_mixed(np.uint64(0), user), before_ms)
        h = _mixed(
            _mixed(_mixed(h, load(room.via, at // limits.visits)), load(room.visitor, at)),
            load(room.visit_ms, at),
        )
        chance[at] = np.int64(h >> np.uint64(32))
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
    for k in range(items):
        prefetch(side.heads, load(room.via, k) * side.width * HEAD_WORDS)
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
    return limits.kept, count - choose_visits(limits, room, user, before_ms, count)


@helper
def _place(table: I32, numbers: I64, number: int) -> int:  # pragma: no cover - compiled
    """Where the table has the place of ``number`` in ``numbers``, or where it belongs."""
    mask = len(table) - 1
    at = (number * 0x9E3779B1 >> 8) & mask
    while load(table, at) != 0 and load(numbers, np.int64(load(table, at)) - 1) != number:
        at = (at + 1) & mask
    return at


@kernel
def _by_visitor(room: Room, visits: int) -> int:  # pragma: no cover - compiled
    """List the visitors of the chosen visits, each once, with its visits; return how many there are."""
    for at in range(len(room.visit_table)):
        room.visit_table[at] = room.visitor_table[at] = 0
    count = 0
    for x in range(visits):
        visit = load(room.chosen, x)
        visitor = load(room.visitor, visit)
        room.position[visit] = NOT_REACHED
        room.visit_table[_place(room.visit_table, room.visit_slot, load(room.visit_slot, visit))] = visit + 1
        at = _place(room.visitor_table, room.walked, visitor)
        if load(room.visitor_table, at) == 0:
            room.walked[count], room.pending[count], room.first_visit[count] = visitor, 0, -1
            count += 1
            room.visitor_table[at] = count
        w = np.int64(load(room.visitor_table, at)) - 1
        room.next_visit[visit] = load(room.first_visit, w)
        room.first_visit[w] = visit
        room.pending[w] += 1
    return count


@kernel
def _walk(
    lists: Lists, before_ms: int, limits: Limits, room: Room, first: int, count: int
) -> None:  # pragma: no cover - compiled
    """Walk ``count`` visitors, from the one at ``first`` on, past the last of their visits."""
    side, rings = lists.users, lists.rings
    relation_count, width = len(rings.start), limits.reach + limits.lag
    for b in range(count):
        prefetch(side.heads, load(room.walked, first + b) * side.width * HEAD_WORDS)
    put_in = 0
    for b in range(count):
        visitor = load(room.walked, first + b)
        put_in = begin(side, rings, room.walk, b, visitor, before_ms, lists.user_rows, put_in)
        room.seen[b], room.wanted[b], room.going[b] = 0, 0, b
    ready(side, rings, room.walk, put_in)
    going = count
    while going:
        kept = 0
        for x in range(going):
            b = load(room.going, x)
            slot, r, _ = next_event(side, rings, room.walk.walks, b)
            if slot < 0:
                continue
            seen = load(room.seen, b)
            room.sequence[b * width + seen] = slot * relation_count + r
            room.seen[b] = seen + 1
            if seen < limits.reach:
                visit = load(room.visit_table, _place(room.visit_table, room.visit_slot, slot))
                if visit != 0:
                    room.position[visit - 1] = seen
                    room.pending[first + b] -= 1
                    room.wanted[b] = seen + 1 + limits.lag
            is_searched = seen + 1 >= limits.reach or load(room.pending, first + b) == 0
            if is_searched and seen + 1 >= load(room.wanted, b):
                continue
            room.going[kept] = b
            kept += 1
        going = kept


@kernel
def neighbors_of(
    lists: Lists, before_ms: int, limits: Limits, room: Room, visits: int
) -> None:  # pragma: no cover - compiled
    """Find what lies around each of the chosen visits. A visitor of many visits is walked once."""
    visitors, width, lag = _by_visitor(room, visits), limits.reach + limits.lag, limits.lag
    for first in range(0, visitors, BLOCK):
        count = min(BLOCK, visitors - first)
        _walk(lists, before_ms, limits, room, first, count)
        for b in range(count):
            visit = load(room.first_visit, first + b)
            while visit >= 0:
                position = load(room.position, visit)
                for places in range(-lag, lag + 1):
                    at = position - places
                    is_there = position != NOT_REACHED and places != 0 and 0 <= at < load(room.seen, b)
                    end = load(room.sequence, b * width + at) if is_there else -1
                    room.near[visit * (2 * lag + 1) + lag + places] = end
                visit = load(room.next_visit, visit)
