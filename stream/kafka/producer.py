"""Sends events to Kafka: one producer for ``produce``, the demo and the retry of dead letters.

(key, value, time) ──► [EventProducer.send] ──► librdkafka's queue ──► brokers
                            └─ ``send`` waits while it is full; ``finish`` waits for all acknowledgements
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Headers
from driftgraph.stream.kafka.causes import Cause, Property, configuration_fault
from driftgraph.stream.kafka.client import LIBRDKAFKA

ROOM_WITHIN_S: Final = 0.1  # wait this long for room in a full queue, then check ``stopped`` again
FINISH_WITHIN_S: Final = 30.0  # without any acknowledgement
OURS: Final[Mapping[str, Property]] = {
    "enable.idempotence": True,  # no event twice and none out of order after a retry of librdkafka's own
    "delivery.report.only.error": True,  # a call into Python for each good event would halve the rate
}
DEFAULTS: Final[Mapping[str, Property]] = {
    "linger.ms": 20,  # larger batches; nobody waits for one event here
    "compression.type": "lz4",  # JSON shrinks to a fifth, and compressing costs less than sending all of it
    "partitioner": "murmur2_random",  # as Java's producers: a user has one partition, whichever client sends
}


class ProduceError(DriftgraphError):
    """Events could not be produced."""


class EventProducer:
    """Sends events to a topic. One thread sends.

    Always true: ``sent`` counts the events that were handed to librdkafka; after ``finish`` returned, the
    brokers have acknowledged all of them.
    """

    def __init__(self, client: Mapping[str, Property], topic: str) -> None:
        self.topic = topic
        self.sent = 0
        self.stopped = threading.Event()  # the caller sets it so that ``send`` waits no longer
        self._servers = client.get("bootstrap.servers", "")
        self._failure: KafkaError | None = None
        self._cause = Cause()
        properties: dict[str, Any] = {**DEFAULTS, **client, **OURS, "error_cb": self._cause.on_error}
        try:
            self._producer: Producer = Producer(properties, logger=LIBRDKAFKA)
        except (KafkaException, ValueError, TypeError) as error:
            raise ProduceError(
                f"Kafka refuses its configuration: {configuration_fault(error, client)}"
            ) from error

    def send(
        self,
        *,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None,
        partition: int | None = None,
        headers: Headers = (),
        topic: str | None = None,
    ) -> None:
        """Queue one event. Waits while the queue is full; once ``stopped``, leaves the event out instead.

        Args:
            key: The user's id; it chooses the partition if none is given.
            value: The event; None is a tombstone.
            timestamp_ms: The event's time; None for the time of the call.
            partition: The partition, instead of the one that the key chooses.
            headers: Headers of the record.
            topic: The topic, instead of the producer's own.

        Raises:
            ProduceError: If the brokers refuse this event or one before it.
        """
        more: dict[str, Any] = {} if timestamp_ms is None else {"timestamp": timestamp_ms}
        if partition is not None:
            more["partition"] = partition
        if headers:
            more["headers"] = list(headers)
        while True:
            try:
                self._producer.produce(topic or self.topic, value, key, on_delivery=self._on_failure, **more)
            except BufferError:
                if not self._has_room():
                    return
            except KafkaException as error:
                raise self._error(error.args[0]) from error
            else:
                self.sent += 1
                return

    def send_many(self, keys: Sequence[bytes], values: Sequence[bytes], times_ms: Sequence[int]) -> None:
        """Queue N events as ``send`` does, about a microsecond each; none after ``stopped``."""
        produce, topic, failed = self._producer.produce, self.topic, self._on_failure
        try:
            for key, value, time_ms in zip(keys, values, times_ms, strict=True):
                while True:
                    try:
                        produce(topic, value, key, -1, failed, None, time_ms)
                    except BufferError:
                        if not self._has_room():
                            return
                    else:
                        self.sent += 1
                        break
        except KafkaException as error:
            raise self._error(error.args[0]) from error
        self._producer.poll(0)
        self._raise_failure()

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has.

        Raises:
            ProduceError: If it is not there, or nobody answers.
        """
        try:
            found = self._producer.list_topics(timeout=FINISH_WITHIN_S).topics.get(topic)
        except KafkaException as error:
            self._producer.poll(0)  # lets the callback tell the cause
            why, advice = self._cause.why(error.args[0].str())
            raise ProduceError(f"cannot find {topic} on Kafka at {self._servers}: {why}; {advice}") from error
        if found is None:
            raise ProduceError(
                f"Kafka at {self._servers} has no topic {topic!r}; create it again, or ask for WRITE if it "
                "is there"
            )
        return len(found.partitions)

    def finish(self, within_s: float = FINISH_WITHIN_S) -> None:
        """Wait until the brokers have acknowledged all events.

        Raises:
            ProduceError: If something was refused, or nothing is acknowledged for ``within_s``.
        """
        waiting = len(self._producer)
        while waiting:
            left = self._producer.flush(within_s)
            self._raise_failure()
            if left >= waiting:
                why, advice = self._cause.why("no broker answers")
                raise ProduceError(
                    f"{left:,} events were not acknowledged by Kafka at {self._servers} in "
                    f"{within_s:g} s ({why}); {advice}"
                )
            waiting = left
        self._producer.poll(0)
        self._raise_failure()

    def _has_room(self) -> bool:
        """Wait a moment for acknowledgements: the brokers are behind. False once ``stopped``."""
        self._producer.poll(ROOM_WITHIN_S)
        self._raise_failure()
        return not self.stopped.is_set()

    def _on_failure(self, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._error(failure)

    def _error(self, error: KafkaError) -> ProduceError:
        why, advice = self._cause.why_not_taken(error)
        return ProduceError(
            f"topic {self.topic} on Kafka at {self._servers} does not take an event: {why}; {advice}"
        )
