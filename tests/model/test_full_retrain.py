"""Full retrains: when they are made, what they leave as it was, and that a start goes on with the count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from driftgraph.model import trainer as trainers
from driftgraph.model.fitting.beginning import closed_rows
from driftgraph.model.fitting.gate import ACCEPTED, Verdict
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.writer import Cut, Window
from tests.model_worlds import append, blocks, empty_cut, trainer_of, window_of

ROWS = blocks(1_000, seed=0)  # one a second
EVERY_MS = 300_000


def begun_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The event times of the cuts at which an attempt began in closed form, as they come."""
    times, begin = list[int](), Trainer._begin

    def told(self: Trainer, view: Window, cut: Cut, *rest: Any) -> Any:
        times.append(cut.watermark_ms)
        return begin(self, view, cut, *rest)

    monkeypatch.setattr(Trainer, "_begin", told)
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
    near = closed_rows(events, trainer.table.version, trainer.options, before)
    far = closed_rows(events, trainer.table.version, trainer.options, -before[::-1].copy())
    assert not np.array_equal(near, far)
