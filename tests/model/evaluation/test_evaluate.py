"""Test-then-train evaluation, against the plainest possible one, and what it must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from driftgraph.model.evaluation import evaluate as module
from driftgraph.model.evaluation.baselines import rank_of
from driftgraph.model.evaluation.evaluate import Evaluation, metrics_of
from driftgraph.model.fitting.published import Published
from driftgraph.model.network.embed import Encoder
from driftgraph.model.score.bank import Bank, Later
from driftgraph.model.score.co_visitation import BACKWARD, DEGREE_POWER, HISTORY, LAG, VISITS
from driftgraph.model.score.ranking import DEGREE_POWER as PATH_DEGREE_POWER
from driftgraph.model.score.ranking import (
    NO_ITEM,
    PATH_SCALE,
    SHAPE,
    SIMILAR_SHAPE,
    Stage,
    best_of,
    path_tables,
    ranks_of,
)
from driftgraph.model.score.scorer import AGE, BANK, PATHS, PRIOR_F, SIMILAR_USERS
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import F32, F64, I64, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Window
from tests.model.score.test_bank import plain_features
from tests.model_worlds import (
    RELATIONS,
    START_MS,
    Row,
    append,
    blocks,
    empty_cut,
    events_of,
    exploding,
    noise,
    trainer_of,
    window_of,
)
from tests.plain_paths import plain_paths, plain_sums
from tests.plain_similar import plain_similar
from tests.plain_window import PlainWindow

BASELINES = {"recent_popularity", "co_visitation"}
PARTS = {"bank", "paths", "similar_users"}
SCORERS = BASELINES | PARTS | {"model", "vectors", "frozen_first", "started_anew"}


def trained(rows: list[Row], later: list[Row], **changes: object) -> tuple[Trainer, Window, Cut, Cut]:
    """A trainer that was fitted on ``rows``, and the cuts around ``later``."""
    window = window_of(rows)
    trainer = trainer_of(learning_rate=0.02, **changes)
    trainer.fit(window, empty_cut(window), window.cut())
    since = window.cut()
    return trainer, window, since, append(window, later)


def plain_targets(rows: list[Row], later: list[Row]) -> list[Row]:
    """First contacts of ``later``, by looking at everything before."""
    return [e for n, e in enumerate(later) if not any(o[:2] == e[:2] for o in (*rows, *later[:n]))]


def plain_rank(score: dict[int, float], item: int, touched: set[int]) -> float:
    """Ties at their mean rank; a touched or unknown item does not compete."""
    if item not in score:
        return math.inf
    rivals = [s for i, s in score.items() if i not in touched and i != item]
    return 1 + sum(s > score[item] for s in rivals) + sum(s == score[item] for s in rivals) / 2


def plain_popularity(events: list[Row], time_ms: int, half_life_ms: float) -> dict[int, float]:
    score: dict[int, float] = {}
    for _, item, _, t in events:
        if t < time_ms:
            score[item] = score.get(item, 0.0) + 2 ** ((t - time_ms) / half_life_ms)
    return score


def plain_co_visitation(events: list[Row], user: int, time_ms: int) -> dict[int, float]:
    """The docstring of ``CoVisitation.near``, literally."""
    degree: dict[int, int] = {}
    for _, item, _, t in events:
        degree[item] = degree.get(item, 0) + (t < time_ms)
    sequences: dict[int, list[Row]] = {}
    for event in events:
        sequences.setdefault(event[0], []).append(event)
    own = [e for e in sequences.get(user, []) if e[3] < time_ms][-2 * HISTORY :][::-1]
    score: dict[int, float] = {}
    for back, j in enumerate(list(dict.fromkeys(e[1] for e in own))[:HISTORY]):
        visits = [e for e in events if e[1] == j and e[3] < time_ms][-VISITS:]
        for visit in visits:
            sequence = sequences[visit[0]]
            at = next(n for n, e in enumerate(sequence) if e is visit)
            for lag in range(-LAG, LAG + 1):
                if lag == 0 or not 0 <= at + lag < len(sequence):
                    continue
                _, item, _, t = sequence[at + lag]
                if t < time_ms and item != j:
                    worth = 1 / (1 + back) / abs(lag) / (degree[j] * degree[item]) ** DEGREE_POWER
                    score[item] = score.get(item, 0.0) + worth * (BACKWARD if lag < 0 else 1)
    return score


def recall_of(ranks: list[float]) -> float:
    return sum(rank <= 20 for rank in ranks) / len(ranks)


def test_baselines_agree_with_plain_loops() -> None:
    """Popularity and co-visitation on every first contact of an interval: recall, NDCG and MRR."""
    rows = blocks(500, seed=1, users=60, items=60)
    later = blocks(120, seed=2, users=60, items=64, first_ms=10**6)
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    half_life_ms = max(r.span_ms for r in RELATIONS) * trainer.options.half_life_share
    events, targets = rows + later, plain_targets(rows, later)
    popular, visited, new = [], [], 0
    for user, item, _, time_ms in targets:
        candidates = {e[1] for e in events if e[3] < time_ms}
        new += item not in candidates
        touched = {e[1] for e in events if e[0] == user and e[3] < time_ms}
        popularity = plain_popularity(events, time_ms, half_life_ms)
        popular.append(plain_rank({i: popularity[i] for i in candidates}, item, touched))
        visits = plain_co_visitation(events, user, time_ms)
        visited.append(plain_rank({i: visits.get(i, 0.0) for i in candidates}, item, touched))
    assert got.event_count == len(targets) > 50
    for name, ranks in (("recent_popularity", popular), ("co_visitation", visited)):
        assert got.metrics[name]["recall_at_20"] == pytest.approx(recall_of(ranks)), name
        ndcg = sum(1 / math.log2(r + 1) for r in ranks if r <= 20) / len(ranks)
        assert got.metrics[name]["ndcg_at_20"] == pytest.approx(ndcg, rel=1e-6), name
        mrr = sum(1 / r for r in ranks if r <= 20) / len(ranks)
        assert got.metrics[name]["mrr_at_20"] == pytest.approx(mrr, rel=1e-6), name
    assert new > 0
    assert got.new_item_share == pytest.approx(new / len(targets))


def test_the_model_and_the_frozen_one_are_ranked_by_their_published_vectors() -> None:
    """Recomputed: items as published, users as before their event, touched items left out."""
    rows, later = blocks(500, seed=3), blocks(100, seed=4, first_ms=10**6)
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    published = trainer.embed(window, since)
    targets = plain_targets(rows, later)
    users = {int(u): v for u, v in zip(published.user_rows, published.user, strict=True)}
    ranks: list[float] = []
    frozen: list[float] = []
    for user, item, _, time_ms in targets:
        touched = {e[1] for e in rows + later if e[0] == user and e[3] < time_ms}

        vector = Encoder(trainer.network, trainer.table, window, cut).users(
            np.array([user], np.uint32), np.array([START_MS + time_ms])
        )[0]
        of_items = published.item @ vector
        score = dict(zip(published.item_rows.tolist(), of_items.tolist(), strict=True))
        ranks.append(plain_rank(score, item, touched))
        if user not in users:
            frozen.append(math.inf)
            continue
        of_items = published.item @ users[user]
        score = dict(zip(published.item_rows.tolist(), of_items.tolist(), strict=True))
        frozen.append(plain_rank(score, item, touched))
    assert got.metrics["vectors"]["recall_at_20"] == pytest.approx(recall_of(ranks), abs=0.011)
    assert got.metrics["frozen_first"]["recall_at_20"] == pytest.approx(recall_of(frozen), abs=0.011)


def test_the_metrics_can_be_recomputed_from_the_predictions() -> None:
    trainer, window, since, cut = trained(blocks(500, seed=5), blocks(150, seed=6, first_ms=10**6))
    got = trainer.evaluate(window, since, cut)
    assert got.predictions is not None
    place = [
        row.index(item) + 1 if item in row else math.inf
        for row, item in zip(got.predictions.top_items.tolist(), got.predictions.item.tolist(), strict=True)
    ]
    assert got.metrics["model"]["recall_at_20"] == pytest.approx(recall_of(place))
    assert got.metrics["model"]["mrr_at_20"] == pytest.approx(sum(1 / p for p in place) / len(place))
    touched = {(e[0], e[1]) for e in blocks(500, seed=5)}
    named = [
        (u, i)
        for u, row in zip(got.predictions.user.tolist(), got.predictions.top_items.tolist(), strict=True)
        for i in row
    ]
    assert not touched & set(named)


def test_later_events_change_no_result() -> None:
    """An item that becomes popular from the last target's time on, that time included: everything stays."""
    rows, later = blocks(500, seed=7), blocks(100, seed=8, first_ms=10**6)
    end_ms = later[-1][3]
    burst = [(u, 39, 0, end_ms + u // 30) for u in range(0, 200)]

    def run(extra: list[Row]) -> tuple[Evaluation, int]:
        trainer, window, since, cut = trained(rows, later + extra)
        return trainer.evaluate(window, since, cut), len(plain_targets(rows, later))

    (alone, count), (with_burst, _) = run([]), run(burst)
    assert alone.predictions is not None
    assert with_burst.predictions is not None
    kept = with_burst.predictions.time_ms <= START_MS + end_ms
    kept &= ~((with_burst.predictions.item == 39) & (with_burst.predictions.time_ms >= START_MS + end_ms))
    shared = alone.predictions.time_ms < START_MS + end_ms
    assert shared.sum() >= count - 1
    np.testing.assert_array_equal(
        alone.predictions.top_items[shared], with_burst.predictions.top_items[kept][: shared.sum()]
    )


def test_events_of_the_same_millisecond_are_no_evidence_for_each_other() -> None:
    """One user touches 2 and 3 at once: neither is in the history of the other, so 2 may be recommended."""
    rows = blocks(400, seed=9, items=10)
    later = [(50, 12, 0, 10**6), (70, 0, 0, 10**6 + 5), (70, 1, 0, 10**6 + 5)]
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    assert got.predictions is not None
    for n, (item, other) in enumerate([(0, 1), (1, 0)], start=1):
        assert got.predictions.item[n] == item
        assert other in got.predictions.top_items[n].tolist()
    assert got.counts["cold"] == 2


def test_an_event_not_after_the_newest_published_one_is_not_scored() -> None:
    """It arrives later but is older: the items' vectors may have seen its time."""
    rows = blocks(300, seed=10)
    newest = rows[-1][3]
    trainer, window, since, cut = trained(
        rows, [(80, 1, 0, newest - 1), (81, 2, 0, newest), (82, 3, 0, newest + 1)]
    )
    got = trainer.evaluate(window, since, cut)
    assert (got.target_count, got.event_count, got.not_scored_late) == (3, 1, 2)


def test_shares_of_no_event_are_no_number() -> None:
    """A share of 0 would say that all of them were known."""
    trainer, window, since, _ = trained(blocks(300, seed=11), [(1, 2, 0, 10**6)])
    got = trainer.evaluate(window, since, since)
    assert got.event_count == 0
    assert math.isnan(got.new_item_share)
    assert math.isnan(got.cold_user_share)


def test_an_item_that_nobody_touched_before_is_a_miss_and_their_share_is_told() -> None:
    later = [(0, 60, 0, 10**6), (1, 61, 0, 10**6 + 1), (70, 5, 0, 10**6 + 2), (71, 6, 0, 10**6 + 3)]
    trainer, window, since, cut = trained(blocks(300, seed=11), later)
    got = trainer.evaluate(window, since, cut)
    assert got.new_item_share == 0.5
    assert all(got.metrics[name]["recall_at_20"] <= 0.5 for name in SCORERS)
    assert got.predictions is not None
    assert 60 not in got.predictions.top_items[0]


def test_an_item_that_came_since_the_last_fit_is_recommended_from_then_on() -> None:
    """By its paths, its popularity and its users; at its own first event it is none yet."""
    later = [(n, 60, 0, 10**6 + n) for n in range(20)] + [(25, 60, 0, 2 * 10**6)]
    trainer, window, since, cut = trained(blocks(600, seed=11), later)
    got = trainer.evaluate(window, since, cut)
    assert got.predictions is not None
    assert 60 not in got.predictions.top_items[0]
    assert 60 in got.predictions.top_items[-1]
    assert got.new_item_share == pytest.approx(1 / got.event_count)


def test_before_the_first_model_version_what_needs_no_model_is_scored() -> None:
    window = window_of(blocks(200, seed=12))
    since = window.cut()
    cut = append(window, blocks(50, seed=13, first_ms=10**6))
    got = trainer_of().evaluate(window, since, cut)
    assert (got.model_version, got.predictions) == (0, None)
    assert set(got.metrics) == BASELINES | PARTS


def test_the_sum_is_that_of_the_plainest_parts() -> None:
    """Vectors as published; popularity, age, paths and similar users by looking at every event."""
    rows, later = blocks(400, seed=30), blocks(60, seed=31, first_ms=10**6)
    trainer, window, since, cut = trained(rows, later)
    trainer.scorer.mean_F = np.linspace(0.2, 1.0, len(trainer.scorer.mean_F))
    got = trainer.evaluate(window, since, cut)
    published, plain = trainer.embed(window, since), PlainWindow(RELATIONS)
    every = events_of([(u, i, r, t + START_MS) for u, i, r, t in rows + later])
    plain.append(every.user, every.item, every.relation, every.time_ms)
    events = [(i, t + START_MS) for _, i, _, t in rows + later]
    targets = plain_targets(rows, later)
    first_target_ms = targets[0][3] + START_MS  # a chunk's degrees and ages are as of its first target
    degree = np.ones(64)
    for item in range(64):
        degree[item] = max(1, sum(i == item and t < first_target_ms for i, t in events))
    weight, worth = trainer.scorer.weight_F, degree**-PATH_DEGREE_POWER
    place, similar_worth = np.power(0.8, np.arange(20)), degree**-0.1
    ranks = []
    for user, item, _, time_ms in targets:
        at_ms = time_ms + START_MS
        vector = Encoder(trainer.network, trainer.table, window, cut).users(
            np.array([user], np.uint32), np.array([at_ms])
        )[0]
        found, _ = plain_paths(plain, cut, user, at_ms, SHAPE)
        ends = plain_sums(found, path_tables(len(RELATIONS)), worth, is_user=True)
        similar, _ = plain_similar(plain, user, at_ms, cut, SIMILAR_SHAPE, (place, similar_worth))
        score = {}
        for row, own in zip(published.item_rows.tolist(), published.item, strict=True):
            age_ms = max(0, first_target_ms - min(t for i, t in events if i == row))
            score[row] = (
                weight[0] * float(own[:-1] @ vector[:-1])
                + weight[1] * float(own[-1])
                + float(weight[BANK] @ plain_features(row, events, at_ms))
                + weight[AGE] * math.log1p(age_ms / 3_600_000)
                + weight[PATHS] * math.log1p(PATH_SCALE * ends.get(row, [0.0])[0] * worth[row])
                + weight[SIMILAR_USERS] * math.log1p(PATH_SCALE * similar.get(row, 0.0) * similar_worth[row])
            )
        touched = {e[1] for e in rows + later if e[0] == user and e[3] < time_ms}
        ranks.append(plain_rank(score, item, touched))
    ndcg = sum(1 / math.log2(r + 1) for r in ranks if r <= 20) / len(ranks)
    assert got.event_count == len(ranks) > 30
    assert got.metrics["model"]["ndcg_at_20"] == pytest.approx(ndcg, abs=2e-3)
    assert got.metrics["model"]["recall_at_20"] == pytest.approx(recall_of(ranks), abs=0.02)
    assert len(got.lessons.target_N) == len(ranks)
    assert sum(got.shares.values()) == pytest.approx(1)


def test_where_items_may_be_repeated_every_event_is_a_target_and_own_counts_rank() -> None:
    """Users come back to their own two items, which nobody else touches."""
    rng = np.random.default_rng(0)
    rows = [(u, 2 * u + int(rng.integers(2)), 0, 1_000 * n) for n, u in enumerate(rng.integers(0, 30, 900))]
    later = [(u, 2 * u + int(rng.integers(2)), 0, 10**6 + n) for n, u in enumerate(rng.integers(0, 30, 200))]
    trainer, window, since, cut = trained(rows, later, repeats=True)
    got = trainer.evaluate(window, since, cut)
    assert got.event_count == len(later) == got.target_count
    assert got.metrics["own"]["ndcg_at_20"] > 0.7
    assert got.metrics["model"]["ndcg_at_20"] > 0.7
    assert got.metrics["model"]["recall_at_20"] == 1
    assert got.predictions is not None
    for user, top in zip(got.predictions.user.tolist(), got.predictions.top_items.tolist(), strict=True):
        assert {2 * user, 2 * user + 1} == set(top[:2])
    assert trainer_of().evaluate(window, since, cut).metrics.keys().isdisjoint({"own"})


def test_own_counts_are_those_of_the_plainest_decay() -> None:
    rows = blocks(200, seed=40, users=6, items=12)
    window = window_of(rows)
    bank, at_ms = Bank(12, START_MS), START_MS + 150_500
    stage = Stage(window, bank, np.arange(12, dtype=np.uint32), np.zeros((12, 4), np.float32), repeats=True)
    users, times = np.arange(6, dtype=np.uint32), np.full(6, at_ms, np.int64)
    popular = stage.popular(Later(np.zeros(0, np.uint32), times[:0], times), PRIOR_F)
    parts = stage.parts(users, np.zeros((6, 4), np.float32), times, window.cut(), popular)
    found = {
        (n, c): own.tolist()
        for n, c, own in zip(
            parts.own.user_E.tolist(), parts.own.place_E.tolist(), parts.own.feature_E, strict=True
        )
    }
    expected: dict[tuple[int, int], list[float]] = {}
    for user, item, _, time_ms in rows:
        if time_ms + START_MS < at_ms:
            age_ms = at_ms - START_MS - time_ms
            one = expected.setdefault((user, item), [0.0, 0.0])
            for h, days in enumerate((1, 14)):
                one[h] += 2.0 ** (-age_ms / (days * 86_400_000))
    assert found.keys() == expected.keys()
    for pair, counts in expected.items():
        np.testing.assert_allclose(found[pair], [*np.log1p(10 * np.array(counts)), 1], rtol=1e-5)


def test_no_chunk_of_scores_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of a million items and 256 targets would take a gigabyte, several times over."""
    trainer, window, since, cut = trained(blocks(500, seed=3), blocks(100, seed=4, first_ms=10**6))
    usual = trainer.evaluate(window, since, cut)
    sizes = list[int]()

    def watched(scores: F32, column: I64, excluded: Mask) -> F64:
        sizes.append(scores.size)
        return ranks_of(scores, column, excluded)

    monkeypatch.setattr(module, "CELLS_MAX", 200)
    monkeypatch.setattr(module, "ranks_of", watched)
    bounded = trainer.evaluate(window, since, cut)
    assert max(sizes) <= 200
    for name in ("frozen_first", "recent_popularity", "co_visitation"):
        assert bounded.metrics[name] == usual.metrics[name]


@pytest.mark.parametrize("items", [1, 2])
def test_a_catalog_of_one_or_two_items_is_evaluated_and_learned_from(items: int) -> None:
    rows = [(n, n % items, 0, 1_000 * (n + 1)) for n in range(200)]
    later = [(200 + n, n % items, 0, 10**6 + n) for n in range(80)]
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    assert got.event_count == 80
    assert got.metrics["bank"]["recall_at_20"] == 1
    trainer.scorer.learn(got.lessons)
    assert np.isfinite(trainer.scorer.weight_F).all()


def test_random_events_teach_nothing_and_rank_by_chance() -> None:
    """A part that saw what it ranks would show here: users and items have nothing to do with each other."""
    rows = noise(2_000, seed=1)
    later = [(u, i, r, t + 3 * 10**6) for u, i, r, t in noise(1_000, seed=2)]
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    chance = 20 / 90  # a user has touched about ten of the hundred items
    error = math.sqrt(chance * (1 - chance) / got.event_count)
    for name in ("model", "vectors", *PARTS):
        assert abs(got.metrics[name]["recall_at_20"] - chance) < 4 * error, name


def test_the_frozen_first_generation_stays_what_it_was() -> None:
    """Three more fits: its vectors are equal by the bit; an unseen user and a recycled row are misses."""
    trainer, window, since, cut = trained(blocks(400, seed=14), blocks(100, seed=15, first_ms=10**6))
    assert trainer.first is not None
    kept = trainer.first.item.copy()
    for cycle in range(3):
        trainer.fit(window, since, cut)
        since = cut
        cut = append(
            window,
            [*blocks(100, seed=16 + cycle, first_ms=10**6 * (cycle + 2)), (90, 3, 0, 10**6 * (cycle + 3))],
        )
    assert np.array_equal(trainer.first.item, kept)
    rows = np.array([0, 90], np.uint32)
    _, known = trainer.first.users(rows, window.row_versions(USER))
    assert known.tolist() == [True, False]
    window.recycle(USER, np.array([0], np.uint32))
    assert trainer.first.users(rows, window.row_versions(USER))[1].tolist() == [False, False]
    got = trainer.evaluate(window, since, cut)
    assert set(got.metrics) == SCORERS
    assert got.model_version == 4


def test_after_a_rejected_fit_the_old_vectors_are_what_is_scored() -> None:
    """The serving vectors are those published, whatever has happened to the window since."""
    trainer, window, since, cut = trained(blocks(400, seed=17), blocks(100, seed=18, first_ms=10**6))
    assert trainer.serving is not None
    published = trainer.serving.item.copy()
    usual = trainer.options
    trainer.options = exploding(usual)
    assert not trainer.fit(window, since, cut).accepted
    assert np.array_equal(trainer.serving.item, published)


def test_evaluating_changes_nothing_and_is_repeatable() -> None:
    trainer, window, since, cut = trained(blocks(400, seed=19), blocks(300, seed=20, first_ms=10**6))
    before = trainer.state_dict()[0]
    one = trainer.evaluate(window, since, cut, evaluations_max=40)
    other = trainer.evaluate(window, since, cut, evaluations_max=40)
    assert one.metrics == other.metrics
    assert one.event_count == 40 < one.target_count
    after = trainer.state_dict()[0]
    assert all((before[name] == after[name]).all() for name in before)


def test_slices_and_behaviors_add_up() -> None:
    trainer, window, since, cut = trained(
        blocks(400, seed=21), [*blocks(200, seed=22, first_ms=10**6), (99, 1, 0, 2 * 10**6)]
    )
    got = trainer.evaluate(window, since, cut)
    total = got.metrics["model"]["recall_at_20"] * got.event_count
    for names in (("click", "buy"), ("warm", "cold"), ("head", "tail")):
        found = {**got.by_behavior, **got.slices}
        parts = [found[n]["model"]["recall_at_20"] * got.counts[n] for n in names if n in found]
        assert sum(parts) == pytest.approx(total)
        assert sum(got.counts[n] for n in names) == got.event_count
    assert got.cold_user_share == pytest.approx(1 / got.event_count)


def test_fewer_candidates_than_places_are_told_apart_from_items() -> None:
    trainer, window, since, cut = trained(blocks(300, seed=23, items=6), [(90, 2, 0, 10**6)])
    got = trainer.evaluate(window, since, cut)
    assert got.predictions is not None
    top = got.predictions.top_items[0]
    assert sorted(top[:6].tolist()) == list(range(6))
    assert (top[6:] == NO_ITEM).all()
    assert got.metrics["model"]["recall_at_20"] == 1
    assert got.metrics["frozen_first"]["recall_at_20"] == 0  # it has no vector of user 90


def test_equal_scores_share_their_mean_rank_among_items_that_compete() -> None:
    """Five items: a tie of three, one of them excluded; no score; no candidate at all."""
    scores = np.array([[2.0, 1, 1, 1, -np.inf]] * 3, np.float32)
    excluded = np.zeros((3, 5), np.bool_)
    excluded[0, 2] = True
    ranks = ranks_of(scores, np.array([1, 4, -1]), excluded)
    assert ranks.tolist() == [2.5, np.inf, np.inf]
    rows, value = best_of(scores, excluded, np.arange(10, 15), 4)
    assert rows[0].tolist() == [10, 11, 13, NO_ITEM]
    assert rows[1].tolist() == [10, 11, 12, 13]
    assert value[0].tolist() == [2, 1, 1, -np.inf]


def test_ties_share_their_mean_rank_and_a_constant_scorer_earns_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert rank_of(np.zeros(101), 7, none) == 51
    assert rank_of(np.array([3.0, 2.0, 2.0, 1.0]), 1, none) == 2.5
    assert rank_of(np.array([3.0, 2.0, 2.0, 1.0]), 1, np.array([0, 2])) == 1
    assert rank_of(np.array([1.0, -np.inf]), 1, none) == np.inf
    assert rank_of(np.array([1.0, np.nan]), 1, none) == np.inf
    assert metrics_of(np.array([1, 20, 20.5, np.inf]), 20)["recall_at_20"] == 0.5
    assert math.isnan(metrics_of(np.zeros(0), 20)["recall_at_20"])


def test_published_vectors_survive_being_saved() -> None:
    trainer, window, *_ = trained(blocks(200, seed=24), [])
    assert trainer.first is not None
    loaded = Published.of_state(trainer.first.state_dict())
    rows = np.arange(40, dtype=np.uint32)
    for side in ("users", "items"):
        version = window.row_versions(USER if side == "users" else ITEM)
        for a, b in zip(
            getattr(loaded, side)(rows, version), getattr(trainer.first, side)(rows, version), strict=True
        ):
            assert np.array_equal(a, b)


def test_copies_of_an_event_are_one_target() -> None:
    rows = blocks(300, seed=41)
    later = [(70, 5, 0, 10**6)] * 4 + [(70, 5, 1, 10**6), (71, 6, 0, 10**6 + 1), (71, 6, 0, 10**6 + 2)]
    trainer, window, since, cut = trained(rows, later)
    got = trainer.evaluate(window, since, cut)
    assert (got.target_count, got.event_count) == (2, 2)
    trainer, window, since, cut = trained(rows, later, repeats=True)
    assert trainer.evaluate(window, since, cut).event_count == 4
