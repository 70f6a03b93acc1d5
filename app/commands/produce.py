"""Puts a file of events on Kafka: as canonical JSON keyed by the user, with event times as timestamps.

CSV, JSONL, Parquet ──► FileSource ──► EventBatch ──► [produce] ──► EventProducer ──► topic
                                                    │ └─ Pace: by events a second or by event time
                                                    └─ Keeping: whether the topic keeps the records
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from driftgraph.app.console.progress import Progress
from driftgraph.app.console.stopping import stopping
from driftgraph.stream.arrays import I64
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Decoded, EventBatch
from driftgraph.stream.kafka.causes import Property
from driftgraph.stream.kafka.producer import FINISH_WITHIN_S, EventProducer
from driftgraph.stream.kafka.retention import loss_of
from driftgraph.stream.kafka.topics import TopicError, TopicRules, ensure_topic, topic_rules
from driftgraph.stream.sources.event_sort import Sorting
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.time.clock import Clock

SLICE: Final = 2_000  # events that are sent at full speed between two checks for Ctrl-C
STOP_WITHIN_S: Final = 5.0  # after Ctrl-C, for events that are not acknowledged yet
TICK_S: Final = 0.05  # a pace sends due events twenty times a second


class NotKeptError(DriftgraphError):
    """A topic would not keep the records that are to be put on it."""


class Pace(Protocol):
    """How fast events are sent."""

    def due(self, times_ms: list[int], start: int, elapsed_s: float) -> int:
        """The index, at least ``start``, up to which events are due ``elapsed_s`` after the first."""
        ...


class AtOnce:
    """As fast as possible."""

    def due(self, times_ms: list[int], start: int, elapsed_s: float) -> int:  # noqa: ARG002  as in the protocol
        """The next ``SLICE`` events."""
        return min(start + SLICE, len(times_ms))


class EventsPerSecond:
    """A steady rate, whatever the event times."""

    def __init__(self, rate: float) -> None:
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._rate = rate
        self._sent = 0

    def due(self, times_ms: list[int], start: int, elapsed_s: float) -> int:
        """The events that a steady rate would have sent by now, and the first at once."""
        stop = min(len(times_ms), start + max(0, int(elapsed_s * self._rate) + 1 - self._sent))
        self._sent += stop - start
        return stop


class EventTime:
    """Event time passes ``speed`` times as fast as the clock; an event out of order is sent at once."""

    def __init__(self, speed: float) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be positive, got {speed}")
        self._speed = speed
        self._first_ms: int | None = None

    def due(self, times_ms: list[int], start: int, elapsed_s: float) -> int:
        """The events before the first one that is ahead of the reached event time."""
        if self._first_ms is None:
            self._first_ms = times_ms[start]
        reached_ms = self._first_ms + elapsed_s * 1000 * self._speed
        stop = start
        while stop < len(times_ms) and times_ms[stop] <= reached_ms:
            stop += 1
        return stop


@dataclass
class ProduceReport:
    """What was put on Kafka. ``warning``: why the topic may not keep it, what is odd about the file."""

    topic: str
    created: bool
    produced: int = 0
    rejected: int = 0  # rows that make no event; they were left out
    ignored: int = 0  # rows of other behaviors than those asked for
    erased: int = 0  # requests to erase a user, which count as produced, too
    reasons: Counter[str] = field(default_factory=Counter)
    example: str = ""  # the first row that was left out, and why
    seconds: float = 0.0
    interrupted: bool = False
    warning: str = ""
    sorted: Sorting | None = None  # None: the file is in order of time

    def to_json(self) -> dict[str, Any]:
        """The report with the rate, as JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rate = self.produced / self.seconds if self.seconds > 0 else 0.0
        sorting = None if self.sorted is None else asdict(self.sorted)
        return found | {"reasons": dict(self.reasons), "events_per_second": rate, "sorted": sorting}


def produce(
    client: Mapping[str, Property],
    topic: str,
    path: Path,
    options: FileOptions,
    *,
    pace: Pace,
    partitions: int | None,
    progress: Progress,
    clock: Clock,
    force: bool = False,
) -> ProduceReport:
    """Put a file on a topic, until its end or Ctrl-C.

    A record has its event's time, so a topic with little retention would lose old events within minutes.

    Args:
        client: librdkafka properties.
        topic: If it is missing, it is made with ``partitions`` and unlimited retention. Else it is not
        changed.
        path: The file.
        options: How to read it; its events are sent in order of time.
        pace: How fast to send.
        partitions: Of a topic that is made; None: the default of the brokers.
        progress: Shows each slice.
        clock: For the reported rate and the age of events.
        force: Whether to send also records that the topic would not keep.

    Raises:
        DriftgraphError: If the file cannot be read, or Kafka does not take an event or would not keep it.
    """
    in_order = replace(options, sort_in=options.sort_in or Path(tempfile.gettempdir()))
    file = FileSource(path, in_order, say=progress.note)
    try:
        created = ensure_topic(client, topic, partitions=-1 if partitions is None else partitions)
        producer = EventProducer(client, topic)
        report = ProduceReport(topic, created)
        keeping = Keeping(client, report, clock, force=force)
        started_ms = clock.now_ms()
        with stopping(producer.stopped):
            try:
                _send_all(file, options.erase, producer, report, pace, progress, keeping)
            except NotKeptError:
                producer.finish()  # the events that were sent before are acknowledged
                raise
            producer.finish(STOP_WITHIN_S if producer.stopped.is_set() else FINISH_WITHIN_S)
        progress.close()
        report.produced = producer.sent
        report.sorted = file.sorting
        report.warning = "; ".join([*file.warnings, *filter(None, [report.warning])])
        report.interrupted = producer.stopped.is_set()
        report.seconds = (clock.now_ms() - started_ms) / 1000
        return report
    finally:
        file.close()


class Keeping:
    """Compares events with the limits of a topic, and refuses or warns before they are sent.

    Files come sorted by time, so the first read has the oldest event; a later one that is older is found,
    too.
    """

    def __init__(
        self, client: Mapping[str, Property], report: ProduceReport, clock: Clock, *, force: bool
    ) -> None:
        self._report = report
        self._clock = clock
        self._force = force
        self._rules: TopicRules | None = None
        self._bytes = 0
        try:
            self._rules = topic_rules(client, report.topic)
        except TopicError as error:
            report.warning = f"whether the topic keeps old events is not known: {error}"

    def check(self, times_ms: I64, producer: EventProducer) -> None:
        """Check the times of a read.

        Raises:
            NotKeptError: If the topic would not keep one of the events, unless forced.
        """
        if self._rules is None or len(times_ms) == 0:
            return
        loss = loss_of(self._rules, int(times_ms.min()), int(times_ms.max()), self._clock.now_ms())
        if loss is None:
            return
        if not self._force:
            sent = f" after {producer.sent:,} that were sent" if producer.sent else ""
            force = "" if loss.refused else ", or give --force to send them all the same"
            raise NotKeptError(
                f"topic {self._report.topic!r} would not keep the events{sent}: {loss.said}, or name a topic "
                f"that is not there yet (it is made to keep all){force}"
            )
        self._report.warning = f"topic {self._report.topic!r} does not keep the events: {loss.said}"

    def count(self, keys: list[bytes], values: list[bytes]) -> None:
        """Add up the size of the records that were sent, before compression."""
        limit = None if self._rules is None else self._rules.retention_bytes
        self._bytes += sum(map(len, keys)) + sum(map(len, values))
        if limit is not None and self._bytes > limit and not self._report.warning:
            self._report.warning = (
                f"topic {self._report.topic!r} keeps about {limit:,} bytes (retention.bytes of its "
                "partitions), and more were sent, before compression: Kafka may remove the oldest; raise "
                "retention.bytes"
            )


class _Canonical(msgspec.Struct, omit_defaults=True):
    """An event as it is on the topic; without an ``event_id`` it has no such field."""

    user_id: str
    item_id: str
    behavior: str
    ts: int
    event_id: str = ""


class _Erase(msgspec.Struct, omit_defaults=True):
    """A request to erase a user as it is on the topic."""

    user_id: str
    behavior: str
    ts: int = 0  # 0: no event is before it


def canonical_json(batch: EventBatch, relations: tuple[str, ...]) -> tuple[list[bytes], list[bytes]]:
    """(key, canonical JSON) of each event as two lists; the key is the user's id."""
    encode = msgspec.json.Encoder().encode
    users = batch.user.to_list()
    event_ids = [""] * len(batch) if batch.event_id is None else batch.event_id.to_list()
    rows = zip(
        users, batch.item.to_list(), batch.relation.tolist(), batch.time_ms.tolist(), event_ids, strict=True
    )
    values = [encode(_Canonical(user, item, relations[code], ts, own)) for user, item, code, ts, own in rows]
    return [user.encode() for user in users], values


def _records(
    decoded: Decoded, relations: tuple[str, ...], erase: str, before_ms: int
) -> tuple[list[bytes], list[bytes], list[int]]:
    """(key, value, time) of each event and request to erase, in their order, as three lists.

    A request without a time gets the time of the event before it, and none before the first event.
    """
    keys, values = canonical_json(decoded.batch, relations)
    times_ms = decoded.batch.time_ms.tolist()
    for one in reversed(decoded.erased):
        newest_ms = max([before_ms, *times_ms[: one.place]])
        asked_ms = newest_ms if one.time_ms is None else one.time_ms
        keys.insert(one.place, one.user.encode())
        values.insert(one.place, msgspec.json.encode(_Erase(one.user, erase, asked_ms)))
        times_ms.insert(one.place, max(1, newest_ms))
    return keys, values, times_ms


def _send_all(
    file: FileSource,
    erase: str,
    producer: EventProducer,
    report: ProduceReport,
    pace: Pace,
    progress: Progress,
    keeping: Keeping,
) -> None:
    """Read, encode and send until the end of the file or Ctrl-C."""
    stopped, started_s, shown = producer.stopped, time.monotonic(), 0
    before, begun = 0.0, False  # the share of the file before this read; whether the progress is shown
    newest_ms = 0  # time of the newest event before this read
    while not stopped.is_set() and (decoded := file.next_batch()) is not None:
        _count(decoded, report)
        keys, values, times_ms = _records(decoded, file.relations, erase, newest_ms)
        newest_ms = max([newest_ms, *times_ms])
        at, share = 0, file.read_share()
        keeping.check(decoded.batch.time_ms, producer)
        if not begun:
            progress.start(f"produce to {report.topic}", total=100)
            begun = True
        keeping.count(keys, values)
        while at < len(times_ms) and not stopped.is_set():
            stop = pace.due(times_ms, at, time.monotonic() - started_s)
            if stop == at:
                stopped.wait(TICK_S)
            producer.send_many(keys[at:stop], values[at:stop], times_ms[at:stop])
            at = stop
            percent = int(100 * (before + (share - before) * at / len(times_ms)))
            progress.advance(percent - shown)
            shown = percent
        before = share


def _count(decoded: Decoded, report: ProduceReport) -> None:
    report.rejected += len(decoded.rejected)
    report.ignored += decoded.ignored
    report.erased += len(decoded.erased)
    report.reasons.update(one.reason for one in decoded.rejected)
    if decoded.rejected and not report.example:
        report.example = f"{decoded.rejected[0].origin}: {decoded.rejected[0].detail}"
