"""The table of remembered event ids: kernels that look for ids, put them in, and forget whole sets of them.

    Deduplicator ──► [judge, insert, deal_out, sweep] ──► table

Layout of the table: a bucket is a cache line of eight words, a word an id. Each id has two buckets and is in
one of them:
  1. its first region, one of ``regions``, by one hash; its second, the first one xor some bits of the tag;
  2. in both regions, the bucket that the highest bits of the tag name, as many as the table was doubled;
  3. the word: 59 bits of another hash, the tag, and 5 bits for the set that it came with; 0 is free.
So a doubling deals each bucket out to two by the next bit of the tag, and a set is forgotten by its number.
Where both buckets are full, another id moves on to its other one (Pagh, Rodler, "Cuckoo hashing", 2001). Two
different ids are taken for one if their tags agree and their regions meet: 77 bits. At a billion remembered
ids that costs one event in 10**14.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from driftgraph.stream.events import I64, U8
from driftgraph.stream.kernels.atomics import load, prefetch
from driftgraph.stream.kernels.byte_kernels import TOGETHER, hash_bytes, other_hash_bytes
from driftgraph.stream.kernels.compile import helper, kernel

U64 = npt.NDArray[np.uint64]

REGIONS_MAX: Final = 1 << 19
WAYS, WAY_BITS = 8, 3  # ids of a bucket
SET_BITS: Final = 5
TAG_BITS: Final = 64 - SET_BITS
SETS_MAX: Final = (1 << SET_BITS) - 1  # at one time, so that each has a number of its own; 0 is free
LOAD_MAX: Final = 0.9  # of the table: above it, finding a place takes many moves
MOVES_MAX: Final = 500  # then an id is forgotten; at this load that has never been seen

COUNT, IN_SET, STARTED_MS, NEWEST_MS, ROOM, TURN, DISPLACED = range(7)  # of the state


def empty(words: int) -> U64:
    """Zeros that begin at a cache line.

    They are written now, for which the system gives large pages: with small ones each id costs a miss more.
    """
    room = np.empty(words + WAYS, np.uint64)
    start = -(room.ctypes.data // 8) % WAYS
    table: U64 = room[start : start + words]
    table.fill(0)
    return table


def table_bytes(count: int) -> int:
    """What a table for so many ids takes."""
    words = REGIONS_MAX * WAYS
    while LOAD_MAX * words < count:
        words *= 2
    return 8 * words


@kernel
def hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    """[2 N] the pair of each id."""
    for i in range(len(bounds) - 1):
        hashes[2 * i] = hash_bytes(data, bounds[i], bounds[i + 1])
        hashes[2 * i + 1] = other_hash_bytes(data, bounds[i], bounds[i + 1])


@helper
def _tag(high: Any) -> Any:
    return (high >> np.uint64(SET_BITS)) | np.uint64(1)  # so that no word with a tag is 0


@helper
def _other(region: Any, tag: Any, regions: int) -> Any:
    """The other region of an id, of which this is one."""
    step = (tag * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return region ^ ((step & np.uint64(regions - 1)) | np.uint64(1))


@helper
def _word(region: Any, tag: Any, doublings: int) -> Any:
    """Where the bucket begins."""
    inside = tag >> np.uint64(TAG_BITS - doublings)
    return np.int64(((region << np.uint64(doublings)) | inside) << np.uint64(WAY_BITS))


@helper
def _free(table: Any, bucket: int) -> Any:
    """A free place of a bucket, or -1."""
    found = -1
    for k in range(bucket, bucket + WAYS):
        if load(table, k) == 0:
            found = k
    return found


@helper
def _put(table: Any, regions: int, doublings: int, region: Any, tag: Any, number: Any, state: Any) -> None:
    """Put an id that is not there into one of its two buckets, moving others if both are full."""
    entry = (tag << np.uint64(SET_BITS)) | number
    here = region
    for _ in range(MOVES_MAX):
        first = _word(here, tag, doublings)
        place = _free(table, first)
        if place < 0:
            there = _other(here, tag, regions)
            place = _free(table, _word(there, tag, doublings))
        if place >= 0:
            table[place] = entry
            state[COUNT] += 1
            return
        # both are full: take the place of another one, which goes on to its other bucket
        state[TURN] += 1
        victim = first + (state[TURN] * 5 & (WAYS - 1))
        entry, table[victim] = table[victim], entry
        tag = entry >> np.uint64(SET_BITS)
        here = _other(here, tag, regions)
    state[DISPLACED] += 1


@kernel
def judge(
    bounds: I64, hashes: U64, time_ms: I64, table: Any, regions: int, doublings: int, number: int, log: Any,
    state: I64, set_ms: int, set_max: int, count_max: int, start: int, repeated: Any,
) -> int:  # fmt: skip  # pragma: no cover - compiled
    """Judge events from ``start`` on; return where it stopped because there has to be room first.

    New ids go into the set ``number``, and their pairs into ``log``, from its end on.
    """
    mask = np.uint64(regions - 1)
    for i in range(start, len(time_ms)):
        if (i - start) % TOGETHER == 0:
            for soon in range(i, min(i + TOGETHER, len(time_ms))):
                tag = _tag(hashes[2 * soon + 1])
                region = hashes[2 * soon] & mask
                prefetch(table, _word(region, tag, doublings))
                prefetch(table, _word(_other(region, tag, regions), tag, doublings))
        if bounds[i] == bounds[i + 1]:
            continue
        state[NEWEST_MS] = max(state[NEWEST_MS], time_ms[i])
        if state[IN_SET] == 0:
            state[STARTED_MS] = state[NEWEST_MS]
        elif state[IN_SET] >= set_max or state[NEWEST_MS] - state[STARTED_MS] >= set_ms:
            return i
        if state[ROOM] == 0 or state[COUNT] >= count_max:
            return i
        tag = _tag(hashes[2 * i + 1])
        region = hashes[2 * i] & mask
        first = _word(region, tag, doublings)
        second = _word(_other(region, tag, regions), tag, doublings)
        found, free, more_free = False, 0, 0
        for k in range(WAYS):
            one, other = load(table, first + k), load(table, second + k)
            found |= (one >> np.uint64(SET_BITS) == tag) | (other >> np.uint64(SET_BITS) == tag)
            free += one == 0
            more_free += other == 0
        if found:
            repeated[i] = True
            continue
        if more_free > free:  # the emptier one, so that few are full
            region = _other(region, tag, regions)
        _put(table, regions, doublings, region, tag, np.uint64(number), state)
        if len(log):
            at = len(log) - 2 * state[ROOM]
            log[at], log[at + 1] = hashes[2 * i], hashes[2 * i + 1]
        state[ROOM] -= 1
        state[IN_SET] += 1
    return len(time_ms)


@kernel
def insert(pairs: Any, table: Any, regions: int, doublings: int, number: int, state: Any) -> None:
    """Put in different ids that are not there."""  # pragma: no cover - compiled
    mask = np.uint64(regions - 1)
    for i in range(len(pairs) // 2):
        _put(table, regions, doublings, pairs[2 * i] & mask, _tag(pairs[2 * i + 1]), np.uint64(number), state)


@kernel
def deal_out(table: Any, wider: Any, doublings: int) -> None:  # pragma: no cover - compiled
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
def sweep(table: Any, gone: Any) -> int:  # pragma: no cover - compiled
    """Free the places of the sets whose numbers are marked in ``gone``; return how many."""
    count = 0
    for k in range(len(table)):
        if gone[table[k] & np.uint64((1 << SET_BITS) - 1)]:
            table[k] = 0
            count += 1
    return count
