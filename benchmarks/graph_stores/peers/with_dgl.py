"""DGL: ``add_edges`` on a heterograph with its formats built, uniform sampling, and ``select_topk`` by time.

One edge type a relation, from users to items: an item's neighbors are its in-edges (CSC), a user's its
out-edges (CSR), so that DGL stores each edge once.
"""

from __future__ import annotations

from typing import Any

import dgl  # its functions have no types
import numpy as np
import torch
from torch import Tensor

from benchmarks.graph_stores.store import USER, Answers, K, Sampler
from benchmarks.traffic import RELATION_NAMES, Shop, Traffic
from driftgraph.stream.arrays import I64, U32

TIME = "time"


def _ids(rows: U32) -> Tensor:
    return torch.from_numpy(rows.astype(np.int32))  # DGL is faster with int32 than with int64


class Graph:
    """A heterograph of 32-bit ids; an edge's number within its type is its order of arrival."""

    whole_window, incremental = True, True
    events_max = 1 << 31

    def __init__(self, shop: Shop) -> None:
        self._nodes = {"user": shop.users, "item": shop.items}
        self._graph: Any = None
        self._time_ms: list[list[I64]] = [[] for _ in RELATION_NAMES]

    def load(self, traffic: Traffic) -> None:
        """Build the graph at once."""
        edges = {}
        for number, name in enumerate(RELATION_NAMES):
            chosen = traffic.relation == number
            self._time_ms[number].append(traffic.time_ms[chosen])
            edges["user", name, "item"] = (_ids(traffic.user[chosen]), _ids(traffic.item[chosen]))
        self._graph = dgl.heterograph(edges, num_nodes_dict=self._nodes)  # pyright: ignore[reportCallIssue]

    def append(self, batch: Traffic) -> None:
        """Add each relation's edges, without their times, and build CSR and CSC as sampling needs them."""
        for number, name in enumerate(RELATION_NAMES):
            chosen = batch.relation == number
            self._time_ms[number].append(batch.time_ms[chosen])
            self._graph.add_edges(_ids(batch.user[chosen]), _ids(batch.item[chosen]), etype=name)
        self._graph.create_formats_()

    def samplers(self) -> dict[str, Sampler]:
        """Uniform sampling, which ignores time, and the most recent by ``select_topk``."""
        for number, name in enumerate(RELATION_NAMES):
            self._graph.edges[name].data[TIME] = torch.from_numpy(np.concatenate(self._time_ms[number]))
        return {"sample_neighbors": Uniform(self._graph), "select_topk": TopK(self._graph)}


class Uniform:
    """K random neighbors of each relation, of any time."""

    by_relation, hops, seeds_share = True, 2, 1.0

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def recent(self, side: int, nodes: U32, before_ms: I64) -> tuple[int, Any]:  # noqa: ARG002  # it knows no time
        """One call."""
        return side, self._call(side, nodes, with_event=False)

    def found(self, result: tuple[int, Any]) -> tuple[U32, I64]:
        """Flat, without times: none of its next hops asks for one."""
        side, graph = result
        parts = [graph.edges(etype=name)[1 if side == USER else 0].numpy() for name in RELATION_NAMES]
        return np.concatenate(parts).astype(np.uint32), np.zeros(sum(map(len, parts)), np.int64)

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:  # noqa: ARG002
        """Flat, with node, relation and time."""
        graph = self._call(side, nodes, with_event=True)
        node, relation, neighbor, time_ms = [], [], [], []
        for number, name in enumerate(RELATION_NAMES):
            user, item = (end.numpy() for end in graph.edges(etype=name))
            event = graph.edges[name].data[dgl.EID].long()
            node.append(user if side == USER else item)
            neighbor.append(item if side == USER else user)
            relation.append(np.full(len(user), number))
            time_ms.append(self._graph.edges[name].data[TIME][event].numpy())
        return Answers(
            np.concatenate(node), np.concatenate(relation), np.concatenate(neighbor), np.concatenate(time_ms)
        )

    def _call(self, side: int, nodes: U32, *, with_event: bool) -> Any:
        seeds, way = ({"user": _ids(nodes)}, "out") if side == USER else ({"item": _ids(nodes)}, "in")
        return dgl.sampling.sample_neighbors(
            self._graph, seeds, K, edge_dir=way, copy_ndata=False, copy_edata=with_event
        )


class TopK(Uniform):
    """The K newest of each relation; it cannot be asked for an earlier time."""

    hops = 1
    seeds_share = 0.01  # it sorts every edge of every seed, again for a seed that comes again

    def _call(self, side: int, nodes: U32, *, with_event: bool) -> Any:
        seeds, way = ({"user": _ids(nodes)}, "out") if side == USER else ({"item": _ids(nodes)}, "in")
        return dgl.sampling.select_topk(
            self._graph, K, TIME, seeds, edge_dir=way, copy_ndata=False, copy_edata=with_event
        )


def make(shop: Shop) -> Graph:
    """Empty."""
    return Graph(shop)
