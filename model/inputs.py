"""One batch as tensors, and its loss: what a training step and the gate's holdouts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from driftgraph.model.examples import Batch
from driftgraph.model.loss import info_nce, sampled_softmax
from driftgraph.model.neighbors import item_rows, localize, sample
from driftgraph.model.network import MBGNN, Nodes
from driftgraph.stream.arrays import F64
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

CONTRAST_TEMPERATURE = 0.2  # of InfoNCE, as in SGL
KEPT_SHARE = 0.5  # of a history, in each of the two views


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch on the device. Indices into the item table are into ``rows_n``, the rows the batch reads."""

    rows_n: Tensor  # int64, distinct, ascending
    users: Nodes
    items: Nodes
    popularity_CF: Tensor
    log_q_C: Tensor
    positive_B: Tensor
    excluded_BC: Tensor
    weight_B: Tensor


def inputs_of(
    view: WindowView, cut: Cut, batch: Batch, network: MBGNN, behavior_weight_R: Tensor, table_rows: int
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
    read = torch.zeros(table_rows, dtype=torch.bool)
    for rows in item_rows(users) + item_rows(items):
        read[rows.flatten()] = True
    rows_n = read.nonzero().squeeze(1)
    place = torch.zeros(table_rows, dtype=torch.int64)
    place[rows_n] = torch.arange(len(rows_n))
    positive = np.searchsorted(batch.candidate_C, batch.item.astype(np.int64))
    return Inputs(
        rows_n.to(device),
        localize(users, place, device),
        localize(items, place, device),
        torch.from_numpy(batch.popularity_CF).to(device),
        torch.from_numpy(batch.log_q_C).to(device),
        torch.from_numpy(positive).to(device),
        _touched(users, batch, table_rows).to(device),
        behavior_weight_R[torch.from_numpy(batch.relation.astype(np.int64)).to(device)],
    )


def batch_loss(network: MBGNN, inputs: Inputs, rows_nD: Tensor, *, reduced: bool = True) -> Tensor:
    """The loss of a batch given its rows of the item table; of each example if not ``reduced``."""
    user_BD = network.users(inputs.users, rows_nD)
    item_CD = network.items(inputs.items, rows_nD, inputs.popularity_CF)
    return sampled_softmax(
        user_BD,
        item_CD,
        positive_B=inputs.positive_B,
        log_q_C=inputs.log_q_C,
        excluded_BC=inputs.excluded_BC,
        weight_B=inputs.weight_B,
        temperature=network.options.temperature,
        reduced=reduced,
    )


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
            excluded_BC=inputs.excluded_BC,
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


def contrast(network: MBGNN, inputs: Inputs, rows_nD: Tensor, generator: torch.Generator) -> Tensor:
    """InfoNCE between two views of each user, each with about half of the history."""
    one, other = (network.users(_thinned(inputs.users, generator), rows_nD)[:, :-1] for _ in range(2))
    return info_nce(one, other, temperature=CONTRAST_TEMPERATURE)


def _thinned(nodes: Nodes, generator: torch.Generator) -> Nodes:
    """Drop neighbors by chance; the newest of each relation stays, so that no neighborhood becomes empty."""
    edges = []
    for edge in nodes.edges:
        kept = torch.rand(edge.mask_nK.shape, generator=generator).to(edge.mask_nK.device) < KEPT_SHARE
        kept = functional.pad(kept[:, 1:], (1, 0), value=True) if kept.shape[1] else kept
        edges.append(replace(edge, mask_nK=edge.mask_nK & kept))
    return replace(nodes, edges=tuple(edges))


def _touched(users: Nodes, batch: Batch, table_rows: int) -> Tensor:
    """[B, C] bool: candidates in the sampled history of the user, which are no negatives for it."""
    place = torch.full((table_rows,), -1, dtype=torch.int64)
    place[torch.from_numpy(batch.candidate_C)] = torch.arange(len(batch.candidate_C))
    touched_BC = torch.zeros(len(batch.user), len(batch.candidate_C), dtype=torch.bool)
    for edge in users.edges:
        rows_nK = edge.source_nK if users.source is None else users.source.row_N[edge.source_nK]
        at_nK = place[rows_nK]
        hit_nK = edge.mask_nK & (at_nK >= 0)
        touched_BC[edge.target_n.unsqueeze(1).expand_as(at_nK)[hit_nK], at_nK[hit_nK]] = True
    return touched_BC
