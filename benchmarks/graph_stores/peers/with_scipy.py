"""Rebuild from the log: after each batch, the whole adjacency anew by SciPy, sampled by numpy gathers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from benchmarks.graph_stores.store import ITEM, USER, Answers, K, Sampler
from benchmarks.traffic import Shop, Traffic
from driftgraph.stream.arrays import I64, U32, Mask


@dataclass(frozen=True, slots=True)
class Places:
    """What a gather finds: M rows, a row being a node and a relation."""

    row_M: I64
    neighbor_MK: U32  # newest first
    time_ms_MK: I64
    real_MK: Mask


class Rebuilt:
    """The log as columns in order of time, and for each side a CSR of event numbers by (node, relation)."""

    whole_window, incremental = True, False
    events_max = 1 << 31
    by_relation, hops, seeds_share = True, 2, 1.0

    def __init__(self, shop: Shop) -> None:
        self.relation_count = len(shop.shares)
        self.node_counts = (shop.users, shop.items)
        empty = np.zeros(0, np.uint32)
        self._log = Traffic(empty, empty, np.zeros(0, np.uint8), np.zeros(0, np.int64))
        self._indptr: list[npt.NDArray[np.integer]] = []
        self._event: list[npt.NDArray[np.integer]] = []

    def load(self, traffic: Traffic) -> None:
        """Take the log; nothing is built yet."""
        self._log = traffic

    def append(self, batch: Traffic) -> None:
        """Append to the log and build both sides again; SciPy's conversion keeps the order within a row."""
        log = self._log
        self._log = log = Traffic(
            np.concatenate([log.user, batch.user]),
            np.concatenate([log.item, batch.item]),
            np.concatenate([log.relation, batch.relation]),
            np.concatenate([log.time_ms, batch.time_ms]),
        )
        count, number = len(log), np.arange(len(log), dtype=np.int32)
        self._indptr, self._event = [], []
        for side, node in ((USER, log.user), (ITEM, log.item)):
            row = node.astype(np.int32) * self.relation_count + log.relation
            shape = (self.node_counts[side] * self.relation_count, count)
            built = sparse.coo_array((np.ones(count, np.int8), (row, number)), shape=shape).tocsr()
            self._indptr.append(built.indptr)
            self._event.append(built.indices)

    def samplers(self) -> dict[str, Sampler]:
        """Itself."""
        return {"gather": self}

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Places:
        """The last K places of each row before its time; one bisection over all rows where it cuts one."""
        row = (nodes.astype(np.int64)[:, None] * self.relation_count + np.arange(self.relation_count)).ravel()
        start, end = self._indptr[side][row].astype(np.int64), self._indptr[side][row + 1].astype(np.int64)
        if before_ms.min(initial=np.iinfo(np.int64).max) <= self._log.time_ms[-1]:
            end = self._first_at(side, start, end, np.repeat(before_ms, self.relation_count))
        place = end[:, None] - 1 - np.arange(K)
        real = place >= start[:, None]
        event = self._event[side][np.where(real, place, 0)]
        other = self._log.item if side == USER else self._log.user
        return Places(row, other[event], self._log.time_ms[event], real)

    def found(self, result: Places) -> tuple[U32, I64]:
        """Flat."""
        return result.neighbor_MK[result.real_MK], result.time_ms_MK[result.real_MK]

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """Flat, with node and relation."""
        result = self.recent(side, nodes, before_ms)
        row = np.repeat(result.row_M, result.real_MK.sum(axis=1))
        return Answers(row // self.relation_count, row % self.relation_count, *self.found(result))

    def _first_at(self, side: int, start: I64, end: I64, before_ms: I64) -> I64:
        """For each row the place of its first event that is not before its time."""
        low, high = start, end
        for _ in range(int((end - start).max(initial=0)).bit_length()):
            middle = (low + high) // 2
            open_ = low < high
            time_ms = self._log.time_ms[self._event[side][np.where(open_, middle, 0)]]
            before = open_ & (time_ms < before_ms)
            low = np.where(before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low


def make(shop: Shop) -> Rebuilt:
    """Empty."""
    return Rebuilt(shop)
