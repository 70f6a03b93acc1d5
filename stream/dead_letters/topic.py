"""Dead letters in a Kafka topic: the place for them that other tools and machines can read.

    put ──► [KafkaDeadLetters] ──► topic: the event's own bytes, and headers that say why
            [TopicLetterBox]   ──► the same topic: records that say which letters of their partition are done

A letter's id is its partition and offset. A record that names done letters is in their partition and behind
them. Retention and purges remove records from the front of a partition, so they never remove that record
before the letters that it names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any, Final, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from driftgraph.stream.dead_letters.letters import (
    DeadLetterError,
    Letter,
    parts_of_id,
)
from driftgraph.stream.dead_letters.topic_records import (
    DONE,
    TIMESTAMP,
    TRUNCATED,
    connect_headers,
    letter_of,
    offsets_done,
)
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT, Rejected
from driftgraph.stream.formats.event_rules import Reason
from driftgraph.stream.kafka.causes import Cause, Property, configuration_fault
from driftgraph.stream.kafka.client import LIBRDKAFKA
from driftgraph.stream.kafka.topics import ANSWER_WITHIN_S, KEEPS_ALL
from driftgraph.stream.time.clock import Clock, SystemClock

FLUSH_TIMEOUT_S: Final = 30.0  # shorter than Kafka's own delivery timeout, so that the log tells it earlier
READ_WITHIN_S: Final = 30.0  # without a record for so long, the brokers count as away
MESSAGE_BYTES_MAX: Final = 64 << 20  # our producer's limit; the topic's own limit decides
BATCH_BYTES: Final = 1 << 16  # a topic limits batches, so small letters in a large batch would fail together
DONE_OFFSETS_MAX: Final = 10_000  # letters that one record names as done: 200 kB
TOPIC_CONFIG: Final = {  # of a topic that driftgraph creates: retention removes letters by size, not by age
    **KEEPS_ALL,
    "max.message.bytes": str(16 << 20),  # room for an event as large as its own topic allows, and the headers
}


class KafkaDeadLetters:
    """Keeps letters in one topic.

    Always true: value, key, headers and timestamp are those of the event, byte by byte; headers in the form
    of Kafka Connect and of driftgraph come after its own. A payload is cut only if the topic refuses it as
    too large. A timestamp is left out only if the topic refuses it, or would remove the letter by it. A
    header says so. The next ``flush`` sends letters again that the brokers did not acknowledge.
    """

    def __init__(
        self,
        client: Mapping[str, Property],
        *,
        topic: str,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
        clock: Clock | None = None,
        at_its_time: bool = True,
    ) -> None:
        """Unless ``at_its_time``, a letter's timestamp is when it is kept, and a header has the event's.

        Otherwise a topic with retention by age would remove the letter of an old event at once.
        """
        self._topic = topic
        self._at_its_time = at_its_time
        self._timeout_s = flush_timeout_s
        self._clock = clock or SystemClock()
        self._counts: Counter[str] = Counter()
        self._again: list[_Record] = []  # records that failed, as the next flush sends them
        self._cause = Cause()
        self._why: tuple[str, str] | None = None  # the last failure, and what to check
        # without idempotence, whose fatal errors end a producer for ever; a letter twice does less harm
        properties: dict[str, Any] = {**client, "acks": "all", "enable.idempotence": False}
        properties.setdefault("message.max.bytes", MESSAGE_BYTES_MAX)
        properties.setdefault("batch.size", BATCH_BYTES)
        properties["error_cb"] = self._cause.on_error
        try:
            self._producer: Producer = Producer(properties, logger=LIBRDKAFKA)
        except (KafkaException, ValueError, TypeError) as error:
            fault = configuration_fault(error, client)
            raise DeadLetterError(f"Kafka refuses the configuration for dead letters: {fault}") from error

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Hand one letter to the producer. Waits only if the producer's queue is full."""
        self._counts[rejected.reason] += 1
        record = _Record(rejected, kept_ms=self._clock.now_ms(), without_time=not self._at_its_time)
        try:
            self._produce(record)
        except BufferError:
            self._again.append(record)
            self.flush()  # makes room, or says why there is none

    def flush(self) -> None:
        """Wait until the brokers have acknowledged all letters."""
        failed, self._again = self._again, []
        while True:
            for number, record in enumerate(failed):
                try:
                    self._produce(record)
                except BufferError:
                    self._again += failed[number:]
                    break
            waiting = self._producer.flush(self._timeout_s)
            failed = [record for record in self._again if record.is_changed]
            if waiting or not failed:
                break
            self._again = [record for record in self._again if not record.is_changed]
        if waiting or self._again:
            within = f"{waiting} not acknowledged in {self._timeout_s:g} s"
            why, advice = self._why or self._cause.why(within)
            raise DeadLetterError(f"dead letters cannot be sent to {self._topic}: {why}; {advice}")
        self._why = None

    def close(self) -> None:
        """Flush. The producer ends with the process."""
        self.flush()

    def _produce(self, record: _Record) -> None:
        def acknowledged(error: KafkaError | None, _: Message | None) -> None:
            if error is not None:
                self._again.append(record.after(error))
                self._why = self._cause.why_not_taken(error)

        try:
            self._producer.poll(0)
            self._producer.produce(self._topic, **record.arguments(), on_delivery=acknowledged)
        except KafkaException as error:  # the client itself refuses the record
            acknowledged(error.args[0], None)


class _Record(msgspec.Struct, frozen=True):
    """A letter as it is sent."""

    rejected: Rejected
    kept_ms: int
    cut: bool = False
    without_time: bool = False
    is_changed: bool = (
        False  # whether it differs from the record that failed, so that it is sent again at once
    )

    def after(self, error: KafkaError) -> _Record:
        """The record to send instead, after the brokers have refused this one with ``error``."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not self.cut:
            return msgspec.structs.replace(self, cut=True, is_changed=True)
        if error.code() == KafkaError.INVALID_TIMESTAMP and not self.without_time:
            return msgspec.structs.replace(self, without_time=True, is_changed=True)
        return msgspec.structs.replace(self, is_changed=False)

    def arguments(self) -> dict[str, Any]:
        """The arguments for ``produce``."""
        rejected = self.rejected
        headers = [*rejected.headers, *connect_headers(rejected, self.kept_ms)]
        value: bytes | None = None if rejected.reason == Reason.TOMBSTONE else rejected.payload
        if self.cut and value is not None:
            headers.append((TRUNCATED, b"%d" % len(value)))
            value = value[:PAYLOAD_BYTES_KEPT]
        found: dict[str, Any] = {"value": value, "key": rejected.key, "headers": headers}
        if rejected.timestamp_ms is not None:
            if self.without_time:
                headers.append((TIMESTAMP, b"%d" % rejected.timestamp_ms))
            else:
                found["timestamp"] = rejected.timestamp_ms
        return found


class TopicLetterBox:
    """The letters of a topic, for reading and marking. A topic that does not exist has none."""

    def __init__(self, client: Mapping[str, Property], topic: str) -> None:
        self._client = dict(client)
        self._topic = topic
        self._cause = Cause()

    @property
    def name(self) -> str:
        """The topic."""
        return f"topic {self._topic}"

    def letters(self) -> Iterator[Letter]:
        """All current letters, also done ones. The topic is read twice, first to find which are done."""
        done: dict[int, set[int]] = defaultdict(set)
        ends = self._ends()
        for message in self._records(ends):
            if (offsets := offsets_done(message)) is not None:
                done[message.partition() or 0].update(offsets)
        for message in self._records(ends):
            if offsets_done(message) is None:
                yield letter_of(message, _is_in(done, message))

    def newest(self, limit: int) -> list[Letter]:
        """Open letters among the newest records of each partition."""
        ends = {p: (max(begin, end - 2 * limit), end) for p, (begin, end) in self._ends().items()}
        done: dict[int, set[int]] = defaultdict(set)
        records = list(self._records(ends))
        for message in records:
            done[message.partition() or 0].update(offsets_done(message) or ())
        letters = [
            letter_of(one, False) for one in records if offsets_done(one) is None and not _is_in(done, one)
        ]
        newest = sorted(letters, key=lambda one: (one.kept_ms, parts_of_id(one.id)), reverse=True)
        return newest[:limit]

    def mark_done(self, ids: Collection[str]) -> None:
        """Produce records that name the done letters to their partitions; wait for the acknowledgement."""
        if not ids:
            return
        properties = {**self._client, "acks": "all", "enable.idempotence": True}
        cause = Cause()
        producer = Producer({**properties, "error_cb": cause.on_error}, logger=LIBRDKAFKA)
        failures: list[tuple[str, str]] = []

        def acknowledged(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(cause.why_not_taken(error))

        for partition, offsets in _by_partition(ids).items():
            for at in range(0, len(offsets), DONE_OFFSETS_MAX):
                value = msgspec.json.encode(offsets[at : at + DONE_OFFSETS_MAX])
                headers = cast("Any", [(DONE, b"1")])
                producer.produce(
                    self._topic, value, partition=partition, headers=headers, on_delivery=acknowledged
                )
        if producer.flush(FLUSH_TIMEOUT_S) or failures:
            why, advice = failures[0] if failures else cause.why(f"not acknowledged in {FLUSH_TIMEOUT_S:g} s")
            raise DeadLetterError(
                f"{len(ids)} dead letters cannot be marked as done in {self._topic}: {why}; {advice}, and do "
                "it again"
            )

    def purge(self, ids: Collection[str]) -> None:
        """Mark letters as done, then remove each partition's records before its first letter that is not."""
        self.mark_done(ids)
        before = {partition: end for partition, (begin, end) in self._ends().items() if begin < end}
        for letter in self.letters():
            if not letter.done:
                partition, offset = parts_of_id(letter.id)
                before[partition] = min(before.get(partition, offset), offset)
        wanted = [TopicPartition(self._topic, partition, offset) for partition, offset in before.items()]
        try:
            if wanted:
                admin = AdminClient(self._client, logger=LIBRDKAFKA)
                for answer in admin.delete_records(wanted, request_timeout=ANSWER_WITHIN_S).values():
                    answer.result(ANSWER_WITHIN_S + 5)
        except KafkaException as error:
            raise DeadLetterError(
                f"the letters are marked as done, but their records cannot be removed from {self._topic} "
                f"({error.args[0].str()}); see that the brokers run, and ask for DELETE on it"
            ) from error

    def close(self) -> None:
        """Do nothing: no connection is open between two calls."""

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                **self._client,
                "group.id": "driftgraph-dlq",  # its offsets are never committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": False,
                "error_cb": self._cause.on_error,
            },
            logger=LIBRDKAFKA,
        )

    def _ends(self) -> dict[int, tuple[int, int]]:
        """For each partition the first offset and the offset after the last."""
        try:
            with closing(self._consumer()) as consumer:
                found = self._topics_of(consumer).get(self._topic)
                if found is None:
                    return {}
                return {
                    p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=ANSWER_WITHIN_S)
                    for p in found.partitions
                }
        except (KafkaException, ValueError, TypeError) as error:
            raise self._unreadable(error) from error

    def _topics_of(self, consumer: Consumer) -> Mapping[str, Any]:
        try:
            topics: Mapping[str, Any] = consumer.list_topics(timeout=ANSWER_WITHIN_S).topics
        finally:
            consumer.poll(0)  # lets the callback tell the cause
        return topics

    def _records(self, ends: Mapping[int, tuple[int, int]]) -> Iterator[Message]:
        """Every record up to the ends, one partition after the other."""
        with closing(self._consumer()) as consumer:
            for partition, (begin, end) in sorted(ends.items()):
                if begin < end:
                    consumer.assign([TopicPartition(self._topic, partition, begin)])
                    yield from self._up_to(consumer, end)

    def _up_to(self, consumer: Consumer, end: int) -> Iterator[Message]:
        while True:
            message = consumer.poll(READ_WITHIN_S)
            if message is None:
                raise self._unreadable(f"nothing came in {READ_WITHIN_S:g} s")
            error, offset = message.error(), message.offset() or 0
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise self._unreadable(error.str())
            if error is not None or offset >= end:
                return
            yield message
            if offset + 1 >= end:
                return

    def _unreadable(self, why: object) -> DeadLetterError:
        first = why.args[0] if isinstance(why, KafkaException) else why
        servers = self._client.get("bootstrap.servers", "")
        said, advice = self._cause.why(first.str() if isinstance(first, KafkaError) else str(first))
        if isinstance(first, KafkaError) and first.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            said, advice = first.str(), "this user may not read there: ask for READ on the topic"
        return DeadLetterError(
            f"dead letters cannot be read from {self._topic} on Kafka at {servers}: {said}; {advice}"
        )


def _is_in(done: Mapping[int, set[int]], message: Message) -> bool:
    return message.offset() in done.get(message.partition() or 0, ())


def _by_partition(ids: Collection[str]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for partition, offset in sorted(map(parts_of_id, ids)):
        found[partition].append(offset)
    return dict(found)
