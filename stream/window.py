"""The window: the live part of the heterograph, in memory that one process writes and many read.

    EventBatch ──► ids ──► [Window.append, expire] ──► cut ──► WindowView.recent, events ──► training

Everything lies in flat arrays (files mapped into memory, or anonymous): the event records and list heads
of ``adjacency``, and a header of counters. There is no lock. The writer raises ``reserved`` before it
overwrites a record and publishes the cut last; a reader works at a cut and checks ``reserved`` at the end.
Time is event time and nothing here reads a clock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftgraph.stream import adjacency, sample
from driftgraph.stream.adjacency import ITEM, USER
from driftgraph.stream.atomics import fence, load_acquire, store_release
from driftgraph.stream.events import I32, I64, U8, U32
from driftgraph.stream.mapped import (
    FORMAT,
    Description,
    Folder,
    RelationDescription,
    WindowError,
    read_description,
    write_description,
)

RELATIONS_MAX = 32
SLOTS_MAX = (1 << 32) - 2  # over all relations: a pointer is slot + 1 in 32 bits
THREADS = min(os.cpu_count() or 1, 8)
SEEDS_PER_THREAD = 4_096  # below it, handing work to a thread costs more than it saves
EXPIRE_CHUNK = 65_536  # events an expiry kernel lets go at once; bounds its list of emptied nodes

# The header, int64: [version counter, watermark, user rows, item rows, 0 …], then first[R], next[R], reserved[R].
SEQUENCE, WATERMARK, ROWS = 0, 1, 2
HEADER_WORDS = 8


class StaleCut(WindowError):  # noqa: N818  # not a fault: the reader asks again at a newer cut
    """Events of the cut were overwritten or erased meanwhile; take a newer cut and ask again."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One behavior: how long its events live, and how many of them fit."""

    name: str
    span_ms: int
    capacity: int = 1 << 24  # 32 bytes each, used only where events have been

    def __post_init__(self) -> None:
        if self.span_ms <= 0:
            raise ValueError(f"relation {self.name!r}: span_ms must be positive, got {self.span_ms}")
        if not 0 < self.capacity <= SLOTS_MAX:
            raise ValueError(
                f"relation {self.name!r}: capacity must be 1 to {SLOTS_MAX}, got {self.capacity}"
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
class Neighborhood:
    """Recent neighbors. Shape suffixes: B seeds, R relations, K neighbors, newest first.

    Only the first ``count_BR[b, r]`` of the K are real; behind them stand zeros.
    """

    neighbor_BRK: U32
    time_ms_BRK: I64
    count_BR: I32


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
class _Arrays:
    """The shared memory, as flat arrays."""

    header: I64
    words: U32
    heads: tuple[U32, U32]  # user side, item side
    versions: tuple[U32, U32]  # how many owners a row has had


@adjacency.kernel
def _publish(
    header: I64, relation_count: int, watermark_ms: int, first: I64, next_: I64
) -> None:  # pragma: no cover - compiled
    """Write a cut so that a reader sees all of it or asks again (the counter is odd meanwhile)."""
    store_release(header, SEQUENCE, header[SEQUENCE] + 1)
    fence()
    header[WATERMARK] = watermark_ms
    for r in range(relation_count):
        header[HEADER_WORDS + r] = first[r]
        header[HEADER_WORDS + relation_count + r] = next_[r]
    fence()
    store_release(header, SEQUENCE, header[SEQUENCE] + 1)


@adjacency.kernel
def _reserve(header: I64, index: int, value: int) -> None:  # pragma: no cover - compiled
    """Announce that records up to sequence number ``value`` may be overwritten from now on."""
    store_release(header, index, value)
    fence()


@adjacency.kernel
def _read(header: I64, out: I64) -> bool:  # pragma: no cover - compiled
    """Copy the header; whether it was whole."""
    before = load_acquire(header, SEQUENCE)
    for i in range(len(header)):
        out[i] = header[i]
    fence()
    return before % 2 == 0 and load_acquire(header, SEQUENCE) == before


class WindowView:
    """The window as a reader sees it, in the writer's process or another. Every answer is as of a cut."""

    def __init__(self, relations: Sequence[Relation], row_capacity: tuple[int, int], arrays: _Arrays) -> None:
        self.relations = tuple(relations)
        self.row_capacity = row_capacity
        self._arrays = arrays
        self._times = arrays.words.view(np.int64)
        self._capacity = np.array([r.capacity for r in relations], np.int64)
        self._base = np.cumsum(self._capacity) - self._capacity
        self._span_ms = np.array([r.span_ms for r in relations], np.int64)
        r = len(self.relations)
        self._reserved = arrays.header[HEADER_WORDS + 2 * r :]

    def cut(self) -> Cut:
        """The newest published cut."""
        out = np.empty_like(self._arrays.header)
        while not _read(self._arrays.header, out):  # the writer is inside a handful of stores
            pass
        r, at = len(self.relations), HEADER_WORDS
        return Cut(
            int(out[WATERMARK]), tuple(out[at : at + r].tolist()), tuple(out[at + r : at + 2 * r].tolist())
        )

    def rows(self, side: int) -> int:
        """Rows in use are below this number."""
        return int(self._arrays.header[ROWS + side])

    def row_versions(self, side: int) -> U32:
        """How many owners each row has had, [rows]. Who keeps a value by row starts it anew when this grows.

        Read it before the cut: then a row that changes its owner in between shows as changed, never the reverse.
        """
        return self._arrays.versions[side][: self.rows(side)].copy()

    def check(self, cut: Cut) -> None:
        """Raise ``StaleCut`` if an event of ``cut`` may have been overwritten by now."""
        for r, relation in enumerate(self.relations):
            reserved = int(load_reserved(self._reserved, r))
            if cut.next[r] > cut.first[r] and reserved > cut.first[r] + relation.capacity:
                raise StaleCut(
                    f"relation {relation.name!r}: event {cut.first[r]} of the cut was overwritten "
                    f"(event {reserved - 1} is written, the ring holds {relation.capacity}); take a newer cut"
                )

    def recent(self, side: int, nodes: U32, times_ms: I64, k: int | Sequence[int], cut: Cut) -> Neighborhood:
        """The k most recent neighbors of each node by each relation, strictly before the node's own time.

        Args:
            side: ``USER`` if ``nodes`` are user rows (the neighbors are items), ``ITEM`` the other way round.
            nodes: [B] rows; a row that has no event gets no neighbor.
            times_ms: [B] event times.
            k: Neighbors per relation, one number or one for each relation; the result is as wide as the largest.
            cut: The answer is as of this cut.

        Returns:
            Neighbors not older than ``max(time, watermark) - span``, newest first, ties newest arrival first.
            Exact for every batch size and every order of arrival. Releases the GIL.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        fanout = np.array([k] * len(self.relations) if isinstance(k, int) else list(k), np.int64)
        if len(fanout) != len(self.relations) or fanout.min(initial=0) < 0:
            raise ValueError(f"k must be 0 or more, one or {len(self.relations)} numbers, got {k}")
        if len(nodes) != len(times_ms):
            raise ValueError(f"nodes and times_ms disagree in length: {len(nodes)} and {len(times_ms)}")
        nodes = np.ascontiguousarray(nodes, np.uint32)
        times_ms = np.ascontiguousarray(times_ms, np.int64)
        shape = (len(nodes), len(self.relations), int(fanout.max(initial=0)))
        result = Neighborhood(
            np.zeros(shape, np.uint32), np.zeros(shape, np.int64), np.zeros(shape[:2], np.int32)
        )
        first, next_ = np.array(cut.first, np.int64), np.array(cut.next, np.int64)
        starts = self._base + first % self._capacity

        def fill(part: slice) -> None:
            sample.recent_events(
                self._arrays.words, self._times, self._arrays.heads[side], self._reserved, side,
                nodes[part], times_ms[part], fanout, starts, self._capacity, first, next_ - first,
                self._span_ms, cut.watermark_ms,
                result.neighbor_BRK[part], result.time_ms_BRK[part], result.count_BR[part],
            )  # fmt: skip

        _in_parallel(fill, len(nodes))
        self.check(cut)
        return result

    def events(self, cut: Cut, since: Cut | None = None) -> Events:
        """The live events of ``cut`` that arrived at or after ``since``. O(result · log)."""
        columns: list[tuple[U32, U32, U8, I64]] = []
        for r, relation in enumerate(self.relations):
            start = cut.first[r] if since is None else max(cut.first[r], since.next[r])
            sequence = np.arange(start, max(start, cut.next[r]), dtype=np.int64)
            slot = self._base[r] + sequence % relation.capacity
            time_ms = self._times[slot * adjacency.TIMES + adjacency.TIME]
            live = time_ms >= cut.watermark_ms - relation.span_ms
            at = slot[live] * adjacency.WORDS
            words = self._arrays.words
            columns.append((words[at + USER], words[at + ITEM], np.full(len(at), r, np.uint8), time_ms[live]))
        self.check(cut)
        user, item, relation_column, time = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.argsort(time, kind="stable")
        return Events(user[order], item[order], relation_column[order], time[order])

    def live_counts(self, cut: Cut) -> dict[str, int]:
        """Live events by relation. O(window)."""
        counts = np.bincount(self.events(cut).relation, minlength=len(self.relations))
        return {relation.name: int(n) for relation, n in zip(self.relations, counts, strict=True)}

    def degree(self, side: int, cut: Cut) -> npt.NDArray[np.int32]:
        """Live events of each node by relation, [rows, R]. O(window)."""
        rows, events, relation_count = self.rows(side), self.events(cut), len(self.relations)
        node = (events.user if side == USER else events.item).astype(np.int64)
        flat = np.bincount(node * relation_count + events.relation, minlength=rows * relation_count)
        return flat.astype(np.int32).reshape(rows, relation_count)


class Window(WindowView):
    """The writer: one process, one thread.

    Always true after ``append`` or ``expire`` returns:
      * the published cut holds every event appended, but for those that expired or were truncated;
      * the watermark has not gone back;
      * no relation holds more events than its capacity, and the oldest arrivals went first.
    """

    def __init__(self, relations: Sequence[Relation], row_capacity: tuple[int, int], arrays: _Arrays) -> None:
        super().__init__(relations, row_capacity, arrays)
        newest = self.cut()
        self._first = np.array(newest.first, np.int64)
        self._next = np.array(newest.next, np.int64)
        self.watermark_ms = newest.watermark_ms
        self.truncated = np.zeros(len(self.relations), np.int64)

    def append(self, user: U32, item: U32, relation: U8, time_ms: I64) -> tuple[U32, U32]:
        """Add N events in order of arrival. O(N) if they come in order of time; late ones O(log²) each.

        Returns:
            The rows that a full ring left without events of some relation, users and items, perhaps repeated.

        Raises:
            ValueError: Columns disagree, or a row or relation is out of range; nothing was appended.
        """
        self._validate(user, item, relation, time_ms)
        if len(user):
            self._raise_rows(USER, user)
            self._raise_rows(ITEM, item)
        emptied: list[tuple[U32, U32]] = []
        order = np.argsort(relation, kind="stable")
        bounds = np.searchsorted(relation[order], np.arange(len(self.relations) + 1))
        for r, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            for at in range(start, stop, self.relations[r].capacity):
                chosen = order[at : min(at + self.relations[r].capacity, stop)]
                self._append_one(r, user[chosen], item[chosen], time_ms[chosen], emptied)
        self._publish()
        return _joined(emptied)

    def expire(self, watermark_ms: int) -> tuple[U32, U32]:
        """Move the watermark and let go of what is older than each span. O(expired).

        An event that expired before one that arrived earlier stays in its ring, invisible, until that one
        has gone too. Returns the rows left without events of some relation, as ``append`` does.
        """
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        emptied: list[tuple[U32, U32]] = []
        for r in range(len(self.relations)):
            while self._drop(r, 0, emptied) == EXPIRE_CHUNK:
                pass
        self._publish()
        return _joined(emptied)

    def recycle(self, side: int, rows: U32) -> None:
        """Give rows a new owner, before its first event is appended."""
        if len(rows):
            self._check_range("user" if side == USER else "item", rows, self.row_capacity[side])
            self._arrays.versions[side][rows] += 1
            self._raise_rows(side, rows)

    def has_events(self, side: int, rows: U32) -> npt.NDArray[np.bool_]:
        """Whether any relation still holds an event of each row, live or not yet let go."""
        heads = self._arrays.heads[side].reshape(
            self.row_capacity[side], len(self.relations), adjacency.HEAD_WORDS
        )
        held: npt.NDArray[np.bool_] = (heads[rows, :, adjacency.DEGREE] & adjacency.COUNT).any(axis=1)
        return held

    def _append_one(self, r: int, user: U32, item: U32, time_ms: I64, emptied: list[tuple[U32, U32]]) -> None:
        """Append to one relation at most as many events as its ring holds."""
        relation, relation_count = self.relations[r], len(self.relations)
        arrays, n = self._arrays, len(user)
        _reserve(arrays.header, HEADER_WORDS + 2 * relation_count + r, int(self._next[r]) + n)
        surplus = int(self._next[r] - self._first[r]) + n - relation.capacity
        while surplus > 0:
            surplus -= self._drop(r, surplus, emptied)
        base, first, next_ = int(self._base[r]), int(self._first[r]), int(self._next[r])
        adjacency.write_events(arrays.words, self._times, base, relation.capacity, next_, user, item, time_ms)
        for side, nodes in ((USER, user), (ITEM, item)):
            adjacency.link_events(
                arrays.words, self._times, arrays.heads[side], side, nodes, r, relation_count,
                base, relation.capacity, first, next_, self.watermark_ms - relation.span_ms,
            )  # fmt: skip
        self._next[r] += n

    def _drop(self, r: int, exactly: int, emptied: list[tuple[U32, U32]]) -> int:
        """Let the oldest events of a relation go: ``exactly`` so many, or with 0 those that expired; EXPIRE_CHUNK at most."""
        relation, arrays = self.relations[r], self._arrays
        room = min(EXPIRE_CHUNK, int(self._next[r] - self._first[r]))
        lists = (np.empty(room, np.int64), np.empty(room, np.int64))
        gone, early = adjacency.drop_events(
            arrays.words, self._times, *arrays.heads, r, len(self.relations),
            int(self._base[r]), relation.capacity, int(self._first[r]), int(self._next[r]),
            self.watermark_ms - relation.span_ms, exactly, *lists,
        )  # fmt: skip
        self._first[r] += gone
        self.truncated[r] += early
        emptied.append(_rows(lists, gone))
        return int(gone)

    def _publish(self) -> None:
        _publish(self._arrays.header, len(self.relations), self.watermark_ms, self._first, self._next)

    def _validate(self, user: U32, item: U32, relation: U8, time_ms: I64) -> None:
        lengths = {len(user), len(item), len(relation), len(time_ms)}
        if len(lengths) != 1:
            raise ValueError(f"columns disagree in length: {sorted(lengths)}")
        if len(user) == 0:
            return
        self._check_range("user", user, self.row_capacity[USER])
        self._check_range("item", item, self.row_capacity[ITEM])
        self._check_range("relation", relation, len(self.relations))

    @staticmethod
    def _check_range(name: str, column: U32 | U8, limit: int) -> None:
        if column.max() >= limit:
            raise ValueError(f"{name} row {int(column.max())} is out of range: there is room for {limit}")

    def _raise_rows(self, side: int, rows: U32) -> None:
        header = self._arrays.header
        header[ROWS + side] = max(int(header[ROWS + side]), int(rows.max()) + 1)


@adjacency.kernel
def load_reserved(reserved: I64, relation: int) -> int:  # pragma: no cover - compiled
    """Read a shared counter after everything that was read before."""
    fence()
    return load_acquire(reserved, relation)  # type: ignore[no-any-return, unused-ignore]


def in_memory(relations: Sequence[Relation], *, user_rows: int = 1 << 20, item_rows: int = 1 << 20) -> Window:
    """Make a window that only this process sees; untouched memory costs nothing."""
    rows = (user_rows, item_rows)
    return Window(relations, rows, _arrays(relations, rows, Folder(None)))


def create(directory: Path, relations: Sequence[Relation], *, user_rows: int, item_rows: int) -> Window:
    """Make a window of sparse files in ``directory`` that other processes can open; replaces one that is there.

    Call ``describe`` when whatever else belongs to the window is there too: readers wait for it.
    """
    rows = (user_rows, item_rows)
    return Window(relations, rows, _arrays(relations, rows, Folder(directory, writable=True)))


def describe(directory: Path, window: Window) -> None:
    """Publish a new window: a reader that finds the description finds everything else in place."""
    relations = [RelationDescription(r.name, r.span_ms, r.capacity) for r in window.relations]
    write_description(directory, Description(FORMAT, relations, window.row_capacity))


def attach(directory: Path) -> WindowView:
    """Open another process's window for reading.

    Raises:
        WindowError: There is none, or its files are of another format or size.
    """
    description = read_description(directory)
    relations = [Relation(r.name, r.span_ms, r.capacity) for r in description.relations]
    rows = description.rows
    return WindowView(relations, rows, _arrays(relations, rows, Folder(directory)))


def _arrays(relations: Sequence[Relation], rows: tuple[int, int], folder: Folder) -> _Arrays:
    if not 0 < len(relations) <= RELATIONS_MAX:
        raise ValueError(f"a window has 1 to {RELATIONS_MAX} relations, got {len(relations)}")
    if len({r.name for r in relations}) != len(relations):
        raise ValueError(f"relation names repeat: {[r.name for r in relations]}")
    slots = sum(r.capacity for r in relations)
    if slots > SLOTS_MAX:
        raise ValueError(f"the capacities add up to {slots} events; at most {SLOTS_MAX} fit one window")
    heads = [n * len(relations) * adjacency.HEAD_WORDS for n in rows]
    return _Arrays(
        header=folder.array("header", HEADER_WORDS + 3 * len(relations), np.int64),
        words=folder.array("events", slots * adjacency.WORDS, np.uint32),
        heads=(
            folder.array("user_heads", heads[USER], np.uint32),
            folder.array("item_heads", heads[ITEM], np.uint32),
        ),
        versions=(
            folder.array("user_versions", rows[USER], np.uint32),
            folder.array("item_versions", rows[ITEM], np.uint32),
        ),
    )


def _rows(lists: tuple[I64, I64], used: int) -> tuple[U32, U32]:
    user, item = (column[:used] for column in lists)
    return user[user >= 0].astype(np.uint32), item[item >= 0].astype(np.uint32)


def _joined(parts: list[tuple[U32, U32]]) -> tuple[U32, U32]:
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


_pool: ThreadPoolExecutor | None = None


def _in_parallel(work: object, total: int) -> None:
    """Call ``work(slice)`` over ``total`` rows, on several threads if they are worth it."""
    global _pool  # noqa: PLW0603  # one pool a process, made when first needed
    assert callable(work)
    parts = min(THREADS, max(1, total // SEEDS_PER_THREAD))
    if parts == 1:
        work(slice(0, total))
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="recent")
    edges = [total * i // parts for i in range(parts + 1)]
    list(_pool.map(work, [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]))
