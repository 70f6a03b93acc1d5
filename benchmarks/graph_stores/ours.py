"""driftgraph's window as a store, in mapped files as the updater has them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.graph_stores.store import Answers, K, Sampler
from benchmarks.traffic import DAY_MS, RELATION_NAMES, Shop, Traffic
from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.window.writer import Neighborhood, Relation, create

SPAN_MS = 30 * DAY_MS
ROOM = 1.02  # of the expected events of a relation
SHARED_MEMORY = Path("/dev/shm")


class Ours:
    """The whole window, all relations; rings made for ``events``. ``close`` removes its files."""

    whole_window, incremental = True, True
    events_max = 1 << 31

    def __init__(self, shop: Shop, events: int) -> None:
        relations = [
            Relation(name, SPAN_MS, max(1_000, int(events * share * ROOM)))
            for name, share in zip(RELATION_NAMES, shop.shares, strict=True)
        ]
        self._folder = tempfile.TemporaryDirectory(
            prefix="driftgraph-bench-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        )
        self.path = Path(self._folder.name)
        self.window = create(self.path, relations, user_rows=shop.users, item_rows=shop.items)

    def load(self, traffic: Traffic) -> None:
        """One append."""
        self.append(traffic)

    def append(self, batch: Traffic) -> None:
        """One append."""
        self.window.append(batch.user, batch.item, batch.relation, batch.time_ms)

    def samplers(self) -> dict[str, Sampler]:
        """Itself."""
        return {"recent": Recent(self)}

    def bytes_used(self) -> dict[str, int]:
        """Bytes that the files really take, by file."""
        return {file.name: 512 * file.stat().st_blocks for file in self.path.iterdir()}

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()


class Recent:
    """recent-K at the newest cut."""

    by_relation, hops, seeds_share = True, 2, 1.0

    def __init__(self, ours: Ours) -> None:
        self._window = ours.window
        self._cut = ours.window.cut()

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Neighborhood:
        """One call."""
        return self._window.recent(side, nodes, before_ms, K, self._cut)

    def found(self, result: Neighborhood) -> tuple[U32, I64]:
        """Flat."""
        real = np.arange(K) < result.count_BR[:, :, None]
        return result.neighbor_BRK[real], result.time_ms_BRK[real]

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """Flat, with node and relation."""
        result = self.recent(side, nodes, before_ms)
        counts = result.count_BR
        node = np.repeat(np.repeat(nodes, counts.shape[1]), counts.ravel())
        relation = np.repeat(np.tile(np.arange(counts.shape[1]), len(nodes)), counts.ravel())
        return Answers(node, relation, *self.found(result))
