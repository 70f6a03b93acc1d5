"""The popularity bank against the plainest count, and what it must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from driftgraph.model.score.bank import HALF_LIVES_H, HOUR_MS, Bank, Later, Pairs, later_of
from driftgraph.stream.arrays import F64, I64
from driftgraph.stream.window import samplers
from tests.model_worlds import events_of

ITEMS = 7


def plain_features(item: int, events: list[tuple[int, int]], at_ms: int) -> list[float]:
    """The feature of each half-life, by looking at every event."""
    made = []
    for hours in HALF_LIVES_H:
        ages = [at_ms - t for i, t in events if i == item and t < at_ms]
        count = sum(2.0 ** (-age / (hours * HOUR_MS)) for age in ages)
        made.append(math.log1p(10 * count))
    return made


def stream(seed: int, count: int, gap_ms: float) -> tuple[list[tuple[int, int]], I64]:
    """Events (item, time) in order of time, many at the same time, and times to ask at."""
    rng = np.random.default_rng(seed)
    time_ms = np.cumsum(np.round(rng.exponential(gap_ms, count) * (rng.random(count) < 0.7))).astype(np.int64)
    item = (rng.random(count) ** 2 * ITEMS).astype(int)
    asked = np.sort(rng.choice(time_ms, 20))
    return list(zip(item.tolist(), time_ms.tolist(), strict=True)), asked


@pytest.mark.parametrize("gap_ms", [60_000.0, HOUR_MS, 200 * HOUR_MS])
@pytest.mark.parametrize("seed", range(3))
def test_scores_and_features_are_those_of_the_plainest_count(seed: int, gap_ms: float) -> None:
    events, asked = stream(seed, 300, gap_ms)
    columns = events_of([(0, item, 0, t) for item, t in events])
    start = int(np.searchsorted(columns.time_ms, asked[0], "left"))
    bank = Bank(ITEMS, 0)
    bank.advance(int(asked[0]))
    bank.add(columns.item[:start], columns.time_ms[:start])
    later, items = later_of(columns, start, asked), np.arange(ITEMS)
    pairs = Pairs(ITEMS * np.arange(len(asked) + 1), np.tile(items, len(asked)))
    features = bank.features(later, pairs).reshape(len(asked), ITEMS, -1)
    expected = np.array([[plain_features(i, events, int(t)) for i in range(ITEMS)] for t in asked])
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    weight: F64 = np.random.default_rng(seed).normal(size=len(HALF_LIVES_H))
    np.testing.assert_allclose(bank.scores(later, items, weight), expected @ weight, rtol=1e-4, atol=1e-5)


def test_a_bank_that_is_moved_on_in_steps_is_the_one_made_at_once() -> None:
    events, asked = stream(5, 400, HOUR_MS / 3)
    columns = events_of([(0, item, 0, t) for item, t in events])
    moved, done = Bank(ITEMS, 0), 0
    for at_ms in asked.tolist():
        stop = int(np.searchsorted(columns.time_ms, at_ms, "left"))
        moved.advance(at_ms)
        moved.add(columns.item[done:stop], columns.time_ms[done:stop])
        done = stop
    anew = Bank(ITEMS, int(asked[-1]))
    anew.add(columns.item[:done][::-1], columns.time_ms[:done][::-1])  # in any order
    np.testing.assert_allclose(moved.count_FR, anew.count_FR, rtol=1e-9)
    assert (moved.degree_R == anew.degree_R).all()
    assert (moved.first_ms_R == anew.first_ms_R).all()
    first = {i: min(t for j, t in events[:done] if j == i) for i, _ in events[:done]}
    hours = [(int(asked[-1]) - first[i]) / HOUR_MS for i in sorted(first)]
    np.testing.assert_allclose(anew.age(np.array(sorted(first))), np.log1p(hours), rtol=1e-6)


def test_an_event_at_or_after_the_asked_time_changes_nothing() -> None:
    bank = Bank(2, 1_000)
    weight, asked = np.ones(len(HALF_LIVES_H)), np.array([5_000], np.int64)
    items, nothing = np.arange(2), np.zeros(0, np.uint32)
    before = bank.scores(Later(nothing, np.zeros(0, np.int64), asked), items, weight)
    for at_ms, counts in ((4_999, True), (5_000, False), (5_001, False)):
        later = Later(np.array([1], np.uint32), np.array([at_ms], np.int64), asked)
        assert (bank.scores(later, items, weight) != before).any() == counts
    assert not bank.count_FR.any(), "a question changes nothing"


@pytest.mark.parametrize("gap_ms", [60_000.0, HOUR_MS, 30 * HOUR_MS])
def test_the_number_of_threads_changes_no_bit(gap_ms: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where gaps are so long that counts are brought to a new time of reference."""
    events, _ = stream(3, 600, gap_ms)
    columns = events_of([(0, item, 0, t) for item, t in events])
    asked = columns.time_ms[100::2]
    start = int(np.searchsorted(columns.time_ms, asked[0], "left"))
    bank = Bank(ITEMS, int(asked[0]))
    bank.add(columns.item[:start], columns.time_ms[:start])
    later, items = later_of(columns, start, asked), np.arange(ITEMS)
    weight: F64 = np.random.default_rng(1).normal(size=len(HALF_LIVES_H))
    made = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(samplers, "THREADS", threads)
        made.append(bank.scores(later, items, weight).tobytes())
    assert len(asked) > 7 * 32
    assert made[0] == made[1] == made[2]
