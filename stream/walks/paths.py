"""Paths user — item — visitor — item over the window: what others touched around visits to one's own items.

    view at a cut ──► [walk] ──► every path with all that its weight may depend on: what is learned from
                      [sums, sums_from] ──► for each user or list of items, the items at the ends, with sums

For a target, user u at time t, the paths are these, of events strictly before t and inside their spans:

1. j: the ``Shape.history`` items of u's newest events over all relations, each once, at the place of its
   newest event (0 is the newest). At most ``SCAN`` · ``history`` newest events of u are looked at.
2. v: the users of j's ``Shape.visits`` newest events over all relations, without u. The rank of a visit
   counts j's events, those of u too, and 0 is the newest.
3. i: the items of the events at most ``Shape.lag`` places before or after the visit in v's own sequence,
   without j. The lag is positive if i came after j.

The order of events is (time, relation, arrival), as of ``WindowView.events``; a span ends an event's life as
in ``WindowView.recent``. An event counts as soon as it is in the window: the lists of the window are walked,
or an index of the cut is read, where a caller keeps ``EventIndexes`` for many questions at one cut.

Two limits bound the work, and ``left_out_N`` counts the visits that they leave out. A visit that is not
among its visitor's ``Shape.reach`` newest events has no paths: the lists of the window lead from new to old,
so that a bot's old visits would cost as many steps as the bot has newer events. If a target has more visits
than ``Shape.paths_max`` allows, a hash of user, time and visit draws those that stay: the same question has
the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import numpy as np

from driftgraph.stream.arrays import F64, I8, I64, U8, U16, U32
from driftgraph.stream.walks import path_kernels, path_steps
from driftgraph.stream.walks.event_index import EventIndexes, answers, in_turn
from driftgraph.stream.walks.index_kernels import EventIndex
from driftgraph.stream.walks.path_kernels import AGE_BUCKETS, RANK_BUCKETS
from driftgraph.stream.walks.path_steps import SCAN
from driftgraph.stream.window.adjacency import ITEM, NIL, USER
from driftgraph.stream.window.samplers import in_parallel
from driftgraph.stream.window.view import Cut, WindowView

__all__ = [
    "AGE_BUCKETS",
    "RANK_BUCKETS",
    "SCAN",
    "PathSums",
    "Paths",
    "Shape",
    "Tables",
    "sums",
    "sums_from",
    "walk",
]

TARGETS_PER_THREAD = 16  # with fewer, a thread costs more than it saves
ROWS_AT_ONCE = 1 << 16  # of results in a thread's memory, before they are copied out
Rows = TypeVar("Rows", path_kernels.PathRows, path_kernels.SumRows)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which paths there are."""

    history: int = 20  # items of a user
    visits: int = 64  # newest events of each of them
    lag: int = 5  # places before and after the visit
    paths_max: int = 16_384  # of a target
    reach: int = 256  # newest events of a visitor

    def __post_init__(self) -> None:
        for name, most in (("history", 255), ("visits", 65_535), ("lag", 127), ("reach", 65_535)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be 1 to {most}, got {getattr(self, name)}")
        if self.paths_max < 2 * self.lag:
            raise ValueError(f"paths_max must be at least 2 · lag = {2 * self.lag}, got {self.paths_max}")

    def limits(self) -> path_steps.Limits:
        """The same, as kernels take it."""
        kept = min(self.paths_max // (2 * self.lag), self.history * self.visits)
        rows = kept * 2 * self.lag
        return path_steps.Limits(self.history, self.visits, self.lag, kept, self.reach, rows)


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths of N targets: those of target n are at ``bounds_N1[n]`` to ``bounds_N1[n + 1]``.

    They are in the order of place, rank and lag.
    """

    bounds_N1: I64
    item: U32  # row of i
    place: U8  # of j in the history
    lag: I8
    via: U32  # row of j
    visitor: U32  # row of v
    rank: U16  # of the visit
    via_relation: U8  # of u's newest event with j
    relation: U8  # of v's event with i
    via_age_ms: I64  # t − time of u's newest event with j
    gap_ms: I64  # between v's two events
    age_ms: I64  # t − time of v's event with i
    left_out_N: I64  # visits


@dataclass(frozen=True, slots=True)
class PathSums:
    """The end items of N targets, each once, in the order in which the paths reach them first."""

    bounds_N1: I64
    item: U32
    sum_PV: F64  # by variant
    left_out_N: I64  # visits


@dataclass(frozen=True, slots=True)
class Tables:
    """The weight of a path: a product of one number of each table. V variants are computed at once.

    An age has the bucket log2(1 + minutes), a rank log2(1 + rank), rounded down; the last one has all above.
    """

    place: F64  # [V, history]
    lag: F64  # [V, 2 · lag + 1]; lag l at l + lag
    rank: F64  # [V, RANK_BUCKETS]
    via_age: F64  # [V, AGE_BUCKETS], as the next two
    gap: F64
    age: F64
    via_relation: F64  # [V, R], as the next one
    relation: F64

    @classmethod
    def ones(cls, shape: Shape, relation_count: int, variants: int = 1) -> Tables:
        """Every path weighs 1."""
        return cls(*(np.ones((variants, width)) for width in cls.widths(shape, relation_count)))

    @staticmethod
    def widths(shape: Shape, relation_count: int) -> list[int]:
        """The number of entries of each table, in the order of the fields."""
        return [
            shape.history, 2 * shape.lag + 1, RANK_BUCKETS, *[AGE_BUCKETS] * 3, *[relation_count] * 2,
        ]  # fmt: skip

    def check(self, shape: Shape, relation_count: int) -> int:
        """The number of variants.

        Raises:
            ValueError: A table has another form.
        """
        variants = len(self.place)
        for one, width in zip(fields(self), self.widths(shape, relation_count), strict=True):
            form = getattr(self, one.name).shape
            if form != (variants, width):
                raise ValueError(f"table {one.name} must have the form {(variants, width)}, got {form}")
        return variants


def walk(view: WindowView, users: U32, times_ms: I64, cut: Cut, shape: Shape) -> Paths:
    """All paths of N targets, the users [N] at the times [N]. The call releases the GIL.

    Raises:
        StaleCut: Events of the cut were overwritten meanwhile.
    """
    targets, rows = _of_users(users, times_ms), max(shape.limits().rows, ROWS_AT_ONCE)

    def out(count: int) -> path_kernels.PathRows:
        return path_kernels.path_rows(rows, count)

    def columns(done: path_kernels.PathRows, total: int) -> list[Any]:
        return [column[:total].copy() for column in done[:-2]]

    def answer(seen: Cut) -> Paths:
        lists = _lists(view, seen)
        return Paths(*_filled(view, shape, lists, path_kernels.walk_targets, out, columns, targets))

    return view.answered(cut, answer)


def sums(
    view: WindowView, users: U32, times_ms: I64, cut: Cut, shape: Shape, tables: Tables, item_weight: F64,
    indexes: EventIndexes | None = None,
) -> PathSums:  # fmt: skip
    """The end items of the paths of N targets, with Σ over their paths of tables · ``item_weight`` of j.

    Args:
        users: [N] rows. times_ms: [N].
        tables: What the parts of a path weigh.
        item_weight: By row of j, [rows] for all variants or [V, rows]. An item at a row behind its end weighs
            1, as one does that has just come. Float64 in order of rows is not copied.
        indexes: Those of the view, for a caller with many questions at one cut.

    Raises:
        StaleCut: Events of the cut were overwritten meanwhile.
    """
    return _sums(view, _of_users(users, times_ms), cut, shape, tables, item_weight, indexes)


def sums_from(
    view: WindowView, bounds_N1: I64, items: U32, times_ms: I64, cut: Cut, shape: Shape, tables: Tables,
    item_weight: F64, indexes: EventIndexes | None = None,
) -> PathSums:  # fmt: skip
    """As ``sums``, from given histories: items ``bounds_N1[n]`` to ``bounds_N1[n + 1]``, newest first.

    The first ``Shape.history`` distinct items of each are taken. There is no user: no visitor is left out,
    and the tables ``via_age`` and ``via_relation`` do not count. One item alone has the items near it at the
    ends.
    """
    bounds_N1 = np.ascontiguousarray(bounds_N1, np.int64)
    times_ms = np.ascontiguousarray(times_ms, np.int64)
    if len(bounds_N1) != len(times_ms) + 1:
        raise ValueError(
            f"bounds_N1 must have a number more than times_ms, got {len(bounds_N1)} and {len(times_ms)}"
        )
    if bounds_N1[0] < 0 or bounds_N1[-1] > len(items) or (np.diff(bounds_N1) < 0).any():
        raise ValueError(f"bounds_N1 must rise from 0 or more to at most {len(items)}, the number of items")
    nobody = np.full(len(times_ms), NIL, np.uint32)
    targets = path_steps.Targets(nobody, times_ms, bounds_N1, np.ascontiguousarray(items, np.uint32))
    return _sums(view, targets, cut, shape, tables, item_weight, indexes)


def _sums(
    view: WindowView, targets: path_steps.Targets, cut: Cut, shape: Shape, tables: Tables, item_weight: F64,
    indexes: EventIndexes | None,
) -> PathSums:  # fmt: skip
    variants = tables.check(shape, len(view.relations))
    by_variant = np.atleast_2d(np.ascontiguousarray(item_weight, np.float64))
    if len(by_variant) not in (1, variants):
        raise ValueError(f"item_weight must be [rows] or [{variants}, rows], got {np.shape(item_weight)}")
    item_rows = by_variant.shape[1]
    weights = path_kernels.Weights(
        **{
            one.name: np.ascontiguousarray(getattr(tables, one.name).T, np.float64).reshape(-1)
            for one in fields(tables)
        },
        item=by_variant.reshape(-1),
        item_rows=item_rows,
        item_stride=item_rows if len(by_variant) > 1 else 0,
        is_plain=all((table == 1).all() for table in (tables.gap, tables.age, tables.relation)),
    )
    rows = max(shape.limits().rows, ROWS_AT_ONCE // variants)

    def out(count: int) -> path_kernels.SumRows:
        return path_kernels.sum_rows(rows, count, weights, variants, shape.limits())

    def columns(done: path_kernels.SumRows, total: int) -> list[Any]:
        return [done.item[:total].copy(), done.sum[: total * variants].reshape(total, variants).copy()]

    def answer(seen: Cut) -> PathSums:
        walked = partial(_filled, view, shape, _lists(view, seen), path_kernels.sum_targets, out, columns)
        index = None if indexes is None else indexes.at(seen, targets.before_ms)
        has_N = answers(index, seen, targets.before_ms)
        if index is None or not has_N.any() or (len(targets.bounds) and not has_N.all()):
            return PathSums(*walked(targets))
        read = partial(_filled, view, shape, index, path_kernels.sum_indexed, out, columns)
        if has_N.all():
            return PathSums(*read(targets))
        (of_read, *found, left_out_N), (of_walked, *others, left_out_M) = (
            way(targets._replace(user=targets.user[chosen], before_ms=targets.before_ms[chosen]))
            for way, chosen in ((read, has_N), (walked, ~has_N))
        )
        bounds_N1, (item, sum_PV) = in_turn(has_N, (of_read, tuple(found)), (of_walked, tuple(others)))
        left_out = np.zeros(len(has_N), np.int64)
        left_out[has_N], left_out[~has_N] = left_out_N, left_out_M
        return PathSums(bounds_N1, item, sum_PV, left_out)

    return view.answered(cut, answer)


def _of_users(users: U32, times_ms: I64) -> path_steps.Targets:
    if len(users) != len(times_ms):
        raise ValueError(f"users and times_ms disagree in length: {len(users)} and {len(times_ms)}")
    no_history = np.zeros(0, np.int64), np.zeros(0, np.uint32)
    return path_steps.Targets(
        np.ascontiguousarray(users, np.uint32), np.ascontiguousarray(times_ms, np.int64), *no_history
    )


def _lists(view: WindowView, seen: Cut) -> path_steps.Lists:
    sides, rows = view.sides, (view.rows(USER), view.rows(ITEM))
    return path_steps.Lists(sides[USER], sides[ITEM], view.rings(seen), *rows)


def _filled(
    view: WindowView,
    shape: Shape,
    source: path_steps.Lists | EventIndex,
    kernel: Callable[..., tuple[int, int]],
    out: Callable[[int], Rows],
    columns: Callable[[Rows, int], list[Any]],
    targets: path_steps.Targets,
) -> tuple[Any, ...]:
    """The bounds of N targets' rows, the rows as columns, and what was left out.

    Args:
        view: The window.
        shape: Which paths there are.
        source: What the kernel reads.
        kernel: It writes the rows of as many targets as there is room for.
        out: Memory for the rows of so many targets.
        columns: Copies of the first rows in it.
        targets: The questions.
    """
    limits = shape.limits()

    def fill(part: slice) -> tuple[list[list[Any]], Rows]:
        room = path_steps.room(limits, len(view.relations))
        mine = path_steps.Targets(
            targets.user[part], targets.before_ms[part],
            targets.bounds[part.start : part.stop + 1], targets.given,
        )  # fmt: skip
        count, n = part.stop - part.start, 0
        done = out(count)
        copies = [columns(done, 0)]
        while n < count:
            n, total = kernel(source, mine, limits, room, n, count, done)
            copies.append(columns(done, total))
        return copies, done

    parts = in_parallel(fill, len(targets.user), TARGETS_PER_THREAD)
    found: list[Any] = list(zip(*(copy for copies, _ in parts for copy in copies), strict=True))
    counts = np.concatenate([done.count_N for _, done in parts])
    left_out_N = np.concatenate([done.left_out_N for _, done in parts])
    return (
        np.concatenate([[0], np.cumsum(counts)]),
        *(np.concatenate(column) for column in found),
        left_out_N,
    )
