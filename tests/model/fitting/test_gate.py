"""The gate: what it lets through, and what it says when it does not."""

from __future__ import annotations

import numpy as np

from driftgraph.model.fitting.gate import NORM_MAX, Losses, Verdict, judge, median_norm
from driftgraph.model.network.embed import Embedding
from driftgraph.model.options import TrainerOptions
from driftgraph.snapshots.generations import vectors

OPTIONS = TrainerOptions(norm_factor=10, loss_margin=0.1)


def embedding_of(*, scale: float = 1.0, bad: float | None = None, count: int = 20) -> Embedding:
    rng = np.random.default_rng(0)
    rows, times_ms = np.arange(count, dtype=np.uint32), np.ones(count, np.int64)
    user, item = (scale * rng.standard_normal((2, count, 4))).astype(np.float32)
    if bad is not None:
        item[3, 2] = bad
    return Embedding(rows, user, times_ms, rows, item, times_ms)


def verdict(
    embedding: Embedding | None = None,
    *,
    norms: list[tuple[float, float]] | None = None,
    losses: list[Losses] | None = None,
) -> Verdict:
    embedding = embedding_of() if embedding is None else embedding
    return judge(embedding, norms=norms or [], losses=losses or [], options=OPTIONS)


def test_a_sound_candidate_passes() -> None:
    usual = embedding_of()
    norms = [(median_norm(usual.user), median_norm(usual.item))] * 3
    same = np.ones(50)
    assert verdict(usual, norms=norms, losses=[Losses("new", same, same)]).accepted


def test_one_broken_number_is_enough() -> None:
    assert NORM_MAX == vectors.NORM_MAX, "the gate lets through what a publish refuses, or the other way"
    for bad in (np.nan, np.inf, -np.inf, 3e38, 2e18):
        found = verdict(embedding_of(bad=bad))
        assert (found.accepted, found.code) == (False, "not_finite")
        assert "1 of 20 item vectors" in found.reason


def test_norms_may_move_by_the_factor_and_no_further() -> None:
    usual = embedding_of()
    norms = [(median_norm(usual.user), median_norm(usual.item))]
    assert verdict(embedding_of(scale=9.9), norms=norms).accepted
    assert verdict(embedding_of(scale=1 / 9.9), norms=norms).accepted
    for scale in (10.1, 1 / 10.1):
        found = verdict(embedding_of(scale=scale), norms=norms)
        assert (found.accepted, found.code) == (False, "norm")
        assert "user vectors" in found.reason


def test_one_wild_generation_does_not_move_the_running_median() -> None:
    usual = embedding_of()
    norms = [(median_norm(usual.user), median_norm(usual.item))] * 3 + [(1e6, 1e6)]
    assert verdict(usual, norms=norms).accepted


def test_popularity_is_no_part_of_the_norm() -> None:
    vectors = np.array([[3, 4, 100], [3, 4, -100]], np.float32)
    assert median_norm(vectors) == 5
    assert median_norm(vectors[:0]) == 0


def test_a_holdout_that_got_worse_than_the_margin_is_refused() -> None:
    before = np.linspace(4, 8, 200)
    assert verdict(losses=[Losses("old", before, before + 0.09)]).accepted
    found = verdict(losses=[Losses("new", before, before - 1), Losses("old", before, before + 0.11)])
    assert (found.accepted, found.code) == (False, "holdout")
    assert "old holdout of 200" in found.reason
    assert "0.110" in found.reason


def test_noise_is_no_objection_and_nan_is_one() -> None:
    before = np.full(30, 6.0)
    after = before + 0.2 + np.resize([2.0, -2.0], 30)  # 0.2 ± 0.37 worse
    assert verdict(losses=[Losses("new", before, after)]).accepted
    assert not verdict(losses=[Losses("new", before, before + 0.2)]).accepted
    after = before.copy()
    after[3] = np.nan
    for rival, candidate in ((before, after), (after, before)):
        found = verdict(losses=[Losses("new", rival, candidate)])
        assert (found.accepted, found.code) == (False, "not_finite")
        assert found.reason == "the loss on the new holdout of 30 is not finite"


def test_one_held_example_is_no_objection_as_nobody_knows_its_noise() -> None:
    for before, after in (([6.0], [9.0]), ([6.0, 6.0], [6.0, 12.0])):
        losses = Losses("new", np.array(before), np.array(after), first=True)
        assert verdict(losses=[losses]).accepted
    assert not verdict(losses=[Losses("new", np.array([6.0]), np.array([np.nan]), first=True)]).accepted
    assert not verdict(
        losses=[Losses("new", np.full(3, 6.0), np.array([8.0, 9.0, 10.0]), first=True)]
    ).accepted


def test_an_empty_window_is_no_objection() -> None:
    none = np.zeros(0)
    assert verdict(embedding_of(count=0), norms=[(1.0, 1.0)], losses=[Losses("new", none, none)]).accepted
