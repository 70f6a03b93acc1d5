"""Heads on a window: which impressions are looked at, and that nothing that comes later changes one."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from torch import Tensor

from driftgraph.model.examples.examples import before
from driftgraph.model.heads.head_evaluation import HeadEvaluation, evaluate_heads, sample_of
from driftgraph.model.heads.heads import Sample
from driftgraph.model.heads.impressions import NEVER, Impressions
from driftgraph.model.network.embed import Encoder
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.writer import Cut, Relation, Window
from tests.model_worlds import RELATIONS, START_MS, Row, append, blocks, empty_cut, trainer_of, window_of

CLICK, BUY, SHOWN = range(3)
WITH_SHOWN = (*RELATIONS, Relation("impression", 1_000_000_000, 1 << 16, is_edge=False))
ATTRIBUTION_MS = 20_000  # 20 events


def shown_with(rows: list[Row], *, seed: int, users: int = 60, items: int = 40) -> list[Row]:
    """Each click is of an item that was shown right then; beside it another one is shown."""
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for user, item, relation, time_ms in rows:
        if relation == CLICK:
            made += [(user, int(rng.integers(0, items)), SHOWN, time_ms), (user, item, SHOWN, time_ms)]
        made.append((user, item, relation, time_ms))
    return made


@functools.cache
def first_fit() -> tuple[dict[str, Tensor], dict[str, object]]:
    """The state of a model of ``fitted``'s window."""
    window = window_of(shown_with(blocks(1_500, seed=1), seed=2), WITH_SHOWN)
    trainer = trainer_of(attribution_ms=ATTRIBUTION_MS)
    report = trainer.fit(window.edges(), empty_cut(window), window.cut())
    assert report.accepted, report.reason
    return trainer.state_dict()


def fitted() -> tuple[Trainer, Window, Cut]:
    """A model of some events, their window, and the cut behind them."""
    window = window_of(shown_with(blocks(1_500, seed=1), seed=2), WITH_SHOWN)
    trainer = trainer_of(attribution_ms=ATTRIBUTION_MS)
    trainer.load_state_dict(*first_fit())
    return trainer, window, window.cut()


def sampled(trainer: Trainer, window: Window, since: Cut) -> tuple[Sample, Impressions, int]:
    assert trainer.serving is not None
    view, cut = window.edges(), window.cut()
    trainer.table.adopt(view.row_versions(1))
    encoder = Encoder(trainer.network, trainer.table, view, cut)
    return sample_of(window, since, cut, encoder=encoder, serving=trainer.serving)


def evaluated(trainer: Trainer, window: Window, since: Cut) -> tuple[HeadEvaluation, Sample]:
    assert trainer.serving is not None
    encoder = Encoder(trainer.network, trainer.table, window.edges(), window.cut())
    return evaluate_heads(
        trainer.heads, window, since, window.cut(), encoder=encoder, serving=trainer.serving
    )


def test_only_impressions_whose_answers_have_come_are_looked_at() -> None:
    trainer, window, since = fitted()
    append(window, shown_with(blocks(300, seed=3, first_ms=1_500_000), seed=4))
    sample, drawn, late = sampled(trainer, window, since)
    cut, events = window.cut(), window.events(window.cut())
    seen_ms = int(window.edges().events(before(since, cut)).time_ms[-1])
    ripe = events.time_ms + ATTRIBUTION_MS <= cut.watermark_ms
    expected = events.time_ms[(events.relation == SHOWN) & ripe & (events.time_ms > seen_ms)]
    assert drawn.time_ms.tolist() == expected.tolist()
    assert len(sample) > 300
    assert drawn.time_ms.max() <= cut.watermark_ms - ATTRIBUTION_MS
    assert drawn.time_ms.min() > since.watermark_ms
    between = (events.relation == SHOWN) & (events.time_ms <= seen_ms)
    assert late == (between & (events.time_ms + ATTRIBUTION_MS > since.watermark_ms)).sum() > 0
    assert sample.answered_NB[:, CLICK].any()
    assert (sample.answered_NB == (drawn.answer_ms_NB != NEVER)).all()


def test_nothing_that_comes_later_changes_what_an_impression_gets() -> None:
    """Two futures of one past: labels up to the attribution, features up to the impression are the same."""
    trainer, window, since = fitted()
    _, other, _ = fitted()
    common = shown_with(blocks(200, seed=3, first_ms=1_500_000), seed=4)
    edge_ms = 1_500_000 + 201_000
    futures = (blocks(200, seed=5, first_ms=edge_ms), blocks(200, seed=6, first_ms=edge_ms, only=0))
    found = []
    for one, future in ((window, futures[0]), (other, futures[1])):
        append(one, common)
        append(one, shown_with(future, seed=7))
        sample, drawn, _ = sampled(trainer, one, since)
        old = drawn.time_ms < START_MS + edge_ms - ATTRIBUTION_MS
        found.append((sample, old, drawn.item[~old]))
    (ours, old, then), (theirs, same_old, other_then) = found
    assert old.sum() == same_old.sum() > 200
    for a, b in zip(ours.counts, theirs.counts, strict=True):
        assert (a[old] == b[same_old]).all()
    assert (ours.parts.dot_N[old] == theirs.parts.dot_N[same_old]).all()
    assert (ours.parts.item_bias_N[old] == theirs.parts.item_bias_N[same_old]).all()
    assert (ours.answered_NB[old] == theirs.answered_NB[same_old]).all()
    assert then.tolist() != other_then.tolist(), "the futures differ"


def test_the_own_click_of_an_impression_is_not_among_what_it_sees() -> None:
    """Click and impression have one time: without the click, the features are the same."""
    rows = shown_with(blocks(100, seed=3, first_ms=1_500_000), seed=4)
    last_click = max(n for n, row in enumerate(rows[:-60]) if row[2] == CLICK)
    found = []
    for one in (rows, rows[:last_click] + rows[last_click + 1 :]):
        trainer, window, since = fitted()
        append(window, one)
        sample, drawn, _ = sampled(trainer, window, since)
        at = int(np.flatnonzero(drawn.time_ms == START_MS + rows[last_click][3])[-1])
        found.append((sample, at))
    (with_it, at), (without, place) = found
    assert with_it.answered_NB[at, CLICK]
    assert not without.answered_NB[place, CLICK]
    for a, b in zip(with_it.counts, without.counts, strict=True):
        assert (a[at] == b[place]).all()
    assert with_it.parts.dot_N[at] == without.parts.dot_N[place]


def test_heads_learn_the_blocks_and_beat_the_rates() -> None:
    """A user clicks what is of its own block: the vectors know it, the rates do not."""
    trainer, window, since = fitted()
    found = None
    for part in range(3):
        append(window, shown_with(blocks(600, seed=3 + part, first_ms=1_500_000 + part * 600_000), seed=part))
        found = evaluated(trainer, window, since)
        trainer.heads.learn(found[1])
        trainer.fit(window.edges(), since, window.cut())
        since = window.cut()
    assert found is not None
    metrics = found[0].heads["click"].metrics
    assert metrics["head"]["user_auc"] > metrics["running_rates"]["user_auc"] + 0.1
    assert metrics["head"]["log_loss"] < metrics["running_rates"]["log_loss"]


def test_a_trainer_goes_on_with_its_heads() -> None:
    trainer, window, since = fitted()
    append(window, shown_with(blocks(300, seed=3, first_ms=1_500_000), seed=4))
    found = evaluated(trainer, window, since)
    trainer.heads.learn(found[1])
    other = trainer_of(attribution_ms=ATTRIBUTION_MS)
    other.load_state_dict(*trainer.state_dict())
    for name, head in trainer.heads.heads.items():
        assert other.heads.heads[name].mean_F.tolist() == head.mean_F.tolist()
        assert other.heads.heads[name].information_FF.tolist() == head.information_FF.tolist()


def test_a_state_from_before_the_heads_begins_them_anew() -> None:
    trainer, _, _ = fitted()
    tensors, meta = trainer.state_dict()
    meta = {name: value for name, value in meta.items() if name != "answer_heads"}
    other = trainer_of(attribution_ms=ATTRIBUTION_MS)
    other.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("answer_heads.")}, meta)
    assert other.model_version == 1
    for head in other.heads.heads.values():
        assert head.mean_F.tolist() == head.layout.prior_F.tolist()


def test_more_impressions_than_the_limit_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, window, since = fitted()
    append(window, shown_with(blocks(300, seed=3, first_ms=1_500_000), seed=4))
    whole = sampled(trainer, window, since)[1]
    monkeypatch.setattr("driftgraph.model.heads.head_evaluation.IMPRESSIONS_MAX", 50)
    first, second = (sampled(trainer, window, since)[1] for _ in range(2))
    assert len(first) == 50
    assert first.time_ms.tolist() == second.time_ms.tolist() == sorted(first.time_ms.tolist())
    assert set(first.time_ms.tolist()) <= set(whole.time_ms.tolist())


def test_impressions_leave_the_model_as_it_is() -> None:
    """The same edges with and without impressions of the same users and items: the model is bit-equal."""
    rows = blocks(500, seed=1)
    seen = [(n % 60, n % 40, SHOWN, 1_000 * n + 500) for n in range(1, 500)]
    models = []
    for relations, more in ((RELATIONS, []), (WITH_SHOWN, seen)):
        window = window_of(rows, relations)
        append(window, more)
        trainer = trainer_of()
        view = window.edges()
        assert trainer.fit(view, empty_cut(window), window.cut()).accepted
        embedding = trainer.embed(view, window.cut())
        models.append((trainer.network.state_dict(), embedding))
    (weights, embedding), (others, other) = models
    for name, tensor in weights.items():
        assert (tensor == others[name]).all(), name
    assert embedding.user_rows.tolist() == other.user_rows.tolist()
    assert embedding.item_rows.tolist() == other.item_rows.tolist()
    assert (embedding.item == other.item).all()
    assert (embedding.user == other.user).all()


def test_who_was_only_shown_has_no_vector() -> None:
    trainer, window, _ = fitted()
    append(window, [(200, 150, SHOWN, 1_500_500), (201, 3, CLICK, 1_501_000)])
    embedding = trainer.embed(window.edges(), window.cut())
    assert 200 not in embedding.user_rows
    assert 201 in embedding.user_rows
    assert 150 not in embedding.item_rows


def test_an_interval_without_impressions_is_no_fault() -> None:
    trainer, window, since = fitted()
    append(window, blocks(100, seed=3, first_ms=1_500_000))
    found, sample = evaluated(trainer, window, since)
    assert found.impressions == len(sample) == 0
    trainer.heads.learn(sample)
