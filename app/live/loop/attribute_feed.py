"""The topics of attributes beside the events: read from their beginning, then followed.

    kafka ──► KafkaSource ──► [AttributeFeed.take] ──► TopicAttributes ──► tables
                                   └─ position ──► the checkpoint, with that of the events

The updater's loop calls it once a round, and it never waits. Records and events of different topics have no
common order: what is said is seen about a second later, by whoever reads as of a later time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from driftgraph.app.config.attribute_tables import topic_attributes
from driftgraph.app.config.settings import Settings
from driftgraph.stream.attributes.attributes import Attributes
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.kafka.ends import EndsAtStart
from driftgraph.stream.kafka.offsets import OutOfRange
from driftgraph.stream.kafka.retention import catalog_fault
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.topics import TopicError, topic_rules
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

BATCH_MAX: Final = 5_000  # records of a round: some 50 ms, in which no event is read

log = logging.getLogger(__name__)


class AttributeFeed:
    """Takes records into the tables.

    Always true: the tables hold what the records before ``position`` say, and nothing behind it.
    """

    def __init__(
        self,
        settings: Settings,
        attributes: Attributes,
        erased: ErasedUsers,
        clock: Clock,
        *,
        start: Position,
        topic_ids: Mapping[str, str],
    ) -> None:
        """Go on at ``start``; a partition that is not in it is read from its beginning.

        Raises:
            SourceError: A topic is not there, or the brokers refuse us.
        """
        self.said_by = settings.events.attributes.said_by()
        self._records = topic_attributes(settings, attributes, clock, erased)
        policy: OutOfRange = "fail" if settings.kafka.out_of_range == "fail" else "earliest"
        options = KafkaOptions(
            topics=tuple(self.said_by),
            client=settings.kafka.librdkafka(),
            group_id=settings.name,
            out_of_range=policy,
            batch_max=BATCH_MAX,
        )
        self._source = KafkaSource(options, self._records, clock, start=start, topic_ids=topic_ids)
        self._ends = EndsAtStart(self._source)
        self._told = set[tuple[str, str]]()  # what is wrong with which topic
        for topic in self.said_by:
            _tell_faults(settings, topic)

    def take(self) -> None:
        """Take the records that are there.

        Raises:
            SourceError: They cannot be read any further.
            WindowError: The disk is full.
        """
        self._source.next_batch(0.0)
        for kind in self._records.refused.keys() - self._told:
            self._told.add(kind)
            log.warning("%s", self._records.warning(kind))

    @property
    def is_full(self) -> bool:
        """Whether all records that the topics had at the start are taken."""
        return self._ends.are_reached

    @property
    def position(self) -> Position:
        """Behind the last record taken, of each partition."""
        return self._source.position()

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The ids of the topics of ``position``."""
        return self._source.topic_ids

    def commit(self, position: Position) -> None:
        """Tell the brokers a position for lag tools."""
        self._source.commit(position)

    def warnings(self) -> list[str]:
        """What is wrong with the records so far."""
        return self._records.warnings()

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "read": self._records.read,
            "left_out": self._records.refused.total(),
            "lag": dict(self._source.lag()),
            "position": dict(self._source.position()),
        }

    def close(self) -> None:
        """Leave the brokers."""
        self._source.close()


def _tell_faults(settings: Settings, topic: str) -> None:
    """Log why a topic does not keep what it says."""
    try:
        fault = catalog_fault(topic_rules(settings.kafka.librdkafka(), topic))
    except TopicError as error:
        log.debug("%s", error)
        return
    if fault is not None:
        log.warning("the topic %s: %s", topic, fault)
