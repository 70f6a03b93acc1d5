"""Kafka as a source: partitions assigned, not subscribed; the position is the caller's.

    topic ──► librdkafka ──► [KafkaSource] ──► Rows ──► Decoder ──► Decoded
                  └─ signals, offsets

The state of a partition lives in this updater's window, so no group may move it (ARCHITECTURE section 7). The
group id serves lag tools only: offsets are committed to it and never read back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftgraph.stream.events import EMPTY, I32, Decoded
from driftgraph.stream.formats.event_rules import Decoder, Rows
from driftgraph.stream.kafka.causes import Property
from driftgraph.stream.kafka.client import (
    all_are_there,
    consumer_of,
    origin_of,
    partition_counts,
    raise_if_final,
)
from driftgraph.stream.kafka.offsets import (
    OutOfRange,
    Place,
    begins_in_new_topic,
    offset_after_loss,
    offsets_at,
    range_of,
)
from driftgraph.stream.kafka.read_ahead import ReadAhead
from driftgraph.stream.kafka.signals import KafkaSignals, part_of, part_of_message
from driftgraph.stream.kafka.topic_ids import TopicIds
from driftgraph.stream.sources.first_start import Start, start_of
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

LOG = logging.getLogger("driftgraph.kafka")

TOPIC_STRIDE: Final = 1 << 16  # of the number that stands for (topic, partition) in EventBatch.partition

_OUT_OF_RANGE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What is read from where. ``client`` goes to librdkafka as it is, and has ``bootstrap.servers``."""

    topics: tuple[str, ...]
    client: Mapping[str, Property]
    group_id: str = "driftgraph"
    shard: tuple[int, int] = (0, 1)  # (i, n): partitions p with p mod n = i
    start: Start | str = "earliest"  # of the very first start: also ts=… and last=1h
    out_of_range: OutOfRange = "fail"  # what to do when the next event is gone
    batch_max: int = 40_000  # messages of one read, in a catch-up: some 10 MB, 40 ms from here to the window
    connect_timeout_s: float = 10.0
    new_partitions_every_s: float = 60.0


class KafkaSource:
    """Reads topics, or shard ``i/n`` of their partitions.

    Always true: ``position`` has every assigned partition, as ``topic[partition]`` → the next offset;
    nothing is committed but by ``commit``; no event is left out but those that ``lost`` counts; the numbers
    in ``EventBatch.partition`` are the partitions of the first topic, and ``k * TOPIC_STRIDE`` more for the
    k-th next.
    """

    def __init__(
        self,
        options: KafkaOptions,
        decoder: Decoder,
        clock: Clock,
        *,
        start: Position | None = None,
        topic_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Begin at ``start``, a position in the topics of ``topic_ids``; without it at ``options.start``."""
        self._options = options
        self._decoder = decoder
        self._servers = str(options.client.get("bootstrap.servers", ""))
        self._ids = TopicIds(options.client, options.topics, topic_ids or {})
        self._paused = False
        self._held: frozenset[str] = frozenset()  # paused on their own, whatever ``_paused`` says
        self._closed = False
        self._at_end: set[str] = set()
        self._next: dict[str, int] = {}  # part → next offset
        self._place_of: dict[str, Place] = {}  # part → topic, partition
        self._lost: dict[str, int] = {}
        self._set_aside: list[Message] = []  # read ahead, of partitions that are held since
        self._sift = False  # with the next read: some of it is to be set aside, or to come back
        self._open()
        try:
            self._connect(start, start_of(options.start, clock.now_ms()))
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """A consumer that knows nothing of a topic yet."""
        options = self._options
        more: dict[str, Property] = {
            "group.id": options.group_id,
            "topic.metadata.refresh.interval.ms": round(options.new_partitions_every_s * 1_000),
        }
        self._signals = KafkaSignals(options.topics)
        self._consumer: Consumer = consumer_of(options.client, more, self._signals)
        self._reader = ReadAhead(self._consumer, options.batch_max)

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """What comes within ``timeout_s``, at most ``batch_max`` messages; None only after ``close``."""
        if self._closed:
            return None
        if self._ids.changed():
            self._go_on_in_new_topic()
        self._take_new_partitions()
        try:
            messages = self._read(timeout_s)
        except KafkaException as error:
            raise_if_final(error.args[0], self._servers)
            messages = []
        # three calls a message, so each is made in C: a quarter of the time that a read of many takes
        good = messages
        if any(map(Message.error, messages)):
            good = [message for message in messages if message.error() is None]
        if not good:
            if self._signals.topic_missing and not self.away:
                self._signals.topic_missing = not all_are_there(self._consumer, self._options.topics)
            self._take_signals(messages)
            return Decoded(EMPTY, position=self.position())
        topic_number = self._topic_numbers(good)
        partition = np.fromiter(map(Message.partition, good), np.int32, len(good))
        self._advance(good, topic_number, partition)
        if len(good) != len(messages):
            self._take_signals(messages)
        rows = Rows(
            list(map(Message.value, good)),
            lambda row: origin_of(good[row]),
            partition + topic_number * np.int32(TOPIC_STRIDE),
        )
        return replace(self._decoder.decode(rows), position=self.position())

    def _read(self, timeout_s: float) -> list[Message]:
        """The next messages; what was read ahead of a pause or a hold waits for its end."""
        if self._paused:
            return self._consumer.consume(1, timeout_s)
        messages = self._reader.take(timeout_s)
        if not self._sift:
            return messages
        messages = self._set_aside + messages
        self._set_aside, self._sift = [], False
        found: list[Message] = []
        for message in messages:
            if (part := part_of_message(message)) in self._held:
                self._set_aside.append(message)
                self._at_end.discard(part)
            else:
                found.append(message)
        return found

    def position(self) -> Position:
        """``topic[partition]`` → the next offset."""
        return dict(self._next)

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The ids of the topics that ``position`` is of, as far as brokers told them."""
        return dict(self._ids.known)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The assigned partitions by their numbers in ``EventBatch.partition``, for ``Watermark.assign``."""
        return tuple(map(self._number, self._next))

    @property
    def away(self) -> bool:
        """Whether no broker can be reached. Follows the truth by about a second."""
        return self._signals.away

    @property
    def why_away(self) -> str:
        """What is known of the cause, and what to look at."""
        return "; ".join(self._signals.why_unreachable(f"{self._servers} does not answer"))

    @property
    def caught_up(self) -> bool:
        """Whether the broker answers and the end of every partition was seen after its last event.

        A source that is paused or holds partitions cannot know, and says no.
        """
        reading = not (self.away or self._paused or self._held)
        return reading and len(self._at_end) == len(self._next)

    @property
    def behind(self) -> Collection[int]:
        """Partitions, by their numbers, that have not come to where they ended a second or two ago.

        One whose end is not known yet is among them. Under a steady load none is: an end is not seen then,
        as more comes before it is told.
        """
        ends = self._signals.ends_before
        return [
            self._number(part)
            for part, offset in self._next.items()
            if part not in self._at_end and (part not in ends or offset < ends[part])
        ]

    @property
    def lost(self) -> Mapping[str, int]:
        """Offsets left out by ``out_of_range`` since the start, by part."""
        return dict(self._lost)

    def lag(self) -> Mapping[str, int]:
        """Offsets between the position and the end of what is committed, by statistics of the last second.

        Asks no broker. A partition whose end is not known yet is left out; the end of a paused one stands
        still.
        """
        lags: dict[str, int] = {}
        for part, offset in self._next.items():
            end = offset if part in self._at_end else self._signals.ends.get(part, -1)
            if end < 0:  # no statistics since its first answer
                place = TopicPartition(*self._place_of[part])
                _, end = self._consumer.get_watermark_offsets(place, cached=True)
            if end >= 0:
                lags[part] = max(0, end - offset)
        return lags

    def pause(self) -> None:
        """Fetch no more; go on calling ``next_batch``, which returns empty batches."""
        self._paused = True
        self._reader.settle()
        self._consumer.pause(self._assignment())

    def resume(self) -> None:
        """Fetch again, but for the partitions that are held."""
        self._paused = False
        self._reader.settle()
        self._consumer.resume(self._assignment(set(self._next) - self._held))

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these, by their numbers, until the next call; the others go on."""
        wanted = set(partitions)
        held = frozenset(part for part in self._next if self._number(part) in wanted)
        added, freed = held - self._held, self._held - held
        self._held = held
        self._sift |= (bool(added) and self._reader.is_ahead) or (bool(freed) and bool(self._set_aside))
        if added or freed:
            self._reader.settle()
        if added and not self._paused:
            self._consumer.pause(self._assignment(added))
        if freed and not self._paused:
            self._consumer.resume(self._assignment(freed))

    def commit(self, position: Position) -> None:
        """Send a position to the group for lag tools. Does not wait, and a failure is only logged."""
        offsets = [
            TopicPartition(*self._place_of[part], offset)
            for part, offset in position.items()
            if part in self._place_of
        ]
        if offsets and not self._closed:
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def close(self) -> None:
        """Leave the broker."""
        if not self._closed:
            self._closed = True
            self._ids.close()
            self._reader.close()
            self._consumer.close()

    def _connect(self, position: Position | None, first: Start) -> None:
        """Find the partitions, decide where each begins, and assign them."""
        counts = partition_counts(
            self._consumer,
            self._signals,
            self._options.topics,
            servers=self._servers,
            within_s=self._options.connect_timeout_s,
        )
        self._signals.partition_counts.update(counts)
        parts = [(topic, p) for topic, count in counts.items() for p in range(count) if self._is_mine(p)]
        if not parts:
            index, count = self._options.shard
            LOG.warning("shard %d/%d has no partition of %s", index, count, ", ".join(self._options.topics))
        known, anew = self._ids.split(position or {}, counts, self._options.connect_timeout_s)
        self._place_of = {part_of(*place): place for place in parts}
        missing = [place for place in parts if part_of(*place) not in known and place[0] not in anew]
        # a partition that a checkpoint does not know was added since: all of it is new
        begins = offsets_at(self._consumer, missing, first if position is None else "earliest")
        for topic, why in anew.items():
            ranges = {place: range_of(self._consumer, place) for place in parts if place[0] == topic}
            found, lost, said = begins_in_new_topic(topic, why, ranges, self._options.out_of_range)
            begins |= found
            self._lost |= {part: self._lost.get(part, 0) + count for part, count in lost.items()}
            LOG.error("%s", said)
        self._next = {part_of(*place): known.get(part_of(*place), begins.get(place, 0)) for place in parts}
        self._assign()

    def _go_on_in_new_topic(self) -> None:
        """A topic was made anew under us. A new consumer reads it: the old one remembers leaders and ends."""
        self._reader.close()
        self._consumer.close()
        self._open()
        self._connect(self._next, "earliest")

    def _assign(self) -> None:
        self._reader.drop()
        self._set_aside, self._sift = [], False
        self._at_end.clear()
        self._consumer.assign(self._assignment())
        still = set(self._next) if self._paused else self._held & set(self._next)
        if still:
            self._consumer.pause(self._assignment(still))

    def _assignment(self, parts: Collection[str] | None = None) -> list[TopicPartition]:
        return [
            TopicPartition(*self._place_of[part], self._next[part])
            for part in (self._next if parts is None else parts)
        ]

    def _number(self, part: str) -> int:
        topic, partition = self._place_of[part]
        return self._options.topics.index(topic) * TOPIC_STRIDE + partition

    def _is_mine(self, partition: int) -> bool:
        index, count = self._options.shard
        return partition % count == index

    def _take_new_partitions(self) -> None:
        """Assign partitions that statistics have shown since; each from its first event on."""
        new = [
            (topic, partition)
            for topic, count in self._signals.partition_counts.items()
            for partition in range(count)
            if self._is_mine(partition) and part_of(topic, partition) not in self._next
        ]
        if new:
            for place in new:
                self._place_of[part_of(*place)] = place
                self._next[part_of(*place)] = 0
            LOG.info("found %s", ", ".join(part_of(*place) for place in new))
            self._assign()

    def _topic_numbers(self, messages: Sequence[Message]) -> I32:
        if len(self._options.topics) == 1:
            return np.zeros(len(messages), np.int32)
        number_of = {topic: number for number, topic in enumerate(self._options.topics)}
        return np.fromiter((number_of[str(m.topic())] for m in messages), np.int32, len(messages))

    def _advance(self, messages: Sequence[Message], topic_number: I32, partition: I32) -> None:
        """Move the position past the messages: by partition, past its last one."""
        number = topic_number.astype(np.int64) * TOPIC_STRIDE + partition
        distinct, last = np.unique(number[::-1], return_index=True)
        for value, back in zip(distinct.tolist(), last.tolist(), strict=True):
            part = part_of(self._options.topics[value // TOPIC_STRIDE], value % TOPIC_STRIDE)
            self._next[part] = cast("int", messages[len(messages) - 1 - back].offset()) + 1
            self._at_end.discard(part)

    def _take_signals(self, messages: Sequence[Message]) -> None:
        """Ends of partitions, and errors that concern one."""
        for message in messages:
            error = message.error()
            if error is None:
                continue
            part = part_of_message(message)
            if error.code() == KafkaError._PARTITION_EOF:
                end = message.offset()
                if part in self._next and end is not None and end >= self._next[part]:
                    self._next[part] = end  # past the markers of transactions
                    self._at_end.add(part)
            elif error.code() == KafkaError._UNKNOWN_PARTITION:
                self._go_on_in_new_topic()  # or in the old one, if all of it is there after all
                return
            elif error.code() in _OUT_OF_RANGE and part in self._next:
                if self._ids.known and self._ids.changed_now(self._options.connect_timeout_s):
                    self._go_on_in_new_topic()
                    return
                self._go_on_after_loss(part)
            else:
                raise_if_final(error, f"{part}@{self._next.get(part, -1)}")

    def _go_on_after_loss(self, part: str) -> None:
        """The next event of a partition is gone. Asks the broker, which has just answered."""
        offsets = range_of(self._consumer, self._place_of[part])
        if not offsets[0] <= self._next[part] <= offsets[1]:  # else it was told twice
            self._next[part], lost, said = offset_after_loss(
                self._place_of[part], self._next[part], offsets, self._options.out_of_range
            )
            self._lost[part] = self._lost.get(part, 0) + lost
            LOG.error("%s", said)
        self._assign()
