"""Events with the ids of their users and items: the form in which a checkpoint keeps a window.

HeterographView.arrivals ──► NamedEvents ──► a checkpoint ──► Heterograph.restore
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from driftgraph.stream.arrays import I64, U32, Mask
from driftgraph.stream.events import Strings


@dataclass(frozen=True, slots=True)
class NamedEvents:
    """N events of one relation in order of arrival. An event names its ids by their places in two lists."""

    users: Strings  # no id occurs twice
    items: Strings
    user: U32  # [N] places in ``users``; 0 where lost
    item: U32
    time_ms: I64
    lost: Mask  # the event was erased or is gone: only its place in the order is left
    user_rows: U32 | None = None  # of ``users``, in the window that they are from; None: not known any more
    item_rows: U32 | None = None

    def __len__(self) -> int:
        return len(self.time_ms)

    def since(self, start: int) -> NamedEvents:
        """The events without the first ``start``."""
        return replace(
            self,
            user=self.user[start:],
            item=self.item[start:],
            time_ms=self.time_ms[start:],
            lost=self.lost[start:],
        )

    def without(self, gone: Mask) -> NamedEvents:
        """The events with those of ``gone`` [N] lost, too. ``users`` loses a user who has no other event."""
        if not gone.any():
            return self
        lost = self.lost | gone
        kept = np.unique(self.user[~lost]).astype(np.int64)
        user = np.where(lost, 0, np.searchsorted(kept, self.user)).astype(np.uint32)
        rows = None if self.user_rows is None else self.user_rows[kept]
        return replace(self, users=self.users.take(kept), user=user, lost=lost, user_rows=rows)

    def behind(self, count: int) -> NamedEvents:
        """The events with ``count`` lost ones before them."""
        place, time_ms = np.zeros(count, np.uint32), np.zeros(count, np.int64)
        return replace(
            self,
            user=np.concatenate((place, self.user)),
            item=np.concatenate((place, self.item)),
            time_ms=np.concatenate((time_ms, self.time_ms)),
            lost=np.concatenate((np.ones(count, np.bool_), self.lost)),
        )
