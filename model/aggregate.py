"""From the vectors of neighbors to one vector a target: the mean, and the sums by attention.

    Edges ──► [mean, attend] ──► network

On a CPU these are the loops of ``aggregate_kernels`` with their gradients; elsewhere, and as what the loops are
tested against, they are tensor operations over padded neighborhoods.

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

from driftgraph.model import aggregate_kernels as kernels


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


class Terms(NamedTuple):
    """What attention is made of. The logit z of neighbor s at place k, by relation r, of target n is

    LeakyReLU( query_nr + key_sr ) + feature_nk · time_r + place_k + importance_r
    """

    query_NRH: Tensor
    key_SRH: Tensor
    feature_NKF: Tensor | None  # None: without time and place
    time_RFH: Tensor
    place_PH: Tensor
    importance_R: Tensor
    weight_RDHC: Tensor


def attend(source_SD: Tensor, terms: Terms, edges: Edges, *, joint: bool, negative: float) -> Tensor:
    """[N, D]: Σ_r W_r times the neighbors' vectors, weighted by the softmax of their logits; heads side by side.

    Args:
        source_SD: Vectors of the source nodes.
        terms: Weights and parts of the terms.
        edges: Who is whose neighbor.
        joint: The softmax is over the neighbors of all relations; otherwise over those of each one.
        negative: What LeakyReLU multiplies a negative number with.
    """
    if source_SD.device.type != "cpu":
        return attend_by_tensors(source_SD, terms, edges, joint=joint, negative=negative)
    switches = kernels.Switches(terms.feature_NKF is not None, joint, negative)
    if terms.feature_NKF is None:
        terms = terms._replace(feature_NKF=source_SD.new_zeros(*edges.source_NK.shape, 0))
    weight_RHCD = terms.weight_RDHC.permute(0, 2, 3, 1)
    made: Tensor = _Attend.apply(source_SD, *terms[:-1], weight_RHCD, edges, switches)
    return made


def mean(source_SD: Tensor, edges: Edges) -> Tensor:
    """[N, D]: the mean of the neighbors of all relations; zeros where there is none."""
    if source_SD.device.type != "cpu":
        return mean_by_tensors(source_SD, edges)
    made: Tensor = _Mean.apply(source_SD, edges)
    return made


def attend_by_tensors(
    source_SD: Tensor, terms: Terms, edges: Edges, *, joint: bool, negative: float
) -> Tensor:
    """``attend`` as tensor operations."""
    value_NKD = functional.embedding(edges.source_NK, source_SD)
    key_NKRH = functional.embedding(edges.source_NK, terms.key_SRH.flatten(1)).unflatten(
        2, terms.key_SRH.shape[1:]
    )
    z_NKRH = functional.leaky_relu(key_NKRH + terms.query_NRH.unsqueeze(1), negative)
    if terms.feature_NKF is not None:
        places = torch.arange(edges.source_NK.shape[1], device=source_SD.device)
        place_KH = terms.place_PH[places.clamp(max=len(terms.place_PH) - 1)]
        z_NKRH = z_NKRH + torch.einsum("nkf,rfh->nkrh", terms.feature_NKF, terms.time_RFH)
        z_NKRH = z_NKRH + place_KH.unsqueeze(1)
    z_NKRH = z_NKRH + terms.importance_R.unsqueeze(1)
    relation_R = torch.arange(len(terms.importance_R), device=source_SD.device)
    here_NKR = edges.mask_NK.unsqueeze(2) & (edges.relation_NK.unsqueeze(2) == relation_R)
    z_NKRH = z_NKRH.masked_fill(~here_NKR.unsqueeze(3), -torch.inf)
    over = (1, 2) if joint else (1,)
    top = z_NKRH.detach().amax(over, keepdim=True) if edges.source_NK.shape[1] else z_NKRH.new_zeros(())
    strength_NKRH = torch.exp(z_NKRH - top.clamp(min=torch.finfo(z_NKRH.dtype).min))
    total = strength_NKRH.sum(over, keepdim=True)
    share_NKRH = strength_NKRH / (total + (total == 0))
    pooled_NXD = share_NKRH.flatten(2).transpose(1, 2).to(value_NKD.dtype) @ value_NKD
    pooled_NRHD = pooled_NXD.unflatten(1, share_NKRH.shape[2:])
    return torch.einsum("nrhd,rdhc->nhc", pooled_NRHD, terms.weight_RDHC).flatten(1)


def mean_by_tensors(source_SD: Tensor, edges: Edges) -> Tensor:
    """``mean`` as tensor operations."""
    value_NKD = functional.embedding(edges.source_NK, source_SD)
    count_N1 = edges.mask_NK.sum(1, keepdim=True).clamp(min=1)
    return (value_NKD * edges.mask_NK.unsqueeze(2)).sum(1) / count_N1


class _Attend(torch.autograd.Function):
    """``attend`` by compiled loops."""

    @staticmethod
    def forward(ctx: Any, source_SD: Tensor, *rest: Any) -> Tensor:
        """``rest`` are the seven parts of ``kernels.Terms``, the edges and the switches."""
        *terms, edges, switches = rest
        source, *parts = (tensor.detach().contiguous() for tensor in (source_SD, *terms))
        weight = parts[-1]
        relations, heads, channels, dim = weight.shape
        target_count, width = edges.source_NK.shape
        share = source.new_empty(target_count, width, heads)
        pooled = source.new_empty(target_count, relations, heads, dim)
        out = source.new_zeros(target_count, heads * channels)
        kernels.attend_forward(
            _hood(edges),
            source.numpy(),
            kernels.Terms(*(part.numpy() for part in parts)),
            switches,
            _scratch(weight, width),
            kernels.Shares(share.numpy(), pooled.numpy()),
            out.numpy(),
        )
        ctx.save_for_backward(source, share, pooled, *parts)
        ctx.edges, ctx.switches = edges, switches
        return out

    @staticmethod
    def backward(ctx: Any, slope_NX: Tensor) -> Any:  # type: ignore[override]  # torch takes any tensors
        """Gradients of the source vectors and of the terms but the time features."""
        source, share, pooled, *parts = ctx.saved_tensors
        query, key, _, time, place, importance, weight = parts
        small = [np.zeros(tuple(part.shape)) for part in (time, place, importance)]
        found = [torch.zeros_like(part) for part in (source, query, key, weight)]
        kernels.attend_backward(
            _hood(ctx.edges),
            source.numpy(),
            kernels.Terms(*(part.numpy() for part in parts)),
            ctx.switches,
            _scratch(weight, share.shape[1]),
            kernels.Shares(share.numpy(), pooled.numpy()),
            slope_NX.contiguous().numpy(),
            kernels.Slopes(*(part.numpy() for part in found[:3]), *small, found[3].numpy()),
        )
        made = [torch.from_numpy(part).to(source.dtype) for part in small]
        return *found[:3], None, *made, found[3], None, None


class _Mean(torch.autograd.Function):
    """``mean`` by compiled loops."""

    @staticmethod
    def forward(ctx: Any, source_SD: Tensor, edges: Edges) -> Tensor:  # type: ignore[override]
        """See ``mean``."""
        source = source_SD.detach().contiguous()
        made = source.new_zeros(len(edges.source_NK), source.shape[1])
        kernels.mean_forward(_hood(edges), source.numpy(), made.numpy())
        ctx.edges, ctx.source_count = edges, len(source)
        return made

    @staticmethod
    def backward(ctx: Any, slope_ND: Tensor) -> Any:  # type: ignore[override]
        """The gradient of the source vectors."""
        dim = slope_ND.shape[1]
        found, scratch = slope_ND.new_zeros(ctx.source_count, dim), slope_ND.new_empty(dim)
        kernels.mean_backward(_hood(ctx.edges), slope_ND.contiguous().numpy(), scratch.numpy(), found.numpy())
        return found, None


def _hood(edges: Edges) -> kernels.Hood:
    return kernels.Hood(edges.source_NK.numpy(), edges.relation_NK.numpy(), edges.mask_NK.numpy())


def _scratch(weight_RHCD: Tensor, width: int) -> kernels.Scratch:
    relations, heads, _, dim = weight_RHCD.shape
    shapes = ((relations, heads), (relations, heads), (width, heads), (relations, heads, dim))
    parts = (weight_RHCD.new_empty(shape).numpy() for shape in shapes)
    return kernels.Scratch(*parts, np.full(relations, -1, np.int64))
