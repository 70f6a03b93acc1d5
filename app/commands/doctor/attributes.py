"""The checks of ``driftgraph doctor`` on the topics of attributes: there, compacted, and what they say.

settings ──► topics ──► a sample of records ──► [attribute_topic_checks] ──► [Check …]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from driftgraph.app.commands.doctor.clock import oldest_time
from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.commands.validate import offsets_at
from driftgraph.app.config.attribute_tables import topic_attributes
from driftgraph.app.config.builders import window_relations
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.output import time_of
from driftgraph.stream.kafka.retention import catalog_fault
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.topics import TopicError, topic_rules
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

SAMPLE: Final = 1_000  # of the newest records of each partition
POLLS: Final = 100  # ten seconds at most


def attribute_topic_checks(settings: Settings, clock: Clock) -> Iterator[Check]:
    """Check each topic.

    Raises:
        SourceError: One is not there, or the brokers do not answer.
    """
    topics = tuple(settings.events.attributes.said_by())
    if not topics:
        return
    client = settings.kafka.librdkafka()
    records = topic_attributes(settings, None, clock)
    options = KafkaOptions(topics=topics, client=client, group_id=settings.name)
    ends = offsets_at("latest", options, records, clock)
    lows = offsets_at("earliest", options, records, clock)
    begin = {part: max(lows.get(part, end), end - SAMPLE) for part, end in ends.items()}
    source = KafkaSource(options, records, clock, start=begin)
    try:
        for _ in range(POLLS):
            if source.caught_up or source.next_batch(0.1) is None:
                break
    finally:
        source.close()
    for topic in topics:
        yield _kept(settings, topic)
    yield from _written_late(settings, options, lows, clock)
    left_out = records.refused.total()
    said = f"{records.read:,} records of {', '.join(topics)} looked at, {left_out:,} say no attributes"
    yield Check("attributes", State.WARN if left_out else State.OK, "; ".join([said, *records.warnings()]))


def _written_late(settings: Settings, options: KafkaOptions, lows: Position, clock: Clock) -> Iterator[Check]:
    """Warn where the oldest record of attributes is newer than the oldest events that a start reads.

    An attribute holds from its record's time on, so no fit sees it at an earlier event.
    """
    oldest_ms = oldest_time(options, lows, clock)
    if oldest_ms is None:
        return
    span_ms = max((relation.span_ms for relation in window_relations(settings)), default=0)
    events = replace(options, topics=(settings.kafka.topic,))
    decoder = topic_attributes(settings, None, clock)  # decodes nothing: the offsets are looked up
    first = offsets_at(clock.now_ms() - span_ms, events, decoder, clock)
    then = offsets_at(oldest_ms, events, decoder, clock)
    before = sum(max(0, then[part] - offset) for part, offset in first.items())
    if before:
        yield Check(
            "attributes",
            State.WARN,
            f"{before:,} messages of {settings.kafka.topic} within the longest span are older than the first "
            f"record of {', '.join(options.topics)} ({time_of(oldest_ms)}), and attributes hold from their "
            "record's time on: those events train without attributes; write the catalog before the events, "
            "or name it as a file, which holds at all times",
        )


def _kept(settings: Settings, topic: str) -> Check:
    try:
        rules = topic_rules(settings.kafka.librdkafka(), topic)
    except TopicError as error:
        return Check("attributes", State.WARN, str(error))
    if (fault := catalog_fault(rules)) is not None:
        return Check("attributes", State.WARN, f"the topic {topic}: {fault}")
    return Check("attributes", State.OK, f"the topic {topic} is compacted: {rules.partitions} partitions")
