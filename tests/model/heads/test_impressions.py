"""Impressions: labels and running rates, beside the plainest form of both, and what must not be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.model.heads.impressions import (
    HALF_LIVES_MS,
    HOUR_MS,
    NEVER,
    Asked,
    Counts,
    Impressions,
    Rates,
    answered,
)
from tests.model_worlds import Row, events_of

CLICK, BUY, SHOWN = range(3)
ATTRIBUTION_MS = 30
USERS, ITEMS = 3, 4


def in_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row[3])


def plain_answers(rows: Sequence[Row]) -> list[list[int]]:
    """For each impression the first event of its pair by each relation in [t, t + attribution]."""
    return [
        [
            min(
                (t for u, i, r, t in rows if (u, i, r) == (user, item, b) and 0 <= t - at <= ATTRIBUTION_MS),
                default=NEVER,
            )
            for b in (CLICK, BUY)
        ]
        for user, item, relation, at in rows
        if relation == SHOWN
    ]


def plain_counts(shown: Impressions, node: int, side: str, before_ms: int) -> np.ndarray:
    """Every impression of a node, and every answer that is known, one by one."""
    count = np.zeros((len(HALF_LIVES_MS), 3))
    for n, at_ms in enumerate(shown.time_ms.tolist()):
        if side != "all" and int(getattr(shown, side)[n]) != node:
            continue
        weight = 2.0 ** ((at_ms - before_ms) / HALF_LIVES_MS)
        if at_ms < before_ms:
            count[:, 0] += weight
        for b in (CLICK, BUY):
            if shown.answer_ms_NB[n, b] < before_ms:
                count[:, 1 + b] += weight
    return count


row = st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 2), st.integers(1, 120))


@settings(max_examples=200, deadline=None)
@given(st.lists(row, max_size=40))
def test_answers_are_those_of_looking_at_every_event(rows: list[Row]) -> None:
    """Ties with the impression, repeats, several impressions of a pair, events just too late."""
    rows = in_order(rows)
    found = answered(events_of(rows), 2, ATTRIBUTION_MS)
    assert found.answer_ms_NB.tolist() == plain_answers(rows)
    shown = [row for row in events_of(rows).relation if row == SHOWN]
    assert len(found) == len(shown)


@settings(max_examples=200, deadline=None)
@given(st.lists(row, max_size=40), st.lists(st.integers(0, 200), min_size=1, max_size=12), st.integers(0, 9))
def test_rates_are_those_of_counting_every_impression(rows: list[Row], times: list[int], seed: int) -> None:
    """Minutes instead of milliseconds, so that the counts decay; asked for at ties, too."""
    minutes = in_order(rows)
    shown = answered(events_of(minutes), 2, ATTRIBUTION_MS)
    scale = int(HOUR_MS / 60)
    answers = np.where(shown.answer_ms_NB == NEVER, NEVER, shown.answer_ms_NB // 1 * scale)
    shown = Impressions(shown.user, shown.item, shown.time_ms * scale, answers)
    rng = np.random.default_rng(seed)
    at_ms = np.sort(np.array(times, np.int64)) * scale
    user = rng.integers(0, USERS, len(at_ms)).astype(np.uint32)
    item = rng.integers(0, ITEMS, len(at_ms)).astype(np.uint32)
    rates, half = Rates(shown, (USERS, ITEMS)), len(at_ms) // 2
    parts = [rates.before(Asked(user[s], item[s], at_ms[s])) for s in (slice(half), slice(half, None))]
    found = Counts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    for n, before_ms in enumerate(at_ms.tolist()):
        for side, node in (("user", int(user[n])), ("item", int(item[n])), ("all", 0)):
            expected = plain_counts(shown, node, side, before_ms)
            assert np.allclose(getattr(found, side)[n], expected, rtol=1e-9, atol=1e-12), (side, n)


@settings(max_examples=100, deadline=None)
@given(st.lists(row, max_size=40), st.lists(row, max_size=20), st.integers(2, 100))
def test_nothing_at_or_after_a_time_changes_the_counts_before_it(
    rows: list[Row], others: list[Row], at_ms: int
) -> None:
    """Replace everything from a time on, clicks that answer older impressions too: the counts stay."""
    before = [one for one in rows if one[3] < at_ms]
    worlds = [before + [one for one in more if one[3] >= at_ms] for more in (rows, others)]
    asked = Asked(np.zeros(1, np.uint32), np.ones(1, np.uint32), np.array([at_ms], np.int64))
    a, b = (
        Rates(answered(events_of(in_order(world)), 2, ATTRIBUTION_MS), (USERS, ITEMS)).before(asked)
        for world in worlds
    )
    for ours, theirs in zip(a, b, strict=True):
        assert ours.tolist() == theirs.tolist()
