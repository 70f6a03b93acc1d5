"""The gate: whether a fine-tuned candidate may be served instead of the model version before.

Trainer.fit ──► candidate embedding, holdout losses ──► [judge] ──► accepted, or rolled back with the reason

A rejected candidate changes nothing: the version before is served on, and before the first one popularity is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftgraph.model.network.embed import Embedding
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.arrays import F32, F64

NORMS_KEPT = 15  # of the last model versions; their median is the running median
NORM_MAX = 1e18  # a product of two such is far from float32's end; a publish refuses longer ones, too
COSINE_MIN = 0.95  # mean, of the items of a full retrain to those of before
STANDARD_ERRORS = 2.0  # a holdout is small: a loss is worse only if it is so beyond its noise


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss of each example of one holdout, of the rival and of the candidate, in the same order."""

    name: str
    rival: (
        F64  # of the serving model; for a first model version of popularity, whose holdouts are all ``first``
    )
    candidate: F64
    first: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted, or why not: a stable code and one sentence with the value and the limit."""

    accepted: bool
    code: str = ""
    reason: str = ""


ACCEPTED = Verdict(True)


def median_norm(vectors_ND: F32) -> float:
    """Of the vectors without their last channel, which is the popularity; 0 for none."""
    if len(vectors_ND) == 0:
        return 0.0
    return float(np.median(np.linalg.norm(vectors_ND[:, :-1].astype(np.float64), axis=1)))


def judge(
    embedding: Embedding,
    *,
    norms: Sequence[tuple[float, float]],
    losses: Sequence[Losses],
    options: TrainerOptions,
) -> Verdict:
    """Check a candidate, the cheapest and gravest first.

    Args:
        embedding: What would be published.
        norms: Median norms (users, items) of the last model versions, oldest first.
        losses: Of each holdout; an empty one is no objection.
        options: The limits.
    """
    for side, vectors in (("user", embedding.user), ("item", embedding.item)):
        longest = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        broken = int((~(longest <= NORM_MAX)).sum())  # NaN is broken, too
        if broken:
            what = f"{broken} of {len(vectors)} {side} vectors are not finite, or longer than {NORM_MAX:g}"
            return Verdict(False, "not_finite", what)
    for side, place, vectors in (("user", 0, embedding.user), ("item", 1, embedding.item)):
        past = [pair[place] for pair in norms[-NORMS_KEPT:] if pair[place] > 0]
        if not past:
            continue
        usual, limit = float(np.median(past)), options.norm_factor
        norm = median_norm(vectors)
        if len(vectors) and not usual / limit <= norm <= usual * limit:
            return Verdict(
                False,
                "norm",
                f"the median norm of {side} vectors is {norm:.4g}, the running median {usual:.4g}; "
                f"it may differ by a factor of {limit:g}",
            )
    for holdout in losses:
        worse = holdout.candidate - holdout.rival
        if len(worse) == 0:
            continue
        error = float(worse.std(ddof=1) / np.sqrt(len(worse))) if len(worse) > 1 else np.inf
        mean, limit = float(worse.mean()), 0.0 if holdout.first else options.loss_margin
        if not np.isfinite(mean):
            what = f"the loss on the {holdout.name} holdout of {len(worse)} is not finite"
            return Verdict(False, "not_finite", what)
        if not mean - STANDARD_ERRORS * error <= limit:
            rival = "recent popularity's" if holdout.first else "the serving model's"
            return Verdict(
                False,
                "popularity" if holdout.first else "holdout",
                f"the loss on the {holdout.name} holdout of {len(worse)} is {mean:.3f} ± {error:.3f} nats "
                f"worse than {rival}; the limit is {limit:g}",
            )
    return ACCEPTED


def judge_full(item_cosine: float, losses: Sequence[Losses]) -> Verdict:
    """Check that a full retrain pays: items stay near to where they were, and the holdouts do not get worse.

    Args:
        item_cosine: Mean of the items to those of before; nan where none are in both.
        losses: Of each holdout. Together they may not be worse on average, by any margin.
    """
    if item_cosine < COSINE_MIN:
        what = f"the mean cosine of the items to those of before is {item_cosine:.3f}"
        return Verdict(False, "moved", f"{what}; a full retrain keeps {COSINE_MIN:g}")
    worse = np.concatenate([holdout.candidate - holdout.rival for holdout in losses])
    if len(worse) and worse.mean() > 0:
        what = f"the loss on both holdouts is {worse.mean():.3f} nats worse than the serving model's"
        return Verdict(False, "holdout", f"{what}; a full retrain may not lose")
    return ACCEPTED
