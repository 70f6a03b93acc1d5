"""Scores of all candidates: what a lesson says of a pair is what its score is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from driftgraph.model.score import ranking
from driftgraph.model.score.bank import Bank, Later
from driftgraph.model.score.lists import Wanted
from driftgraph.model.score.ranking import PATH_SCALE, SIMILAR_SHAPE, Stage
from driftgraph.model.score.scorer import FEATURES, OWN, PATHS, PRIOR_F, SIMILAR_USERS
from driftgraph.stream.arrays import F32, F64, I64
from driftgraph.stream.window.writer import Window
from tests.model_worlds import RELATIONS, START_MS, blocks, events_of, window_of
from tests.plain_similar import plain_similar
from tests.plain_window import PlainWindow

USERS, ITEMS, AT_MS = 6, 12, START_MS + 10**6
Asked = tuple[Stage, F32, Later]


def asked(window: Window, *, repeats: bool) -> Asked:
    """A stage of all items behind all events, vectors of all users, and the time of the question."""
    events = window.events(window.cut())
    bank = Bank(ITEMS, AT_MS)
    bank.add(events.item, events.time_ms)
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(USERS + ITEMS, 5)).astype(np.float32)
    candidates = np.arange(ITEMS, dtype=np.uint32)
    times_ms: I64 = np.full(USERS, AT_MS, np.int64)
    stage = Stage(window, bank, candidates, vectors[USERS:], repeats=repeats)
    return stage, vectors[:USERS], Later(candidates[:0], times_ms[:0], times_ms)


@pytest.mark.parametrize("repeats", [False, True])
def test_the_features_of_a_lesson_are_those_of_the_score(repeats: bool) -> None:
    """With random weights and few candidates, which are all in the lesson; one is excluded."""
    window = window_of(blocks(150, seed=8, users=USERS, items=ITEMS))
    stage, users, later = asked(window, repeats=repeats)
    weight_F: F64 = np.random.default_rng(3).normal(size=len(FEATURES))
    rows = np.arange(USERS, dtype=np.uint32)
    popular = stage.popular(later, weight_F)
    parts = stage.parts(rows, users, later.at_ms, window.cut(), popular)
    scores, column = parts.scores(weight_F), np.array([0, 1, 2, 3, 4, 11])
    excluded = np.zeros(scores.shape, np.bool_)
    excluded[:, 5] = True
    features, counts, target = stage.lessons(parts, scores, excluded, column, later)
    assert counts.tolist() == [ITEMS - 1] * USERS
    assert target.tolist() == [0, 1, 2, 3, 4, 10]
    np.testing.assert_allclose(features @ weight_F, scores[~excluded], rtol=1e-4, atol=1e-4)
    assert features[:, SIMILAR_USERS].any()
    assert features[:, OWN.stop - 1].any() == repeats


def test_similar_users_do_not_vouch_for_what_the_user_has() -> None:
    """What they say of it would only be how many have it; the own features say what it is worth."""
    window = window_of(blocks(150, seed=8, users=USERS, items=ITEMS))
    stage, users, later = asked(window, repeats=True)
    weight_F = np.zeros(len(FEATURES))
    weight_F[SIMILAR_USERS] = 1
    rows = np.arange(USERS, dtype=np.uint32)
    parts = stage.parts(rows, users, later.at_ms, window.cut(), stage.popular(later, PRIOR_F))
    scores = parts.scores(weight_F)
    own = np.zeros(scores.shape, np.bool_)
    own[parts.own.user_E, parts.own.place_E] = True
    assert own.any()
    assert not scores[own].any()
    assert scores[~own].any()


def test_the_feature_of_similar_users_is_the_plainest_sum() -> None:
    """Over the tenth root of the events of both items."""
    rows = blocks(150, seed=8, users=USERS, items=ITEMS)
    window, plain = window_of(rows), PlainWindow(RELATIONS)
    every = events_of([(u, i, r, t + START_MS) for u, i, r, t in rows])
    plain.append(every.user, every.item, every.relation, every.time_ms)
    stage, users, later = asked(window, repeats=False)
    degree = np.maximum(np.bincount(every.item, minlength=ITEMS), 1.0)
    weights = np.power(0.8, np.arange(20)), degree**-0.1
    asked_rows = np.arange(USERS, dtype=np.uint32)
    parts = stage.parts(asked_rows, users, later.at_ms, window.cut(), stage.popular(later, PRIOR_F))
    found, expected = np.zeros((USERS, ITEMS)), np.zeros((USERS, ITEMS))
    found[parts.similar_users.user_E, parts.similar_users.place_E] = parts.similar_users.feature_E
    for user in range(USERS):
        for item, total in plain_similar(plain, user, AT_MS, window.cut(), SIMILAR_SHAPE, weights)[0].items():
            expected[user, item] = math.log1p(PATH_SCALE * total * degree[item] ** -0.1)
    assert expected.any()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scores_at_once", [1, 1 << 21])
@pytest.mark.parametrize("repeats", [False, True])
def test_the_best_candidates_are_those_of_the_scores(
    repeats: bool, scores_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a sort of all scores, of equal ones in order."""
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
    window = window_of(blocks(150, seed=8, users=USERS, items=ITEMS))
    stage, users, later = asked(window, repeats=repeats)
    rng, rows, found_equal = np.random.default_rng(3), np.arange(USERS, dtype=np.uint32), False
    for length in (1, 4, 9, ITEMS):
        weight_F: F64 = rng.normal(size=len(FEATURES)) * (rng.random(len(FEATURES)) < 0.5)
        if length in (4, 9):  # all are equal, or all that no path reaches
            weight_F[:] = 0
            weight_F[PATHS] = length - 4
        one = Later(later.item, later.time_ms, later.at_ms[:1])
        popular = stage.popular(one, weight_F)
        gone = rng.random(ITEMS) < 0.2
        touched = [np.flatnonzero(rng.random(ITEMS) < 0.3) for _ in rows]
        bounds = np.cumsum([0, *map(len, touched)])
        wanted = Wanted(rows, users, later.at_ms, gone, bounds, np.concatenate(touched))
        made = stage.best(wanted, window.cut(), popular, weight_F, length)
        scores = stage.parts(rows, users, later.at_ms, window.cut(), popular).scores(weight_F)
        for n in range(USERS):
            left = np.setdiff1d(np.flatnonzero(~gone), touched[n])
            order = left[np.argsort(-scores[n, left], kind="stable")][:length]
            assert made.lengths[n] == len(order)
            assert made.rows[n, : len(order)].tolist() == order.tolist()
            np.testing.assert_allclose(made.score[n, : len(order)], scores[n, order], rtol=1e-5, atol=1e-6)
            found_equal |= len(np.unique(scores[n, left])) < len(left)
    assert found_equal
