"""Kafka as a source: partitions assigned, not subscribed; the position is the caller's.

    topic ──► librdkafka ──► [KafkaSource] ──► Rows ──► Decoder ──► Decoded
                  └─ signals, offsets    └─ a Partition for each

The events of a partition are in this updater's window, so no group may give the partition to another
consumer (ARCHITECTURE section 7). The group id serves lag tools only: offsets are committed to it and never
read back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftgraph.stream.arrays import I32
from driftgraph.stream.events import EMPTY, Decoded
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
    begins_in_new_topic,
    offset_after_loss,
    offsets_at,
    range_of,
)
from driftgraph.stream.kafka.partition import (
    TOPIC_STRIDE,
    Partition,
    Place,
    numbers_of,
    partition_name,
    partition_name_of,
    places_of_shard,
)
from driftgraph.stream.kafka.read_ahead import ReadAhead
from driftgraph.stream.kafka.signals import KafkaSignals
from driftgraph.stream.kafka.topic_ids import TopicIds
from driftgraph.stream.sources.first_start import Start, start_of
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

LOG = logging.getLogger("driftgraph.kafka")

_OUT_OF_RANGE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """Which topics are read, and how."""

    topics: tuple[str, ...]
    client: Mapping[str, Property]  # goes to librdkafka unchanged; it has ``bootstrap.servers``
    group_id: str = "driftgraph"
    shard: tuple[int, int] = (0, 1)  # (i, n): partitions p with p mod n = i
    start: Start | str = "earliest"  # where the very first start begins: also ts=… and last=1h
    out_of_range: OutOfRange = "fail"  # what to do when the next event is gone
    batch_max: int = 40_000  # messages of one read, in a catch-up: some 10 MB, 40 ms from here to the window
    connect_timeout_s: float = 10.0
    new_partitions_every_s: float = 60.0


class KafkaSource:
    """Reads topics, or shard ``i/n`` of their partitions.

    Always true: ``position`` has every assigned partition, as ``topic[partition]`` → the next offset;
    only ``commit`` commits; no event is left out except those that ``lost`` counts; the numbers in
    ``EventBatch.partition`` are Kafka's numbers of the partitions, plus ``k * TOPIC_STRIDE`` for those of
    the k-th further topic.
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
        self._closed = False
        self._partitions: dict[str, Partition] = {}  # by name
        self._lost: dict[str, int] = {}  # by name, also of partitions that a new topic no longer has
        self._sift = False  # the next read has messages to keep, or kept ones to return
        self._open()
        try:
            self._connect(start, start_of(options.start, clock.now_ms()))
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Make a consumer that knows nothing of a topic yet."""
        options = self._options
        more: dict[str, Property] = {
            "group.id": options.group_id,
            "topic.metadata.refresh.interval.ms": round(options.new_partitions_every_s * 1_000),
        }
        wait_ms = int(options.client.get("fetch.wait.max.ms", 0))
        self._signals = KafkaSignals(options.topics, fetch_wait_ms=wait_ms)
        self._consumer: Consumer = consumer_of(options.client, more, self._signals)
        self._reader = ReadAhead(self._consumer, options.batch_max)

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """The messages of the next ``timeout_s``, at most ``batch_max``; None only after ``close``."""
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
        numbers = numbers_of(good, self._options.topics)
        self._advance(good, numbers)
        if len(good) != len(messages):
            self._take_signals(messages)
        rows = Rows(list(map(Message.value, good)), lambda row: origin_of(good[row]), numbers)
        return replace(self._decoder.decode(rows), position=self.position())

    def _read(self, timeout_s: float) -> list[Message]:
        """The next messages of partitions that are not held.

        Messages that were read ahead before a pause stay in ``_reader`` until the source is resumed. Those
        of a held partition are kept in their ``Partition`` until it is read again.
        """
        if self._paused:
            return self._consumer.consume(1, timeout_s)
        messages = self._reader.take(timeout_s)
        if not self._sift:
            return messages
        self._sift = False
        found: list[Message] = []
        for partition in self._partitions.values():
            if not partition.held:
                found += partition.take_kept()
        for message in messages:
            of_message = self._partitions.get(partition_name_of(message))
            if of_message is not None and of_message.held:
                of_message.keep(message)
            else:
                found.append(message)
        return found

    def position(self) -> Position:
        """``topic[partition]`` → the next offset."""
        return {name: partition.next_offset for name, partition in self._partitions.items()}

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The ids of the topics of ``position``, as far as brokers told them."""
        return dict(self._ids.known)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The assigned partitions by their numbers in ``EventBatch.partition``, for ``Watermark.assign``."""
        return tuple(partition.number for partition in self._partitions.values())

    @property
    def away(self) -> bool:
        """Whether no broker can be reached. A change shows about a second later."""
        return self._signals.away

    @property
    def why_away(self) -> str:
        """Why no broker can be reached, as far as that is known, and what to look at."""
        return "; ".join(self._signals.why_unreachable(f"{self._servers} does not answer"))

    @property
    def caught_up(self) -> bool:
        """Whether the broker answers and the end of every partition was seen after its last event.

        False while the source is paused or holds a partition, since it cannot know then.
        """
        reading = not (self.away or self._paused)
        return reading and all(
            partition.at_end and not partition.held for partition in self._partitions.values()
        )

    @property
    def behind(self) -> Collection[int]:
        """The numbers of partitions whose position is before where they ended a second or two ago.

        A partition whose end is not known yet is among them. Under a steady load none is, although the end
        of the partition is never seen: more events come before the broker tells it.
        """
        ends = self._signals.ends_before
        return [
            partition.number
            for name, partition in self._partitions.items()
            if not partition.at_end and (name not in ends or partition.next_offset < ends[name])
        ]

    @property
    def lost(self) -> Mapping[str, int]:
        """How many offsets ``out_of_range`` has left out since the start, by partition."""
        return dict(self._lost)

    def lag(self) -> Mapping[str, int]:
        """Offsets between the position and the end of what is committed, by statistics of the last second.

        Asks no broker. A partition whose end is not known yet is left out; the end of a paused one stands
        still.
        """
        lags: dict[str, int] = {}
        for name, partition in self._partitions.items():
            offset = partition.next_offset
            end = offset if partition.at_end else self._signals.ends.get(name, -1)
            if end < 0:  # no statistics since its first answer
                _, end = self._consumer.get_watermark_offsets(partition.assignment(), cached=True)
            if end >= 0:
                lags[name] = max(0, end - offset)
        return lags

    def pause(self) -> None:
        """Fetch no more; go on calling ``next_batch``, which returns empty batches."""
        self._paused = True
        self._reader.settle()
        self._consumer.pause(_assignments(self._partitions.values()))

    def resume(self) -> None:
        """Fetch again, but for the partitions that are held."""
        self._paused = False
        self._reader.settle()
        self._consumer.resume(_assignments(p for p in self._partitions.values() if not p.held))

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these, by their numbers, until the next call; the others go on."""
        wanted = set(partitions)
        added = [p for p in self._partitions.values() if p.number in wanted and not p.held]
        freed = [p for p in self._partitions.values() if p.held and p.number not in wanted]
        for partition in added + freed:
            partition.held = not partition.held
        self._sift |= (bool(added) and self._reader.is_ahead) or any(p.kept for p in freed)
        if added or freed:
            self._reader.settle()
        if added and not self._paused:
            self._consumer.pause(_assignments(added))
        if freed and not self._paused:
            self._consumer.resume(_assignments(freed))

    def commit(self, position: Position) -> None:
        """Send a position to the group for lag tools. Does not wait, and a failure is only logged."""
        offsets = [
            TopicPartition(*self._partitions[name].place, offset)
            for name, offset in position.items()
            if name in self._partitions
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
        places = places_of_shard(counts, self._options.shard)
        if not places:
            index, count = self._options.shard
            LOG.warning("shard %d/%d has no partition of %s", index, count, ", ".join(self._options.topics))
        known, anew = self._ids.split(position or {}, counts, self._options.connect_timeout_s)
        missing = [place for name, place in places.items() if name not in known and place[0] not in anew]
        # a partition that a checkpoint does not know was added since: all of it is new
        begins = offsets_at(self._consumer, missing, first if position is None else "earliest")
        for topic, why in anew.items():
            ranges = {
                place: range_of(self._consumer, place) for place in places.values() if place[0] == topic
            }
            found, lost, said = begins_in_new_topic(topic, why, ranges, self._options.out_of_range)
            begins |= found
            self._lost |= {name: self._lost.get(name, 0) + count for name, count in lost.items()}
            LOG.error("%s", said)
        held = {name for name, partition in self._partitions.items() if partition.held}
        self._partitions = {
            name: self._partition(place, known.get(name, begins.get(place, 0)), held=name in held)
            for name, place in places.items()
        }
        self._assign()

    def _go_on_in_new_topic(self) -> None:
        """Read a topic that was made anew with a new consumer: the old one remembers leaders and ends."""
        self._reader.close()
        self._consumer.close()
        self._open()
        self._connect(self.position(), "earliest")

    def _assign(self) -> None:
        """Fetch every partition from its position on, except those that are paused or held."""
        self._reader.drop()
        self._sift = False
        for partition in self._partitions.values():
            partition.seek()
        self._consumer.assign(_assignments(self._partitions.values()))
        still = [p for p in self._partitions.values() if self._paused or p.held]
        if still:
            self._consumer.pause(_assignments(still))

    def _take_new_partitions(self) -> None:
        """Assign partitions that statistics have shown since; each from its first event on."""
        places = places_of_shard(self._signals.partition_counts, self._options.shard)
        new = {name: place for name, place in places.items() if name not in self._partitions}
        if new:
            self._partitions |= {name: self._partition(place, next_offset=0) for name, place in new.items()}
            LOG.info("found %s", ", ".join(new))
            self._assign()

    def _partition(self, place: Place, next_offset: int, *, held: bool = False) -> Partition:
        topic, index = place
        number = self._options.topics.index(topic) * TOPIC_STRIDE + index
        return Partition(topic, index, number, next_offset, held=held)

    def _advance(self, messages: Sequence[Message], numbers: I32) -> None:
        """Move the position of each partition past the last of its messages."""
        distinct, last = np.unique(numbers[::-1], return_index=True)
        for value, back in zip(distinct.tolist(), last.tolist(), strict=True):
            name = partition_name(self._options.topics[value // TOPIC_STRIDE], value % TOPIC_STRIDE)
            self._partitions[name].returned(cast("int", messages[len(messages) - 1 - back].offset()))

    def _take_signals(self, messages: Sequence[Message]) -> None:
        """Take in what stands in place of messages: ends of partitions, and errors that concern one."""
        for message in messages:
            error = message.error()
            if error is None:
                continue
            name = partition_name_of(message)
            partition = self._partitions.get(name)
            if error.code() == KafkaError._PARTITION_EOF:
                end = message.offset()
                if partition is not None and end is not None:
                    partition.ended(end)
            elif error.code() == KafkaError._UNKNOWN_PARTITION:
                self._go_on_in_new_topic()  # or in the old one, if all of it is there after all
                return
            elif error.code() in _OUT_OF_RANGE and partition is not None:
                if self._ids.known and self._ids.changed_now(self._options.connect_timeout_s):
                    self._go_on_in_new_topic()
                    return
                self._go_on_after_loss(name, partition)
            else:
                raise_if_final(error, f"{name}@{-1 if partition is None else partition.next_offset}")

    def _go_on_after_loss(self, name: str, partition: Partition) -> None:
        """Go on where ``out_of_range`` says, as the next event of a partition is gone.

        Asks the broker, which has just answered.
        """
        low, high = range_of(self._consumer, partition.place)
        if not low <= partition.next_offset <= high:  # else the loss was told twice
            partition.next_offset, lost, said = offset_after_loss(
                partition.place, partition.next_offset, (low, high), self._options.out_of_range
            )
            self._lost[name] = self._lost.get(name, 0) + lost
            LOG.error("%s", said)
        self._assign()


def _assignments(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [partition.assignment() for partition in partitions]
