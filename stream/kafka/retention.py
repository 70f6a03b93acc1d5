"""Whether a topic keeps its records long enough: its rules compared with event times and with spans.

TopicRules ──► [loss_of] ──► produce refuses;  [span_faults] ──► doctor warns
TopicRules ──► [catalog_fault] ──► doctor and the updater warn
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from driftgraph.stream.kafka.topics import TopicRules

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Loss:
    """How a topic would lose records, as half a sentence with the remedy."""

    said: str
    refused: bool = False  # True: the brokers refuse the records; False: they remove them later


def loss_of(rules: TopicRules, oldest_ms: int, newest_ms: int, now_ms: int) -> Loss | None:
    """How a topic would lose records of these times, and the remedy; None if it keeps all of them.

    Args:
        rules: The topic's.
        oldest_ms: Time of the oldest record.
        newest_ms: Time of the newest record.
        now_ms: Time of the wall clock.
    """
    age_ms, ahead_ms = now_ms - oldest_ms, newest_ms - now_ms
    old = f"events are up to {duration_text(age_ms)} old ({_time(oldest_ms)})"
    if rules.compacted:
        return Loss(
            "it is compacted (cleanup.policy), so Kafka keeps only the newest event of each user; set "
            "cleanup.policy=delete"
        )
    if rules.append_time:
        return None  # the age of a record counts from its arrival
    if rules.before_max_ms is not None and age_ms > rules.before_max_ms:
        return Loss(
            f"it refuses records older than {duration_text(rules.before_max_ms)}, and these {old}; raise "
            f"message.timestamp.before.max.ms from {rules.before_max_ms}",
            refused=True,
        )
    if rules.after_max_ms is not None and ahead_ms > rules.after_max_ms:
        return Loss(
            f"it refuses records that are ahead by more than {duration_text(rules.after_max_ms)}, and these "
            f"events are up to {duration_text(ahead_ms)} ahead ({_time(newest_ms)}); raise "
            f"message.timestamp.after.max.ms from {rules.after_max_ms}",
            refused=True,
        )
    if rules.retention_ms is not None and age_ms > rules.retention_ms:
        return Loss(
            f"it keeps records for {duration_text(rules.retention_ms)}, and these {old}, so Kafka would "
            f"remove them; set retention.ms=-1 (it is {rules.retention_ms})"
        )
    return None


def span_faults(rules: TopicRules, span_ms: int, bytes_per_day: float) -> Iterator[str]:
    """Why a topic does not hold a whole span, each with its remedy.

    Args:
        rules: The topic's.
        span_ms: The longest span.
        bytes_per_day: The rate of all partitions together.
    """
    if rules.retention_ms is not None and rules.retention_ms < span_ms:
        yield (
            f"records go after {duration_text(rules.retention_ms)} (retention.ms = {rules.retention_ms}), "
            f"and the longest span is {duration_text(span_ms)}: a start without a checkpoint cannot fill the "
            f"window; set retention.ms to {span_ms + DAY_MS} or more"
        )
    if rules.retention_bytes is not None and bytes_per_day > 0:
        reach_ms = round(DAY_MS * rules.retention_bytes / bytes_per_day)
        if reach_ms < span_ms:
            each = rules.retention_bytes // max(1, rules.partitions)
            wanted = -(-round(bytes_per_day * (span_ms + DAY_MS) / DAY_MS) // max(1, rules.partitions))
            yield (
                f"records go after about {duration_text(reach_ms)} (retention.bytes = {each}, at "
                f"{bytes_per_day:,.0f} bytes a day), and the longest span is {duration_text(span_ms)}; set "
                f"retention.bytes to {wanted} or more"
            )
    if rules.compacted:
        yield (
            "it is compacted (cleanup.policy): of the events with one key only the newest stays, so a start "
            "without a checkpoint misses the others, unless every event has a key of its own; set "
            "cleanup.policy=delete"
        )


def catalog_fault(rules: TopicRules) -> str | None:
    """Why a topic that is read from its beginning does not keep the newest record of each key, with the
    remedy; else None.
    """
    limits = []
    if rules.retention_ms is not None:
        limits.append(f"go after {duration_text(rules.retention_ms)} (retention.ms = {rules.retention_ms})")
    if rules.retention_bytes is not None:
        limits.append(f"go beyond {rules.retention_bytes:,} bytes (retention.bytes)")
    if limits:
        return (
            f"its records {' and '.join(limits)}, so a start that reads it from its beginning does not "
            "know what was said before; set cleanup.policy=compact"
        )
    if not rules.compacted:
        return (
            "it is not compacted, so it grows with each record and a start from its beginning reads all of "
            "them; set cleanup.policy=compact"
        )
    return None


def duration_text(ms: int) -> str:
    """A duration for people."""
    for unit, name in ((DAY_MS, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1_000, "seconds")):
        if ms >= 2 * unit:
            return f"{ms // unit:,} {name}" if ms >= 100 * unit else f"{ms / unit:.3g} {name}"
    return f"{ms} ms"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
