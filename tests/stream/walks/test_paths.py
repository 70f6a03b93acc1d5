"""Paths over the window against the plainest possible list, in every order of arrival."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.arrays import I64, U32
from driftgraph.stream.walks import paths as paths_module
from driftgraph.stream.walks.paths import (
    AGE_BUCKETS,
    RANK_BUCKETS,
    Paths,
    PathSums,
    Shape,
    Tables,
    sums,
    sums_from,
    walk,
)
from driftgraph.stream.window import samplers
from driftgraph.stream.window.adjacency import NIL
from driftgraph.stream.window.writer import Cut, Relation, StaleCut, in_memory
from tests.plain_paths import NOBODY, Path, plain_paths, plain_sums
from tests.plain_window import PlainWindow
from tests.stream.window.test_window import (
    CAPACITIES,
    LONG,
    ROWS,
    Event,
    Pair,
    Step,
    limits,
    relations,
    run,
    step,
)

TIMES_MS = (1, 60, 110, 201, 260)
HOUR_MS = 3_600_000
shapes = st.builds(
    Shape,
    history=st.integers(1, 4),
    visits=st.integers(1, 5),
    lag=st.integers(1, 3),
    paths_max=st.sampled_from([6, 12, 30, 16_384]),
    reach=st.sampled_from([1, 2, 3, 5, 256]),
)


def questions(rows: int = ROWS) -> tuple[U32, I64]:
    """Every user, known or not, at every time."""
    users = [*range(rows + 1), NOBODY]
    return np.repeat(np.array(users, np.uint32), len(TIMES_MS)), np.tile(np.array(TIMES_MS), len(users))


def listed(found: Paths) -> list[list[Path]]:
    """The paths of each target as tuples."""
    columns = list(asdict(found).values())[1:-1]
    rows: list[Path] = list(zip(*(c.tolist() for c in columns), strict=True))
    return [rows[a:b] for a, b in zip(found.bounds_N1[:-1], found.bounds_N1[1:], strict=True)]


def agree(pair: Pair, cut: Cut, shape: Shape) -> None:
    users, times_ms = questions()
    found = walk(pair.real, users, times_ms, cut, shape)
    expected = [
        plain_paths(pair.plain, cut, u, t, shape)
        for u, t in zip(users.tolist(), times_ms.tolist(), strict=True)
    ]
    assert listed(found) == [paths for paths, _ in expected]
    assert found.left_out_N.tolist() == [left_out for _, left_out in expected]


@settings(max_examples=LONG * 100, deadline=None)
@given(st.lists(step, max_size=12), limits, shapes)
def test_paths_agree_with_a_plain_list(steps: list[Step], events_max: tuple[int, int], shape: Shape) -> None:
    """Late events, ties, expiry, ring wrap, caps, erasure, drawn visits: compare after each step."""
    for pair in run(steps, relations(CAPACITIES, events_max)):
        agree(pair, pair.real.cut(), shape)


@settings(max_examples=LONG * 60, deadline=None)
@given(st.lists(step, max_size=10), shapes)
def test_an_older_cut_has_its_paths_or_is_refused(steps: list[Step], shape: Shape) -> None:
    """Ask at every earlier cut after each step: what came later, expired or was erased must not show."""
    cuts: list[Cut] = []
    for pair in run(steps, relations((30, 16))):
        cuts.append(pair.real.cut())
        for cut in cuts:
            seen = pair.plain.as_erased(cut)
            overwritten = any(
                seen.next[r] > seen.first[r] and pair.plain.reserved[r] > seen.first[r] + relation.capacity
                for r, relation in enumerate(pair.real.relations)
            )
            if overwritten:
                with pytest.raises(StaleCut, match="take a newer cut"):
                    walk(pair.real, *questions(), cut, shape)
                with pytest.raises(StaleCut, match="take a newer cut"):
                    sums(pair.real, *questions(), cut, shape, Tables.ones(shape, 2), np.ones(ROWS))
            else:
                agree(pair, cut, shape)


def shop(events: int, users: int, items: int, seed: int = 3) -> Pair:
    """Three relations over four days; a few users and items have a third of the events; 5 % arrive late."""
    rng = np.random.default_rng(seed)
    spans = [Relation(name, 96 * HOUR_MS, events) for name in ("view", "cart", "buy")]
    pair = Pair(in_memory(spans, user_rows=users, item_rows=items), PlainWindow(spans))
    user = (users * rng.random(events) ** 3).astype(int)
    item = (items * rng.random(events) ** 3).astype(int)
    relation = rng.choice(3, events, p=[0.7, 0.2, 0.1])
    time_ms = np.sort(rng.integers(1, 96 * HOUR_MS, events)) // 50_000 * 50_000 + 1
    arrival = np.argsort(time_ms + np.where(rng.random(events) < 0.05, 40 * HOUR_MS, 0), kind="stable")
    rows: list[Event] = list(
        zip(*(column[arrival].tolist() for column in (user, item, relation, time_ms)), strict=True)
    )
    for at in range(0, events, 250):
        pair.append(rows[at : at + 250])
    return pair


@pytest.fixture(scope="module")
def busy() -> Pair:
    return shop(3_000, 40, 60)


def random_tables(shape: Shape, variants: int, relation_count: int = 3, seed: int = 1) -> Tables:
    rng = np.random.default_rng(seed)
    return Tables(*(rng.random((variants, width)) + 0.1 for width in Tables.widths(shape, relation_count)))


def targets(pair: Pair, count: int = 30) -> tuple[U32, I64]:
    rng = np.random.default_rng(7)
    return rng.integers(0, 40, count).astype(np.uint32), rng.integers(HOUR_MS, 97 * HOUR_MS, count)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(paths_max=900), Shape(reach=12), Shape(history=3, visits=200, lag=9, reach=40)]
)
def test_long_lists_have_exact_paths(busy: Pair, shape: Shape) -> None:
    """Users of hundreds of events and hub items, with skips of many levels, now and in the past."""
    users, times_ms = targets(busy)
    cut = busy.real.cut()
    found = walk(busy.real, users, times_ms, cut, shape)
    for n, paths in enumerate(listed(found)):
        expected, left_out = plain_paths(busy.plain, cut, int(users[n]), int(times_ms[n]), shape)
        assert paths == expected
        assert found.left_out_N[n] == left_out
    assert len(found.item) > 1_000
    assert shape == Shape() or found.left_out_N.any()


def same_sums(found: PathSums, n: int, expected: dict[int, list[float]]) -> None:
    a, b = found.bounds_N1[n : n + 2]
    assert found.item[a:b].tolist() == list(expected)
    np.testing.assert_allclose(
        found.sum_PV[a:b], np.array(list(expected.values())).reshape(found.sum_PV[a:b].shape), rtol=1e-12
    )


@pytest.mark.parametrize("weight_form", [(60,), (3, 60), (35,)])
def test_sums_are_the_products_of_the_tables_over_the_paths(busy: Pair, weight_form: tuple[int, ...]) -> None:
    """Three variants at once; a table of items may end before the newest row."""
    users, times_ms = targets(busy)
    shape, cut = Shape(history=9, visits=30), busy.real.cut()
    tables, item_weight = random_tables(shape, 3), np.random.default_rng(5).random(weight_form)
    found = sums(busy.real, users, times_ms, cut, shape, tables, item_weight)
    for n, paths in enumerate(listed(walk(busy.real, users, times_ms, cut, shape))):
        same_sums(found, n, plain_sums(paths, tables, item_weight, is_user=True))


def test_sums_from_a_given_history_have_no_user(busy: Pair) -> None:
    """One item, some twice, none, one too long, one with an item nobody knows."""
    lists = [[3], [0, 5, 0, 9, 5], [], list(range(12)), [59, 4_000_000_000]]
    shape, cut, times_ms = Shape(history=5), busy.real.cut(), np.full(5, 80 * HOUR_MS)
    tables, item_weight = random_tables(shape, 2), np.random.default_rng(5).random(60)
    bounds = np.cumsum([0, *map(len, lists)])
    items = np.array([item for one in lists for item in one], np.uint32)
    found = sums_from(busy.real, bounds, items, times_ms, cut, shape, tables, item_weight)
    for n, one in enumerate(lists):
        paths, _ = plain_paths(busy.plain, cut, NOBODY, int(times_ms[n]), shape, given=one)
        same_sums(found, n, plain_sums(paths, tables, item_weight, is_user=False))
    assert found.bounds_N1[1] > 0


def test_an_event_at_or_after_the_time_changes_nothing() -> None:
    """The same window with and without what came at the targets' time or later, in one arrival order."""
    whole = shop(2_000, 40, 60)
    times = [time_ms for events in whole.plain.kept for _, _, time_ms in events]
    t = sorted(times)[1_000]
    before = Pair(
        in_memory(whole.real.relations, user_rows=40, item_rows=60), PlainWindow(whole.real.relations)
    )
    for r, events in enumerate(whole.plain.kept):
        before.append([(u, i, r, time_ms) for u, i, time_ms in events if time_ms < t])
    users, times_ms, shape = np.arange(40, dtype=np.uint32), np.full(40, t), Shape()
    tables, weight = random_tables(shape, 1), np.ones(60)
    ours, theirs = (walk(pair.real, users, times_ms, pair.real.cut(), shape) for pair in (whole, before))
    assert len(ours.item) > 1_000
    identical(ours, theirs)
    added, without = (
        sums(pair.real, users, times_ms, pair.real.cut(), shape, tables, weight) for pair in (whole, before)
    )
    identical(added, without)


def identical(ours: Paths | PathSums, theirs: Paths | PathSums) -> None:
    for name, column in asdict(ours).items():
        assert column.tobytes() == getattr(theirs, name).tobytes(), name


@pytest.mark.parametrize(("threads", "rows_at_once"), [(1, 1), (4, 1), (3, 1 << 16)])
def test_threads_and_batches_change_no_bit(
    busy: Pair, monkeypatch: pytest.MonkeyPatch, threads: int, rows_at_once: int
) -> None:
    """Whole, on other threads, with another memory for results, and one target after the other."""
    users, times_ms = targets(busy, 50)
    shape, cut = Shape(paths_max=2_000), busy.real.cut()
    tables, weight = random_tables(shape, 2), np.random.default_rng(5).random(60)
    paths, added = (
        walk(busy.real, users, times_ms, cut, shape),
        sums(busy.real, users, times_ms, cut, shape, tables, weight),
    )
    monkeypatch.setattr(samplers, "THREADS", threads)
    monkeypatch.setattr(paths_module, "TARGETS_PER_THREAD", 1)
    monkeypatch.setattr(paths_module, "ROWS_AT_ONCE", rows_at_once)
    identical(walk(busy.real, users, times_ms, cut, shape), paths)
    identical(sums(busy.real, users, times_ms, cut, shape, tables, weight), added)
    for n in range(5):
        alone = walk(busy.real, users[n : n + 1], times_ms[n : n + 1], cut, shape)
        assert listed(alone)[0] == listed(paths)[n]
        alone_sums = sums(busy.real, users[n : n + 1], times_ms[n : n + 1], cut, shape, tables, weight)
        a, b = added.bounds_N1[n : n + 2]
        assert alone_sums.sum_PV.tobytes() == added.sum_PV[a:b].tobytes()


def test_an_event_counts_for_others_as_soon_as_it_is_in_the_window() -> None:
    window = in_memory([Relation("view", 1_000, 16)], user_rows=3, item_rows=4)
    one, shape = np.ones(1, np.uint32), Shape()

    def view(user: int, item: int, time_ms: int) -> None:
        window.append(one * user, one * item, np.zeros(1, np.uint8), np.array([time_ms]))

    view(0, 1, 5)
    view(2, 1, 6)
    assert len(walk(window, one * 0, np.array([9]), window.cut(), shape).item) == 0
    view(2, 3, 7)
    found = walk(window, one * 0, np.array([9]), window.cut(), shape)
    assert listed(found) == [[(3, 0, 1, 1, 2, 0, 0, 0, 4, 1, 2)]]


def test_the_old_visits_of_a_bot_are_left_out_and_counted() -> None:
    """A bot visits item 1 first and then 1,000 others: its visit is farther back than a walk goes."""
    window = in_memory([Relation("view", 10_000, 2_000)], user_rows=2, item_rows=1_010)
    items = np.concatenate([[1], np.arange(2, 1_002)]).astype(np.uint32)
    window.append(np.ones(1_001, np.uint32), items, np.zeros(1_001, np.uint8), np.arange(1, 1_002))
    zero = np.zeros(1, np.uint32)
    window.append(zero, zero + 1, np.zeros(1, np.uint8), np.array([5]))
    for time_ms, reached in ((257, True), (258, False)):  # 256 or 257 events of the bot are before it
        found = walk(window, zero, np.array([time_ms]), window.cut(), Shape(reach=256))
        assert (found.item.tolist(), found.left_out_N.tolist()) == (
            ([2, 3, 4, 5, 6], [0]) if reached else ([], [1])
        )


def test_drawn_visits_are_as_many_as_allowed_and_differ_by_user_and_time(busy: Pair) -> None:
    shape = Shape(paths_max=1_000)
    users, times_ms = targets(busy)
    found = walk(busy.real, users, times_ms, busy.real.cut(), shape)
    assert np.diff(found.bounds_N1).max() <= 1_000
    whole = walk(busy.real, users, times_ms, busy.real.cut(), replace(shape, paths_max=16_384))
    assert len(whole.item) > len(found.item)
    drawn_places = {tuple(path[1:6] for path in paths) for paths in listed(found)}
    assert len(drawn_places) > 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"history": 256}, "history must be 1 to 255, got 256"),
        ({"lag": 0}, "lag must be 1 to 127, got 0"),
        ({"paths_max": 9}, "paths_max must be at least 2 · lag = 10, got 9"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shape(**change)


def test_what_disagrees_is_refused(busy: Pair) -> None:
    window, cut, shape = busy.real, busy.real.cut(), Shape()
    users, times_ms = targets(busy, 3)
    tables = Tables.ones(shape, 3)
    with pytest.raises(ValueError, match="users and times_ms disagree in length: 3 and 2"):
        walk(window, users, times_ms[:2], cut, shape)
    with pytest.raises(ValueError, match=r"table lag must have the form \(1, 11\), got \(1, 3\)"):
        sums(window, users, times_ms, cut, shape, replace(tables, lag=np.ones((1, 3))), np.ones(60))
    with pytest.raises(ValueError, match=r"item_weight must be \[rows\] or \[1, rows\], got \(2, 60\)"):
        sums(window, users, times_ms, cut, shape, tables, np.ones((2, 60)))
    with pytest.raises(ValueError, match="a number more than times_ms, got 3 and 3"):
        sums_from(window, np.array([0, 1, 2]), users, times_ms, cut, shape, tables, np.ones(60))
    with pytest.raises(ValueError, match="at most 3, the number of items"):
        sums_from(window, np.array([0, 1, 2, 9]), users, times_ms, cut, shape, tables, np.ones(60))


def test_no_target_has_no_paths(busy: Pair) -> None:
    shape, none, tables = Shape(), np.zeros(0, np.uint32), Tables.ones(Shape(), 3)
    found = walk(busy.real, none, np.zeros(0, np.int64), busy.real.cut(), shape)
    assert (found.bounds_N1.tolist(), len(found.item)) == ([0], 0)
    added = sums(busy.real, none, np.zeros(0, np.int64), busy.real.cut(), shape, tables, np.ones(60))
    assert (added.bounds_N1.tolist(), added.sum_PV.shape) == ([0], (0, 1))


def test_the_tables_have_the_buckets_that_the_kernel_uses() -> None:
    """Ages of more than 2^15 minutes, the highest rank: the last entry, not one behind it."""
    year_ms = 366 * 24 * HOUR_MS
    window = in_memory([Relation("view", 4 * year_ms, 600)], user_rows=400, item_rows=3)
    users = np.repeat(np.arange(300, dtype=np.uint32), 2)
    window.append(
        users,
        np.tile(np.array([1, 2], np.uint32), 300),
        np.zeros(600, np.uint8),
        np.arange(600, dtype=np.int64) + 1,
    )
    shape = Shape(visits=300)
    tables = replace(
        Tables.ones(shape, 1),
        rank=np.arange(RANK_BUCKETS, dtype=float)[None],
        via_age=np.arange(AGE_BUCKETS, dtype=float)[None],
        age=np.arange(AGE_BUCKETS, dtype=float)[None],
    )
    found = sums_from(
        window,
        np.array([0, 1]),
        np.array([1], np.uint32),
        np.array([year_ms]),
        window.cut(),
        shape,
        tables,
        np.ones(3),
    )
    ranks = sum(min(int(np.log2(1 + rank)), 7) for rank in range(300))
    assert found.item.tolist() == [2]
    assert found.sum_PV.tolist() == [[15.0 * ranks]]
    assert NIL == NOBODY


def test_a_window_that_grows_meanwhile_keeps_the_paths_of_a_cut() -> None:
    """New events with the newest times, late ones and new rows arrive between the cut and the question."""
    pair = shop(1_500, 40, 60)
    cut, shape = pair.real.cut(), Shape()
    users, times_ms = targets(pair)
    before = walk(pair.real, users, times_ms, cut, shape)
    pair.append([(u % 40, u % 60, u % 3, 1 + u * HOUR_MS) for u in range(90)])
    after = walk(pair.real, users, times_ms, cut, shape)
    identical(before, after)
