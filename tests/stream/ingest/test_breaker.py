"""The circuit breaker: it agrees with counting by hand, and nothing of the read that trips it is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.events import EMPTY, Decoded, Rejected
from driftgraph.stream.ingest.breaker import Breaker, RejectedTooManyError
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.ingest.lateness import rejected_warning, warnings_of
from tests.stream.ingest.test_ingest import BAD, Event, decoded_of, digest, ingest_of, letters

UNKNOWN = Rejected("unknown_behavior", "behavior 'vieww' is no relation", b"{}", "events[1]@9")


def read_of(good: int, bad: int, ignored: int = 0) -> Decoded:
    return replace(
        decoded_of([Event(n, n, 0, n) for n in range(good)]), rejected=(BAD,) * bad, ignored=ignored
    )


def trips_by_hand(reads: list[tuple[int, int, int]], share_max: float, window: int) -> list[bool]:
    """For each read, whether the newest reads that hold ``window`` events, or all, have too many bad ones."""
    found = []
    for last in range(1, len(reads) + 1):
        count = bad = 0
        for read in reversed(reads[:last]):
            if count >= window:
                break
            count, bad = count + sum(read), bad + read[1]
        found.append(sum(reads[last - 1]) > 0 and count >= window / 10 and bad > share_max * count)
    return found


@example([(0, 1, 0)], 0.5, 10)
@example([(5, 5, 0), (5, 6, 0)], 0.5, 20)
@example([(20, 0, 0), (0, 9, 0), (0, 0, 2)], 0.5, 10)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5)), max_size=30),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.integers(10, 60),
)
def test_it_trips_exactly_when_counting_by_hand_says_so(
    reads: list[tuple[int, int, int]], share_max: float, window: int
) -> None:
    breaker = Breaker(share_max=share_max, window=window)
    tripped = []
    for good, bad, ignored in reads:
        try:
            breaker.judge(read_of(good, bad, ignored))
        except RejectedTooManyError:
            tripped.append(True)
        else:
            tripped.append(False)
    assert tripped == trips_by_hand(reads, share_max, window)
    assert len(breaker._reads) <= window


def test_its_sentence_names_the_share_the_reason_an_example_and_what_to_do() -> None:
    breaker = Breaker(share_max=0.5, window=100)
    breaker.judge(replace(read_of(9, 2), rejected=(BAD, BAD)))
    with pytest.raises(RejectedTooManyError) as caught:
        breaker.judge(Decoded(EMPTY, rejected=(BAD, *[UNKNOWN] * 7)))
    text = str(caught.value)
    assert text.startswith("53% of the last 19 events were rejected, more than events.reject_share_max 0.5")
    assert "7 of them for unknown_behavior, such as events[1]@9 (behavior 'vieww' is no relation);" in text
    assert "start again" in text
    assert "events.reject_share_max = 1" in text


def test_one_means_never() -> None:
    breaker = Breaker(share_max=1, window=10)
    for _ in range(50):
        breaker.judge(read_of(0, 10))


def test_late_repeated_and_ignored_events_are_no_rejected_ones() -> None:
    """1,000 late ones, 1,000 repeats: the topic is old, not broken."""
    ingest = ingest_of()
    ingest.breaker = Breaker(share_max=0.1, window=100)
    new, old = Event(1, 1, 0, 90_000, event_id="same"), Event(1, 1, 0, 5)
    for event in (new, old, new):
        for _ in ingest.take(decoded_of([event] * 1_000)):
            pass
    assert (ingest.counts.late, ingest.counts.duplicate) == (1_000, 1_999)
    ingest.breaker.judge(read_of(0, 0, ignored=1_000))


@pytest.mark.parametrize(("share_max", "window"), [(0, 100), (1.1, 100), (0.5, 9)])
def test_limits_that_make_no_sense_are_refused(share_max: float, window: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Breaker(share_max=share_max, window=window)


def test_nothing_of_the_read_that_trips_it_is_taken() -> None:
    """No count, no letter, no event, no position: after the fix it comes again."""
    ingest: Ingest = ingest_of()
    ingest.breaker = Breaker(share_max=0.5, window=10)
    for _ in ingest.take(decoded_of([Event(1, 1, 0, 10), Event(2, 2, 0, 20, bad=True)])):
        pass
    before = (ingest.counts.read, digest(ingest), letters(ingest), ingest.position, ingest.watermark.value_ms)
    with pytest.raises(RejectedTooManyError):
        for _ in ingest.take(decoded_of([Event(3, 3, 0, 30), *[Event(4, 4, 0, 40, bad=True)] * 5])):
            pass
    after = (ingest.counts.read, digest(ingest), letters(ingest), ingest.position, ingest.watermark.value_ms)
    assert after == before


def test_the_newest_rejected_events_are_a_warning_before_the_breaker_trips() -> None:
    """A tenth of the window counts, so that old good events do not hide a broken producer."""
    ingest = ingest_of()
    ingest.breaker = Breaker(share_max=0.5, window=1_000)
    for _ in range(20):
        list(ingest.take(read_of(40, 1)))
    assert rejected_warning(ingest) is None, "one in forty"
    for _ in range(10):
        list(ingest.take(read_of(1, 9)))
    warning = rejected_warning(ingest)
    assert warning is not None
    assert warning.startswith("90 of the newest 100 events (90%) were rejected and are in no list, most for ")
    assert warning in warnings_of(ingest)
    for _ in range(3):
        list(ingest.take(read_of(40, 0)))
    assert rejected_warning(ingest) is None, "the producer was put right"


def test_a_few_rejected_events_of_a_new_stream_are_no_warning() -> None:
    ingest = ingest_of()
    ingest.breaker = Breaker(share_max=1, window=1_000)
    list(ingest.take(read_of(0, 99)))
    assert rejected_warning(ingest) is None
    list(ingest.take(read_of(0, 1)))
    assert rejected_warning(ingest) is not None
