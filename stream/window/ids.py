"""External ids: a string for each user and item outside, a dense row inside, and the way between.

    EventBatch ──► [IdTable.assign] ──► rows ──► window           rows ──► [IdView.strings] ──► Redis

Exact: two ids share a row only if their bytes are equal; the hash only finds the place to look. Rows are
reused once nothing in the window refers to them, and so is the memory of their names: both are bounded
by the window, not by the age of the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import I64, ID_BYTES_MAX, U8, U32, Strings
from driftgraph.stream.kernels.atomics import prefetch
from driftgraph.stream.kernels.byte_kernels import TOGETHER, equal_bytes, hash_bytes
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.shared_files import Folder

U64 = np.ndarray[Any, np.dtype[np.uint64]]

CHUNK = 16  # bytes: a name's room is a multiple of it, and its size class is the multiple
CLASSES = ID_BYTES_MAX // CHUNK + 1
NAME_BYTES_MEAN = 64  # arena bytes provided a row; ids of 36 bytes (a UUID) take 48
INDEX_SLOTS_MIN = 4  # grows with the first batches

# counters
ROW_COUNT, FREE_COUNT, ARENA_USED = 0, 1, 2
COUNTERS = 4


class IdTableFullError(DriftgraphError):
    """More ids are live at once than the table has rows or bytes for."""


@kernel
def _hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    for i in range(len(hashes)):
        hashes[i] = hash_bytes(data, bounds[i], bounds[i + 1])


@kernel
def _entry(h: Any, row: int) -> Any:  # pragma: no cover - compiled
    """An index entry: the upper half of the hash, which also says where the entry belongs, and row + 1."""
    return (h & np.uint64(0xFFFFFFFF00000000)) | np.uint64(row + 1)


@kernel
def _home(entry: Any, mask: int) -> Any:  # pragma: no cover - compiled
    return np.int64(entry >> np.uint64(32)) & mask


@kernel
def _room_for(
    row: int, length: int, offsets: I64, rooms: Any, links: I64, free_chunks: I64, counters: I64
) -> Any:  # pragma: no cover - compiled
    """Where a new name goes: the row's own chunk if large enough, a free one, or new memory; -1: full."""
    size = (length + CHUNK - 1) // CHUNK
    had = rooms[row]
    if had >= size:
        return offsets[row]
    if had:
        links[offsets[row] // 8] = free_chunks[had]
        free_chunks[had] = offsets[row] + 1
        rooms[row] = 0
    if free_chunks[size]:
        offset = free_chunks[size] - 1
        free_chunks[size] = links[offset // 8]
    else:
        offset = counters[ARENA_USED]
        if offset + size * CHUNK > len(links) * 8:
            return -1
        counters[ARENA_USED] += size * CHUNK
    rooms[row] = size
    return offset


@kernel
def _find(
    data: U8, start: int, length: int, h: Any, index: Any, lengths: Any, offsets: I64, arena: U8
) -> Any:  # pragma: no cover - compiled
    """(The row of an id, or -1; where in the index it is, or where it would go.)"""
    mask = len(index) - 1
    at = _home(_entry(h, 0), mask)
    while index[at]:
        entry = index[at]
        row = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
        if (
            _entry(h, row) == entry
            and lengths[row] == length
            and equal_bytes(arena, offsets[row], data, start, length)
        ):
            return row, at
        at = (at + 1) & mask
    return np.int64(-1), at


@kernel
def _ask_for(
    wanted: U64, first: int, stop: int, index: Any, lengths: Any, offsets: I64, arena: U8
) -> None:  # pragma: no cover - compiled
    """Bring what finding some ids will look at into the cache."""
    mask = len(index) - 1
    for i in range(first, stop):
        prefetch(index, _home(wanted[i], mask))
    for i in range(first, stop):
        row = np.int64(index[_home(wanted[i], mask)] & np.uint64(0xFFFFFFFF)) - 1
        if row >= 0:
            prefetch(lengths, row)
            prefetch(offsets, row)
    for i in range(first, stop):
        row = np.int64(index[_home(wanted[i], mask)] & np.uint64(0xFFFFFFFF)) - 1
        if row >= 0:
            prefetch(arena, offsets[row])


@kernel
def _assign(
    data: U8, bounds: I64, wanted: U64, index: Any, hashes: Any, offsets: I64, lengths: Any, rooms: Any,
    arena: U8, links: I64, free_chunks: I64, free_rows: U32, counters: I64, rows: U32, fresh: U32,
) -> tuple[int, int]:  # fmt: skip  # pragma: no cover - compiled
    """Fill ``rows`` (and ``fresh`` with the new ones); return (new rows, ids done: fewer than N if full)."""
    fresh_count, count = 0, len(wanted)
    for i in range(count):
        if i % TOGETHER == 0:
            _ask_for(wanted, i, min(i + TOGETHER, count), index, lengths, offsets, arena)
        start, length, h = bounds[i], bounds[i + 1] - bounds[i], wanted[i]
        row, at = _find(data, start, length, h, index, lengths, offsets, arena)
        if row < 0:
            if counters[FREE_COUNT]:
                row = np.int64(free_rows[counters[FREE_COUNT] - 1])
            elif counters[ROW_COUNT] < len(offsets):
                row = counters[ROW_COUNT]
            else:
                return fresh_count, i
            offset = _room_for(row, length, offsets, rooms, links, free_chunks, counters)
            if offset < 0:
                return fresh_count, i
            if counters[FREE_COUNT]:
                counters[FREE_COUNT] -= 1
            else:
                counters[ROW_COUNT] += 1
            for k in range(length):
                arena[offset + k] = data[start + k]
            offsets[row], lengths[row], hashes[row] = offset, length, h
            index[at] = _entry(h, row)
            fresh[fresh_count] = row
            fresh_count += 1
        rows[i] = row
    return fresh_count, count


@kernel
def _find_all(
    data: U8, bounds: I64, index: Any, lengths: Any, offsets: I64, arena: U8, rows: I64
) -> None:  # pragma: no cover - compiled
    for i in range(len(bounds) - 1):
        start, length = bounds[i], bounds[i + 1] - bounds[i]
        h = hash_bytes(data, start, start + length)
        rows[i] = _find(data, start, length, h, index, lengths, offsets, arena)[0]


@kernel
def _release(
    rows: U32, index: Any, hashes: Any, lengths: Any, free_rows: U32, counters: I64
) -> None:  # pragma: no cover - compiled
    """Take rows out of the index, closing each gap (Knuth, TAOCP volume 3, 6.4, algorithm R)."""
    mask = len(index) - 1
    for i in range(len(rows)):
        row = np.int64(rows[i])
        entry = _entry(hashes[row], row)
        at = _home(entry, mask)
        while index[at] != entry:
            at = (at + 1) & mask
        gap = at
        at = (at + 1) & mask
        while index[at]:
            # an entry may fill the gap unless its home lies between the gap and where it is now
            if (at - _home(index[at], mask)) & mask >= (at - gap) & mask:
                index[gap] = index[at]
                gap = at
            at = (at + 1) & mask
        index[gap] = 0
        lengths[row] = 0
        free_rows[counters[FREE_COUNT]] = row
        counters[FREE_COUNT] += 1


@kernel
def _rebuild(index: Any, old: Any) -> None:  # pragma: no cover - compiled
    mask = len(index) - 1
    for i in range(len(old)):
        entry = old[i]
        if entry:
            at = _home(entry, mask)
            while index[at]:
                at = (at + 1) & mask
            index[at] = entry


@kernel
def _gather(rows: U32, offsets: I64, arena: U8, bounds: I64, out: U8) -> None:  # pragma: no cover
    for i in range(len(rows)):
        offset = offsets[rows[i]]
        for k in range(bounds[i + 1] - bounds[i]):
            out[bounds[i] + k] = arena[offset + k]


class IdView:
    """Rows to ids, for any process. Says nothing about whether a row still belongs to who had it at a cut."""

    def __init__(self, row_capacity: int, folder: Folder, kind: str) -> None:
        self.row_capacity = row_capacity
        self.kind = kind  # "user" or "item": names the files, and the errors
        self._offsets = folder.array(f"{kind}_id_offsets", row_capacity, np.int64)
        self._lengths = folder.array(f"{kind}_id_lengths", row_capacity, np.uint16)
        self._hashes = folder.array(f"{kind}_id_hashes", row_capacity, np.uint64)
        self._arena = folder.array(f"{kind}_id_bytes", row_capacity * NAME_BYTES_MEAN, np.uint8)

    def strings(self, rows: U32) -> Strings:
        """The id of each row; empty where a row has no owner, anything where it loses it just now."""
        rows = np.ascontiguousarray(rows, np.uint32)
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._lengths[rows], out=bounds[1:])
        data = np.empty(bounds[-1], np.uint8)
        _gather(rows, self._offsets, self._arena, bounds, data)
        return Strings(bounds, data)

    def hashes(self, rows: U32) -> U64:
        """A 64-bit hash of each row's id, the same in every process and run."""
        hashes: U64 = self._hashes[rows]
        return hashes


class IdTable(IdView):
    """Ids to rows and back: the writer.

    Always true: a row belongs to at most one id; rows in use are below ``row_count``; the index is at most
    half full.
    """

    def __init__(self, row_capacity: int, folder: Folder, kind: str) -> None:
        super().__init__(row_capacity, folder, kind)
        columns = (self._offsets, self._lengths, self._hashes)
        self._row_room = [
            (folder.room(f"{kind}_id_{name}", 0, column.nbytes), column.itemsize)
            for name, column in zip(("offsets", "lengths", "hashes"), columns, strict=True)
        ]
        self._arena_room = folder.room(f"{kind}_id_bytes", 0, self._arena.nbytes)
        self._rooms = np.zeros(row_capacity, np.uint8)
        self._links = self._arena.view(
            np.int64
        )  # a free chunk's first word: the next free chunk of its class
        self._free_chunks = np.zeros(CLASSES, np.int64)
        self._free_rows = np.zeros(row_capacity, np.uint32)
        self._counters = np.zeros(COUNTERS, np.int64)
        self._index = np.zeros(INDEX_SLOTS_MIN, np.uint64)

    def __len__(self) -> int:
        """Ids that have a row now."""
        return int(self._counters[ROW_COUNT] - self._counters[FREE_COUNT])

    def assign(self, ids: Strings) -> tuple[U32, U32]:
        """The row of each id, giving a new id a free one.

        Returns:
            (rows [N], the rows among them that have a new owner).

        Raises:
            IdTableFullError: No row or memory is left. The ids before the one that failed keep their rows.
            WindowError: The disk is full; no id got a row.
        """
        rows_max = min(int(self._counters[ROW_COUNT]) + len(ids), self.row_capacity)
        for room, size in self._row_room:
            room.provide(rows_max * size)
        arena_max = int(self._counters[ARENA_USED]) + int(ids.offsets[-1] - ids.offsets[0]) + CHUNK * len(ids)
        self._arena_room.provide(min(arena_max, len(self._arena)))
        while 2 * (len(self) + len(ids)) > len(self._index):
            old, self._index = self._index, np.zeros(2 * len(self._index), np.uint64)
            _rebuild(self._index, old)
        rows, fresh = np.empty(len(ids), np.uint32), np.empty(len(ids), np.uint32)
        wanted = np.empty(len(ids), np.uint64)
        _hash_all(ids.data, ids.offsets, wanted)
        fresh_count, done = _assign(
            ids.data, ids.offsets, wanted, self._index, self._hashes, self._offsets, self._lengths,
            self._rooms, self._arena, self._links, self._free_chunks, self._free_rows, self._counters, rows,
            fresh,
        )  # fmt: skip
        if done < len(ids):
            raise IdTableFullError(
                f"{len(self)} {self.kind} ids are live and the table holds {self.row_capacity} "
                f"({len(self._arena)} bytes of names): raise window.{self.kind}_rows"
            )
        return rows, fresh[:fresh_count]

    def find(self, ids: Strings) -> I64:
        """The row of each id, [N]; -1 for one that has none."""
        rows = np.empty(len(ids), np.int64)
        _find_all(ids.data, ids.offsets, self._index, self._lengths, self._offsets, self._arena, rows)
        return rows

    def rows_in_use(self) -> U32:
        """The rows that have an id, ascending. O(rows)."""
        return np.flatnonzero(self._lengths[: self._counters[ROW_COUNT]]).astype(np.uint32)

    def forget(self, row: int) -> None:
        """Release a row and wipe its name. A reader must have a way to tell that it read half of one."""
        self._arena[self._offsets[row] : self._offsets[row] + self._lengths[row]] = 0
        self.release(np.array([row], np.uint32))

    def release(self, rows: U32) -> None:
        """Take the rows, each in use and named once, from their ids; they may go to others from now on."""
        _release(
            np.ascontiguousarray(rows, np.uint32),
            self._index,
            self._hashes,
            self._lengths,
            self._free_rows,
            self._counters,
        )
