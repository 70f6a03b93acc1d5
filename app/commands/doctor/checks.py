"""All checks of ``driftgraph doctor`` in their order; other files of this folder have a subject each.

    settings ──► Kafka, a sample of events, the window's memory, Redis ──► [Check …], what each relation needs

It writes only keys of its own in Redis and a probe in data_dir, and removes them. Every check is made,
whatever the others have found.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from driftgraph.app.commands.doctor.attributes import attribute_topic_checks, delisted_topic_checks
from driftgraph.app.commands.doctor.clock import record_clock, redis_clock
from driftgraph.app.commands.doctor.data_dir import data_dir_checks, event_ids, ids_needed
from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.commands.doctor.machine import Needed, machine_checks
from driftgraph.app.commands.doctor.redis_server import redis_checks
from driftgraph.app.commands.validate import (
    BEHAVIORS_SHOWN,
    EmptyTopicError,
    Report,
    counted,
    offsets_at,
    validate_topic,
)
from driftgraph.app.config import saved_model
from driftgraph.app.config.attribute_tables import check_files
from driftgraph.app.config.builders import auto_interval, window_relations
from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.status_files import told
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats.event_rules import Reason, Rows
from driftgraph.stream.ingest.fit_schedule import EVENTS_MIN, SHARE
from driftgraph.stream.ingest.id_buckets import table_bytes
from driftgraph.stream.kafka.retention import duration_text, span_faults
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.topics import TopicError, topic_rules
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock, SystemClock
from driftgraph.stream.window.adjacency import HEAD_WORDS, WORDS
from driftgraph.stream.window.writer import Relation
from driftgraph.stream.wording import BY_KEY

SAMPLE: Final = 10_000  # events of the sample
RATE_OVER_MS: Final = 86_400_000  # the rate is that of a day, with its night and its evening
HEADROOM: Final = 1.5  # a capacity must also hold busy days
EVENT_BYTES: Final = 4 * WORDS
HEAD_BYTES: Final = 4 * HEAD_WORDS
WEIGHED: Final = 200  # messages of each partition whose size is measured
WEIGH_POLLS: Final = 100  # ten seconds at most
RECORD_BYTES: Final = 30  # bytes of a record beside its value: a short key, offsets and lengths
REJECTED_SHARE_MAX: Final = 0.01  # of a sample; more means a fault of the configuration or of a producer


@dataclass(frozen=True, slots=True)
class Need:
    """The need of a relation: ``events`` within its span at the measured rate, and its capacity."""

    relation: str
    per_day: float
    span_days: float
    events: int
    capacity: int

    @property
    def enough(self) -> bool:
        """Whether the ring has room at the rate of a busy day."""
        return self.capacity >= HEADROOM * self.events


@dataclass(slots=True)
class Findings:
    """The results of all checks."""

    checks: list[Check]
    needs: list[Need]
    partitions: int = 0
    ids: int = 0  # event ids within the horizon

    def needed(self) -> Needed:
        """What the machine must have for it."""
        events = sum(min(need.capacity, round(HEADROOM * need.events)) for need in self.needs)
        return Needed(EVENT_BYTES * events, table_bytes(self.ids) if self.ids else 0, self.partitions)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return all(check.state is not State.FAIL for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The results as plain values."""
        return {
            "healthy": self.healthy,
            "checks": [asdict(check) for check in self.checks],
            "window": [asdict(need) | {"enough": need.enough} for need in self.needs],
        }


def needs_of(relations: tuple[Relation, ...], per_day: float, shares: Mapping[str, float]) -> list[Need]:
    """The events in each relation's span at ``per_day`` events a day, split by ``shares``."""
    found = []
    for relation in relations:
        own, days = per_day * shares.get(relation.name, 0.0), relation.span_ms / 86_400_000
        found.append(Need(relation.name, own, days, round(own * days), relation.capacity))
    return found


def examine(settings: Settings, clock: Clock | None = None) -> Findings:
    """Check everything that a run depends on."""
    clock = clock or SystemClock()
    findings = Findings([], [])
    findings.checks += _guarded("relations", lambda: _relations(settings))
    findings.checks += _guarded("attributes", lambda: _attributes(settings))
    findings.checks += _guarded("attributes", lambda: attribute_topic_checks(settings, clock))
    findings.checks += _guarded("delisted", lambda: delisted_topic_checks(settings, clock))
    findings.checks += _guarded("events", lambda: _events(settings, clock, findings))
    findings.checks += _guarded("memory", lambda: _memory(settings, findings.needs))
    findings.checks += _guarded("machine", lambda: machine_checks(settings, findings.needed()))
    findings.checks += _guarded("data_dir", lambda: data_dir_checks(settings))
    findings.checks += _guarded("redis", lambda: redis_checks(settings))
    findings.checks += _guarded("clock", lambda: redis_clock(settings, clock))
    findings.checks += _guarded("model", lambda: _model(settings))
    findings.checks += _guarded("fits", lambda: _fits(settings, findings.needs))
    findings.checks += _guarded("device", lambda: _device(settings))
    findings.checks += _guarded("updater", lambda: _updater(settings))
    return findings


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """The checks of one subject. An error that stops them becomes a failed check."""
    checks: list[Check] = []
    try:
        checks.extend(look())
    except DriftgraphError as error:
        checks.append(Check(name, State.FAIL, str(error)))
    return checks


def _relations(settings: Settings) -> Iterator[Check]:
    window_relations(settings)  # refuses more than a window can hold
    if settings.relations:
        shown = settings.events.impressions
        and_shown = f"; shown: {', '.join(shown)}" if shown else ""
        yield Check("relations", State.OK, f"{', '.join(settings.relations)}{and_shown}")
    else:
        yield Check("relations", State.FAIL, "none is configured: add [relations.NAME] for each behavior")


def _attributes(settings: Settings) -> Iterator[Check]:
    for said in check_files(settings):
        yield Check("attributes", State.OK, said)


def _events(settings: Settings, clock: Clock, findings: Findings) -> Iterator[Check]:
    """Check the topic, a sample of it, and what the spans need at its rate (one event for each message)."""
    topic = settings.kafka.topic
    options = KafkaOptions(topics=(topic,), client=settings.kafka.librdkafka(), group_id=settings.name)
    decoder = topic_decoder(settings, event_rules(settings, clock))
    ends = offsets_at("latest", options, decoder, clock)
    day_ago = offsets_at(clock.now_ms() - RATE_OVER_MS, options, decoder, clock)
    per_day = float(sum(end - min(end, day_ago.get(part, end)) for part, end in ends.items()))
    findings.partitions = len(ends)
    yield Check("topic", State.OK, f"{topic}: {len(ends)} partitions, {per_day:,.0f} messages a day")
    yield from record_clock(settings, options, ends, clock)
    try:
        report = validate_topic(settings, topic, SAMPLE, clock)
    except EmptyTopicError:
        yield Check("events", State.WARN, f"{topic} has none yet; a run waits for the first one")
        return
    yield _sample(report, settings)
    ids_per_day = per_day * report.with_id / max(1, report.read)
    findings.ids = min(settings.deduplication.ids_max, ids_needed(settings.deduplication, ids_per_day))
    yield event_ids(settings.deduplication, ids_per_day)
    yield from _retention(settings, per_day, lambda: _bytes_of_a_message(options, ends, clock))
    shares = {name: count / report.read for name, count in report.applied.items()}
    findings.needs = needs_of(window_relations(settings), per_day, shares)
    for need in findings.needs:
        said = (
            f"{need.relation}: {need.events:,} events in {need.span_days:g} days, capacity {need.capacity:,}"
        )
        if need.enough:
            yield Check("capacity", State.OK, said)
        else:
            own = need.relation in settings.relations  # else an impression
            key = f"relations.{need.relation}.capacity" if own else "window.capacity"
            wanted = f"set {key} to {_round_up(HEADROOM * need.events):,} or more"
            yield Check("capacity", State.FAIL, f"{said}: the oldest would go early; {wanted}")


def _retention(
    settings: Settings, per_day: float, bytes_of_a_message: Callable[[], float]
) -> Iterator[Check]:
    """Check whether the topic keeps the longest span, by time and by size at the measured rate and size."""
    topic, client = settings.kafka.topic, settings.kafka.librdkafka()
    span_ms = max((relation.span_ms for relation in window_relations(settings)), default=0)
    try:
        rules = topic_rules(client, topic)
    except TopicError as error:
        yield Check("retention", State.WARN, str(error))
        return
    bytes_per_day = 0.0 if rules.retention_bytes is None else per_day * bytes_of_a_message()
    faults = list(span_faults(rules, span_ms, bytes_per_day))
    for fault in faults:
        yield Check("retention", State.WARN, f"{topic}: {fault}")
    if not faults:
        by_time = "for ever" if rules.retention_ms is None else f"for {duration_text(rules.retention_ms)}"
        by_size = "" if rules.retention_bytes is None else f", at most {rules.retention_bytes:,} bytes"
        span = duration_text(span_ms)
        yield Check(
            "retention", State.OK, f"{topic} keeps records {by_time}{by_size}; the longest span is {span}"
        )


class _Sizes:
    """A decoder that only measures the size of messages."""

    def __init__(self) -> None:
        self.bytes = self.count = 0

    def decode(self, rows: Rows) -> Decoded:
        """Add up the sizes of messages, with some bytes for key and framing."""
        self.count += len(rows)
        self.bytes += sum(len(payload or b"") + RECORD_BYTES for payload in rows.payloads)
        return Decoded(EMPTY)


def _bytes_of_a_message(options: KafkaOptions, ends: Position, clock: Clock) -> float:
    """The mean size of the newest messages, before compression; 0 if there is none."""
    sizes = _Sizes()
    lows = offsets_at("earliest", options, sizes, clock)
    begin = {part: max(lows.get(part, end), end - WEIGHED) for part, end in ends.items()}
    source = KafkaSource(options, sizes, clock, start=begin)
    try:
        for _ in range(WEIGH_POLLS):
            if source.caught_up or source.next_batch(0.1) is None:
                break
    finally:
        source.close()
    return sizes.bytes / sizes.count if sizes.count else 0.0


def _sample(report: Report, settings: Settings) -> Check:
    rejected = report.rejected.total()
    said = f"{report.read:,} looked at, {report.applied.total():,} would be applied, {rejected:,} rejected"
    if not settings.relations and report.applied:
        names = [name for name, _ in report.applied.most_common(BEHAVIORS_SHOWN)]
        found = f"{report.read:,} looked at: {counted(report.applied, names)}"
        return Check("events", State.FAIL, f"{found}; {BY_KEY.these_relations(names)}")
    if rejected <= REJECTED_SHARE_MAX * report.read:
        return Check("events", State.OK, said)
    [(reason, _)] = report.rejected.most_common(1)
    detail = report.examples[reason].detail
    if reason == Reason.UNKNOWN_BEHAVIOR:
        names = [name for name, _ in report.unknown.most_common(BEHAVIORS_SHOWN)]
        detail = f"no relation: {counted(report.unknown, names)}"
    state = State.FAIL if rejected > report.read // 2 else State.WARN
    fields = f"{BY_KEY.columns}; " if reason == Reason.MISSING_FIELD else ""
    fields += "".join(f"{one}; " for one in report.advice())
    return Check("events", state, f"{said}, most for {reason} ({detail}); {fields}see driftgraph validate")


def _memory(settings: Settings, needs: list[Need]) -> Iterator[Check]:
    """Check whether the window's disk has room for the events at their rates and the heads of all rows."""
    if not needs:
        yield Check("memory", State.WARN, "what the window needs is unknown without the topic's rate")
        return
    folder = settings.window.dir or settings.data_dir / "window"
    there = next(path for path in (folder, *folder.parents, Path("/")) if path.exists())
    free = shutil.disk_usage(there).free
    events = sum(min(need.capacity, round(HEADROOM * need.events)) for need in needs)
    rows = settings.window.user_rows + settings.window.item_rows
    used, most = EVENT_BYTES * events, EVENT_BYTES * events + HEAD_BYTES * rows * len(needs)
    said = f"events take {_gb(used)}, with a head for every row {_gb(most)}; {there} has {_gb(free)} free"
    if used > free:
        yield Check("memory", State.FAIL, f"{said}: set window.dir to a larger disk, or shorten the spans")
    else:
        yield Check("memory", State.WARN if most > free else State.OK, said)


def _model(settings: Settings) -> Iterator[Check]:
    """Check whether this configuration can go on with the saved model."""
    saved = saved_model.newest(settings.data_dir)
    if saved is None:
        yield Check("model", State.OK, f"none is saved in {settings.data_dir}: the first fit starts one")
    elif (refusal := saved.refusal(settings)) is not None:
        yield Check("model", State.FAIL, refusal)
    else:
        said = f"model version {saved.model_version} in {saved.folder} goes on"
        changes = saved.changes(settings)
        yield Check("model", State.WARN if changes else State.OK, f"{said}: {changes}" if changes else said)


def _fits(settings: Settings, needs: list[Need]) -> Iterator[Check]:
    """Say when a fit is due, and how often that is at the measured rate."""
    fit = settings.fit
    also = "" if fit.events is None else f", and after each {fit.events:,} new events"
    if fit.every != "auto":
        yield Check("fits", State.OK, f"one each {fit.every} of event time{also}")
        return
    auto = auto_interval(settings, window_relations(settings))
    fewest, most = auto.needed(EVENTS_MIN), auto.events_max
    if per_day := sum(need.per_day for need in needs):
        due_ms = auto.needed(sum(need.events for need in needs)) / per_day * RATE_OVER_MS
        each = duration_text(round(min(max(due_ms, auto.least_ms), auto.most_ms)))
        also += f"; about one each {each} at this rate"
    yield Check(
        "fits",
        State.OK,
        f"one is due once one in {SHARE} of the window's events is new ({fewest:,} to {most:,} events), "
        f"{duration_text(auto.least_ms)} to {duration_text(auto.most_ms)} after the one before{also}",
    )


def _device(settings: Settings) -> Iterator[Check]:
    from driftgraph.app.training.device import check_custom, described_device  # noqa: PLC0415  # torch: 2 s

    yield Check("device", State.OK, described_device(settings.model.device))
    if settings.model.custom is not None:
        check_custom(settings)
        yield Check("device", State.OK, f"it trains {settings.model.custom}")


def _updater(settings: Settings) -> Iterator[Check]:
    """Check the updater of this data_dir, if one has run."""
    updater = told(settings.data_dir, "updater")
    if updater is None:
        return
    state = {"degraded": State.FAIL, "failed": State.WARN, "unknown": State.WARN}.get(
        updater["state"], State.OK
    )
    pid = f", pid {updater['pid']}" if updater["pid"] is not None else ""
    why = f": {updater['why']}" if updater.get("why") else ""
    yield Check("updater", state, f"{updater['state']}{pid}{why}")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _round_up(count: float) -> int:
    """The next power of two."""
    return 1 << max(0, int(count) - 1).bit_length()
