"""The checks of ``driftgraph doctor`` on the topics of attributes: there, compacted, and what they say.

settings ──► topics ──► a sample of records ──► [attribute_topic_checks] ──► [Check …]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from driftgraph.app.commands.findings import Check, State
from driftgraph.app.commands.validate import offsets_at
from driftgraph.app.config.attribute_tables import topic_attributes
from driftgraph.app.config.settings import Settings
from driftgraph.stream.kafka.retention import catalog_fault
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.topics import TopicError, topic_rules
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
    left_out = records.refused.total()
    said = f"{records.read:,} records of {', '.join(topics)} looked at, {left_out:,} say no attributes"
    yield Check("attributes", State.WARN if left_out else State.OK, "; ".join([said, *records.warnings()]))


def _kept(settings: Settings, topic: str) -> Check:
    try:
        rules = topic_rules(settings.kafka.librdkafka(), topic)
    except TopicError as error:
        return Check("attributes", State.WARN, str(error))
    if (fault := catalog_fault(rules)) is not None:
        return Check("attributes", State.WARN, f"the topic {topic}: {fault}")
    return Check("attributes", State.OK, f"the topic {topic} is compacted: {rules.partitions} partitions")
