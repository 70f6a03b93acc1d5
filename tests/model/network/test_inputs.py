"""A step's negatives by behavior, and the two views of an item that the contrastive loss compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from driftgraph.model.examples.examples import plan
from driftgraph.model.network import inputs as module
from driftgraph.model.network.inputs import Inputs, contrast, drawn_negatives
from driftgraph.model.network.loss import info_nce
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.adjacency import ITEM
from tests.model_worlds import SMALL, blocks, empty_cut, trainer_of, window_of


def a_batch(**changes: object) -> tuple[Trainer, Inputs]:
    """The batch with the fullest neighborhoods of a window with two behaviors."""
    window = window_of(blocks(400, seed=3))
    trainer = trainer_of(**changes)
    trainer.table.adopt(window.row_versions(ITEM))
    made = plan(window, empty_cut(window), window.cut(), SMALL, np.random.default_rng(0))
    newest = max(made.batches, key=lambda batch: batch.start_ms)
    return trainer, trainer._inputs(window, window.cut(), newest)


def test_an_event_has_as_many_negatives_as_its_behavior_says_and_none_that_its_user_touched() -> None:
    _, inputs = a_batch()
    inputs = replace(inputs, relation_B=torch.arange(len(inputs.relation_B)) % 2)
    candidates = len(inputs.log_q_C)
    drawn = [
        drawn_negatives(inputs, torch.tensor([5, 10]), torch.Generator().manual_seed(n)) for n in range(200)
    ]
    touched = set(inputs.excluded_n.tolist())
    touched |= {b * candidates + c for b, c in enumerate(inputs.positive_B.tolist())}
    most = torch.where(inputs.relation_B == 1, 10, 5)
    for negative_BK in drawn:
        assert bool((negative_BK[:, 5:][inputs.relation_B == 0] == -1).all())
        places = [b * candidates + c for b, own in enumerate(negative_BK.tolist()) for c in own if c >= 0]
        assert not touched & set(places)
    free = 1 - torch.bincount(torch.tensor(sorted(touched)) // candidates) / candidates
    kept = torch.stack([(negative_BK >= 0).sum(1) for negative_BK in drawn]).float().mean(0)
    torch.testing.assert_close(kept / most, free, atol=0.15, rtol=0)
    again = drawn_negatives(inputs, torch.tensor([5, 10]), torch.Generator().manual_seed(0))
    assert torch.equal(again, drawn[0])


def test_a_rare_candidate_is_drawn_as_often_as_a_popular_one() -> None:
    """Of items in the batch in one of 10 cases and of items that always are, each counts the same."""
    _, inputs = a_batch()
    few = torch.arange(len(inputs.log_q_C)) % 2 == 0
    told = inputs.log_q_C.clone()
    told[few], told[~few] = np.log(0.1), 0.0
    drawn = drawn_negatives(
        replace(inputs, log_q_C=told, excluded_n=inputs.excluded_n[:0]),
        torch.tensor([200, 200]),
        torch.Generator().manual_seed(0),
    )
    share = float(few[drawn[drawn >= 0]].float().mean())
    assert share == pytest.approx(10 / 11, abs=0.02)


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_the_views_of_an_item_have_its_newest_users_and_some_of_the_others(
    kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kept, both are the item; none kept, they are the newest user of each behavior."""
    trainer, inputs = a_batch()
    monkeypatch.setattr(module, "KEPT_SHARE", kept)
    rows_nD = trainer.table.weight.index_select(0, inputs.rows_n) + torch.randn(len(inputs.rows_n), 16) * 0.1
    edges = inputs.items.edges
    assert edges is not None
    mask = edges.mask_NK.clone()
    if not kept:
        for n, row in enumerate(edges.relation_NK.tolist()):
            seen: set[int] = set()
            for k, relation in enumerate(row):
                mask[n, k] &= relation not in seen
                seen |= {relation} if bool(edges.mask_NK[n, k]) else set()
        assert not torch.equal(mask, edges.mask_NK)
    items = replace(inputs.items, edges=replace(edges, mask_NK=mask))
    own = trainer.network.items(items, rows_nD, inputs.popularity_CF)[:, :-1]
    found = contrast(trainer.network, inputs, rows_nD, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, info_nce(own, own, temperature=module.CONTRAST_TEMPERATURE))


def test_the_contrastive_loss_moves_items_apart() -> None:
    trainer, inputs = a_batch()
    rows_nD = trainer.table.weight.index_select(0, inputs.rows_n).detach().requires_grad_()

    def loss() -> torch.Tensor:
        return contrast(trainer.network, inputs, rows_nD, torch.Generator().manual_seed(1))

    first = loss()
    (slope_nD,) = torch.autograd.grad(first, rows_nD)
    rows_nD = (rows_nD - 0.1 * slope_nD / slope_nD.norm()).detach()
    assert float(loss().detach()) < float(first.detach())


@pytest.mark.parametrize("negatives", [{"buy": 10}, {"click": 1, "buy": 1_000}])
def test_the_counts_are_those_of_the_relations_and_5_where_none_is_named(
    negatives: Mapping[str, int],
) -> None:
    trainer = trainer_of(negatives=negatives)
    counts = trainer.weights._negatives_R
    assert counts is not None
    assert counts.tolist() == [negatives.get("click", 5), negatives["buy"]]
