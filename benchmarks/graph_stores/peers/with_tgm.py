"""TGM's RecencyNeighborHook: a ring of the last K events of each node, all relations together.

It takes node numbers as int32 only, as its own loader makes them. Its sort key, node number times newest
time, then overflows, so that a batch's events of different nodes mix: what it answers is fast, and mostly
wrong.
"""

# pyright: reportMissingImports=false
# The extra `bench` brings it, and a check runs without.

from __future__ import annotations

import numpy as np
import torch
from tgm import DGBatch, DGraph
from tgm.constants import PADDED_NODE_ID
from tgm.data import DGData
from tgm.hooks import RecencyNeighborHook
from torch import Tensor

from benchmarks.graph_stores.store import ALL_RELATIONS, BATCH, ITEM, Answers, K, Sampler
from benchmarks.traffic import Shop, Traffic
from driftgraph.stream.arrays import I64, U32

Found = tuple[Tensor, Tensor]  # neighbors and times, [B, K]
NOTHING = torch.zeros(0, dtype=torch.int32)


class Recency:
    """Users and items as nodes of one graph, items behind users."""

    whole_window, incremental = False, True
    events_max = 1 << 31
    by_relation, hops, seeds_share = False, 2, 1.0

    def __init__(self, shop: Shop) -> None:
        self.users = shop.users
        self._hook = RecencyNeighborHook(
            num_nodes=shop.users + shop.items,
            num_nbrs=[K],
            seed_nodes_keys=["seeds"],
            seed_times_keys=["times"],
        )
        one = torch.tensor([1], dtype=torch.int64)
        self._graph = DGraph(
            DGData.from_raw(one, torch.tensor([[0, 1]], dtype=torch.int32))
        )  # the hook asks it for a device

    def load(self, traffic: Traffic) -> None:
        """In batches as live ones are."""
        for batch in traffic.batches(0, len(traffic), BATCH):
            self.append(batch)

    def append(self, batch: Traffic) -> None:
        """One call with one seed: without a seed it takes no events."""
        user = torch.from_numpy(batch.user.astype(np.int32))
        item = torch.from_numpy(batch.item.astype(np.int32)) + self.users
        self._call(user, item, torch.from_numpy(batch.time_ms), user[:1], torch.from_numpy(batch.time_ms[:1]))

    def samplers(self) -> dict[str, Sampler]:
        """Itself."""
        return {"RecencyNeighborHook": self}

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Found:
        """One call without events."""
        seeds = torch.from_numpy(nodes.astype(np.int32)) + (self.users if side == ITEM else 0)
        batch = self._call(NOTHING, NOTHING, NOTHING, seeds, torch.from_numpy(before_ms))
        neighbors, times = vars(batch)["nbr_nids"], vars(batch)["nbr_edge_time"]  # the hook adds them
        return neighbors[0], times[0]

    def found(self, result: Found) -> tuple[U32, I64]:
        """Flat."""
        real = result[0] != PADDED_NODE_ID
        neighbor = result[0][real].numpy()
        neighbor = np.where(neighbor >= self.users, neighbor - self.users, neighbor)
        return neighbor.astype(np.uint32), result[1][real].numpy()

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """Flat, with node."""
        result = self.recent(side, nodes, before_ms)
        node = np.repeat(nodes, (result[0] != PADDED_NODE_ID).sum(dim=1).numpy())
        return Answers(node, np.full(len(node), ALL_RELATIONS), *self.found(result))

    def _call(self, user: Tensor, item: Tensor, time_ms: Tensor, seeds: Tensor, times: Tensor) -> DGBatch:
        batch = DGBatch(user, item, time_ms)
        vars(batch).update(seeds=seeds, times=times)  # named in seed_nodes_keys and seed_times_keys
        return self._hook(self._graph, batch)


def make(shop: Shop) -> Recency:
    """Empty."""
    return Recency(shop)
