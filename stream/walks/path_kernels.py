"""The loops of ``paths`` over targets: each path with its columns, or their weighted sums by end item.

path_steps ──► [walk_targets, sum_targets] ──► paths
index_kernels ──► [sum_indexed] ──► paths
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import F64, I8, I32, I64, U8, U16, U32
from driftgraph.stream.kernels.atomics import bit_length, load
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.walks.index_kernels import EventIndex, history_in, is_out_of_reach, visits_in
from driftgraph.stream.walks.path_steps import (
    NOT_REACHED,
    Limits,
    Lists,
    Room,
    Targets,
    history_of,
    neighbors_of,
    visits_of,
)
from driftgraph.stream.window.adjacency import ITEM, NIL, TIME, TIMES, WORDS

MINUTE_MS = 60_000
AGE_BUCKETS = 16  # of ages: log2 of 1 + minutes, and what is older
RANK_BUCKETS = 8  # of visit ranks: log2 of 1 + rank, and what is older


class PathRows(NamedTuple):
    """Paths as ``paths.Paths`` has them, and two numbers for each target."""

    item: U32
    place: U8
    lag: I8
    via: U32
    visitor: U32
    rank: U16
    via_relation: U8
    relation: U8
    via_age_ms: I64
    gap_ms: I64
    age_ms: I64
    count_N: I64
    left_out_N: I64


class Weights(NamedTuple):
    """The tables of ``paths.Tables``, each [n · V] flat: the V variants of one entry are neighbors."""

    place: F64
    lag: F64
    rank: F64
    via_age: F64
    gap: F64
    age: F64
    via_relation: F64
    relation: F64
    item: F64  # [rows], or [V · rows], of which each variant has its own ``item_stride`` numbers
    item_rows: int
    item_stride: int
    is_plain: bool  # all of ``gap``, ``age`` and ``relation`` is 1: the events around a visit need no look


class SumRows(NamedTuple):
    """End items, their sums [·, V] flat, two numbers for each target, and what it takes to make them."""

    item: U32
    sum: F64
    count_N: I64
    left_out_N: I64
    table: I32  # a power of two of places: 1 + the number of the end item in its target, or 0
    used: I64  # the places of the table in use
    weights: Weights
    via_V: F64  # the products so far: of the item of the history, and of the visit
    visit_V: F64


def path_rows(rows: int, targets: int) -> PathRows:
    """Memory for so many paths."""
    narrow = (np.uint32, np.uint8, np.int8, np.uint32, np.uint32, np.uint16, np.uint8, np.uint8)
    ages = (np.empty(rows, np.int64) for _ in range(3))
    per_target = (np.zeros(targets, np.int64) for _ in range(2))
    return PathRows(*(np.empty(rows, kind) for kind in narrow), *ages, *per_target)  # type: ignore[arg-type]


def sum_rows(rows: int, targets: int, weights: Weights, variants: int, limits: Limits) -> SumRows:
    """Memory for so many end items."""
    table = np.zeros(1 << (2 * limits.rows - 1).bit_length(), np.int32)
    return SumRows(
        np.empty(rows, np.uint32), np.empty(rows * variants), np.zeros(targets, np.int64),
        np.zeros(targets, np.int64), table, np.zeros(limits.rows, np.int64), weights, np.empty(variants),
        np.empty(variants),
    )  # fmt: skip


@kernel
def walk_targets(
    lists: Lists, targets: Targets, limits: Limits, room: Room, n: int, stop: int, out: PathRows
) -> Any:  # pragma: no cover - compiled
    """Write the paths of the targets from ``n`` on, up to ``stop`` or as far as there is room in ``out``.

    The result is the target after the last one, and the number of paths.
    """
    side, relation_count = lists.users, len(lists.rings.start)
    total = 0
    while n < stop and total + limits.rows <= len(out.item):
        before_ms, begun = targets.before_ms[n], total
        items = history_of(lists, targets, n, limits, room)
        visits, left_out = visits_of(lists, targets, n, limits, room, items)
        neighbors_of(lists, before_ms, limits, room, visits)
        for x in range(visits):
            at = load(room.chosen, x)
            k = at // limits.visits
            via = load(room.via, k)
            left_out += load(room.position, at) == NOT_REACHED
            for lag in range(-limits.lag, limits.lag + 1):
                end = load(room.near, at * (2 * limits.lag + 1) + limits.lag + lag)
                slot = end // relation_count
                if end < 0 or load(side.words, slot * WORDS + ITEM) == via:
                    continue
                time_ms = load(side.times, slot * TIMES + TIME)
                out.item[total], out.via[total] = load(side.words, slot * WORDS + ITEM), via
                out.visitor[total] = load(room.visitor, at)
                out.place[total], out.lag[total], out.rank[total] = k, lag, at % limits.visits
                out.via_relation[total] = load(room.via_relation, k)
                out.relation[total] = end % relation_count
                out.via_age_ms[total] = before_ms - load(room.via_ms, k)
                out.gap_ms[total] = abs(time_ms - load(room.visit_ms, at))
                out.age_ms[total] = before_ms - time_ms
                total += 1
        out.count_N[n], out.left_out_N[n] = total - begun, left_out
        n += 1
    return n, total


@helper
def _age_bucket(age_ms: int) -> int:  # pragma: no cover - compiled
    return min(bit_length(np.uint64(1 + age_ms // MINUTE_MS)) - 1, AGE_BUCKETS - 1)


@helper
def _weigh_via(out: SumRows, room: Room, k: int, before_ms: int, is_user: bool) -> None:  # pragma: no cover
    """The product of all that is known of item k of the history, by variant."""
    weights, variants, via = out.weights, len(out.via_V), load(room.via, k)
    for v in range(variants):
        weight = load(weights.place, k * variants + v)
        if via < weights.item_rows:
            weight *= load(weights.item, v * weights.item_stride + via)
        if is_user:
            weight *= load(weights.via_age, _age_bucket(before_ms - load(room.via_ms, k)) * variants + v)
            weight *= load(weights.via_relation, load(room.via_relation, k) * variants + v)
        out.via_V[v] = weight


@helper
def _place_of(out: SumRows, begun: int, total: int, item: Any, variants: int) -> Any:  # pragma: no cover
    """The place of an end item in ``out``, of which ``total`` are in use; a new one has sums of 0."""
    mask = len(out.table) - 1
    at = (np.int64(item) * 0x9E3779B1 >> 8) & mask
    while True:
        number = np.int64(load(out.table, at))
        if number == 0:
            out.table[at] = total - begun + 1
            out.used[total - begun] = at
            out.item[total] = item
            for v in range(variants):
                out.sum[total * variants + v] = 0.0
            return total
        if load(out.item, begun + number - 1) == item:
            return begun + number - 1
        at = (at + 1) & mask


@kernel
def sum_targets(
    lists: Lists, targets: Targets, limits: Limits, room: Room, n: int, stop: int, out: SumRows
) -> Any:  # pragma: no cover - compiled
    """As ``walk_targets``, but the sums of the products of weights by end item."""
    side, relation_count, variants = lists.users, len(lists.rings.start), len(out.via_V)
    weights, total = out.weights, 0
    while n < stop and total + limits.rows <= len(out.item):
        before_ms, begun, weighed = targets.before_ms[n], total, -1
        items = history_of(lists, targets, n, limits, room)
        visits, left_out = visits_of(lists, targets, n, limits, room, items)
        neighbors_of(lists, before_ms, limits, room, visits)
        for x in range(visits):
            at = load(room.chosen, x)
            k = at // limits.visits
            left_out += load(room.position, at) == NOT_REACHED
            if k != weighed:
                _weigh_via(out, room, k, before_ms, len(targets.bounds) == 0)
                weighed = k
            rank = min(bit_length(np.uint64(1 + at % limits.visits)) - 1, RANK_BUCKETS - 1)
            for v in range(variants):
                out.visit_V[v] = load(out.via_V, v) * load(weights.rank, rank * variants + v)
            for lag in range(-limits.lag, limits.lag + 1):
                end = load(room.near, at * (2 * limits.lag + 1) + limits.lag + lag)
                slot, r = end // relation_count, end % relation_count
                if end < 0 or load(side.words, slot * WORDS + ITEM) == load(room.via, k):
                    continue
                time_ms = load(side.times, slot * TIMES + TIME)
                item = load(side.words, slot * WORDS + ITEM)
                place = _place_of(out, begun, total, item, variants) * variants
                total += place == total * variants
                gap = _age_bucket(abs(time_ms - load(room.visit_ms, at))) * variants
                age = _age_bucket(before_ms - time_ms) * variants
                for v in range(variants):
                    out.sum[place + v] += (
                        load(out.visit_V, v)
                        * load(weights.lag, (lag + limits.lag) * variants + v)
                        * load(weights.gap, gap + v)
                        * load(weights.age, age + v)
                        * load(weights.relation, r * variants + v)
                    )
        for number in range(total - begun):
            out.table[load(out.used, number)] = 0
        out.count_N[n], out.left_out_N[n] = total - begun, left_out
        n += 1
    return n, total


@helper
def _add_end(
    index: EventIndex, out: SumRows, number: int, lag: int, visit: int, end: int, before_ms: int
) -> None:  # pragma: no cover - compiled
    """Add the weight of one path to the sums at ``number``; ``lag`` is its place in the table of lags."""
    weights, variants = out.weights, len(out.via_V)
    if weights.is_plain:
        for v in range(variants):
            out.sum[number + v] += load(out.visit_V, v) * load(weights.lag, lag * variants + v)
        return
    time_ms, r = load(index.time_ms, end), np.int64(load(index.relation, end))
    gap = _age_bucket(abs(time_ms - load(index.time_ms, visit))) * variants
    age = _age_bucket(before_ms - time_ms) * variants
    for v in range(variants):
        out.sum[number + v] += (
            load(out.visit_V, v)
            * load(weights.lag, lag * variants + v)
            * load(weights.gap, gap + v)
            * load(weights.age, age + v)
            * load(weights.relation, r * variants + v)
        )


@kernel
def sum_indexed(
    index: EventIndex, targets: Targets, limits: Limits, room: Room, n: int, stop: int, out: SumRows
) -> Any:  # pragma: no cover - compiled
    """As ``sum_targets``, of an index in the place of the window's lists: the same sums to the last bit."""
    weights, variants, total = out.weights, len(out.via_V), 0
    while n < stop and total + limits.rows <= len(out.item):
        before_ms, begun, weighed = targets.before_ms[n], total, -1
        items = history_in(index, targets, n, limits, room)
        visits, left_out = visits_in(index, targets, n, limits, room, items)
        for x in range(visits):
            at = load(room.chosen, x)
            k, place = at // limits.visits, load(room.visit_slot, at)
            if is_out_of_reach(index, place, limits.reach, before_ms):
                left_out += 1
                continue
            if k != weighed:
                _weigh_via(out, room, k, before_ms, len(targets.bounds) == 0)
                weighed = k
            rank = min(bit_length(np.uint64(1 + at % limits.visits)) - 1, RANK_BUCKETS - 1)
            for v in range(variants):
                out.visit_V[v] = load(out.via_V, v) * load(weights.rank, rank * variants + v)
            lag = 0
            while lag > -limits.lag and load(index.item, place + lag - 1) != NIL:
                lag -= 1
            while lag <= limits.lag:
                end = place + lag
                lag += 1
                item = load(index.item, end)
                if item == NIL or (before_ms <= index.newest_ms and load(index.time_ms, end) >= before_ms):
                    break
                if item == load(room.via, k):
                    continue
                number = _place_of(out, begun, total, item, variants) * variants
                total += number == total * variants
                _add_end(index, out, number, lag - 1 + limits.lag, place, end, before_ms)
        for number in range(total - begun):
            out.table[load(out.used, number)] = 0
        out.count_N[n], out.left_out_N[n] = total - begun, left_out
        n += 1
    return n, total
