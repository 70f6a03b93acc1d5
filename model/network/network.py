"""MBGNN: the multi-behavior graph attention network, dense over recent-K neighborhoods.

    WindowView ──► neighbors.sample ──► Nodes ──► [MBGNN] ──► user and item vectors ──► loss, embed

Shape suffixes: N target nodes, S source nodes, R relations, K neighbors over all relations, H heads,
C channels of a head, D = H·C channels, F time features, X = R·D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from driftgraph.model.custom import CustomModelError, Targets
from driftgraph.model.network.aggregate import Edges, Logits, attend, by_relation, full, mean
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.arrays import F32
from driftgraph.stream.window.adjacency import ITEM, USER

NEGATIVE_SLOPE = 0.2  # of the attention's LeakyReLU, as in the GAT paper
TIME_FEATURES = 4
DECAY = 0.8  # worth of an item of a user's history against the one after it, before training
SCALE = 4.0  # of a user, before training: makes logits of dot products of closed_form's vectors
PLACES = 20  # of neighbors with a bias of their own; later ones have that of the last
POPULARITY_FEATURES = 2  # fast and slow half-life


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes of one side with their sampled neighborhoods, down to the item rows.

    ``source`` are the nodes that the edges point at; None where these are rows of the item table.
    """

    side: int
    row_N: Tensor  # int64, rows of the item table (side ITEM); only the length counts for users
    edges: Edges | None  # None for a leaf
    source: Nodes | None
    time_ms_N: Tensor  # int64, as of when: every neighbor is strictly before
    event_ms_NK: Tensor | None  # int64, of each neighbor's newest event; 0 where there is no neighbor


class Attention(nn.Module):
    """One layer in one direction, every relation with its own W and a.

        h_v' = Σ_r β_vr Σ_{u∈N_r(v)} α^r_vu W_r h_u
        α^r_vu = softmax over u∈N_r(v) of z^r_vu,   β_vr = Σ_u exp z^r_vu / Σ_r Σ_u exp z^r_vu
        z^r_vu = LeakyReLU( a_rᵀ [W_r h_v ‖ W_r h_u] ) + bias of r + bias of u's place + time

    So β_vr α^r_vu is one softmax over the neighbors of all relations: a node with ten clicks and one purchase
    is not half its purchase. Without ``relation_importance`` β and the bias of r are left out, and it is the
    sum over relations of the paper.

    Always true: a node without neighbors gets zeros; the result depends on a neighbor only through its
    vector, its age and its place.

    Source: Veličković et al., "Graph Attention Networks", ICLR 2018, eq. 1 to 5, a W and a per relation as
    in Schlichtkrull et al., "Modeling Relational Data with GCNs", ESWC 2018. As aᵀ W h = (Wᵀ a)ᵀ h and
    Σ α W h = W Σ α h, W is applied once per node and not once per neighbor.
    """

    def __init__(self, relation_count: int, options: TrainerOptions, *, decay: float = 1.0) -> None:
        """``decay`` is what an untrained layer gives a neighbor against the one before it."""
        super().__init__()
        heads, dim = options.heads, options.dim
        channels = dim // heads
        # Identity: an untrained layer averages its neighbors, which is already a good recommender.
        weight = torch.eye(dim).repeat(relation_count, 1, 1).reshape(relation_count, dim, heads, channels)
        self.weight_RDHC = nn.Parameter(weight)
        self.attend_target_RHC = nn.Parameter(torch.zeros(relation_count, heads, channels))
        self.attend_source_RHC = nn.Parameter(torch.zeros(relation_count, heads, channels))
        self.time_RFH = nn.Parameter(torch.zeros(relation_count, TIME_FEATURES, heads))
        place_P1 = math.log(decay) * torch.arange(PLACES).unsqueeze(1)
        self.place_PH = nn.Parameter(place_P1.repeat(1, heads))
        self.importance_R = nn.Parameter(torch.zeros(relation_count))
        self.use_time, self.use_importance = options.time_encoding, options.relation_importance
        self.time_RFH.requires_grad_(self.use_time)
        self.place_PH.requires_grad_(self.use_time)
        self.importance_R.requires_grad_(self.use_importance)

    def forward(self, target_ND: Tensor, source_SD: Tensor, edges: Edges) -> Tensor:
        """[N, D]: the vectors of the targets' neighbors, aggregated."""
        key_RDH = torch.einsum("rdhc,rhc->rdh", self.weight_RDHC, self.attend_source_RHC)
        query_RDH = torch.einsum("rdhc,rhc->rdh", self.weight_RDHC, self.attend_target_RHC)
        logits = Logits(
            by_relation(target_ND, query_RDH),
            key_RDH,
            time_features(edges.age_NK) if self.use_time else None,
            self.time_RFH,
            self.place_PH,
            self.importance_R,
        )
        pooled_HNRD = attend(source_SD, logits, edges, joint=self.use_importance, negative=NEGATIVE_SLOPE)
        weight_HXC = self.weight_RDHC.permute(2, 0, 1, 3).flatten(1, 2)
        return torch.bmm(pooled_HNRD.flatten(2), weight_HXC).transpose(0, 1).flatten(1)


def time_features(age_NK: Tensor) -> Tensor:
    """[N, K, F] of a log age: itself, its square and two steps, scaled to be near 1 at a week."""
    scaled = age_NK / math.log1p(7 * 86_400)
    return torch.stack(
        [
            scaled,
            scaled * scaled,
            torch.tanh(age_NK - math.log1p(60)),
            torch.tanh(age_NK - math.log1p(3_600)),
        ],
        -1,
    )


class Network(nn.Module):
    """What training and serving know of a network: ``MBGNN`` is ours, ``CustomNetwork`` anybody's."""

    has_loss = False  # whether training minimizes ``loss`` in the place of ``sampled_softmax``
    not_finite = ""  # which method of a model that is not ours returned NaN or inf, in words

    def __init__(self, relation_count: int, options: TrainerOptions) -> None:
        super().__init__()
        self.options, self.relation_count = options, relation_count

    def users(self, nodes: Nodes, rows_SD: Tensor) -> Tensor:
        """[N, D] of users; ``rows_SD`` are the rows of the item table that the leaves index."""
        raise NotImplementedError

    def items(self, nodes: Nodes, rows_SD: Tensor, popularity_NF: Tensor) -> Tensor:
        """[N, D] of items with their log popularity [N, F] (see ``popularity.Popularity``)."""
        raise NotImplementedError

    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        """The loss that training minimizes in the place of ours, of each example [B]."""
        raise NotImplementedError

    def importance(self) -> dict[str, list[float]]:
        """The learned share of each relation, by side; for reports. Empty where a network has none."""
        return {}

    def blamed(self, reason: str) -> str:
        """A reason with the method that returned NaN or inf since this was asked for the last time."""
        told, self.not_finite = self.not_finite, ""
        return f"{reason}: {told}" if told and reason else reason

    def sound(self, vectors_ND: F32) -> F32:
        """Vectors that are served without a look of the gate.

        Raises:
            CustomModelError: A model that is not ours returned NaN or inf.
        """
        if self.not_finite and not np.isfinite(vectors_ND).all():
            raise CustomModelError(self.blamed("vectors cannot be served"))
        return vectors_ND


class MBGNN(Network):
    """User and item vectors whose dot product ranks.

    A user has no row of its own: it is its recent items, so it has a vector after its first event; their mean
    is h_v in the attention. An item starts as its id row; what its users say is added the more, the fewer
    users there are to learn the row from. The last channel is 1 for a user and the popularity of an item.

    Always true: finite rows give finite vectors, whatever is missing from the neighborhoods.
    """

    def __init__(self, relation_count: int, options: TrainerOptions) -> None:
        super().__init__(relation_count, options)
        self.user_base_D = nn.Parameter(torch.zeros(options.dim))
        self.layers = nn.ModuleList(
            nn.ModuleList(Attention(relation_count, options, decay=decay) for decay in (DECAY, 1.0))
            for _ in range(options.layers)
        )
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.popularity_F = nn.Parameter(torch.tensor([0.7, 0.3]))
        self.cold_share = nn.Parameter(torch.tensor([0.0, 1.0]))  # over log1p of an item's neighbors
        self.popularity_F.requires_grad_(options.popularity)

    def users(self, nodes: Nodes, rows_SD: Tensor) -> Tensor:
        """See ``Network.users``."""
        hidden_ND = self._encode(nodes, len(self.layers), rows_SD) * self.scale
        hidden_ND = full(hidden_ND)
        return torch.cat([hidden_ND[:, :-1], hidden_ND.new_ones(len(hidden_ND), 1)], 1)

    def items(self, nodes: Nodes, rows_SD: Tensor, popularity_NF: Tensor) -> Tensor:
        """See ``Network.items``."""
        own_ND = rows_SD.index_select(0, nodes.row_N)
        bias_N1 = own_ND[:, -1:]
        if self.options.popularity:
            bias_N1 = bias_N1 + (popularity_NF @ self.popularity_F).unsqueeze(1)
        hidden_ND = own_ND
        if self.options.item_neighborhood:
            assert nodes.edges is not None
            count_N = nodes.edges.mask_NK.sum(1).to(own_ND.dtype)
            share_N = torch.sigmoid(self.cold_share[0] - self.cold_share[1] * torch.log1p(count_N))
            around_ND = self._encode(nodes, len(self.layers), rows_SD)
            if self.options.skip:
                around_ND = around_ND - own_ND  # the id row is added in full, here once
            hidden_ND = own_ND + share_N.unsqueeze(1) * full(around_ND)
        return torch.cat([hidden_ND[:, :-1], bias_N1], 1)

    def _encode(self, nodes: Nodes, level: int, rows_SD: Tensor) -> Tensor:
        """h^(level) of ``nodes``; level 0 is the id row of an item and the mean history of a user."""
        if level == 0 and nodes.side == ITEM:
            return rows_SD.index_select(0, nodes.row_N)
        if nodes.source is None:
            source_SD = rows_SD
        else:
            source_SD = self._encode(nodes.source, max(level - 1, 0), rows_SD)
        assert nodes.edges is not None
        if level == 0:
            return mean(source_SD, nodes.edges) + self.user_base_D
        before_ND = self._encode(nodes, level - 1, rows_SD)
        layer = self.layers[level - 1]
        assert isinstance(layer, nn.ModuleList)
        out_ND: Tensor = layer[nodes.side](before_ND, source_SD, nodes.edges)
        out_ND = ACTIVATIONS[self.options.activation](out_ND)
        if level == 1 and nodes.side == USER:  # the mean of its items beside it would drown the newest
            return out_ND + self.user_base_D
        return before_ND + out_ND if self.options.skip else out_ND

    def importance(self) -> dict[str, list[float]]:
        """The learned share of each relation in the first layer, by side; for reports."""
        layer = self.layers[0]
        assert isinstance(layer, nn.ModuleList)
        shares: dict[str, list[float]] = {}
        for name, side in (("user", USER), ("item", ITEM)):
            attention = layer[side]
            assert isinstance(attention, Attention)
            shares[name] = torch.softmax(attention.importance_R.detach().float(), 0).tolist()
        return shares


ACTIVATIONS = {
    "none": torch.nn.Identity(),
    "elu": torch.nn.ELU(),
    "leaky_relu": torch.nn.LeakyReLU(NEGATIVE_SLOPE),
}
