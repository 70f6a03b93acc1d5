"""How a model begins: in closed form, gently, and when it should do so again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from driftgraph.model.examples.examples import Batch, first_contacts, is_held, take
from driftgraph.model.fitting.beginning import (
    ANEW,
    EVENTS_MIN,
    LOSSES_MAX,
    Behind,
    aligned,
    closed_rows,
    gently,
)
from driftgraph.model.fitting.gate import ACCEPTED, Verdict
from driftgraph.model.fitting.weights import Trained
from driftgraph.stream.window.writer import Cut
from tests.model_worlds import SMALL, append, blocks, empty_cut, events_of, trainer_of, window_of

PARTS = 4


class Run:
    """Weights are one number; a part of training sets it to the next of ``values``, its loss is itself."""

    def __init__(self, values: list[float], verdicts: list[Verdict] | None = None) -> None:
        self.value, self.values = 5.0, iter(values)
        self.verdicts = iter(verdicts or [ACCEPTED] * len(values))
        self.trained: list[int] = []

    def train(self, batches: list[Batch]) -> Trained:
        self.trained.append(len(batches))
        self.value = next(self.values)
        return Trained(len(batches), 1, self.value, next(self.verdicts))

    def keep(self) -> object:
        before = self.value
        return lambda: setattr(self, "value", before)

    def go(self, count: int) -> Trained:
        return gently([None] * count, self.train, lambda: self.value, self.keep)  # type: ignore[list-item, arg-type]


@pytest.mark.parametrize(
    ("values", "kept", "parts"),
    [
        ([4.0, 3.0, 2.0, 1.0], 1.0, [3, 3, 2, 2]),
        ([4.0, 4.5, 2.0, 1.0], 4.0, [3, 3]),
        ([4.0, 4.0, 2.0, 1.0], 4.0, [3, 3]),
        ([6.0, 1.0, 1.0, 1.0], 5.0, [3]),
        ([float("nan"), 1.0, 1.0, 1.0], 5.0, [3]),
    ],
)
def test_a_part_that_makes_the_holdout_no_better_is_undone_and_the_last(
    values: list[float], kept: float, parts: list[int]
) -> None:
    run = Run(values)
    done = run.go(10)
    assert (run.value, run.trained) == (kept, parts)
    assert done.verdict.accepted
    assert (done.steps, done.skipped) == (sum(parts), len(parts))


def test_steps_that_cannot_be_made_end_it_with_their_verdict() -> None:
    broken = Verdict(False, "skipped_steps", "three in a row")
    run = Run([4.0, 3.0], [ACCEPTED, broken])
    assert run.go(10).verdict == broken
    assert run.trained == [3, 3]


def test_pairs_of_the_holdout_are_not_in_the_rows() -> None:
    """Rows are those of the events without the held-out pairs, repeats of them included."""
    events = events_of(blocks(800, seed=1))
    held = is_held(events, SMALL) & first_contacts(events)
    pairs = {(u, i) for u, i in zip(events.user[held].tolist(), events.item[held].tolist(), strict=True)}
    kept = [(u, i) not in pairs for u, i in zip(events.user.tolist(), events.item.tolist(), strict=True)]
    assert 0 < len(pairs) < sum(held.tolist()) + 1
    made = closed_rows(events, 40, SMALL)
    assert np.array_equal(made, closed_rows(take(events, np.array(kept)), 40, SMALL))
    assert not made[:, -1].any()


def test_alignment_brings_a_turned_table_back_and_changes_no_dot_product() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(size=(50, 9)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    turned = table.copy()
    turned[:, :-1] = table[:, :-1] @ turn
    turned[3, :-1] = 0  # a row that only one of them has
    back = aligned(turned, table)
    np.testing.assert_allclose(np.delete(back, 3, 0), np.delete(table, 3, 0), atol=1e-5)
    np.testing.assert_allclose(back @ back.T, turned @ turned.T, atol=1e-4)


def at(number: int) -> Cut:
    return Cut(number, (0,), (number,))


def metrics(model: float, fresh: float) -> dict[str, dict[str, float]]:
    return {
        "vectors": {"recall_at_20": 0.9, "ndcg_at_20": model},
        ANEW: {"recall_at_20": 0, "ndcg_at_20": fresh},
    }


def test_three_losses_in_a_row_are_too_often() -> None:
    """A win begins the count again; one evaluation counts once; few events say nothing."""
    behind = Behind()
    for number, (model, fresh) in enumerate([(0.1, 0.2), (0.1, 0.2), (0.2, 0.2), *[(0.1, 0.2)] * LOSSES_MAX]):
        assert not behind.too_often
        for _ in range(2):
            behind = behind.after(metrics(model, fresh), EVENTS_MIN, at(number))
    assert behind.too_often
    assert Behind(2).after(metrics(0.1, 0.2), EVENTS_MIN - 1, at(1)) == Behind(2)
    assert Behind(2).after({"vectors": {}}, EVENTS_MIN, at(1)) == Behind(2)


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    """The mean cosine of rows."""
    return float(torch.cosine_similarity(one, other).mean())


def test_a_model_that_lost_too_often_begins_anew_near_to_where_it_was() -> None:
    """Rows spoiled by hand lose to a model started anew: the fit after the third evaluation heals them."""
    window = window_of(blocks(1_500, seed=3))
    trainer = trainer_of()
    assert trainer.fit(window, empty_cut(window), window.cut()).accepted
    healthy = trainer.table.weight[:40, :-1].clone()
    noise = torch.randn(healthy.shape, generator=torch.Generator().manual_seed(0))
    since = cut = window.cut()
    for number in range(LOSSES_MAX):
        trainer.table.weight[:40, :-1] = 0.3 * healthy + noise
        assert trainer.serving is not None
        trainer.serving.item[:, :-1] = trainer.table.weight[:40, :-1].numpy()[trainer.serving.item_rows]
        since = window.cut()
        cut = append(window, blocks(400, seed=4 + number, first_ms=10**7 * (number + 1), users=200))
        found = trainer.evaluate(window, since, cut)
        assert found.event_count >= EVENTS_MIN
        assert found.metrics[ANEW]["ndcg_at_20"] > found.metrics["vectors"]["ndcg_at_20"]
    assert trainer.behind.too_often
    before = trainer.table.weight[:40, :-1].clone()
    assert trainer.fit(window, since, cut).accepted
    assert not trainer.behind.times
    fresh = closed_rows(window.events(cut), trainer.table.rows, trainer.options)[:40, :-1]
    assert likeness(trainer.table.weight[:40, :-1], before) > likeness(torch.from_numpy(fresh), before) + 0.1
    later = append(window, blocks(400, seed=9, first_ms=10**8, users=200))
    healed = trainer.evaluate(window, cut, later)
    assert healed.metrics["vectors"]["ndcg_at_20"] >= 0.9 * healed.metrics[ANEW]["ndcg_at_20"]
