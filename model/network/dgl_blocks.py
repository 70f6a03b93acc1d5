"""The neighborhoods of a batch as DGL blocks, for ``model.backend = "dgl"``.

    Neighborhoods ──► [blocks_of] ──► blocks, features ──► the user's DGL module ──► [vectors_of] ──► vectors

There is a block for each of ``model.layers``, the input's first, as in DGL's own mini-batches (message flow
graphs): the targets of a block are the sources of the next one, and the first sources of each node type are
its targets. Every block has the node types ``user`` and ``item`` and the edge types ``("user", r, "item")``
and ``("item", "rev-" + r, "user")`` of every behavior r. Edges have ``data["time_ms"]``, the time of the
event (int64), which is before ``dstnodes[…].data["time_ms"]``. The items to be encoded have
``dstnodes["item"].data["popularity"]`` in the last block, the log of their recent popularity, [N, F].

Shape suffixes as in ``custom``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from driftgraph.model.custom import Neighborhoods
from driftgraph.model.network.dgl_reference import NODE_TYPES, edge_types  # first: it sets DGL's backend

from dgl.convert import create_block  # isort: skip

if TYPE_CHECKING:
    from dgl import DGLGraph

Edge = tuple[Tensor, Tensor, Tensor]  # source, target, time_ms


def vectors_of(module: nn.Module, relations: Sequence[str], layers: int, nodes: Neighborhoods) -> object:
    """What the module gives the nodes; zeros where no edge of the batch points at one of them.

    ``HeteroGraphConv`` leaves a node type that nothing points at out of its result.
    """
    blocks, features = blocks_of(nodes, relations, layers)
    found = module(blocks, features)
    if not isinstance(found, dict):
        raise TypeError(f"it returned {type(found).__name__}, expected a dict of vectors by node type")
    if not nodes.mask_NK.any():
        return found.get(NODE_TYPES[nodes.side], torch.zeros_like(nodes.feature_ND))
    return found[NODE_TYPES[nodes.side]]


def blocks_of(
    nodes: Neighborhoods, relations: Sequence[str], layers: int
) -> tuple[list[DGLGraph], dict[str, Tensor]]:
    """The blocks, and the features of the first one's sources by node type, [sources, D]."""
    levels = _levels(nodes, layers)
    sides = [(nodes.side + depth) % 2 for depth in range(layers + 1)]
    features = [level.feature_ND for level in levels]
    used, neighbor = _used(levels[-1])
    features.append(levels[-1].source_SD.index_select(0, used))
    neighbors = [*(level.neighbor_NK for level in levels[:-1]), neighbor]
    sizes = [len(feature) for feature in features]
    first = [sum(sizes[d] for d in range(depth) if sides[d] == sides[depth]) for depth in range(layers + 1)]
    hops = []
    for depth, level in enumerate(levels):
        target_N = first[depth] + torch.arange(sizes[depth], device=neighbor.device)
        target_NK = target_N.unsqueeze(1).expand_as(level.mask_NK)
        source_NK = first[depth + 1] + neighbors[depth]
        edges: dict[tuple[str, str, str], Edge] = {}
        for r, relation in enumerate(relations):
            kept = level.mask_NK & (level.relation_NK == r)
            edge_type = edge_types(relation)[1 - level.side]
            edges[edge_type] = (source_NK[kept], target_NK[kept], level.event_ms_NK[kept])
        hops.append(edges)

    def count(depths: int) -> dict[str, int]:
        return {
            name: sum(size for size, own in zip(sizes[:depths], sides, strict=False) if own == side)
            for side, name in enumerate(NODE_TYPES)
        }

    blocks = []
    for depths in range(layers, 0, -1):  # of targets
        block = _block(hops[:depths], relations, count(depths + 1), count(depths))
        for side, name in enumerate(NODE_TYPES):
            times_ms = [level.time_ms_N for level in levels[:depths] if level.side == side]
            block.dstnodes[name].data["time_ms"] = torch.cat([nodes.time_ms_N[:0], *times_ms])
        blocks.append(block)
    if nodes.popularity_NF is not None:
        blocks[-1].dstnodes[NODE_TYPES[nodes.side]].data["popularity"] = nodes.popularity_NF
    by_type = {
        name: torch.cat(
            [nodes.feature_ND[:0], *(f for f, own in zip(features, sides, strict=True) if own == side)]
        )
        for side, name in enumerate(NODE_TYPES)
    }
    return blocks, by_type


def _levels(nodes: Neighborhoods, layers: int) -> list[Neighborhoods]:
    """The nodes, their neighbors, and so on: all that have edges pointing at them."""
    levels = [nodes]
    while len(levels) < layers:
        source = levels[-1].source
        assert source is not None
        levels.append(source)
    return levels


def _used(level: Neighborhoods) -> tuple[Tensor, Tensor]:
    """Which sources have an edge, ascending, and the neighbors [N, K] as places among them."""
    used = torch.zeros(len(level.source_SD), dtype=torch.bool, device=level.neighbor_NK.device)
    used[level.neighbor_NK[level.mask_NK]] = True
    place = torch.cumsum(used, 0) - 1
    return used.nonzero().squeeze(1), torch.where(level.mask_NK, place[level.neighbor_NK], 0)


def _block(
    hops: list[dict[tuple[str, str, str], Edge]],
    relations: Sequence[str],
    source_count: dict[str, int],
    target_count: dict[str, int],
) -> DGLGraph:
    nothing = torch.zeros(0, dtype=torch.int64, device=next(iter(hops[0].values()))[0].device)
    edges = {}
    for edge_type in [one for relation in relations for one in edge_types(relation)]:
        parts = [hop[edge_type] for hop in hops if edge_type in hop]
        edges[edge_type] = tuple(
            torch.cat([nothing, *column]) for column in (zip(*parts, strict=True) if parts else [(), (), ()])
        )
    block: DGLGraph = create_block(
        {edge_type: (source, target) for edge_type, (source, target, _) in edges.items()},
        source_count,
        target_count,
    )
    for edge_type, (_, _, time_ms) in edges.items():
        block.edges[edge_type].data["time_ms"] = time_ms
    return block
