"""External ids: a user or item is a string outside and a dense row inside; this maps one to the other.

    EventBatch ──► [IdTable.assign] ──► rows ──► window           rows ──► [IdView.strings] ──► Redis

The map is exact: two ids share a row only if their bytes are equal, and the hash only says where to look. A
row and the memory of its id are reused once nothing in the window refers to the row. So the window bounds
both, not the age of the process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U8, U16, U32, U64, Mask
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import ID_BYTES_MAX, Strings
from driftgraph.stream.kernels.atomics import prefetch
from driftgraph.stream.kernels.byte_kernels import TOGETHER, equal_bytes
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.kernels.hashing import hash_bytes
from driftgraph.stream.window.shared_files import Folder

CHUNK = 16  # bytes: an id has a chunk of a multiple of it, and the multiple is the size class
CLASSES = ID_BYTES_MAX // CHUNK + 1
NAME_BYTES_MEAN = 64  # arena bytes provided a row; ids of 36 bytes (a UUID) take 48
INDEX_SLOTS_MIN = 4  # grows with the first batches

# counters
ROW_COUNT, FREE_COUNT, ARENA_USED = 0, 1, 2
COUNTERS = 4


class IdTableFullError(DriftgraphError):
    """More ids are live at once than the table has rows or bytes for."""


class Names(NamedTuple):
    """The id of each row: its bytes, where they begin, how many they are, and their hash."""

    bytes: U8
    offsets: I64
    lengths: U16
    hashes: U64


class Spare(NamedTuple):
    """The free rows and the free chunks of bytes that new ids get."""

    rooms: U8  # of each row: the size class of its chunk
    links: I64  # the bytes as words; the first of a free chunk names the next free one of its class
    free_chunks: I64  # of each size class: the offset of the first free one + 1, or 0
    free_rows: U32  # ascending; a new id gets the last one
    counters: I64


@kernel
def _hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    for i in range(len(hashes)):
        hashes[i] = hash_bytes(data, bounds[i], bounds[i + 1])


@kernel
def _entry(h: Any, row: int) -> Any:  # pragma: no cover - compiled
    """An index entry: the upper half of the hash, which also gives the home of the entry, and row + 1."""
    return (h & np.uint64(0xFFFFFFFF00000000)) | np.uint64(row + 1)


@kernel
def _home(entry: Any, mask: int) -> Any:  # pragma: no cover - compiled
    return np.int64(entry >> np.uint64(32)) & mask


@kernel
def _room_for(row: int, length: int, names: Names, spare: Spare) -> Any:  # pragma: no cover - compiled
    """The offset for a new id: of the row's own chunk if it is large enough, of a free one, or of new memory.

    -1 if the memory is full.
    """
    size = (length + CHUNK - 1) // CHUNK
    had = spare.rooms[row]
    if had >= size:
        return names.offsets[row]
    if had:
        spare.links[names.offsets[row] // 8] = spare.free_chunks[had]
        spare.free_chunks[had] = names.offsets[row] + 1
        spare.rooms[row] = 0
    if spare.free_chunks[size]:
        offset = spare.free_chunks[size] - 1
        spare.free_chunks[size] = spare.links[offset // 8]
    else:
        offset = spare.counters[ARENA_USED]
        if offset + size * CHUNK > len(spare.links) * 8:
            return -1
        spare.counters[ARENA_USED] += size * CHUNK
    spare.rooms[row] = size
    return offset


@kernel
def _find(
    data: U8, start: int, length: int, h: Any, index: U64, names: Names
) -> Any:  # pragma: no cover - compiled
    """(The row of an id, or -1; the place of its entry in the index, or the one where it would go.)"""
    mask = len(index) - 1
    at = _home(_entry(h, 0), mask)
    while index[at]:
        entry = index[at]
        row = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
        if (
            _entry(h, row) == entry
            and names.lengths[row] == length
            and equal_bytes(names.bytes, names.offsets[row], data, start, length)
        ):
            return row, at
        at = (at + 1) & mask
    return np.int64(-1), at


@kernel
def _ask_for(
    wanted: U64, first: int, stop: int, index: U64, names: Names
) -> None:  # pragma: no cover - compiled
    """Prefetch the memory that ``_find`` reads for the ids ``first`` to ``stop``."""
    mask = len(index) - 1
    for i in range(first, stop):
        prefetch(index, _home(wanted[i], mask))
    for i in range(first, stop):
        row = np.int64(index[_home(wanted[i], mask)] & np.uint64(0xFFFFFFFF)) - 1
        if row >= 0:
            prefetch(names.lengths, row)
            prefetch(names.offsets, row)
    for i in range(first, stop):
        row = np.int64(index[_home(wanted[i], mask)] & np.uint64(0xFFFFFFFF)) - 1
        if row >= 0:
            prefetch(names.bytes, names.offsets[row])


@kernel
def _assign(
    data: U8, bounds: I64, wanted: U64, index: U64, names: Names, spare: Spare, rows: U32, fresh: U32
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Fill ``rows``, and ``fresh`` with those that are new.

    Returns (the number of new rows, the number of ids done, which is less than N if the table is full).
    """
    counters, free_rows = spare.counters, spare.free_rows
    fresh_count, count = 0, len(wanted)
    for i in range(count):
        if i % TOGETHER == 0:
            _ask_for(wanted, i, min(i + TOGETHER, count), index, names)
        start, length, h = bounds[i], bounds[i + 1] - bounds[i], wanted[i]
        row, at = _find(data, start, length, h, index, names)
        if row < 0:
            if counters[FREE_COUNT]:
                row = np.int64(free_rows[counters[FREE_COUNT] - 1])
            elif counters[ROW_COUNT] < len(names.offsets):
                row = counters[ROW_COUNT]
            else:
                return fresh_count, i
            offset = _room_for(row, length, names, spare)
            if offset < 0:
                return fresh_count, i
            if counters[FREE_COUNT]:
                counters[FREE_COUNT] -= 1
            else:
                counters[ROW_COUNT] += 1
            for k in range(length):
                names.bytes[offset + k] = data[start + k]
            names.offsets[row], names.lengths[row], names.hashes[row] = offset, length, h
            index[at] = _entry(h, row)
            fresh[fresh_count] = row
            fresh_count += 1
        rows[i] = row
    return fresh_count, count


@kernel
def _find_all(
    data: U8, bounds: I64, index: U64, names: Names, rows: I64
) -> None:  # pragma: no cover - compiled
    for i in range(len(bounds) - 1):
        start, length = bounds[i], bounds[i + 1] - bounds[i]
        h = hash_bytes(data, start, start + length)
        rows[i] = _find(data, start, length, h, index, names)[0]


@kernel
def _release(rows: U32, index: U64, names: Names) -> None:  # pragma: no cover - compiled
    """Take rows out of the index, closing each gap (Knuth, TAOCP volume 3, 6.4, algorithm R)."""
    mask = len(index) - 1
    for i in range(len(rows)):
        row = np.int64(rows[i])
        entry = _entry(names.hashes[row], row)
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
        names.lengths[row] = 0


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
def _gather(rows: U32, names: Names, bounds: I64, out: U8) -> None:  # pragma: no cover - compiled
    for i in range(len(rows)):
        offset = names.offsets[rows[i]]
        for k in range(bounds[i + 1] - bounds[i]):
            out[bounds[i] + k] = names.bytes[offset + k]


class IdView:
    """Rows to ids, for any process. It does not know whether a row still has the owner of some cut."""

    def __init__(self, row_capacity: int, folder: Folder, kind: str) -> None:
        self.row_capacity = row_capacity
        self.kind = kind  # "user" or "item", for the names of the files and for errors
        self._names = Names(
            folder.array(f"{kind}_id_bytes", row_capacity * NAME_BYTES_MEAN, np.uint8),
            folder.array(f"{kind}_id_offsets", row_capacity, np.int64),
            folder.array(f"{kind}_id_lengths", row_capacity, np.uint16),
            folder.array(f"{kind}_id_hashes", row_capacity, np.uint64),
        )

    def strings(self, rows: U32) -> Strings:
        """The id of each row. It is empty for a row without an owner, and torn for one that loses it now."""
        rows = np.ascontiguousarray(rows, np.uint32)
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._names.lengths[rows], out=bounds[1:])
        data = np.empty(bounds[-1], np.uint8)
        _gather(rows, self._names, bounds, data)
        return Strings(bounds, data)

    def hashes(self, rows: U32) -> U64:
        """A 64-bit hash of each row's id, the same in every process and run."""
        hashes: U64 = self._names.hashes[rows]
        return hashes


class IdTable(IdView):
    """Ids to rows and back, for the writer.

    Always true: a row belongs to at most one id; rows in use are below ``row_count``; the index is at most
    half full.
    """

    def __init__(self, row_capacity: int, folder: Folder, kind: str) -> None:
        super().__init__(row_capacity, folder, kind)
        names = self._names
        self._row_room = [
            (folder.room(f"{kind}_id_{name}", 0, column.nbytes), column.itemsize)
            for name, column in (
                ("offsets", names.offsets), ("lengths", names.lengths), ("hashes", names.hashes)
            )
        ]  # fmt: skip
        self._byte_room = folder.room(f"{kind}_id_bytes", 0, names.bytes.nbytes)
        self._spare = Spare(
            rooms=np.zeros(row_capacity, np.uint8),
            links=names.bytes.view(np.int64),
            free_chunks=np.zeros(CLASSES, np.int64),
            free_rows=np.zeros(row_capacity, np.uint32),
            counters=np.zeros(COUNTERS, np.int64),
        )
        self._counters = self._spare.counters
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
        self._byte_room.provide(min(arena_max, len(self._names.bytes)))
        while 2 * (len(self) + len(ids)) > len(self._index):
            old, self._index = self._index, np.zeros(2 * len(self._index), np.uint64)
            _rebuild(self._index, old)
        rows, fresh = np.empty(len(ids), np.uint32), np.empty(len(ids), np.uint32)
        wanted = np.empty(len(ids), np.uint64)
        _hash_all(ids.data, ids.offsets, wanted)
        fresh_count, done = _assign(
            ids.data, ids.offsets, wanted, self._index, self._names, self._spare, rows, fresh
        )
        if done < len(ids):
            raise IdTableFullError(
                f"{len(self)} {self.kind} ids are live and the table holds {self.row_capacity} "
                f"({len(self._names.bytes)} bytes of names): raise window.{self.kind}_rows"
            )
        return rows, fresh[:fresh_count]

    def find(self, ids: Strings) -> I64:
        """The row of each id, [N]; -1 for one that has none."""
        rows = np.empty(len(ids), np.int64)
        _find_all(ids.data, ids.offsets, self._index, self._names, rows)
        return rows

    def rows_in_use(self) -> U32:
        """The rows that have an id, ascending. O(rows)."""
        return np.flatnonzero(self._names.lengths[: self._counters[ROW_COUNT]]).astype(np.uint32)

    def is_used(self, rows: U32) -> Mask:
        """Whether each row has an id now."""
        used: Mask = self._names.lengths[rows] > 0
        return used

    def forget(self, row: int) -> None:
        """Release a row and wipe its id. A reader must be able to tell that it read half of an id."""
        start = self._names.offsets[row]
        self._names.bytes[start : start + self._names.lengths[row]] = 0
        self.release(np.array([row], np.uint32))

    def release(self, rows: U32) -> None:
        """Take the rows from their ids, for other ids to get them. Each row is in use and occurs once.

        Free rows are kept sorted, so that which row a new id gets depends on which rows are free, and not on
        the order in which they came free. O(free rows).
        """
        rows = np.sort(rows).astype(np.uint32)
        _release(rows, self._index, self._names)
        count = int(self._counters[FREE_COUNT])
        free = self._spare.free_rows[:count]
        self._spare.free_rows[: count + len(rows)] = np.insert(free, np.searchsorted(free, rows), rows)
        self._counters[FREE_COUNT] += len(rows)
