"""The loops over neighborhoods on a CPU: means and attention, forward and backward.

    aggregate ──► [attend_forward, attend_backward, mean_forward, mean_backward]

Only real neighbors are looked at, each vector is read where it lies, and a gradient is added where it belongs:
neither the gathered vectors [N, K, D] nor their gradient exists.

Shape suffixes as in ``network``; P places, G groups of a softmax: one for all relations, or one for each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from driftgraph.stream.arrays import F32, F64, I64, U8, Mask
from driftgraph.stream.kernels.compile import kernel, vector_kernel


class Hood(NamedTuple):
    """``aggregate.Edges`` as arrays."""

    source_NK: I64
    relation_NK: U8
    mask_NK: Mask


class Terms(NamedTuple):
    """What the logit of a neighbor is the sum of (the first two before LeakyReLU), and W, turned."""

    query_NRH: F32
    key_SRH: F32
    feature_NKF: F32
    time_RFH: F32
    place_PH: F32
    importance_R: F32
    weight_RHCD: F32


class Slopes(NamedTuple):
    """The gradients, all zero before: by sources and terms; those that many add to in double precision."""

    source_SD: F32
    query_NRH: F32
    key_SRH: F32
    time_RFH: F64
    place_PH: F64
    importance_R: F64
    weight_RHCD: F32


class Switches(NamedTuple):
    """What the formula is with: ages and places; one softmax over all relations; LeakyReLU's factor."""

    timed: bool
    joint: bool
    negative: float


class Shares(NamedTuple):
    """What ``attend_forward`` leaves for ``attend_backward``; only what a neighbor is behind is filled."""

    share_NKH: F32
    pooled_NRHD: F32


class Scratch(NamedTuple):
    """Memory to work in, for one target."""

    one_GH: F32
    other_GH: F32
    slope_KH: F32
    slope_RHD: F32
    last_R: I64  # the last target that has a neighbor of the relation; -1 before


@kernel
def attend_forward(
    hood: Hood, source_SD: F32, terms: Terms, switches: Switches, scratch: Scratch, made: Shares, out_NX: F32
) -> None:  # pragma: no cover - compiled
    """Fill ``out_NX``, which is zero: the neighbors' vectors by their shares, times W, heads side by side."""
    query_NRH, key_SRH, feature_NKF, time_RFH, place_PH, importance_R, weight_RHCD = terms
    share_NKH, pooled_NRHD = made
    top_GH, total_GH, last_R = scratch.one_GH, scratch.other_GH, scratch.last_R
    negative = query_NRH.dtype.type(switches.negative)
    target_count, width = hood.source_NK.shape
    relations, heads, channels, dim = weight_RHCD.shape
    for n in range(target_count):
        for group in range(relations):
            for h in range(heads):
                top_GH[group, h], total_GH[group, h] = -np.inf, 0
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group, place = 0 if switches.joint else r, min(k, len(place_PH) - 1)
            for h in range(heads):
                logit = query_NRH[n, r, h] + key_SRH[s, r, h]
                if logit < 0:
                    logit *= negative
                if switches.timed:
                    logit += place_PH[place, h]
                    for f in range(feature_NKF.shape[2]):
                        logit += feature_NKF[n, k, f] * time_RFH[r, f, h]
                logit += importance_R[r]
                share_NKH[n, k, h] = logit
                top_GH[group, h] = max(top_GH[group, h], logit)
        for k in range(width):
            if hood.mask_NK[n, k]:
                group = 0 if switches.joint else np.int64(hood.relation_NK[n, k])
                for h in range(heads):
                    share_NKH[n, k, h] = np.exp(share_NKH[n, k, h] - top_GH[group, h])
                    total_GH[group, h] += share_NKH[n, k, h]
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group, is_first = 0 if switches.joint else r, last_R[r] != n
            last_R[r] = n
            for h in range(heads):
                share = share_NKH[n, k, h] / total_GH[group, h]
                share_NKH[n, k, h] = share
                if is_first:
                    for d in range(dim):
                        pooled_NRHD[n, r, h, d] = share * source_SD[s, d]
                else:
                    for d in range(dim):
                        pooled_NRHD[n, r, h, d] += share * source_SD[s, d]
        for r in range(relations):
            if last_R[r] == n:
                _times_weight(weight_RHCD, pooled_NRHD, n, r, out_NX)


@vector_kernel
def _times_weight(
    weight_RHCD: F32, pooled_NRHD: F32, n: int, r: int, out_NX: F32
) -> None:  # pragma: no cover - compiled
    """Add W_r times the pooled vector of each head."""
    heads, channels, dim = weight_RHCD.shape[1:]
    for h in range(heads):
        for c in range(channels):
            total = weight_RHCD.dtype.type(0)
            for d in range(dim):
                total += weight_RHCD[r, h, c, d] * pooled_NRHD[n, r, h, d]
            out_NX[n, h * channels + c] += total


@vector_kernel
def attend_backward(
    hood: Hood,
    source_SD: F32,
    terms: Terms,
    switches: Switches,
    scratch: Scratch,
    made: Shares,
    slope_NX: F32,
    slopes: Slopes,
) -> None:  # pragma: no cover - compiled
    """Add the gradients to ``slopes``, given ``slope_NX``, that of the result."""
    query_NRH, key_SRH, feature_NKF = terms.query_NRH, terms.key_SRH, terms.feature_NKF
    share_NKH, pooled_NRHD = made
    mean_GH, slope_KH, slope_RHD, last_R = scratch.one_GH, scratch.slope_KH, scratch.slope_RHD, scratch.last_R
    negative = query_NRH.dtype.type(switches.negative)
    target_count, width = hood.source_NK.shape
    relations, heads, channels, dim = terms.weight_RHCD.shape
    for n in range(target_count):
        for group in range(relations):
            for h in range(heads):
                mean_GH[group, h] = 0
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group = 0 if switches.joint else r
            if last_R[r] != n:
                last_R[r] = n
                _back_through_weight(terms.weight_RHCD, pooled_NRHD, slope_NX, n, r, slope_RHD, slopes.weight_RHCD)
            for h in range(heads):
                share = share_NKH[n, k, h]
                slope = share * 0
                for d in range(dim):
                    slope += slope_RHD[r, h, d] * source_SD[s, d]
                slope_KH[k, h] = slope
                mean_GH[group, h] += share * slope
                for d in range(dim):
                    slopes.source_SD[s, d] += share * slope_RHD[r, h, d]
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group, place = 0 if switches.joint else r, min(k, len(terms.place_PH) - 1)
            for h in range(heads):
                slope = share_NKH[n, k, h] * (slope_KH[k, h] - mean_GH[group, h])
                slopes.importance_R[r] += slope
                if switches.timed:
                    slopes.place_PH[place, h] += slope
                    for f in range(feature_NKF.shape[2]):
                        slopes.time_RFH[r, f, h] += slope * feature_NKF[n, k, f]
                if query_NRH[n, r, h] + key_SRH[s, r, h] < 0:
                    slope *= negative
                slopes.query_NRH[n, r, h] += slope
                slopes.key_SRH[s, r, h] += slope


@kernel
def _back_through_weight(
    weight_RHCD: F32, pooled_NRHD: F32, slope_NX: F32, n: int, r: int, slope_RHD: F32, slope_RHCD: F32
) -> None:  # pragma: no cover - compiled
    """Fill the gradient of one target's pooled vectors of a relation, and add that of W_r."""
    heads, channels, dim = weight_RHCD.shape[1:]
    for h in range(heads):
        for d in range(dim):
            slope_RHD[r, h, d] = 0
        for c in range(channels):
            slope = slope_NX[n, h * channels + c]
            for d in range(dim):
                slope_RHD[r, h, d] += slope * weight_RHCD[r, h, c, d]
            for d in range(dim):
                slope_RHCD[r, h, c, d] += slope * pooled_NRHD[n, r, h, d]


@kernel
def mean_forward(hood: Hood, source_SD: F32, mean_ND: F32) -> None:  # pragma: no cover - compiled
    """Fill ``mean_ND``, which is zero: the mean of each target's neighbors."""
    target_count, width = hood.source_NK.shape
    one = source_SD.dtype.type(1)
    for n in range(target_count):
        count = 0
        for k in range(width):
            if hood.mask_NK[n, k]:
                count += 1
                s = hood.source_NK[n, k]
                for d in range(source_SD.shape[1]):
                    mean_ND[n, d] += source_SD[s, d]
        if count:
            share = one / source_SD.dtype.type(count)
            for d in range(source_SD.shape[1]):
                mean_ND[n, d] *= share


@kernel
def mean_backward(
    hood: Hood, slope_ND: F32, slope_D: F32, slope_SD: F32
) -> None:  # pragma: no cover - compiled
    """Add to ``slope_SD`` the gradient by sources, given that of the means. ``slope_D``: scratch."""
    target_count, width = hood.source_NK.shape
    one = slope_ND.dtype.type(1)
    for n in range(target_count):
        count = 0
        for k in range(width):
            count += hood.mask_NK[n, k]
        if count == 0:
            continue
        share = one / slope_ND.dtype.type(count)
        for d in range(slope_ND.shape[1]):
            slope_D[d] = share * slope_ND[n, d]
        for k in range(width):
            if hood.mask_NK[n, k]:
                s = hood.source_NK[n, k]
                for d in range(slope_ND.shape[1]):
                    slope_SD[s, d] += slope_D[d]
