"""What the log says of ingestion while it runs: each trouble once, and an outage once a minute.

Ingestion ──► [IngestLog.tell, tell_warnings] ──► log
"""

from __future__ import annotations

import logging

from driftgraph.app.console.status_text import deduplication_of
from driftgraph.app.live.loop.ingestion import Ingestion
from driftgraph.stream.outage_log import OutageLog

WARN_EVENTS_MIN = 1_000  # before a warning in the log, which cannot be taken back as in the status

log = logging.getLogger(__name__)


class IngestLog:
    """Logs what a person should know of ingestion, without repeating it."""

    def __init__(self, ingestion: Ingestion) -> None:
        self._ingestion = ingestion
        self._outage = OutageLog(log.warning)
        self._told_tombstones = False
        self._ids_short = False  # event ids are forgotten too early
        self._warned = False

    def tell(self) -> None:
        """Log that Kafka is away or back, and that records without a value are left out."""
        if self._ingestion.kafka_away:
            self._outage.missing(
                f"Kafka is away: event time stands still ({self._ingestion.source.why_away})"
            )
        else:
            self._outage.over("Kafka is back")
        if self._ingestion.ingest.counts.tombstones and not self._told_tombstones:
            self._told_tombstones = True
            log.warning(
                "records without a value are ignored, since the keys of the topic are not known to be users; "
                'if they are, set events.tombstones = "erase"'
            )

    def tell_warnings(self) -> None:
        """Log once that event ids are forgotten too early, and warnings once there are events enough."""
        ids = self._ingestion.ingest.dedupe.status()
        if ids["short"] != self._ids_short:
            self._ids_short = bool(ids["short"])
            log.warning(
                "%s", deduplication_of(ids) if self._ids_short else "event ids are remembered as promised"
            )
        if not self._warned and self._ingestion.ingest.counts.read >= WARN_EVENTS_MIN:
            for warning in self._ingestion.warnings():
                self._warned = True
                log.warning("%s", warning)
