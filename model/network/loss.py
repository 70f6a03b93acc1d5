"""What training minimizes.

Shape suffixes: B examples, C candidates shared by the batch, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from driftgraph.model.network.aggregate import full


def sampled_softmax(
    user_BD: Tensor,
    item_CD: Tensor,
    *,
    positive_B: Tensor,
    log_q_C: Tensor,
    excluded_n: Tensor,
    weight_B: Tensor,
    temperature: float,
    reduced: bool = True,
) -> Tensor:
    """Cross entropy of the positive among the candidates, corrected for how candidates were drawn.

    Args:
        user_BD: User vectors.
        item_CD: Vectors of the distinct candidates.
        positive_B: int64, the candidate that is the example's item.
        log_q_C: Log of the probability that the candidate is in the batch at all.
        excluded_n: int64, places b · C + c of candidates that are no negatives for an example (the user has
            touched them). The positive is never excluded, whatever this says.
        weight_B: Of each example; only their proportions count.
        temperature: Divides the score.
        reduced: False gives the loss of each example, without its weight, [B].

    Returns:
        The weighted mean; 0 (with a gradient of zeros) if there is no example or no weight.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling", RecSys 2019, eq. 3: score − log q.
    """
    fixed = (positive_B, log_q_C, excluded_n, temperature)
    loss_B: Tensor = _Softmax.apply(user_BD, item_CD, *fixed)  # type: ignore[no-untyped-call]
    if not reduced:
        return loss_B
    return mean_of(loss_B, weight_B)


def sampled_logistic(
    user_BD: Tensor, item_CD: Tensor, *, positive_B: Tensor, negative_BK: Tensor, weight_B: Tensor
) -> Tensor:
    """Binary cross entropy: each example's item is a yes, and each of its negatives is a no.

    Args:
        user_BD: User vectors.
        item_CD: Vectors of the distinct candidates.
        positive_B: int64, the candidate that is the example's item.
        negative_BK: int64, candidates that are its negatives; −1 is none.
        weight_B: Of each example with its negatives; only their proportions count.

    Source: Mikolov et al., "Distributed Representations of Words and Phrases", 2013, eq. 4.
    """
    logit_BC = full(full(user_BD) @ full(item_CD).T)
    yes_B = functional.softplus(-logit_BC.gather(1, positive_B.unsqueeze(1))).squeeze(1)
    no_BK = functional.softplus(logit_BC.gather(1, negative_BK.clamp(min=0)))
    return mean_of(yes_B + (no_BK * (negative_BK >= 0)).sum(1), weight_B)


def mean_of(loss_B: Tensor, weight_B: Tensor) -> Tensor:
    """The weighted mean; 0 (with a gradient of zeros) if there is no example or no weight."""
    return (loss_B * weight_B).sum() / weight_B.sum().clamp(min=1e-12)


class _Softmax(torch.autograd.Function):
    """The cross entropies. [B, C] is the largest tensor of a step: operations on it are in place."""

    @staticmethod
    def forward(ctx: Any, user_BD: Tensor, item_CD: Tensor, *rest: Any) -> Tensor:
        """``rest``: positive_B, log_q_C, excluded_n, temperature."""
        positive_B, log_q_C, excluded_n, temperature = rest
        user_BD, item_CD, positive_B1 = full(user_BD) / temperature, full(item_CD), positive_B.unsqueeze(1)
        # log q goes through the product as one more channel
        with_one = torch.cat([user_BD, user_BD.new_full((len(user_BD), 1), -1)], 1)
        logit_BC = full(with_one @ torch.cat([item_CD, log_q_C.unsqueeze(1)], 1).T)
        kept_B1 = logit_BC.gather(1, positive_B1)
        logit_BC.view(-1).index_fill_(0, excluded_n, -torch.inf)
        logit_BC.scatter_(1, positive_B1, kept_B1)
        top_B1 = logit_BC.amax(1, keepdim=True)
        strength_BC = logit_BC.sub_(top_B1).exp_()
        total_B1 = strength_BC.sum(1, keepdim=True)
        ctx.save_for_backward(user_BD, item_CD, positive_B1, strength_BC, total_B1)
        ctx.temperature = temperature
        return (total_B1.log() + top_B1 - kept_B1).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """Of a loss by a logit: the candidate's share, less 1 where it is the positive."""
        (slope_B,) = grad_outputs
        user_BD, item_CD, positive_B1, strength_BC, total_B1 = ctx.saved_tensors
        slope_B1 = slope_B.unsqueeze(1)
        slope_BC = (strength_BC * (slope_B1 / total_B1)).scatter_add_(1, positive_B1, -slope_B1)
        user_slope_BD, item_slope_CD = slope_BC @ item_CD, slope_BC.T @ user_BD
        return user_slope_BD / ctx.temperature, item_slope_CD, None, None, None, None


def info_nce(one_BD: Tensor, other_BD: Tensor, *, temperature: float) -> Tensor:
    """Two views of an item should be nearer to each other than to another item's; symmetric mean.

    Source: van den Oord et al., "Contrastive Predictive Coding", 2018, eq. 4; on graphs: Wu et al.,
    "Self-supervised Graph Learning for Recommendation", SIGIR 2021, eq. 10. Cosine, as there.
    """
    if len(one_BD) == 0:
        return one_BD.sum() * 0
    one_BD = functional.normalize(one_BD.float(), dim=1)
    other_BD = functional.normalize(other_BD.float(), dim=1)
    logit_BB = one_BD @ other_BD.T / temperature
    label_B = torch.arange(len(one_BD), device=one_BD.device)
    return (functional.cross_entropy(logit_BB, label_B) + functional.cross_entropy(logit_BB.T, label_B)) / 2
