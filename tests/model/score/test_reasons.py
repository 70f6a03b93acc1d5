"""Reasons: the parts add up to the score of the list, and the ways are those of the plainest paths."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from driftgraph.model.options import ListLengths
from driftgraph.model.score.ranking import SHAPE, path_tables
from driftgraph.model.score.reasons import WAYS_MAX, OneUser
from driftgraph.model.score.scorer import PARTS
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import U32
from driftgraph.stream.window.writer import Window
from tests.model.score.test_lists import moment_of, rows_of
from tests.model.score.test_scored_lists import ask, asked, made_by, touched_by, trained
from tests.model_worlds import RELATIONS, START_MS, append, blocks
from tests.plain_paths import plain_paths
from tests.plain_window import PlainWindow

USERS, ITEMS = 80, 120


@pytest.fixture(scope="module")
def world() -> tuple[Trainer, Window, PlainWindow]:
    rows = blocks(1_500, seed=1, users=USERS, items=ITEMS)
    trainer, window = trained(rows)
    trainer.scorer.mean_F = np.linspace(0.3, 1.2, len(trainer.scorer.mean_F))
    plain = PlainWindow(RELATIONS)
    plain.append(*columns(rows))
    return trainer, window, plain


def columns(rows: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, ...]:
    user, item, relation, time_ms = np.array(rows, np.int64).T
    return user.astype(np.uint32), item.astype(np.uint32), relation.astype(np.uint8), time_ms + START_MS


def one(trainer: Trainer, window: Window, user: int, now_ms: int) -> OneUser:
    row, time_ms, cut = rows_of(user), np.array([now_ms]), window.cut()
    return OneUser(row, trainer.embed_users(window, row, cut, time_ms), time_ms, cut)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("user", [3, 17, 44])
def test_the_parts_of_each_item_add_up_to_its_score_in_the_list(
    world: tuple[Trainer, Window, PlainWindow], user: int, repeats: bool
) -> None:
    trainer, window, _ = world
    now_ms = int(window.events(window.cut()).time_ms.max()) + 1
    lists = made_by(trainer, window, ListLengths(lists=30, similar=0, repeats=repeats))
    touched: U32 = rows_of() if repeats else touched_by(window, user)
    [(listed, score)] = ask(lists, window, asked(trainer, window, user, now_ms, touched))
    found = lists.why(one(trainer, window, user, now_ms), moment_of(window), listed)
    assert [reason.item for reason in found] == listed.tolist()
    assert {tuple(reason.parts) for reason in found} == {tuple(PARTS)}
    added = [sum(reason.parts.values()) for reason in found]
    np.testing.assert_allclose(added, score, rtol=1e-5)
    assert any(reason.parts["own"] for reason in found) == repeats
    assert any(reason.ways for reason in found)


@pytest.mark.parametrize("user", [3, 17, 44])
def test_the_ways_are_those_of_the_plainest_paths(
    world: tuple[Trainer, Window, PlainWindow], user: int
) -> None:
    trainer, window, plain = world
    now_ms, cut = int(window.events(window.cut()).time_ms.max()) + 1, window.cut()
    lists = made_by(trainer, window)
    items = np.arange(ITEMS, dtype=np.uint32)
    found = lists.why(one(trainer, window, user, now_ms), moment_of(window), items)
    tables = path_tables(len(RELATIONS))
    degree = np.maximum(np.bincount(window.events(cut).item, minlength=ITEMS), 1)
    weight, visitors = defaultdict[tuple[int, int], float](float), defaultdict[tuple[int, int], set[int]](set)
    own = {}
    for item, place, lag, via, visitor, _, relation, _, age_ms, _, _ in plain_paths(
        plain, cut, user, now_ms, SHAPE
    )[0]:
        worth = tables.place[0, place] * tables.lag[0, lag + SHAPE.lag] * degree[via] ** -0.25
        weight[item, via] += worth
        visitors[item, via].add(visitor)
        own[via] = relation, now_ms - age_ms
    assert weight
    for reason in found:
        expected = {via: w for (item, via), w in weight.items() if item == reason.item}
        best = sorted(expected, key=lambda via: (-expected[via], via))[:WAYS_MAX]
        assert [way.via for way in reason.ways] == best
        for way in reason.ways:
            assert way.share == pytest.approx(expected[way.via] / sum(expected.values()))
            assert way.users == len(visitors[reason.item, way.via])
            assert (way.relation, way.time_ms) == own[way.via]


def test_an_item_that_is_no_candidate_has_no_reason(world: tuple[Trainer, Window, PlainWindow]) -> None:
    trainer, window, _ = world
    now_ms = int(window.events(window.cut()).time_ms.max()) + 1
    found = made_by(trainer, window).why(
        one(trainer, window, 3, now_ms), moment_of(window), rows_of(4_000, 5)
    )
    assert [reason.item for reason in found] == [5]


def test_an_item_that_came_since_has_its_reason() -> None:
    trainer, window = trained(blocks(1_000, seed=2, users=60, items=40))
    lists = made_by(trainer, window)
    last_ms = int(window.events(window.cut()).time_ms.max())
    append(window, [(user, 60, 0, last_ms - START_MS + 2 + n) for n, user in enumerate(range(20))])
    [reason] = lists.why(one(trainer, window, 5, last_ms + 100), moment_of(window), rows_of(60))
    assert reason.ways
