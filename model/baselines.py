"""What the model must beat, scored on the same events: recent popularity and co-visitation.

Both are as of each event, from strictly earlier events of the window; they need no fit and keep no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftgraph.model.negatives import F64, Popularity
from driftgraph.stream.events import I64, U32
from driftgraph.stream.window import Events

HISTORY = 10  # newest items of a user that co-visitation starts from
VISITS = 48  # newest events of each of these items
LAG = 5  # how far apart in a user's sequence two events count as visited together
BACKWARD = 0.5  # worth of an item that came before, against one that came after
CHUNK = 64  # queries at once: bounds memory to about a hundred MB


@dataclass(frozen=True, slots=True)
class Histories:
    """Events by user: those of user u, in order of time, are ``start[u]`` to ``start[u + 1]``."""

    start: I64
    item: U32
    time_ms: I64

    @classmethod
    def of(cls, events: Events) -> Histories:
        """Sort by user; ``events`` are sorted by time."""
        order = np.argsort(events.user, kind="stable")
        counts = np.bincount(events.user, minlength=1)
        return cls(np.concatenate([[0], np.cumsum(counts)]), events.item[order], events.time_ms[order])

    def end_before(self, user: int, time_ms: int) -> int:
        """Place after the user's last event strictly before ``time_ms``."""
        if user + 1 >= len(self.start):
            return 0
        first, stop = int(self.start[user]), int(self.start[user + 1])
        return first + int(np.searchsorted(self.time_ms[first:stop], time_ms, side="left"))

    def begin(self, user: int) -> int:
        """Place of the user's first event."""
        return int(self.start[user]) if user + 1 < len(self.start) else 0


def popularity_ranks(
    events: Events,
    targets: Events,
    column: I64,
    candidate: U32,
    touched: list[I64],
    *,
    half_life_ms: float,
    rows: int,
) -> F64:
    """Rank of each target's item by decayed popularity at the event's time; inf where it is no candidate.

    Args:
        events: All events, sorted by time; those at or after a target are not looked at.
        targets: What to rank, sorted by time.
        column: Place of each target's item in ``candidate``, −1 if it is not there.
        candidate: Rows that compete.
        touched: For each target the places in ``candidate`` that its user has touched.
        half_life_ms: Of the popularity.
        rows: Item rows in use.
    """
    popularity = Popularity([half_life_ms], rows)
    ranks = np.full(len(targets), np.inf)
    for n in range(len(targets)):
        if column[n] < 0:
            continue
        popularity.advance(events, int(targets.time_ms[n]))
        ranks[n] = rank_of(popularity.count[0, candidate], int(column[n]), touched[n])
    return ranks


def rank_of(score: npt.NDArray[np.floating], column: int, excluded: I64) -> float:
    """1 for the best, ties at their mean rank; excluded places do not compete; −inf and NaN rank nowhere."""
    own = score[column]
    if not own > -np.inf:
        return np.inf
    better = int((score > own).sum()) - int((score[excluded] > own).sum())
    equal = int((score == own).sum()) - int((score[excluded] == own).sum())
    return better + (equal - 1) / 2 + 1


def co_visitation_ranks(
    events: Events, targets: Events, column: I64, candidate: U32, touched: list[I64], *, rows: int
) -> F64:
    """Rank of each target's item among what was visited near the user's newest items; inf as above.

    The score of item i is Σ over the user's ``HISTORY`` newest items j, over j's ``VISITS`` newest events, of
    1 / (1 + place of j) / |lag| / sqrt(degree i · degree j), for every i at most ``LAG`` events away in the
    sequence of the user who visited j, half as much if i came first.
    """
    ranks = np.full(len(targets), np.inf)
    known = np.flatnonzero(column >= 0)
    if len(known) == 0:
        return ranks
    histories = Histories.of(events)
    by_item = _Visits.of(events, rows)
    place = np.full(rows, -1, np.int64)
    place[candidate] = np.arange(len(candidate))
    degree = np.maximum(np.bincount(events.item, minlength=rows), 1)
    for chunk in np.array_split(known, -(-len(known) // CHUNK)):
        query, item, weight = _near(histories, by_item, targets, chunk, degree)
        at = place[item]
        flat = query[at >= 0] * len(candidate) + at[at >= 0]
        size = len(chunk) * len(candidate)
        score = np.bincount(flat, weight[at >= 0], minlength=size).astype(np.float64)
        for row, n in zip(score.reshape(len(chunk), len(candidate)), chunk, strict=True):
            ranks[n] = rank_of(row, int(column[n]), touched[n])
    return ranks


@dataclass(frozen=True, slots=True)
class _Visits:
    """Events by item in order of time, each with its place in ``Histories`` and its user's bounds there."""

    start: I64
    time_ms: I64
    place: I64
    user: U32

    @classmethod
    def of(cls, events: Events, rows: int) -> _Visits:
        order = np.argsort(events.user, kind="stable")
        place = np.empty(len(events), np.int64)
        place[order] = np.arange(len(events))
        by_item = np.argsort(events.item, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(events.item, minlength=rows))])
        return cls(start, events.time_ms[by_item], place[by_item], events.user[by_item])


def _near(
    histories: Histories, visits: _Visits, targets: Events, chunk: I64, degree: I64
) -> tuple[I64, I64, F64]:
    """(query, item, weight) of every visit near a history item, all strictly before the query's time."""
    asked: list[tuple[int, int, int, float]] = []  # query, first and last visit, worth
    for q, n in enumerate(chunk.tolist()):
        user, time_ms = int(targets.user[n]), int(targets.time_ms[n])
        end = histories.end_before(user, time_ms)
        newest = histories.item[max(end - 2 * HISTORY, histories.begin(user)) : end][::-1]
        for back, j in enumerate(list(dict.fromkeys(newest.tolist()))[:HISTORY]):
            first, stop = int(visits.start[j]), int(visits.start[j + 1])
            stop = first + int(np.searchsorted(visits.time_ms[first:stop], time_ms, side="left"))
            asked.append((q, max(first, stop - VISITS), stop, 1 / (1 + back) / math.sqrt(degree[j])))
    if not asked:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    table = np.array(asked)
    count = (table[:, 2] - table[:, 1]).astype(np.int64)
    query = np.repeat(table[:, 0].astype(np.int64), count)
    worth = np.repeat(table[:, 3], count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    visit = np.repeat(table[:, 1].astype(np.int64), count) + within
    place, user = visits.place[visit], visits.user[visit].astype(np.int64)
    before_ms = targets.time_ms[chunk][query]
    parts: list[tuple[I64, I64, F64]] = []
    for lag in (*range(-LAG, 0), *range(1, LAG + 1)):
        at = place + lag
        inside = (at >= histories.start[user]) & (at < histories.start[user + 1])
        at = np.where(inside, at, place)
        good = inside & (histories.time_ms[at] < before_ms)
        good &= histories.item[at] != histories.item[place]
        item = histories.item[at[good]].astype(np.int64)
        value = worth[good] / abs(lag) / np.sqrt(degree[item]) * (1.0 if lag > 0 else BACKWARD)
        parts.append((query[good], item, value))
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
    return columns[0], columns[1], columns[2]
