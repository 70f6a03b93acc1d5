"""PyTorch Geometric's LastNeighborLoader: the last K events of each node, all relations together.

It knows neither relations nor times: it answers for now only, whatever time is asked for.
"""

# pyright: reportMissingImports=false
# The extra `bench` brings it, and a check runs without.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn.models.tgn import LastNeighborLoader

from benchmarks.graph_stores.store import ALL_RELATIONS, BATCH, ITEM, Answers, K, Sampler
from benchmarks.traffic import Shop, Traffic
from driftgraph.stream.arrays import I64, U32

Found = tuple[Tensor, Tensor, Tensor]  # nodes, edges between them (from neighbor to seed), event numbers


class LastNeighbors:
    """Users and items as nodes of one graph, items behind users."""

    whole_window, incremental = False, True
    events_max = 1 << 31
    by_relation, hops, seeds_share = False, 1, 1.0

    def __init__(self, shop: Shop) -> None:
        self.users = shop.users
        self._loader = LastNeighborLoader(shop.users + shop.items, size=K)
        self._time_ms: list[I64] = []  # by event number, to say what it found; not part of what is timed

    def load(self, traffic: Traffic) -> None:
        """In batches as live ones are: it takes any K of a node's events of one batch."""
        for batch in traffic.batches(0, len(traffic), BATCH):
            self.append(batch)

    def append(self, batch: Traffic) -> None:
        """One insert."""
        self._time_ms.append(batch.time_ms)
        user = torch.from_numpy(batch.user.astype(np.int64))
        item = torch.from_numpy(batch.item.astype(np.int64))
        self._loader.insert(user, item + self.users)

    def samplers(self) -> dict[str, Sampler]:
        """Itself."""
        self._time_ms = [np.concatenate(self._time_ms)]
        return {"LastNeighborLoader": self}

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Found:  # noqa: ARG002  # it knows no time
        """One call of the loader."""
        shift = self.users if side == ITEM else 0
        found: Found = self._loader(torch.from_numpy(nodes.astype(np.int64)) + shift)
        return found

    def found(self, result: Found) -> tuple[U32, I64]:
        """Flat."""
        node, edge, event = (part.numpy() for part in result)
        neighbor = node[edge[0]]
        neighbor = np.where(neighbor >= self.users, neighbor - self.users, neighbor)
        return neighbor.astype(np.uint32), self._time_ms[0][event]

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """Flat, with node."""
        result = self.recent(side, nodes, before_ms)
        node = result[0].numpy()[result[1].numpy()[1]] - (self.users if side == ITEM else 0)
        return Answers(node, np.full(len(node), ALL_RELATIONS), *self.found(result))


def make(shop: Shop) -> LastNeighbors:
    """Empty."""
    return LastNeighbors(shop)
