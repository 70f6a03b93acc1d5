"""The peers of the quality benchmark: each equals its formula, and none sees what it has to foretell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.offline_evaluation.peers.counting import Popularity, UserDecay
from benchmarks.offline_evaluation.peers.factors import Ease, Ials
from benchmarks.offline_evaluation.peers.recommenders import PEERS, Prepared
from benchmarks.offline_evaluation.peers.sequences import CoVisitation, ItemKNN, Stan
from benchmarks.offline_evaluation.prequential import Scorer, Stream
from driftgraph.stream.arrays import F64
from tests.benchmarks import plain_peers as plain
from tests.benchmarks.plain_peers import DAY_MS, Plain, tiny_stream

BEFORE_MS = 1 * DAY_MS + 60 * DAY_MS // 10 * 2 // 3  # two thirds of the stream, at which some events are
SEEDS = (1, 2, 3)


def scored(scorer: Scorer, stream: Stream, user: int, before_ms: int = BEFORE_MS) -> F64:
    out = np.full(len(stream.item_ids), 7.0)  # what an earlier call left
    scorer.retrain(before_ms)
    scorer.score(user, before_ms, out)
    return out


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("half_life_ms", [DAY_MS / 400, 2 * DAY_MS])
def test_popularity_counts_what_was_strictly_before(seed: int, half_life_ms: float) -> None:
    """The short half-life makes the weights so large that the counts are scaled anew on the way."""
    stream = tiny_stream(seed)
    right = plain.popularity(Plain(stream, BEFORE_MS), half_life_ms)
    found = scored(Popularity(stream, half_life_ms), stream, 0)
    np.testing.assert_allclose(found / found.max(), right / right.max(), atol=1e-12)


@pytest.mark.parametrize("rare_counts_more", [False, True])
def test_user_decay_puts_own_items_first_and_popular_ones_behind(rare_counts_more: bool) -> None:
    stream = tiny_stream(1, items=40)
    cut = Plain(stream, BEFORE_MS)
    shares = np.bincount([b for _, _, b, _ in cut.events], minlength=3) / len(cut.events)
    weights = (shares**-0.5).tolist() if rare_counts_more else [1.0] * 3
    scorer = UserDecay(stream, stream.indexed(), 2 * DAY_MS, DAY_MS, rare_counts_more=rare_counts_more)
    for user in range(cut.users):
        own, popular = plain.own(cut, user, 2 * DAY_MS, weights), plain.popularity(cut, DAY_MS)
        found, others = scored(scorer, stream, user), np.flatnonzero(own == 0)
        behind = popular / popular.max() * own[own > 0].min() / 2
        np.testing.assert_allclose(found, own + behind, atol=1e-12)
        assert found[others].max() < found[own > 0].min()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("history", "lag_max", "power"), [(20, 3, 0.5), (2, 20, 0.25)])
def test_co_visitation_equals_its_formula(seed: int, history: int, lag_max: int, power: float) -> None:
    stream = tiny_stream(seed)
    scorer = CoVisitation(stream.indexed(stream.changes()), history=history, lag_max=lag_max, power=power)
    for user in range(len(stream.user_ids)):
        cut = Plain(stream, BEFORE_MS)
        right = plain.co_visitation(cut, user, history=history, lag_max=lag_max, power=power)
        np.testing.assert_allclose(scored(scorer, stream, user), right, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("decay", "power"), [(0.8, 0.25), (1.0, 0.5)])
def test_item_knn_equals_its_formula(seed: int, decay: float, power: float) -> None:
    stream = tiny_stream(seed)
    once = stream.indexed(stream.first_contacts())
    scorer = ItemKNN(stream.indexed(), once, decay=decay, power=power, history=4)
    for user in range(len(stream.user_ids)):
        right = plain.item_knn(Plain(stream, BEFORE_MS), user, decay=decay, power=power, history=4)
        np.testing.assert_allclose(scored(scorer, stream, user), right, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("neighbors", [3, 100])
def test_stan_equals_its_formula(seed: int, neighbors: int) -> None:
    stream = tiny_stream(seed)
    scales = {"age_scale_ms": 3.0 * DAY_MS, "place_scale": 2.0, "near_scale": 4.0}
    changes = stream.indexed(stream.changes())
    scorer = Stan(changes, len(stream.user_ids), neighbors=neighbors, history=5, **scales)
    for user in range(len(stream.user_ids)):
        right = plain.stan(Plain(stream, BEFORE_MS), user, neighbors=neighbors, history=5, **scales)
        np.testing.assert_allclose(scored(scorer, stream, user), right, atol=1e-12)


@pytest.mark.parametrize(
    ("users", "items_max"), [(8, 100), (30, 100), (30, 6)], ids=["users", "items", "some items"]
)
def test_ease_equals_its_formula(users: int, items_max: int) -> None:
    """By the users' matrix, by the items', and by that of the items with the most users alone."""
    stream = tiny_stream(4, users=users)
    cut = Plain(stream, BEFORE_MS)
    degree = cut.matrix().sum(0)
    chosen = sorted(np.argsort(-degree, kind="stable")[:items_max].tolist())
    scorer = Ease(stream, stream.indexed(), 3.0, items_max=items_max)
    for user in range(cut.users):
        later_ms = BEFORE_MS + DAY_MS  # the user's row is newer than the matrix
        scorer.retrain(BEFORE_MS)
        out = np.zeros(cut.items)
        scorer.score(user, later_ms, out)
        right = plain.ease(cut, Plain(stream, later_ms).matrix()[user], 3.0, chosen)
        np.testing.assert_allclose(out, right, atol=1e-5)


def test_ials_folds_in_a_user_by_the_normal_equations() -> None:
    stream = tiny_stream(5)
    scorer = Ials(stream, stream.indexed(), factors=4, alpha=3.0, decay=0.5, seed=0, is_partial=False)
    item = np.random.default_rng(0).normal(size=(len(stream.item_ids), 4)).astype(np.float32)
    known = np.ones(len(item), np.bool_)
    known[2] = False
    scorer.take(item, known)
    out = np.zeros(len(item))
    recent = Plain(stream, BEFORE_MS).newest_distinct(1, 200)
    scorer.score(1, BEFORE_MS, out)
    left, right = item.T.astype(np.float64) @ item + 0.1 * np.eye(4), np.zeros(4)
    for place, j in enumerate(recent):
        if known[j]:
            left += 3.0 * 0.5**place * np.outer(item[j], item[j])
            right += 4.0 * 0.5**place * item[j]
    np.testing.assert_allclose(out[known], (item @ np.linalg.solve(left, right))[known], rtol=1e-4)
    assert out[2] == -np.inf


@pytest.mark.parametrize("is_partial", [False, True])
def test_ials_of_implicit_finds_two_groups(is_partial: bool) -> None:
    """Users who touch one half of the items get that half, also those that only ``partial_fit`` has seen."""
    pytest.importorskip("implicit", reason="implicit is not installed: it is in the extra bench")
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 8)
    item = user % 2 * 10 + rng.integers(0, 10, len(user))
    time_ms = np.sort(rng.integers(DAY_MS, 10 * DAY_MS, len(user)))
    from benchmarks.offline_evaluation.prequential import stream_of

    names = [f"u{n:02}" for n in user], [f"i{n:02}" for n in item]
    stream = stream_of(*names, ["click"] * len(user), time_ms)
    scorer = Ials(stream, stream.indexed(), factors=8, alpha=5.0, decay=1.0, seed=0, is_partial=is_partial)
    out = np.zeros(len(stream.item_ids))
    for until_ms in (6 * DAY_MS, 11 * DAY_MS):
        scorer.retrain(until_ms)
    of_half = np.array([int(name[1:]) >= 10 for name in stream.item_ids])
    right = 0
    for number, name in enumerate(stream.user_ids):
        scorer.score(number, 11 * DAY_MS, out)
        right += out[of_half == int(name[1:]) % 2].mean() > out[of_half != int(name[1:]) % 2].mean()
    assert right == len(stream.user_ids)


def after(stream: Stream, before_ms: int) -> Stream:
    """The same stream, with other events at a time and after it."""
    rng, late = np.random.default_rng(9), stream.time_ms >= before_ms
    assert late[stream.time_ms == before_ms].any(), "the cut must lie on events"
    user, item = stream.user.copy(), stream.item.copy()
    user[late], item[late] = rng.permutation(user[late]), rng.permutation(item[late])
    return replace(stream, user=user, item=item, behavior=np.where(late, 0, stream.behavior))


@pytest.mark.parametrize("name", PEERS)
def test_events_at_or_after_the_time_change_nothing(name: str) -> None:
    if name.startswith("ials"):
        pytest.importorskip("implicit", reason="implicit is not installed: it is in the extra bench")
    stream = tiny_stream(6)
    before_ms = int(stream.time_ms[len(stream) // 2])
    chosen = {peer: kind.settings[0] for peer, kind in PEERS.items()}
    answers = []
    for one in (stream, after(stream, before_ms)):
        scorer = PEERS[name].make(Prepared(one), chosen[name], chosen)
        answers.append([scored(scorer, one, user, before_ms).copy() for user in range(len(stream.user_ids))])
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.ptp(answers[0], axis=1).max() > 0, "a scorer that says nothing leaks nothing"


def test_every_peer_has_as_many_settings_to_choose_from() -> None:
    assert {len(kind.settings) for name, kind in PEERS.items() if name != "ials_partial_fit"} == {6}
    assert PEERS["ials_partial_fit"].after == ("ials",), "it takes what iALS chose among six"
