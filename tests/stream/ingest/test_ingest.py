"""Ingestion: every event counted once, and nothing that depends on how the stream was cut into batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.events import Decoded, EventBatch, Rejected, Strings
from driftgraph.stream.ingest.fit_schedule import FIRST_EVENTS, Auto, Counted, FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import ITEM, USER, Relation

START_MS = 1_700_000_000_000
RELATIONS = (Relation("click", 3_000, 1 << 10), Relation("buy", 9_000, 1 << 10))
RULES = WatermarkRules(
    out_of_orderness_ms=100, allowed_lateness_ms=5_000, idle_timeout_ms=None, future_skew_ms=None
)
LONG_SINCE = Counted(all=FIRST_EVENTS)  # so that a first mark need not wait for them
BAD = Rejected(reason="bad_json", detail="it is no JSON", payload=b"{", origin="events[0]@7")


@dataclass(frozen=True)
class Event:
    """One event of a test; ``time_ms`` is after START_MS. A bad one is a rejected message."""

    user: int
    item: int
    relation: int
    time_ms: int
    partition: int = 0
    event_id: str = ""
    bad: bool = False


def decoded_of(events: Sequence[Event]) -> Decoded:
    good = [event for event in events if not event.bad]
    return Decoded(
        EventBatch(
            Strings.of([f"u{e.user}" for e in good]),
            Strings.of([f"i{e.item}" for e in good]),
            np.array([e.relation for e in good], np.uint8),
            np.array([START_MS + e.time_ms for e in good], np.int64),
            np.array([e.partition for e in good], np.int32),
            Strings.of([e.event_id for e in good]),
        ),
        rejected=(BAD,) * (len(events) - len(good)),
        position={"events[0]": len(events)},
    )


def ingest_of(
    schedule: FitSchedule | None = None,
    rules: WatermarkRules = RULES,
    relations: Sequence[Relation] = RELATIONS,
) -> Ingest:
    graph = Heterograph.create(None, relations, user_rows=256, item_rows=256)
    watermark = Watermark(rules, ManualClock(START_MS))
    return Ingest(graph, watermark, MemoryDeadLetters(), schedule or FitSchedule(1 << 62))


def feed(ingest: Ingest, batches: Iterable[Sequence[Event]]) -> list[tuple[int, int]]:
    """Take every batch; the marks, as (watermark, live events)."""
    return [
        (mark.cut.watermark_ms, len(ingest.graph.window.events(mark.cut)))
        for batch in batches
        for mark in ingest.take(decoded_of(batch))
    ]


def live_at(watermark_ms: int, events: Sequence[Event]) -> list[Event]:
    return [e for e in events if START_MS + e.time_ms >= watermark_ms - RELATIONS[e.relation].span_ms]


def digest(ingest: Ingest) -> str:
    return ingest.graph.digest(ingest.graph.moment().cut)


def letters(ingest: Ingest) -> list[Rejected]:
    assert isinstance(ingest.dead_letters, MemoryDeadLetters)
    return list(ingest.dead_letters.letters)


EVENTS = st.builds(
    Event,
    user=st.integers(0, 5),
    item=st.integers(0, 5),
    relation=st.integers(0, 1),
    time_ms=st.integers(0, 20_000),
    partition=st.integers(0, 2),
    event_id=st.sampled_from(["", "a", "b", "c", "d"]),
    bad=st.booleans(),
)
ALL_AT_ONCE = [Event(0, 0, 0, 0), Event(0, 1, 0, 900), Event(0, 2, 0, 4_900), Event(1, 0, 1, 100)]


@example(stream=ALL_AT_ONCE, sizes=[1], every_ms=1_000, count=1)
@example(stream=[Event(0, 0, 0, n * 700) for n in range(12)], sizes=[5, 2], every_ms=3_000, count=2)
@given(
    stream=st.lists(EVENTS, max_size=40).map(lambda events: sorted(events, key=lambda e: e.time_ms // 4_000)),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    every_ms=st.sampled_from([1_000, 3_000, 60_000]),
    count=st.none() | st.integers(1, 7),
)
def test_batching_does_not_matter(
    stream: list[Event], sizes: list[int], every_ms: int, count: int | None
) -> None:
    """Whole, one by one, and in batches of the given sizes in turn: the same counts, window and fits."""
    cuts, at = [0], 0
    while cuts[-1] < len(stream):
        cuts.append(min(len(stream), cuts[-1] + sizes[at % len(sizes)]))
        at += 1
    parts = [stream[a:b] for a, b in pairwise(cuts)]
    results = []
    for batches in ([stream], [[event] for event in stream], parts):
        ingest = ingest_of(FitSchedule(every_ms, count, counted=LONG_SINCE))
        marks = feed(ingest, batches)
        cut = ingest.graph.window.cut()
        results.append((marks, asdict(ingest.counts), digest(ingest), cut.watermark_ms))
    assert results[0] == results[1] == results[2]


Rows = tuple[list[int], list[str | None]]


def rows_of(ingest: Ingest) -> tuple[Rows, Rows]:
    """By side, how often each row has changed hands, and whose it is."""
    graph = ingest.graph
    moment, found = graph.moment(), []
    for side in (USER, ITEM):
        versions = moment.versions[side]
        names = graph.names(side, np.arange(len(versions), dtype=np.uint32), moment)
        found.append((versions.tolist(), names))
    users, items = found
    return users, items


def coming_and_going(seed: int) -> list[Event]:
    """Users and items of whom some are away for longer than a span, some for nearly one; pauses, late events.

    Sometimes nobody comes for several steps.
    """
    chance, now_ms, stream = random.Random(seed), 0, list[Event]()
    for _ in range(500):
        now_ms += chance.choice([0, 10, 60, 60, 150, 900])
        crowd = now_ms // 2_500 % 4 * 5
        user, item = crowd + chance.randrange(7), crowd + chance.randrange(9)
        time_ms = max(0, now_ms - chance.choice([0, 0, 0, 90, 700]))
        stream.append(Event(user, item, chance.randrange(8) // 7, time_ms))
    return stream


@pytest.mark.parametrize("seed", range(4))
def test_the_same_events_have_the_same_rows_however_they_are_batched(seed: int) -> None:
    """At each mark and at the end.

    And a mark's cut is whole when the next event has been applied, one step of the graph's later at most.
    """
    stream = coming_and_going(seed)
    rules = replace(RULES, allowed_lateness_ms=1_000)
    seen, whole = [], 0
    for size in (len(stream), 1, 2, 7, 40):
        ingest = ingest_of(FitSchedule(1_000, 37, counted=LONG_SINCE), rules)
        marks = []
        for at in range(0, len(stream), size):
            marks += [(mark, rows_of(ingest)) for mark in ingest.take(decoded_of(stream[at : at + size]))]
            if not marks:
                continue
            last = marks[-1][0]
            now, step_ms = ingest.graph.window.cut(), ingest.graph.step_ms
            if size > 1 or sum(last.cut.next) != sum(now.next) - 1:
                continue
            if now.watermark_ms // step_ms <= last.cut.watermark_ms // step_ms + 1:
                assert ingest.graph.moment_at(last.cut, last.owners).cut == last.cut
                whole += now.watermark_ms // step_ms > last.cut.watermark_ms // step_ms
        seen.append((marks, rows_of(ingest)))
    assert all(one == seen[0] for one in seen)
    assert len(seen[0][0]) > 20
    assert whole > 0
    assert max(seen[0][1][0][0]) > 5, "rows were given anew"


def test_silence_changes_no_row() -> None:
    """Time passes between two events, as far as the next one would move it."""
    stream = coming_and_going(9)
    silent, spoken = (ingest_of(FitSchedule(1 << 62)) for _ in range(2))
    chance = random.Random(1)
    for event in stream:
        feed(spoken, [[event]])
        before_ms = silent.watermark.value_ms
        for share in sorted(chance.random() for _ in range(chance.randrange(4))):
            if before_ms:
                silent.pass_time(before_ms + int(share * (spoken.watermark.value_ms - before_ms)))
        feed(silent, [[event]])
        assert rows_of(silent) == rows_of(spoken)


@given(
    stream=st.lists(EVENTS, max_size=40).map(lambda events: sorted(events, key=lambda e: e.time_ms // 4_000)),
    every_ms=st.sampled_from([1_000, 3_000, 60_000]),
    count=st.none() | st.integers(1, 7),
)
def test_fits_are_due_when_the_plainest_rules_say_so(
    stream: list[Event], every_ms: int, count: int | None
) -> None:
    """One event after the other, by hand: what is late, repeats, is applied, and when a fit is due."""
    ingest = ingest_of(FitSchedule(every_ms, count, counted=LONG_SINCE))
    marks = feed(ingest, [stream])

    high, watermark, seen = dict[int, int](), 0, set[str]()
    applied, late, repeated, since = list[Event](), 0, 0, 0
    expected = []
    for event in (e for e in stream if not e.bad):
        time_ms, before = START_MS + event.time_ms, watermark
        is_late = time_ms < before - 5_000 or time_ms < before - RELATIONS[event.relation].span_ms
        high[event.partition] = max(high.get(event.partition, 0), time_ms)
        watermark = max(watermark, min(high.values()) - 100)
        passed = watermark // every_ms > before // every_ms and since > 0
        if before and (passed or (count is not None and since >= count)):
            expected.append((before, len(live_at(before, applied))))
            since = 0
        if is_late:
            late += 1
        elif event.event_id and event.event_id in seen:
            repeated += 1
        else:
            seen.add(event.event_id)
            applied.append(event)
            since += 1
    assert marks == expected
    counts = ingest.counts
    assert (counts.late, counts.duplicate, counts.applied) == (late, repeated, len(applied))
    assert counts.rejected == sum(event.bad for event in stream)
    assert counts.read == len(stream) == late + repeated + len(applied) + counts.rejected
    live = ingest.graph.window.live_counts(ingest.graph.window.cut())
    assert sum(live.values()) == len(live_at(watermark, applied))
    assert ingest.graph.window.cut().watermark_ms == watermark


def test_a_fit_sees_the_events_before_the_one_that_makes_it_due() -> None:
    ingest = ingest_of(FitSchedule(1_000, counted=LONG_SINCE))
    marks = feed(ingest, [[Event(0, n, 0, n * 400) for n in range(6)]])  # watermarks -100, 300, 700, 1100, …
    assert marks == [(START_MS - 100, 1), (START_MS + 700, 3)]


def test_a_fit_that_silence_makes_due_sees_what_is_live_before_the_silence() -> None:
    """At the same place as if the next event had made it due, and what expires by the silence is in it."""
    silent, spoken = (ingest_of(FitSchedule(5_000, counted=LONG_SINCE)) for _ in range(2))
    events = [Event(0, n, 0, n * 400) for n in range(6)]
    for ingest in (silent, spoken):
        feed(ingest, [events])
    before = silent.marks
    silent.pass_time(silent.watermark.value_ms + 10)
    assert silent.marks == before
    silent.pass_time(START_MS + 8_000)
    assert feed(spoken, [[Event(0, 0, 0, 8_100)]]) == [(START_MS + 1_900, 6)]
    assert silent.marks.regular is not None
    assert spoken.marks.regular is not None
    assert silent.marks.regular.cut.next == spoken.marks.regular.cut.next
    assert silent.marks.regular.cut.watermark_ms == START_MS + 1_910
    assert silent.graph.window.live_counts(silent.graph.window.cut())["click"] == 0
    assert feed(silent, [[Event(0, 0, 0, 8_100)]]) == [], "the mark was passed, and nothing is new"


def test_a_fit_by_count_comes_after_so_many_applied_events() -> None:
    """Repeats and late events do not count."""
    schedule = FitSchedule(1 << 62, events=3)
    stream = [Event(0, n, 0, n, event_id=name) for n, name in enumerate("aabbccdefg")]
    assert [count for _, count in feed(ingest_of(schedule), [stream])] == [3, 6]


def test_a_mark_in_silence_is_as_if_the_next_event_had_made_it() -> None:
    """What expires before the mark was live after the newest event, by which the next interval is chosen."""
    stream = [Event(n, n, n % 2, n * 10) for n in range(150)]
    behind = Event(0, 0, 0, 9_000)
    before = Counted(all=FIRST_EVENTS, live_then=3_000)
    silent, spoken = (ingest_of(FitSchedule(Auto(1, 8_000, 1 << 20), counted=before)) for _ in range(2))
    for ingest in (silent, spoken):
        feed(ingest, [stream])
        assert ingest.schedule.counted.live == 150
    for time_ms in range(2_000, 8_200, 100):
        silent.pass_time(START_MS + time_ms)
    assert sum(silent.graph.window.live().values()) < 150
    assert silent.marks.regular is not None
    assert len(feed(silent, [[behind]])) + 1 == len(feed(spoken, [[behind]])) == 1
    assert silent.schedule.counted == spoken.schedule.counted
    assert silent.schedule.counted.live_then == 150


def test_no_fit_is_due_while_the_watermark_is_not_known() -> None:
    """An assigned partition without an event holds time back; a cut without a time could be asked nothing."""
    ingest = ingest_of(FitSchedule(1_000, events=2))
    ingest.watermark.assign([0, 1])
    assert feed(ingest, [[Event(0, n, 0, n * 5_000) for n in range(5)]]) == []
    later = [Event(0, 9, 0, 20_000 + n, partition=1) for n in range(4)]
    assert feed(ingest, [later]) == [(START_MS + 19_900, 2), (START_MS + 19_900, 4)]


def test_a_late_event_is_a_dead_letter_in_canonical_form() -> None:
    """The first is behind its relation's span, the second behind the allowed lateness, the third in time."""
    ingest = ingest_of()
    now = Event(0, 0, 0, 10_000)
    behind = [
        Event(1, 2, 0, 6_899, partition=0, event_id="late-1"),
        Event(3, 4, 1, 4_899, partition=0),
        Event(5, 5, 1, 4_900),
    ]
    feed(ingest, [[now, *behind]])
    first, second = letters(ingest)
    assert msgspec.json.decode(first.payload) == {
        "event_id": "late-1",
        "user_id": "u1",
        "item_id": "i2",
        "behavior": "click",
        "ts": START_MS + 6_899,
    }
    assert msgspec.json.decode(second.payload) == {
        "user_id": "u3",
        "item_id": "i4",
        "behavior": "buy",
        "ts": START_MS + 4_899,
    }
    assert {letter.reason for letter in (first, second)} == {"late"}
    assert "3 s behind the watermark" in first.detail
    assert "5 s behind the watermark" in second.detail
    assert ingest.counts.late == 2
    assert ingest.counts.applied == 2
    assert dict(ingest.counts.reasons) == {"late": 2}


def test_a_rejected_message_goes_on_as_it_is_and_is_counted_with_its_reason() -> None:
    ingest = ingest_of()
    decoded = replace(decoded_of([Event(0, 0, 0, 0), Event(0, 0, 0, 0, bad=True)]), ignored=3)
    assert list(ingest.take(decoded)) == []
    assert letters(ingest) == [BAD]
    counts = ingest.counts
    assert (counts.read, counts.applied, counts.rejected, counts.ignored) == (5, 1, 1, 3)
    assert dict(counts.reasons) == {"bad_json": 1}
    assert ingest.position == {"events[0]": 2}


def test_a_repeated_delivery_counts_once_also_shuffled() -> None:
    """Ten events twice, the second time shuffled; then one more click of the same two under a new id."""
    stream = [Event(n % 3, n % 4, n % 2, n, event_id=f"e{n}") for n in range(10)]
    again = random.Random(3).sample(stream, len(stream))
    once, twice = ingest_of(), ingest_of()
    feed(once, [stream])
    feed(twice, [stream, again[:4], again[4:]])
    assert digest(twice) == digest(once)
    assert (twice.counts.applied, twice.counts.duplicate) == (10, 10)
    feed(twice, [[replace(stream[0], event_id="new")]])
    assert twice.counts.applied == 11
    assert digest(twice) != digest(once)


def test_two_events_without_an_id_are_two_events() -> None:
    ingest = ingest_of()
    feed(ingest, [[Event(0, 0, 0, 5), Event(0, 0, 0, 5)]])
    assert (ingest.counts.applied, ingest.counts.duplicate) == (2, 0)


@pytest.mark.parametrize("every", [1 << 62, Auto(100, 8_000, 1_000)])
def test_what_was_only_shown_makes_no_fit_due(every: int | Auto) -> None:
    """Between two clicks five impressions come and go: the marks are where they are without them."""
    clicks = [Event(n % 6, n % 5, 0, 50 * n) for n in range(400)]
    shown = [Event(n % 7, n % 5, 2, 50 * (n // 5) + 7) for n in range(2_000)]
    both = sorted([*clicks, *shown], key=lambda event: event.time_ms)
    both = both[: both.index(clicks[-1]) + 1]  # a last impression would show that the last count is full
    relations = (*RELATIONS, Relation("impression", 3_000, 1 << 12, is_edge=False))
    marks = []
    for stream in (clicks, both):
        ingest = ingest_of(FitSchedule(every, 40, counted=LONG_SINCE), relations=relations)
        marks.append([
            sum(mark.cut.next[:2])
            for start in range(0, len(stream), 97)
            for mark in ingest.take(decoded_of(stream[start : start + 97]))
        ])  # fmt: skip
        assert ingest.counts.applied == len(stream)
    assert len(marks[0]) >= 9
    assert marks[0] == marks[1]
