"""Co-visitation: what other users visited shortly before or after a user's newest items.

    events ──► [CoVisitation.near] ──► a baseline (evaluate), lists served before the first model (lists)

It needs no training: an event counts for every user from the moment that it is in the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import F64, I64, U32
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.samplers import in_parallel
from driftgraph.stream.window.writer import Events

HISTORY = 20  # newest distinct items of a user that it starts from
VISITS = 64  # newest events of each of these items
LAG = 5  # how far apart in a user's sequence two events count as visited together
BACKWARD = 0.5  # worth of an item that came before, against one that came after
LISTS_PER_THREAD = 64  # with fewer, a thread costs more than it saves
DEGREE_POWER = 0.25  # popular items are worth less; 1/4 ranks better than 1/2 on every stream of docs/LOG.md


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

    def newest(self, user: int, time_ms: int) -> U32:
        """The distinct items of the user's newest ``2 · HISTORY`` events before ``time_ms``, newest first."""
        end = self.end_before(user, time_ms)
        newest = self.item[max(end - 2 * HISTORY, self.begin(user)) : end][::-1]
        return np.array(list(dict.fromkeys(newest.tolist()))[:HISTORY], np.uint32)


class _Index(NamedTuple):
    """Events by user, and by item with the place of each among those by user; times in ms."""

    user_start: I64
    item: U32
    time_ms: I64
    item_start: I64
    visit_ms: I64
    visit_place: I64
    visitor: U32


class _Scratch(NamedTuple):
    """What a kernel works in: the score of each item row, all 0 before and after, and the rows found."""

    score: F64
    found: U32


def _scratch(rows: int) -> _Scratch:
    return _Scratch(np.zeros(rows), np.zeros(rows, np.uint32))


class _Asked(NamedTuple):
    """What users touched, as ``CoVisitation.best`` is asked for it."""

    touched: U32
    bounds: I64
    before_ms: int


class Best(NamedTuple):
    """N lists of items, best first; in list n, what is behind ``lengths[n]`` means nothing."""

    rows: U32  # [N, count]
    score: F64  # [N, count]
    lengths: I64  # [N]

    @classmethod
    def empty(cls, lists: int, count: int) -> Best:
        """Lists of up to ``count`` items that have none yet."""
        return cls(np.zeros((lists, count), np.uint32), np.zeros((lists, count)), np.zeros(lists, np.int64))


class CoVisitation:
    """An index over events, from which every answer is as of a time.

    Memory: 36 bytes an event, and 12 an item row. One thread uses it.
    """

    def __init__(self, events: Events, rows: int) -> None:
        """Take ``events``, sorted by time, of item rows below ``rows``. O(events · log events)."""
        self.histories = Histories.of(events)
        place = np.empty(len(events), np.int64)
        place[np.argsort(events.user, kind="stable")] = np.arange(len(events))
        by_item = np.argsort(events.item, kind="stable")
        self._index = _Index(
            self.histories.start,
            self.histories.item,
            self.histories.time_ms,
            np.concatenate([[0], np.cumsum(np.bincount(events.item, minlength=rows))]),
            events.time_ms[by_item],
            place[by_item],
            events.user[by_item],
        )
        self._scratch = _scratch(rows)
        self.rows = rows

    def best(self, touched: U32, bounds: I64, before_ms: int, popular: U32, worth: F64, count: int) -> Best:
        """The ``count`` best items of each of N users.

        Args:
            touched: Item rows that user n touched, newest first, at ``bounds[n]`` to ``bounds[n + 1]``; the
                first ``HISTORY`` are what ``near`` starts from, and none of them is in the list.
            bounds: [N + 1].
            before_ms: As in ``near``.
            popular: Item rows in order of ``worth``, which every list has behind what is near.
            worth: [rows] added to the score of ``near``; small beside it.
            count: Length of a list.
        """
        best, asked = Best.empty(len(bounds) - 1, count), _Asked(touched, bounds, before_ms)

        def fill(users: slice) -> None:
            _fill(asked, users.start, users.stop, self._index, popular, worth, _scratch(self.rows), best)

        in_parallel(fill, len(bounds) - 1, LISTS_PER_THREAD)
        return best

    def near(self, history: U32, before_ms: int) -> tuple[U32, F64]:
        """Item rows visited near those of ``history`` (newest first), in no order, and the score of each.

        The score of item i is Σ over j of ``history``, over j's ``VISITS`` newest events, of
        1 / (1 + place of j) / |lag| / (degree i · degree j) ^ ``DEGREE_POWER``, for every i at most ``LAG``
        events away in the sequence of the user who visited j, and ``BACKWARD`` times that if i came first.
        Every event that counts, also for a degree, is strictly before ``before_ms``.
        """
        count = _near(history, 0, len(history), before_ms, self._index, self._scratch)
        found = self._scratch.found[:count].copy()
        score = self._scratch.score[found]
        self._scratch.score[found] = 0
        return found, score


@kernel
def _near(
    history: U32, begin: int, end: int, before_ms: int, index: _Index, scratch: _Scratch
) -> int:  # pragma: no cover - compiled
    score, found = scratch
    count = 0
    for k in range(end - begin):
        j = history[begin + k]
        if j + 1 >= len(index.item_start):
            continue
        first = index.item_start[j]
        stop = _first_at(index.visit_ms, first, index.item_start[j + 1], before_ms)
        if stop == first:
            continue
        worth = 1.0 / (1.0 + k) / (stop - first) ** DEGREE_POWER
        for visit in range(max(first, stop - VISITS), stop):
            place, visitor = index.visit_place[visit], index.visitor[visit]
            low = max(index.user_start[visitor], place - LAG)
            high = min(index.user_start[visitor + 1], place + LAG + 1)
            for at in range(low, high):
                i = index.item[at]
                if i == j or index.time_ms[at] >= before_ms:
                    continue
                if score[i] == 0.0:
                    found[count] = i
                    count += 1
                lag = at - place
                score[i] += worth / lag if lag > 0 else BACKWARD * worth / -lag
    for n in range(count):
        i = found[n]
        first = index.item_start[i]
        degree = _first_at(index.visit_ms, first, index.item_start[i + 1], before_ms) - first
        score[i] /= degree**DEGREE_POWER
    return count


@kernel
def _first_at(times_ms: I64, first: int, stop: int, time_ms: int) -> int:  # pragma: no cover - compiled
    """The first place in [first, stop) with a time at or after ``time_ms``; ``stop`` if there is none."""
    while first < stop:
        middle = (first + stop) // 2
        if times_ms[middle] < time_ms:
            first = middle + 1
        else:
            stop = middle
    return first


@kernel
def _fill(
    asked: _Asked, start: int, stop: int, index: _Index, popular: U32, worth: F64, scratch: _Scratch,
    lists: Best,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """The lists of the users from ``start`` to ``stop``."""
    touched, bounds, before_ms = asked
    score, found = scratch
    rows, best, lengths = lists
    for user in range(start, stop):
        begin, end = bounds[user], bounds[user + 1]
        count = _near(touched, begin, min(end, begin + HISTORY), before_ms, index, scratch)
        for n in range(count):
            score[found[n]] += worth[found[n]]
        for n in range(min(len(popular), rows.shape[1] + end - begin)):
            if score[popular[n]] == 0.0:
                found[count] = popular[n]
                score[found[count]] = worth[found[count]]
                count += 1
        for n in range(begin, end):
            score[touched[n]] = -1.0
        length = 0
        for n in range(count):
            row, value = found[n], score[found[n]]
            if value < 0.0:
                continue
            at = length
            while at > 0 and (
                best[user, at - 1] < value or (best[user, at - 1] == value and rows[user, at - 1] > row)
            ):
                if at < rows.shape[1]:
                    rows[user, at], best[user, at] = rows[user, at - 1], best[user, at - 1]
                at -= 1
            if at < rows.shape[1]:
                rows[user, at], best[user, at] = row, value
                length = min(length + 1, rows.shape[1])
        lengths[user] = length
        for n in range(count):
            score[found[n]] = 0.0
        for n in range(begin, end):
            score[touched[n]] = 0.0
