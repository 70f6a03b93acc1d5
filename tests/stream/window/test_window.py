"""The window and its sampler against the plainest possible list, in every order of arrival."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.window import live_count, samplers
from driftgraph.stream.window import writer as window_module
from driftgraph.stream.window.view import EVENTS_MAX
from driftgraph.stream.window.writer import (
    ITEM,
    USER,
    Cut,
    DistinctUnion,
    Neighborhood,
    Relation,
    StaleCut,
    Window,
    in_memory,
)
from tests.plain_window import PlainWindow

SPANS_MS = (40, 90)
CAPACITIES = (7, 16)
LONG = int(os.environ.get("DRIFTGRAPH_TEST_LONG", "1"))  # times as many examples: make test-long
ROWS = 5  # few, so that lists are long, ties are common and rows meet in one batch
NO_LIMIT = (EVENTS_MAX, EVENTS_MAX)

Event = tuple[int, int, int, int]  # user, item, relation, time


@dataclass(frozen=True)
class Erase:
    """A step that erases a user."""

    user: int


Step = list[Event] | int | Erase  # append, expire, erase


def relations(
    capacities: tuple[int, ...] = CAPACITIES, events_max: tuple[int, int] = NO_LIMIT
) -> list[Relation]:
    return [
        Relation(f"r{n}", span, c, *events_max)
        for n, (span, c) in enumerate(zip(SPANS_MS, capacities, strict=True))
    ]


@dataclass
class Pair:
    """The real window and the plain one, fed the same."""

    real: Window
    plain: PlainWindow
    cuts: list[Cut] = field(default_factory=list)

    def append(self, events: list[Event]) -> None:
        user, item, relation, time_ms = (
            (np.array(c) for c in zip(*events, strict=True)) if events else [np.zeros(0)] * 4
        )
        columns = (
            user.astype(np.uint32),
            item.astype(np.uint32),
            relation.astype(np.uint8),
            time_ms.astype(np.int64),
        )
        self.real.append(*columns)
        self.plain.append(*columns)

    def expire(self, watermark_ms: int) -> None:
        self.real.expire(watermark_ms)
        self.plain.expire(watermark_ms)

    def erase(self, user: int) -> None:
        held = set(self.plain.items_of(user))
        emptied = set(self.real.erase(user).tolist())
        self.plain.erase(user)
        assert emptied <= held
        for item in held:
            if not self.real.has_events(ITEM, np.array([item], np.uint32))[0]:
                assert item in emptied

    def agree(self, cut: Cut, k: int) -> None:
        times_ms = np.array([1, 60, 110, 201, 260], np.int64)
        nodes = np.repeat(np.arange(ROWS, dtype=np.uint32), len(times_ms))
        for side in (USER, ITEM):
            seeds = np.tile(times_ms, ROWS)
            same(self.real.recent(side, nodes, seeds, k, cut), self.plain.recent(side, nodes, seeds, k, cut))
            question = side, nodes, seeds, k, cut
            same(self.real.distinct(*question), self.plain.distinct(*question, samplers.LOOKS))
            same(self.real.distinct_union(*question), self.plain.distinct_union(*question, samplers.LOOKS))
        ours, theirs = self.real.events(cut), self.plain.events(cut)
        for name in ("user", "item", "relation", "time_ms"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name


def same(ours: Neighborhood | DistinctUnion, theirs: Neighborhood | DistinctUnion) -> None:
    assert type(ours) is type(theirs)
    for column in fields(ours):
        assert getattr(ours, column.name).tolist() == getattr(theirs, column.name).tolist(), column.name


event = st.tuples(
    st.integers(0, ROWS - 1), st.integers(0, ROWS - 1), st.integers(0, len(SPANS_MS) - 1), st.integers(1, 200)
)
step = st.one_of(
    st.lists(event, max_size=12), st.integers(1, 220), st.builds(Erase, st.integers(0, ROWS - 1))
)
limits = st.tuples(*[st.sampled_from([2, 4, EVENTS_MAX])] * 2)


def run(steps: list[Step], rules: list[Relation]) -> Iterator[Pair]:
    pair = Pair(in_memory(rules, user_rows=ROWS, item_rows=ROWS), PlainWindow(rules))
    pair.append([(row, row, 0, 1) for row in range(ROWS)])  # so that each row is known to both
    for action in steps:
        if isinstance(action, Erase):
            pair.erase(action.user)
        elif isinstance(action, int):
            pair.expire(action)
        else:
            pair.append(action)
        yield pair


@settings(max_examples=LONG * 200, deadline=None)
@given(st.lists(step, max_size=14), limits, st.sampled_from([1, 2, 3, 5, 4_096]))
def test_live_events_are_counted_by_blocks_as_one_by_one(
    steps: list[Step], events_max: tuple[int, int], block: int
) -> None:
    """Expired behind a live one, erased, in a ring that has turned: none of them is live."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_count, "BLOCK", block)
        for pair in run(steps, relations(CAPACITIES, events_max)):
            assert pair.real.live() == pair.real.live_counts(pair.real.cut())


@settings(max_examples=LONG * 200, deadline=None)
@given(st.lists(step, max_size=14), limits, st.integers(0, 9))
def test_the_window_agrees_with_a_plain_list(steps: list[Step], events_max: tuple[int, int], k: int) -> None:
    """Late events, ties, expiry, ring wrap, truncation, caps, erasure: compare after each step."""
    for pair in run(steps, relations(CAPACITIES, events_max)):
        cut = pair.real.cut()
        assert cut == pair.plain.cut()
        pair.agree(cut, k)
        assert pair.real.capped.tolist() == pair.plain.capped
        assert pair.real.row_versions(USER).tolist() == pair.plain.versions[USER]


@settings(max_examples=LONG * 100, deadline=None)
@given(st.lists(step, max_size=14))
def test_an_older_cut_is_answered_exactly_or_refused(steps: list[Step]) -> None:
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
                    pair.agree(cut, 4)
            else:
                pair.agree(cut, 4)


@settings(max_examples=LONG * 40, deadline=None)
@given(st.lists(event, max_size=40), st.integers(1, 12))
def test_batching_does_not_matter(events: list[Event], size: int) -> None:
    whole = Pair(in_memory(relations(), user_rows=ROWS, item_rows=ROWS), PlainWindow(relations()))
    parts = Pair(in_memory(relations(), user_rows=ROWS, item_rows=ROWS), PlainWindow(relations()))
    whole.append(events)
    for start in range(0, len(events), size):
        parts.append(events[start : start + size])
    assert whole.real.cut() == parts.real.cut()
    parts.agree(whole.real.cut(), 5)


def test_a_long_list_is_searched_exactly_wherever_late_events_landed() -> None:
    """Give one item 3,000 events in shuffled order, so that skips of many levels are made and mended."""
    rng = np.random.default_rng(5)
    spans = [Relation("click", 10_000, 4_096)]
    real, plain = in_memory(spans, user_rows=40, item_rows=2), PlainWindow(spans)
    time_ms = rng.permutation(np.repeat(np.arange(1, 1_001), 3)).astype(np.int64)
    for part in np.array_split(np.arange(3_000), 60):
        user = rng.integers(0, 40, len(part)).astype(np.uint32)
        columns = (user, np.ones(len(part), np.uint32), np.zeros(len(part), np.uint8), time_ms[part])
        real.append(*columns)
        plain.append(*columns)
    cut = real.cut()
    seeds = rng.integers(1, 1_100, 50).astype(np.int64)
    nodes = np.ones(50, np.uint32)
    same(real.recent(ITEM, nodes, seeds, 8, cut), plain.recent(ITEM, nodes, seeds, 8, cut))


def test_a_newest_event_truncated_for_a_batch_that_was_left_out_holds_no_list() -> None:
    """The full ring makes room by dropping user 2's only event, and nothing takes its record."""
    dead, alive = [(0, 0, 0, 1)] * 3, [(0, 0, 0, 2)] * 3
    steps: list[Step] = [42, [(2, 0, 0, 21), (0, 0, 0, 2)], dead + alive, [(2, 0, 0, 20)], [(0, 0, 0, 2)] * 2]
    for pair in run(steps, relations()):
        assert pair.real.cut() == pair.plain.cut()
        pair.agree(pair.real.cut(), 1)


def test_rows_that_are_unknown_or_have_no_event_get_no_neighbor() -> None:
    window = in_memory(relations(), user_rows=ROWS, item_rows=ROWS)
    nodes = np.array([0, 4, 5, 2**32 - 1], np.uint32)
    assert window.recent(USER, nodes, np.full(4, 100), 3, window.cut()).count_BR.sum() == 0
    assert window.recent(ITEM, nodes[:0], np.zeros(0, np.int64), 0, window.cut()).neighbor_BRK.shape == (
        0,
        2,
        0,
    )


def test_each_relation_can_have_its_own_fanout() -> None:
    window = in_memory(relations((16, 16)), user_rows=ROWS, item_rows=ROWS)
    n = 10
    user = np.zeros(2 * n, np.uint32)
    window.append(user, user, np.repeat([0, 1], n).astype(np.uint8), np.tile(np.arange(1, n + 1), 2))
    near = window.recent(USER, user[:1], np.array([30]), [2, 5], window.cut())
    assert near.count_BR.tolist() == [[2, 5]]
    assert near.time_ms_BRK.tolist() == [[[10, 9, 0, 0, 0], [10, 9, 8, 7, 6]]]


def test_uniform_sampling_takes_each_of_the_pool_as_often_and_none_twice() -> None:
    """4,000 questions at different times about the same 30 events, of which 20 are in the pool."""
    window = in_memory([Relation("click", 1 << 20, 64), Relation("buy", 10, 8)], user_rows=1, item_rows=64)
    n, asked = 30, 4_000
    user = np.zeros(n, np.uint32)
    window.append(user, np.arange(n, dtype=np.uint32), np.zeros(n, np.uint8), np.arange(1, n + 1))
    times = n + 1 + np.arange(asked)
    near = window.uniform(USER, np.zeros(asked, np.uint32), times, [6, 0], window.cut(), pool=20)
    assert (near.count_BR == [6, 0]).all()
    assert (np.diff(near.time_ms_BRK[:, 0]) < 0).all(), "newest first, and none twice"
    taken = np.bincount(near.neighbor_BRK[:, 0].ravel(), minlength=n)
    assert (taken[:10] == 0).all(), "older than the pool"
    expected = asked * 6 / 20
    assert np.abs(taken[10:] - expected).max() < 5 * np.sqrt(expected)


def test_uniform_sampling_of_a_short_history_is_all_of_it_and_repeatable() -> None:
    window = in_memory(relations((64, 64)), user_rows=ROWS, item_rows=64)
    user = np.zeros(3, np.uint32)
    window.append(user, np.arange(3, dtype=np.uint32), np.zeros(3, np.uint8), np.arange(1, 4))
    question = (USER, np.array([0, 1], np.uint32), np.array([30, 30]), 5, window.cut())
    near = window.uniform(*question, pool=8)
    same(near, window.recent(*question))
    same(
        window.uniform(*question[:3], 2, question[4], pool=8),
        window.uniform(*question[:3], 2, question[4], pool=8),
    )
    with pytest.raises(ValueError, match=r"pool must be at least k \(5\), got 4"):
        window.uniform(*question, pool=4)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (([ROWS], [0], [0], [1]), f"user row {ROWS} is out of range: there is room for {ROWS}"),
        (([0], [9], [0], [1]), "item row 9 is out of range"),
        (([0], [0], [2], [1]), "relation row 2 is out of range"),
        (([0, 1], [0], [0], [1]), "columns disagree in length"),
    ],
)
def test_a_batch_out_of_range_is_refused_whole(columns: tuple[list[int], ...], said: str) -> None:
    window = in_memory(relations(), user_rows=ROWS, item_rows=ROWS)
    user, item, relation, time_ms = columns
    before = window.cut()
    with pytest.raises(ValueError, match=said):
        window.append(
            np.array(user, np.uint32),
            np.array(item, np.uint32),
            np.array(relation, np.uint8),
            np.array(time_ms, np.int64),
        )
    assert window.cut() == before


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([], "1 to 32 relations, got 0"),
        ([Relation("a", 1, 4), Relation("a", 1, 4)], "names repeat"),
        ([Relation("a", 1, 1 << 31), Relation("b", 1, 1 << 31)], "at most 4294967294 fit"),
    ],
)
def test_a_window_that_cannot_be_is_refused(spans: list[Relation], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        window_module.in_memory(spans)


def test_truncation_and_expiry_are_counted_apart() -> None:
    window = in_memory([Relation("click", 100, 4)], user_rows=ROWS, item_rows=ROWS)

    def click(time_ms: int) -> None:
        row = np.zeros(1, np.uint32)
        window.append(row, row, np.zeros(1, np.uint8), np.array([time_ms]))

    for time_ms in (1, 2, 3, 4):
        click(time_ms)
    assert window.truncated.tolist() == [0]
    click(5)
    assert window.truncated.tolist() == [1]
    window.expire(105)  # 2, 3 and 4 are older than the span now
    click(106)
    assert window.counted() == {"truncated": {"click": 1}, "capped": {"click": 0}, "expired": {"click": 3}}
    assert window.live_counts(window.cut()) == {"click": 2}
    assert window.allocated_bytes() == 0, "it is in private memory"


def test_the_count_of_live_events_forgets_what_was_erased_a_turn_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of two blocks: one is erased before the newer turn has come to it, one of the newer turn."""
    monkeypatch.setattr(live_count, "BLOCK", 4)
    window = in_memory([Relation("click", 1_000, 8)], user_rows=64, item_rows=64)

    def append(start: int, stop: int) -> None:
        rows = np.arange(start, stop, dtype=np.uint32)
        window.append(rows, rows, np.zeros(len(rows), np.uint8), rows.astype(np.int64) + 1)

    append(0, 8)
    append(8, 10)
    window.erase(2)
    assert window.live() == {"click": 7}
    append(10, 12)
    assert window.live() == {"click": 8}
    window.erase(9)
    assert window.live() == {"click": 7}
    append(12, 20)
    assert window.live() == {"click": 8} == window.live_counts(window.cut())
