"""The heads: what they learn, that their probabilities are true ones, and what they go on from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.model.heads import head_evaluation
from driftgraph.model.heads import heads as heads_module
from driftgraph.model.heads.head_evaluation import auc, calibration_error, dots, judged
from driftgraph.model.heads.heads import Head, Heads, Layout, Parts, Sample, losses, probability
from driftgraph.model.heads.impressions import HALF_LIVES_MS, Counts
from driftgraph.stream.arrays import F64, U32, Mask

RELATIONS = ("click", "buy")
LIVES = len(HALF_LIVES_MS)


def sample_of(count: int, *, seed: int, slope: float = 1.0, noise: bool = False) -> tuple[Sample, U32]:
    """Impressions whose clicks have a known probability: of the dot product and of a rate of the item."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(1, 60, (3, count)).astype(float)
    rate = rng.uniform(0.05, 0.6, (3, count))
    rate[2] = 0.3
    counts = Counts(
        *(
            np.repeat(np.stack([n, n * r, n * r / 10], axis=1)[:, None], LIVES, axis=1)
            for n, r in zip(shown, rate, strict=True)
        )
    )
    dot = rng.normal(size=count).astype(np.float32)
    odds = np.log(rate[1] / (1 - rate[1])) + slope * dot
    answered = rng.random(count) < (0.3 if noise else 1 / (1 + np.exp(-odds)))
    both = np.stack([answered, answered & (rng.random(count) < 0.2)], axis=1)
    users = rng.integers(0, max(count // 20, 1), count).astype(np.uint32)
    return Sample(counts, Parts(dot, np.zeros(count, np.float32)), both), users


def plain_auc(score: F64, hit: Mask, group: U32) -> float:
    """By looking at every pair of each group."""
    total = weight = 0.0
    for one in set(group.tolist()):
        mine = group == one
        pairs = [(a, b) for a in score[mine & hit] for b in score[mine & ~hit]]
        if pairs:
            total += mine.sum() * np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
            weight += mine.sum()
    return total / weight if weight else float("nan")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=25))
def test_auc_is_that_of_every_pair(rows: list[tuple[int, bool, int]]) -> None:
    """Ties, groups without an answered impression or without another, no impression at all."""
    score = np.array([row[0] for row in rows], np.float64)
    hit, group = np.array([row[1] for row in rows], np.bool_), np.array([row[2] for row in rows], np.uint32)
    assert auc(score, hit, group) == pytest.approx(plain_auc(score, hit, group), nan_ok=True)


def test_probabilities_come_true() -> None:
    """Of the impressions that get 20 % about 20 % are answered, in each twentieth of them."""
    heads = Heads(RELATIONS)
    for seed in range(4):
        heads.learn(sample_of(5_000, seed=seed)[0])
    fresh, users = sample_of(20_000, seed=99)
    found = judged(heads, fresh, users, late=0).heads["click"]
    assert found.metrics["head"]["ece"] < 0.015
    assert found.metrics["running_rates"]["ece"] > 0.03, "the prior knows nothing of the dot product"
    for metric in ("auc", "user_auc"):
        assert found.metrics["head"][metric] > found.metrics["running_rates"][metric] + 0.05
    assert found.metrics["head"]["log_loss"] < found.metrics["running_rates"]["log_loss"] - 0.03


def test_the_weights_are_those_that_the_clicks_were_drawn_by() -> None:
    heads = Heads(RELATIONS)
    heads.learn(sample_of(20_000, seed=1, slope=1.5)[0])
    head = heads.heads["click"]
    weights = dict(zip(head.layout.names, head.mean_F.tolist(), strict=True))
    assert weights["dot"] == pytest.approx(1.5, abs=0.1)
    assert sum(value for name, value in weights.items() if name.startswith("user_") and "h" in name) < 0.3


def test_the_minimum_has_no_slope() -> None:
    """The gradient of loss and prior is zero at the learned weights, by differences."""
    sample, _ = sample_of(400, seed=3)
    heads = Heads(RELATIONS)
    heads.learn(sample)
    head, feature_NF = heads.heads["click"], heads.features(sample.counts, sample.parts, 0)

    def whole(weight_F: F64) -> float:
        off_F = weight_F - head.layout.prior_F
        return float(losses(feature_NF, weight_F, sample.answered_NB[:, 0]).sum() + 5 * off_F @ off_F)

    for n in range(len(head.mean_F)):
        step_F = np.zeros(len(head.mean_F))
        step_F[n] = 1e-4
        slope = (whole(head.mean_F + step_F) - whole(head.mean_F - step_F)) / 2e-4
        assert abs(slope) < 0.05, head.layout.names[n]


def test_without_impressions_a_head_is_the_running_rates() -> None:
    sample, users = sample_of(500, seed=4)
    metrics = judged(Heads(RELATIONS), sample, users, late=0).heads["click"].metrics
    assert metrics["head"] == metrics["running_rates"]


def test_a_head_that_was_worse_than_the_rates_is_not_served_until_it_is_as_good() -> None:
    """A wrong slope of the dot product, then impressions that correct it."""
    heads = Heads(RELATIONS)
    head = heads.heads["click"]
    sample, _ = sample_of(3_000, seed=5)
    head.mean_F = head.layout.prior_F.copy()
    head.mean_F[head.layout.names.index("dot")] = -3.0
    heads.learn(sample)
    assert not head.is_served
    assert head.weight_F.tolist() == head.layout.prior_F.tolist()
    heads.learn(sample_of(3_000, seed=6)[0])
    assert head.is_served
    assert head.weight_F.tolist() == head.mean_F.tolist()


def test_too_few_impressions_give_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Heads(RELATIONS)
    head = heads.heads["click"]
    head.mean_F = head.mean_F - 5.0
    few, _ = sample_of(heads_module.SHOWN_MIN - 1, seed=7)
    heads.learn(few)
    assert head.is_served
    monkeypatch.setattr(heads_module, "SHOWN_MIN", 10)
    head.mean_F = head.mean_F - 5.0
    heads.learn(few)
    assert not head.is_served


def test_what_was_learned_is_forgotten_slowly() -> None:
    """The taste turns round: after some intervals the new one counts."""
    heads = Heads(RELATIONS)
    for seed in range(10):
        heads.learn(sample_of(1_000, seed=seed, slope=1.0)[0])
    for seed in range(20, 50):
        heads.learn(sample_of(1_000, seed=seed, slope=-1.0)[0])
    head = heads.heads["click"]
    assert head.mean_F[head.layout.names.index("dot")] < -0.8


def test_a_head_goes_on_from_its_state_also_if_the_relations_are_in_another_order() -> None:
    first, second = sample_of(1_000, seed=8)[0], sample_of(1_000, seed=9)[0]
    heads, other = Heads(RELATIONS), Heads(RELATIONS[::-1])
    heads.learn(first)
    arrays, known = heads.state_dict()
    other.load_state_dict(arrays, known)
    heads.learn(second)
    turned = Counts(
        *(count[:, :, [0, 2, 1]] for count in (second.counts.user, second.counts.item, second.counts.all))
    )
    other.learn(Sample(turned, second.parts, second.answered_NB[:, ::-1]))
    for name in RELATIONS:
        assert np.allclose(heads.heads[name].mean_F, other.heads[name].mean_F, rtol=0, atol=1e-9)
        assert heads.heads[name].is_served == other.heads[name].is_served


def test_a_head_of_other_features_begins_anew() -> None:
    heads, other = Heads(RELATIONS), Heads(("click", "cart"))
    heads.learn(sample_of(1_000, seed=8)[0])
    other.load_state_dict(*heads.state_dict())
    for head in other.heads.values():
        assert head.mean_F.tolist() == head.layout.prior_F.tolist()


def test_nothing_ever_shown_is_fine() -> None:
    nothing, users = sample_of(0, seed=0)
    heads = Heads(RELATIONS)
    found = judged(heads, nothing, users, late=0)
    heads.learn(nothing)
    assert found.impressions == 0
    assert np.isnan(found.heads["click"].metrics["head"]["log_loss"])
    assert all(np.isfinite(head.mean_F).all() for head in heads.heads.values())


def test_extreme_rates_and_vectors_give_finite_losses() -> None:
    """A rate of 0 and of 1, and vectors far from a trained model's."""
    head = Head(Layout.of("click", RELATIONS))
    feature_NF = np.zeros((2, len(head.layout.names)))
    feature_NF[:, head.layout.names.index("dot")] = (1e6, -1e6)
    weight_F = np.ones(len(head.layout.names))
    assert np.isfinite(losses(feature_NF, weight_F, np.array([False, True]))).all()
    assert probability(feature_NF, weight_F).tolist() == [1.0, 0.0]


def test_a_vector_that_is_not_finite_counts_as_none() -> None:
    user = np.array([[1, 2, 1], [np.nan, 0, 1], [3e38, 0, 1]], np.float32)
    assert dots(user, np.full((3, 3), 10, np.float32)).tolist() == [30.0, 0.0, 0.0]


def test_the_calibration_error_is_that_of_the_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_evaluation, "BINS", 2)
    chance = np.repeat([0.1, 0.9], 100)
    answered = np.zeros(200, np.bool_)
    answered[:20] = answered[100:190] = True  # 20 % and 90 %
    assert calibration_error(chance, answered) == pytest.approx((10 + 0) / 200)
    assert calibration_error(np.full(40, 0.5), np.arange(40) % 2 == 0) == pytest.approx(0.0)
