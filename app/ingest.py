"""From what a source gave to what the graph holds: lateness, repeats, names, append, expiry, in that order.

    source ──► Decoded ──► [Ingest.take] ──► Heterograph          live and in replay: the same code
                                │  late, rejected ──► dead letters
                                └─ yields where a fine-tune is due

Event time drives everything, and each event is judged by what came before it, so how the stream was cut
into batches changes neither the window nor the moments at which a fit is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from driftgraph.app.dead_letters import DeadLetters
from driftgraph.stream.clock import Watermark
from driftgraph.stream.decode import Reason
from driftgraph.stream.dedupe import Deduplicator
from driftgraph.stream.events import I64, Decoded, EventBatch, Rejected, Strings
from driftgraph.stream.heterograph import Heterograph, Moment


@dataclass(slots=True)
class Counts:
    """Events since the start. ``read`` is the sum of the others."""

    read: int = 0
    applied: int = 0
    late: int = 0
    rejected: int = 0
    duplicate: int = 0
    ignored: int = 0  # behaviors that are no relation on purpose
    reasons: Counter[str] = field(default_factory=Counter)  # of rejected and late


class FitSchedule:
    """When a fine-tune is due: each time event time passes a multiple of ``every_ms``, or after ``events`` events.

    Due is decided by the watermark, before the event that passes the mark is applied, so that a fit sees the
    events of whole periods.
    """

    def __init__(self, every_ms: int, events: int | None = None) -> None:
        if every_ms <= 0:
            raise ValueError(f"every_ms must be positive, got {every_ms}")
        self.every_ms = every_ms
        self.events = events
        self._period: int | None = None
        self._since = 0

    def split(self, watermark_ms: I64) -> list[int]:
        """Where, among N events with the watermark after each, a fit is due: before the event at each index."""
        if len(watermark_ms) == 0:
            return []
        period = watermark_ms // self.every_ms
        known = watermark_ms > 0  # zero: no partition has had an event yet
        if self._period is None and known.any():
            self._period = int(period[np.argmax(known)])
        before = np.concatenate(([self._period or 0], period[:-1]))
        due = np.flatnonzero(known & (period > np.maximum(before, self._period or 0))).tolist()
        if self._period is not None:
            self._period = max(self._period, int(period.max()))
        if self.events is None:
            return due
        edges, start = [], -self._since
        for stop in [*due, len(watermark_ms)]:
            while start + self.events < stop:
                start += self.events
                edges.append(start)
            if stop < len(watermark_ms):
                edges.append(stop)
                start = stop
        self._since = len(watermark_ms) - start
        return edges


class Ingest:
    """Applies a stream to a graph.

    Always true after ``take`` is exhausted: every event read is counted once, as applied or with the reason
    why not; the graph's watermark is the stream's.
    """

    def __init__(
        self, graph: Heterograph, watermark: Watermark, dead_letters: DeadLetters, schedule: FitSchedule
    ) -> None:
        self.graph = graph
        self.watermark = watermark
        self.dead_letters = dead_letters
        self.schedule = schedule
        self.dedupe = Deduplicator()
        self.counts = Counts()
        self.position: Mapping[str, int] = {}
        self._span_ms = np.array([relation.span_ms for relation in graph.window.relations], np.int64)

    def take(self, decoded: Decoded) -> Iterator[Moment]:
        """Apply one read of a source; yield the graph's moment wherever a fit is due, and go on after it.

        The caller must exhaust the iterator: what is behind a yield is applied when it asks for more.
        """
        batch = decoded.batch
        before_ms = self.watermark.value_ms
        late, after_ms = self.watermark.observe(batch.partition, batch.time_ms)
        seen_ms = np.concatenate(([before_ms], after_ms[:-1])) if len(batch) else after_ms
        late = late | (batch.time_ms < seen_ms - self._span_ms[batch.relation])
        fresh = np.flatnonzero(~late)
        event_id = None if batch.event_id is None else batch.event_id.take(fresh)
        repeated = self.dedupe.repeated(event_id, batch.time_ms[fresh])
        keep = fresh[~repeated]

        self._count(decoded, late_count=int(late.sum()), repeated_count=int(repeated.sum()))
        for rejected in decoded.rejected:
            self.dead_letters.put(rejected)
        for index in np.flatnonzero(late).tolist():
            relation = self.graph.window.relations[batch.relation[index]].name
            self.dead_letters.put(_too_late(batch, index, relation, int(seen_ms[index])))

        start = 0
        for stop in self.schedule.split(after_ms):
            self._apply(batch, keep, start, stop, after_ms)
            yield self.graph.moment()
            start = stop
        self._apply(batch, keep, start, len(batch), after_ms)
        self.position = decoded.position

    def _apply(self, batch: EventBatch, keep: np.ndarray, start: int, stop: int, after_ms: I64) -> None:  # type: ignore[type-arg]
        if start == stop:
            return
        chosen = keep[(keep >= start) & (keep < stop)]
        self.graph.expire(int(after_ms[stop - 1]))
        self.graph.apply(batch if len(chosen) == len(batch) else batch.take(chosen))

    def _count(self, decoded: Decoded, *, late_count: int, repeated_count: int) -> None:
        counts = self.counts
        counts.read += decoded.read_count
        counts.rejected += len(decoded.rejected)
        counts.late += late_count
        counts.duplicate += repeated_count
        counts.ignored += decoded.ignored
        counts.applied += len(decoded.batch) - late_count - repeated_count
        counts.reasons.update(rejected.reason for rejected in decoded.rejected)
        if late_count:
            counts.reasons[Reason.LATE] += late_count


def _too_late(batch: EventBatch, index: int, relation: str, watermark_ms: int) -> Rejected:
    """A late event as a dead letter: as canonical JSON, since its own bytes are not kept past decoding."""
    time_ms = int(batch.time_ms[index])
    payload = {
        "user_id": _at(batch.user, index),
        "item_id": _at(batch.item, index),
        "behavior": relation,
        "ts": time_ms,
    }
    if batch.event_id is not None and (event_id := _at(batch.event_id, index)):
        payload["event_id"] = event_id
    return Rejected(
        reason=Reason.LATE,
        detail=f"the event is {(watermark_ms - time_ms) / 1000:.0f} s behind the watermark",
        payload=msgspec.json.encode(payload),
        origin=f"partition {int(batch.partition[index]) if len(batch.partition) else 0}",
    )


def _at(column: Strings, index: int) -> str:
    return column.bytes_at(index).decode()
