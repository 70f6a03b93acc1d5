"""The loops of ``similar_users`` over targets: their neighbors, and the sums of the neighbors' items.

rows that ``WindowView.distinct_union`` found ──► [find, add] ──► similar_users

Arrays of two dimensions are laid out flat. Tables by row are 0 between two targets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import F64, I32, I64, U32
from driftgraph.stream.kernels.atomics import load
from driftgraph.stream.kernels.compile import helper, kernel


class Asked(NamedTuple):
    """N targets with X items of their histories, those of target n from ``start[n]`` on."""

    user: U32
    start: I64
    item: U32
    row_X: I64  # whose visitors are those of the item
    visitor: U32  # [rows, V], of which the first ``counts[row]`` are real
    counts: I32
    width: int  # V
    place_weight: F64
    item_weight: F64  # by row; one behind the end weighs 1


class Near(NamedTuple):
    """M places for the neighbors of each of N targets, in the order in which they are found."""

    user: U32  # [N, M], of which the first ``count_N[n]`` are real
    similarity: F64
    count_N: I64
    left_out_N: I64
    width: int  # M


class Candidates(NamedTuple):
    """Memory for one thread of ``find``."""

    number: I32  # by user row: 1 + its place among the candidates, or 0
    user: U32
    similarity: F64
    bits: I64  # the memory of ``similarity``: numbers above 0 are in the same order


class Theirs(NamedTuple):
    """The items of the neighbors of all targets; those of target n are M from ``start[n]`` on."""

    start: I64
    row_M: I64  # whose items are those of the neighbor
    item: U32  # [rows, K], of which the first ``counts[row]`` are real
    counts: I32
    width: int  # K


class Found(NamedTuple):
    """The items of targets with their sums, one target after the other, and memory for one thread."""

    item: U32
    sum: F64
    count_N: I64
    number: I32  # by item row: 1 + its place among those of the target; -1: it is in the history; or 0


def near(targets: int, width: int) -> Near:
    """Room for the neighbors of so many targets."""
    room = targets * width
    counts = np.zeros(targets, np.int64), np.zeros(targets, np.int64)
    return Near(np.zeros(room, np.uint32), np.zeros(room), *counts, width)


def candidates(user_rows: int, most: int) -> Candidates:
    """Memory for at most so many candidates of a target."""
    similarity = np.empty(most)
    number, user = np.zeros(user_rows, np.int32), np.empty(most, np.uint32)
    return Candidates(number, user, similarity, similarity.view(np.int64))


def found(targets: int, items: int, item_rows: int) -> Found:
    """Room for so many items of all targets together."""
    counts, number = np.zeros(targets, np.int64), np.zeros(item_rows, np.int32)
    return Found(np.empty(items, np.uint32), np.empty(items), counts, number)


@helper
def _least(room: Candidates, count: int, kept: int) -> Any:  # pragma: no cover - compiled
    """The bits of the ``kept``-th highest of ``count`` similarities."""
    least = np.int64(0)  # the largest number that at least ``kept`` are at or above
    for bit in range(62, -1, -1):
        tried, above = least | (np.int64(1) << bit), 0
        for at in range(count):
            above += load(room.bits, at) >= tried
        if above >= kept:
            least = tried
    return least


@kernel
def find(asked: Asked, begin: int, end: int, room: Candidates, out: Near) -> None:  # pragma: no cover
    """Write the neighbors of the targets ``begin`` to ``end``."""
    for n in range(begin, end):
        first, count = load(asked.start, n), 0
        for x in range(first, load(asked.start, n + 1)):
            row = np.int64(load(asked.item, x))
            weight = load(asked.place_weight, x - first)
            if row < len(asked.item_weight):
                weight *= load(asked.item_weight, row)
            begun = load(asked.row_X, x) * asked.width
            for y in range(begun, begun + load(asked.counts, load(asked.row_X, x))):
                visitor = np.int64(load(asked.visitor, y))
                if visitor == np.int64(load(asked.user, n)):
                    continue
                if load(room.number, visitor) == 0:
                    room.user[count], room.similarity[count] = visitor, 0.0
                    count += 1
                    room.number[visitor] = count
                room.similarity[np.int64(load(room.number, visitor)) - 1] += weight
        least, equals = np.int64(0), count
        if count > out.width:
            least, equals = _least(room, count, out.width), out.width
            for at in range(count):
                equals -= load(room.bits, at) > least
        kept = n * out.width
        for at in range(count):
            room.number[np.int64(load(room.user, at))] = 0
            is_equal = load(room.bits, at) == least
            if load(room.bits, at) > least or (is_equal and equals > 0):
                equals -= is_equal
                out.user[kept], out.similarity[kept] = load(room.user, at), load(room.similarity, at)
                kept += 1
        out.count_N[n] = kept - n * out.width
        out.left_out_N[n] = count - out.count_N[n]


@kernel
def add(
    asked: Asked, near: Near, theirs: Theirs, begin: int, end: int, out: Found
) -> int:  # pragma: no cover
    """Add up the items of the neighbors of the targets ``begin`` to ``end``; return how many there are."""
    total = 0
    for n in range(begin, end):
        begun = total
        for x in range(load(asked.start, n), load(asked.start, n + 1)):
            out.number[np.int64(load(asked.item, x))] = -1
        for m in range(load(near.count_N, n)):
            row = load(theirs.row_M, load(theirs.start, n) + m)
            count = np.int64(load(theirs.counts, row))
            share = load(near.similarity, n * near.width + m) / np.sqrt(np.float64(count))
            for y in range(row * theirs.width, row * theirs.width + count):
                item = np.int64(load(theirs.item, y))
                number: Any = np.int64(load(out.number, item))
                if number < 0:
                    continue
                if number == 0:
                    out.item[total], out.sum[total] = item, 0.0
                    total += 1
                    number = total - begun
                    out.number[item] = number
                out.sum[begun + number - 1] += share
        for at in range(begun, total):
            out.number[np.int64(load(out.item, at))] = 0
        for x in range(load(asked.start, n), load(asked.start, n + 1)):
            out.number[np.int64(load(asked.item, x))] = 0
        out.count_N[n - begin] = total - begun
    return total
