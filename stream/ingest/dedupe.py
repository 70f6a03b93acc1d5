"""Repeats: ingestion does not apply an event again if it saw its ``event_id`` within a horizon.

    EventBatch.event_id ──► [Deduplicator.repeated] ──► Ingest
                                └─ sets ──► checkpoint ──► restore

Events without an id are never merged: two clicks are two clicks. An id is remembered for a horizon of event
time, and up to a twelfth longer. The table of ids grows with the rate of the stream, up to ``ids_max`` ids.
If a horizon has more ids, the oldest are forgotten early, and ``reach_ms`` says how far back the memory goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from driftgraph.stream.arrays import I64, U64, Mask
from driftgraph.stream.events import Strings
from driftgraph.stream.ingest import id_buckets
from driftgraph.stream.ingest.id_buckets import COUNT, IN_SET, LOAD_MAX, NEWEST_MS, ROOM, SETS_MAX, STARTED_MS

HORIZON_MS: Final = 86_400_000  # a day: longer than any producer's retry
IDS_MAX: Final = 240_000_000  # at 2,500 events a second, those of a day; a table of 2 GiB
SETS: Final = 12  # in a horizon: each is forgotten as a whole
BLOCK_IDS: Final = 1 << 17  # of one set in a file of a checkpoint


class Block:
    """The pairs of up to ``BLOCK_IDS`` ids of a set; None once the block is full and a checkpoint has it."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: U64 | None) -> None:
        self.pairs = pairs


@dataclass(frozen=True, slots=True)
class IdSet:
    """The first ``count`` ids of a set. They stay as they are while the set takes more."""

    number: int  # the set's number since the beginning of the stream: 1, 2, …
    started_ms: int  # event time of its first id
    newest_ms: int  # event time of the stream at the end of the set, or now
    count: int
    blocks: tuple[Block, ...]  # empty if nothing is kept for checkpoints
    ended: bool  # whether the set takes no more ids

    def pairs(self, block: int) -> U64 | None:
        """The ids of a block in order of arrival, [N, 2]; None if a checkpoint has them."""
        pairs = self.blocks[block].pairs
        return None if pairs is None else pairs.reshape(-1, 2)[: self.count - block * BLOCK_IDS]


@dataclass(frozen=True, slots=True)
class KeptSet:
    """A set as a checkpoint holds it. ``read`` gives the pairs [N, 2] of a block."""

    number: int
    started_ms: int
    newest_ms: int
    count: int
    read: Callable[[int], U64]


class Deduplicator:
    """Remembers event ids.

    Always true: its answers depend on the order of the events and not on their batches. It never holds more
    than ``ids_max`` ids (24 at least). It takes 9 to 20 bytes an id, 32 MB at least, and half as much more
    for a moment while it grows.

    Args:
        horizon_ms: How long an id is remembered, in event time.
        ids_max: How many at most.
        for_checkpoints: Whether new ids are also listed, at 16 bytes each, until a checkpoint has them.
    """

    def __init__(
        self, *, horizon_ms: int = HORIZON_MS, ids_max: int = IDS_MAX, for_checkpoints: bool = False
    ) -> None:
        if horizon_ms <= 0 or ids_max <= 0:
            raise ValueError(f"horizon_ms and ids_max must be positive, got {horizon_ms} and {ids_max}")
        self.horizon_ms = horizon_ms
        self.ids_max = max(ids_max, 2 * SETS)
        self._set_ms = -(-horizon_ms // SETS)
        self._set_max = self.ids_max // SETS
        self._regions = min(id_buckets.REGIONS_MAX, 1 << (self.ids_max // 4).bit_length() + 2)
        self._doublings = 0
        self._table = id_buckets.empty(self._regions * id_buckets.WAYS)
        self._state = np.zeros(7, np.int64)
        self._for_checkpoints = for_checkpoints
        self._ended: list[IdSet] = []  # oldest first
        self._number = 1
        self._blocks: list[Block] = []
        self._log: U64 = np.zeros(0, np.uint64)
        self._new_block()

    def repeated(self, event_id: Strings | None, time_ms: I64) -> Mask:
        """Which of N events in order of arrival repeat one before them; remembers the others. O(N)."""
        repeated = np.zeros(len(time_ms), np.bool_)
        if event_id is None:
            return repeated
        hashes = np.empty(2 * len(time_ms), np.uint64)
        id_buckets.hash_all(event_id.data, event_id.offsets, hashes)
        events = id_buckets.Events(event_id.offsets, hashes, time_ms, repeated)
        at = 0
        while True:
            limits = id_buckets.Limits(self._set_ms, self._set_max, self._count_max)
            at = id_buckets.judge(
                events, at, self._buckets, _code(self._number), self._log, limits, self._state
            )
            if at == len(time_ms):
                return repeated
            self._make_room()

    def sets(self) -> tuple[IdSet, ...]:
        """The sets as they are now, oldest first; the last one is current. O(sets)."""
        return (*self._ended, self._current(ended=False))

    def restore(self, sets: Sequence[KeptSet]) -> None:
        """Take over the sets of a checkpoint, oldest first. The caller does it before the first event.

        If the sets have more ids than ``ids_max``, the oldest are forgotten.
        """
        counts = [one.count for one in sets]
        fitting = [one for place, one in enumerate(sets) if sum(counts[place:]) <= self.ids_max] or sets[-1:]
        for one in fitting:
            ended = one is not sets[-1]
            self._number, self._blocks = one.number, []
            self._state[IN_SET : NEWEST_MS + 1] = (
                one.count,
                one.started_ms,
                max(one.newest_ms, one.started_ms),
            )
            blocks = -(-one.count // BLOCK_IDS)
            for k in range(blocks):
                pairs = one.read(k)
                while self._state[COUNT] + len(pairs) > self._count_max and self._grow():
                    pass
                # in a set that is too large, the oldest ids are left out
                if one.count - k * BLOCK_IDS <= self.ids_max:
                    flat = np.ascontiguousarray(pairs).reshape(-1)
                    id_buckets.insert(flat, self._buckets, _code(one.number), self._state)
                self._new_block(pairs, on_disk=ended or len(pairs) == BLOCK_IDS)
            if not blocks:
                self._new_block()
            if ended:
                self._ended.append(self._current(ended=True))
        self._make_fit(0)  # ``ids_max`` may be smaller now: a set must have room beside the ended ones

    @property
    def is_short(self) -> bool:
        """Whether some ids of the last horizon were forgotten early."""
        return self.sets()[0].number > 1 and self.reach_ms < self.horizon_ms

    @property
    def reach_ms(self) -> int:
        """How far back every id is remembered, in event time; at most a horizon."""
        return min(self.horizon_ms, int(self._state[NEWEST_MS]) - self.sets()[0].started_ms)

    def status(self) -> dict[str, int | bool]:
        """The memory of ids, for the status file."""
        pairs = (block.pairs for one in self.sets() for block in one.blocks)  # a checkpoint may take them
        kept = [one.nbytes for one in pairs if one is not None]
        return {
            "ids": int(self._state[COUNT]),
            "bytes": self._table.nbytes + sum(kept),
            "horizon_ms": self.horizon_ms,
            "reach_ms": self.reach_ms,
            "short": self.is_short,
        }

    @property
    def _buckets(self) -> id_buckets.Table:
        return id_buckets.Table(self._table, self._regions, self._doublings)

    @property
    def _count_max(self) -> int:
        return int(LOAD_MAX * len(self._table))

    def _make_room(self) -> None:
        """End the set if it is full or old, else let the table or the block grow."""
        state = self._state
        if state[IN_SET] >= self._set_max or state[NEWEST_MS] - state[STARTED_MS] >= self._set_ms:
            self._end_set()
        elif state[ROOM] == 0:
            self._new_block()
        elif not self._grow():
            self._end_set()

    def _end_set(self) -> None:
        self._ended.append(self._current(ended=True))
        self._number, self._blocks = self._number + 1, []
        self._state[IN_SET] = 0
        self._forget()
        self._new_block()

    def _current(self, *, ended: bool) -> IdSet:
        count, started_ms, newest_ms = self._state[IN_SET : NEWEST_MS + 1].tolist()
        return IdSet(self._number, started_ms, newest_ms, count, tuple(self._blocks), ended)

    def _forget(self) -> None:
        """Drop the sets that are older than the horizon, and more sets until a full one has room."""
        newest_ms, keep = int(self._state[NEWEST_MS]), 0
        ends_ms = [one.started_ms for one in self._ended[1:]] + [newest_ms]
        while keep < len(ends_ms) and newest_ms - ends_ms[keep] >= self.horizon_ms:
            keep += 1
        self._make_fit(keep)

    def _make_fit(self, keep: int) -> None:
        """Drop the first ``keep`` sets, and more sets until a full one has room."""
        left = sum(one.count for one in self._ended[keep:])
        while left + self._set_max > self.ids_max or len(self._ended) - keep >= SETS_MAX - 1:
            left -= self._ended[keep].count
            keep += 1
        self._drop(keep)

    def _drop(self, count: int) -> None:
        if count:
            gone = np.zeros(SETS_MAX + 1, np.bool_)
            gone[[_code(one.number) for one in self._ended[:count]]] = True
            del self._ended[:count]
            self._state[COUNT] -= id_buckets.sweep(self._table, gone)

    def _grow(self) -> bool:
        """Double the table. Returns False if it is large enough for ``ids_max`` already."""
        if self._count_max >= self.ids_max:
            return False
        wider = id_buckets.empty(2 * len(self._table))
        id_buckets.deal_out(self._table, wider, self._doublings)
        self._table, self._doublings = wider, self._doublings + 1
        return True

    def _new_block(self, pairs: U64 | None = None, *, on_disk: bool = False) -> None:
        """Begin the next block of the current set, with ``pairs`` in it."""
        used = 0 if pairs is None else len(pairs)
        self._state[ROOM] = BLOCK_IDS - used
        if not self._for_checkpoints:
            return
        if on_disk:
            self._blocks.append(Block(None))
            return
        self._log = np.empty(2 * BLOCK_IDS, np.uint64)
        if pairs is not None:
            self._log[: 2 * used] = pairs.reshape(-1)
        self._blocks.append(Block(self._log))


def _code(number: int) -> int:
    """The number of a set in the table, 1 to 31. No two sets that are in the table at one time share it."""
    return 1 + number % SETS_MAX
