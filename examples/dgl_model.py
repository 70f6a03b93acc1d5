"""A DGL module as the model: a heterogeneous GAT, one ``GATConv`` for each behavior and direction.

    driftgraph.toml:  [model]
                      custom = "examples.dgl_model:HeteroGat"
                      backend = "dgl"

``forward`` takes blocks and features as every DGL model for mini-batches does, and
``driftgraph.model.network.dgl_blocks`` says what is in them.
"""

from collections.abc import Sequence

import torch
from dgl import DGLGraph
from dgl.nn.pytorch import GATConv, HeteroGraphConv
from torch import Tensor, nn

from driftgraph.model.options import TrainerOptions

SCALE = 4.0  # of a user before training: scores should be log-probabilities


class HeteroGat(nn.Module):
    """Each layer adds to a node what attention makes of its neighbors, summed over the behaviors."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__()
        names = [name for relation in relations for name in (relation, f"rev-{relation}")]
        channels = options.dim // options.heads
        self.layers = nn.ModuleList(
            HeteroGraphConv(
                {
                    name: GATConv(options.dim, channels, options.heads, allow_zero_in_degree=True)
                    for name in names
                },
                aggregate="sum",
            )
            for _ in range(options.layers)
        )
        self.share = nn.Parameter(torch.zeros(options.layers))  # of the neighbors, before training
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.popularity_F = nn.Parameter(torch.tensor([0.7, 0.3]))

    def forward(self, blocks: Sequence[DGLGraph], features: dict[str, Tensor]) -> dict[str, Tensor]:
        """[nodes, dim] by node type; the last number of an item is its bias."""
        hidden = features
        for block, layer, share in zip(blocks, self.layers, self.share, strict=True):
            found = layer(block, hidden)  # a node type without an edge is not in it
            hidden = {name: hidden[name][: block.num_dst_nodes(name)] for name in block.dsttypes}
            hidden |= {name: hidden[name] + share * found[name].flatten(1) for name in found}
        vectors = {"user": self.scale * hidden["user"], "item": hidden["item"]}
        log_popularity = blocks[-1].dstnodes["item"].data.get("popularity")
        if log_popularity is not None:
            bias = hidden["item"][:, -1] + log_popularity @ self.popularity_F
            vectors["item"] = torch.cat([vectors["item"][:, :-1], bias.unsqueeze(1)], 1)
        return vectors
