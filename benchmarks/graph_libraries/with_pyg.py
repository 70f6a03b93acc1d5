"""The model's training step with PyTorch Geometric: ``HeteroConv`` of ``GATConv`` on ``LastNeighborLoader``.

Its ``NeighborLoader`` and ``HGTLoader`` need pyg-lib or torch-sparse, which are built for each release of
torch and are not on PyPI for ours. Of the loaders that need neither, ``LastNeighborLoader`` looks for the
newest neighbors as ours does: a table of the last K of each node, one here for each relation and fanout. It
knows no times: it answers as of the newest event.
"""

# pyright: reportMissingImports=false
# The extra `bench` brings it, and a check runs without.

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, HeteroConv, SimpleConv
from torch_geometric.nn.models.tgn import LastNeighborLoader

from benchmarks.graph_libraries.network import Edge
from driftgraph.model.network.dgl_reference import NODE_TYPES
from driftgraph.model.network.network import NEGATIVE_SLOPE, Attention
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.writer import Cut, WindowView

AT_ONCE = 20_000  # events of an insert: of one, it takes any K of a node


@dataclass(frozen=True, slots=True)
class Graph:
    """``edge_index`` [2, E] of each relation."""

    edge_indices: list[Tensor]
    target_count: int


class Gat(nn.Module):
    """A ``HeteroConv`` of ``GATConv``, for one side's vectors."""

    def __init__(self, side: int, relations: Sequence[str], weights: Attention) -> None:
        super().__init__()
        self.source, self.target = NODE_TYPES[1 - side], NODE_TYPES[side]
        self.edge_types = [(self.source, relation, self.target) for relation in relations]
        dim, heads, channels = weights.weight_RDHC.shape[1:]
        convs = {}
        for r, edge_type in enumerate(self.edge_types):
            conv = GATConv(
                dim, channels, heads, negative_slope=NEGATIVE_SLOPE, bias=False, add_self_loops=False
            )
            assert conv.lin is not None
            with torch.no_grad():
                conv.lin.weight.copy_(weights.weight_RDHC[r].flatten(1).T)
                conv.att_src.copy_(weights.attend_source_RHC[r].unsqueeze(0))
                conv.att_dst.copy_(weights.attend_target_RHC[r].unsqueeze(0))
            convs[edge_type] = conv
        with warnings.catch_warnings():  # that sources get no new vectors is meant
            warnings.filterwarnings("ignore", "There exist node types", UserWarning)
            self.convs = HeteroConv(convs, aggr="sum")

    def forward(self, graph: Graph, source_SD: Tensor, target_ND: Tensor) -> Tensor:
        """[N, D], heads side by side."""
        vectors = {self.source: source_SD, self.target: target_ND}
        found: dict[str, Tensor] = self.convs(
            vectors, dict(zip(self.edge_types, graph.edge_indices, strict=True))
        )
        return found[self.target]


class Pyg:
    """A loader for each relation and fanout, filled with the live events of a cut."""

    sampler = (
        "LastNeighborLoader, one for each relation and fanout: the newest, without times "
        "(NeighborLoader needs pyg-lib or torch-sparse)"
    )

    def __init__(self, view: WindowView, cut: Cut, fanouts: Sequence[int]) -> None:
        self.relations = [relation.name for relation in view.relations]
        self.users = view.rows(0)
        self._mean = SimpleConv(aggr="mean")
        events, nodes = view.events(cut), self.users + view.rows(1)
        self._loaders: dict[int, list[LastNeighborLoader]] = {
            fanout: [LastNeighborLoader(nodes, fanout) for _ in self.relations] for fanout in fanouts
        }
        for r in range(len(self.relations)):
            chosen = events.relation == r
            user = torch.from_numpy(events.user[chosen].astype(np.int64))
            item = torch.from_numpy(events.item[chosen].astype(np.int64)) + self.users
            for loaders in self._loaders.values():
                for part in zip(torch.split(user, AT_ONCE), torch.split(item, AT_ONCE), strict=True):
                    loaders[r].insert(*part)

    def hop(self, side: int, nodes_N: Tensor, fanout: int) -> tuple[Graph, Tensor]:
        """One call of the loader of each relation. It numbers all nodes that it found in ascending order."""
        targets, sources = [], []
        for loader in self._loaders[fanout]:
            found_n, edge_index, _ = loader(nodes_N if side == USER else nodes_N + self.users)
            source_E, target_E = edge_index
            if side == USER:  # users come before items
                targets.append(target_E)
                sources.append(found_n[source_E] - self.users)
            else:
                targets.append(target_E - (len(found_n) - len(nodes_N)))
                sources.append(found_n[source_E])
        rows, place = torch.unique(torch.cat(sources), return_inverse=True)
        places = torch.split(place, [len(one) for one in sources])
        indices = [torch.stack(pair) for pair in zip(places, targets, strict=True)]
        return Graph(indices, len(nodes_N)), rows

    def graph(self, side: int, edges: Sequence[Edge], source_count: int, target_count: int) -> Graph:  # noqa: ARG002
        """These edges."""
        return Graph([torch.stack(edge) for edge in edges], target_count)

    def edges(self, graph: Graph) -> list[Edge]:
        """By relation."""
        return [(index[0], index[1]) for index in graph.edge_indices]

    def attention(self, side: int, weights: Attention) -> nn.Module:
        """PyG's own GAT."""
        return Gat(side, self.relations, weights)

    def mean(self, graph: Graph, source_SD: Tensor) -> Tensor:
        """A ``SimpleConv`` over the edges of all relations."""
        size = (len(source_SD), graph.target_count)
        out_ND: Tensor = self._mean((source_SD, None), torch.cat(graph.edge_indices, 1), size=size)
        return out_ND
