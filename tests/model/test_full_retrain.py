"""Full retrains: when they are made, what they leave as it was, and that a start goes on with the count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from driftgraph.model import trainer as trainers
from driftgraph.model.examples.examples import take
from driftgraph.model.fitting import beginning
from driftgraph.model.fitting.beginning import ROW_COSINE, Begin, aligned, closed_rows, drawn_rows
from driftgraph.model.fitting.gate import ACCEPTED, COSINE_MIN, Losses, Verdict, judge_full
from driftgraph.model.network.item_table import initial_rows
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import F32
from driftgraph.stream.window.writer import Cut, Events, Window
from tests.model_worlds import append, blocks, empty_cut, trainer_of, window_of

ROWS = blocks(1_000, seed=0)  # one a second
EVERY_MS = 300_000


def begun_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The event times of the cuts of first attempts and full retrains, as they come."""
    times, plan_of = list[int](), beginning.plan_of

    def told(view: Window, since: Cut, cut: Cut, begin: Begin, *rest: Any, **named: Any) -> Any:
        if begin != "served":
            times.append(cut.watermark_ms)
        return plan_of(view, since, cut, begin, *rest, **named)

    monkeypatch.setattr(beginning, "plan_of", told)
    return times


def test_the_first_fit_behind_each_multiple_is_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the event time of the cuts alone: a replay and a live run that have the same cuts have the same."""
    begun = begun_by(monkeypatch)
    window = window_of(ROWS[:400])
    trainer = trainer_of(full_every_ms=EVERY_MS)
    cuts = [window.cut()]
    assert trainer.fit(window, empty_cut(window), cuts[0]).accepted
    for stop in (450, 720, 740, 1_000):
        since = window.cut()
        cuts.append(append(window, ROWS[since.next[0] + since.next[1] : stop]))
        trainer.fit(window, since, cuts[-1])
    expected, newest = list[int](), 0
    for cut in cuts:
        if cut.watermark_ms // EVERY_MS > newest // EVERY_MS:
            expected.append(newest := cut.watermark_ms)
    assert begun == expected
    assert 2 < len(begun) < len(cuts)


def test_without_the_option_only_who_asks_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begun_by(monkeypatch)
    window = window_of(ROWS)
    trainer = trainer_of()
    cut = window.cut()
    assert trainer.fit(window, empty_cut(window), cut).accepted
    assert trainer.fit(window, cut, cut).code == "no_events"
    assert len(begun) == 1
    full = trainer.fit(window, cut, cut, full=True)
    assert full.new_examples > 0, "on the whole window, though nothing is new"
    assert len(begun) == 2
    assert full.stability is not None
    assert full.stability.item_cosine >= 0.95


def test_one_that_the_gate_refuses_is_followed_by_a_usual_fit_and_waits_for_the_next_multiple(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = begun_by(monkeypatch)
    window = window_of(ROWS[:400])
    trainer = trainer_of(full_every_ms=EVERY_MS)
    first = window.cut()
    assert trainer.fit(window, empty_cut(window), first).accepted
    cut = append(window, ROWS[400:700])
    verdicts = iter([Verdict(False, "holdout", "worse"), *[ACCEPTED] * 9])
    monkeypatch.setattr(trainers, "judge", lambda *_, **__: next(verdicts))
    report = trainer.fit(window, first, cut)
    assert (report.accepted, report.refused) == (True, ("worse",))
    assert trainer.fit(window, cut, append(window, ROWS[700:720])).accepted
    assert begun == [first.watermark_ms, cut.watermark_ms]


def test_a_resumed_trainer_makes_the_same_full_fit() -> None:
    window = window_of(ROWS[:400])
    trainer = trainer_of(full_every_ms=EVERY_MS)
    first = window.cut()
    trainer.fit(window, empty_cut(window), first)
    tensors, meta = trainer.state_dict()
    resumed = trainer_of(full_every_ms=EVERY_MS)
    resumed.load_state_dict(tensors, meta)
    cut = append(window, ROWS[400:])
    for one in (trainer, resumed):
        one.fit(window, first, cut)
        assert one.begun_ms == cut.watermark_ms
    states = trainer.state_dict()[0], resumed.state_dict()[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    del meta["begun_ms"]
    resumed.load_state_dict(tensors, meta)
    assert resumed.begun_ms == 0, "a state of before there were full retrains"


def test_the_solution_is_searched_from_the_rows_of_before() -> None:
    """From another start the factors of the same pairs are others, by more than a turn can mend."""
    window = window_of(ROWS)
    trainer = trainer_of()
    trainer.fit(window, empty_cut(window), window.cut())
    events, before = window.events(window.cut()), trainer.table.weight[:40].numpy()
    near = closed_rows(events, trainer.table.rows, trainer.options, before)
    far = closed_rows(events, trainer.table.rows, trainer.options, -before[::-1].copy())
    assert not np.array_equal(near, far)


def cosines(one: F32, other: F32) -> F32:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: F32 = (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)
    return found


def test_rows_are_drawn_as_far_towards_the_closed_form_as_their_cosine_allows() -> None:
    window = window_of(ROWS)
    trainer = trainer_of()
    trainer.fit(window, empty_cut(window), window.cut())
    events, rows, options = window.events(window.cut()), trainer.table.rows, trainer.options
    chance = np.random.default_rng(0).normal(0, 0.1, (rows, options.dim)).astype(np.float32)
    before = trainer.table.weight[:rows].numpy() + chance
    before[7] = initial_rows(np.array([7]), options.dim, options.seed)
    drawn, goal = drawn_rows(events, options, before), closed_rows(events, rows, options, before)
    goal = aligned(goal, before)
    assert (drawn[7] == before[7]).all(), "an item that no fit has touched is what its users say"
    assert (drawn[:, -1] == before[:, -1]).all()
    others = np.delete(np.arange(rows), 7)
    near = cosines(drawn[others, :-1], before[others, :-1])
    assert ROW_COSINE <= near.mean() < ROW_COSINE + 0.002
    nearer = cosines(drawn[:, :-1], goal[:, :-1]) - cosines(before[:, :-1], goal[:, :-1])
    assert nearer[others].mean() > 0.01
    nothing = take(events, slice(0))
    assert (drawn_rows(nothing, options, before) == before).all()


def two_alike() -> tuple[Window, Cut, Cut, list[Trainer]]:
    """A window, two cuts, and two trainers whose first fits were at the first of them."""
    rows = blocks(3_000, seed=1)
    window = window_of(rows[:2_000])
    first, trainers_of = window.cut(), [trainer_of(), trainer_of()]
    for trainer in trainers_of:
        assert trainer.fit(window, empty_cut(window), first).accepted
    return window, first, append(window, rows[2_000:]), trainers_of


def test_one_that_loses_on_the_holdouts_is_refused_and_the_usual_fit_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window, first, cut, (full, usual) = two_alike()

    def spoiled(events: Events, options: TrainerOptions, before: F32) -> F32:
        return before[::-1].copy()

    monkeypatch.setattr(beginning, "drawn_rows", spoiled)
    monkeypatch.setattr(trainers, "item_cosine", lambda *_: 1.0)
    report = full.fit(window, first, cut, full=True)
    [reason] = report.refused
    assert "holdout" in reason
    usual.fit_count += 1
    assert usual.fit(window, first, cut).accepted
    states = full.state_dict()[0], usual.state_dict()[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_loss_of_a_full_retrain_is_that_of_both_holdouts() -> None:
    old, new = (Losses(name, np.zeros(2), np.full(2, loss)) for name, loss in (("old", 0.02), ("new", -0.03)))
    assert judge_full(COSINE_MIN, [old, new]).accepted
    assert judge_full(1.0, [old]).reason == (
        "the loss on both holdouts is 0.020 nats worse than the serving model's; a full retrain may not lose"
    )


def test_a_full_retrain_keeps_items_and_holdouts_and_differs_from_the_usual_fit() -> None:
    window, first, cut, (full, usual) = two_alike()
    reports = full.fit(window, first, cut, full=True), usual.fit(window, first, cut)
    for report in reports:
        assert (report.accepted, report.refused) == (True, ())
        assert report.stability is not None
        assert report.stability.item_cosine >= COSINE_MIN
    for name in ("new", "old"):
        before, after = reports[0].holdout[name]
        assert after <= before + 0.02, name
    assert sum(after - before for before, after in reports[0].holdout.values()) < 0
    assert not torch.equal(full.table.weight, usual.table.weight)


def test_one_that_moves_the_items_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    window, first, cut, (full, usual) = two_alike()
    monkeypatch.setattr(trainers, "item_cosine", lambda *_: COSINE_MIN - 0.001)
    report = full.fit(window, first, cut, full=True)
    reason = "the mean cosine of the items to those of before is 0.949; a full retrain keeps 0.95"
    assert (report.accepted, report.refused) == (True, (reason,))
    assert usual.fit(window, first, cut).refused == (), "a usual fit may move them"
    assert judge_full(float("nan"), [Losses("new", np.zeros(0), np.zeros(0))]).accepted, "no item is in both"
