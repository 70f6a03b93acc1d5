"""The model's training step with DGL: ``sample_neighbors``, ``to_block``, and a ``GATConv`` of each relation.

DGL 1.1 samples uniformly and knows no times, so its histories have events after the example as well. It
looks at as many neighbors by relation, and has less to do: a user with two examples in a batch is one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.graph_libraries.network import Edge
from driftgraph.model.network.dgl_reference import NODE_TYPES, REVERSE, to_dgl
from driftgraph.model.network.network import NEGATIVE_SLOPE, Attention
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

import dgl  # isort: skip  # dgl_reference sets its backend first
import dgl.function as fn  # isort: skip
from dgl.nn.pytorch import GATConv, HeteroGraphConv  # isort: skip

Canonical = tuple[str, str, str]


class Gat(nn.Module):
    """A ``HeteroGraphConv`` of ``GATConv``, for one side's vectors."""

    def __init__(self, side: int, relations: Sequence[str], weights: Attention) -> None:
        super().__init__()
        self.source, self.target = NODE_TYPES[1 - side], NODE_TYPES[side]
        dim, heads, channels = weights.weight_RDHC.shape[1:]
        convs: dict[str, nn.Module] = {}
        for r, relation in enumerate(relations):
            conv = GATConv(
                dim, channels, heads, negative_slope=NEGATIVE_SLOPE, bias=False, allow_zero_in_degree=True
            )
            with torch.no_grad():
                conv.fc.weight.copy_(weights.weight_RDHC[r].flatten(1).T)
                conv.attn_l.copy_(weights.attend_source_RHC[r].unsqueeze(0))
                conv.attn_r.copy_(weights.attend_target_RHC[r].unsqueeze(0))
            convs[_edge_type(side, relation)[1]] = conv
        self.convs = HeteroGraphConv(convs, aggregate="sum")

    def forward(self, graph: Any, source_SD: Tensor, target_ND: Tensor) -> Tensor:
        """[N, D], heads side by side."""
        found = self.convs(graph, ({self.source: source_SD}, {self.target: target_ND}))
        out_ND: Tensor = found[self.target].flatten(1)
        return out_ND


class Dgl:
    """The live events of a cut as one graph for each direction, its formats built."""

    sampler = "sample_neighbors and to_block: uniform, without times"

    def __init__(self, view: WindowView, cut: Cut) -> None:
        self.relations = [relation.name for relation in view.relations]
        graph: Any = to_dgl(view, cut).int()  # DGL is faster with int32 than with int64
        self._graphs = [
            graph.edge_type_subgraph([_edge_type(side, name) for name in self.relations]).formats("csc")
            for side in (USER, ITEM)
        ]
        for one in self._graphs:
            one.create_formats_()

    def hop(self, side: int, nodes_N: Tensor, fanout: int) -> tuple[Any, Tensor]:
        """A block of sampled edges."""
        seeds = {NODE_TYPES[side]: nodes_N.int()}
        block = dgl.to_block(dgl.sampling.sample_neighbors(self._graphs[side], seeds, fanout), seeds)
        return block, block.srcnodes[NODE_TYPES[1 - side]].data[dgl.NID].long()

    def graph(self, side: int, edges: Sequence[Edge], source_count: int, target_count: int) -> Any:
        """A block of these edges."""
        by_type = {_edge_type(side, n): edge for n, edge in zip(self.relations, edges, strict=True)}
        source, target = NODE_TYPES[1 - side], NODE_TYPES[side]
        return dgl.create_block(by_type, {source: source_count}, {target: target_count})

    def edges(self, graph: Any) -> list[Edge]:
        """By relation."""
        ends = [graph.edges(etype=edge_type) for edge_type in graph.canonical_etypes]
        return [(source.long(), target.long()) for source, target in ends]

    def attention(self, side: int, weights: Attention) -> nn.Module:
        """DGL's own GAT."""
        return Gat(side, self.relations, weights)

    def mean(self, graph: Any, source_SD: Tensor) -> Tensor:
        """The sums of all relations by ``multi_update_all`` / the degree."""
        source, _, target = graph.canonical_etypes[0]
        with graph.local_scope():
            graph.srcnodes[source].data["h"] = source_SD
            copied, added = fn.copy_u("h", "m"), fn.sum("m", "h")  # pyright: ignore[reportAttributeAccessIssue]
            graph.multi_update_all(dict.fromkeys(graph.canonical_etypes, (copied, added)), "sum")
            total_ND: Tensor = graph.dstnodes[target].data["h"]
            degrees = [graph.in_degrees(etype=edge_type) for edge_type in graph.canonical_etypes]
            return total_ND / torch.stack(degrees).sum(0).clamp(min=1).unsqueeze(1)


def _edge_type(side: int, relation: str) -> Canonical:
    name = REVERSE + relation if side == USER else relation
    return NODE_TYPES[1 - side], name, NODE_TYPES[side]
