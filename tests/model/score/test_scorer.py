"""The scorer's weights: against known weights and numerical slopes, and when a part is served alone."""

from __future__ import annotations

import numpy as np
import pytest

from driftgraph.model.score import scorer as module
from driftgraph.model.score.gains import TARGETS_MIN, Gains
from driftgraph.model.score.scorer import (
    CONTENDERS,
    FEATURES,
    FORGET,
    PARTS,
    PATHS,
    POPULARITY,
    PRIOR_F,
    Lessons,
    Scorer,
    alone,
    ndcg,
)
from driftgraph.stream.arrays import F32, F64

CANDIDATES = 40


def lessons_of(weight_F: F64, targets: int, seed: int, *, covered: float = 1.0) -> Lessons:
    """Targets that were drawn by a softmax over random candidates under these weights."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(targets, CANDIDATES, len(FEATURES))).astype(np.float32)
    score = features @ weight_F + rng.gumbel(size=(targets, CANDIDATES))
    target = np.where(rng.random(targets) < covered, score.argmax(1), -1)
    return Lessons(features.reshape(-1, len(FEATURES)), CANDIDATES * np.arange(targets + 1), target)


def weights(**named: float) -> F64:
    return np.array([named.get(name, 0.0) for name in FEATURES])


TRUE = weights(vectors=0.4, item_bias=0.3, popularity_1h=0.2, popularity_7d=-0.3, age=0.1, paths=0.8)


def test_the_slope_is_that_of_finite_differences() -> None:
    lessons = module._covered(lessons_of(TRUE, 30, 0, covered=0.8))
    at = np.random.default_rng(1).normal(size=len(FEATURES))
    gradient, hessian = module._slope(lessons, at)
    step = 1e-5 * np.eye(len(FEATURES))
    numeric = [(module._value(lessons, at + h) - module._value(lessons, at - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)
    curved = [(module._slope(lessons, at + h)[0] - module._slope(lessons, at - h)[0]) / 2e-5 for h in step]
    np.testing.assert_allclose(hessian, curved, rtol=1e-4, atol=1e-4)


def test_the_true_weights_are_found_over_some_fits() -> None:
    scorer = Scorer()
    for seed in range(6):
        scorer.learn(lessons_of(TRUE, 1_500, seed))
    np.testing.assert_allclose(scorer.weight_F, TRUE, atol=0.06)
    again = Scorer()
    for seed in range(6):
        again.learn(lessons_of(TRUE, 1_500, seed))
    assert (again.mean_F == scorer.mean_F).all()
    assert (again.information_FF == scorer.information_FF).all()


def test_few_lessons_move_the_weights_less_than_many() -> None:
    few, many = Scorer(), Scorer()
    few.learn(lessons_of(TRUE, 3, 0))
    many.learn(lessons_of(TRUE, 2_000, 0))
    assert np.linalg.norm(few.mean_F - PRIOR_F) < 0.5 * np.linalg.norm(many.mean_F - PRIOR_F)


def test_nothing_to_learn_from_leaves_the_prior() -> None:
    scorer = Scorer()
    scorer.learn(
        Lessons(np.zeros((0, len(FEATURES)), np.float32), np.zeros(1, np.int64), np.zeros(0, np.int64))
    )
    scorer.learn(lessons_of(TRUE, 40, 0, covered=0.0))
    np.testing.assert_allclose(scorer.weight_F, PRIOR_F, atol=1e-12)
    assert not scorer.information_FF.any()
    assert scorer.fallback == ""


def test_what_was_learned_is_forgotten_slowly() -> None:
    """A stream that changes what it lives on is followed within some fits."""
    scorer = Scorer()
    for seed in range(5):
        scorer.learn(lessons_of(weights(vectors=1.0), 1_000, seed))
    assert scorer.weight_F[PATHS] < 0.1
    for seed in range(10):
        scorer.learn(lessons_of(weights(paths=1.0), 1_000, 100 + seed))
    assert scorer.weight_F[PATHS] > 0.8
    assert scorer.weight_F[0] < 0.2


def test_a_sum_that_loses_to_a_part_is_not_served() -> None:
    """Likelihood and the first places disagree: one feature ranks well, and ties outweigh it in the loss."""
    scorer = Scorer()
    good = lessons_of(weights(paths=2.0), 400, 0)
    scorer.mean_F = weights(vectors=3.0)  # learned with great certainty, and wrong
    scorer.information_FF = 1e9 * np.eye(len(FEATURES))
    scorer.learn(good)
    assert scorer.fallback == "paths"
    np.testing.assert_allclose(scorer.weight_F, alone("paths", scorer.mean_F), atol=1e-3)
    assert not scorer.weight_F[0], "no vector of a user counts"
    scorer.information_FF = 0 * scorer.information_FF
    scorer.mean_F = TRUE.copy()
    for seed in range(1, 5):
        scorer.learn(lessons_of(TRUE, 400, seed))
    assert scorer.fallback == "", "a sum that is as good as its parts is served again"


def test_small_intervals_tell_together_what_none_of_them_tells_alone() -> None:
    """Users who take what is popular: the sum, which counts vectors of noise, loses in each by a little."""
    scorer, told = Scorer(), []
    for seed in range(12):
        scorer.mean_F = weights(vectors=1.0, popularity_1d=0.8)  # as a tiny stream could teach it
        scorer.information_FF = 1e9 * np.eye(len(FEATURES))
        scorer.learn(lessons_of(weights(popularity_1d=0.8), 30, seed))
        told.append(scorer.fallback)
    assert told[:3] == ["", "", ""], "with so few targets nobody has shown to be better"
    assert told[-1] in (POPULARITY, "bank"), told


def test_gains_are_those_of_the_plainest_sum_over_all_targets() -> None:
    """Each target with its own weight, in a loop, beside the sums that are kept; and over a save."""
    rng, scorer, seen = np.random.default_rng(5), Scorer(), list[tuple[int, F64, Lessons]]()
    told = set[str]()
    for number in range(9):
        lessons = lessons_of(TRUE, int(rng.integers(0, 60)), number, covered=0.7)
        seen.append((number, scorer.mean_F.copy(), lessons))
        scorer.learn(lessons)
        gains: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
        for then, mean_F, one in seen:
            whole = ndcg(one.feature_PF.astype(float) @ mean_F, one)
            for name in CONTENDERS:
                gain = ndcg(one.feature_PF.astype(float) @ alone(name, mean_F), one) - whole
                gains[name] += [(FORGET ** (number - then), g) for g in gain.tolist()]
        best, chosen = 0.0, ""
        for name, pairs in gains.items():
            total = sum(w for w, _ in pairs)
            if total < TARGETS_MIN:
                continue
            mean = sum(w * g for w, g in pairs) / total
            error = sum((w * (g - mean)) ** 2 for w, g in pairs) ** 0.5 / total
            if mean > max(best, 2 * error):
                best, chosen = mean, name
        assert scorer.fallback == chosen
        told.add(chosen)
        kept = Scorer()
        kept.load_state_dict(scorer.state_dict(), scorer.fallback)
        scorer = kept
        if number % 3 == 2:  # so that somebody is better now and then
            scorer.mean_F = weights(vectors=float(rng.normal()), similar_users=2.0)
    assert len(told) > 1


def test_a_contender_is_better_beyond_two_standard_errors_of_the_weighted_mean() -> None:
    """Gains around the limit, in two intervals, beside the plainest formula."""
    rng, told = np.random.default_rng(8), set[str]()
    for _ in range(300):
        gains = Gains(["one", "other"])
        parts = [rng.normal(rng.uniform(-0.1, 0.4), 1, (2, count)) for count in (90, 150)]
        for part in parts:
            gains.forget(FORGET)
            gains.add(part)
        weight = np.concatenate([np.full(90, FORGET), np.ones(150)])
        means, errors = list[float](), list[float]()
        for own in np.concatenate(parts, axis=1):
            means.append(float((weight * own).sum() / weight.sum()))
            errors.append(float(np.sqrt((weight**2 * (own - means[-1]) ** 2).sum()) / weight.sum()))
        better = [n for n in (0, 1) if means[n] > 2 * errors[n]]
        wanted = gains.names[max(better, key=lambda n: means[n])] if better else ""
        assert gains.best() == wanted
        told.add(wanted)
    assert told == {"", "one", "other"}


def test_who_is_served_alone_is_so_after_a_save_and_nobody_of_an_unknown_name() -> None:
    for name, kept in ((POPULARITY, POPULARITY), ("paths", "paths"), ("magic", "")):
        scorer = Scorer()
        scorer.load_state_dict(Scorer().state_dict(), name)
        assert scorer.fallback == kept


def test_a_state_from_before_gains_were_added_up_begins_with_none() -> None:
    scorer, old = Scorer(), Scorer()
    scorer.learn(lessons_of(TRUE, 200, 0))
    state = scorer.state_dict()
    del state["gains"]
    old.load_state_dict(state, "paths")
    assert old.fallback == "paths"
    assert not old.gains.sums_5C.any()


def test_popularity_alone_is_that_of_a_day() -> None:
    assert alone(POPULARITY, TRUE)[FEATURES.index("popularity_1d")] == 1
    assert np.count_nonzero(alone(POPULARITY, TRUE)) == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_has_no_weight_of_another(part: str) -> None:
    for weight_F in (TRUE, -TRUE):
        made = alone(part, weight_F)
        assert set(np.flatnonzero(made).tolist()) <= set(PARTS[part])
    assert alone("paths", -TRUE)[PATHS] > 0, "fewer paths are no reason to recommend"


def test_ndcg_is_that_of_the_plainest_ranking() -> None:
    rng = np.random.default_rng(3)
    lessons = lessons_of(TRUE, 50, 4, covered=0.7)
    score: F64 = np.round(rng.normal(size=50 * CANDIDATES), 1)  # with ties
    found = ndcg(score, lessons)
    for n in range(50):
        own, place = score[CANDIDATES * n : CANDIDATES * (n + 1)], lessons.target_N[n]
        rank = 1 + (own > own[place]).sum() + ((own == own[place]).sum() - 1) / 2
        assert found[n] == pytest.approx(1 / np.log2(rank + 1) if place >= 0 and rank <= 20 else 0.0)


def test_shares_say_what_moves_the_scores() -> None:
    scorer, lessons = Scorer(), lessons_of(TRUE, 200, 0)
    scorer.mean_F = weights(vectors=3.0, paths=1.0)
    shares = scorer.shares(lessons)
    assert shares["vectors"] == pytest.approx(0.75, abs=0.02)
    assert shares["paths"] == pytest.approx(0.25, abs=0.02)
    assert shares["bank"] == 0
    empty: F32 = np.zeros((0, len(FEATURES)), np.float32)
    assert sum(scorer.shares(Lessons(empty, np.zeros(1, np.int64), np.zeros(0, np.int64))).values()) == 0


def test_a_saved_scorer_goes_on_bit_for_bit_and_one_of_other_features_begins_anew() -> None:
    scorer, other = Scorer(), Scorer()
    scorer.learn(lessons_of(TRUE, 200, 0))
    other.load_state_dict(scorer.state_dict(), "paths")
    assert (other.mean_F == scorer.mean_F).all()
    assert other.fallback == "paths"
    scorer.learn(lessons_of(TRUE, 200, 1))
    other.learn(lessons_of(TRUE, 200, 1))
    assert (other.mean_F == scorer.mean_F).all()
    fresh = Scorer()
    fresh.load_state_dict({"mean": np.ones(3), "information": np.eye(3)}, "")
    assert (fresh.mean_F == PRIOR_F).all()
