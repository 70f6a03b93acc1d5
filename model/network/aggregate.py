"""From the vectors of neighbors to one vector a target: the mean, and the sums by attention.

    Edges ──► [mean, attend] ──► network

On a CPU these are the loops of ``aggregate_kernels`` with their gradients. Elsewhere they are operations on
tensors of padded neighborhoods, which the loops are tested against.

Shape suffixes: N targets, K neighbors over all relations, S source nodes, R relations, H heads, D channels of
a vector, F time features, P places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from driftgraph.model.network.aggregate_kernels import (
    Hood,
    Slopes,
    Switches,
    Terms,
    attend_backward,
    attend_forward,
    mean_backward,
    mean_forward,
)


@dataclass(frozen=True, slots=True)
class Edges:
    """The neighbors of N targets over all relations, newest first: a neighbor's place is its column."""

    source_NK: Tensor  # int64, which source node; 0 where the mask says no
    relation_NK: Tensor  # uint8
    mask_NK: Tensor  # bool
    age_NK: Tensor  # float32, log of 1 + the seconds behind the target's newest neighbor

    def to(self, device: torch.device) -> Edges:
        """The same on a device."""
        return Edges(*(getattr(self, name).to(device) for name in self.__slots__))


class Logits(NamedTuple):
    """What attention is made of: the logit z of neighbor k, by relation r, of target n is

    LeakyReLU( query_nr + key_r · h_s ) + feature_nk · time_r + place_k + importance_r
    """

    query_NRH: Tensor
    key_RDH: Tensor
    feature_NKF: Tensor | None  # None: without time and place
    time_RFH: Tensor
    place_PH: Tensor
    importance_R: Tensor


def attend(source_SD: Tensor, logits: Logits, edges: Edges, *, joint: bool, negative: float) -> Tensor:
    """[H, N, R, D]: the vectors of each relation's neighbors, weighted by the softmax of their logits.

    Args:
        source_SD: Vectors of the source nodes.
        logits: Their parts.
        edges: Who is whose neighbor.
        joint: The softmax is over the neighbors of all relations; otherwise over those of each one.
        negative: What LeakyReLU makes of -1, as a positive number.
    """
    if source_SD.device.type != "cpu":
        return attend_by_tensors(source_SD, logits, edges, joint=joint, negative=negative)
    feature_NKF = logits.feature_NKF
    switches = Switches(feature_NKF is not None, joint, negative)
    if feature_NKF is None:
        feature_NKF = source_SD.new_zeros(*edges.source_NK.shape, 0)
    query, key, _, *rest = logits
    terms = (full(term) for term in (source_SD, query, key, feature_NKF, *rest))
    made: Tensor = _Attend.apply(*terms, edges, switches)  # type: ignore[no-untyped-call]
    return made


def mean(source_SD: Tensor, edges: Edges) -> Tensor:
    """[N, D]: the mean of the neighbors of all relations; zeros where there is none."""
    if source_SD.device.type != "cpu":
        return mean_by_tensors(source_SD, edges)
    made: Tensor = _Mean.apply(full(source_SD), edges)  # type: ignore[no-untyped-call]
    return made


def by_relation(vector_ND: Tensor, weight_RDH: Tensor) -> Tensor:
    """[N, R, H]: each vector times the weight of each relation."""
    relations, dim, heads = weight_RDH.shape
    product_NX = vector_ND @ weight_RDH.transpose(0, 1).reshape(dim, relations * heads)
    return full(product_NX).view(len(vector_ND), relations, heads)


def full(value: Tensor) -> Tensor:
    """At least single precision: under autocast some results are half."""
    return value if value.dtype == torch.float64 else value.float()


def attend_by_tensors(
    source_SD: Tensor, logits: Logits, edges: Edges, *, joint: bool, negative: float
) -> Tensor:
    """``attend`` as tensor operations."""
    value_NKD = functional.embedding(edges.source_NK, source_SD)
    key_SRH = by_relation(source_SD, logits.key_RDH)
    key_NKRH = functional.embedding(edges.source_NK, key_SRH.flatten(1)).view(
        *edges.source_NK.shape, *key_SRH.shape[1:]
    )
    z_NKRH = functional.leaky_relu(key_NKRH + logits.query_NRH.unsqueeze(1), negative)
    if logits.feature_NKF is not None:
        places = torch.arange(edges.source_NK.shape[1], device=source_SD.device)
        place_KH = logits.place_PH[places.clamp(max=len(logits.place_PH) - 1)]
        z_NKRH = z_NKRH + torch.einsum("nkf,rfh->nkrh", logits.feature_NKF, logits.time_RFH)
        z_NKRH = z_NKRH + place_KH.unsqueeze(1)
    z_NKRH = z_NKRH + logits.importance_R.unsqueeze(1)
    relation_R = torch.arange(len(logits.importance_R), device=source_SD.device)
    here_NKR = edges.mask_NK.unsqueeze(2) & (edges.relation_NK.unsqueeze(2) == relation_R)
    z_NKRH = z_NKRH.masked_fill(~here_NKR.unsqueeze(3), -torch.inf)
    over = (1, 2) if joint else (1,)
    top = z_NKRH.detach().amax(over, keepdim=True) if edges.source_NK.shape[1] else z_NKRH.new_zeros(())
    strength_NKRH = torch.exp(z_NKRH - top.clamp(min=torch.finfo(z_NKRH.dtype).min))
    total = strength_NKRH.sum(over, keepdim=True)
    share_NKRH = strength_NKRH / (total + (total == 0))
    pooled_NXD = share_NKRH.flatten(2).transpose(1, 2).to(value_NKD.dtype) @ value_NKD
    relations, heads = share_NKRH.shape[2:]
    return pooled_NXD.view(len(value_NKD), relations, heads, source_SD.shape[1]).permute(2, 0, 1, 3)


def mean_by_tensors(source_SD: Tensor, edges: Edges) -> Tensor:
    """``mean`` as tensor operations."""
    value_NKD = functional.embedding(edges.source_NK, source_SD)
    count_N1 = edges.mask_NK.sum(1, keepdim=True).clamp(min=1)
    mean_ND: Tensor = (value_NKD * edges.mask_NK.unsqueeze(2)).sum(1) / count_N1
    return mean_ND


class _Attend(torch.autograd.Function):
    """``attend`` by compiled loops."""

    @staticmethod
    def forward(ctx: Any, source_SD: Tensor, *rest: Any) -> Tensor:
        """``rest`` are the six parts of ``Logits``, the edges and the switches."""
        *terms, edges, switches = rest
        source, *parts = (tensor.detach().contiguous() for tensor in (source_SD, *terms))
        query, key_weight, importance = parts[0], parts[1], parts[-1]
        parts[1] = by_relation(source, key_weight)
        (target_count, width), heads = edges.source_NK.shape, query.shape[2]
        share = query.new_zeros(target_count, width, heads)
        pooled: Tensor = query.new_zeros(heads, target_count, len(importance), source.shape[1])
        scratch = query.new_empty(2, len(importance), heads).numpy()
        arrays = Terms(*(part.numpy() for part in parts))
        attend_forward(
            _hood(edges),
            source.numpy(),
            arrays,
            switches,
            scratch[0],
            scratch[1],
            share.numpy(),
            pooled.numpy(),
        )
        ctx.save_for_backward(source, key_weight, share, *parts)
        ctx.edges, ctx.switches = edges, switches
        return pooled

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """Gradients of the source vectors and of the terms but the time features."""
        (slope_HNRD,) = grad_outputs
        source, key_weight, share, *parts = ctx.saved_tensors
        query, key, _, time, place, importance = parts
        small = [np.zeros(tuple(part.shape)) for part in (time, place, importance)]
        found = [torch.zeros_like(part) for part in (source, query, key)]
        scratch_KH = share.new_empty(share.shape[1:]).numpy()
        scratch_GH = share.new_empty(len(importance), share.shape[2]).numpy()
        attend_backward(
            _hood(ctx.edges),
            source.numpy(),
            Terms(*(part.numpy() for part in parts)),
            ctx.switches,
            share.numpy(),
            slope_HNRD.contiguous().numpy(),
            scratch_KH,
            scratch_GH,
            Slopes(*(part.numpy() for part in found), *small),
        )
        source_slope, query_slope, key_slope = found
        key_slope_SX = key_slope.flatten(1)
        source_slope.addmm_(key_slope_SX, key_weight.transpose(1, 2).flatten(0, 1))
        weight_slope = (source.T @ key_slope_SX).view(-1, *key_slope.shape[1:]).transpose(0, 1)
        made = [torch.from_numpy(part).to(source.dtype) for part in small]
        return source_slope, query_slope, weight_slope, None, *made, None, None


class _Mean(torch.autograd.Function):
    """``mean`` by compiled loops."""

    @staticmethod
    def forward(ctx: Any, source_SD: Tensor, edges: Edges) -> Tensor:
        """See ``mean``."""
        source = source_SD.detach().contiguous()
        made = source.new_zeros(len(edges.source_NK), source.shape[1])
        mean_forward(_hood(edges), source.numpy(), made.numpy())
        ctx.edges, ctx.source_count = edges, len(source)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """The gradient of the source vectors."""
        (slope_ND,) = grad_outputs
        dim = slope_ND.shape[1]
        found, scratch = slope_ND.new_zeros(ctx.source_count, dim), slope_ND.new_empty(dim)
        mean_backward(_hood(ctx.edges), slope_ND.contiguous().numpy(), scratch.numpy(), found.numpy())
        return found, None


def _hood(edges: Edges) -> Hood:
    return Hood(edges.source_NK.numpy(), edges.relation_NK.numpy(), edges.mask_NK.numpy())
