"""What the status of an updater says of ingestion: how far it has read, and what became of the events.

Ingest, KafkaSource ──► [ingest_status] ──► Updater, DemoPage ──► data_dir/status/updater.json
"""

from __future__ import annotations

from typing import Any

from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource


def ingest_status(ingest: Ingest, source: KafkaSource | WaitingSource) -> dict[str, Any]:
    """A part of the status file, as JSON values."""
    counts = ingest.counts
    return {
        "watermark_ms": ingest.watermark.value_ms,
        "lag": dict(source.lag()),
        "lost": dict(source.lost),
        "position": dict(source.position()),
        "events": {
            "read": counts.read,
            "applied": counts.applied,
            "late": counts.late,
            "rejected": counts.rejected,
            "duplicate": counts.duplicate,
            "ignored": counts.ignored,
            "erased": counts.erased,
            "forgotten": counts.forgotten,
        },
        "ignored_tombstones": counts.tombstones,
        "reasons": dict(counts.reasons),
        "deduplication": ingest.dedupe.status(),
        "window": ingest.graph.window.live(),
        **ingest.graph.window.counted(),
        "window_bytes": ingest.graph.window.allocated_bytes(),
        "ids": ingest.graph.id_counts,
    }
