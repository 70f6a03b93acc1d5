"""MBGNN: the multi-behavior graph attention network, dense over recent-K neighborhoods.

    WindowView ──► neighbors.sample ──► Nodes ──► [MBGNN] ──► user and item vectors ──► loss, embed

Shape suffixes: N target nodes, n targets that have a neighbor in the relation at hand, S source nodes,
R relations, K neighbors, H heads, C channels of a head, D = H·C channels, F time features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftgraph.model.options import TrainerOptions
from driftgraph.stream.window.adjacency import ITEM, USER

NEGATIVE_SLOPE = 0.2  # of the attention's LeakyReLU, as in the GAT paper
TIME_FEATURES = 4
DECAY = 0.8  # worth of an item of a user's history against the one after it, before training
SCALE = 4.0  # of a user, before training: makes logits of dot products of closed_form's vectors
PLACES = 20  # of neighbors with a bias of their own; later ones have that of the last
POPULARITY_FEATURES = 2  # fast and slow half-life


@dataclass(frozen=True, slots=True)
class Edges:
    """The neighborhoods of one relation, for the n of N targets that have at least one neighbor."""

    target_n: Tensor  # int64, which target, ascending
    source_nK: Tensor  # int64, which source node; 0 where the mask says no
    mask_nK: Tensor  # bool; the first of each row is always real
    age_nK: Tensor  # float32, log1p of the seconds behind the target's newest neighbor
    place_nK: Tensor  # int64, 0 for the newest neighbor of the target over all relations


@dataclass(frozen=True, slots=True)
class Bag:
    """The same neighbors without padding and without their relation: node i has those from offset_N[i] on."""

    source_E: Tensor  # int64, E neighbors of all nodes, node after node
    offset_N: Tensor  # int64


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes of one side with their sampled neighborhoods, down to the item rows.

    ``source`` are the nodes that the edges point at; None where these are rows of the item table.
    """

    side: int
    row_N: Tensor  # int64, rows of the item table (side ITEM); only the length counts for users
    edges: tuple[Edges, ...]  # one for each relation; empty for a leaf
    source: Nodes | None
    bag: Bag | None = None  # of users


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

    def forward(self, target_ND: Tensor, values: list[Tensor], edges: tuple[Edges, ...]) -> Tensor:
        """Aggregate ``values[r]`` [n, K, D], the source vectors gathered for ``edges[r]``, into [N, D]."""
        out_ND = torch.zeros_like(target_ND)
        logits = [
            self._logits(r, target_ND.index_select(0, edge.target_n), value_nKD, edge)
            for r, (edge, value_nKD) in enumerate(zip(edges, values, strict=True))
        ]
        shares = joint_shares(logits, edges, len(target_ND)) if self.use_importance else _shares(logits)
        for r, (edge, value_nKD) in enumerate(zip(edges, values, strict=True)):
            pooled_nHD = shares[r].to(value_nKD.dtype).transpose(1, 2) @ value_nKD
            message_nD = torch.einsum("nhd,dhc->nhc", pooled_nHD, self.weight_RDHC[r]).flatten(1)
            out_ND = out_ND.index_add(0, edge.target_n, message_nD.to(out_ND.dtype))
        return out_ND

    def _logits(self, r: int, target_nD: Tensor, value_nKD: Tensor, edge: Edges) -> Tensor:
        """z of one relation, [n, K, H]; −inf where there is no neighbor."""
        weight_DHC = self.weight_RDHC[r]
        key_DH = torch.einsum("dhc,hc->dh", weight_DHC, self.attend_source_RHC[r])
        query_DH = torch.einsum("dhc,hc->dh", weight_DHC, self.attend_target_RHC[r])
        logit_nKH = value_nKD @ key_DH + (target_nD @ query_DH).unsqueeze(1)
        logit_nKH = functional.leaky_relu(logit_nKH, NEGATIVE_SLOPE)
        if self.use_time:
            logit_nKH = logit_nKH + time_features(edge.age_nK) @ self.time_RFH[r]
            logit_nKH = logit_nKH + functional.embedding(edge.place_nK.clamp(max=PLACES - 1), self.place_PH)
        if self.use_importance:
            logit_nKH = logit_nKH + self.importance_R[r]
        return full(logit_nKH).masked_fill(~edge.mask_nK.unsqueeze(2), -torch.inf)


def joint_shares(logits: list[Tensor], edges: tuple[Edges, ...], target_count: int) -> list[Tensor]:
    """β α of each relation, [n, K, H]: the softmax over the neighbors of all relations of a target."""
    if not logits:
        return []
    top_NH = logits[0].new_full((target_count, logits[0].shape[2]), -torch.inf)
    for logit_nKH, edge in zip(logits, edges, strict=True):
        if len(edge.target_n):
            best_nH = logit_nKH.detach().amax(1)
            top_NH[edge.target_n] = torch.maximum(top_NH[edge.target_n], best_nH)
    strengths = [
        torch.exp(logit_nKH - top_NH.index_select(0, edge.target_n).unsqueeze(1))
        for logit_nKH, edge in zip(logits, edges, strict=True)
    ]
    total_NH = torch.zeros_like(top_NH)
    for strength_nKH, edge in zip(strengths, edges, strict=True):
        total_NH = total_NH.index_add(0, edge.target_n, strength_nKH.sum(1))
    return [
        strength_nKH / total_NH.index_select(0, edge.target_n).unsqueeze(1)
        for strength_nKH, edge in zip(strengths, edges, strict=True)
    ]


def _shares(logits: list[Tensor]) -> list[Tensor]:
    """α of each relation, [n, K, H]."""
    return [torch.softmax(logit_nKH, dim=1) for logit_nKH in logits]


def time_features(age_nK: Tensor) -> Tensor:
    """[n, K, F] of a log age: itself, its square and two steps, scaled to be near 1 at a week."""
    scaled = age_nK / math.log1p(7 * 86_400)
    return torch.stack(
        [
            scaled,
            scaled * scaled,
            torch.tanh(age_nK - math.log1p(60)),
            torch.tanh(age_nK - math.log1p(3_600)),
        ],
        -1,
    )


def gathered(source_SD: Tensor, edges: tuple[Edges, ...]) -> list[Tensor]:
    """The source vectors of each relation's edges, [n, K, D]. One gather: a backward costs S·D each time."""
    flat_ED = functional.embedding(torch.cat([edge.source_nK.flatten() for edge in edges]), source_SD)
    parts = torch.split(flat_ED, [edge.source_nK.numel() for edge in edges])
    return [
        part.view(*edge.source_nK.shape, source_SD.shape[1]) for part, edge in zip(parts, edges, strict=True)
    ]


def full(value: Tensor) -> Tensor:
    """At least single precision: under autocast some results are half."""
    return value if value.dtype == torch.float64 else value.float()


class MBGNN(nn.Module):
    """User and item vectors whose dot product ranks.

    A user has no row of its own: it is its recent items, so it has a vector after its first event; their mean
    is h_v in the attention. An item starts as its id row; what its users say is added the more, the fewer
    users there are to learn the row from. The last channel is 1 for a user and the popularity of an item.

    Always true: finite rows give finite vectors, whatever is missing from the neighborhoods.
    """

    def __init__(self, relation_count: int, options: TrainerOptions) -> None:
        super().__init__()
        self.options = options
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
        """[N, D] of users; ``rows_SD`` are the rows of the item table that the leaves index."""
        hidden_ND = self._encode(nodes, len(self.layers), rows_SD) * self.scale
        hidden_ND = full(hidden_ND)
        return torch.cat([hidden_ND[:, :-1], hidden_ND.new_ones(len(hidden_ND), 1)], 1)

    def items(self, nodes: Nodes, rows_SD: Tensor, popularity_NF: Tensor) -> Tensor:
        """[N, D] of items with their log popularity [N, F] (see ``popularity.Popularity``)."""
        own_ND = rows_SD.index_select(0, nodes.row_N)
        bias_N1 = own_ND[:, -1:]
        if self.options.popularity:
            bias_N1 = bias_N1 + (popularity_NF @ self.popularity_F).unsqueeze(1)
        hidden_ND = own_ND
        if self.options.item_neighborhood:
            count_N = own_ND.new_zeros(len(own_ND))
            for edge in nodes.edges:
                count_N = count_N.index_add(0, edge.target_n, edge.mask_nK.sum(1).to(count_N.dtype))
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
        if level == 0:
            assert nodes.bag is not None
            mean_ND = functional.embedding_bag(nodes.bag.source_E, source_SD, nodes.bag.offset_N, mode="mean")
            return mean_ND + self.user_base_D
        before_ND = self._encode(nodes, level - 1, rows_SD)
        values = gathered(source_SD, nodes.edges)
        layer = self.layers[level - 1]
        assert isinstance(layer, nn.ModuleList)
        out_ND: Tensor = layer[nodes.side](before_ND, values, nodes.edges)
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


def untrained(relation_count: int, options: TrainerOptions) -> MBGNN:
    """The network that training begins with: by the seed alone, whatever else draws from torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return MBGNN(relation_count, options)
