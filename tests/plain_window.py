"""The plainest possible window: Python lists, every question answered by looking at every event.

The oracle that the real window and sampler are compared with, and small enough to be read in one go.
Nothing is ever removed from the lists, so every old cut stays readable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, U32
from driftgraph.stream.window.writer import (
    Cut,
    DistinctNeighborhood,
    DistinctUnion,
    Events,
    Neighborhood,
    Relation,
)

USER, ITEM = 0, 1
GONE = (-1, -1, -(1 << 62))  # an erased event keeps its place in the order of arrival


class PlainWindow:
    """Per relation every event ever taken, as ``(user, item, time_ms)`` in order of arrival.

    Always true: an event's sequence number is its place in its relation's list; ``first[r]`` has only
    grown, past events that are expired or that a ring of ``capacity`` would have overwritten.
    """

    def __init__(self, relations: Sequence[Relation]) -> None:
        self.relations = tuple(relations)
        self.watermark_ms = 0
        self.kept: list[list[tuple[int, int, int]]] = [[] for _ in relations]
        self.first = [0 for _ in relations]
        self.versions: list[list[int]] = [[], []]  # by side and row
        self.reserved = [0 for _ in relations]  # a cut whose ring ends before it is refused
        self.capped = [0 for _ in relations]
        self.at_erasure = Cut(0, (0,) * len(self.relations), (0,) * len(self.relations))

    def append(self, user: U32, item: U32, relation: U8, time_ms: I64) -> None:
        rows = list(zip(user.tolist(), item.tolist(), relation.tolist(), time_ms.tolist(), strict=True))
        for u, i, _, _ in rows:
            for side, row in ((USER, u), (ITEM, i)):
                self.versions[side] += [0] * (row + 1 - len(self.versions[side]))
        for r, rules in enumerate(self.relations):
            mine = [(u, i, t) for u, i, relation_of, t in rows if relation_of == r]
            while mine:
                self._append_one(r, mine[: rules.capacity])
                mine = mine[rules.capacity :]

    def _append_one(self, r: int, events: list[tuple[int, int, int]]) -> None:
        """A full ring makes room for all of them first."""
        rules, kept = self.relations[r], self.kept[r]
        if len(kept) + len(events) - rules.capacity > self.first[r]:
            self.first[r] = len(kept) + len(events) - rules.capacity
            self.reserved[r] = max(self.reserved[r], len(kept) + len(events))
        for u, i, t in events:
            held = kept[self.first[r] :]
            if t < self.watermark_ms - rules.span_ms:
                continue
            if (
                sum(e[USER] == u for e in held) >= rules.user_events_max
                or sum(e[ITEM] == i for e in held) >= rules.item_events_max
            ):
                self.capped[r] += 1
                continue
            kept.append((u, i, t))
        self.reserved[r] = max(self.reserved[r], len(kept))

    def erase(self, user: int) -> None:
        """Its events are gone from every cut, and so is what had expired by now."""
        self.versions[USER][user] += 1
        for events in self.kept:
            events[:] = [GONE if e[USER] == user else e for e in events]
        self.at_erasure = self.cut()

    def items_of(self, user: int) -> list[int]:
        """Items of the user's events that were not let go."""
        return [
            e[ITEM] for r, events in enumerate(self.kept) for e in events[self.first[r] :] if e[USER] == user
        ]

    def as_erased(self, cut: Cut) -> Cut:
        """What is left of an older cut."""
        last = self.at_erasure
        first = tuple(min(max(a, b), n) for a, b, n in zip(cut.first, last.first, cut.next, strict=True))
        return Cut(max(cut.watermark_ms, last.watermark_ms), first, cut.next)

    def expire(self, watermark_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        for r, relation in enumerate(self.relations):
            events, oldest_ms = self.kept[r], self.watermark_ms - relation.span_ms
            while self.first[r] < len(events) and events[self.first[r]][2] < oldest_ms:
                self.first[r] += 1

    def recycle(self, side: int, row: int) -> None:
        """Give a row a new owner; its former owner's events must be expired."""
        self.versions[side][row] += 1

    def cut(self) -> Cut:
        return Cut(self.watermark_ms, tuple(self.first), tuple(len(events) for events in self.kept))

    def recent(self, side: int, nodes: U32, times_ms: I64, k: int, cut: Cut) -> Neighborhood:
        shape = (len(nodes), len(self.relations), k)
        neighbor, time = np.zeros(shape, np.uint32), np.zeros(shape, np.int64)
        count = np.zeros(shape[:2], np.int32)
        for b, (node, before_ms) in enumerate(zip(nodes.tolist(), times_ms.tolist(), strict=True)):
            for r in range(len(self.relations)):
                newest = self.newest(side, node, before_ms, r, cut)[:k]
                count[b, r] = len(newest)
                for place, (t, other) in enumerate(newest):
                    neighbor[b, r, place], time[b, r, place] = other, t
        return Neighborhood(neighbor, time, count)

    def newest(self, side: int, node: int, before_ms: int, r: int, cut: Cut) -> list[tuple[int, int]]:
        """(time, other row) of all events of a node by relation r before a time, newest first."""
        cut = self.as_erased(cut)
        oldest_ms = max(before_ms, cut.watermark_ms) - self.relations[r].span_ms
        found = [
            (t, s, (i if side == USER else u))
            for s, (u, i, t) in enumerate(self.kept[r])
            if cut.first[r] <= s < cut.next[r]
            and (u if side == USER else i) == node
            and oldest_ms <= t < before_ms
        ]
        return [(t, other) for t, _, other in sorted(found, reverse=True)]  # by time, then by arrival

    def distinct(
        self, side: int, nodes: U32, times_ms: I64, k: int, cut: Cut, looks: int
    ) -> DistinctNeighborhood:
        """Of each node and relation the newest ``looks`` · k events are looked at, at most."""
        shape = (len(nodes), len(self.relations), k)
        neighbor, time = np.zeros(shape, np.uint32), np.zeros(shape, np.int64)
        repeats, count = np.zeros(shape, np.int32), np.zeros(shape[:2], np.int32)
        for b, (node, before_ms) in enumerate(zip(nodes.tolist(), times_ms.tolist(), strict=True)):
            for r in range(len(self.relations)):
                kept = distinct_of(self.newest(side, node, before_ms, r, cut), k, looks)
                count[b, r] = len(kept)
                for place, (other, (t, n)) in enumerate(kept.items()):
                    neighbor[b, r, place], time[b, r, place], repeats[b, r, place] = other, t, n
        return DistinctNeighborhood(neighbor, time, count, repeats)

    def distinct_union(
        self, side: int, nodes: U32, times_ms: I64, k: int, cut: Cut, looks: int
    ) -> DistinctUnion:
        shape = (len(nodes), k)
        neighbor, time = np.zeros(shape, np.uint32), np.zeros(shape, np.int64)
        relation, repeats = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
        count = np.zeros(len(nodes), np.int32)
        for b, (node, before_ms) in enumerate(zip(nodes.tolist(), times_ms.tolist(), strict=True)):
            entries = [
                (t, r, -place, other, n)
                for r in range(len(self.relations))
                for place, (other, (t, n)) in enumerate(
                    distinct_of(self.newest(side, node, before_ms, r, cut), k, looks).items()
                )
            ]
            newest: dict[int, tuple[int, int, int]] = {}  # time, relation, events by neighbor
            for t, r, _, other, n in sorted(entries, reverse=True):
                newest_ms, newest_r, before = newest.get(other, (t, r, 0))
                newest[other] = newest_ms, newest_r, before + n
            for place, (other, (t, r, n)) in enumerate(list(newest.items())[:k]):
                neighbor[b, place], time[b, place] = other, t
                relation[b, place], repeats[b, place] = r, n
            count[b] = min(len(newest), k)
        return DistinctUnion(neighbor, time, relation, repeats, count)

    def events(self, cut: Cut, since: Cut | None = None) -> Events:
        cut = self.as_erased(cut)
        live = [
            (t, r, s, u, i)
            for r, relation in enumerate(self.relations)
            for s, (u, i, t) in enumerate(self.kept[r])
            if max(cut.first[r], since.next[r] if since else 0) <= s < cut.next[r]
            and t >= cut.watermark_ms - relation.span_ms
        ]
        live.sort()
        column: I64 = np.array(live, np.int64).reshape(-1, 5).T
        return Events(
            user=column[3].astype(np.uint32),
            item=column[4].astype(np.uint32),
            relation=column[1].astype(np.uint8),
            time_ms=column[0].copy(),
        )

    def rows(self, side: int) -> int:
        return len(self.versions[side])

    def row_versions(self, side: int) -> U32:
        return np.array(self.versions[side], np.uint32)

    def degree(self, side: int, cut: Cut) -> I32:
        events = self.events(cut)
        degree = np.zeros((self.rows(side), len(self.relations)), np.int32)
        for node, r in zip(events.user if side == USER else events.item, events.relation, strict=True):
            degree[node, r] += 1
        return degree


def distinct_of(newest: list[tuple[int, int]], k: int, looks: int) -> dict[int, tuple[int, int]]:
    """The k first distinct neighbors of (time, neighbor) pairs, each with its first time and its count."""
    kept: dict[int, tuple[int, int]] = {}
    for t, other in newest[: looks * k]:
        first, n = kept.get(other, (t, 0))
        kept[other] = first, n + 1
        if len(kept) == k:
            break
    return kept
