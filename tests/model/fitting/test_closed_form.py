"""The closed form: against dense alternating least squares, and what its vectors may depend on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from driftgraph.model.examples.examples import take
from driftgraph.model.fitting import closed_form
from driftgraph.model.fitting.closed_form import CONFIDENCE, HISTORY, MEAN_SQUARE, RIDGE, SWEEPS, ClosedForm
from driftgraph.model.network.item_table import initial_rows
from driftgraph.model.network.network import DECAY
from tests.model_worlds import START_MS, blocks, events_of, noise, window_of

Matrix = npt.NDArray[np.float64]


def dense(events_rows: list[tuple[int, int, int, int]], items: int, factors: int) -> Matrix:
    """Weighted least squares by turns, literally: every cell of the matrix, exact solutions, no sparsity."""
    happened = np.zeros((max(row[0] for row in events_rows) + 1, items))
    for user, item, *_ in events_rows:
        happened[user, item] = 1
    weight = 1 + CONFIDENCE * happened
    drawn = initial_rows(np.arange(items), factors + 1, 0)
    item_ID: Matrix = drawn[:, :-1].astype(float)
    user_UD = np.zeros((len(happened), factors))

    def solved(own: Matrix, other: Matrix, target: Matrix, cells: Matrix) -> None:
        for n in range(len(own)):
            left = other.T @ np.diag(cells[n]) @ other + RIDGE * np.eye(factors)
            own[n] = np.linalg.solve(left, other.T @ (cells[n] * target[n]))

    for _ in range(SWEEPS):
        solved(user_UD, item_ID, happened, weight)
        solved(item_ID, user_UD, happened.T, weight.T)
    scores: Matrix = item_ID @ np.linalg.inv(item_ID.T @ item_ID + RIDGE * np.eye(factors)) @ item_ID.T
    known = happened.any(axis=0)
    made: Matrix = scores * MEAN_SQUARE / np.diag(scores)[known].mean()
    return made


@pytest.mark.parametrize(
    ("factors", "tolerance"),
    [(1, 1e-4), (3, 1e-4), (8, 0.02)],  # three steps of conjugate gradients are exact up to three factors
)
def test_it_is_dense_alternating_least_squares(factors: int, tolerance: float) -> None:
    """The dot products of all items: what matters, whichever way the vectors are turned."""
    rows = blocks(600, seed=1, users=40, items=30)
    form = ClosedForm.of(events_of(rows), 30, factors=factors, seed=0)
    wanted = dense(rows, 30, factors)
    np.testing.assert_allclose(form.item_ID @ form.item_ID.T, wanted, atol=tolerance * np.abs(wanted).max())


def test_it_ranks_items_of_the_own_block_first() -> None:
    rows = blocks(2_000, seed=2)
    form = ClosedForm.of(events_of(rows), 40, factors=8, seed=0)
    window = window_of(rows)
    users = np.arange(60, dtype=np.uint32)
    score = (
        form.users(window, users, np.full(60, START_MS + 10**9), window.cut())
        @ form.items(np.arange(40, dtype=np.uint32)).T
    )
    own = (np.arange(60)[:, None] < 30) == (np.arange(40)[None] < 20)
    assert (score[own].reshape(60, 20).min(1) > score[~own].reshape(60, 20).max(1)).mean() > 0.9


def test_neither_order_nor_repeats_nor_threads_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    events = events_of(noise(3_000, seed=3))
    monkeypatch.setattr(closed_form, "BLOCK", 16)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    one = ClosedForm.of(events, 100, factors=8, seed=0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    again = take(events, np.random.default_rng(0).permutation(np.repeat(np.arange(len(events)), 2)))
    assert np.array_equal(one.item_ID, ClosedForm.of(again, 100, factors=8, seed=0).item_ID)
    assert not np.array_equal(one.item_ID, ClosedForm.of(events, 100, factors=8, seed=1).item_ID)


def test_what_has_no_event_has_zeros_and_nothing_is_not_finite() -> None:
    """No event at all, one event, an item row that nobody touched, a row that came later."""
    empty = ClosedForm.of(events_of([]), 3, factors=4, seed=0)
    assert not empty.item_ID.any()
    one = ClosedForm.of(events_of([(5, 1, 0, 1)]), 3, factors=4, seed=0)
    assert np.isfinite(one.item_ID).all()
    assert one.item_ID[1] @ one.item_ID[1] == pytest.approx(MEAN_SQUARE)
    assert not one.item_ID[[0, 2]].any()
    later = one.items(np.array([1, 7], np.uint32))
    assert np.array_equal(later[0], one.item_ID[1])
    assert not later[1].any()


def user_by_hand(rows: list[tuple[int, int, int, int]], user: int, time_ms: int, item_ID: Matrix) -> Matrix:
    """The newest distinct items strictly before, over all relations, each at its newest time."""
    newest: dict[int, tuple[int, int]] = {}
    for other, item, relation, at in rows:
        if other == user and at < time_ms:
            newest[item] = max(newest.get(item, (-1, 0)), (at, -relation))
    order = sorted(newest, key=lambda item: newest[item], reverse=True)[:HISTORY]
    return sum((DECAY**place * item_ID[item] for place, item in enumerate(order)), np.zeros(item_ID.shape[1]))


@pytest.mark.parametrize("before", [lambda _: 10**8, lambda n: 1_000 * 37 * n])
def test_a_user_is_the_decayed_sum_of_the_newest_distinct_items_before(before: Callable[[int], int]) -> None:
    """Over two relations with repeats, against a loop; nothing at or after the time counts."""
    rows = noise(1_500, seed=4, users=40, items=60)
    window, form = window_of(rows), ClosedForm.of(events_of(rows), 60, factors=6, seed=0)
    users = np.arange(41, dtype=np.uint32)  # the last has no event
    times_ms = np.array([before(n) for n in range(41)], np.int64)
    got = form.users(window, users, times_ms + START_MS, window.cut())
    wanted = [user_by_hand(rows, n, int(times_ms[n]), form.item_ID.astype(float)) for n in range(41)]
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert not got[40].any()


def test_an_item_that_came_after_the_factors_is_no_part_of_a_user() -> None:
    rows = [(0, 0, 0, 1), (0, 1, 0, 2), (1, 0, 0, 3), (1, 1, 1, 4)]
    form = ClosedForm.of(events_of(rows), 2, factors=2, seed=0)
    window = window_of([*rows, (0, 9, 0, 5)])
    got = form.users(window, np.array([0], np.uint32), np.array([START_MS + 9]), window.cut())
    np.testing.assert_allclose(got[0], DECAY * form.item_ID[1] + DECAY**2 * form.item_ID[0], atol=1e-6)
