"""The table of remembered event ids: kernels that look for ids, put them in, and forget whole sets of them.

    Deduplicator ──► [judge, insert, deal_out, sweep] ──► table

Layout of the table: a bucket is a cache line of eight words, and a word holds one id. Each id has two buckets
and is in one of them:
  1. One hash gives its first region, one of ``regions``. The second region is the first one xor some bits of
     the tag.
  2. The highest bits of the tag give the bucket in both regions; there is one bit for each doubling of the
     table.
  3. The word is the tag, which is 59 bits of another hash, and 5 bits for the set of the id; 0 is free.
So a doubling deals each bucket out to two by the next bit of the tag, and the table forgets a set by its
number. If both buckets are full, another id moves on to its other one (Pagh, Rodler, "Cuckoo hashing", 2001).
Two different ids count as one if their tags agree and their regions meet, which are 77 bits. At a billion
remembered ids that costs one event in 10**14.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I64, U8, U64, Mask
from driftgraph.stream.kernels.atomics import load, prefetch
from driftgraph.stream.kernels.byte_kernels import TOGETHER
from driftgraph.stream.kernels.compile import helper, kernel
from driftgraph.stream.kernels.hashing import GOLDEN, hash_bytes, other_hash_bytes

REGIONS_MAX: Final = 1 << 19
WAYS, WAY_BITS = 8, 3  # ids of a bucket
SET_BITS: Final = 5
TAG_BITS: Final = 64 - SET_BITS
SETS_MAX: Final = (1 << SET_BITS) - 1  # sets at one time, so that each has its own number; 0 is a free word
LOAD_MAX: Final = 0.9  # of the table: above it, an id needs many moves to find a place
MOVES_MAX: Final = 500  # then an id is forgotten; that has never been seen at this load

COUNT, IN_SET, STARTED_MS, NEWEST_MS, ROOM, TURN, DISPLACED = range(7)  # of the state


class Table(NamedTuple):
    """The buckets, and how the table is divided: the number of regions, and how often it was doubled."""

    words: U64
    regions: int
    doublings: int


class Events(NamedTuple):
    """N events: the bounds of their ids, the pair of each, their times, and which of them repeat one."""

    bounds: I64
    hashes: U64
    time_ms: I64
    repeated: Mask


class Limits(NamedTuple):
    """How old and how large a set may become, and how many ids the table may hold."""

    set_ms: int
    set_max: int
    count_max: int


def empty(words: int) -> U64:
    """Zeros that begin at a cache line.

    They are written now, so that the system gives large pages: with small pages each id costs one more miss.
    """
    room = np.empty(words + WAYS, np.uint64)
    start = -(room.ctypes.data // 8) % WAYS
    table: U64 = room[start : start + words]
    table.fill(0)
    return table


def table_bytes(count: int) -> int:
    """The size of a table for ``count`` ids."""
    words = REGIONS_MAX * WAYS
    while LOAD_MAX * words < count:
        words *= 2
    return 8 * words


@kernel
def hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    """Fill ``hashes`` [2 N] with the pair of each id."""
    for i in range(len(bounds) - 1):
        hashes[2 * i] = hash_bytes(data, bounds[i], bounds[i + 1])
        hashes[2 * i + 1] = other_hash_bytes(data, bounds[i], bounds[i + 1])


@helper
def _tag(high: Any) -> Any:
    return (high >> np.uint64(SET_BITS)) | np.uint64(1)  # so that no word with a tag is 0


@helper
def _other(table: Table, region: Any, tag: Any) -> Any:
    """The other one of the two regions of an id."""
    step = (tag * GOLDEN) >> np.uint64(40)
    return region ^ ((step & np.uint64(table.regions - 1)) | np.uint64(1))


@helper
def _bucket(table: Table, region: Any, tag: Any) -> Any:
    """The first word of the bucket of an id in one of its regions."""
    inside = tag >> np.uint64(TAG_BITS - table.doublings)
    return np.int64(((region << np.uint64(table.doublings)) | inside) << np.uint64(WAY_BITS))


@helper
def _free(table: Table, bucket: int) -> Any:
    """A free place of a bucket, or -1."""
    found = -1
    for k in range(bucket, bucket + WAYS):
        if load(table.words, k) == 0:
            found = k
    return found


@helper
def _put(table: Table, region: Any, tag: Any, number: Any, state: I64) -> None:
    """Put an id that is not there into one of its two buckets. Other ids move on if both are full."""
    words = table.words
    entry = (tag << np.uint64(SET_BITS)) | number
    here = region
    for _ in range(MOVES_MAX):
        first = _bucket(table, here, tag)
        place = _free(table, first)
        if place < 0:
            there = _other(table, here, tag)
            place = _free(table, _bucket(table, there, tag))
        if place >= 0:
            words[place] = entry
            state[COUNT] += 1
            return
        # both are full: take the place of another one, which goes on to its other bucket
        state[TURN] += 1
        victim = first + (state[TURN] * 5 & (WAYS - 1))
        entry, words[victim] = words[victim], entry
        tag = entry >> np.uint64(SET_BITS)
        here = _other(table, here, tag)
    state[DISPLACED] += 1


@kernel
def judge(
    events: Events, start: int, table: Table, number: int, log: U64, limits: Limits, state: I64
) -> int:  # pragma: no cover - compiled
    """Judge events from ``start`` on; return the index at which the caller must make room first, or N.

    A new id goes into the set ``number``. Its pair goes into ``log``, where ``state[ROOM]`` pairs are free.
    """
    bounds, hashes, time_ms, repeated = events
    words = table.words
    mask = np.uint64(table.regions - 1)
    for i in range(start, len(time_ms)):
        if (i - start) % TOGETHER == 0:
            for soon in range(i, min(i + TOGETHER, len(time_ms))):
                tag = _tag(hashes[2 * soon + 1])
                region = hashes[2 * soon] & mask
                prefetch(words, _bucket(table, region, tag))
                prefetch(words, _bucket(table, _other(table, region, tag), tag))
        if bounds[i] == bounds[i + 1]:
            continue
        state[NEWEST_MS] = max(state[NEWEST_MS], time_ms[i])
        if state[IN_SET] == 0:
            state[STARTED_MS] = state[NEWEST_MS]
        elif state[IN_SET] >= limits.set_max or state[NEWEST_MS] - state[STARTED_MS] >= limits.set_ms:
            return i
        if state[ROOM] == 0 or state[COUNT] >= limits.count_max:
            return i
        tag = _tag(hashes[2 * i + 1])
        region = hashes[2 * i] & mask
        first = _bucket(table, region, tag)
        second = _bucket(table, _other(table, region, tag), tag)
        found, free, more_free = False, 0, 0
        for k in range(WAYS):
            one, other = load(words, first + k), load(words, second + k)
            found |= (one >> np.uint64(SET_BITS) == tag) | (other >> np.uint64(SET_BITS) == tag)
            free += one == 0
            more_free += other == 0
        if found:
            repeated[i] = True
            continue
        if more_free > free:  # the emptier one, so that few are full
            region = _other(table, region, tag)
        _put(table, region, tag, np.uint64(number), state)
        if len(log):
            at = len(log) - 2 * state[ROOM]
            log[at], log[at + 1] = hashes[2 * i], hashes[2 * i + 1]
        state[ROOM] -= 1
        state[IN_SET] += 1
    return len(time_ms)


@kernel
def insert(pairs: U64, table: Table, number: int, state: I64) -> None:  # pragma: no cover - compiled
    """Put in ids that are not there and differ from each other."""
    mask = np.uint64(table.regions - 1)
    for i in range(len(pairs) // 2):
        _put(table, pairs[2 * i] & mask, _tag(pairs[2 * i + 1]), np.uint64(number), state)


@kernel
def deal_out(table: U64, wider: U64, doublings: int) -> None:  # pragma: no cover - compiled
    """Fill an empty table of two buckets for each one."""
    bit = np.uint64(SET_BITS + TAG_BITS - doublings - 1)
    for bucket in range(len(table) // WAYS):
        ends = (2 * bucket * WAYS, 2 * bucket * WAYS + WAYS)
        low, high = ends
        for k in range(bucket * WAYS, bucket * WAYS + WAYS):
            entry = table[k]
            if entry == 0:
                continue
            if (entry >> bit) & np.uint64(1):
                wider[high] = entry
                high += 1
            else:
                wider[low] = entry
                low += 1


@kernel
def sweep(table: U64, gone: Mask) -> int:  # pragma: no cover - compiled
    """Free the places of the sets whose numbers are marked in ``gone``; return how many."""
    count = 0
    for k in range(len(table)):
        if gone[table[k] & np.uint64((1 << SET_BITS) - 1)]:
            table[k] = 0
            count += 1
    return count
