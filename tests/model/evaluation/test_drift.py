"""Drift: a planted change of taste leads the list, scores are plain arithmetic, memory is bounded."""

from __future__ import annotations

from itertools import pairwise
from math import log2

import numpy as np
import pytest

from driftgraph.app.demo.shop import Shop, ShopOptions, open_shop
from driftgraph.model.evaluation import drift
from driftgraph.model.evaluation.drift import EVENTS_MIN, NEIGHBORS_MIN, Drift, drift_of
from driftgraph.model.fitting.published import Published
from driftgraph.stream.arrays import F64
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, Relation, Window, in_memory
from tests.model_worlds import append, blocks, empty_cut, noise, trainer_of, window_of

DAY_MS = 86_400_000
PRECISION_MIN = 0.8  # of the ten users named first; a fifth of all change their taste


def shop_of(drifting_share: float) -> Shop:
    return open_shop(
        ShopOptions(
            user_count=150, item_count=300, category_count=12, event_count=30_000, new_item_share=0,
            drifting_share=drifting_share,
        )
    )  # fmt: skip


def drift_after_the_change(shop: Shop) -> Drift:
    """What moved in the two days from the change on, by vectors of who touched what (as PureSVD has them)."""
    relations = [Relation(name, 30 * DAY_MS, 1 << 17) for name in ("click", "favorite", "purchase")]
    window = in_memory(relations, user_rows=1_024, item_rows=1_024)
    days = shop.options.drift_ms + np.array([0, 2]) * DAY_MS
    cuts = []
    generations = []
    for start, stop in pairwise([0, *np.searchsorted(shop.time_ms, days).tolist()]):
        part = slice(start, stop)
        columns = (shop.user[part].astype(np.uint32), shop.item[part].astype(np.uint32), shop.behavior[part])
        window.append(*columns, shop.time_ms[part])
        window.expire(int(shop.time_ms[stop - 1]))
        touched = np.zeros((len(shop.user_ids), len(shop.item_ids)))
        np.add.at(touched, (shop.user[:stop], shop.item[:stop]), 1.0)
        *_, items = np.linalg.svd(np.log1p(touched), full_matrices=False)
        cuts.append(window.cut())
        generations.append(published_of(np.column_stack([items[:16].T, np.ones(items.shape[1])]), window))
    found = drift_of(window, *cuts, then=generations[0], now=generations[1], seed=0)
    assert found is not None
    return found


def test_users_who_change_their_taste_lead_the_list_and_without_a_change_scores_are_low() -> None:
    shop, calm = shop_of(0.2), shop_of(0.0)
    moved, same = drift_after_the_change(shop), drift_after_the_change(calm)
    assert moved.users.measured > 100
    precision = shop.user_drifts[moved.users.rows].mean()
    assert precision >= PRECISION_MIN, moved.users
    assert same.users.scores[9] < moved.users.scores[9]
    assert same.users.median < moved.users.scores[9] / 2
    # old and new tastes are anywhere, so the users that moved cancel out in what a behavior is about
    for found in (moved, same):
        assert max(behavior.distance for behavior in found.behaviors.values()) < 0.05


def test_a_behavior_that_turns_to_other_items_is_far_from_before_and_another_is_not() -> None:
    rng = np.random.default_rng(1)

    def events(first_item: int, clicks: int, first_ms: int) -> list[tuple[int, int, int, int]]:
        relation = np.repeat([0, 1], [clicks, 400])
        item = rng.integers(0, 20, len(relation)) + np.where(relation == 0, first_item, 0)
        time_ms = first_ms + rng.permutation(len(relation))
        columns = (rng.integers(0, 50, len(relation)), item, relation, time_ms)
        return sorted(zip(*(c.tolist() for c in columns), strict=True), key=lambda row: row[3])

    window = window_of(events(0, 400, 0))
    since = window.cut()
    cut = append(window, events(10, 400, 10_000))
    items = published_of(rng.normal(size=(30, 6)), window)
    found = drift_of(window, since, cut, then=items, now=items, seed=0)
    assert found is not None
    click, buy = found.behaviors["click"], found.behaviors["buy"]
    assert (click.share_before, click.share) == (0.5, 0.5)
    assert 0.3 < click.distance < 0.6, "half of its items are new"
    assert buy.distance < 0.03


def published_of(vectors: F64, window: Window) -> Published:
    """The items 0 to n by their vectors."""
    rows = np.arange(len(vectors))
    nobody = np.zeros(0, np.int64)
    versions = window.row_versions(ITEM)[rows].astype(np.int64)
    empty = np.zeros((0, vectors.shape[1]), np.float32)
    return Published(nobody, empty, nobody, rows, vectors.astype(np.float32), versions)


def cosine(one: F64, other: F64) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def unit(vector: F64) -> F64:
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_plainest_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = noise(1_200, seed=seed, users=30, items=25)
    window = window_of(rows[:700])
    since = window.cut()
    cut = append(window, rows[700:])
    was, now = rng.normal(size=(2, 25, 5)).astype(np.float32).astype(np.float64)
    found = drift_of(
        window, since, cut, then=published_of(was, window), now=published_of(now, window), seed=seed
    )
    assert found is not None

    expected = {}
    for user in range(30):
        here = {i for u, i, _, _ in rows[700:] if u == user}
        past = {i for r in (0, 1) for i in [i for u, i, q, _ in rows[:700] if (u, q) == (user, r)][-20:]}
        if min(len(here), len(past)) >= NEIGHBORS_MIN:
            one, other = (sum(unit(now[i, :-1]) for i in items) for items in (here, past))
            count = min(len(here), len(past))
            assert not isinstance(one, int)
            assert not isinstance(other, int)
            expected[user] = (1 - cosine(one, other)) * count / (count + NEIGHBORS_MIN)
    first = sorted(expected, key=lambda user: -expected[user])[:10]
    assert found.users.measured == len(expected)
    assert found.users.rows.tolist() == first
    assert found.users.scores == pytest.approx([expected[user] for user in first])
    assert found.users.median == pytest.approx(np.median(list(expected.values())))

    apart = {item: 1 - cosine(was[item, :-1], now[item, :-1]) for item in range(25)}  # all are active
    assert found.items.rows.tolist() == sorted(apart, key=lambda item: -apart[item])[:10]
    assert found.items.scores == pytest.approx(sorted(apart.values(), reverse=True)[:10])

    click = found.behaviors["click"]
    assert click.share == pytest.approx(np.mean([r == 0 for _, _, r, _ in rows[700:]]))
    assert click.share_before == pytest.approx(np.mean([r == 0 for _, _, r, _ in rows[200:700]]))


def test_a_node_of_few_events_has_no_score() -> None:
    """A user with two items since, one with two before, an item of two users; a behavior of a few events."""
    old = [(0, n, 0, 10 + n) for n in range(8)] + [(1, n, 0, 30 + n) for n in range(2)]
    window = window_of(old)
    since = window.cut()
    new = [(0, n, 0, 50 + n) for n in range(2)] + [(1, n, 0, 70 + n) for n in range(8)]
    cut = append(window, new)
    items = published_of(np.eye(8, 6), window)
    found = drift_of(window, since, cut, then=items, now=items, seed=0)
    assert found is not None
    assert (found.users.measured, found.items.measured) == (0, 0)
    assert len(old) < EVENTS_MIN
    assert np.isnan(found.behaviors["click"].distance)


def test_the_distance_of_a_behavior_is_0_by_chance_and_1_with_nothing_in_common() -> None:
    half = np.arange(200, dtype=np.uint32) % 50
    assert drift._divergence(half, half) == 0
    assert drift._divergence(half, half + 50) == pytest.approx(1)
    one, other = np.array([1, 1, 2], np.uint32), np.array([1, 3], np.uint32)
    p, q = {1: 2 / 3, 2: 1 / 3}, {1: 1 / 2, 3: 1 / 2}
    plain = 0.0
    for item in (1, 2, 3):
        middle = (p.get(item, 0) + q.get(item, 0)) / 2
        plain += sum(s[item] * log2(s[item] / middle) for s in (p, q) if item in s) / 2
    assert drift._divergence(one, other) == pytest.approx(plain)


def test_the_curve_has_each_age_and_the_oldest_is_the_frozen_first_model() -> None:
    window = window_of(blocks(400, seed=7))
    trainer, cut = trainer_of(), window.cut()
    trainer.fit(window, empty_cut(window), cut)
    assert trainer.before is None
    for n in range(5):
        since, cut = cut, append(window, blocks(150, seed=8 + n, first_ms=10**6 * (n + 1)))
        found = trainer.evaluate(window, since, cut)
        assert found.staleness is not None
        version = trainer.model_version
        # what was published last has users: it ranks somewhat as the vectors do that they have now
        newest = found.staleness.fits_ago[1]["recall_at_20"]
        assert newest > found.metrics["vectors"]["recall_at_20"] / 3 > 0
        assert list(found.staleness.fits_ago) == [age for age in (1, 2, 4, 8) if age <= version]
        assert found.staleness.event_count == found.event_count
        assert found.staleness.vectors == found.metrics["vectors"]
        usual = found.staleness.vectors["recall_at_20"]
        assert found.staleness.fits_ago[1]["recall_at_20"] > 0.5 * usual > 0, "it keeps its users, too"
        if version in found.staleness.fits_ago:
            assert found.staleness.fits_ago[version] == pytest.approx(found.metrics["frozen_first"], abs=0.01)
        assert trainer.fit(window, since, cut).accepted
    resumed = trainer_of()
    resumed.load_state_dict(*trainer.state_dict())
    since, cut = cut, append(window, blocks(150, seed=20, first_ms=10**7))
    assert resumed.evaluate(window, since, cut).staleness is None, "older generations are not saved"


def test_what_a_fit_left_is_plain_arithmetic() -> None:
    rng = np.random.default_rng(3)
    then, now = generation_of(40, 60), generation_of(40, 60)
    now.item[:] += rng.normal(size=now.item.shape).astype(np.float32) / 2
    now.item_version[:5] += 1  # rows of other owners now
    found = drift.stability_of(then.without_users(), now, held_old=(4.0, 4.1), top=7)
    assert found is not None
    cosines, shares = [], []
    for was, is_now in zip(then.item[5:, :-1].tolist(), now.item[5:, :-1].tolist(), strict=True):
        dot = sum(a * b for a, b in zip(was, is_now, strict=True))
        cosines.append(dot / sum(a * a for a in was) ** 0.5 / sum(b * b for b in is_now) ** 0.5)
    for user in now.user:
        best = [
            set(sorted(range(5, 60), key=lambda i: -float(one.item[i] @ user))[:7]) for one in (then, now)
        ]
        shares.append(len(best[0] & best[1]) / 7)
    assert found.item_cosine == pytest.approx(sum(cosines) / len(cosines))
    assert found.overlap == pytest.approx(sum(shares) / len(shares))
    assert 0.3 < found.overlap < 0.95
    assert found.forgetting == pytest.approx(0.025)
    same = drift.stability_of(then, then, held_old=(4.0, 4.0), top=7)
    assert same is not None
    assert same.item_cosine == pytest.approx(1)
    assert (same.overlap, same.forgetting) == (1, 0)
    apart = drift.stability_of(generation_of(1, 0), generation_of(1, 3), held_old=(np.nan, np.nan), top=7)
    assert apart is not None
    assert np.isnan([apart.item_cosine, apart.overlap, apart.forgetting]).all(), "nothing compares"


def test_a_fit_reports_what_it_left_and_a_first_one_does_not() -> None:
    window = window_of(blocks(400, seed=7))
    trainer, since, cut = trainer_of(), empty_cut(window), window.cut()
    assert trainer.fit(window, since, cut).stability is None
    since, cut = cut, append(window, blocks(150, seed=8, first_ms=10**6))
    fit = trainer.fit(window, since, cut)
    assert fit.stability is not None
    assert 0.5 < fit.stability.item_cosine < 1
    assert 0 < fit.stability.overlap <= 1
    rival, candidate = fit.holdout["old"]
    assert fit.stability.forgetting == pytest.approx(candidate / rival - 1)


def generation_of(users: int, items: int) -> Published:
    rng = np.random.default_rng(users)
    vectors = rng.normal(size=(users + items, 16)).astype(np.float32)
    rows, versions = np.arange(users + items), np.zeros(users + items, np.int64)
    return Published(
        rows[:users], vectors[:users], versions[:users], rows[:items], vectors[users:], versions[:items]
    )


def test_older_generations_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    elders = drift.Elders()
    for _ in range(20):
        elders.keep(generation_of(300, 100))
    assert len(elders._kept) == 8
    monkeypatch.setattr(drift, "USERS_MAX", 100)
    elders.keep(generation_of(300, 100))
    kept = len(elders._kept[-1].vectors.user_rows)
    assert 60 < kept < 140
    monkeypatch.setattr(drift, "BYTES_MAX", 3 * elders._kept[-1].bytes)
    for _ in range(8):
        elders.keep(generation_of(300, 100))
    assert len(elders._kept) == 3
    monkeypatch.setattr(drift, "BYTES_MAX", 10)
    elders.keep(generation_of(300, 100))
    assert len(elders._kept) == 0


def test_a_larger_sample_of_users_has_all_of_a_smaller_one() -> None:
    rows, versions = np.arange(10_000), np.full(10_000, 3)
    small, large = (drift._sampled(rows, versions, share) for share in (0.1, 0.4))
    assert not (small & ~large).any()
    assert small.mean() == pytest.approx(0.1, abs=0.02)
    assert large.mean() == pytest.approx(0.4, abs=0.02)
    assert drift._sampled(rows, versions, 1.0).all()


def test_nothing_moved_for_the_first_model_version() -> None:
    window = window_of(blocks(300, seed=1))
    cut: Cut = window.cut()
    assert drift_of(window, cut, cut, then=None, now=None, seed=0) is None
