"""Targets, ranks and intervals of the quality benchmark."""

from __future__ import annotations

import math
from operator import eq, gt

import numpy as np
import pytest

from benchmarks.offline_evaluation.prequential import (
    CLOCKS,
    Judge,
    Stream,
    draw_targets,
    gains_of,
    metrics_of,
    paired_intervals,
    stream_of,
)
from driftgraph.stream.arrays import F64
from tests.benchmarks.plain_peers import DAY_MS, tiny_stream


class Remembering:
    """A scorer that has few different scores, so that there are ties, and writes down what it was asked."""

    def __init__(self, stream: Stream) -> None:
        self.value = np.random.default_rng(3).integers(0, 4, len(stream.item_ids)).astype(float)
        self.value[0] = -np.inf
        self.retrained: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def retrain(self, until_ms: int) -> None:
        self.retrained.append(until_ms)

    def score(self, user: int, before_ms: int, out: F64) -> None:
        self.asked.append((user, before_ms))
        out[:] = self.value


def plain_rank(stream: Stream, value: F64, user: int, item: int, before_ms: int, leave_out: bool) -> float:
    rows = list(zip(stream.user.tolist(), stream.item.tolist(), stream.time_ms.tolist(), strict=True))
    seen = {i for _, i, t in rows if t < before_ms}
    out = {i for u, i, t in rows if u == user and t < before_ms} if leave_out else set()
    if item not in seen - out or value[item] == -np.inf:
        return math.inf
    others = [value[i] for i in seen - out - {item}]
    better, equal = (sum(map(compare, others, [value[item]] * len(others))) for compare in (gt, eq))
    return float(1 + better + equal / 2)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ranks_equal_the_plain_ones_by_both_clocks(seed: int) -> None:
    stream = tiny_stream(seed, items=60)
    targets = draw_targets(stream, 2 * DAY_MS, 6 * DAY_MS, every_ms=DAY_MS, most=60, seed=seed)
    judge, scorer = Judge(stream, targets), Remembering(stream)
    ranks = judge.no_ranks()
    for window_ms, places in judge.windows():
        judge.rank(scorer, window_ms, places, ranks, CLOCKS)
    for clock in CLOCKS:
        for name, leave_out in (("explore", True), ("repeats", False)):
            for n in range(len(targets)):
                state_ms = int(targets.time_ms[n] if clock == "event" else targets.window_ms[n])
                asked = (scorer.value, int(targets.user[n]), int(targets.item[n]), state_ms, leave_out)
                right = plain_rank(stream, *asked) if getattr(targets, name)[n] else math.nan
                np.testing.assert_equal(ranks[clock][name][n], right)
    assert scorer.retrained == sorted(set((targets.time_ms // DAY_MS * DAY_MS).tolist()))
    times = [time_ms for _, time_ms in scorer.asked]
    assert times == sorted(times), "a scorer's times do not go back"


def test_an_item_that_nobody_has_seen_is_a_miss() -> None:
    stream = stream_of(["a", "b", "b"], ["x", "x", "new"], ["click"] * 3, np.array([1, 2, 3]) * DAY_MS)
    targets = draw_targets(stream, 2 * DAY_MS, 4 * DAY_MS, every_ms=DAY_MS, most=9, seed=0)
    judge = Judge(stream, targets)
    ranks = judge.no_ranks()
    for window_ms, places in judge.windows():
        judge.rank(Remembering(stream), window_ms, places, ranks, ("event",))
    assert ranks["event"]["explore"][1] == math.inf


def test_targets_of_explore_are_first_contacts_and_all_targets_come_once() -> None:
    item, behavior = ["x", "x", "x", "x", "y"], ["click", "click", "click", "buy", "buy"]
    stream = stream_of(["a"] * 5, item, behavior, np.array([1, 2, 2, 2, 3]) * DAY_MS)
    targets = draw_targets(stream, DAY_MS, 4 * DAY_MS, every_ms=DAY_MS, most=9, seed=0)
    assert targets.event[targets.explore].tolist() == [0, 4]
    assert targets.event[targets.repeats].tolist() == [0, 1, 3, 4]


def test_metrics_of_one_relevant_item() -> None:
    found = metrics_of(np.array([1.0, 3.0, 20.0, 20.5, math.inf]))
    assert found["recall_at_20"] == pytest.approx(3 / 5)
    assert found["ndcg_at_20"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(21)) / 5)
    assert found["mrr_at_20"] == pytest.approx((1 + 1 / 3 + 1 / 20) / 5)


def test_a_constant_difference_has_no_width_and_no_targets_have_no_interval() -> None:
    ours = np.full(30, 0.5)
    interval = paired_intervals(ours, np.stack([ours - 0.25, ours]), np.arange(30) // 3, seed=0)
    assert interval.ravel().tolist() == pytest.approx([0.25, 0.25, 0, 0])
    assert np.isnan(paired_intervals(ours[:0], ours[None, :0], np.zeros(0, np.int64), seed=0)).all()


def test_an_interval_is_as_wide_as_the_normal_one_and_repeats_of_a_user_do_not_narrow_it() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 1.0, 400)
    user = np.arange(400)
    once = paired_intervals(difference, np.zeros((1, 400)), user, seed=2)[0]
    right = float(1.96 * difference.std() / math.sqrt(400))
    normal = np.array([difference.mean() - right, difference.mean() + right])
    np.testing.assert_allclose(once, normal, atol=right / 5)
    many = paired_intervals(np.tile(difference, 10), np.zeros((1, 4_000)), np.tile(user, 10), seed=2)[0]
    np.testing.assert_allclose(many, once, atol=1e-9)


def test_the_gain_of_a_miss_is_nothing() -> None:
    assert gains_of(np.array([math.inf, 21.0])).tolist() == [[0, 0, 0], [0, 0, 0]]
