"""The item vectors that a generation has in Redis, by row: what a refresh holds new ones against.

publish, refresh ──► [ServedItems] ──► which items are new, and which have moved
"""

from __future__ import annotations

from typing import Final

import numpy as np

from driftgraph.model.score.ranking import NEW_BIAS
from driftgraph.stream.arrays import F32, U32, Mask

NOBODY: Final = 0  # a version that no owner has: those are odd
MOVED: Final = 0.01  # 1 − cosine, without popularity: a fifth of the items touched, and 92 % of the way


class ServedItems:
    """Vector and owner of each row that is served; an item whose row has another owner since is unknown.

    A row that ``versions`` do not reach yet came after they were read, and is unknown until it is put again.
    """

    def __init__(self, rows: U32, vectors_ID: F32, with_events: Mask, versions: U32) -> None:
        """``with_events`` [I]: which a publish made with their events; others are of a catalog alone."""
        there = rows < len(versions)
        rows, vectors_ID, with_events = rows[there], vectors_ID[there], with_events[there]
        count = int(rows.max(initial=0)) + 1
        self._version_R = np.full(count, NOBODY, np.uint32)
        self._vector_RD = np.zeros((count, vectors_ID.shape[1]), np.float32)
        self._with_events_R = np.zeros(count, np.bool_)
        self.put(rows, vectors_ID, versions)
        self._with_events_R[rows] = with_events
        biases = vectors_ID[:, -1] if len(vectors_ID) else np.zeros(1)
        self.bias_of_new = float(np.quantile(biases, NEW_BIAS))  # as ``with_new_items`` has it

    def is_new(self, rows: U32, versions: U32) -> Mask:
        """[n] whether each row's owner by these versions has no vector."""
        known = (rows < len(self._version_R)) & (rows < len(versions))
        known[known] = self._version_R[rows[known]] == versions[rows[known]]
        return ~known

    def with_events(self, rows: U32) -> Mask:
        """[n] of items that are not new: whether the publish made them with their events."""
        return self._with_events_R[rows]

    def vectors(self, rows: U32) -> F32:
        """[n, D] of items that are not new."""
        return self._vector_RD[rows]

    def put(self, rows: U32, vectors_nD: F32, versions: U32) -> None:
        """These are served from now on; those that were unknown have been made without a publish."""
        there = rows < len(versions)
        rows, vectors_nD = rows[there], vectors_nD[there]
        more = int(rows.max(initial=0)) + 1 - len(self._version_R)
        if more > 0:
            more = max(more, len(self._version_R) // 4)
            self._version_R = np.pad(self._version_R, (0, more))
            self._vector_RD = np.pad(self._vector_RD, ((0, more), (0, 0)))
            self._with_events_R = np.pad(self._with_events_R, (0, more))
        self._with_events_R[rows] &= self._version_R[rows] == versions[rows]
        self._version_R[rows], self._vector_RD[rows] = versions[rows], vectors_nD


def have_moved(before_nD: F32, after_nD: F32) -> Mask:
    """[n] whether the direction of each vector has changed by more than ``MOVED``."""
    a, b = before_nD[:, :-1].astype(np.float64), after_nD[:, :-1].astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    moved: Mask = (a * b).sum(axis=1) < (1 - MOVED) * lengths
    return moved
