"""Everything of the updater between the topics and the window, as one value.

    KafkaSource, Ingest, dead letters, erasures, AttributeFeed ──► [Ingestion] ──► the loop of the updater

Parts that stand for the whole are made here: the snapshot of a checkpoint has the position of the events and
of the attributes, and a commit tells both to the brokers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from driftgraph.app.live.loop.attribute_feed import AttributeFeed
from driftgraph.app.live.loop.ingest_status import ingest_status
from driftgraph.snapshots.checkpoints.window import Snapshot
from driftgraph.snapshots.erasures import DurableErasures
from driftgraph.stream.dead_letters.outgoing import Outbox
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.ingest.lateness import warnings_of
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource
from driftgraph.stream.safe_queue import SafeQueue
from driftgraph.stream.sources.source import Position


@dataclass(frozen=True, slots=True)
class Ingestion:
    """What reads, what applies, and what keeps the things that must be safe before a position passes them."""

    source: KafkaSource | WaitingSource
    ingest: Ingest
    letters: Outbox
    erasures: DurableErasures
    feed: AttributeFeed | None = None  # None: no topic has attributes

    @property
    def outgoing(self) -> list[SafeQueue[Any]]:
        """The queues that are to be on disk before a position passes what is in them."""
        return [self.letters.queue, self.erasures.queue]

    @property
    def kafka_away(self) -> bool:
        """Whether Kafka is away; a ``WaitingSource`` is also away while a schema registry is."""
        return self.source.kafka_away if isinstance(self.source, WaitingSource) else self.source.away

    def warnings(self) -> Iterator[str]:
        """Warnings about the run so far."""
        yield from warnings_of(self.ingest)
        if self.feed is not None:
            yield from self.feed.warnings()

    def commit(self, position: Position) -> None:
        """Commit the position of a checkpoint for lag tools. driftgraph never reads it."""
        self.source.commit(position)
        if self.feed is not None:
            self.feed.commit(position)

    def snapshot(self) -> Snapshot:
        """The state that a checkpoint keeps, taken between two batches."""
        ingest, feed = self.ingest, self.feed
        position, topic_ids = ingest.position or self.source.position(), self.source.topic_ids
        if feed is not None:
            position, topic_ids = {**position, **feed.position}, {**topic_ids, **feed.topic_ids}
        return Snapshot(
            ingest.graph.moment(),
            position,
            ingest.watermark.state(),
            ingest.dedupe.sets(),
            topic_ids,
            ingest.schedule.counted,
            ingest.marks,
            None if ingest.attributes is None else ingest.attributes.kept(),
            {} if feed is None else feed.said_by,
            ingest.graph.kept_rows(),
        )

    def status(self) -> dict[str, Any]:
        """The parts of the status file that tell of ingestion."""
        return {
            "kafka_away": self.kafka_away,
            **ingest_status(self.ingest, self.source),
            "warnings": list(self.warnings()),
            "dead_letters": self.letters.status(),
            "erasures": self.erasures.status(),
            "attributes": None if self.feed is None else self.feed.status(),
        }
