"""The loops over neighborhoods on a CPU: means and attention, forward and backward.

    aggregate ──► [attend_forward, attend_backward, mean_forward, mean_backward]

Only real neighbors are looked at. A vector is read where it lies, and a gradient is added where it belongs.
Neither the gathered vectors [N, K, D] nor their gradient exist.

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
    """What the logit of a neighbor is the sum of: the first two before LeakyReLU, the others after it."""

    query_NRH: F32
    key_SRH: F32
    feature_NKF: F32
    time_RFH: F32
    place_PH: F32
    importance_R: F32


class Slopes(NamedTuple):
    """The gradients, all zero before: by sources and terms; those that many add to in double precision."""

    source_SD: F32
    query_NRH: F32
    key_SRH: F32
    time_RFH: F64
    place_PH: F64
    importance_R: F64


class Switches(NamedTuple):
    """What the formula is with: ages and places; one softmax over all relations; LeakyReLU's factor."""

    timed: bool
    joint: bool
    negative: float


@kernel
def attend_forward(  # noqa: PLR0912  # one loop over neighbors, as the compiler needs it
    hood: Hood,
    source_SD: F32,
    terms: Terms,
    switches: Switches,
    top_GH: F32,
    total_GH: F32,
    share_NKH: F32,
    pooled_HNRD: F32,
) -> None:  # pragma: no cover - compiled
    """Fill the shares of all neighbors, and ``pooled_HNRD``, which is zero: their vectors by these shares."""
    query_NRH, key_SRH, feature_NKF, time_RFH, place_PH, importance_R = terms
    negative = query_NRH.dtype.type(switches.negative)
    target_count, width = hood.source_NK.shape
    heads, dim, places = share_NKH.shape[2], source_SD.shape[1], len(place_PH)
    for n in range(target_count):
        for group in range(len(top_GH)):
            for h in range(heads):
                top_GH[group, h], total_GH[group, h] = -np.inf, 0
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group, place = 0 if switches.joint else r, min(k, places - 1)
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
            if hood.mask_NK[n, k]:
                s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
                group = 0 if switches.joint else r
                for h in range(heads):
                    share = share_NKH[n, k, h] / total_GH[group, h]
                    share_NKH[n, k, h] = share
                    for d in range(dim):
                        pooled_HNRD[h, n, r, d] += share * source_SD[s, d]


@vector_kernel
def attend_backward(  # noqa: PLR0912  # as above
    hood: Hood,
    source_SD: F32,
    terms: Terms,
    switches: Switches,
    share_NKH: F32,
    slope_HNRD: F32,
    slope_KH: F32,
    mean_GH: F32,
    slopes: Slopes,
) -> None:  # pragma: no cover - compiled
    """Add the gradients, given that of ``pooled_HNRD``. ``slope_KH`` and ``mean_GH`` are scratch."""
    query_NRH, key_SRH, feature_NKF = terms.query_NRH, terms.key_SRH, terms.feature_NKF
    negative = query_NRH.dtype.type(switches.negative)
    target_count, width = hood.source_NK.shape
    heads, dim, places = share_NKH.shape[2], source_SD.shape[1], len(terms.place_PH)
    for n in range(target_count):
        for group in range(len(mean_GH)):
            for h in range(heads):
                mean_GH[group, h] = 0
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group = 0 if switches.joint else r
            for h in range(heads):
                share = share_NKH[n, k, h]
                slope = share * 0
                for d in range(dim):
                    slope += slope_HNRD[h, n, r, d] * source_SD[s, d]
                    slopes.source_SD[s, d] += share * slope_HNRD[h, n, r, d]
                slope_KH[k, h] = slope
                mean_GH[group, h] += share * slope
        for k in range(width):
            if not hood.mask_NK[n, k]:
                continue
            s, r = hood.source_NK[n, k], np.int64(hood.relation_NK[n, k])
            group, place = 0 if switches.joint else r, min(k, places - 1)
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
