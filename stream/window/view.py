"""The window as readers see it, and the types that describe it.

    Window (the writer) ──► shared memory ──► [WindowView] at a cut ──► training, evaluation, refresh

There is no lock: a reader works at a cut, and learns at the end whether the cut was still whole
(``cut_header``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, U32, Mask
from driftgraph.stream.window import adjacency, cut_header, samplers
from driftgraph.stream.window.adjacency import ITEM, USER, Side
from driftgraph.stream.window.event_kernels import Columns, Part, collect, merged
from driftgraph.stream.window.recent_kernels import Rings
from driftgraph.stream.window.samplers import DistinctNeighborhood, DistinctUnion, Neighborhood
from driftgraph.stream.window.shared_files import ANEW, Folder, Life, WindowError

SLOTS_MAX = (1 << 32) - 2  # over all relations: a pointer is slot + 1 in 32 bits
EVENTS_MAX = (1 << 31) - 1  # of one node and relation: what a head can count
ERASURE_WAITS_MAX, ERASURE_WAIT_S = 1_000, 0.001  # an erasure takes the writer a fraction of one wait
Answer = TypeVar("Answer")


class StaleCut(WindowError):  # noqa: N818  # not a fault: the reader asks again at a newer cut
    """Events of the cut were overwritten meanwhile. The reader takes a newer cut and asks again."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One behavior: how long its events live, and how many events the window holds."""

    name: str
    span_ms: int
    capacity: int = 1 << 24  # events of 32 bytes; a place takes memory once an event has been there
    user_events_max: int = EVENTS_MAX  # in the window, of one user; a user with more is no shopper
    item_events_max: int = EVENTS_MAX
    is_edge: bool = True  # False: it says what was shown, and ``WindowView.edges`` leaves it out

    def __post_init__(self) -> None:
        if self.span_ms <= 0:
            raise ValueError(f"relation {self.name!r}: span_ms must be positive, got {self.span_ms}")
        if not 0 < self.capacity <= SLOTS_MAX:
            raise ValueError(
                f"relation {self.name!r}: capacity must be 1 to {SLOTS_MAX}, got {self.capacity}"
            )
        for side, limit in (("user", self.user_events_max), ("item", self.item_events_max)):
            if not 0 < limit <= EVENTS_MAX:
                raise ValueError(
                    f"relation {self.name!r}: {side}_events_max must be 1 to {EVENTS_MAX}, got {limit}"
                )


@dataclass(frozen=True, slots=True)
class Cut:
    """A point between two batches.

    Relation r's events at the cut have the sequence numbers ``first[r] <= s < next[r]``; those with
    ``time_ms >= watermark_ms - span_ms`` are live.
    """

    watermark_ms: int
    first: tuple[int, ...]
    next: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Events:
    """Events as columns, sorted by (time, relation, arrival)."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64

    def __len__(self) -> int:
        return len(self.time_ms)


@dataclass(frozen=True, slots=True)
class Arrays:
    """The shared memory, as flat arrays."""

    header: I64
    words: U32
    heads: tuple[U32, U32]  # user side, item side
    versions: tuple[U32, U32]  # how often a row has got an owner or lost one
    folder: Folder


def losses(versions: U32) -> int:
    """How often rows of these versions have lost an owner."""
    return int((versions >> 1).sum(dtype=np.int64))


class WindowView:
    """The window as a reader sees it, in the writer's process or another. Every answer is as of a cut.

    Only an erasure changes older cuts: they no longer show the erased user, nor events that had expired by
    then.
    """

    def __init__(
        self, relations: Sequence[Relation], row_capacity: tuple[int, int], arrays: Arrays, width: int = 0
    ) -> None:
        """``relations`` are the first of ``width`` in the arrays; 0: they are all."""
        self.relations, self._width = tuple(relations), width or len(relations)
        self.row_capacity = row_capacity
        self.history: tuple[Life, ...] = ()  # the processes that gave out the sequence numbers
        self._arrays = arrays
        self._times = times = arrays.words.view(np.int64)
        self.sides = tuple(Side(arrays.words, times, arrays.heads[s], s, self._width) for s in (USER, ITEM))
        self._capacity = np.array([r.capacity for r in relations], np.int64)
        self._base = np.cumsum(self._capacity) - self._capacity
        self._span_ms = np.array([r.span_ms for r in relations], np.int64)
        r, at = self._width, cut_header.HEADER_WORDS
        self._reserved = arrays.header[at + 2 * r : at + 3 * r]
        self._first_at_erasure = arrays.header[at + 3 * r :]

    def edges(self) -> WindowView:
        """The window without its last relations, which make no edge; cuts are those of the whole window."""
        if all(relation.is_edge for relation in self.relations):
            return self
        edges = [relation for relation in self.relations if relation.is_edge]
        part = WindowView(edges, self.row_capacity, self._arrays, self._width)
        part.history = self.history
        return part

    def cut(self) -> Cut:
        """The newest published cut."""
        out = np.empty_like(self._arrays.header)
        while not cut_header.read(self._arrays.header, out):  # the writer is inside a handful of stores
            pass
        r, at = self._width, cut_header.HEADER_WORDS
        first, next_ = (tuple(out[n : n + r].tolist()) for n in (at, at + r))
        return Cut(int(out[cut_header.WATERMARK]), first, next_)

    def rows(self, side: int) -> int:
        """The number that all rows in use are below."""
        return int(self._arrays.header[cut_header.ROWS + side])

    @property
    def erasure_count(self) -> int:
        """The number of users erased since the window was made."""
        return int(self._arrays.header[cut_header.ERASURES_DONE])

    def numbers_here(self, life: str, next_: Mapping[str, int]) -> tuple[int, ...] | None:
        """The sequence numbers of a cut, which the process ``life`` gave out, as numbers of this window.

        ``next_`` is by relation. The result is None if the numbers mean other events here. A relation whose
        numbers began again since gets 0.
        """
        lives = [one.until for one in self.history if one.id == life]
        if not lives:
            return None
        numbers = []
        for r, relation in enumerate(self.relations):
            until = None if lives[0] is None else lives[0][r]
            number = 0 if until == ANEW else next_.get(relation.name, 0)
            if until is not None and number > max(until, 0):
                return None
            numbers.append(number)
        return tuple(numbers)

    def newest_ms(self, user: int) -> int:
        """The time of the newest event of a user row; 0 if it has none."""
        heads = self._arrays.heads[USER].reshape(-1, self._width, adjacency.HEAD_WORDS)[user]
        heads = heads[: len(self.relations)]
        low, high = heads[heads[:, 0] != 0][:, adjacency.NEWEST : adjacency.NEWEST + 2].astype(np.int64).T
        return int((low | high << 32).max(initial=0))

    def row_versions(self, side: int) -> U32:
        """How often each row has got an owner or lost one, [rows]: odd while it has one.

        A value kept by row starts anew when this number grows.

        Read it before the cut: a row that changes its owner in between then counts as changed.
        """
        return self._arrays.versions[side][: self.rows(side)].copy()

    def row_losses(self, side: int) -> tuple[int, int]:
        """How many rows there are, and how often one of them has lost its owner."""
        versions = self._arrays.versions[side][: self.rows(side)]
        return len(versions), losses(versions)

    def arrivals(self, relation: int, start: int, stop: int) -> tuple[U32, U32, I64]:
        """Users, items and times of a relation's events ``start`` to ``stop``, in order of arrival.

        Both rows of an erased event are ``NIL``. An event may have expired, and its rows may have other
        owners by now.

        Raises:
            StaleCut: Some of the events were overwritten meanwhile.
        """
        capacity = self.relations[relation].capacity
        slots = self._base[relation] + np.arange(start, stop) % capacity
        records = self._arrays.words.reshape(-1, adjacency.WORDS)
        user, item = records[slots, USER], records[slots, ITEM]
        time_ms = self._times.reshape(-1, adjacency.TIMES)[slots, adjacency.TIME]
        if int(cut_header.load_reserved(self._reserved, relation)) > start + capacity:
            raise StaleCut(
                f"event {start} of {self.relations[relation].name!r} was overwritten; take a newer cut"
            )
        gone = (user == adjacency.NIL) | (item == adjacency.NIL) | (time_ms == adjacency.LONG_AGO)
        user[gone] = item[gone] = adjacency.NIL
        return user, item, time_ms

    def check(self, cut: Cut) -> None:
        """Raise ``StaleCut`` if an event of ``cut`` may have been overwritten by now."""
        for r, relation in enumerate(self.relations):
            reserved = int(cut_header.load_reserved(self._reserved, r))
            if cut.next[r] > cut.first[r] and reserved > cut.first[r] + relation.capacity:
                raise StaleCut(
                    f"relation {relation.name!r}: event {cut.first[r]} of the cut was overwritten "
                    f"(event {reserved - 1} is written, the ring holds {relation.capacity}); take a newer cut"
                )

    def recent(self, side: int, nodes: U32, times_ms: I64, k: int | Sequence[int], cut: Cut) -> Neighborhood:
        """The k most recent neighbors of each node by each relation, strictly before the node's own time.

        Args:
            side: ``USER`` if ``nodes`` are user rows and the neighbors items; ``ITEM`` for the opposite.
            nodes: [B] rows; a row that has no event gets no neighbor.
            times_ms: [B] event times.
            k: Neighbors by relation, one number for all or one for each; the largest is the width of the
            result. cut: The answer is as of this cut.

        Returns:
            Neighbors not older than ``max(time, watermark) - span``, newest first, and of one time the newest
            arrival first. The answer is exact for every batch size and every order of arrival. The call
            releases the GIL.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        question = self._question(nodes, times_ms, k)
        return self.answered(cut, lambda seen: samplers.recent(self._lists(side, seen), question))

    def distinct(
        self, side: int, nodes: U32, times_ms: I64, k: int | Sequence[int], cut: Cut
    ) -> DistinctNeighborhood:
        """As ``recent``, but the k newest distinct neighbors: each once, with its newest time and its count.

        Events are looked at from the newest on, until the k-th distinct neighbor is found, and at most
        ``samplers.LOOKS`` · k of a node and relation, so that a hub or a bot costs no more. The count of a
        neighbor is the number of its events among those that were looked at.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        question = self._question(nodes, times_ms, k)
        return self.answered(cut, lambda seen: samplers.distinct(self._lists(side, seen), question))

    def distinct_union(self, side: int, nodes: U32, times_ms: I64, k: int, cut: Cut) -> DistinctUnion:
        """The k newest distinct neighbors over all relations together, of those that ``distinct`` gives.

        A count is the sum of its counts by relation. Of one time, the later relation comes first.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        question = self._question(nodes, times_ms, k)
        return self.answered(cut, lambda seen: samplers.distinct_union(self._lists(side, seen), question))

    def _question(self, nodes: U32, times_ms: I64, k: int | Sequence[int]) -> samplers.Question:
        fanout = np.array([k] * len(self.relations) if isinstance(k, int) else list(k), np.int64)
        if len(fanout) != len(self.relations) or fanout.min(initial=0) < 0:
            raise ValueError(f"k must be 0 or more, one or {len(self.relations)} numbers, got {k}")
        if len(nodes) != len(times_ms):
            raise ValueError(f"nodes and times_ms disagree in length: {len(nodes)} and {len(times_ms)}")
        nodes = np.ascontiguousarray(nodes, np.uint32)
        return samplers.Question(nodes, np.ascontiguousarray(times_ms, np.int64), fanout)

    def _lists(self, side: int, cut: Cut) -> samplers.Lists:
        return samplers.Lists(self.sides[side], self.rings(cut), self.rows(side))

    def rings(self, cut: Cut) -> Rings:
        """The rings as of the cut, as kernels take them."""
        first, next_ = (np.array(one[: len(self.relations)], np.int64) for one in (cut.first, cut.next))
        start = self._base + first % self._capacity
        return Rings(
            start, self._capacity, first, next_ - first, self._span_ms, self._reserved, cut.watermark_ms
        )

    def uniform(
        self,
        side: int,
        nodes: U32,
        times_ms: I64,
        k: int | Sequence[int],
        cut: Cut,
        *,
        pool: int,
    ) -> Neighborhood:
        """As ``recent``, but k neighbors drawn from the ``pool`` most recent, each as likely, none twice.

        The draw is uniform over the whole history of a node that has at most ``pool`` events, and a hub costs
        no more. It is a hash of node, time and event, so the same call gives the same answer. The neighbors
        are in the order of ``recent``, newest first.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        question = self._question(nodes, times_ms, k)
        fanout = question.fanout
        if pool < fanout.max(initial=0):
            raise ValueError(f"pool must be at least k ({int(fanout.max())}), got {pool}")
        drawn_from = self.recent(side, nodes, times_ms, np.where(fanout > 0, pool, 0).tolist(), cut)
        return samplers.drawn(drawn_from, question)

    def events(self, cut: Cut, since: Cut | None = None) -> Events:
        """The live events of ``cut`` that arrived at or after ``since``.

        O(result) if they arrived in order of time, otherwise O(result · log).

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        return self.answered(cut, lambda seen: self._events(seen, since, since)[0])

    def events_and_newness(self, cut: Cut, since: Cut) -> tuple[Events, Mask]:
        """All live events of ``cut``, and which of them arrived at or after ``since``. O(result).

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        return self.answered(cut, lambda seen: self._events(seen, None, since))

    def _events(self, cut: Cut, first: Cut | None, since: Cut | None) -> tuple[Events, Mask]:
        """The live events from ``first`` on, and which are not before ``since``."""
        starts = cut.first if first is None else np.maximum(cut.first, first.next).tolist()
        stops = np.maximum(starts, cut.next).tolist()
        room = sum(stops) - sum(starts)
        found = Columns(
            np.empty(room, np.uint32),
            np.empty(room, np.uint32),
            np.empty(room, np.uint8),
            np.empty(room, np.int64),
            np.empty(room, np.bool_),
        )
        ends = [0]
        for r, relation in enumerate(self.relations):
            new = stops[r] if since is None else since.next[r]
            oldest_ms = cut.watermark_ms - relation.span_ms
            base = int(self._base[r])
            part = Part(r, starts[r], stops[r], new, base, relation.capacity, oldest_ms)
            ends.append(collect(self._arrays.words, self._times, part, found, ends[-1]))
        time_ms = found.time_ms[: ends[-1]]
        order = np.empty(ends[-1], np.int64)
        if not merged(time_ms, np.array(ends[:-1]), np.array(ends[1:]), order):
            order = np.argsort(time_ms, kind="stable")
        events = Events(found.user[order], found.item[order], found.relation[order], time_ms[order])
        return events, found.is_new[order]

    def answered(self, cut: Cut, answer: Callable[[Cut], Answer]) -> Answer:
        """The answer at the cut. It is made again if a user was erased meanwhile."""
        for _ in range(ERASURE_WAITS_MAX):
            erasures = cut_header.erasures(self._arrays.header)
            if erasures < 0:
                time.sleep(ERASURE_WAIT_S)
                continue
            seen = self._as_erased(cut) if erasures else cut
            found = answer(seen)
            self.check(seen)
            if cut_header.erasures(self._arrays.header) == erasures:
                return found
        raise StaleCut("users are being erased all the while; take a newer cut and ask again")

    def _as_erased(self, cut: Cut) -> Cut:
        """The cut without the events that had expired at the last erasure."""
        return Cut(
            max(cut.watermark_ms, int(self._arrays.header[cut_header.ERASURE_WATERMARK])),
            tuple(
                min(max(first, floor), next_)
                for first, floor, next_ in zip(
                    cut.first, self._first_at_erasure.tolist(), cut.next, strict=True
                )
            ),
            cut.next,
        )

    def live_counts(self, cut: Cut) -> dict[str, int]:
        """Live events by relation. O(window)."""
        counts = np.bincount(self.events(cut).relation, minlength=len(self.relations))
        return {relation.name: int(n) for relation, n in zip(self.relations, counts, strict=True)}

    def degree(self, side: int, cut: Cut) -> I32:
        """Live events of each node by relation, [rows, R]. O(window)."""
        rows, events, relation_count = self.rows(side), self.events(cut), len(self.relations)
        node = (events.user if side == USER else events.item).astype(np.int64)
        flat = np.bincount(node * relation_count + events.relation, minlength=rows * relation_count)
        return flat.astype(np.int32).reshape(rows, relation_count)
