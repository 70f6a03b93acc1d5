"""The model's training step in a library of graph networks: what DGL and PyG have in common.

    examples.Batch ──► Library.hop, three times ──► Blocks ──► Network ──► model.loss ──► Adam

A library samples and passes messages. Candidates, loss, clipping and both optimizers are the model's own, so
that a difference in time is one of sampling and of the network. Stock layers know no ages and no importance
of relations: the model is compared without these two options, and then computes the same.

Shape suffixes: N target nodes, S source nodes, B examples, C candidates, D channels, E edges, n rows read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from driftgraph.model.examples.examples import Batch
from driftgraph.model.network.aggregate import Edges
from driftgraph.model.network.inputs import Inputs, batch_loss
from driftgraph.model.network.item_table import ItemTable
from driftgraph.model.network.loss import sampled_softmax
from driftgraph.model.network.network import MBGNN, Attention
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.adjacency import ITEM, USER

Edge = tuple[Tensor, Tensor]  # int64: sources and targets of one relation


class Library(Protocol):
    """One library. A graph is its own form of a bipartite graph of every relation."""

    sampler: str  # what it samples with, in words

    def hop(self, side: int, nodes_N: Tensor, fanout: int) -> tuple[Any, Tensor]:
        """Neighbors by relation of distinct nodes of a side, ascending: the graph, and its sources' rows."""
        ...

    def graph(self, side: int, edges: Sequence[Edge], source_count: int, target_count: int) -> Any:
        """A graph of given edges, one pair for each relation; the targets are of ``side``."""
        ...

    def edges(self, graph: Any) -> list[Edge]:
        """The edges of a graph."""
        ...

    def attention(self, side: int, weights: Attention) -> nn.Module:
        """The library's GAT of every relation, summed, with W and a as in ``weights``.

        Its ``forward`` takes graph, sources [S, D] and targets [N, D], and returns [N, D].
        """
        ...

    def mean(self, graph: Any, source_SD: Tensor) -> Tensor:
        """[N, D]: the mean over the edges of all relations; zeros without one."""
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """A batch as graphs. ``*_source`` are the places of a graph's sources in ``rows_n``."""

    rows_n: Tensor  # int64, the rows of the item table that the batch reads, ascending
    history: Any  # items ──► users of the examples
    history_source: Tensor
    user_B: Tensor  # which target of ``history`` is the user of each example
    around: Any  # users ──► candidates
    past: Any  # items ──► those users
    past_source: Tensor
    candidate_C: Tensor  # places in ``rows_n``
    popularity_CF: Tensor
    log_q_C: Tensor
    positive_B: Tensor
    excluded_n: Tensor  # places b · C + c
    weight_B: Tensor


class Network(nn.Module):
    """``MBGNN`` with one layer, its two attentions being the library's."""

    def __init__(self, library: Library, model: MBGNN) -> None:
        super().__init__()
        layer = model.layers[0]
        assert isinstance(layer, nn.ModuleList)
        of_user, of_item = layer[USER], layer[ITEM]
        assert isinstance(of_user, Attention)
        assert isinstance(of_item, Attention)
        self.library, self.relation_count = library, model.relation_count
        self.of_user = library.attention(USER, of_user)
        self.of_item = library.attention(ITEM, of_item)
        self.user_base_D = copy.deepcopy(model.user_base_D)
        self.scale = copy.deepcopy(model.scale)
        self.popularity_F = copy.deepcopy(model.popularity_F)
        self.cold_share = copy.deepcopy(model.cold_share)

    def forward(self, blocks: Blocks, rows_nD: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the users of the examples [B, D] and of the candidates [C, D]."""
        return self._users(blocks, rows_nD), self._items(blocks, rows_nD)

    def _users(self, blocks: Blocks, rows_nD: Tensor) -> Tensor:
        source_SD = rows_nD.index_select(0, blocks.history_source)
        before_ND = self.library.mean(blocks.history, source_SD) + self.user_base_D
        hidden_ND = (self.of_user(blocks.history, source_SD, before_ND) + self.user_base_D) * self.scale
        vector_ND = torch.cat([hidden_ND[:, :-1], hidden_ND.new_ones(len(hidden_ND), 1)], 1)
        return vector_ND.index_select(0, blocks.user_B)

    def _items(self, blocks: Blocks, rows_nD: Tensor) -> Tensor:
        own_CD = rows_nD.index_select(0, blocks.candidate_C)
        past_SD = rows_nD.index_select(0, blocks.past_source)
        user_SD = self.library.mean(blocks.past, past_SD) + self.user_base_D
        around_CD = self.of_item(blocks.around, user_SD, own_CD)
        target_E = torch.cat([target for _, target in self.library.edges(blocks.around)])
        count_C = torch.bincount(target_E, minlength=len(own_CD))
        share_C = torch.sigmoid(self.cold_share[0] - self.cold_share[1] * torch.log1p(count_C))
        hidden_CD = own_CD + share_C.unsqueeze(1) * around_CD
        bias_C1 = own_CD[:, -1:] + (blocks.popularity_CF @ self.popularity_F).unsqueeze(1)
        return torch.cat([hidden_CD[:, :-1], bias_C1], 1)


class Peer:
    """The same model in a library: network, rows and optimizers of its own, begun from those of a trainer."""

    def __init__(self, library: Library, model: nn.Module, table: ItemTable) -> None:
        assert isinstance(model, MBGNN)
        self.library, self.options = library, model.options
        self.network = Network(library, model)
        self.table = copy.deepcopy(table)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=self.options.network_learning_rate)

    def sampled(self, batch: Batch) -> Blocks:
        """The batch with neighborhoods of the library's sampler."""
        options, hop = self.options, self.library.hop
        users, user_B = np.unique(batch.user.astype(np.int64), return_inverse=True)
        candidate_C = torch.from_numpy(batch.candidate_C)
        history, history_rows = hop(USER, torch.from_numpy(users), options.user_fanout)
        around, around_users = hop(ITEM, candidate_C, options.item_fanout)
        past, past_rows = hop(USER, around_users, options.history_fanout)
        read = torch.zeros(self.table.rows, dtype=torch.bool)
        for rows in (candidate_C, history_rows, past_rows):
            read[rows] = True
        rows_n = read.nonzero().squeeze(1)
        place = torch.zeros(self.table.rows, dtype=torch.int64)
        place[rows_n] = torch.arange(len(rows_n))
        place_C, example = place[candidate_C], torch.from_numpy(user_B)
        touched_NC = self._touched(history, place[history_rows], place_C, len(rows_n), len(users))
        return Blocks(
            rows_n,
            history,
            place[history_rows],
            example,
            around,
            past,
            place[past_rows],
            place_C,
            torch.from_numpy(batch.popularity_CF),
            torch.from_numpy(batch.log_q_C),
            torch.from_numpy(np.searchsorted(batch.candidate_C, batch.item.astype(np.int64))),
            torch.from_numpy(np.flatnonzero(touched_NC.index_select(0, example).numpy())),
            torch.ones(len(example)),
        )

    def given(self, inputs: Inputs) -> Blocks:
        """The batch with the very neighborhoods that the model has."""
        users, items = inputs.users, inputs.items
        assert items.source is not None
        relations = self.network.relation_count
        histories = [_by_relation(nodes.edges, relations) for nodes in (users, items, items.source)]
        count = len(items.source.row_N)
        graph, rows, every = self.library.graph, len(inputs.rows_n), torch.arange(len(inputs.rows_n))
        return Blocks(
            inputs.rows_n,
            graph(USER, histories[0], rows, len(users.row_N)),
            every,
            torch.arange(len(users.row_N)),
            graph(ITEM, histories[1], count, len(items.row_N)),
            graph(USER, histories[2], rows, count),
            every,
            items.row_N,
            inputs.popularity_CF,
            inputs.log_q_C,
            inputs.positive_B,
            inputs.excluded_n,
            inputs.weight_B,
        )

    def loss(self, blocks: Blocks, rows_nD: Tensor) -> Tensor:
        """The model's loss of the batch."""
        user_BD, item_CD = self.network(blocks, rows_nD)
        return sampled_softmax(
            user_BD,
            item_CD,
            positive_B=blocks.positive_B,
            log_q_C=blocks.log_q_C,
            excluded_n=blocks.excluded_n,
            weight_B=blocks.weight_B,
            temperature=self.options.temperature,
        )

    def step(self, blocks: Blocks) -> float:
        """Forward, backward, clip, and a step of the weights and of the rows."""
        rows_nD = self.table.weight.index_select(0, blocks.rows_n).requires_grad_()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(blocks, rows_nD)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([rows_nD, *self.network.parameters()], self.options.clip_norm)
        self.optimizer.step()
        assert rows_nD.grad is not None
        self.table.step(blocks.rows_n, rows_nD.grad, self.options.learning_rate)
        return float(loss.detach())

    def _touched(self, history: Any, source: Tensor, place_C: Tensor, rows: int, users: int) -> Tensor:
        """[users, C] bool: candidates in a user's sampled history, which are no negatives for it."""
        candidate_n = torch.full((rows,), -1, dtype=torch.int64)
        candidate_n[place_C] = torch.arange(len(place_C))
        touched_NC = torch.zeros(users, len(place_C), dtype=torch.bool)
        for source_E, target_E in self.library.edges(history):
            at_E = candidate_n[source[source_E]]
            touched_NC[target_E[at_E >= 0], at_E[at_E >= 0]] = True
        return touched_NC


def _by_relation(edges: Edges | None, relation_count: int) -> list[Edge]:
    assert edges is not None
    target_NK = torch.arange(len(edges.mask_NK)).unsqueeze(1).expand_as(edges.mask_NK)
    chosen = [edges.mask_NK & (edges.relation_NK == r) for r in range(relation_count)]
    return [(edges.source_NK[one], target_NK[one]) for one in chosen]


def difference(trainer: Trainer, peer: Peer, inputs: Inputs) -> float:
    """How far loss and row gradient are from those of the model, relative, given the same neighborhoods."""
    found = []
    losses: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda rows_nD: batch_loss(trainer.network, inputs, rows_nD),
        lambda rows_nD: peer.loss(peer.given(inputs), rows_nD),
    )
    for loss_of in losses:
        rows_nD = trainer.table.weight.index_select(0, inputs.rows_n).requires_grad_()
        loss = loss_of(rows_nD)
        (gradient_nD,) = torch.autograd.grad(loss, [rows_nD])
        found.append((float(loss.detach()), gradient_nD))
    (ours, our_nD), (theirs, their_nD) = found
    far = torch.linalg.vector_norm(our_nD - their_nD) / torch.linalg.vector_norm(our_nD)
    return max(abs(ours - theirs) / abs(ours), float(far))
