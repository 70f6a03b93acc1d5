"""The item table: lazy Adam row by row, growth, new owners, rollback."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from driftgraph.model.network.item_table import BETA1, BETA2, EPSILON, ItemTable, initial_rows

CPU = torch.device("cpu")


def table_of(rows: int, dim: int = 3) -> ItemTable:
    table = ItemTable(dim, seed=0, device=CPU)
    table.adopt(np.zeros(rows, np.uint32))
    return table


def test_two_steps_agree_with_arithmetic_by_hand() -> None:
    """Adam, algorithm 1, for one row in plain floats; the second step comes after another row's."""
    table = table_of(3)
    weight, m, v = table.weight[1].tolist(), [0.0] * 3, [0.0] * 3
    for t, gradient in ((1, [0.5, -2.0, 0.0]), (2, [0.1, 1.0, 3.0])):
        table.step(torch.tensor([1]), torch.tensor([gradient]), 0.01)
        table.step(torch.tensor([2]), torch.randn(1, 3), 0.01)
        for d, g in enumerate(gradient):
            m[d] = BETA1 * m[d] + (1 - BETA1) * g
            v[d] = BETA2 * v[d] + (1 - BETA2) * g * g
            weight[d] -= 0.01 * (m[d] / (1 - BETA1**t)) / (math.sqrt(v[d] / (1 - BETA2**t)) + EPSILON)
    np.testing.assert_allclose(table.weight[1].tolist(), weight, rtol=1e-5)
    assert table.steps[:3].tolist() == [0, 2, 2]


def test_a_lazy_step_is_torchs_adam_if_every_row_takes_part() -> None:
    """Ten steps of all rows, against ``torch.optim.Adam``."""
    table = table_of(4)
    reference = torch.nn.Parameter(table.weight.clone())
    optimizer = torch.optim.Adam([reference], lr=0.02)
    for seed in range(10):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        reference.grad = gradient.clone()
        optimizer.step()
        table.step(torch.arange(4), gradient, 0.02)
    torch.testing.assert_close(table.weight, reference.detach())


def test_rows_that_take_no_part_do_not_move_by_a_bit() -> None:
    """Row 0 has momentum from the first step; dense Adam would keep moving it."""
    table = table_of(3)
    table.step(torch.tensor([0]), torch.ones(1, 3), 0.1)
    before = [value[0].clone() for value in (table.weight, table.moment1, table.moment2)]
    for _ in range(20):
        table.step(torch.tensor([1, 2]), torch.randn(2, 3), 0.1)
    after = [value[0] for value in (table.weight, table.moment1, table.moment2)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_step_without_rows_is_no_step() -> None:
    table = table_of(2)
    before = table.weight.clone()
    table.step(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3), 0.1)
    assert torch.equal(table.weight, before)


def test_growth_keeps_moments_and_makes_the_rows_that_any_other_growth_makes() -> None:
    """Grown in two goes or one: the same rows; the trained ones keep weight, moments and step count."""
    grown, whole = table_of(2), table_of(9)
    grown.step(torch.tensor([0, 1]), torch.ones(2, 3), 0.1)
    trained = [value[:2].clone() for value in (grown.weight, grown.moment1, grown.moment2, grown.steps)]
    grown.adopt(np.zeros(5, np.uint32))
    grown.adopt(np.zeros(9, np.uint32))
    assert torch.equal(grown.weight[2:9], whole.weight[2:9])
    kept = [value[:2] for value in (grown.weight, grown.moment1, grown.moment2, grown.steps)]
    assert all(torch.equal(a, b) for a, b in zip(trained, kept, strict=True))
    grown.step(torch.tensor([8]), torch.ones(1, 3), 0.1)
    assert not torch.equal(grown.weight[8], whole.weight[8])


def test_a_row_with_a_new_owner_shows_nothing_of_the_former() -> None:
    """The row's first weights, zero moments; its neighbor keeps its own."""
    table = table_of(2)
    start = table.weight[:2].clone()
    table.step(torch.tensor([0, 1]), torch.ones(2, 3), 0.1)
    neighbor = table.weight[1].clone()
    table.adopt(np.array([1, 0], np.uint32))
    assert torch.equal(table.weight[0], start[0])
    assert table.moment1[0].abs().sum() == table.moment2[0].abs().sum() == table.steps[0] == 0
    assert torch.equal(table.weight[1], neighbor)


def test_rollback_gives_every_bit_back() -> None:
    """After steps that share rows; and after a commit there is nothing left to give back."""
    table = table_of(4)
    table.step(torch.tensor([0, 1]), torch.ones(2, 3), 0.1)
    before = {name: value.clone() for name, value in table.state_dict().items()}
    table.begin()
    for rows in ([1, 2], [0, 1, 2], [2]):
        table.step(torch.tensor(rows), torch.randn(len(rows), 3), 0.1)
    table.rollback()
    assert all(torch.equal(before[name], value) for name, value in table.state_dict().items())
    table.begin()
    table.step(torch.tensor([1, 3]), torch.ones(2, 3), 0.1)
    moved = table.state_dict()["weight"]
    assert table.commit() == 2
    table.rollback()
    assert torch.equal(moved, table.state_dict()["weight"])


def test_a_saved_table_goes_on_and_grows_where_the_live_one_does() -> None:
    """Save, load into an empty one, grow both, step both: equal by the bit."""
    live = table_of(2)
    live.step(torch.tensor([0, 1]), torch.ones(2, 3), 0.1)
    loaded = ItemTable(3, seed=0, device=CPU)
    loaded.load_state_dict(live.state_dict())
    for table in (live, loaded):
        table.adopt(np.array([0, 0, 4], np.uint32))
        table.step(torch.tensor([1, 2]), torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), 0.1)
    a, b = live.state_dict(), loaded.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_table_of_another_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="rows of 3, the options say dim 4"):
        ItemTable(4, seed=0, device=CPU).load_state_dict(table_of(2).state_dict())


def test_new_rows_are_small_distinct_and_depend_on_the_seed() -> None:
    """The last channel is the item's bias and starts at 0."""
    rows = np.arange(1_000)
    made = initial_rows(rows, 16, 0)
    assert len(np.unique(made[:, 0])) > 990
    assert abs(float(made[:, :-1].mean())) < 0.002
    assert 0.04 < float(made[:, :-1].std()) < 0.06
    assert (made[:, -1] == 0).all()
    assert not np.array_equal(made, initial_rows(rows, 16, 1))
