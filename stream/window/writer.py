"""The window: the live part of the heterograph, in memory that one process writes and many processes read.

    EventBatch ──► ids ──► [Window.append, expire] ──► cut ──► WindowView.recent, events ──► training

The window is flat arrays, in files mapped into memory or in private memory: the event records and list heads
of ``adjacency``, and the counters of ``cut_header``. The writer raises ``reserved`` before it overwrites a
record, and publishes the cut last. Time is event time, and nothing here reads a clock.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from driftgraph.stream.arrays import I64, U8, U32, Mask
from driftgraph.stream.window import adjacency, cut_header, live_count, ring
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import DistinctNeighborhood, DistinctUnion, Neighborhood
from driftgraph.stream.window.shared_files import (
    FORMAT,
    Description,
    Folder,
    RelationDescription,
    WindowError,
    claim,
    read_description,
    write_description,
)
from driftgraph.stream.window.view import (
    EVENTS_MAX,
    SLOTS_MAX,
    Arrays,
    Cut,
    Events,
    Relation,
    StaleCut,
    WindowView,
)

__all__ = [
    "EVENTS_MAX", "ITEM", "USER", "Cut", "DistinctNeighborhood", "DistinctUnion", "Events", "Neighborhood",
    "Relation", "StaleCut", "Window", "WindowError", "WindowView", "attach", "create", "describe",
    "in_memory",
]  # fmt: skip

HEADS, VERSIONS = ("user_heads", "item_heads"), ("user_versions", "item_versions")  # files, by side
FILES = ("header", "events", *HEADS, *VERSIONS)
RELATIONS_MAX = 32
EXPIRE_CHUNK = 65_536  # events an expiry kernel lets go at once; bounds its list of emptied nodes


class Window(WindowView):
    """The writer: one process, one thread.

    Always true after ``append`` or ``expire`` returns:
      * the published cut holds every event appended, but for those that expired, were truncated, capped
        or erased;
      * the watermark has not gone back;
      * no relation holds more events than its capacity, and the oldest arrivals went first.
    """

    def __init__(self, relations: Sequence[Relation], row_capacity: tuple[int, int], arrays: Arrays) -> None:
        super().__init__(relations, row_capacity, arrays)
        newest = self.cut()
        self._first = np.array(newest.first, np.int64)
        self._next = np.array(newest.next, np.int64)
        self.watermark_ms = newest.watermark_ms
        self._losses = [super(Window, self).row_losses(side)[1] for side in (USER, ITEM)]
        self._memory = adjacency.Adjacency(arrays.words, self._times, *arrays.heads)
        self.truncated = np.zeros(len(self.relations), np.int64)  # events that a full ring dropped early
        self.expired = np.zeros(
            len(self.relations), np.int64
        )  # events that have left their ring at their age
        self.capped = np.zeros(len(self.relations), np.int64)  # left out: the node had as many as it may
        self._live = [
            live_count.LiveCount(self._times, int(base), relation.capacity, block=live_count.BLOCK)
            for base, relation in zip(self._base, self.relations, strict=True)
        ]
        folder, record, side_rows = arrays.folder, 4 * adjacency.WORDS, list(enumerate(row_capacity))
        self._event_room = [
            folder.room("events", int(base) * record, relation.capacity * record)
            for base, relation in zip(self._base, self.relations, strict=True)
        ]
        head = 4 * adjacency.HEAD_WORDS * len(self.relations)
        self._head_room = [folder.room(HEADS[side], 0, rows * head) for side, rows in side_rows]
        self._version_room = [folder.room(VERSIONS[side], 0, rows * 4) for side, rows in side_rows]
        folder.room("header", 0, arrays.header.nbytes).provide(arrays.header.nbytes)
        # Lets another process write the folder; called at the latest when the window is gone.
        self.close: Callable[[], object] = _nothing_to_close

    def append(self, user: U32, item: U32, relation: U8, time_ms: I64) -> tuple[U32, U32]:
        """Add N events in order of arrival. O(N) for events in order of time; O(log²) for each late one.

        The window leaves out an event older than its relation's span. It also leaves out an event whose user
        (item) already has ``user_events_max`` (``item_events_max``) events in the ring: a bot's first events
        stay, and its later ones cost nothing. Returns the rows that may be without events now, users and
        items; a row may occur more than once.

        Raises:
            ValueError: Columns disagree, or a row or relation is out of range; no event was appended.
            WindowError: The disk is full; events of some relations may have been appended.
        """
        self._validate(user, item, relation, time_ms)
        if len(user):
            self._raise_rows(USER, user)
            self._raise_rows(ITEM, item)
        emptied: list[tuple[U32, U32]] = []
        order = np.argsort(relation, kind="stable")
        bounds = np.searchsorted(relation[order], np.arange(len(self.relations) + 1))
        for r, (start, stop) in enumerate(pairwise(bounds)):
            for at in range(start, stop, self.relations[r].capacity):
                chosen = order[at : min(at + self.relations[r].capacity, stop)]
                limits = (self.relations[r].user_events_max, self.relations[r].item_events_max)
                self._append_one(r, user[chosen], item[chosen], time_ms[chosen], emptied, limits=limits)
        self._publish()
        return _joined(emptied)

    def expire(self, watermark_ms: int) -> tuple[U32, U32]:
        """Move the watermark, and let the events go that are older than their span. O(expired).

        An expired event stays in its ring, invisible, until all events that arrived earlier have gone.
        Returns the rows left without events of some relation, as ``append`` does.
        """
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        emptied: list[tuple[U32, U32]] = []
        for r in range(len(self.relations)):
            while self._drop(r, 0, emptied) == EXPIRE_CHUNK:
                pass
        self._publish()
        return _joined(emptied)

    def degrees(self, side: int, row: int) -> I64:
        """[R] the number of events of a row that are in the ring of each relation."""
        heads = self._arrays.heads[side].reshape(-1, len(self.relations), adjacency.HEAD_WORDS)
        return (heads[row, :, adjacency.DEGREE] & adjacency.COUNT).astype(np.int64)

    def erase(self, user: int) -> U32:
        """Remove every event of a user row, at once and from every cut. O(its events · log²).

        Returns the items that were left without events of some relation; one may occur more than once.
        """
        if not 0 <= user < self.rows(USER):
            raise ValueError(f"user row {user} is out of range: {self.rows(USER)} are in use")
        arrays = self._arrays
        degrees = self.degrees(USER, user)
        number = int(arrays.header[cut_header.ERASURES_BEGUN]) + 1
        cut_header.announce(arrays.header, cut_header.ERASURES_BEGUN, number)
        arrays.versions[USER][user] += 1
        self._losses[USER] += 1
        emptied = []
        for r, relation in enumerate(self.relations):
            items = np.empty(int(degrees[r]), np.int64)
            horizon_ms = self.watermark_ms - relation.span_ms
            ring.erase_events(self._memory, self._ring(r), user, horizon_ms, items, self._live[r].blocks)
            emptied.append(items[items >= 0].astype(np.uint32))
        arrays.header[cut_header.ERASURE_WATERMARK] = self.watermark_ms
        self._first_at_erasure[:] = self._first
        cut_header.announce(arrays.header, cut_header.ERASURES_DONE, number)
        return np.concatenate(emptied)

    def begin(self, first: Sequence[int], row_counts: Sequence[int] = (0, 0)) -> None:
        """Let the sequence numbers of an empty window begin at ``first``, which had so many rows."""
        if self._next.any() or any(number < 0 for number in first) or len(first) != len(self.relations):
            raise ValueError(
                f"only an empty window can begin at chosen numbers, one for each of {len(self.relations)} "
                f"relations and none negative; got {list(first)}"
            )
        self._first[:] = self._next[:] = first
        reserved = cut_header.HEADER_WORDS + 2 * len(self.relations)
        self._arrays.header[reserved : reserved + len(self.relations)] = first
        for side, count in enumerate(row_counts):
            if count:
                self._raise_rows(side, np.array([count - 1], np.uint32))
        self._publish()

    def restore(self, relation: int, user: U32, item: U32, time_ms: I64) -> None:
        """Put back N events of one relation that ``arrivals`` gave, from its ``begin`` on and without a gap.

        No event is left out, even if a node may hold fewer by now, so that each event gets its old number.
        The caller restores before the first ``append`` or ``expire``; events that expired since leave with
        the first ``expire``.
        """
        real = user != adjacency.NIL
        if real.any():
            self._check_range("user", user[real], self.row_capacity[USER])
            self._check_range("item", item[real], self.row_capacity[ITEM])
            self._raise_rows(USER, user[real])
            self._raise_rows(ITEM, item[real])
        self._append_one(relation, user, item, time_ms, [], limits=(EVENTS_MAX, EVENTS_MAX))
        self._publish()

    def recycle(self, side: int, rows: U32) -> None:
        """Count a new version of rows that lose an owner or get one; each is there once."""
        if len(rows):
            self._check_range("user" if side == USER else "item", rows, self.row_capacity[side])
            self._raise_rows(side, rows)
            self._arrays.versions[side][rows] += 1
            self._losses[side] += int(np.count_nonzero(self._arrays.versions[side][rows] % 2 == 0))

    def row_losses(self, side: int) -> tuple[int, int]:
        """As for a reader, in O(1): every mark asks for it, and ``fit.events`` may be small."""
        return self.rows(side), self._losses[side]

    def has_events(self, side: int, rows: U32) -> Mask:
        """Whether the ring of any relation still holds an event of each row, live or expired."""
        heads = self._arrays.heads[side].reshape(
            self.row_capacity[side], len(self.relations), adjacency.HEAD_WORDS
        )
        held: Mask = np.any(heads[rows, :, adjacency.DEGREE] & adjacency.COUNT, axis=1)
        return held

    def live(self) -> dict[str, int]:
        """Live events by relation, now: the counts of ``live_counts``, in one step for 4,096 events."""
        return {
            relation.name: live.count(int(first), int(next_), self.watermark_ms - relation.span_ms)
            for relation, live, first, next_ in zip(
                self.relations, self._live, self._first, self._next, strict=True
            )
        }

    def counted(self) -> dict[str, dict[str, int]]:
        """By relation, events since the start that a full ring dropped, that a cap left out, that expired."""
        names = [relation.name for relation in self.relations]
        counts = {"truncated": self.truncated, "capped": self.capped, "expired": self.expired}
        return {kind: dict(zip(names, of.tolist(), strict=True)) for kind, of in counts.items()}

    def allocated_bytes(self) -> int:
        """Of its files; 0 in private memory."""
        return self._arrays.folder.allocated_bytes()

    def _append_one(
        self,
        r: int,
        user: U32,
        item: U32,
        time_ms: I64,
        emptied: list[tuple[U32, U32]],
        *,
        limits: tuple[int, int],
    ) -> None:
        """Append to one relation at most as many events as its ring holds."""
        relation, relation_count = self.relations[r], len(self.relations)
        arrays, n = self._arrays, len(user)
        last = min(int(self._next[r]) + n, relation.capacity)
        self._event_room[r].provide(4 * adjacency.WORDS * last)
        word = cut_header.HEADER_WORDS + 2 * relation_count + r
        reserved = int(arrays.header[word])
        cut_header.announce(arrays.header, word, max(reserved, int(self._next[r]) + n))
        # make room for the whole batch, though some of its events may be left out
        surplus = left = int(self._next[r] - self._first[r]) + n - relation.capacity
        while left > 0:
            left -= self._drop(r, left, emptied)
        horizon_ms = self.watermark_ms - relation.span_ms
        left_out = np.empty(n, np.int64)
        events = ring.Arrivals(user, item, time_ms)
        out = ring.append_events(self._memory, self._ring(r), events, horizon_ms, limits, left_out)
        self._live[r].note(int(self._next[r]), n - out)
        self._next[r] += n - out
        if out:
            if surplus <= 0:  # nothing was truncated, and fewer records were overwritten than announced
                cut_header.announce(arrays.header, word, max(reserved, int(self._next[r])))
            left_out = left_out[:out]
            self.capped[r] += np.count_nonzero(time_ms[left_out] >= horizon_ms)
            emptied.append((user[left_out], item[left_out]))

    def _drop(self, r: int, exactly: int, emptied: list[tuple[U32, U32]]) -> int:
        """Let the oldest events of a relation go: ``exactly`` that many, or, if it is 0, those that expired.

        One call lets at most ``EXPIRE_CHUNK`` events go; it returns how many.
        """
        horizon_ms = self.watermark_ms - self.relations[r].span_ms
        room = min(EXPIRE_CHUNK, int(self._next[r] - self._first[r]))
        nodes = ring.Emptied(np.empty(room, np.int64), np.empty(room, np.int64))
        gone, early = ring.drop_events(self._memory, self._ring(r), horizon_ms, exactly, nodes)
        self._first[r] += gone
        self.truncated[r] += early
        self.expired[r] += gone - early
        emptied.append(_rows(nodes, gone))
        return int(gone)

    def _ring(self, r: int) -> ring.Ring:
        """The ring of a relation as it is now."""
        base, first, next_ = int(self._base[r]), int(self._first[r]), int(self._next[r])
        return ring.Ring(r, len(self.relations), base, self.relations[r].capacity, first, next_)

    def _publish(self) -> None:
        cut_header.publish(
            self._arrays.header, len(self.relations), self.watermark_ms, self._first, self._next
        )

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
        at, count = cut_header.ROWS + side, int(rows.max()) + 1
        self._head_room[side].provide(4 * adjacency.HEAD_WORDS * len(self.relations) * count)
        self._version_room[side].provide(4 * count)
        self._arrays.header[at] = max(int(self._arrays.header[at]), count)


def in_memory(relations: Sequence[Relation], *, user_rows: int = 1 << 20, item_rows: int = 1 << 20) -> Window:
    """Make a window that only this process sees. Memory that was not touched costs nothing."""
    rows = (user_rows, item_rows)
    return Window(relations, rows, _arrays(relations, rows, Folder(None)))


def create(directory: Path, relations: Sequence[Relation], *, user_rows: int, item_rows: int) -> Window:
    """Make a window of sparse files that other processes can open, in place of one that is there.

    Call ``describe`` when all that belongs to the window is there: readers wait for the description.

    Raises:
        WindowInUseError: Another process writes it.
        WindowError: The folder or the disk does not allow it.
    """
    rows = (user_rows, item_rows)
    let_go = claim(directory)
    try:
        window = Window(relations, rows, _arrays(relations, rows, Folder(directory, writable=True)))
    except BaseException:
        let_go()
        raise
    window.close = weakref.finalize(window, let_go)
    return window


def describe(directory: Path, window: Window) -> None:
    """Publish a new window. A reader that finds the description finds everything else in place."""
    relations = [RelationDescription(r.name, r.span_ms, r.capacity, r.is_edge) for r in window.relations]
    write_description(directory, Description(FORMAT, relations, window.row_capacity, window.history))


def attach(directory: Path) -> WindowView:
    """Open another process's window for reading.

    Raises:
        WindowError: There is no window, or its files have another format or size.
    """
    description = read_description(directory)
    relations = [Relation(r.name, r.span_ms, r.capacity, is_edge=r.is_edge) for r in description.relations]
    view = WindowView(relations, (rows := description.rows), _arrays(relations, rows, Folder(directory)))
    view.history = description.history
    return view


def _arrays(relations: Sequence[Relation], rows: tuple[int, int], folder: Folder) -> Arrays:
    if not 0 < len(relations) <= RELATIONS_MAX:
        raise ValueError(f"a window has 1 to {RELATIONS_MAX} relations, got {len(relations)}")
    if len({r.name for r in relations}) != len(relations):
        raise ValueError(f"relation names repeat: {[r.name for r in relations]}")
    if not relations[0].is_edge or any(b.is_edge > a.is_edge for a, b in pairwise(relations)):
        raise ValueError("relations that make edges come first, and there is one at least")
    slots = sum(r.capacity for r in relations)
    if slots > SLOTS_MAX:
        raise ValueError(f"the capacities add up to {slots} events; at most {SLOTS_MAX} fit one window")
    heads = [n * len(relations) * adjacency.HEAD_WORDS for n in rows]
    return Arrays(
        header=folder.array("header", cut_header.HEADER_WORDS + cut_header.ARRAYS * len(relations), np.int64),
        words=folder.array("events", slots * adjacency.WORDS, np.uint32),
        heads=(
            folder.array(HEADS[USER], heads[USER], np.uint32),
            folder.array(HEADS[ITEM], heads[ITEM], np.uint32),
        ),
        versions=(
            folder.array(VERSIONS[USER], rows[USER], np.uint32),
            folder.array(VERSIONS[ITEM], rows[ITEM], np.uint32),
        ),
        folder=folder,
    )


def _nothing_to_close() -> None:
    """A window in private memory has no folder."""


def _rows(emptied: ring.Emptied, used: int) -> tuple[U32, U32]:
    user, item = (column[:used] for column in emptied)
    return user[user >= 0].astype(np.uint32), item[item >= 0].astype(np.uint32)


def _joined(parts: list[tuple[U32, U32]]) -> tuple[U32, U32]:
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
