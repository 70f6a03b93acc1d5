"""The trainer: one step, many steps, what does not move, what is rolled back, what a restart changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from driftgraph.model.examples.examples import plan
from driftgraph.model.fitting.beginning import RATES
from driftgraph.model.network.embed import Embedding, Encoder
from driftgraph.model.network.inputs import batch_loss
from driftgraph.model.options import SIZES, TrainerOptions
from driftgraph.model.trainer import FitReport, Trainer
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Neighborhood, Relation, StaleCut, Window
from tests.model_worlds import (
    RELATIONS,
    SMALL,
    START_MS,
    Row,
    append,
    blocks,
    empty_cut,
    exploding,
    noise,
    trainer_of,
    window_of,
)
from tests.services.updaters import TASTED, two_tastes

Step = Callable[..., torch.Tensor]


def fit_all(trainer: Trainer, window: Window) -> FitReport:
    return trainer.fit(window, empty_cut(window), window.cut())


def same_state(one: Trainer, other: Trainer) -> bool:
    a, b = one.state_dict()[0], other.state_dict()[0]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def block_share(embedding: Embedding, *, users: range, own: range, items: int = 40) -> float:
    """AUC of these users: how often an item of their own block outranks one of the other."""
    user = embedding.user[np.isin(embedding.user_rows, list(users))]
    score = user @ embedding.item.T
    mine = np.isin(embedding.item_rows, list(own))
    return float((score[:, mine][:, :, None] > score[:, ~mine][:, None, :]).mean())


def test_it_learns_the_blocks() -> None:
    """A few fits: users rank items of their own block first, and the loss falls."""
    window = window_of(blocks(1_500, seed=0))
    trainer = trainer_of(learning_rate=0.02)
    reports = [fit_all(trainer, window) for _ in range(4)]
    assert all(report.accepted for report in reports)
    assert reports[-1].loss < reports[0].loss - 0.05
    embedding = trainer.embed(window, window.cut())
    assert block_share(embedding, users=range(30), own=range(20)) > 0.9
    assert block_share(embedding, users=range(30, 60), own=range(20, 40)) > 0.9


def test_ten_events_can_be_learnt_by_heart() -> None:
    """Ten users whose histories tell them apart, ten new events: the loss vanishes and each ranks first."""
    history = [(u, u, 0, u + 1) for u in range(10)]
    window = window_of(history)
    since = window.cut()
    cut = append(window, [(u, 10 + u, 0, 1_000 + u) for u in range(10)])
    trainer = trainer_of(
        learning_rate=0.05, network_learning_rate=0.01, replay_ratio=0.0, holdout_share=0.0, norm_factor=1e9
    )
    losses = [trainer.fit(window, since, cut).loss for _ in range(120)]
    assert losses[-1] < 0.05
    user = trainer.embed_users(window, np.arange(10, dtype=np.uint32), since)
    embedding = trainer.embed(window, cut)
    new = embedding.item[np.isin(embedding.item_rows, range(10, 20))]
    assert (user @ new.T).argmax(1).tolist() == list(range(10))


def test_one_step_of_the_item_rows_agrees_with_arithmetic_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss with gradient 0.5 everywhere: Adam's first step moves each row read by the rate, no other."""
    window = window_of([*blocks(40, seed=1, users=8, items=6), (0, 9, 0, 90_000)])
    trainer = trainer_of(holdout_share=0.0, learning_rate=0.25, clip_norm=1e9)
    trainer.table.adopt(window.row_versions(ITEM))
    before = trainer.table.weight.clone()
    monkeypatch.setattr(
        "driftgraph.model.fitting.weights.batch_loss",
        lambda network, inputs, rows, **_: 0.5 * rows.sum() + 0 * network.scale,
    )
    batch = plan(
        window, empty_cut(window), window.cut(), replace(SMALL, holdout_share=0.0), np.random.default_rng(0)
    ).batches[0]
    inputs = trainer._inputs(window, window.cut(), batch)
    read = inputs.rows_n
    assert trainer._step(inputs, 0, 1.0) is not None
    torch.testing.assert_close(trainer.table.weight[read], before[read] - 0.25, rtol=0, atol=1e-6)
    untouched = [row for row in range(len(before)) if row not in read.tolist()]
    assert 7 in untouched
    assert torch.equal(trainer.table.weight[untouched], before[untouched])


def test_rows_of_items_without_an_event_do_not_move_by_a_bit() -> None:
    """Twenty cycles of one block only, without replay: the rows of the other block stay, moments too."""
    window = window_of(blocks(600, seed=2))
    trainer = trainer_of(replay_ratio=0.0)
    assert fit_all(trainer, window).accepted
    before = trainer.table.state_dict()
    for cycle in range(20):
        since = window.cut()
        cut = append(window, blocks(60, seed=cycle, first_ms=10**6 * (cycle + 1), only=1))
        trainer.fit(window, since, cut)
    after = trainer.table.state_dict()
    dormant, active = slice(0, 20), slice(20, 40)
    for name in ("weight", "moment1", "moment2", "steps"):
        assert torch.equal(before[name][dormant], after[name][dormant]), name
    assert not torch.equal(before["weight"][active], after["weight"][active])


def test_new_items_are_trained_and_old_moments_survive_their_coming() -> None:
    """Also after a restart in between: the optimizer sees the rows that the window has."""
    window = window_of(blocks(300, seed=3, items=20))
    trainer = trainer_of(replay_ratio=0.0)
    fit_all(trainer, window)
    moments = trainer.table.state_dict()["moment2"]
    since = window.cut()
    cut = append(window, [(100 + u, (30, 5, 8)[u % 3], 0, 10**6 + u) for u in range(20)])
    restarted = trainer_of(replay_ratio=0.0)
    restarted.load_state_dict(*trainer.state_dict())
    restarted.table.adopt(window.row_versions(ITEM))
    fresh = restarted.table.weight[30].clone()
    restarted.fit(window, since, cut)
    assert not torch.equal(restarted.table.weight[30], fresh)
    assert restarted.table.steps[30] == 1
    assert (restarted.table.moment2[: len(moments)] >= moments * 0.9).all()
    assert len(moments) < restarted.table.rows == 31


def test_a_recycled_row_starts_afresh() -> None:
    """The window has given row 5 to another item: no weight and no moment of the first is left."""
    window = window_of(blocks(300, seed=4))
    trainer, untrained = trainer_of(), trainer_of()
    fit_all(trainer, window)
    window.recycle(ITEM, np.array([5], np.uint32))
    trainer.embed_users(window, np.array([0], np.uint32), window.cut())
    untrained.table.adopt(window.row_versions(ITEM))
    assert torch.equal(trainer.table.weight[5], untrained.table.weight[5])
    assert trainer.table.moment2[5].abs().sum() == 0
    assert not torch.equal(trainer.table.weight[6], untrained.table.weight[6])


def test_golden_losses() -> None:
    """Four fits of a known world with seed 0; a change here is a change of what is trained."""
    window = window_of([])
    trainer, since, losses = trainer_of(), window.cut(), []
    for cycle in range(4):
        cut = append(window, blocks(400, seed=cycle, first_ms=cycle * 400_000))
        losses.append(trainer.fit(window, since, cut).loss)
        since = cut
    assert losses == pytest.approx(GOLDEN, rel=2e-4)


GOLDEN = [2.961111, 2.770667, 2.643297, 2.536863]


def test_same_events_and_seed_give_the_same_bits_and_another_seed_does_not() -> None:
    trainers = [trainer_of(), trainer_of(), trainer_of(seed=1)]
    found = []
    for trainer in trainers:
        window = window_of(blocks(400, seed=5))
        since = window.cut()
        fit_all(trainer, window)
        cut = append(window, blocks(200, seed=6, first_ms=500_000))
        found.append(trainer.evaluate(window, since, cut))
        trainer.fit(window, since, cut)
    assert same_state(trainers[0], trainers[1])
    assert not same_state(trainers[0], trainers[2])
    assert found[0].metrics == found[1].metrics
    assert found[0].predictions is not None
    assert found[1].predictions is not None
    assert np.array_equal(found[0].predictions.top_items, found[1].predictions.top_items)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Saved to safetensors and JSON after the second of four fits: metrics and weights equal by the bit."""
    window = window_of(blocks(400, seed=7))
    cuts = [empty_cut(window), window.cut()]
    cuts += [append(window, blocks(150, seed=8 + i, first_ms=10**6 * (i + 1))) for i in range(3)]
    straight = trainer_of(contrastive_weight=0.1)
    resumed = trainer_of(contrastive_weight=0.1)
    for fit in range(4):
        if fit == 2:
            tensors, meta = resumed.state_dict()
            save_file(tensors, tmp_path / "model.safetensors")
            (tmp_path / "model.json").write_text(json.dumps(meta))
            resumed = trainer_of(contrastive_weight=0.1)
            resumed.load_state_dict(
                load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "model.json").read_text())
            )
        since, cut = cuts[fit], cuts[fit + 1]
        one, other = (trainer.evaluate(window, since, cut) for trainer in (straight, resumed))
        assert one.metrics == other.metrics or fit == 0
        straight.fit(window, since, cut)
        resumed.fit(window, since, cut)
    assert straight.model_version == resumed.model_version == 4
    assert same_state(straight, resumed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 32}, "has dim 16, this configuration 32;"),
        ({"heads": 4}, "has heads 2, this configuration 4;"),
        (
            {"dim": 32, "layers": 2, "heads": 4},
            "has dim 16 and layers 1 and heads 2, this configuration 32 and 2 and",
        ),
    ],
)
def test_a_saved_model_of_another_size_is_refused(changes: dict[str, object], words: str) -> None:
    tensors, meta = trainer_of().state_dict()
    with pytest.raises(ValueError, match=words):
        trainer_of(**changes).load_state_dict(tensors, meta)


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_saved_model_of_another_format_is_refused(number: int) -> None:
    """Also where it lacks what our format has: it is asked for nothing else."""
    with pytest.raises(
        ValueError, match=rf"has format {number}, .* reads 5 alone; start with an empty model"
    ):
        trainer_of().load_state_dict({}, {"format": number})


def test_the_format_has_these_tensors_and_numbers() -> None:
    """Whoever changes them makes a new format: a state of this one could not be read."""
    trainer = trainer_of()
    fit_all(trainer, window_of(blocks(300, seed=3)))
    tensors, meta = trainer.state_dict()
    layer = ["attend_source_RHC", "attend_target_RHC", "importance_R", "place_PH", "time_RFH", "weight_RDHC"]
    network = [f"layers.0.{direction}.{name}" for direction in (0, 1) for name in layer]
    network += ["cold_share", "popularity_F", "scale", "user_base_D"]
    published = [f"{side}{what}" for side in ("user", "item") for what in ("", "_rows", "_version")]
    named = {
        "network": network,
        "optimizer": [f"{name}.{moment}" for name in network for moment in ("exp_avg", "exp_avg_sq", "step")],
        "table": ["weight", "moment1", "moment2", "steps", "version"],
        "scorer": ["mean", "information", "gains"],
        "serving": published,
        "first": published,
        "answer_heads": [f"{what}.{name}" for what in ("mean", "information") for name in ("buy", "click")],
    }
    assert sorted(tensors) == sorted(f"{part}.{name}" for part, names in named.items() for name in names)
    assert tensors["network.layers.0.0.place_PH"].shape == (20, 2)
    assert tensors["network.layers.0.0.time_RFH"].shape == (2, 4, 2)
    assert tensors["scorer.mean"].shape == (18,)
    numbers = {"model_version", "fit_count", "begun_ms", "behind", "norms", "scaler", "fallback"}
    words = {"relations", "custom", "backend", "attributes", "answer_heads"}
    assert meta.keys() == {"format", *words, *SIZES, *numbers}
    assert meta["format"] == 5


def test_a_state_of_half_precision_on_a_gpu_goes_on_without_it() -> None:
    """The scale of a loss that is not scaled any more is of no use, and no fault."""
    tensors, meta = trainer_of().state_dict()
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    assert meta["scaler"] == scaler.state_dict() == {}
    scale = {"scale": 512.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    again = trainer_of()
    again.load_state_dict(tensors, meta | {"scaler": {**scale, "_growth_tracker": 7}})
    assert again.state_dict()[1]["scaler"] == {}


# --- other relations ---------------------------------------------------------------------------------


def with_relations(names: Sequence[str], rows: Sequence[Row]) -> tuple[Trainer, Window]:
    """A trainer and a window of these relations; ``rows`` are of click and buy, as always."""
    at = {
        0: names.index("click") if "click" in names else -1,
        1: names.index("buy") if "buy" in names else -1,
    }
    relations = [Relation(name, 2_000_000_000, 1 << 12) for name in names]
    kept = [(u, i, at[r], t) for u, i, r, t in rows if at[r] >= 0]
    return Trainer(names, [r.span_ms for r in relations], SMALL), window_of(kept, relations)


def trained(rows: Sequence[Row]) -> tuple[Trainer, Window]:
    """Two fits of a model whose relations differ in all that can."""
    trainer, window = with_relations(["click", "buy"], rows)
    assert [fit_all(trainer, window).accepted for _ in range(2)] == [True, True]
    return trainer, window


def parts_of(trainer: Trainer, relation: str) -> dict[str, torch.Tensor]:
    """Every weight and moment of one relation."""
    r = [one.name for one in trainer.relations].index(relation)
    tensors = trainer.state_dict()[0].items()
    return {
        key: tensor[r]
        for key, tensor in tensors
        if any(
            f"{name}_R" in key for name in ("weight", "attend_target", "attend_source", "time", "importance")
        )
        and not key.endswith(".step")
    }


def test_relations_in_another_order_give_the_same_predictions_and_the_way_back_the_same_bits() -> None:
    rows = blocks(200, seed=11)
    trainer, window = trained(rows)
    other, other_window = with_relations(["buy", "click"], rows)
    other.load_state_dict(*trainer.state_dict())
    for relation in ("click", "buy"):
        mine, theirs = parts_of(trainer, relation), parts_of(other, relation)
        assert len(mine) == len(theirs) > 20
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    one, two = trainer.embed(window, window.cut()), other.embed(other_window, other_window.cut())
    np.testing.assert_array_equal(one.user_rows, two.user_rows)
    np.testing.assert_allclose(two.user, one.user, atol=1e-6)  # sums are taken in another order
    np.testing.assert_allclose(two.item, one.item, atol=1e-6)
    assert trainer.relation_importance()["user"] == pytest.approx(other.relation_importance()["user"])
    back, _ = with_relations(["click", "buy"], rows)
    back.load_state_dict(*other.state_dict())
    assert same_state(back, trainer)


def test_a_new_relation_starts_untrained_and_changes_no_prediction_until_it_has_events() -> None:
    rows = blocks(200, seed=12)
    trainer, window = trained(rows)
    names = ["view", "click", "buy"]
    other, other_window = with_relations(names, rows)
    other.load_state_dict(*trainer.state_dict())
    for relation in ("click", "buy"):
        mine, theirs = parts_of(trainer, relation), parts_of(other, relation)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    fresh, state = with_relations(names, rows)[0], other.state_dict()[0]
    for key, part in parts_of(fresh, "view").items():
        assert torch.equal(parts_of(other, "view")[key], part)
    one, two = trainer.embed(window, window.cut()), other.embed(other_window, other_window.cut())
    np.testing.assert_allclose(two.user, one.user, atol=1e-6)
    np.testing.assert_allclose(two.item, one.item, atol=1e-6)
    moments = "optimizer.layers.0.0.weight_RDHC"
    assert not state[f"{moments}.exp_avg"][0].any()
    torch.testing.assert_close(
        state[f"{moments}.exp_avg_sq"][0],
        trainer.state_dict()[0][f"{moments}.exp_avg_sq"].mean(0),
        atol=0,  # they are squares of small numbers
        rtol=1e-5,
    )
    since = other_window.cut()
    views = [(u, i, 0, t + 10_000_000) for u, i, _, t in blocks(300, seed=13)]
    before = parts_of(other, "view")["network.layers.0.0.weight_RDHC"].clone()
    assert other.fit(other_window, since, append(other_window, views)).accepted
    moved = parts_of(other, "view")["network.layers.0.0.weight_RDHC"] - before
    assert 0 < float(moved.abs().max()) < 3 * SMALL.network_learning_rate * 10


def test_a_relation_that_is_gone_goes_and_a_renamed_one_is_a_new_one() -> None:
    rows = blocks(200, seed=14)
    trainer, _ = trained(rows)
    clicks, window = with_relations(["click"], rows)
    clicks.load_state_dict(*trainer.state_dict())
    mine, theirs = parts_of(trainer, "click"), parts_of(clicks, "click")
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert fit_all(clicks, window).steps > 0
    renamed, _ = with_relations(["view", "order"], rows)
    renamed.load_state_dict(*trainer.state_dict())
    untrained = with_relations(["view", "order"], rows)[0]
    for relation in ("view", "order"):
        weights = parts_of(untrained, relation)
        assert all(torch.equal(parts_of(renamed, relation)[key], weights[key]) for key in weights)
    assert torch.equal(renamed.table.weight, trainer.table.weight), "what items have in common stays"


def spoil(monkeypatch: pytest.MonkeyPatch, broken: Callable[[int], bool], how: str) -> None:
    """Break the loss (``nan``, ``inf``), or only its ``gradient``, of the steps that are ``broken``."""
    sound, calls = batch_loss, iter(range(10**6))

    def loss(
        network: torch.nn.Module, inputs: object, rows: torch.Tensor, *, reduced: bool = True, **rest: Any
    ) -> torch.Tensor:
        value: torch.Tensor = sound(network, inputs, rows, reduced=reduced, **rest)  # type: ignore[arg-type]
        if not reduced or not broken(next(calls)):
            return value
        if how == "gradient":
            return value + (rows.sum() * 0).sqrt()  # 0 with the derivative 0 · ∞
        return value * float(how)

    monkeypatch.setattr("driftgraph.model.fitting.weights.batch_loss", loss)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_broken_step_is_skipped_and_counted(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third step: the fit goes on, is accepted, and no parameter is NaN."""
    window = window_of(blocks(600, seed=9))
    trainer = trainer_of()
    spoil(monkeypatch, lambda number: number % 3 == 1, how)
    report = fit_all(trainer, window)
    assert report.accepted
    assert report.skipped == (report.steps + report.skipped + 1) // 3 > 1
    assert all(torch.isfinite(value).all() for value in trainer.state_dict()[0].values())


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_several_broken_steps_in_a_row_reject_the_fit_and_everything_rolls_back(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two good steps, then only bad ones, in all attempts: weights, moments and serving vectors as before, by
    the bit.
    """
    window = window_of(blocks(600, seed=10))
    trainer, untouched = trainer_of(), trainer_of()
    fit_all(trainer, window)
    fit_all(untouched, window)
    with monkeypatch.context() as patch:
        spoil(patch, lambda number: number >= 2, how)
        report = fit_all(trainer, window)
    assert (report.accepted, report.code, report.model_version) == (False, "skipped_steps", 1)
    assert (report.steps, report.skipped) == (0, SMALL.skipped_in_a_row_max)  # of the last attempt
    assert len(report.refused) == len(RATES)
    assert same_state(trainer, untouched)
    assert fit_all(trainer, window).accepted


def test_an_exploding_fit_is_rejected_the_live_version_stays_and_the_next_fit_works() -> None:
    """Cycle 2 with a learning rate of a thousand times: the gate says no; cycle 3 is accepted."""
    window = window_of(blocks(800, seed=11))
    trainer = trainer_of(learning_rate=0.02)
    assert fit_all(trainer, window).accepted
    live = trainer.embed(window, window.cut())
    before = trainer.state_dict()[0]
    usual = trainer.options
    trainer.options = exploding(usual)
    report = fit_all(trainer, window)
    assert (report.accepted, report.model_version) == (False, 1)
    assert report.code in ("norm", "holdout", "not_finite")
    after = trainer.state_dict()[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert np.array_equal(trainer.embed(window, window.cut()).user, live.user)
    trainer.options = usual
    report = fit_all(trainer, window)
    assert (report.accepted, report.model_version) == (True, 2)


def test_a_fit_that_the_gate_refuses_is_tried_again_with_gentler_rates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused at a rate that is far too high, accepted at a third or a tenth of it, each time anew."""
    window = window_of(blocks(800, seed=11))
    trainer = trainer_of(learning_rate=0.02)
    assert fit_all(trainer, window).accepted
    trainer.options = replace(trainer.options, learning_rate=0.5)
    rates: list[float] = []
    steps = trainer.table.step

    def step(rows: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        rates.append(round(rate, 6))
        steps(rows, gradient, rate)

    monkeypatch.setattr(trainer.table, "step", step)
    told: list[tuple[int, int, int]] = []
    report = trainer.fit(window, empty_cut(window), window.cut(), on_step=lambda *what: told.append(what))
    assert report.accepted
    assert sorted(set(rates), reverse=True) == [0.5, 0.15, 0.05][: len(report.refused) + 1]
    assert 1 <= len(report.refused) <= 2
    assert all("worse than the serving model's" in reason or "norm" in reason for reason in report.refused)
    assert [attempt for attempt, done, total in told if done == total] == [
        n + 1 for n in range(len(report.refused) + 1)
    ]


def test_a_first_generation_must_beat_popularity_and_need_not_beat_an_untrained_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window = window_of(blocks(2_000, seed=5, users=200, items=100))
    trainer = trainer_of(holdout_share=0.1)
    report = fit_all(trainer, window)
    assert report.accepted
    popularity, model = report.holdout["new"]
    assert model < popularity

    spoiled = trainer_of(holdout_share=0.1)
    holdout_loss = type(spoiled)._holdout_loss
    monkeypatch.setattr(
        type(spoiled), "_holdout_loss", lambda self, *of: holdout_loss(self, *of) + 5 * (self is spoiled)
    )
    report = fit_all(spoiled, window)
    assert (report.accepted, report.code, report.model_version) == (False, "popularity", 0)
    assert "worse than recent popularity's; the limit is 0" in report.reason
    assert len(report.refused) == len(RATES)


@pytest.mark.parametrize("after_ms", [0, 12_345_678_901, 99_999_999_999])
def test_the_clicks_that_tests_of_services_wait_for_a_model_with_are_accepted(after_ms: int) -> None:
    """Which of them are held out depends on their times, and those are the day's."""
    clicks = two_tastes(TASTED, START_MS + 10_000 + after_ms)
    window = window_of([(int(u[1:]), int(i[1:]), 0, t - START_MS) for u, i, t in clicks])
    trainer = Trainer(["click", "buy"], [r.span_ms for r in RELATIONS], TrainerOptions(dim=16))
    popularity, model = fit_all(trainer, window).holdout["new"]
    assert trainer.model_version == 1
    assert model < popularity - 0.3, "far from where noise would refuse it"


def test_rejected_fits_leave_the_optimizer_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rejected fit in between changes nothing but the number that seeds the next one."""
    window = window_of(blocks(400, seed=12))
    disturbed, calm = trainer_of(), trainer_of()
    for trainer in (disturbed, calm):
        fit_all(trainer, window)
    with monkeypatch.context() as patch:
        spoil(patch, lambda number: True, "nan")
        assert not fit_all(disturbed, window).accepted
    calm.fit_count += len(RATES)
    for trainer in (disturbed, calm):
        fit_all(trainer, window)
    assert same_state(disturbed, calm)


def test_a_fit_that_is_cut_off_has_moved_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window overwrites the cut in the middle of training, or a step fails: as if it had never begun."""
    window = window_of(blocks(600, seed=10))
    trainer, untouched = trainer_of(), trainer_of()
    fit_all(trainer, window)
    fit_all(untouched, window)
    sound, calls = window.recent, iter(range(10**6))

    def recent(*arguments: Any, **named: Any) -> Neighborhood:
        if next(calls) == 20:
            raise StaleCut("event 7 of the cut was overwritten")
        return sound(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(window, "recent", recent)
        with pytest.raises(StaleCut):
            fit_all(trainer, window)
    assert same_state(trainer, untouched)
    fit_all(trainer, window)
    fit_all(untouched, window)
    assert same_state(trainer, untouched)


def test_half_precision_under_a_scaler_learns_and_skips_too() -> None:
    """What runs on CUDA, with the CPU's autocast: it learns the blocks, and skips broken steps."""
    window = window_of(blocks(1_500, seed=0))
    trainer = trainer_of(learning_rate=0.02)
    trainer.scaler = trainer.weights.scaler = torch.amp.GradScaler("cpu", init_scale=1_024.0, enabled=True)
    reports = [fit_all(trainer, window) for _ in range(4)]
    assert all(report.accepted and report.skipped == 0 for report in reports)
    assert block_share(trainer.embed(window, window.cut()), users=range(30), own=range(20)) > 0.85
    before, scale = trainer.state_dict()[0], trainer.scaler.get_scale()
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, lambda number: True, "gradient")
        assert fit_all(trainer, window).code == "skipped_steps"
    assert trainer.scaler.get_scale() == scale  # rolled back with the rest
    after = trainer.state_dict()[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_scale_of_half_precision_is_taken_out_again(layers: int) -> None:
    """One step with and without a scaler: the same gradient reaches the moments, but for half precision."""
    window = window_of(blocks(200, seed=26))
    plain, scaled = trainer_of(layers=layers), trainer_of(layers=layers)
    scaled.weights.scaler = torch.amp.GradScaler("cpu", init_scale=1_024.0, enabled=True)
    made = plan(window, empty_cut(window), window.cut(), SMALL, np.random.default_rng(0))
    for trainer in (plain, scaled):
        trainer.table.adopt(window.row_versions(ITEM))
        assert trainer._step(trainer._inputs(window, window.cut(), made.batches[0]), 0, 1.0) is not None
    apart = (plain.table.moment1 - scaled.table.moment1).norm() / plain.table.moment1.norm()
    assert apart < 0.05


def test_importance_is_reported_by_relation() -> None:
    window = window_of(blocks(300, seed=25))
    trainer = trainer_of()
    fit_all(trainer, window)
    for shares in trainer.relation_importance().values():
        assert list(shares) == ["click", "buy"]
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("layers", [1, 2])
def test_an_empty_window_is_no_fit_and_an_empty_embedding(layers: int) -> None:
    """And an interval without events after a fit leaves the live version."""
    window, trainer = window_of([]), trainer_of(layers=layers)
    report = fit_all(trainer, window)
    assert (report.accepted, report.code, trainer.model_version) == (False, "no_events", 0)
    embedding = trainer.embed(window, window.cut())
    assert embedding.user.shape == embedding.item.shape == (0, 16)
    assert trainer.evaluate(window, empty_cut(window), window.cut()).event_count == 0
    append(window, blocks(200, seed=13))
    assert fit_all(trainer, window).accepted
    assert trainer.fit(window, window.cut(), window.cut()).code == "no_events"
    assert trainer.model_version == 1


def test_a_window_without_one_relation_trains() -> None:
    """No purchase at all, two layers."""
    window = window_of([(u, i, 0, t) for u, i, _, t in blocks(200, seed=14)])
    trainer = trainer_of(layers=2)
    assert fit_all(trainer, window).accepted
    embedding = trainer.embed(window, window.cut())
    assert np.isfinite(embedding.user).all()
    assert np.isfinite(embedding.item).all()


def test_a_new_user_has_its_own_vector_at_once_and_an_unknown_one_a_finite_one() -> None:
    """Without a fit in between; a user nobody knows gets the common start."""
    window = window_of(blocks(600, seed=15))
    trainer = trainer_of(learning_rate=0.02)
    for _ in range(3):
        fit_all(trainer, window)
    cut = append(window, [(100, 3, 0, 700_000)])
    rows = np.array([100, 101, 0], np.uint32)
    user = trainer.embed_users(window, rows, cut)
    assert np.isfinite(user).all()
    assert not np.allclose(user[0], user[1])
    item = trainer.embed(window, cut)
    own = user[0] @ item.item[np.isin(item.item_rows, range(20))].T
    other = user[0] @ item.item[np.isin(item.item_rows, range(20, 40))].T
    assert np.median(own) > np.median(other)


def test_new_items_differ_by_their_clickers_at_once_and_are_reachable_after_a_fit() -> None:
    """Three new items with 0, 1 and 1 clicks (the first is only a row)."""
    window = window_of(blocks(800, seed=16))
    trainer = trainer_of(learning_rate=0.02)
    for _ in range(3):
        fit_all(trainer, window)
    since = window.cut()
    cut = append(window, [(0, 41, 0, 900_000), (31, 42, 0, 900_001)])
    embedding = trainer.embed(window, cut)
    assert embedding.item_rows[-2:].tolist() == [41, 42]
    near, far = embedding.item[-2:, :-1]
    users = embedding.user[:, :-1]
    first, second = (
        users[embedding.user_rows < 30],
        users[(embedding.user_rows >= 30) & (embedding.user_rows < 60)],
    )
    assert (first @ near).mean() - (first @ far).mean() > (second @ near).mean() - (second @ far).mean()
    report = trainer.fit(window, since, cut)
    assert report.accepted
    score = trainer.embed(window, cut)
    every = window.events(cut)
    ranking = score.user @ score.item.T
    ranking[
        np.searchsorted(score.user_rows, every.user), np.searchsorted(score.item_rows, every.item)
    ] = -np.inf
    reachable = set(score.item_rows[np.unique(np.argsort(-ranking, axis=1)[:, :20])].tolist())
    assert {41, 42} <= reachable


def test_a_refresh_is_what_the_publish_would_have_been() -> None:
    """``embed_users`` of all live users at the cut equals ``embed``."""
    window = window_of(blocks(300, seed=17))
    trainer = trainer_of()
    fit_all(trainer, window)
    embedding = trainer.embed(window, window.cut())
    refreshed = trainer.embed_users(window, embedding.user_rows, window.cut())
    np.testing.assert_allclose(refreshed, embedding.user, rtol=1e-5, atol=1e-6)
    assert (embedding.user[:, -1] == 1).all()


def test_an_embedding_names_every_live_node_once_with_its_newest_event() -> None:
    window = window_of([(3, 1, 0, 5), (3, 2, 1, 9), (0, 2, 0, 7)])
    embedding = trainer_of().embed(window, window.cut())
    assert embedding.user_rows.tolist() == [0, 3]
    assert (embedding.user_event_ms - START_MS).tolist() == [7, 9]
    assert embedding.item_rows.tolist() == [1, 2]
    assert (embedding.item_event_ms - START_MS).tolist() == [5, 9]


def test_new_knowledge_does_not_erase_old() -> None:
    """Ten cycles of block B only: block A is recommended as well as before, within a tenth, and B better."""
    window = window_of(blocks(1_000, seed=18))
    trainer = trainer_of(learning_rate=0.02)
    for _ in range(3):
        fit_all(trainer, window)
    before = trainer.embed(window, window.cut())
    for cycle in range(10):
        since = window.cut()
        cut = append(window, blocks(200, seed=19 + cycle, first_ms=10**6 * (cycle + 1), only=1))
        trainer.fit(window, since, cut)
    after = trainer.embed(window, window.cut())
    a_before, a_after = (block_share(e, users=range(30), own=range(20)) for e in (before, after))
    b_before, b_after = (block_share(e, users=range(30, 60), own=range(20, 40)) for e in (before, after))
    assert a_after > 0.9 * a_before
    assert b_after >= b_before


def test_random_labels_cannot_be_predicted() -> None:
    """AUC 0.5 on users and items that have nothing to do with each other: the label is not in the input."""
    window = window_of(noise(3_000, seed=20))
    trainer = trainer_of(learning_rate=0.02, popularity=False)
    for _ in range(3):
        fit_all(trainer, window)
    since = window.cut()
    cut = append(window, [(u, i, r, t + 3_000_000) for u, i, r, t in noise(1_500, seed=21)])
    new = window.events(cut, since)
    encoder = Encoder(trainer.network, trainer.table, window, cut)
    user = encoder.users(new.user, new.time_ms)
    item = trainer.embed(window, since)
    rng = np.random.default_rng(0)
    label = item.item[np.searchsorted(item.item_rows, new.item)]
    other = item.item[rng.integers(0, len(item.item), len(new))]
    auc = float(((user * label).sum(1) > (user * other).sum(1)).mean())
    assert 0.45 < auc < 0.55


def test_the_trainer_refuses_another_windows_relations() -> None:
    with pytest.raises(ValueError, match=r"relations \['click', 'buy'\], the model \['view'\]"):
        fit_all(Trainer(["view"], [1_000], SMALL), window_of([]))
    with pytest.raises(ValueError, match=r"behavior_weights names \['share'\]"):
        trainer_of(behavior_weights={"share": 2.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 65}, "dim 65 should be a multiple of heads 4"),
        ({"heads": 0}, "heads must be 1 or more, got 0"),
        ({"dim": 2_048}, "dim must be 1024 or less, got 2048"),
        ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
        ({"layers": 4}, "layers must be 3 or less, got 4"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"activation": "relu"}, "activation must be"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**changes)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_with_mixed_precision_it_learns_the_same_blocks() -> None:
    """Half precision under a GradScaler: accepted, finite, and about as good."""
    window = window_of(blocks(1_500, seed=0))
    trainer = trainer_of(learning_rate=0.02, device="cuda")
    assert trainer.scaler.is_enabled()
    for _ in range(4):
        assert fit_all(trainer, window).accepted
    embedding = trainer.embed(window, window.cut())
    assert block_share(embedding, users=range(30), own=range(20)) > 0.85
