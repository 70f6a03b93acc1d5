"""The losses against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch

from driftgraph.model.network.loss import info_nce, sampled_logistic, sampled_softmax

USER = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
ITEM = torch.tensor([[1.0, 1.0], [0.5, -1.0], [2.0, 0.0]])
LOG_Q = torch.log(torch.tensor([0.5, 0.25, 0.1]))
POSITIVE = torch.tensor([2, 0])


def loss_of(
    *, excluded: torch.Tensor | None = None, weight: torch.Tensor | None = None, temperature: float = 1.0
) -> float:
    return float(
        sampled_softmax(
            USER,
            ITEM,
            positive_B=POSITIVE,
            log_q_C=LOG_Q,
            excluded_n=torch.zeros(0, dtype=torch.int64) if excluded is None else excluded,
            weight_B=torch.ones(2) if weight is None else weight,
            temperature=temperature,
        )
    )


def by_hand(b: int, allowed: list[int], temperature: float = 1.0) -> float:
    logits = {c: float(USER[b] @ ITEM[c]) / temperature - float(LOG_Q[c]) for c in allowed}
    return -logits[int(POSITIVE[b])] + math.log(sum(math.exp(x) for x in logits.values()))


def test_the_score_is_corrected_by_how_likely_a_candidate_was_drawn() -> None:
    assert loss_of() == pytest.approx((by_hand(0, [0, 1, 2]) + by_hand(1, [0, 1, 2])) / 2, rel=1e-5)
    assert loss_of(temperature=0.5) == pytest.approx(
        (by_hand(0, [0, 1, 2], 0.5) + by_hand(1, [0, 1, 2], 0.5)) / 2, rel=1e-5
    )


def test_what_the_user_has_touched_is_no_negative_but_the_positive_stays() -> None:
    """The positive is marked as touched too: a repeat."""
    excluded = torch.tensor([[True, False, True], [True, False, False]]).flatten().nonzero().squeeze(1)
    assert loss_of(excluded=excluded) == pytest.approx(
        (by_hand(0, [1, 2]) + by_hand(1, [0, 1, 2])) / 2, rel=1e-5
    )


def test_behavior_weights_are_proportions() -> None:
    wanted = (by_hand(0, [0, 1, 2]) * 3 + by_hand(1, [0, 1, 2])) / 4
    assert loss_of(weight=torch.tensor([3.0, 1.0])) == pytest.approx(wanted, rel=1e-5)
    assert loss_of(weight=torch.tensor([30.0, 10.0])) == pytest.approx(wanted, rel=1e-5)


def test_gradients_agree_with_finite_differences() -> None:
    """Of users and items, with a weight, a temperature, and an excluded candidate."""
    weight = torch.tensor([1.0, 3.0])

    def loss(user_BD: torch.Tensor, item_CD: torch.Tensor) -> torch.Tensor:
        return sampled_softmax(
            user_BD,
            item_CD,
            positive_B=POSITIVE,
            log_q_C=LOG_Q.double(),
            excluded_n=torch.tensor([1, 3]),
            weight_B=weight,
            temperature=0.7,
        )

    inputs = (USER.double().requires_grad_(), ITEM.double().requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


def test_no_weight_and_no_example_are_zero_not_nan() -> None:
    assert loss_of(weight=torch.zeros(2)) == 0
    empty = sampled_softmax(
        USER[:0],
        ITEM,
        positive_B=POSITIVE[:0],
        log_q_C=LOG_Q,
        excluded_n=torch.zeros(0, dtype=torch.int64),
        weight_B=torch.zeros(0),
        temperature=1.0,
    )
    assert float(empty) == 0


def test_info_nce_by_hand_and_smaller_for_matching_views() -> None:
    one, other = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    s = 1 / math.sqrt(2)
    logits = [[1 / 0.5, s / 0.5], [0.0, s / 0.5]]
    rows = sum(-logits[i][i] + math.log(sum(math.exp(x) for x in logits[i])) for i in range(2)) / 2
    columns = [[logits[j][i] for j in range(2)] for i in range(2)]
    rows += sum(-columns[i][i] + math.log(sum(math.exp(x) for x in columns[i])) for i in range(2)) / 2
    assert float(info_nce(one, other, temperature=0.5)) == pytest.approx(rows / 2, rel=1e-5)
    assert float(info_nce(one, one, temperature=0.5)) < float(info_nce(one, one.flip(0), temperature=0.5))
    assert float(info_nce(one[:0], one[:0], temperature=0.5)) == 0


def test_a_positive_is_a_yes_and_each_of_its_negatives_is_a_no() -> None:
    """By hand: log of 1 + exp of the score that is wrong; −1 is no negative."""
    negative = torch.tensor([[0, 1, 1], [2, -1, -1]])
    scores = [[float(USER[b] @ ITEM[c]) for c in range(3)] for b in range(2)]
    wanted = [
        math.log1p(math.exp(-scores[b][int(POSITIVE[b])]))
        + sum(math.log1p(math.exp(scores[b][c])) for c in negative[b].tolist() if c >= 0)
        for b in range(2)
    ]
    found = sampled_logistic(
        USER, ITEM, positive_B=POSITIVE, negative_BK=negative, weight_B=torch.tensor([3.0, 1.0])
    )
    assert float(found) == pytest.approx((3 * wanted[0] + wanted[1]) / 4, rel=1e-6)
