"""The article's model in DGL, and the window as a DGL graph: the reference, and the door to any DGL model.

    WindowView ──► [to_dgl] ──► dgl.heterograph ──► Reference, or any DGL module

This module, ``dgl_blocks`` and ``dgl_files`` import DGL. The article's code has a trap that is closed here:
its graph has relations from user to item only, so nothing points at a user, ``HeteroGraphConv`` leaves users
out of its result and a second layer, or a lookup of a user's vector, fails.

Source: the article's ``MBGNN`` (``HeteroGraphConv`` of ``GATConv``); the formula is the one of
``network.Attention``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from driftgraph.model.network.network import NEGATIVE_SLOPE, Attention
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

os.environ.setdefault("DGLBACKEND", "pytorch")  # or DGL writes a file into the home folder and prints

from dgl.convert import heterograph
from dgl.nn.pytorch import GATConv, HeteroGraphConv

if TYPE_CHECKING:
    from dgl import DGLGraph

NODE_TYPES = ("user", "item")  # by side
REVERSE = "rev-"


def to_dgl(view: WindowView, cut: Cut) -> DGLGraph:
    """The live events of a cut as a heterograph of both directions.

    Edge types ``("user", r, "item")`` and ``("item", "rev-" + r, "user")`` for every relation r, also one
    without events; one edge for each event, in order of time, with ``edata["time_ms"]`` (int64). Node ids are
    rows of the window and every row is a node, also one without edges. O(live events + rows).
    """
    events = view.events(cut)
    columns: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for r, relation in enumerate(view.relations):
        chosen = events.relation == r
        columns[relation.name] = (
            torch.from_numpy(events.user[chosen].astype(np.int64)),
            torch.from_numpy(events.item[chosen].astype(np.int64)),
            torch.from_numpy(events.time_ms[chosen]),
        )
    return heterograph_of(columns, (view.rows(USER), view.rows(ITEM)))


def heterograph_of(
    columns: Mapping[str, tuple[Tensor, Tensor, Tensor]], node_counts: tuple[int, int]
) -> DGLGraph:
    """The graph of both directions of these edges: users, items and times in ms, by relation."""
    edges: dict[tuple[str, str, str], tuple[Tensor, Tensor]] = {}
    times_ms: dict[tuple[str, str, str], Tensor] = {}
    for name, (user, item, time_ms) in columns.items():
        forward, backward = edge_types(name)
        edges[forward], times_ms[forward] = (user, item), time_ms
        edges[backward], times_ms[backward] = (item, user), time_ms.clone()
    graph: DGLGraph = heterograph(edges, num_nodes_dict=dict(zip(NODE_TYPES, node_counts, strict=True)))
    for edge_type, time_ms in times_ms.items():
        graph.edges[edge_type].data["time_ms"] = time_ms
    return graph


class Reference(nn.Module):
    """The formula by DGL's own parts, one module for each relation and direction and layer.

    Always true: the result has both node types, and a row of zeros (before the activation) for a node that
    nothing points at; with ``copy_from`` of the dense layers it equals them.
    """

    def __init__(
        self,
        relations: Sequence[str],
        *,
        dim: int,
        heads: int,
        layers: int,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads ({heads}), got {dim}")
        self.relations = tuple(relations)
        self.dim, self.activation = dim, activation
        self.layers = nn.ModuleList(
            HeteroGraphConv(
                {
                    edge_type[1]: GATConv(
                        dim,
                        dim // heads,
                        heads,
                        negative_slope=NEGATIVE_SLOPE,
                        bias=False,
                        allow_zero_in_degree=True,
                    )
                    for relation in relations
                    for edge_type in edge_types(relation)
                },
                aggregate="sum",
            )
            for _ in range(layers)
        )

    def forward(self, graph: DGLGraph, feature: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of every node, ``feature`` and result by node type, [nodes, dim]."""
        hidden = feature
        for layer in self.layers:
            found = layer(graph, hidden)
            hidden = {name: found[name].flatten(1) for name in NODE_TYPES}  # heads side by side
            if self.activation is not None:
                hidden = {name: self.activation(value) for name, value in hidden.items()}
        return hidden

    @torch.no_grad()
    def copy_from(self, attention: Attention, *, layer: int, side: int) -> None:
        """Take W and a of every relation from the dense layer that computes the vectors of ``side``."""
        for r, relation in enumerate(self.relations):
            forward, backward = edge_types(relation)
            hetero = self.layers[layer]
            assert isinstance(hetero, HeteroGraphConv)
            conv = hetero.mods[backward[1] if side == USER else forward[1]]
            assert isinstance(conv, GATConv)
            conv.fc.weight.copy_(attention.weight_RDHC[r].flatten(1).T)
            conv.attn_l.copy_(attention.attend_source_RHC[r].unsqueeze(0))
            conv.attn_r.copy_(attention.attend_target_RHC[r].unsqueeze(0))


def edge_types(relation: str) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """What points at items, and what points at users."""
    user, item = NODE_TYPES[USER], NODE_TYPES[ITEM]
    return (user, relation, item), (item, REVERSE + relation, user)
