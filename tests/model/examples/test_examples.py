"""What a fit trains on: which events, in which batches, and that none sees what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from driftgraph.model.examples.examples import (
    Batch,
    Plan,
    before,
    first_contacts,
    identity,
    is_held,
    plan,
    replay_sample,
    take,
)
from driftgraph.model.network.inputs import batch_loss, inputs_of
from driftgraph.model.network.item_table import ItemTable
from driftgraph.model.network.network import MBGNN
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Events, Window
from tests.model_worlds import (
    RELATIONS,
    SMALL,
    START_MS,
    Row,
    append,
    blocks,
    empty_cut,
    events_of,
    noise,
    window_of,
)


def two_intervals(options: TrainerOptions = SMALL, *, seed: int = 0) -> tuple[Window, Plan]:
    window = window_of(blocks(400, seed=1))
    since = window.cut()
    cut = append(window, blocks(150, seed=2, first_ms=10**6))
    return window, plan(window, since, cut, options, np.random.default_rng(seed))


def rows_of(batch: Batch) -> list[Row]:
    return list(
        zip(
            batch.user.tolist(),
            batch.item.tolist(),
            batch.relation.tolist(),
            batch.time_ms.tolist(),
            strict=True,
        )
    )


def test_new_events_are_all_trained_once_with_replayed_older_first_contacts() -> None:
    options = replace(SMALL, holdout_share=0.0, first_contacts_only=False)
    window, made = two_intervals(options)
    trained = [row for batch in made.batches for row in rows_of(batch)]
    new = window.events(window.cut())
    expected = sorted(
        zip(new.user.tolist(), new.item.tolist(), new.relation.tolist(), new.time_ms.tolist(), strict=True)
    )
    assert len(trained) == len(set(trained)) == made.new_count + made.replay_count
    assert (made.new_count, made.replay_count) == (150, 300)
    assert set(trained) <= set(expected)
    assert sum(row[3] > START_MS + 10**6 for row in trained) == 150


def test_a_repeat_is_no_example() -> None:
    """The user has touched the item before, by another relation even."""
    window = window_of([(0, 1, 0, 1), (0, 1, 1, 5), (0, 2, 0, 7), (1, 1, 0, 7), (0, 2, 0, 9)])
    options = replace(SMALL, holdout_share=0.0, first_passes_max=1)
    made = plan(window, empty_cut(window), window.cut(), options, np.random.default_rng(0))
    trained = sorted((u, i, t - START_MS) for batch in made.batches for u, i, _, t in rows_of(batch))
    assert trained == [(0, 1, 1), (0, 2, 7), (1, 1, 7)]


def all_rows(batches: Sequence[Batch]) -> list[Row]:
    return sorted(row for batch in batches for row in rows_of(batch))


def test_a_model_from_nothing_goes_through_the_window_in_order_of_time() -> None:
    """Round after round: the events of a round once each, beside as many earlier ones, none that is later."""
    window = window_of(blocks(300, seed=3))
    options = replace(SMALL, first_rounds=3, first_passes_max=1, batch_size=10, holdout_share=0.0)
    made = plan(window, empty_cut(window), window.cut(), options, np.random.default_rng(0))
    assert made.replay_count > 0
    seen: set[Row] = set()
    fresh = 0
    for batch in made.batches:
        rows = set(rows_of(batch))
        fresh += len(rows - seen)
        seen |= rows
    assert fresh == made.new_count
    reached = np.maximum.accumulate([max(r[3] for r in rows_of(batch)) for batch in made.batches])
    third = (reached[-1] - min(r[3] for r in seen)) / 3
    assert reached[len(reached) // 3 - 1] < reached[-1] - third
    assert reached[-1] == max(r[3] for r in seen)


def test_a_small_window_is_gone_through_several_times_and_a_large_one_once() -> None:
    window = window_of(blocks(300, seed=3))
    counts = [
        plan(window, empty_cut(window), window.cut(), options, np.random.default_rng(0)).new_count
        for options in (
            replace(SMALL, holdout_share=0.0, first_examples_min=minimum, first_passes_max=3)
            for minimum in (1, 300, 100_000)
        )
    ]
    assert counts[1] == 2 * counts[0]
    assert counts[2] == 3 * counts[0]


def test_what_a_model_from_nothing_trains_on_is_bounded_and_the_newest() -> None:
    window = window_of(blocks(300, seed=3))
    options = replace(SMALL, first_examples_max=40, first_passes_max=1, batch_size=10, holdout_share=0.0)
    made = plan(window, empty_cut(window), window.cut(), options, np.random.default_rng(0))
    assert made.new_count == 40
    newest = plan(window, empty_cut(window), window.cut(), replace(options, first_examples_max=10**6),
                  np.random.default_rng(0))  # fmt: skip
    assert min(min(r[3] for r in rows_of(b)) for b in made.batches) > min(
        min(r[3] for r in rows_of(b)) for b in newest.batches
    )


def test_holdouts_are_never_trained_on_and_stay_the_same() -> None:
    """Over three fits of growing windows: what is held once is never in a batch."""
    window = window_of(blocks(600, seed=3, users=200, items=100))
    held: set[Row] = set()
    trained: set[Row] = set()
    since = empty_cut(window)
    old: list[set[Row]] = []
    for cycle in range(3):
        made = plan(window, since, window.cut(), SMALL, np.random.default_rng(cycle))
        trained |= {row for batch in made.batches for row in rows_of(batch)}
        held |= {row for batch in (*made.held_new, *made.held_old) for row in rows_of(batch)}
        old.append({row for batch in made.held_old for row in rows_of(batch)})
        since = window.cut()
        append(window, blocks(100, seed=9 + cycle, users=200, items=100, first_ms=10**6 * (cycle + 1)))
    assert len(held) > 10
    assert not held & trained
    assert old[1] <= old[2]


def test_the_holdout_is_about_the_share_asked_for() -> None:
    events = events_of(blocks(20_000, seed=4, users=2_000, items=1_000))
    assert 0.04 < is_held(events, replace(SMALL, holdout_share=0.05)).mean() < 0.06
    assert is_held(events, replace(SMALL, holdout_share=0.0)).sum() == 0


def test_a_batch_is_one_stretch_of_time_and_knows_only_what_came_before_it() -> None:
    """Every candidate is an example's item or was seen before the batch began; so is popularity."""
    window, made = two_intervals()
    every = window.events(window.cut())
    for batch in made.batches:
        assert (np.diff(batch.time_ms) >= 0).all()
        known = set(every.item[every.time_ms < batch.start_ms].tolist())
        assert set(batch.candidate_C.tolist()) <= known | set(batch.item.tolist())
        unseen = [n for n, item in enumerate(batch.candidate_C.tolist()) if item not in known]
        assert len(np.unique(batch.popularity_CF[unseen])) <= 2  # the prior, fast and slow


def test_the_loss_of_a_batch_does_not_see_events_at_or_after_it() -> None:
    """Delete every event from the batch's first on, its own examples too: the same loss by the bit."""
    options = replace(SMALL, layers=2)
    window, made = two_intervals(options)
    torch.manual_seed(0)
    network = MBGNN(len(RELATIONS), options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    table = ItemTable(options.dim, 0, torch.device("cpu"))
    table.adopt(window.row_versions(ITEM))
    every = window.events(window.cut())
    for batch in made.batches[:4]:
        first = replace(
            batch,
            user=batch.user[:1],
            item=batch.item[:1],
            relation=batch.relation[:1],
            time_ms=batch.time_ms[:1],
        )
        early = every.time_ms < batch.start_ms
        rows = np.stack([every.user, every.item, every.relation, every.time_ms - START_MS], 1)[early]
        deleted = window_of([tuple(row) for row in rows.tolist()])
        losses = []
        for view in (window, deleted):
            inputs = inputs_of(view, view.cut(), first, network, torch.ones(2), table.rows)
            losses.append(float(batch_loss(network, inputs, table.weight[inputs.rows_n]).detach()))
        assert losses[0] == losses[1]


def test_neither_the_target_edge_nor_its_reverse_is_in_a_neighborhood() -> None:
    """Users have no event of their own time or later, items none of the batch's first or later."""
    window, made = two_intervals()
    cut = window.cut()
    for batch in made.batches:
        users = window.recent(0, batch.user, batch.time_ms, 12, cut)
        assert (users.time_ms_BRK < batch.time_ms[:, None, None]).all()
        starts = np.full(len(batch.item), batch.start_ms)
        items = window.recent(1, batch.item, starts, 12, cut)
        assert (items.time_ms_BRK < batch.time_ms[:, None, None]).all()


def test_replay_prefers_the_recent_and_repeats_nothing() -> None:
    old = events_of([(n, n, 0, 1_000_000 * n) for n in range(2_000)])
    options = replace(SMALL, replay_ratio=2.0, replay_half_life_share=0.1)
    sample = replay_sample(old, 300, RELATIONS, options, np.random.default_rng(0))
    assert len(np.unique(sample.user)) == len(sample) == 300
    assert (np.diff(sample.time_ms) > 0).all()
    assert (sample.user >= 1_000).sum() > 3 * (sample.user < 1_000).sum()
    assert len(replay_sample(old, 5_000, RELATIONS, options, np.random.default_rng(0))) == 2_000
    assert len(replay_sample(old, 0, RELATIONS, options, np.random.default_rng(0))) == 0


def test_a_large_interval_is_bounded_and_the_newest_are_taken() -> None:
    window, made = two_intervals(
        replace(SMALL, examples_max=40, holdout_share=0.0, first_contacts_only=False)
    )
    assert (made.new_count, made.replay_count) == (40, 80)
    new = window.events(window.cut(), before(empty_cut(window), window.cut()))
    assert max(row[3] for batch in made.batches for row in rows_of(batch)) == int(new.time_ms[-1])


def test_an_old_cut_is_never_stale() -> None:
    """A ring of 50 has overwritten the first cut's events; what is left of them is read."""
    relations = [replace(RELATIONS[0], capacity=50), RELATIONS[1]]
    window = window_of([(n, n, 0, n + 1) for n in range(40)], relations)
    since = window.cut()
    append(window, [(n, n, 0, n + 1) for n in range(40, 100)])
    cut = window.cut()
    assert len(window.events(before(since, cut))) == 0
    assert len(window.events(cut, since)) == 50


def test_identity_tells_events_apart() -> None:
    events = events_of([(0, 1, 0, 5), (1, 0, 0, 5), (0, 1, 1, 5), (0, 1, 0, 6), (0, 1, 0, 5)])
    assert len(np.unique(identity(events))) == 4
    assert first_contacts(events).tolist() == [True, True, False, False, True]


def plainly_first(events: Events, among: Events) -> list[bool]:
    """By a dictionary of the first event of each pair."""
    first: dict[tuple[int, int], tuple[int, int]] = {}
    for user, item, relation, time_ms in zip(*columns_of(among), strict=True):
        first.setdefault((user, item), (relation, time_ms))
    return [first.get((u, i)) == (r, t) for u, i, r, t in zip(*columns_of(events), strict=True)]


def columns_of(events: Events) -> list[list[int]]:
    return [column.tolist() for column in (events.user, events.item, events.relation, events.time_ms)]


def test_first_contacts_are_those_of_a_dictionary() -> None:
    """Pairs that come again, copies of an event, events that are not among the others."""
    rows = noise(3_000, seed=3, users=40, items=50)
    events = events_of(sorted([*rows, *rows[::7]], key=lambda row: row[3]))
    assert first_contacts(events).tolist() == plainly_first(events, events)
    assert 0 < first_contacts(events).sum() < len(events)
    among = take(events, slice(500, 2_000))
    assert first_contacts(events, among).tolist() == plainly_first(events, among)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_plan_is_a_function_of_window_and_seed(seed: int) -> None:
    one, other = two_intervals(seed=seed)[1], two_intervals(seed=seed)[1]
    for a, b in zip(one.batches, other.batches, strict=True):
        assert rows_of(a) == rows_of(b)
        assert np.array_equal(a.candidate_C, b.candidate_C)
    assert [rows_of(b) for b in one.batches] != [rows_of(b) for b in two_intervals(seed=seed + 9)[1].batches]


def test_all_live_events_are_told_apart_as_older_and_newer() -> None:
    """Against ``events`` of both parts, with late events, so that a relation is not in order of time."""
    window = window_of(noise(300, seed=8))
    since = window.cut()
    cut = append(window, [*noise(200, seed=9, users=40), (1, 1, 0, 5), (2, 2, 1, 3)])
    every, is_new = window.events_and_newness(cut, since)
    assert columns_of(every) == columns_of(window.events(cut))
    assert columns_of(take(every, is_new)) == columns_of(window.events(cut, since))
    assert columns_of(take(every, ~is_new)) == columns_of(
        window.events(replace(before(since, cut), watermark_ms=cut.watermark_ms))
    )
    assert (np.diff(every.time_ms) >= 0).all()
    assert 0 < is_new.sum() < len(every)
