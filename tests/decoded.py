"""A ``Decoded`` as plain values, so that tests can compare two of them."""

from __future__ import annotations

from driftgraph.stream.events import Decoded, EventBatch


def events_of(batch: EventBatch) -> list[tuple[str, str, int, int, int, str]]:
    """user, item, relation, time, partition, event id; the last is empty where there is none."""
    count = len(batch)
    partitions = batch.partition.tolist() or [0] * count
    event_ids = batch.event_id.to_list() if batch.event_id else [""] * count
    return list(
        zip(
            batch.user.to_list(),
            batch.item.to_list(),
            batch.relation.tolist(),
            batch.time_ms.tolist(),
            partitions,
            event_ids,
            strict=True,
        )
    )


def plain(decoded: Decoded) -> tuple[object, ...]:
    """All that a decoder says."""
    return events_of(decoded.batch), list(decoded.rejected), decoded.ignored, list(decoded.erased)
