"""What an event's item is compared with: every choice learns, and lists come from the evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from driftgraph.model.examples.examples import plan
from driftgraph.model.score.ranking import NO_ITEM
from tests.model.test_trainer import block_share, fit_all, same_state
from tests.model_worlds import SMALL, append, blocks, empty_cut, trainer_of, window_of


@pytest.mark.parametrize("negatives", [{"buy": 10, "click": 5}, "lists"])
def test_it_learns_the_blocks(negatives: str | Mapping[str, int]) -> None:
    window = window_of(blocks(1_500, seed=0))
    trainer = trainer_of(learning_rate=0.02, negatives=negatives)
    assert [fit_all(trainer, window).accepted for _ in range(4)] == [True] * 4
    assert block_share(trainer.embed(window, window.cut()), users=range(30), own=range(20)) > 0.85


def test_relations_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"negatives names \['fav'\]; the relations are \['click', 'buy'\]"):
        trainer_of(negatives={"fav": 3})


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ("hard", "negatives must be softmax or lists, or a number by relation, got 'hard'"),
        ({"buy": 0}, "negatives of buy must be from 1 to 1000, got 0"),
    ],
)
def test_negatives_that_make_no_sense_are_refused(negatives: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(negatives=negatives)


def test_the_lists_of_the_evaluation_are_the_fits_negatives() -> None:
    """The items of the 20 best of each scored event, and with them a fit is another one."""
    window = window_of(blocks(400, seed=1))
    trainers = [trainer_of(negatives=negatives) for negatives in ("lists", "lists", "softmax", "softmax")]
    since = window.cut()
    for trainer in trainers:
        assert fit_all(trainer, window).accepted
    cut = append(window, blocks(150, seed=2, first_ms=10**6))
    found = [trainer.evaluate(window, since, cut) for trainer in trainers]
    assert found[0].predictions is not None
    listed = found[0].lessons.listed
    assert set(listed.tolist()) == set(found[0].predictions.top_items.ravel().tolist()) - {int(NO_ITEM)}
    for trainer, told in zip(trainers, (True, False, True, False), strict=True):
        trainer.scorer.learn = lambda lessons: None  # type: ignore[method-assign]  # it is not asked for here
        trainer.fit(window, since, cut, lessons=found[0].lessons if told else None)
    assert not same_state(trainers[0], trainers[1])
    assert same_state(trainers[2], trainers[3])


def test_listed_items_are_among_the_candidates_more_often_with_lists() -> None:
    window = window_of(blocks(600, seed=1, items=400, users=200))
    options = trainer_of(negatives="lists", sampled_negatives=8, batch_size=16).options
    listed = np.unique([row[1] for row in blocks(600, seed=1, items=400, users=200)])[:6].astype(np.uint32)
    count = {}
    for name, own in (("lists", listed), ("none", None)):
        made = plan(window, empty_cut(window), window.cut(), options, np.random.default_rng(0), own)
        count[name] = sum(int(np.isin(batch.candidate_C, listed).sum()) for batch in made.batches)
        assert all(len(batch.candidate_C) <= len(batch.item) + 8 for batch in made.batches)
    assert count["lists"] > 3 * count["none"]
    assert SMALL.negatives == "softmax"
