"""Groups dead letters, sends them back to the topic that they came from, and removes them.

    LetterBox ──► [summarize] ──► reasons, counts, examples
              ──► [retry]     ──► source topic: the event as it was, with the count of its retries
              ──► [purge]

A retry delivers at least once: after a crash between the acknowledgement of a chunk and its mark, the next
retry sends that chunk again. Events with an ``event_id`` are applied once all the same (``ingest.dedupe``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from driftgraph.stream import disk
from driftgraph.stream.dead_letters.letters import (
    ATTEMPTS_HEADER,
    DeadLetterError,
    Letter,
    LetterBox,
    origin_of,
    own_headers,
    partition_of,
)
from driftgraph.stream.events import Rejected
from driftgraph.stream.formats.event_rules import Reason
from driftgraph.stream.kafka.producer import EventProducer
from driftgraph.stream.kafka.topics import TopicRules

TOO_OLD: Final = -1
CHUNK: Final = 1_000  # letters that are sent, acknowledged and marked together; a crash may send them twice


@dataclass
class Group:
    """The open letters of one reason."""

    reason: str
    count: int = 0
    tried: int = 0  # how many of them a retry had sent before
    newest_ms: int = 0
    example: Letter | None = None  # the newest

    def to_json(self) -> dict[str, Any]:
        """The group as JSON, with the newest letter as the example."""
        assert self.example is not None
        return {
            "reason": self.reason,
            "count": self.count,
            "tried_before": self.tried,
            "newest_ms": self.newest_ms,
            "example": {
                "id": self.example.id,
                "origin": self.example.rejected.origin,
                "detail": self.example.rejected.detail,
            },
        }


@dataclass
class Redriven:
    """How many letters a retry has sent, and how many it could not send."""

    sent: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of the letters that were sent
    cut: int = 0  # not sent: their payload was cut
    foreign: int = 0  # not sent: they came from a file, not from a topic
    retimed: int = 0  # sent with the time of now, since the topic would soon remove records of their time
    too_old: int = 0  # not sent: the topic would remove them at once, and the time of their record counts

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON."""
        found = {"sent": self.sent, "reasons": dict(self.reasons), "cut": self.cut, "foreign": self.foreign}
        return found | {name: n for name in ("retimed", "too_old") if (n := getattr(self, name))}


@dataclass
class Keeping:
    """Which record times a topic keeps long enough for the event to be read.

    A record that is older than half of what its topic keeps has the time of now instead: the event keeps its
    own time, which stands in the payload. Where the record's time is the event's, or says how far a request
    to erase reaches, it stays; a letter that would be removed at once is not sent then.
    """

    rules_of: Callable[[str], TopicRules | None]  # by topic; None: not known
    now_ms: int
    time_counts: Callable[[Rejected], bool] = lambda _: False
    _limits: dict[str, int | None] = field(default_factory=dict)

    def time_of(self, rejected: Rejected, topic: str) -> int | None:
        """The record time to send a letter with; ``TOO_OLD`` if none is right."""
        limit_ms = self._limit_ms(topic)
        if rejected.timestamp_ms is None or limit_ms is None:
            return rejected.timestamp_ms
        age_ms = self.now_ms - rejected.timestamp_ms
        if 2 * age_ms <= limit_ms:
            return rejected.timestamp_ms
        if rejected.reason == Reason.TOMBSTONE or self.time_counts(rejected):
            return rejected.timestamp_ms if age_ms < limit_ms else TOO_OLD
        return self.now_ms

    def _limit_ms(self, topic: str) -> int | None:
        if topic not in self._limits:
            rules = self.rules_of(topic)
            limits = [] if rules is None or rules.append_time else [rules.retention_ms, rules.before_max_ms]
            self._limits[topic] = min((limit for limit in limits if limit is not None), default=None)
        return self._limits[topic]


def summarize(letters: Iterable[Letter]) -> tuple[list[Group], int]:
    """The open letters by reason, the most frequent first, and the number of letters that are done."""
    groups: dict[str, Group] = {}
    done = 0
    for letter in letters:
        if letter.done:
            done += 1
            continue
        group = groups.setdefault(letter.rejected.reason, Group(letter.rejected.reason))
        group.count += 1
        group.tried += letter.attempts > 0
        if group.example is None or letter.kept_ms >= group.newest_ms:
            group.newest_ms, group.example = letter.kept_ms, letter
    return sorted(groups.values(), key=lambda group: (-group.count, group.reason)), done


def retry(
    box: LetterBox,
    producer: EventProducer,
    *,
    topic: str,
    reason: str | None = None,
    limit: int | None = None,
    keeping: Keeping | None = None,
) -> Redriven:
    """Send open letters back, the oldest first.

    Each chunk goes in this order, and a crash after any step loses nothing:
      1. read up to ``CHUNK`` letters that are open;
      2. produce their events: key, headers and payload as they came, to their own partition, at their own
         time or, where the topic would soon remove that, at the time of now (``Keeping``);
      3. wait until the brokers have acknowledged all of them; if one fails, stop here with the reason;
      4. mark them as done, on the disk or on the brokers; from here on no retry sends them again.

    Args:
        box: The place of the letters.
        producer: A producer for the cluster of the source topic.
        topic: The topic of letters that do not know theirs: those of late events know only their partition.
        reason: Only letters of this reason.
        limit: The most letters to send.
        keeping: What the topics keep; None: everything.

    Raises:
        DriftgraphError: If the letters cannot be read or marked, or the brokers do not take an event.
    """
    report, counts = Redriven(), dict[str, int]()
    keeping = keeping or Keeping(lambda _: None, 0)
    wanted = islice(_sendable(box.letters(), reason, report, keeping, topic), limit)
    while chunk := list(islice(wanted, CHUNK)):
        for letter in chunk:
            time_ms = keeping.time_of(letter.rejected, _topic_of(letter, topic))
            report.retimed += time_ms != letter.rejected.timestamp_ms
            _send(producer, letter, topic, counts, time_ms)
        producer.finish()
        box.mark_done([letter.id for letter in chunk])
        report.sent += len(chunk)
        report.reasons.update(letter.rejected.reason for letter in chunk)
    return report


def purge(box: LetterBox, *, before_ms: int | None = None, reason: str | None = None) -> int:
    """Remove letters, open or done, of a reason and kept before a time; return how many were removed."""
    chosen = [
        letter.id
        for letter in box.letters()
        if (before_ms is None or letter.kept_ms < before_ms)
        and (reason is None or letter.rejected.reason == reason)
    ]
    if chosen:
        box.purge(chosen)
    return len(chosen)


def _topic_of(letter: Letter, topic: str) -> str:
    """Where it came from; ``topic`` of one that does not know."""
    origin = origin_of(letter.rejected)
    return origin[0] if origin else topic


def _sendable(
    letters: Iterable[Letter], reason: str | None, report: Redriven, keeping: Keeping, topic: str
) -> Iterator[Letter]:
    for letter in letters:
        if letter.done or reason not in (None, letter.rejected.reason):
            continue
        if not letter.is_whole:
            report.cut += 1
        elif partition_of(letter.rejected) is None:
            report.foreign += 1
        elif keeping.time_of(letter.rejected, _topic_of(letter, topic)) == TOO_OLD:
            report.too_old += 1
        else:
            yield letter


def _send(
    producer: EventProducer, letter: Letter, topic: str, counts: dict[str, int], time_ms: int | None
) -> None:
    rejected = letter.rejected
    topic, partition = _topic_of(letter, topic), partition_of(rejected)
    if topic not in counts:
        counts[topic] = producer.partition_count(topic)
    attempts = (ATTEMPTS_HEADER, b"%d" % (letter.attempts + 1))
    producer.send(
        key=rejected.key,
        value=None if rejected.reason == Reason.TOMBSTONE else rejected.payload,
        timestamp_ms=time_ms,
        # the updater that reads this partition has the user's events, whichever partitioner was used
        partition=partition if partition is not None and partition < counts[topic] else None,
        headers=(*own_headers(rejected.headers), attempts),
        topic=topic,
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A lock so that one retry at a time uses the letters of this data_dir: two would send each letter twice.

    Raises:
        DeadLetterError: If another retry runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "retry.lock").open("a") as file:
        try:
            held = disk.lock(file.fileno(), folder / "retry.lock")
        except BlockingIOError as error:
            raise DeadLetterError(f"another dlq retry of {folder} runs; wait for its end") from error
        try:
            yield
        finally:
            held.close()
