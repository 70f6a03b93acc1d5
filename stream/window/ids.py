"""External ids: a user or item is a string outside and a dense row inside; this maps one to the other.

    EventBatch ──► [IdTable.assign] ──► rows ──► window           rows ──► [IdView.strings] ──► Redis

The map is exact: two ids share a row only if their bytes are equal, and the hash only says where to look. A
row and the memory of its id are reused once nothing in the window refers to the row. So the window bounds
both, not the age of the process.
"""

from __future__ import annotations

import numpy as np

from driftgraph.stream.arrays import I64, U32, U64, Mask
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import ID_BYTES_MAX, Strings
from driftgraph.stream.window.id_kernels import (
    ARENA_USED,
    CHUNK,
    COUNTERS,
    FREE_COUNT,
    ROW_COUNT,
    Names,
    Spare,
    assign,
    find_all,
    gather,
    hash_all,
    place,
    rebuild,
    release,
)
from driftgraph.stream.window.shared_files import Folder

CLASSES = ID_BYTES_MAX // CHUNK + 1
NAME_BYTES_MEAN = 64  # arena bytes provided a row; ids of 36 bytes (a UUID) take 48
INDEX_SLOTS_MIN = 4  # grows with the first batches


class IdTableFullError(DriftgraphError):
    """More ids are live at once than the table has rows or bytes for."""


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
        gather(rows, self._names, bounds, data)
        return Strings(bounds, data)

    def candidates(self, ids: Strings, rows: int) -> U32:
        """Those of the first ``rows`` rows that may have one of these ids, by their hashes. O(rows)."""
        wanted = np.empty(len(ids), np.uint64)
        hash_all(ids.data, ids.offsets, wanted)
        return np.flatnonzero(np.isin(self._names.hashes[:rows], wanted)).astype(np.uint32)

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
        rows, fresh = np.empty(len(ids), np.uint32), np.empty(len(ids), np.uint32)
        wanted = self._ready_for(ids, int(self._counters[ROW_COUNT]) + len(ids))
        fresh_count, done = assign(
            ids.data, ids.offsets, wanted, self._index, self._names, self._spare, rows, fresh
        )
        if done < len(ids):
            raise self._full()
        return rows, fresh[:fresh_count]

    def begin(self, row_count: int) -> None:
        """Let an empty table have had so many rows before, all of them free: ``place`` gives them out."""
        if len(self) or not 0 <= row_count <= self.row_capacity:
            raise ValueError(f"only an empty table of {self.row_capacity} rows can begin with {row_count}")
        self._counters[ROW_COUNT] = self._counters[FREE_COUNT] = row_count
        self._spare.free_rows[:row_count] = np.arange(row_count)

    def place(self, ids: Strings, rows: U32) -> U32:
        """Give each id the row that it had in another table; the result are those that got an owner.

        The caller ends with ``settle`` before anything else is asked for.

        Raises:
            ValueError: A row has another owner, or an id another row, or there is no such row.
            IdTableFullError: There is no memory for the ids.
        """
        row_count = int(self._counters[ROW_COUNT])
        if len(rows) and int(rows.max()) >= row_count:
            raise ValueError(f"{self.kind} row {int(rows.max())} is not below {row_count}")
        wanted, fresh = self._ready_for(ids, row_count), np.empty(len(ids), np.uint32)
        fresh_count, done = place(
            ids.data, ids.offsets, wanted, self._index, self._names, self._spare, rows, fresh
        )
        if done < len(ids):
            if self.find(ids.slice(done, done + 1))[0] >= 0 or self.is_used(rows[done : done + 1])[0]:
                raise ValueError(f"{self.kind} row {int(rows[done])} is of two ids, or an id has two rows")
            raise self._full()
        return fresh[:fresh_count]

    def settle(self) -> None:
        """End ``place``: rows that nobody got are free."""
        free = np.flatnonzero(self._names.lengths[: self._counters[ROW_COUNT]] == 0)
        self._spare.free_rows[: len(free)] = free
        self._counters[FREE_COUNT] = len(free)

    @property
    def row_count(self) -> int:
        """Rows that have ever had an owner are below it."""
        return int(self._counters[ROW_COUNT])

    def _ready_for(self, ids: Strings, rows_max: int) -> U64:
        """Make room for ids in rows below ``rows_max``; return their hashes."""
        for room, size in self._row_room:
            room.provide(min(rows_max, self.row_capacity) * size)
        arena_max = int(self._counters[ARENA_USED]) + int(ids.offsets[-1] - ids.offsets[0]) + CHUNK * len(ids)
        self._byte_room.provide(min(arena_max, len(self._names.bytes)))
        while 2 * (len(self) + len(ids)) > len(self._index):
            old, self._index = self._index, np.zeros(2 * len(self._index), np.uint64)
            rebuild(self._index, old)
        wanted = np.empty(len(ids), np.uint64)
        hash_all(ids.data, ids.offsets, wanted)
        return wanted

    def _full(self) -> IdTableFullError:
        return IdTableFullError(
            f"{len(self)} {self.kind} ids are live and the table holds {self.row_capacity} "
            f"({len(self._names.bytes)} bytes of names): raise window.{self.kind}_rows"
        )

    def find(self, ids: Strings) -> I64:
        """The row of each id, [N]; -1 for one that has none."""
        rows = np.empty(len(ids), np.int64)
        find_all(ids.data, ids.offsets, self._index, self._names, rows)
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
        release(rows, self._index, self._names)
        count = int(self._counters[FREE_COUNT])
        free = self._spare.free_rows[:count]
        self._spare.free_rows[: count + len(rows)] = np.insert(free, np.searchsorted(free, rows), rows)
        self._counters[FREE_COUNT] += len(rows)
