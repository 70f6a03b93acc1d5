"""One batch as tensors, and its loss: what a training step and the gate's holdouts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.custom import Targets
from driftgraph.model.examples.examples import Batch
from driftgraph.model.network.loss import info_nce, mean_of, sampled_logistic, sampled_softmax
from driftgraph.model.network.neighbors import RowNumbers, moved, sample, touched
from driftgraph.model.network.network import Network, Nodes
from driftgraph.stream.arrays import F64
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

CONTRAST_TEMPERATURE = 0.2  # of InfoNCE, as in SGL
KEPT_SHARE = 0.5  # of a neighborhood, in each of the two views


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch on the device. Indices into the item table are into ``rows_n``, the rows the batch reads."""

    rows_n: Tensor  # int64, distinct
    users: Nodes
    items: Nodes
    popularity_CF: Tensor
    log_q_C: Tensor
    positive_B: Tensor
    excluded_n: Tensor  # places b · C + c
    weight_B: Tensor
    relation_B: Tensor  # int64


def inputs_of(
    view: WindowView, cut: Cut, batch: Batch, network: Network, behavior_weight_R: Tensor, table_rows: int
) -> Inputs:
    """Sample the neighborhoods of a batch: users before their own event, items before the batch's first."""
    options, device = network.options, behavior_weight_R.device
    fanout, pool = options.fanout, options.uniform_pool
    users = sample(
        view, cut, side=USER, rows=batch.user, times_ms=batch.time_ms, depth=options.layers,
        fanout=fanout, pool=pool,
    )  # fmt: skip
    items = sample(
        view,
        cut,
        side=ITEM,
        rows=batch.candidate_C.astype(np.uint32),
        times_ms=np.full(len(batch.candidate_C), batch.start_ms, np.int64),
        depth=options.layers if options.item_neighborhood else 0,
        fanout=fanout,
        pool=pool,
    )
    numbers = RowNumbers(table_rows)
    users, items = numbers.localize(users), numbers.localize(items)
    rows_n = numbers.rows_n
    positive = np.searchsorted(batch.candidate_C, batch.item.astype(np.int64))
    relation_B = torch.from_numpy(batch.relation.astype(np.int64)).to(device)
    return Inputs(
        rows_n.to(device),
        moved(users, device),
        moved(items, device),
        torch.from_numpy(batch.popularity_CF).to(device),
        torch.from_numpy(batch.log_q_C).to(device),
        torch.from_numpy(positive).to(device),
        touched(users, items.row_N, len(rows_n)).to(device),
        behavior_weight_R[relation_B],
        relation_B,
    )


def batch_loss(
    network: Network,
    inputs: Inputs,
    rows_nD: Tensor,
    *,
    reduced: bool = True,
    negative_BK: Tensor | None = None,
) -> Tensor:
    """The loss of a batch given its rows of the item table.

    With ``negative_BK`` (``drawn_negatives``) an example is compared with its own negatives alone.
    Not ``reduced`` it is what the gate judges by: of each example [B], and never a network's own loss.
    """
    user_BD = network.users(inputs.users, rows_nD)
    item_CD = network.items(inputs.items, rows_nD, inputs.popularity_CF)
    if reduced and network.has_loss:
        excluded_BC = torch.zeros(len(user_BD), len(item_CD), dtype=torch.bool, device=user_BD.device)
        excluded_BC.view(-1)[inputs.excluded_n] = True
        excluded_BC.scatter_(1, inputs.positive_B.unsqueeze(1), value=False)
        targets = Targets(inputs.positive_B, excluded_BC, inputs.log_q_C)
        return mean_of(network.loss(user_BD, item_CD, targets), inputs.weight_B)
    if negative_BK is not None:
        return sampled_logistic(
            user_BD, item_CD, positive_B=inputs.positive_B, negative_BK=negative_BK, weight_B=inputs.weight_B
        )
    return sampled_softmax(
        user_BD,
        item_CD,
        positive_B=inputs.positive_B,
        log_q_C=inputs.log_q_C,
        excluded_n=inputs.excluded_n,
        weight_B=inputs.weight_B,
        temperature=network.options.temperature,
        reduced=reduced,
    )


def drawn_negatives(inputs: Inputs, count_R: Tensor, generator: torch.Generator) -> Tensor:
    """[B, K] candidates that are the negatives of each example, ``count_R[r]`` of an event of relation r.

    An item is drawn about as often as any other, whether it is a candidate because somebody touched it or
    because it was drawn for the batch. A drawn item that the user has touched is none (−1).
    """
    count_B = count_R[inputs.relation_B]
    shape = len(count_B), int(count_R.max())
    log_q_C = inputs.log_q_C.cpu()
    worth_C = torch.exp(-torch.maximum(log_q_C, log_q_C.median()))  # else one rare item would be most draws
    drawn_BK = torch.multinomial(worth_C, shape[0] * shape[1], replacement=True, generator=generator)
    drawn_BK = drawn_BK.view(shape).to(count_B.device)
    touched_BC = torch.zeros(shape[0], len(worth_C), dtype=torch.bool, device=count_B.device)
    touched_BC.view(-1)[inputs.excluded_n] = True
    touched_BC.scatter_(1, inputs.positive_B.unsqueeze(1), value=True)
    none_BK = touched_BC.gather(1, drawn_BK)
    none_BK |= torch.arange(shape[1], device=count_B.device) >= count_B.unsqueeze(1)
    return drawn_BK.masked_fill(none_BK, -1)


def popularity_losses(inputs: Inputs) -> list[Tensor]:
    """The loss of each example [B] if popularity alone ranked, for each of its half-lives.

    Its log is the best score that popularity can give: the softmax of it is the share of each item.
    """
    one_B1 = inputs.popularity_CF.new_ones(len(inputs.positive_B), 1)
    return [
        sampled_softmax(
            one_B1,
            feature_C.unsqueeze(1),
            positive_B=inputs.positive_B,
            log_q_C=inputs.log_q_C,
            excluded_n=inputs.excluded_n,
            weight_B=inputs.weight_B,
            temperature=1.0,
            reduced=False,
        )
        for feature_C in inputs.popularity_CF.unbind(1)
    ]


@torch.no_grad()
def best_popularity_losses(held: Sequence[Inputs]) -> F64:
    """``popularity_losses`` of several batches, of the half-life with the lower mean."""
    if not held:
        return np.zeros(0)
    by_half_life = zip(*(popularity_losses(inputs) for inputs in held), strict=True)
    losses = [torch.cat(parts).double().cpu().numpy() for parts in by_half_life]
    return min(losses, key=lambda loss_N: float(loss_N.mean()))


def contrast(network: Network, inputs: Inputs, rows_nD: Tensor, generator: torch.Generator) -> Tensor:
    """InfoNCE between two views of each of the batch's items, each with about half of the neighborhood."""
    views = (_thinned(inputs.items, network.relation_count, generator) for _ in range(2))
    one, other = (network.items(view, rows_nD, inputs.popularity_CF)[:, :-1] for view in views)
    return info_nce(one, other, temperature=CONTRAST_TEMPERATURE)


def _thinned(nodes: Nodes, relation_count: int, generator: torch.Generator) -> Nodes:
    """Drop neighbors by chance; the newest of each relation stays, so that no neighborhood becomes empty."""
    edges = nodes.edges
    assert edges is not None
    kept_NK = torch.rand(edges.mask_NK.shape, generator=generator).to(edges.mask_NK.device) < KEPT_SHARE
    for r in range(relation_count):
        here_NK = edges.mask_NK & (edges.relation_NK == r)
        kept_NK |= here_NK & (here_NK.cumsum(1) == 1)
    return replace(nodes, edges=replace(edges, mask_NK=edges.mask_NK & kept_NK))
