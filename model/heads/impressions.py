"""Impressions: which of them were answered, and the running rates of answers of each user and item.

    live events, those of what was shown among them ──► [answered] ──► Impressions
    Impressions ──► [Rates] ──► decayed counts before a time ──► features of the heads (``heads``)

An impression of a user and an item is answered by a relation if an event of it comes at the time of the
impression or up to the attribution later. An event may answer several impressions of its pair.

Shape suffixes: N impressions or questions, B relations that make edges, H half-lives, C counts: of
impressions, then of those answered by each relation (1 + B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import F64, I64, U8, U32, U64
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.window.writer import Events

NEVER = np.iinfo(np.int64).max
HOUR_MS = 3_600_000.0
HALF_LIVES_MS: F64 = HOUR_MS * np.array([12.0, 168.0])  # a rush, and what a user or an item is like


@dataclass(frozen=True, slots=True)
class Impressions:
    """N impressions in order of time, each with the time of its first answer by each relation."""

    user: U32
    item: U32
    time_ms: I64
    answer_ms_NB: I64  # ``NEVER`` where there is none

    def __len__(self) -> int:
        return len(self.time_ms)


class Updates(NamedTuple):
    """What the counts learn, in order of the times from which it is known."""

    known_ms: I64
    user: U32
    item: U32
    shown_ms: I64  # of the impression; its age makes the weight
    kind: U8  # 0: the impression itself; 1 + b: its answer by relation b


class Asked(NamedTuple):
    """Whose counts are wanted, N pairs each strictly before a time; times ascend."""

    user: U32
    item: U32
    time_ms: I64


class Table(NamedTuple):
    """Counts of each row of one side, decayed up to a time of its own."""

    count_RHC: F64
    time_ms_R: I64


class Counts(NamedTuple):
    """Decayed counts of N users, of N items, and of everything, [N, H, C] each."""

    user: F64
    item: F64
    all: F64


def answered(events: Events, edges: int, attribution_ms: int) -> Impressions:
    """The impressions among events that are in order of time; relations from ``edges`` on are impressions.

    O(events · log events).
    """
    pair: U64 = events.user.astype(np.uint64) << np.uint64(32) | events.item
    is_edge = events.relation < edges
    shown = np.flatnonzero(~is_edge)
    place = np.full(len(events), -1, np.int64)
    place[shown] = np.arange(len(shown))
    order = np.lexsort((is_edge, events.time_ms, pair))  # of one time, what was shown comes first
    answer = np.full((len(shown), edges), NEVER, np.int64)
    next_ms = np.full(edges, NEVER, np.int64)
    _answer(order, pair, events.relation, events.time_ms, place, attribution_ms, next_ms, answer)
    return Impressions(events.user[shown], events.item[shown], events.time_ms[shown], answer)


class Rates:
    """Counts of impressions and answers of every user and every item, as they run.

    Always true: the counts have what was known strictly before the newest time that was asked for. An
    impression counts 2^−(age / half-life), and its answer as much, from the answer's time on.
    """

    def __init__(self, impressions: Impressions, rows: tuple[int, int]) -> None:
        """``rows`` of users and items: all rows of the impressions are below."""
        relations = impressions.answer_ms_NB.shape[1]
        self._updates = _updates(impressions)
        self._done = 0
        shape = (len(HALF_LIVES_MS), 1 + relations)
        self._tables = [Table(np.zeros((n, *shape)), np.zeros(n, np.int64)) for n in (*rows, 1)]

    def before(self, asked: Asked) -> Counts:
        """The counts of each pair strictly before its time; no time is before one that was asked for."""
        users, items, everything = self._tables
        shape = (len(asked.time_ms), *everything.count_RHC.shape[1:])
        found = Counts(np.zeros(shape), np.zeros(shape), np.zeros(shape))
        self._done = _run(self._updates, self._done, asked, users, items, everything, HALF_LIVES_MS, found)
        return found


def _updates(impressions: Impressions) -> Updates:
    """Impressions and answers as one stream."""
    shown, relation = np.nonzero(impressions.answer_ms_NB != NEVER)
    of = np.concatenate([np.arange(len(impressions)), shown])
    known_ms = np.concatenate([impressions.time_ms, impressions.answer_ms_NB[shown, relation]])
    kind = np.concatenate([np.zeros(len(impressions), np.uint8), 1 + relation.astype(np.uint8)])
    order = np.argsort(known_ms, kind="stable")
    of = of[order]
    columns = (impressions.user[of], impressions.item[of], impressions.time_ms[of])
    return Updates(known_ms[order], *columns, kind[order].astype(np.uint8))


@kernel
def _answer(
    order: I64,
    pair: U64,
    relation: U8,
    time_ms: I64,
    place: I64,
    attribution_ms: int,
    next_ms: I64,
    answer_NB: I64,
) -> None:  # pragma: no cover - compiled
    """Go through the events of each pair from the newest on, and keep the next event of each relation."""
    edges = answer_NB.shape[1]
    for k in range(len(order) - 1, -1, -1):
        e = order[k]
        if k == len(order) - 1 or pair[order[k + 1]] != pair[e]:
            next_ms[:] = NEVER
        if relation[e] < edges:
            next_ms[relation[e]] = time_ms[e]
            continue
        for b in range(edges):
            if next_ms[b] - attribution_ms <= time_ms[e]:
                answer_NB[place[e], b] = next_ms[b]


@helper
def _count(table: Table, row: int, now_ms: int, shown_ms: int, kind: int, half_lives_ms: F64) -> None:
    for h in range(len(half_lives_ms)):
        factor = 2.0 ** ((table.time_ms_R[row] - now_ms) / half_lives_ms[h])
        for c in range(table.count_RHC.shape[2]):
            table.count_RHC[row, h, c] *= factor
        table.count_RHC[row, h, kind] += 2.0 ** ((shown_ms - now_ms) / half_lives_ms[h])
    table.time_ms_R[row] = now_ms


@helper
def _read(table: Table, row: int, now_ms: int, half_lives_ms: F64, out_NHC: F64, n: int) -> None:
    for h in range(len(half_lives_ms)):
        factor = 2.0 ** ((table.time_ms_R[row] - now_ms) / half_lives_ms[h])
        for c in range(table.count_RHC.shape[2]):
            out_NHC[n, h, c] = table.count_RHC[row, h, c] * factor


@kernel
def _run(
    updates: Updates,
    done: int,
    asked: Asked,
    users: Table,
    items: Table,
    everything: Table,
    half_lives_ms: F64,
    found: Counts,
) -> int:  # pragma: no cover - compiled
    """Count what is known before each time, and read; return how many updates are counted."""
    for n in range(len(asked.time_ms)):
        now_ms = asked.time_ms[n]
        while done < len(updates.known_ms) and updates.known_ms[done] < now_ms:
            at_ms, shown_ms = updates.known_ms[done], updates.shown_ms[done]
            kind = np.int64(updates.kind[done])
            _count(users, np.int64(updates.user[done]), at_ms, shown_ms, kind, half_lives_ms)
            _count(items, np.int64(updates.item[done]), at_ms, shown_ms, kind, half_lives_ms)
            _count(everything, 0, at_ms, shown_ms, kind, half_lives_ms)
            done += 1
        _read(users, np.int64(asked.user[n]), now_ms, half_lives_ms, found.user, n)
        _read(items, np.int64(asked.item[n]), now_ms, half_lives_ms, found.item, n)
        _read(everything, 0, now_ms, half_lives_ms, found.all, n)
    return done
