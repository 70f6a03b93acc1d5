"""Repeats: an event whose ``event_id`` was seen within a horizon is not applied again.

Events without an id are never merged: two clicks are two clicks. Memory is two sets of fixed size: ids go
into the current one, and when that is a horizon old or full it becomes the previous one, whose ids are
forgotten with it. So an id is remembered for one to two horizons, or for at least ``capacity`` newer ids.
Ids are compared by 128 bits of two hashes: at a billion remembered ids the chance that two different ones
look equal is 1 in 10**21.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from driftgraph.stream.atomics import prefetch
from driftgraph.stream.compile import kernel
from driftgraph.stream.events import I64, U8, U32, Strings
from driftgraph.stream.words import TOGETHER, hash_bytes, other_hash_bytes

U64 = npt.NDArray[np.uint64]

CAPACITY = 1 << 20  # ids of one set; two sets of 32 MB, touched as they fill
HORIZON_MS = 86_400_000  # a day: longer than any producer's retry

COUNT, STARTED_MS = 0, 1  # of the current set


@kernel
def _hash_all(data: U8, bounds: I64, hashes: U64) -> None:  # pragma: no cover - compiled
    """[2 N] the pair of each id."""
    for i in range(len(bounds) - 1):
        hashes[2 * i] = hash_bytes(data, bounds[i], bounds[i + 1])
        high = other_hash_bytes(data, bounds[i], bounds[i + 1])
        hashes[2 * i + 1] = high | np.uint64(1)  # never the empty pair


@kernel
def _find(keys: Any, low: Any, high: Any) -> Any:  # pragma: no cover - compiled
    """Where the pair is, or the empty place where it would go as -(place + 1)."""
    slots = len(keys) // 2
    at = np.int64(low & np.uint64(slots - 1))
    while keys[2 * at] or keys[2 * at + 1]:
        if keys[2 * at] == low and keys[2 * at + 1] == high:
            return at
        at = (at + 1) & (slots - 1)
    return -(at + 1)


@kernel
def _judge(
    bounds: I64, hashes: U64, time_ms: I64, current: Any, order: Any, previous: Any, state: I64,
    capacity: int, horizon_ms: int, start: int, repeated: Any,
) -> int:  # fmt: skip  # pragma: no cover - compiled
    """Judge events from ``start`` on; return where it stopped because the current set has to be replaced."""
    mask = np.uint64(len(current) // 2 - 1)  # the previous one is as large
    for i in range(start, len(time_ms)):
        if (i - start) % TOGETHER == 0:
            for soon in range(i, min(i + TOGETHER, len(time_ms))):
                slot = np.int64(hashes[2 * soon] & mask)
                prefetch(current, 2 * slot)
                prefetch(previous, 2 * slot)
        if bounds[i] == bounds[i + 1]:
            continue
        if state[COUNT] == 0:
            state[STARTED_MS] = time_ms[i]
        elif state[COUNT] >= capacity or time_ms[i] - state[STARTED_MS] >= horizon_ms:
            return i
        low, high = hashes[2 * i], hashes[2 * i + 1]
        place = _find(current, low, high)
        if place >= 0 or _find(previous, low, high) >= 0:
            repeated[i] = True
            continue
        current[2 * (-place - 1)] = low
        current[2 * (-place - 1) + 1] = high
        order[state[COUNT]] = -place - 1
        state[COUNT] += 1
    return len(time_ms)


@kernel
def _insert(pairs: Any, count: int, table: Any, order: Any) -> None:  # pragma: no cover - compiled
    """Fill an empty set with different pairs."""
    for i in range(count):
        place = -_find(table, pairs[2 * i], pairs[2 * i + 1]) - 1
        table[2 * place], table[2 * place + 1] = pairs[2 * i], pairs[2 * i + 1]
        order[i] = place


@dataclass(frozen=True, slots=True)
class IdSet:
    """The first ``count`` ids of a set, which stay as they are while it takes more."""

    number: int  # of the set since the beginning of the stream: 0, 1, …
    started_ms: int  # event time of its first id
    count: int
    table: U64  # open addressing: (low, high) for each slot; (0, 0) is empty
    order: U32  # the slot of each id, in order of arrival

    def pairs(self, start: int, stop: int) -> U64:
        """The ids from ``start`` to ``stop`` in order of arrival, [stop - start, 2]."""
        return self.table.reshape(-1, 2)[self.order[start : min(stop, self.count)]]


class Deduplicator:
    """Remembers event ids.

    Always true: what it answers depends on the order of the events and not on how they were batched; it
    never holds more than two times ``capacity`` ids.
    """

    def __init__(self, *, horizon_ms: int = HORIZON_MS, capacity: int = CAPACITY) -> None:
        if horizon_ms <= 0 or capacity <= 0:
            raise ValueError(f"horizon_ms and capacity must be positive, got {horizon_ms} and {capacity}")
        self.horizon_ms = horizon_ms
        self.capacity = capacity
        self._slots = 1 << (2 * capacity - 1).bit_length()  # at most half full
        self._state = np.zeros(2, np.int64)
        self._number, self._current, self._order = 1, *self._empty()
        self._previous = IdSet(0, 0, 0, *self._empty())

    def repeated(self, event_id: Strings | None, time_ms: I64) -> npt.NDArray[np.bool_]:
        """Which of N events in order of arrival repeat one before them; remembers the others. O(N)."""
        repeated = np.zeros(len(time_ms), np.bool_)
        if event_id is None:
            return repeated
        hashes = np.empty(2 * len(time_ms), np.uint64)
        _hash_all(event_id.data, event_id.offsets, hashes)
        at = 0
        while True:
            at = _judge(
                event_id.offsets, hashes, time_ms, self._current, self._order, self._previous.table,
                self._state, self.capacity, self.horizon_ms, at, repeated,
            )  # fmt: skip
            if at == len(time_ms):
                return repeated
            self._previous = self.sets()[1]
            self._number, self._current, self._order = self._number + 1, *self._empty()
            self._state[COUNT] = 0

    def sets(self) -> tuple[IdSet, IdSet]:
        """The previous set and the current one as they are now. O(1)."""
        count, started_ms = self._state.tolist()
        return self._previous, IdSet(self._number, started_ms, count, self._current, self._order)

    def restore(self, previous: tuple[int, int, U64], current: tuple[int, int, U64]) -> None:
        """Become what ``sets`` told: number, start and pairs of each.

        Ids beyond ``capacity``, of a time when that was higher, are forgotten, the oldest first.
        """
        made = []
        for number, started_ms, pairs in (previous, current):
            kept = np.ascontiguousarray(pairs[-self.capacity :]).reshape(-1)
            table, order = self._empty()
            _insert(kept, len(kept) // 2, table, order)
            made.append(IdSet(number, started_ms, len(kept) // 2, table, order))
        self._previous, last = made
        self._number, self._current, self._order = last.number, last.table, last.order
        self._state[:] = last.count, last.started_ms

    def _empty(self) -> tuple[U64, U32]:
        return np.zeros(2 * self._slots, np.uint64), np.zeros(self.capacity, np.uint32)
