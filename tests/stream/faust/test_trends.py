"""Trends: what counts in which window, and what rises."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from driftgraph.stream.faust.rising import (
    STEPS,
    Cell,
    Rising,
    counted,
    is_stale,
    key_of,
    rising,
    score_of,
    step_ms_of,
)

records = st.lists(
    st.tuples(st.integers(0, 4 * STEPS), st.sampled_from("abc"), st.integers(1, 5)), max_size=40
)


def cells_of(stream: list[tuple[int, str, int]]) -> dict[str, Cell]:
    """Records (step, item, count) at offsets 0, 1, …"""
    cells: dict[str, Cell] = {}
    for offset, (step, item, count) in enumerate(stream):
        key = key_of("click", item)
        cell = counted(cells.get(key), offset=offset, step=step, count=count)
        if cell is not None:
            cells[key] = cell
    return cells


@given(records)
def test_the_lists_are_those_of_a_plain_count(stream: list[tuple[int, str, int]]) -> None:
    """In any order of steps: now is the newest window of all, before is the one ahead of it."""
    newest = max((step for step, _, _ in stream), default=0)
    own_newest: dict[str, int] = {}
    now, before = Counter[str](), Counter[str]()
    for step, item, count in stream:
        own_newest[item] = max(own_newest.get(item, 0), step)
        if own_newest[item] - step >= 2 * STEPS:
            continue  # older than the item's own cell reaches; so older than both windows too
        age = newest - step
        now[item] += count if age < STEPS else 0
        before[item] += count if STEPS <= age < 2 * STEPS else 0
    wanted = {item: Rising(item, score_of(now[item], before[item]), now[item], before[item]) for item in now}
    expected = sorted(
        (one for one in wanted.values() if one.now > one.before), key=lambda one: (-one.score, one.item)
    )
    found = rising(cells_of(stream).items(), 2)
    assert found.get("click", []) == expected[:2]
    assert set(found) == ({"click"} if stream else set())


@given(records, st.integers(0, 40))
def test_records_that_come_again_from_any_point_on_count_once(
    stream: list[tuple[int, str, int]], start: int
) -> None:
    cells = cells_of(stream)
    for offset, (step, item, count) in enumerate(stream[start:], start):
        assert counted(cells[key_of("click", item)], offset=offset, step=step, count=count) is None


def test_a_cell_is_not_changed_in_place() -> None:
    """A ranking in another thread may hold it."""
    cell = counted(None, offset=0, step=5, count=1)
    assert cell is not None
    kept = list(cell)
    counted(cell, offset=1, step=9, count=7)
    assert cell == kept


def test_a_cell_is_stale_when_no_window_reaches_it() -> None:
    cell = counted(None, offset=0, step=10, count=1)
    assert cell is not None
    assert not is_stale(cell, 10 + 2 * STEPS - 1)
    assert is_stale(cell, 10 + 2 * STEPS)


def test_a_rise_is_measured_in_its_own_spread() -> None:
    assert score_of(10, 0) > score_of(1_000, 950) > score_of(1, 0) > score_of(5, 5) == 0


def test_behaviors_have_lists_of_their_own_and_one_without_a_rise_an_empty_one() -> None:
    cells = {
        key_of("click", "i1"): counted(None, offset=0, step=2 * STEPS, count=3),
        key_of("buy", "i1"): counted(None, offset=1, step=STEPS, count=3),
    }
    found = rising([(key, cell) for key, cell in cells.items() if cell], 5)
    assert {behavior: [one.item for one in items] for behavior, items in found.items()} == {
        "click": ["i1"],
        "buy": [],
    }


def test_a_step_is_a_sixth_of_the_window_and_never_nothing() -> None:
    assert step_ms_of(3_600_000) == 600_000
    assert step_ms_of(1) > 0
