"""The popularity bank: what each item's popularity is at a moment, over seven half-lives at once.

    events ──► [Bank] ──► a number for each item and half-life: features of the scorer (``scorer``)

An hour's rush and a month's favorites are different things, and how much each tells differs from stream to
stream. So the bank offers all of them, and the scorer learns their weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import F32, F64, I32, I64, U32
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.samplers import in_parallel
from driftgraph.stream.window.writer import Events

HOUR_MS = 3_600_000.0
HALF_LIVES_H = (1, 4, 12, 24, 48, 168, 720)
NAMES = ("1h", "4h", "12h", "1d", "2d", "7d", "30d")
COUNT_SCALE = 10.0  # the feature of a decayed count n is log(1 + 10 n): a tenth of an event begins to tell
HALF_LIVES_MAX = 60.0  # counts are brought to a new time of reference before float32 ends, which is at 127
TARGETS_PER_THREAD = 32
# log m = (m - 1) · Σ L_k m^k on [1, 2), fitted by least squares at 200 Chebyshev nodes
LOG_2 = np.float32(math.log(2))
L0, L1, L2, L3 = map(np.float32, (2.2963653, -2.8834544, 2.81209682, -1.78282398))
L4, L5, L6 = map(np.float32, (0.695417218, -0.151805004, 0.0142028256))


class Later(NamedTuple):
    """Events behind a bank's moment, in order of time, and the times [N] that are asked for, ascending."""

    item: U32
    time_ms: I64
    at_ms: I64


class _Asked(NamedTuple):
    """``Later``, with the places of its items among those that are asked for; −1 for another one."""

    place: I64
    time_ms: I64
    at_ms: I64


class Pairs(NamedTuple):
    """For each asked time n the items ``bounds[n]`` to ``bounds[n + 1]``."""

    bounds: I64
    item: I64


class Bank:
    """Decayed counts of every item row.

    Always true: ``count_FR`` has the events that were added, each worth 2^−(age / half-life), the age being
    taken at ``time_ms``; ``degree_R`` counts them, and ``first_ms_R`` is the time of the oldest.
    """

    def __init__(self, rows: int, time_ms: int) -> None:
        self.time_ms = time_ms
        self.half_lives_ms = HOUR_MS * np.array(HALF_LIVES_H, np.float64)
        self.count_FR: F64 = np.zeros((len(HALF_LIVES_H), rows))
        self.degree_R: I64 = np.zeros(rows, np.int64)
        self.first_ms_R: I64 = np.full(rows, np.iinfo(np.int64).max)

    def add(self, item: U32, time_ms: I64) -> None:
        """Count events, in any order, at or before the bank's moment or not far behind it. O(events)."""
        _add(self.count_FR, self.degree_R, self.first_ms_R, item, time_ms, self.time_ms, self.half_lives_ms)

    def make_room(self, rows: int) -> None:
        """Follow the window: rows that it has added have no events yet."""
        more = max(0, rows - len(self.degree_R))
        if more:
            self.count_FR = np.concatenate([self.count_FR, np.zeros((len(self.count_FR), more))], axis=1)
            self.degree_R = np.concatenate([self.degree_R, np.zeros(more, np.int64)])
            self.first_ms_R = np.concatenate([self.first_ms_R, np.full(more, np.iinfo(np.int64).max)])

    def degree_of(self, items: U32) -> I64:
        """[n] how many events of each item row are counted."""
        degree = np.zeros(len(items), np.int64)
        there = items < len(self.degree_R)
        degree[there] = self.degree_R[items[there]]
        return degree

    def forget(self, items: U32) -> None:
        """Rows that have other items now begin again without events."""
        self.count_FR[:, items] = 0
        self.degree_R[items] = 0
        self.first_ms_R[items] = np.iinfo(np.int64).max

    def advance(self, time_ms: int) -> None:
        """Move the moment on: every count decays."""
        self.count_FR *= 2.0 ** ((self.time_ms - time_ms) / self.half_lives_ms[:, None])
        self.time_ms = time_ms

    def age(self, items: I64) -> F32:
        """[n]: log of 1 + the hours since each item was first seen."""
        hours = np.maximum(self.time_ms - self.first_ms_R[items], 0) / HOUR_MS
        age: F32 = np.log1p(hours).astype(np.float32)
        return age

    def scores(self, later: Later, items: I64, weight_F: F64) -> F32:
        """[N, C]: Σ over half-lives of weight · feature of each of C items, at each of the N asked times.

        Every event of ``later`` strictly before an asked time counts for it. The bank does not change.
        """
        scores = np.zeros((len(later.at_ms), len(items)), np.float32)
        place = np.full(len(self.degree_R), -1, np.int64)
        place[items] = np.arange(len(items))
        known = later.item < len(place)
        places = np.full(len(later.item), -1, np.int64)
        places[known] = place[later.item[known]]
        weight: F32 = weight_F.astype(np.float32)

        def fill(part: slice) -> None:
            asked = _Asked(places, later.time_ms, later.at_ms[part])
            count = self.count_FR[:, items].astype(np.float32)
            room = np.empty(len(items), np.float32)
            _scores(
                count,
                self.time_ms,
                self.half_lives_ms,
                asked,
                weight,
                room,
                room.view(np.int32),
                scores[part],
            )

        # Where the reference moves, parts that begin elsewhere would round otherwise: the last bits are to be
        # the same on any number of threads.
        last_ms = int(later.at_ms[-1]) if len(later.at_ms) else self.time_ms
        moves = last_ms - self.time_ms > HALF_LIVES_MAX * self.half_lives_ms[0]
        in_parallel(fill, len(later.at_ms), max(1, len(later.at_ms)) if moves else TARGETS_PER_THREAD)
        return scores

    def features(self, later: Later, pairs: Pairs) -> F32:
        """[P, F]: the feature log(1 + 10 n) of each pair of an asked time and an item, by half-life."""
        features = np.zeros((len(pairs.item), len(self.half_lives_ms)), np.float32)
        count = np.ascontiguousarray(self.count_FR.T)
        _features(count, self.time_ms, self.half_lives_ms, later, pairs, features)
        return features


def later_of(events: Events, start: int, at_ms: I64) -> Later:
    """The events from place ``start`` on up to the last asked time, for questions at ``at_ms``."""
    stop = int(np.searchsorted(events.time_ms, at_ms[-1], side="left")) if len(at_ms) else start
    part = slice(start, max(start, stop))
    return Later(events.item[part], events.time_ms[part], np.ascontiguousarray(at_ms))


@kernel
def _add(
    count: F64, degree: I64, first_ms: I64, item: U32, time_ms: I64, now_ms: int, half_lives_ms: F64
) -> None:  # pragma: no cover - compiled
    for n in range(len(item)):
        i = item[n]
        degree[i] += 1
        first_ms[i] = min(first_ms[i], time_ms[n])
        for f in range(len(half_lives_ms)):
            count[f, i] += 2.0 ** ((time_ms[n] - now_ms) / half_lives_ms[f])


@helper
def _go_on(count: F64, now_ms: int, half_lives_ms: F64, later: Later, done: int, at_ms: int) -> int:
    """Count the events of ``later`` strictly before ``at_ms``, of which ``done`` are counted."""
    while done < len(later.item) and later.time_ms[done] < at_ms:
        for f in range(len(half_lives_ms)):
            count[later.item[done], f] += 2.0 ** ((later.time_ms[done] - now_ms) / half_lives_ms[f])
        done += 1
    return done


@helper
def _moved(count: F64, now_ms: int, half_lives_ms: F64, at_ms: int) -> int:
    """A new time of reference, if the old one is too many half-lives ago."""
    if at_ms - now_ms <= HALF_LIVES_MAX * half_lives_ms[0]:
        return now_ms
    for f in range(len(half_lives_ms)):
        factor = 2.0 ** ((now_ms - at_ms) / half_lives_ms[f])
        for row in range(count.shape[0]):
            count[row, f] *= factor
    return at_ms


@kernel
def _scores(
    count: F32,
    now_ms: int,
    half_lives_ms: F64,
    asked: _Asked,
    weight: F32,
    room: F32,
    bits: I32,
    scores: F32,
) -> None:  # pragma: no cover - compiled
    """``count`` is [F, C]; ``bits`` is the memory of ``room``. The inner loops are such that they vectorize.

    The logarithm of 2^e · m is e · log 2 and a polynomial of m in [1, 2), off by 1e-6 at most.
    """
    done = 0
    for n in range(len(asked.at_ms)):
        at_ms = asked.at_ms[n]
        # An event may be far behind the reference, too, so the reference moves before the events count.
        if at_ms - now_ms > HALF_LIVES_MAX * half_lives_ms[0]:
            for f in range(len(half_lives_ms)):
                factor = np.float32(2.0 ** ((now_ms - at_ms) / half_lives_ms[f]))
                for c in range(len(room)):
                    count[f, c] *= factor
            now_ms = at_ms
        while done < len(asked.place) and asked.time_ms[done] < at_ms:
            place = asked.place[done]
            for f in range(len(half_lives_ms)):
                if place >= 0:
                    count[f, place] += np.float32(2.0 ** ((asked.time_ms[done] - now_ms) / half_lives_ms[f]))
            done += 1
        for f in range(len(half_lives_ms)):
            factor = np.float32(COUNT_SCALE * 2.0 ** ((now_ms - at_ms) / half_lives_ms[f]))
            for c in range(len(room)):
                room[c] = np.float32(1) + factor * count[f, c]
            for c in range(len(room)):
                exponent = (bits[c] >> 23) - np.int32(127)
                bits[c] = (bits[c] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
                scores[n, c] += weight[f] * LOG_2 * np.float32(exponent)
            for c in range(len(room)):
                m = room[c]
                series = L0 + m * (L1 + m * (L2 + m * (L3 + m * (L4 + m * (L5 + m * L6)))))
                scores[n, c] += weight[f] * (m - np.float32(1)) * series


@kernel
def _features(
    count: F64, now_ms: int, half_lives_ms: F64, later: Later, pairs: Pairs, features: F32
) -> None:  # pragma: no cover - compiled
    done = 0
    for n in range(len(later.at_ms)):
        at_ms = later.at_ms[n]
        now_ms = _moved(count, now_ms, half_lives_ms, at_ms)
        done = _go_on(count, now_ms, half_lives_ms, later, done, at_ms)
        for p in range(pairs.bounds[n], pairs.bounds[n + 1]):
            for f in range(len(half_lives_ms)):
                own = count[pairs.item[p], f] * 2.0 ** ((now_ms - at_ms) / half_lives_ms[f])
                features[p, f] = np.log1p(COUNT_SCALE * own)
