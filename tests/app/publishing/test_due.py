"""Who waits for a refresh, and how long: against dictionaries and sorted lists."""

from __future__ import annotations

import numpy as np

from driftgraph.app.publishing.due import NOBODY_WAITS, Due
from driftgraph.app.publishing.freshness import ENDS_MS, RECENT_MS, Freshness, freshness_of, quantile_ms


def test_who_waits_agrees_with_a_dictionary() -> None:
    """Rows that come again, in any order, with and without events that are counted; taken newest first."""
    rng = np.random.default_rng(3)
    due, plain = Due(), dict[int, list[int]]()
    for step in range(300):
        rows = np.unique(rng.integers(0, 50, rng.integers(0, 9))).astype(np.uint32)
        newest = rng.permutation(10_000)[: len(rows)].astype(np.int64)
        is_backlog = step % 3 == 0
        due.add(rows, newest, None if is_backlog else newest - 7)
        for row, time_ms in zip(rows.tolist(), newest.tolist(), strict=True):
            one = plain.setdefault(row, [0, NOBODY_WAITS, NOBODY_WAITS, NOBODY_WAITS])
            one[0] = max(one[0], time_ms)
            one[1] = min(one[1], NOBODY_WAITS if is_backlog else time_ms - 7)
        counted = rows[::2]
        due.add_waiting(counted, newest[::2], np.full(len(counted), step))
        for row, time_ms in zip(counted.tolist(), newest[::2].tolist(), strict=True):
            one = plain[row]
            one[1:] = min(one[1], time_ms), min(one[2], time_ms), min(one[3], step)
        assert due.rows.tolist() == sorted(plain)
        columns = (due.newest_ms, due.since_ms, due.event_ms, due.received_ms)
        assert [list(one) for one in zip(*(c.tolist() for c in columns), strict=True)] == [
            plain[row] for row in sorted(plain)
        ]
        allowed = due.rows % 3 != 0
        places, most = due.places(allowed, 4), 4
        taken = due.rows[places].tolist()
        ranked = sorted((row for row in plain if row % 3), key=lambda row: (plain[row][1], -plain[row][0]))
        assert len(taken) == min(most, len(ranked))
        assert sorted(plain[row] for row in taken) == sorted(plain[row] for row in ranked[:most])
        due.remove(places)
        for row in taken:
            del plain[row]


def test_what_waits_at_a_switch_is_taken_over_and_what_can_be_read_is_told() -> None:
    """Rows 1 and 2 wait for both generations, 3 can be read in the new one, 4 is a backlog of the former."""
    former, due = Due(), Due()
    former.add_waiting(np.array([1, 2, 3], np.uint32), np.array([30, 20, 10]), np.array([31, 21, 11]))
    former.add(np.array([4], np.uint32), np.array([90]))
    due.add(np.array([1, 2, 5], np.uint32), np.array([95, 94, 99]), np.array([93, 92, 15]))
    told = due.take_over(former)
    assert [one.tolist() for one in told] == [[10], [11]]
    assert due.rows.tolist() == [1, 2, 5]
    assert due.since_ms.tolist() == [30, 20, 15]
    assert due.event_ms.tolist() == [30, 20, NOBODY_WAITS]
    assert due.received_ms.tolist() == [31, 21, NOBODY_WAITS]
    assert due.rows[due.places(np.ones(3, np.bool_), 2)].tolist() == [2, 5]


def test_quantiles_are_the_buckets_that_have_them_and_none_beyond_the_last() -> None:
    rng = np.random.default_rng(5)
    waits = rng.lognormal(6, 1, 2_000).astype(np.int64)
    told = Freshness()
    for part in np.array_split(waits, 7):
        told.served(10_000_000, 10_000_000 - part, 10_000_000 - part // 2)
    facts = told.facts()
    for share in (50, 99):
        exact = np.sort(waits)[int(np.ceil(len(waits) * share / 100)) - 1]
        assert facts["event"][f"p{share}_ms"] == int(ENDS_MS[exact <= ENDS_MS][0])
    assert sum(facts["event"]["counts"]) == sum(facts["received"]["counts"]) == 2_000
    assert facts["received"]["p50_ms"] < facts["event"]["p50_ms"]
    beyond = np.zeros(len(ENDS_MS) + 1, np.int64)
    assert quantile_ms(beyond, 0.5) is None
    beyond[-1] = 1
    assert quantile_ms(beyond, 0.5) is None


def test_quantiles_are_of_the_newest_minutes_and_counts_of_all() -> None:
    told, now_ms = Freshness(), 50_000_000
    for wait_ms, age in ((60_000, 3), (200, 1), (200, 0)):
        at = np.array([now_ms - age * RECENT_MS - wait_ms])
        told.served(now_ms - age * RECENT_MS, at, at)
    facts = told.facts()
    assert facts["event"]["p99_ms"] == 200
    assert facts["event"]["recent"] == 2
    assert sum(facts["event"]["counts"]) == 3
    said = freshness_of({"freshness": facts, "waiting": 7})
    assert said == (
        "from the event p50 0.2 s, p99 0.2 s, from its arrival p50 0.2 s, p99 0.2 s; 7 users wait"
    )
