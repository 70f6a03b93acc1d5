"""Popularity as of a moment, and the candidates of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from driftgraph.model.examples.popularity import Popularity, candidates
from driftgraph.stream.arrays import U32
from driftgraph.stream.window.writer import Events
from tests.model_worlds import events_of

EVENTS: Events = events_of([(0, 1, 0, 100), (0, 2, 0, 200), (1, 1, 0, 200), (2, 0, 0, 300)])


def test_popularity_counts_strictly_before_and_halves_with_the_half_life() -> None:
    popularity = Popularity([100, 200], rows=3)
    popularity.advance(EVENTS, 200)
    np.testing.assert_allclose(popularity.count, [[0, 0.5, 0], [0, 0.5**0.5, 0]])
    popularity.advance(EVENTS, 300)
    np.testing.assert_allclose(popularity.count[0], [0, 0.25 + 0.5, 0.5])


def test_popularity_in_steps_is_popularity_at_once() -> None:
    steps, once = Popularity([70], rows=3), Popularity([70], rows=3)
    for time_ms in (50, 100, 101, 250, 250, 900):
        steps.advance(EVENTS, time_ms)
    once.advance(EVENTS, 900)
    np.testing.assert_allclose(steps.count, once.count)


def test_popularity_does_not_go_back() -> None:
    popularity = Popularity([100], rows=3)
    popularity.advance(EVENTS, 200)
    with pytest.raises(ValueError, match="at 200 ms and cannot go back to 199 ms"):
        popularity.advance(EVENTS, 199)


def test_an_average_item_has_feature_zero_and_an_unseen_one_a_finite_one() -> None:
    popularity = Popularity([100], rows=3)
    assert popularity.features(np.arange(3)).tolist() == [[0], [0], [0]]
    popularity.advance(EVENTS, 300)
    features = popularity.features(np.arange(3))[:, 0]
    assert np.isfinite(features).all()
    assert features[1] > features[2] > features[0]
    assert popularity.share(np.arange(3)).sum() == pytest.approx(1)


def test_candidates_are_distinct_hold_every_positive_and_no_more_than_asked() -> None:
    share = np.full(50, 0.02)
    positives, pool = np.array([7, 3, 7], np.uint32), np.arange(10, 40, dtype=np.uint32)
    chosen, log_q = candidates(positives, pool, share, drawn=5, rng=np.random.default_rng(0))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert {3, 7} <= set(chosen.tolist())
    assert len(chosen) == 7
    assert (log_q <= 0).all()
    everything, _ = candidates(positives, pool, share, drawn=500, rng=np.random.default_rng(0))
    assert set(everything.tolist()) == {3, 7, *range(10, 40)}
    alone, _ = candidates(positives, pool[:0], share, drawn=5, rng=np.random.default_rng(0))
    assert alone.tolist() == [3, 7]


def test_half_of_the_draws_are_from_lists() -> None:
    share, pool = np.full(200, 0.005), np.arange(200, dtype=np.uint32)
    for listed, hard in ((np.arange(20, dtype=np.uint32), 5), (np.arange(3, dtype=np.uint32), 3)):
        found = [
            candidates(pool[:0], pool[20:], share, drawn=10, rng=np.random.default_rng(n), listed=listed)[0]
            for n in range(5)
        ]
        assert [int((chosen < 20).sum()) for chosen in found] == [hard] * 5
        assert [len(chosen) for chosen in found] == [10] * 5


@pytest.mark.parametrize("listed", [None, np.array([2, 4], np.uint32)])
def test_log_q_is_how_often_a_candidate_really_is_one(listed: U32 | None) -> None:
    """Draw 4,000 batches of 6 by the share, 2 more from a pool or one of it and one of lists, and count."""
    rng = np.random.default_rng(1)
    share = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    pool = np.array([1, 2, 3, 4], np.uint32)
    times, said = np.zeros(5), np.zeros(5)
    for _ in range(4_000):
        positives = rng.choice(5, 6, p=share).astype(np.uint32)
        chosen, log_q = candidates(positives, pool, share, drawn=2, rng=rng, listed=listed)
        times[chosen] += 1
        said[chosen] = np.exp(log_q)
    np.testing.assert_allclose(said, times / 4_000, atol=0.03)
