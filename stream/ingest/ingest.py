"""From a read of a source to the graph: lateness, repeats, ids, append, expiry, in that order.

    source ──► Decoded ──► [Ingest.take] ──► Heterograph          live and in replay: the same code
                                │  late, rejected ──► dead letters
                                └─ yields the marks at which a fit is due

Event time drives everything, and each event is judged by the events before it. So the batches of the stream
change neither the window nor the moments at which a fit is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
import numpy as np

from driftgraph.stream.arrays import I64, Index
from driftgraph.stream.attributes.attributes import Attributes
from driftgraph.stream.dead_letters.letters import DeadLetters
from driftgraph.stream.events import Decoded, Erasure, EventBatch, Rejected, Strings
from driftgraph.stream.formats.event_rules import Reason
from driftgraph.stream.ingest.breaker import Breaker
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erasures import Erasures, MemoryErasures
from driftgraph.stream.ingest.fit_schedule import FitSchedule, Mark, Marks
from driftgraph.stream.time.watermark import Watermark
from driftgraph.stream.window.heterograph import Heterograph


@dataclass(slots=True)
class Counts:
    """Events since the start. ``read`` is the sum of the others without ``tombstones``."""

    read: int = 0
    applied: int = 0
    late: int = 0
    rejected: int = 0
    duplicate: int = 0
    ignored: int = 0  # of behaviors that the configuration leaves out
    tombstones: int = 0  # among the ignored ones: records without a value that ask for nothing
    erased: int = 0  # requests to forget a user
    forgotten: int = 0  # events of an erased user from before the request
    late_by_ms_max: int = 0  # how far the latest of the late events was behind the watermark
    reasons: Counter[str] = field(default_factory=Counter)  # of rejected and late


class Ingest:
    """Applies a stream to a graph.

    Always true after ``take`` is exhausted: every event read is counted once, as applied or with the reason
    why not; the graph's watermark is the stream's.
    """

    def __init__(
        self,
        graph: Heterograph,
        watermark: Watermark,
        dead_letters: DeadLetters,
        schedule: FitSchedule,
        breaker: Breaker | None = None,
        erasures: Erasures | None = None,
        dedupe: Deduplicator | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        self.graph = graph
        self.attributes = attributes
        self.watermark = watermark
        self.dead_letters = dead_letters
        self.schedule = schedule
        self.breaker = breaker
        self.erasures = erasures or MemoryErasures()
        self.dedupe = dedupe or Deduplicator()
        self.counts = Counts()
        self.marks = Marks()  # the newest that was yielded of each kind
        self.position: Mapping[str, int] = {}
        relations = graph.window.relations
        self._span_ms = np.array([relation.span_ms for relation in relations], np.int64)
        self._is_edge = np.array([relation.is_edge for relation in relations], np.bool_)

    def take(self, decoded: Decoded) -> Iterator[Mark]:
        """Apply one read of a source; yield a mark whenever a fit is due, and go on after it.

        The caller must exhaust the iterator: the events behind a yield are applied when it asks for more.

        Raises:
            RejectedTooManyError: By the breaker, before anything of this read is counted, kept or applied.
        """
        if self.breaker is not None:
            self.breaker.judge(decoded)
        for piece, erasure in _pieces(decoded):
            yield from self._take(piece)
            if erasure is not None:
                self._erase(erasure)
        self.position = decoded.position

    def pass_time(self, watermark_ms: int) -> None:
        """Move event time to ``watermark_ms`` without an event: events older than their span leave.

        If that passes a mark, the mark comes before these events leave, and is the newest of ``marks``.
        """
        if (due := self.schedule.pass_time(watermark_ms)) is not None:
            self.graph.free_due(watermark_ms)
            self._mark(is_early=due.is_early)
        self._expire(watermark_ms)

    def _expire(self, watermark_ms: int) -> None:
        if self.graph.expire(watermark_ms) and self.attributes is not None:
            self.attributes.hold()

    def _take(self, decoded: Decoded) -> Iterator[Mark]:
        """Apply a read, or a piece of one, that has no requests to erase."""
        batch = decoded.batch
        before_ms = self.watermark.value_ms
        late, after_ms = self.watermark.observe(batch.partition, batch.time_ms)
        seen_ms = np.concatenate(([before_ms], after_ms[:-1])) if len(batch) else after_ms
        late = late | (batch.time_ms < seen_ms - self._span_ms[batch.relation])
        forgotten = self.erasures.reach(batch)
        fresh = np.flatnonzero(~late)
        judged = batch if len(fresh) == len(batch) else batch.take(fresh)  # none late is the usual case
        repeated = self.dedupe.repeated(judged.event_id, judged.time_ms)
        keep = fresh[~(repeated | forgotten[fresh])]
        late &= ~forgotten
        self._count(
            decoded, late_count=int(late.sum()), forgotten_count=int(forgotten.sum()), applied_count=len(keep)
        )
        for rejected in decoded.rejected:
            if not self.erasures.cover(rejected):
                self.dead_letters.put(rejected)
        for index in np.flatnonzero(late).tolist():
            behind_ms = int(seen_ms[index] - batch.time_ms[index])
            self.counts.late_by_ms_max = max(self.counts.late_by_ms_max, behind_ms)
            relation = self.graph.window.relations[batch.relation[index]].name
            self.dead_letters.put(_too_late(batch, index, relation, int(seen_ms[index])))

        applied = np.zeros(len(batch), np.bool_)
        applied[keep] = self._is_edge[batch.relation[keep]]  # what was only shown makes no fit due
        start = 0
        for stop, is_early in self.schedule.split(after_ms, applied):
            self._append(batch, keep, start, stop, after_ms)
            self.graph.free_due(int(after_ms[stop]))
            yield self._mark(is_early=is_early)
            start = stop
        self._append(batch, keep, start, len(batch), after_ms)

    def _mark(self, *, is_early: bool) -> Mark:
        mark = Mark(self.graph.window.cut(), self.graph.owners(), is_early)
        self.marks = self.marks.having(mark)
        return mark

    def _erase(self, erasure: Erasure) -> None:
        """Forget a user, unless the request was taken before.

        A request comes again after a crash, and from each partition. It reaches up to the newest event that
        it erased, so that no erased event comes back after a crash.
        """
        self.counts.read += 1
        self.counts.erased += 1
        asked_ms = erasure.time_ms
        if asked_ms is None:  # of this partition only: how far the others were read differs from run to run
            asked_ms = max(1, self.watermark.high_ms(erasure.partition))
        if not self.erasures.knows(erasure.user, asked_ms):
            oldest_ms = None
            if erasure.time_ms is None and self.erasures.knows(erasure.user, 1):
                oldest_ms = self.graph.oldest_ms(erasure.user)
            # The user is back, and all its events are newer: a request without a time is then a copy.
            is_copy = oldest_ms is not None and oldest_ms > asked_ms
            newest_ms = 0
            if not is_copy:
                newest_ms = self.graph.erase([erasure.user])
                if self.attributes is not None:
                    self.attributes.erase(erasure.user)
            self.erasures.put(erasure.user, asked_ms, max(asked_ms, newest_ms))

    def _append(self, batch: EventBatch, keep: Index, start: int, stop: int, after_ms: I64) -> None:
        """Apply the chosen events from ``start`` to ``stop``, one step of the graph's after the other."""
        if start == stop:
            return
        edges = start + 1 + np.flatnonzero(np.diff(after_ms[start:stop] // self.graph.step_ms))
        for first, end in pairwise([start, *edges.tolist(), stop]):
            low, high = np.searchsorted(keep, (first, end))
            self._expire(int(after_ms[end - 1]))
            part = batch if high - low == len(batch) else batch.take(keep[low:high])
            self.graph.apply(part, None if self.attributes is None else self.attributes.apply)
        live = self.graph.window.live()
        self.schedule.live = sum(live[relation.name] for relation in self.graph.edges.relations)

    def _count(self, decoded: Decoded, *, late_count: int, forgotten_count: int, applied_count: int) -> None:
        counts = self.counts
        counts.read += decoded.read_count
        counts.rejected += len(decoded.rejected)
        counts.late += late_count
        counts.forgotten += forgotten_count
        counts.duplicate += len(decoded.batch) - late_count - forgotten_count - applied_count
        counts.ignored += decoded.ignored
        counts.tombstones += decoded.tombstones
        counts.applied += applied_count
        counts.reasons.update(rejected.reason for rejected in decoded.rejected)
        if late_count:
            counts.reasons[Reason.LATE] += late_count


def _pieces(decoded: Decoded) -> Iterator[tuple[Decoded, Erasure | None]]:
    """A read, cut at its requests to erase: the events before each request, with the request; the rest."""
    start = 0
    for erasure in decoded.erased:
        yield Decoded(decoded.batch.take(np.arange(start, erasure.place))), erasure
        start = erasure.place
    rest = decoded.batch.take(np.arange(start, len(decoded.batch))) if start else decoded.batch
    yield replace(decoded, batch=rest, erased=()), None


def _too_late(batch: EventBatch, index: int, relation: str, watermark_ms: int) -> Rejected:
    """A late event as a dead letter, in canonical JSON, because its own bytes are not kept after decoding."""
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
        key=batch.user.bytes_at(index),  # as if its producer sent it again
        timestamp_ms=time_ms,
    )


def _at(column: Strings, index: int) -> str:
    return column.bytes_at(index).decode()
