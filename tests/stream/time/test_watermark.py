"""How far the watermark goes: by events, by silence, and across restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.stream.arrays import I32
from driftgraph.stream.time.clock import FLOOR_MS, ManualClock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules, WatermarkState

NOW_MS = 1_783_000_000_123
HOUR_MS = 3_600_000

RULES = WatermarkRules(
    out_of_orderness_ms=1_000, allowed_lateness_ms=5_000, idle_timeout_ms=60_000, future_skew_ms=300_000
)
NO_WALL_CLOCK = WatermarkRules(
    out_of_orderness_ms=1_000, allowed_lateness_ms=5_000, idle_timeout_ms=None, future_skew_ms=None
)
ALL_FROM_0 = np.zeros(0, np.int32)


def see(watermark: Watermark, *times_ms: int, partition: int = 0) -> list[bool]:
    where: I32 = np.full(len(times_ms), partition, np.int32)
    return [bool(late) for late in watermark.observe(where, np.array(times_ms, np.int64))[0]]


def test_the_watermark_trails_the_slowest_partition() -> None:
    watermark = Watermark(RULES, ManualClock(NOW_MS))
    watermark.assign([0, 1])
    see(watermark, NOW_MS, partition=0)
    assert watermark.value_ms == 0, "partition 1 has said nothing yet"
    see(watermark, NOW_MS - 10_000, partition=1)
    assert watermark.value_ms == NOW_MS - 11_000
    see(watermark, NOW_MS - 20_000, partition=1)
    assert watermark.value_ms == NOW_MS - 11_000, "it never goes back"


def test_one_event_of_2037_moves_nothing() -> None:
    clock = ManualClock(NOW_MS)
    for order in ([0, 1, 2], [1, 0, 2]):
        watermark = Watermark(RULES, clock)
        times_ms = [NOW_MS, 2_114_380_800_000, NOW_MS + 1_000]
        late = see(watermark, *[times_ms[i] for i in order])
        assert late == [False] * 3
        assert watermark.value_ms == NOW_MS
        restarted = Watermark(RULES, clock, watermark.state())
        assert see(restarted, NOW_MS + 2_000) == [False]
        assert restarted.value_ms == NOW_MS + 1_000


def test_an_event_exactly_at_the_allowed_lateness_is_not_late() -> None:
    watermark = Watermark(RULES, ManualClock(NOW_MS))
    see(watermark, NOW_MS)  # watermark: NOW - 1 s; late: before NOW - 6 s
    assert see(watermark, NOW_MS - 6_000, NOW_MS - 6_001) == [False, True]
    assert watermark.late(np.array([NOW_MS - 6_000, NOW_MS - 6_001])).tolist() == [False, True]


def test_an_idle_partition_leaves_the_minimum_and_does_not_pull_time_back() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign([0, 1])
    for _ in range(60):  # an hour of events on one partition
        clock.advance(60_000)
        see(watermark, clock.now_ms(), partition=0)
        watermark.tick()
    assert watermark.value_ms == clock.now_ms() - 1_000
    assert see(watermark, NOW_MS, partition=1) == [True], "it is judged by the unchanged watermark"
    assert watermark.value_ms == clock.now_ms() - 1_000


def test_a_returned_partition_holds_time_until_it_has_caught_up() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS, partition=0)
    see(watermark, NOW_MS, partition=1)
    clock.advance(60_000)
    see(watermark, NOW_MS + 60_000, partition=0)
    watermark.tick()
    assert watermark.value_ms == NOW_MS + 59_000
    see(watermark, NOW_MS + 30_000, partition=1)
    see(watermark, NOW_MS + 70_000, partition=0)
    assert watermark.value_ms == NOW_MS + 59_000
    see(watermark, NOW_MS + 65_000, partition=1)
    assert watermark.value_ms == NOW_MS + 64_000


def test_a_quiet_but_healthy_topic_expires_and_an_outage_does_not() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    clock.advance(10 * HOUR_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    clock.advance(10 * HOUR_MS)
    assert watermark.tick(away=True) == NOW_MS - 1_000
    assert watermark.tick(caught_up=True) == NOW_MS - 1_000, "the outage was not quiet time"


def test_time_passes_in_a_quiet_topic_once_it_is_idle() -> None:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS)
    clock.advance(60_000 + 2 * HOUR_MS)
    assert watermark.tick(caught_up=False) == NOW_MS - 1_000, "there may be a backlog"
    assert watermark.tick(caught_up=True) == NOW_MS - 1_000 + 2 * HOUR_MS


def test_a_topic_filled_with_old_events_does_not_jump_to_today() -> None:
    clock = ManualClock(NOW_MS)
    old_ms = NOW_MS - 8 * 365 * 24 * HOUR_MS
    watermark = Watermark(RULES, clock)
    see(watermark, old_ms)
    clock.advance(60_000 + HOUR_MS)
    assert watermark.tick(caught_up=True) == old_ms - 1_000 + HOUR_MS


def test_a_restart_under_a_clock_that_is_behind_stays_below_it() -> None:
    clock = ManualClock(NOW_MS)
    first = Watermark(RULES, clock)
    first.assign([0, 1])
    see(first, NOW_MS, partition=0)
    state = replace(first.state(), high_ms={0: NOW_MS})
    restarted = Watermark(RULES, ManualClock(NOW_MS - HOUR_MS), state)
    assert restarted.tick() == NOW_MS - HOUR_MS + 300_000


def test_replay_has_no_ceiling_and_reads_no_clock() -> None:
    class NoClock:
        def now_ms(self) -> int:
            return 0

    watermark = Watermark(NO_WALL_CLOCK, NoClock())
    see(watermark, NOW_MS)
    assert watermark.tick() == NOW_MS - 1_000


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=40), st.integers(1, 40), st.booleans()
)
def test_the_watermark_agrees_with_the_plainest_one_however_batched(
    events: list[tuple[int, int]], size: int, assigned: bool
) -> None:
    """Event by event: the minimum over the partitions' highest times, and who is late by it."""
    start_ms, bound_ms, lateness_ms = FLOOR_MS, 1_000, 5_000
    watermark = Watermark(NO_WALL_CLOCK, ManualClock(NOW_MS))
    if assigned:
        watermark.assign(range(4))
    partition = np.array([p for p, _ in events], np.int32)
    time_ms = np.array([start_ms + t * 1_000 for _, t in events], np.int64)
    judged = [
        pair
        for at in range(0, len(events), size)
        for pair in zip(*watermark.observe(partition[at : at + size], time_ms[at : at + size]), strict=True)
    ]
    high = dict.fromkeys(range(4), 0) if assigned else {}
    value, expected = 0, []
    for p, t in zip(partition.tolist(), time_ms.tolist(), strict=True):
        late = t < value - lateness_ms
        high[p] = max(high.get(p, 0), t)
        value = max(value, min(high.values()) - bound_ms)
        expected.append((late, value))
    assert (judged, watermark.value_ms) == (expected, value)


# Partitions that run ahead


def two_partitions() -> tuple[Watermark, ManualClock]:
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign([0, 1])
    return watermark, clock


def test_a_partition_that_runs_ahead_is_held_until_the_slowest_has_come_half_as_near() -> None:
    watermark, _ = two_partitions()
    see(watermark, NOW_MS, partition=1)
    for time_ms, held in ((NOW_MS + 10_000, set()), (NOW_MS + 10_001, {0})):
        see(watermark, time_ms, partition=0)
        assert watermark.align(10_000, [0, 1]) == held
    for time_ms, held in ((NOW_MS + 5_000, {0}), (NOW_MS + 5_001, set()), (NOW_MS + 5_002, set())):
        see(watermark, time_ms, partition=1)
        assert watermark.align(10_000, [0, 1]) == held, "a pause must not flicker"


def test_one_that_has_shown_no_event_yet_is_the_slowest_and_is_never_held() -> None:
    watermark, _ = two_partitions()
    assert watermark.align(10_000, [0, 1]) == set()
    see(watermark, NOW_MS, partition=0)
    assert watermark.align(10_000, [0, 1]) == {0}


def test_nobody_waits_for_a_partition_at_its_end_or_for_an_idle_one() -> None:
    watermark, clock = two_partitions()
    see(watermark, NOW_MS, partition=1)
    see(watermark, NOW_MS + 60_000, partition=0)
    assert watermark.align(10_000, [0, 1]) == {0}
    assert watermark.align(10_000, [0]) == set(), "1 has come to its end"
    assert watermark.align(10_000, [0, 1]) == {0}
    clock.advance(60_000)
    watermark.tick()
    assert watermark.align(10_000, [0, 1]) == set(), "1 is idle: its broker may be away for hours"
    see(watermark, NOW_MS + 1, partition=1)
    assert watermark.align(10_000, [0, 1]) == {0}, "it is back"


def test_what_is_held_is_not_silent() -> None:
    """Held for minutes, then free: it still holds time back for the events that we kept from coming."""
    watermark, clock = two_partitions()
    watermark.assign([2])
    see(watermark, NOW_MS + 20_000, partition=0)
    see(watermark, NOW_MS + 60_000, partition=1)
    for second in range(120):
        clock.advance(1_000)
        see(watermark, NOW_MS + second, partition=2)
        assert watermark.align(10_000, [0, 1, 2]) == {0, 1}
        watermark.tick()
    assert watermark.align(10_000, [0, 1]) == {1}, "2 has come to its end"
    clock.advance(59_000)
    see(watermark, NOW_MS + 90_000, partition=2)
    watermark.tick()
    assert watermark.value_ms == NOW_MS + 19_000


@given(st.data())
def test_alignment_never_stands_still(data: st.DataObject) -> None:
    """Whatever has come and whoever is behind: one who is behind is free, if there is one."""
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign(range(4))
    for _ in range(data.draw(st.integers(1, 12))):
        clock.advance(data.draw(st.integers(0, 70_000)))
        watermark.tick(away=data.draw(st.booleans()))
        partition = data.draw(st.integers(0, 3))
        see(watermark, NOW_MS + data.draw(st.integers(-100_000, 100_000)), partition=partition)
        behind = data.draw(st.sets(st.integers(0, 3)))
        held = watermark.align(data.draw(st.integers(0, 50_000)), behind)
        assert not behind or not behind <= held


# Restarts: RULES are idle after a minute


def quiet_run(quiet_ms: int, *, partitions: int = 1) -> tuple[Watermark, ManualClock]:
    """An event in each partition, then silence for so long in a topic that is read to its end."""
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    watermark.assign(range(partitions))
    for partition in range(partitions):
        see(watermark, NOW_MS, partition=partition)
    watermark.tick(caught_up=True, behind=[])
    clock.advance(quiet_ms)
    watermark.tick(caught_up=True, behind=[])
    return watermark, clock


def restarted(before: Watermark, clock: ManualClock, stop_ms: int, partitions: int = 1) -> Watermark:
    """After a stop of so long."""
    state = before.state()
    clock.advance(stop_ms)
    again = Watermark(RULES, clock, state)
    again.assign(range(partitions))
    if state.away_since_ms is None:
        assert again.tick(behind=range(partitions)) == before.value_ms, "nobody knows what has come meanwhile"
    return again


def test_the_silence_before_a_stop_and_the_stop_itself_count() -> None:
    before, clock = quiet_run(90_000)
    again = restarted(before, clock, HOUR_MS)
    assert again.tick(caught_up=True, behind=[]) == NOW_MS - 1_000 + 90_000 + HOUR_MS - 60_000
    never_stopped, other = quiet_run(90_000)
    other.advance(HOUR_MS)
    assert never_stopped.tick(caught_up=True) == again.value_ms


@pytest.mark.parametrize("each_ms", [1_000, 50_000, HOUR_MS])
def test_restarts_that_are_more_frequent_than_the_timeout_do_not_keep_a_topic_from_expiring(
    each_ms: int,
) -> None:
    watermark, clock = quiet_run(0)
    for _ in range(200):
        watermark = restarted(watermark, clock, each_ms)
        watermark.tick(caught_up=True, behind=[])
    assert watermark.value_ms == NOW_MS - 1_000 + 200 * each_ms - 60_000


def test_what_was_sent_during_a_stop_is_not_late() -> None:
    """First catch up, then let time pass: an hour of silence must not be added before the events are read."""
    before, clock = quiet_run(0, partitions=2)
    again = restarted(before, clock, HOUR_MS, partitions=2)
    for minute in range(1, 59):
        assert see(again, NOW_MS + minute * 60_000, partition=0) == [False]
        again.tick(caught_up=False, behind=[0])
    assert again.value_ms == NOW_MS + 58 * 60_000 - 1_000, "partition 1 is at its end and silent for an hour"
    again.tick(caught_up=True, behind=[])
    assert again.value_ms == NOW_MS + 58 * 60_000 - 1_000 + 60_000, "and 0 has been silent for two minutes"


def test_a_partition_that_waits_to_be_read_holds_time_although_it_was_silent_before() -> None:
    before, clock = quiet_run(90_000, partitions=2)
    again = restarted(before, clock, HOUR_MS, partitions=2)
    see(again, NOW_MS + HOUR_MS, partition=0)
    again.tick(behind=[1])
    assert again.value_ms == before.value_ms, "1 has events to come"
    assert see(again, NOW_MS + 120_000, partition=1) == [False]


def test_one_that_is_read_for_longer_than_the_timeout_is_not_idle() -> None:
    before, clock = quiet_run(0, partitions=2)
    again = restarted(before, clock, HOUR_MS, partitions=2)
    for second in range(1, 400, 10):
        clock.advance(10_000)
        see(again, NOW_MS + second * 1_000, partition=0)
        see(again, NOW_MS + second * 1_000 + 900_000, partition=1)
        again.tick(behind=[0, 1])
    assert again.value_ms == NOW_MS + 391_000 - 1_000


def test_events_read_again_after_a_crash_were_silent_since_they_came() -> None:
    """The newest checkpoint is of before them. They came between it and the crash, and it is an hour now."""
    clock = ManualClock(NOW_MS)
    first = Watermark(RULES, clock)
    see(first, NOW_MS - 10_000)
    kept = first.state()
    clock.advance(HOUR_MS)
    again = Watermark(RULES, clock, kept)
    see(again, NOW_MS + 5_000)
    again.tick(caught_up=True)
    assert again.value_ms == NOW_MS + HOUR_MS - 1_000 - 60_000


def test_old_events_that_are_read_after_a_restart_are_of_another_clock() -> None:
    old_ms = NOW_MS - 8 * 365 * 24 * HOUR_MS
    clock = ManualClock(NOW_MS)
    first = Watermark(RULES, clock)
    see(first, old_ms)
    again = restarted(first, clock, HOUR_MS)
    see(again, old_ms + 5_000)
    assert again.tick(caught_up=True) == old_ms + 4_000
    clock.advance(61_000)
    assert again.tick(caught_up=True) == old_ms + 5_000


def test_a_stop_during_an_outage_is_part_of_it() -> None:
    before, clock = quiet_run(90_000)
    before.tick(away=True)
    clock.advance(HOUR_MS)
    before.tick(away=True)
    again = restarted(before, clock, HOUR_MS)
    again.tick(away=True)
    clock.advance(HOUR_MS)
    assert again.tick(caught_up=True, behind=[]) == before.value_ms
    clock.advance(5_000)
    assert again.tick(caught_up=True, behind=[]) == before.value_ms + 5_000


def test_a_start_that_did_not_find_the_broker_does_not_count_the_stop() -> None:
    before, clock = quiet_run(90_000)
    again = restarted(before, clock, HOUR_MS)
    again.forget_stop()
    assert again.tick(caught_up=True, behind=[]) == before.value_ms


def test_a_clock_that_went_back_during_a_stop_adds_nothing() -> None:
    before, _ = quiet_run(90_000)
    clock = ManualClock(NOW_MS - HOUR_MS)
    again = Watermark(RULES, clock, before.state())
    assert again.tick(caught_up=True) == before.value_ms
    clock.advance(61_000)
    assert again.tick(caught_up=True) == before.value_ms


def test_a_state_of_a_version_that_knew_no_wall_time_is_silent_from_now_on() -> None:
    before, clock = quiet_run(90_000)
    clock.advance(HOUR_MS)
    again = Watermark(RULES, clock, WatermarkState(before.value_ms, before.state().high_ms))
    assert again.tick(caught_up=True) == before.value_ms
    clock.advance(61_000)
    assert again.tick(caught_up=True) == before.value_ms, "30 s of it it had before"


def test_an_outage_that_ends_with_events_leaves_no_credit_of_silence() -> None:
    """They were read before the loop looked at the clock, and counted as heard an outage from now."""
    clock = ManualClock(NOW_MS)
    watermark = Watermark(RULES, clock)
    see(watermark, NOW_MS)
    watermark.tick(away=True)
    clock.advance(HOUR_MS)
    see(watermark, NOW_MS + HOUR_MS)
    watermark.tick(caught_up=True)
    clock.advance(61_000)
    assert watermark.tick(caught_up=True) == NOW_MS + HOUR_MS - 1_000 + 1_000
