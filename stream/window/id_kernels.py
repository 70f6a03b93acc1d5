"""The loops of the id tables: open addressing over hashes of ids, and chunks of memory for their bytes.

    IdTable.assign, place, find, release ──► [these loops] ──► index, names, spare rows and chunks

An id has a chunk of a multiple of ``CHUNK`` bytes; the multiple is its size class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U8, U16, U32, U64
from driftgraph.stream.kernels.atomics import prefetch
from driftgraph.stream.kernels.byte_kernels import TOGETHER, equal_bytes
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.kernels.hashing import hash_bytes

CHUNK = 16  # bytes

# counters
ROW_COUNT, FREE_COUNT, ARENA_USED = 0, 1, 2
COUNTERS = 4


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
def hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    """Fill the hash of each id."""
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
def _give(
    row: int, data: U8, start: int, length: int, h: Any, at: int, index: U64, names: Names, spare: Spare
) -> bool:  # pragma: no cover - compiled
    """Write an id down as the owner of a free row, its entry at ``at``. False: the memory is full."""
    offset = _room_for(row, length, names, spare)
    if offset < 0:
        return False
    for k in range(length):
        names.bytes[offset + k] = data[start + k]
    names.offsets[row], names.lengths[row], names.hashes[row] = offset, length, h
    index[at] = _entry(h, row)
    return True


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
def assign(
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
            if not _give(row, data, start, length, h, at, index, names, spare):
                return fresh_count, i
            if counters[FREE_COUNT]:
                counters[FREE_COUNT] -= 1
            else:
                counters[ROW_COUNT] += 1
            fresh[fresh_count] = row
            fresh_count += 1
        rows[i] = row
    return fresh_count, count


@kernel
def place(
    data: U8, bounds: I64, wanted: U64, index: U64, names: Names, spare: Spare, rows: U32, fresh: U32
) -> tuple[int, int]:  # pragma: no cover - compiled
    """As ``assign``, but each id gets the row that ``rows`` says; an id that has one already keeps it."""
    fresh_count, count = 0, len(wanted)
    for i in range(count):
        start, length, h = bounds[i], bounds[i + 1] - bounds[i], wanted[i]
        row, at = _find(data, start, length, h, index, names)
        if row < 0:
            row = np.int64(rows[i])
            if names.lengths[row] or not _give(row, data, start, length, h, at, index, names, spare):
                return fresh_count, i
            spare.counters[FREE_COUNT] -= 1
            fresh[fresh_count] = row
            fresh_count += 1
        elif row != rows[i]:
            return fresh_count, i
    return fresh_count, count


@kernel
def find_all(
    data: U8, bounds: I64, index: U64, names: Names, rows: I64
) -> None:  # pragma: no cover - compiled
    """Fill the row of each id, -1 for one that has none."""
    for i in range(len(bounds) - 1):
        start, length = bounds[i], bounds[i + 1] - bounds[i]
        h = hash_bytes(data, start, start + length)
        rows[i] = _find(data, start, length, h, index, names)[0]


@kernel
def release(rows: U32, index: U64, names: Names) -> None:  # pragma: no cover - compiled
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
def rebuild(index: Any, old: Any) -> None:  # pragma: no cover - compiled
    """Fill a larger index with the entries of the old one."""
    mask = len(index) - 1
    for i in range(len(old)):
        entry = old[i]
        if entry:
            at = _home(entry, mask)
            while index[at]:
                at = (at + 1) & mask
            index[at] = entry


@kernel
def gather(rows: U32, names: Names, bounds: I64, out: U8) -> None:  # pragma: no cover - compiled
    """Copy the id of each row to its bounds in ``out``."""
    for i in range(len(rows)):
        offset = names.offsets[rows[i]]
        for k in range(bounds[i + 1] - bounds[i]):
            out[bounds[i] + k] = names.bytes[offset + k]
