"""The loops of ``event_index``: sorting events by user and by item, and reading what is sorted.

events in order of time ──► [fill] ──► EventIndex ──► [history_in, visits_in, newest_distinct]

The readers give what ``path_steps.history_of``, ``path_steps.visits_of`` and ``WindowView.distinct_union``
find by walking along the lists of the window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, U32
from driftgraph.stream.kernels.atomics import load, prefetch
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.walks.path_steps import SCAN, Limits, Room, Targets, choose_visits, is_known
from driftgraph.stream.window.adjacency import LONG_AGO, NIL, USER


class Sorted(NamedTuple):
    """E events in order of (time, relation, arrival)."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64


class EventIndex(NamedTuple):
    """E events sorted by (user, time, relation, arrival), and by (item, time, relation, arrival).

    Place 0 and the place behind the last event of each user are free: their rows are ``NIL``.
    """

    base_ms: int  # answers questions whose ``max(time, watermark)`` this is
    newest_ms: int  # of all events
    longest: int  # events of the user who has the most
    first_U: I64  # [users + 1] the events of user u are at ``first_U[u]`` to ``first_U[u + 1] - 1``
    user: U32  # [1 + E + users] by place, as the next three
    item: U32
    time_ms: I64
    relation: U8
    first_I: I64  # [items + 1] the visits of item i are at ``first_I[i]`` to ``first_I[i + 1]``
    visit: U32  # [E] places, oldest first


@kernel
def fill(
    events: Sorted, oldest_R: I64, index: EventIndex, next_U: I64, next_I: I64
) -> Any:  # pragma: no cover
    """Write the events that are not older than their relation's ``oldest_R`` into an index of zeros.

    The result is the newest time, and the events of the user who has the most. ``next_U`` [users] and
    ``next_I`` [items] are memory to work in.
    """
    user, item, relation, time_ms = events
    first_U, first_I = index.first_U, index.first_I
    users, items = len(first_U) - 1, len(first_I) - 1
    newest_ms = np.int64(LONG_AGO)
    for e in range(len(user)):
        if load(time_ms, e) >= load(oldest_R, np.int64(load(relation, e))):
            first_U[np.int64(load(user, e)) + 1] += 1
            first_I[np.int64(load(item, e)) + 1] += 1
            newest_ms = load(time_ms, e)
    longest = np.int64(0)
    first_U[0] = 1
    for row in range(users):
        longest = max(longest, load(first_U, row + 1))
        next_U[row] = load(first_U, row)
        first_U[row + 1] += load(first_U, row) + 1
    for row in range(items):
        next_I[row] = load(first_I, row)
        first_I[row + 1] += load(first_I, row)
    for at in range(len(index.item)):
        index.user[at] = index.item[at] = NIL
    for e in range(len(user)):
        if load(time_ms, e) >= load(oldest_R, np.int64(load(relation, e))):
            u, i = np.int64(load(user, e)), np.int64(load(item, e))
            place, number = load(next_U, u), load(next_I, i)
            index.user[place], index.item[place] = u, i
            index.time_ms[place], index.relation[place] = load(time_ms, e), load(relation, e)
            index.visit[number] = place
            next_U[u], next_I[i] = place + 1, number + 1
    return newest_ms, longest


@helper
def _of_user(index: EventIndex, user: Any, before_ms: int) -> Any:  # pragma: no cover - compiled
    """The places of a user's events before a time: the first, and the one behind the last."""
    if user >= len(index.first_U) - 1:
        return np.int64(0), np.int64(0)
    first = load(index.first_U, user)
    stop = load(index.first_U, user + 1) - 1
    if before_ms > index.newest_ms:
        return first, stop
    low, high = first, stop
    while low < high:
        middle = (low + high) // 2
        if load(index.time_ms, middle) < before_ms:
            low = middle + 1
        else:
            high = middle
    return first, low


@helper
def _of_item(index: EventIndex, item: Any, before_ms: int) -> Any:  # pragma: no cover - compiled
    """The numbers of an item's visits before a time: the first, and the one behind the last."""
    if item >= len(index.first_I) - 1:
        return np.int64(0), np.int64(0)
    first = load(index.first_I, item)
    stop = load(index.first_I, item + 1)
    if before_ms > index.newest_ms:
        return first, stop
    low, high = first, stop
    while low < high:
        middle = (low + high) // 2
        if load(index.time_ms, np.int64(load(index.visit, middle))) < before_ms:
            low = middle + 1
        else:
            high = middle
    return first, low


@kernel
def history_in(
    index: EventIndex, targets: Targets, n: int, limits: Limits, room: Room
) -> int:  # pragma: no cover
    """Fill in the items of target ``n``, newest first, and return how many there are."""
    count = 0
    if len(targets.bounds) > 0:
        for at in range(targets.bounds[n], targets.bounds[n + 1]):
            if count < limits.history and not is_known(room, count, np.int64(targets.given[at])):
                room.via[count] = targets.given[at]
                count += 1
        return count
    first, stop = _of_user(index, np.int64(targets.user[n]), targets.before_ms[n])
    for at in range(stop - 1, max(first, stop - SCAN * limits.history) - 1, -1):
        item = np.int64(load(index.item, at))
        if not is_known(room, count, item):
            room.via[count], room.via_ms[count] = item, load(index.time_ms, at)
            room.via_relation[count] = load(index.relation, at)
            count += 1
            if count == limits.history:
                break
    return count


@kernel
def visits_in(
    index: EventIndex, targets: Targets, n: int, limits: Limits, room: Room, items: int
) -> Any:  # pragma: no cover - compiled
    """Find the newest visits of the ``items`` of a history; return how many are chosen and how many left out.

    Visit ``rank`` of item k is at k · V + rank, its place in the index in ``room.visit_slot``.
    """
    before_ms, user = targets.before_ms[n], np.int64(targets.user[n])
    own_first, own_stop = _of_user(index, user, before_ms)
    count = 0
    for k in range(items):
        first, stop = _of_item(index, load(room.via, k), before_ms)
        for number in range(stop - 1, max(first, stop - limits.visits) - 1, -1):
            place, at = np.int64(load(index.visit, number)), k * limits.visits + stop - 1 - number
            if own_first <= place < own_stop:
                continue
            prefetch(index.item, place)
            room.visit_slot[at] = place
            room.chosen[count] = at
            count += 1
    if count <= limits.kept:
        return count, 0
    for x in range(count):
        at = load(room.chosen, x)
        place = load(room.visit_slot, at)
        room.visitor[at], room.visit_ms[at] = load(index.user, place), load(index.time_ms, place)
    return limits.kept, count - choose_visits(limits, room, user, before_ms, count)


@helper
def is_out_of_reach(index: EventIndex, place: int, reach: int, before_ms: int) -> bool:  # pragma: no cover
    """Whether a visit is not among its visitor's ``reach`` newest events before a time."""
    if index.longest <= reach:
        return False
    later = place + reach
    return (
        later < len(index.user)
        and load(index.user, later) == load(index.user, place)
        and load(index.time_ms, later) < before_ms
    )


class Distinct(NamedTuple):
    """The distinct neighbors of B nodes, and memory for one thread."""

    neighbor: U32  # [B, K] flat, newest first
    count_B: I32
    width: int  # K
    looks: int  # events of each relation that are looked at
    mark: I32  # [rows of neighbors] 0
    looked_R: I64


@kernel
def newest_distinct(
    index: EventIndex, side: int, nodes: U32, times_ms: I64, out: Distinct
) -> None:  # pragma: no cover - compiled
    """Fill in the newest distinct neighbors of each node before its time."""
    relation_count = len(out.looked_R)
    for b in range(len(nodes)):
        if side == USER:
            first, stop = _of_user(index, np.int64(load(nodes, b)), load(times_ms, b))
        else:
            first, stop = _of_item(index, np.int64(load(nodes, b)), load(times_ms, b))
        for relation in range(relation_count):
            out.looked_R[relation] = 0
        going, count = relation_count, 0
        for number in range(stop - 1, first - 1, -1):
            place = np.int64(number)
            if side != USER:
                place = np.int64(load(index.visit, number))
            r = np.int64(load(index.relation, place))
            looked = load(out.looked_R, r)
            if looked == out.looks:
                continue
            out.looked_R[r] = looked + 1
            going -= looked + 1 == out.looks
            neighbor = np.int64(load(index.user, place))
            if side == USER:
                neighbor = np.int64(load(index.item, place))
            if load(out.mark, neighbor) != b + 1:
                out.mark[neighbor] = b + 1
                out.neighbor[b * out.width + count] = neighbor
                count += 1
            if count == out.width or going == 0:
                break
        out.count_B[b] = count
