"""Which offsets a partition has: where the first start begins, and where to go on if the next event is gone.

start, out_of_range ──► [offsets_at, offset_after_loss] ──► KafkaSource.position
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from driftgraph.stream.errors import SourceError
from driftgraph.stream.kafka.partition import Place, partition_name
from driftgraph.stream.sources.first_start import Start

OutOfRange = Literal["fail", "earliest", "latest"]

_ANSWER_TIMEOUT_S: Final = 10.0
_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)  # before the next try while a partition gets a leader
_MOVING: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)


def offsets_at(consumer: Consumer, places: Sequence[Place], start: Start) -> dict[Place, int]:
    """The first offset at or after ``start``; the end of a partition whose events are all older.

    Raises:
        SourceError: If the brokers do not tell.
    """
    if not places:
        return {}
    if not isinstance(start, int):
        ranges = {place: range_of(consumer, place) for place in places}
        return {place: low if start == "earliest" else high for place, (low, high) in ranges.items()}
    asked = [TopicPartition(topic, partition, start) for topic, partition in places]
    try:
        answers = consumer.offsets_for_times(asked, timeout=_ANSWER_TIMEOUT_S)
    except KafkaException as error:
        raise _not_told(places[0], error) from error
    found = {(a.topic, a.partition): a.offset for a in answers}
    late = [place for place in places if found[place] < 0]
    return found | offsets_at(consumer, late, "latest")


def range_of(consumer: Consumer, place: Place) -> tuple[int, int]:
    """The first offset that a partition has, and the one after its last.

    Raises:
        SourceError: If the brokers do not tell.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ANSWER_TIMEOUT_S)
        except KafkaException as error:
            if pause_s is None or error.args[0].code() not in _MOVING:
                raise _not_told(place, error) from error
            time.sleep(pause_s)
        else:
            return low, high
    raise AssertionError("the last try returns or raises")


def offset_after_loss(
    place: Place, offset: int, offsets: tuple[int, int], policy: OutOfRange
) -> tuple[int, int, str]:
    """Where to go on when a partition has no event at ``offset``, which is outside of ``offsets``.

    Returns:
        (the next offset, how many offsets are left out for ever, a sentence that says so).

    Raises:
        SourceError: If the policy is to fail.
    """
    low, high = offsets
    part = partition_name(*place)
    if offset < low:
        why = f"so {low - offset:,} events are gone (retention?)"
    else:
        why = "so it ends before (was the topic made anew, or cut by an unclean leader election?)"
    found = f"{part}@{offset}: the broker has offsets {low} to {high} there now, {why}"
    if policy == "fail":
        raise SourceError(
            f'cannot go on reading {found}; to go on without them set kafka.out_of_range to "earliest" or '
            '"latest", and give the topic a retention longer than any downtime'
        )
    going_on = low if policy == "earliest" else high
    lost = max(0, going_on - offset)
    return going_on, lost, f"{found}; {lost:,} are left out, going on at {going_on} ({policy})"


def begins_in_new_topic(
    topic: str, why: str, ranges: Mapping[Place, tuple[int, int]], policy: OutOfRange
) -> tuple[dict[Place, int], dict[str, int], str]:
    """Where to go on in a topic that was made anew, which ``why`` shows.

    Returns:
        (the next offset of each partition, how many events each partition leaves out, a sentence that says
        so). How many unread events the former topic had is not known.

    Raises:
        SourceError: If the policy is to fail.
    """
    found = (
        f"the topic {topic!r} is another one than before ({why}): it was made anew, or is of another cluster"
    )
    if policy == "fail":
        raise SourceError(
            f"cannot go on reading {topic}: {found}, so the position says nothing about it; to go on set "
            'kafka.out_of_range to "earliest" or "latest", and to begin with an empty window too remove the '
            "checkpoints in data_dir"
        )
    begins = {place: low if policy == "earliest" else high for place, (low, high) in ranges.items()}
    lost = {partition_name(*place): begins[place] - low for place, (low, _) in ranges.items()}
    return (
        begins,
        {part: count for part, count in lost.items() if count},
        f"{found}; going on at its {policy} events, {sum(lost.values()):,} of them are left out, and what "
        "nobody had read of the former one is lost; the window keeps what it has",
    )


def _not_told(place: Place, error: KafkaException) -> SourceError:
    return SourceError(
        f"Kafka did not tell which offsets {partition_name(*place)} has ({error.args[0].str()}); try again"
    )
