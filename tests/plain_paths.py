"""The plainest possible paths: every question answered by looking at every event of a ``PlainWindow``."""

from __future__ import annotations

import numpy as np

from driftgraph.stream.kernels.hashing import GOLDEN, fold
from driftgraph.stream.walks.paths import SCAN, Shape, Tables
from driftgraph.stream.window.writer import Cut
from tests.plain_window import PlainWindow

Event = tuple[int, int, int, int, int]  # time, relation, arrival, user, item
Path = tuple[int, int, int, int, int, int, int, int, int, int, int]  # the columns of ``paths.Paths``
NOBODY = (1 << 32) - 1


def seen_before(plain: PlainWindow, cut: Cut, before_ms: int) -> list[Event]:
    """Every event that counts, in order."""
    cut = plain.as_erased(cut)
    return sorted(
        (t, r, s, u, i)
        for r, relation in enumerate(plain.relations)
        for s, (u, i, t) in enumerate(plain.kept[r])
        if cut.first[r] <= s < cut.next[r]
        and max(before_ms, cut.watermark_ms) - relation.span_ms <= t < before_ms
    )


def history_of(events: list[Event], user: int, shape: Shape) -> list[Event]:
    """The newest event of the user with each of the newest items."""
    newest: dict[int, Event] = {}
    for event in [e for e in reversed(events) if e[3] == user][: SCAN * shape.history]:
        newest.setdefault(event[4], event)
    return list(newest.values())[: shape.history]


def plain_paths(
    plain: PlainWindow, cut: Cut, user: int, before_ms: int, shape: Shape, given: list[int] | None = None
) -> tuple[list[Path], int]:
    """All paths of one target, and how many visits were left out."""
    events = seen_before(plain, cut, before_ms)
    if given is None:
        history = history_of(events, user, shape)
    else:
        history = [(before_ms, 0, 0, user, item) for item in list(dict.fromkeys(given))[: shape.history]]
    visits = [
        (place, rank, visit)
        for place, via in enumerate(history)
        for rank, visit in enumerate([e for e in reversed(events) if e[4] == via[4]][: shape.visits])
        if visit[3] != user
    ]
    kept = drawn(visits, user, before_ms, shape)
    left_out, paths = len(visits) - len(kept), []
    for place, rank, visit in kept:
        via = history[place]
        sequence = [e for e in events if e[3] == visit[3]]
        at = sequence.index(visit)
        if len(sequence) - at > shape.reach:
            left_out += 1
            continue
        for lag in range(-shape.lag, shape.lag + 1):
            if lag and 0 <= at + lag < len(sequence) and sequence[at + lag][4] != via[4]:
                t, r, _, _, item = sequence[at + lag]
                ages = (before_ms - via[0], abs(t - visit[0]), before_ms - t)
                paths.append((item, place, lag, via[4], visit[3], rank, via[1], r, *ages))
    return paths, left_out


def drawn(
    visits: list[tuple[int, int, Event]], user: int, before_ms: int, shape: Shape
) -> list[tuple[int, int, Event]]:
    """As many visits as there may be paths for, by the hash of each."""
    kept = shape.paths_max // (2 * shape.lag)
    if len(visits) <= kept:
        return visits
    chance = np.zeros(len(visits), np.uint64)
    columns = [(user, before_ms, visit[4], visit[3], visit[0]) for _, _, visit in visits]
    fold(np.array(columns, np.int64).T, GOLDEN, into=chance)
    lowest = np.argsort(chance >> np.uint64(32), kind="stable")[:kept]
    return [visits[n] for n in sorted(lowest.tolist())]


def plain_sums(
    paths: list[Path], tables: Tables, item_weight: np.ndarray, *, is_user: bool
) -> dict[int, list[float]]:
    """End items in the order in which they are reached, and their sums by variant."""
    width = (tables.lag.shape[1] - 1) // 2
    found: dict[int, list[float]] = {}

    def bucket(number: float, table: np.ndarray) -> int:
        return int(min(np.log2(1 + number), table.shape[1] - 1))

    for item, place, lag, via, _, rank, via_relation, relation, via_age, gap, age in paths:
        total = found.setdefault(item, [0.0] * len(tables.place))
        for v in range(len(total)):
            weight = tables.place[v, place]
            of_items = item_weight[v] if item_weight.ndim > 1 else item_weight
            if via < len(of_items):
                weight *= of_items[via]
            if is_user:
                weight *= tables.via_age[v, bucket(via_age / 60_000, tables.via_age)]
                weight *= tables.via_relation[v, via_relation]
            weight *= tables.rank[v, bucket(rank, tables.rank)] * tables.lag[v, lag + width]
            weight *= tables.gap[v, bucket(gap / 60_000, tables.gap)]
            weight *= tables.age[v, bucket(age / 60_000, tables.age)]
            total[v] += weight * tables.relation[v, relation]
    return found
