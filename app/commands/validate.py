"""Judges a sample of events as the updater would: for ``driftgraph validate``.

    file or topic ──► the configured format ──► [Report]

It only reads: it writes nothing and commits no offset. A file is judged as ``replay`` does, except for
repeated event ids; of a topic, lateness is not judged, either.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from driftgraph.app.config.attribute_tables import check_files
from driftgraph.app.config.builders import file_options
from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.app.live.run import kafka_source
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Decoded, Rejected
from driftgraph.stream.formats.event_rules import Decoder, Others, Reason
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.first_start import Start
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock, SystemClock
from driftgraph.stream.wording import BY_KEY, BY_OPTION

PAYLOAD_CHARACTERS_MAX: Final = 500  # of an example
BEHAVIORS_SHOWN: Final = 10  # in a sentence; --json has all
TOPIC_LIMIT: Final = 10_000  # messages of a topic
SILENCE_MAX_S: Final = 30.0  # after so long without a message the sample ends
HELD_FOR_S: Final = 10.0  # how long messages wait for a schema registry that is away
_POLL_S: Final = 0.2


class EmptyTopicError(DriftgraphError):
    """The topic has no message."""


@dataclass(slots=True)
class Report:
    """The result of a sample. ``rejected`` has for each reason its count and the first example."""

    source: str
    format: str
    impressions: tuple[str, ...] = ()  # of the names in ``applied``, those that make no edge
    applied: Counter[str] = field(default_factory=Counter)  # by behavior
    ignored: int = 0
    tombstones: int = 0  # how many of the ignored are records without a value that request nothing
    erased: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # rejected behaviors that are no relation
    examples: dict[str, Rejected] = field(default_factory=dict)
    first_ms: int = 0
    last_ms: int = 0
    with_id: int = 0  # events that carry an event_id
    out_of_order: int = 0  # events of a file that are older than an event before them
    notes: list[str] = field(default_factory=list)  # sentences that a replay will say about the file
    error: str | None = None  # why nothing can be read
    is_usable: bool = True  # False: a file that replay refuses

    @property
    def read(self) -> int:
        """How many events were judged."""
        return self.applied.total() + self.ignored + self.erased + self.rejected.total()

    def add(self, decoded: Decoded, names: tuple[str, ...]) -> None:
        """Count one read; ``names`` are the relations by their codes."""
        batch = decoded.batch
        if len(batch):
            counts = np.bincount(batch.relation, minlength=len(names)).tolist()
            self.applied.update({name: n for name, n in zip(names, counts, strict=True) if n})
            first, last = int(batch.time_ms.min()), int(batch.time_ms.max())
            self.first_ms = min(self.first_ms or first, first)
            self.last_ms = max(self.last_ms, last)
            if batch.event_id is not None:
                self.with_id += int(np.count_nonzero(np.diff(batch.event_id.offsets)))
        self.ignored += decoded.ignored
        self.tombstones += decoded.tombstones
        self.erased += len(decoded.erased)
        for rejected in decoded.rejected:
            self.rejected[rejected.reason] += 1
            self.examples.setdefault(rejected.reason, rejected)
            if rejected.behavior:
                self.unknown[rejected.behavior] += 1

    def advice(self) -> list[str]:
        """What to do where most events are rejected because their format is another one."""
        notes = []
        unread = self.rejected[Reason.BAD_UTF8] + self.rejected[Reason.BAD_JSON]
        first = next(
            (self.examples[one] for one in (Reason.BAD_UTF8, Reason.BAD_JSON) if one in self.examples), None
        )
        if 2 * unread > self.read and first is not None and _is_of_registry(first.payload):
            number = int.from_bytes(first.payload[1:5], "big")
            notes.append(
                f"the messages are those of a schema registry (a zero byte, and schema {number}): set "
                'events.format = "registry" and events.registry.url in driftgraph.toml'
            )
        lacking = self.examples.get(Reason.MISSING_FIELD)
        if 2 * self.rejected[Reason.MISSING_FIELD] > self.read and lacking is not None:
            there = lacking.detail.partition("; its fields are ")[2]
            if "." in there:
                notes.append(
                    'for fields within others set events.format = "mapping" in driftgraph.toml, and name in '
                    "[events.mapping] the paths of user, item, behavior and ts"
                )
        return notes

    def unknown_behaviors(self, relations: Sequence[str]) -> str:
        """What to do about the behaviors that are no relation; empty without any."""
        if not self.unknown:
            return ""
        most = [name for name, _ in self.unknown.most_common(BEHAVIORS_SHOWN)]
        more = f" and {len(self.unknown) - len(most):,} others" if len(self.unknown) > len(most) else ""
        return (
            f"{self.unknown.total():,} events have a behavior that is no relation, "
            f"{counted(self.unknown, most)}{more}: {BY_OPTION.these_relations(most, relations)}; "
            "events.ignore names behaviors that do not count"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; larger counts come first."""
        return {
            "source": self.source,
            "format": self.format,
            "events": {
                "read": self.read,
                "applied": self.applied.total(),
                "ignored": self.ignored,
                "erased": self.erased,
                "rejected": self.rejected.total(),
            },
            "ignored_tombstones": self.tombstones,
            "times": {"from": _time(self.first_ms), "to": _time(self.last_ms)},
            "out_of_order": self.out_of_order,
            "notes": self.notes,
            "error": self.error,
            "relations": {k: n for k, n in self.applied.most_common() if k not in self.impressions},
            "impressions": {k: n for k, n in self.applied.most_common() if k in self.impressions},
            "unknown_behaviors": dict(self.unknown.most_common()),
            "rejected": [
                {"reason": reason, "count": count, "example": _example(self.examples[reason])}
                for reason, count in self.rejected.most_common()
            ],
        }


def validate_file(settings: Settings, path: Path, limit: int | None, clock: Clock | None = None) -> Report:
    """Judge a file as a replay will, or with a ``limit`` only its first blocks, until so many are read.

    The order of times and the plausible times are those of the whole file in both cases.

    Raises:
        DriftgraphError: If the file, or a file of attributes, cannot be read as configured.
    """
    check_files(settings)
    notes: list[str] = []
    options = replace(file_options(settings, clock), empty_is_fine=True)
    with closing(FileSource(path, options, say=notes.append)) as file:
        impressions = settings.events.impressions
        report = Report(str(path), settings.events.format or file.format, impressions, notes=notes)
        while (limit is None or report.read < limit) and (decoded := file.next_batch()) is not None:
            report.add(decoded, file.relations)
        report.is_usable = file.is_usable
    if not report.is_usable:
        notes.append("none of its events can be used: replay will refuse it")
    if 2 * report.rejected[Reason.MISSING_FIELD] > report.read and options.decoder is None:
        notes.append(f"most events lack a field: {options.wording.columns}")
    notes += report.advice()
    if unknown := report.unknown_behaviors([name for name in settings.relations if report.applied[name]]):
        notes.append(unknown)
    if file.first_pass is not None and not file.first_pass.times.in_order:
        report.out_of_order = file.first_pass.times.out_of_order
        notes.append(
            f"the file is not in order of time: {report.out_of_order:,} events are older than one before "
            "them; replay and produce will sort it"
        )
    return report


def validate_topic(settings: Settings, topic: str, limit: int | None, clock: Clock | None = None) -> Report:
    """Judge the newest messages of a topic, about ``limit`` of them, the same number from each partition.

    Raises:
        EmptyTopicError: If the topic has no message.
        DriftgraphError: If the topic cannot be read.
    """
    limit = limit or TOPIC_LIMIT
    clock = clock or SystemClock()
    rules = event_rules(settings, clock, others=Others.REJECT if settings.relations else Others.LEARN)
    decoder = topic_decoder(settings, rules, BY_OPTION)
    options = KafkaOptions(
        topics=(topic,),
        client=settings.kafka.librdkafka(),
        group_id=settings.name,
        batch_max=min(limit, 10_000),
    )

    lows, highs = (offsets_at(start, options, decoder, clock) for start in ("earliest", "latest"))
    share = -(-limit // max(1, len(highs)))
    begin = {part: max(lows.get(part, high), high - share) for part, high in highs.items()}
    report = Report(f"kafka:{topic}", settings.events.format or "json", settings.events.impressions)
    source = kafka_source(options, decoder, clock, start=begin, held_for_s=HELD_FOR_S)
    try:
        heard_s = time.monotonic()
        while any(at < highs.get(part, 0) for part, at in source.position().items()):
            decoded = source.next_batch(_POLL_S)
            if decoded is None or (source.caught_up and not decoded.read_count):
                break
            if decoded.read_count:
                heard_s = time.monotonic()
                report.add(decoded, rules.behaviors.names)
            elif time.monotonic() - heard_s > SILENCE_MAX_S:
                raise DriftgraphError(
                    f"nothing came from {topic} within {SILENCE_MAX_S:g} s; does Kafka still run?"
                )
    finally:
        source.close()
    if report.read == 0:
        raise EmptyTopicError(f"the topic {topic} has no messages to look at")
    if 2 * report.rejected[Reason.MISSING_FIELD] > report.read:
        report.notes.append(f"most events lack a field: {BY_KEY.columns}")
    report.notes += report.advice()
    if unknown := report.unknown_behaviors(list(settings.relations)):
        report.notes.append(unknown)
    return report


def offsets_at(start: Start, options: KafkaOptions, decoder: Decoder, clock: Clock) -> Position:
    """The offset at which a start would begin to read each partition."""
    probe = KafkaSource(replace(options, start=start), decoder, clock)
    probe.close()
    return probe.position()


def counted(behaviors: Mapping[str, int], names: Iterable[str]) -> str:
    """How often these behaviors come: ``click 9,519, buy 370``."""
    return ", ".join(f"{name} {behaviors[name]:,}" for name in names)


def _is_of_registry(payload: bytes) -> bool:
    """Whether it begins as the serializers of a schema registry write it."""
    return len(payload) > 5 and payload[0] == 0


def _example(rejected: Rejected) -> dict[str, str]:
    text = rejected.payload[: 4 * PAYLOAD_CHARACTERS_MAX].decode(errors="backslashreplace")
    payload = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(payload) > PAYLOAD_CHARACTERS_MAX:
        payload = payload[:PAYLOAD_CHARACTERS_MAX] + "…"
    return {"origin": rejected.origin, "detail": rejected.detail, "payload": payload}


def _time(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds") if ms else None
