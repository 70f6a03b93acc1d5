"""Puts a batch of records on a topic and waits until the brokers have acknowledged every one of them.

    POST /api/events ──► [BatchProducer.send] ──► librdkafka ──► brokers

``EventProducer`` sends streams as fast as the brokers take them; this one answers for each batch, soon.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.kafka.causes import Cause, Property, configuration_fault
from driftgraph.stream.kafka.client import LIBRDKAFKA
from driftgraph.stream.kafka.producer import DEFAULTS

ANSWER_WITHIN_S: Final = 5.0
OURS: Final[Mapping[str, Property]] = {
    "enable.idempotence": True,  # a retry of librdkafka's own puts no record on the topic twice
    "acks": "all",
    "linger.ms": 2,
    "message.timeout.ms": int(ANSWER_WITHIN_S * 1_000),
}


class Record(NamedTuple):
    """What is put on the topic."""

    key: bytes
    value: bytes
    time_ms: int


class NotDeliveredError(DriftgraphError):
    """The brokers have not acknowledged all of a batch; ``delivered`` of its ``count`` records they have.

    Of the others nobody knows more: an acknowledgement may have been lost. None is sent any more.
    """

    def __init__(self, said: str, delivered: int, count: int) -> None:
        super().__init__(said)
        self.delivered, self.count = delivered, count


class BatchProducer:
    """Sends one batch after the other. One thread sends.

    Always true: nothing of a batch is sent after ``send`` has returned or raised.
    """

    def __init__(self, client: Mapping[str, Property], topic: str) -> None:
        self._client, self._topic = dict(client), topic
        self._cause = Cause()
        self._producer: Producer | None = None

    def send(self, records: Sequence[Record]) -> None:
        """Send the records, each to the partition of its key.

        Raises:
            NotDeliveredError: Not all were acknowledged within ``ANSWER_WITHIN_S`` seconds.
        """
        producer = self._producer = self._producer or self._made()
        delivered, failures = 0, list[KafkaError]()

        def on_delivery(error: KafkaError | None, _: Message | None) -> None:
            nonlocal delivered
            if error is None:
                delivered += 1
            else:
                failures.append(error)

        try:
            for record in records:
                producer.produce(
                    self._topic, record.value, record.key, on_delivery=on_delivery, timestamp=record.time_ms
                )
        except (BufferError, KafkaException) as error:  # too large, or no such topic
            first = error.args[0]
            failures.append(first if isinstance(first, KafkaError) else KafkaError(KafkaError._QUEUE_FULL))
        end_s = time.monotonic() + ANSWER_WITHIN_S
        while delivered + len(failures) < len(records) and time.monotonic() < end_s:
            producer.poll(min(0.1, ANSWER_WITHIN_S))
            if failures:
                break
        if delivered < len(records):
            self._give_up(producer)
            why, advice = (
                self._cause.why_not_taken(failures[0]) if failures else self._cause.why("no broker answers")
            )
            raise NotDeliveredError(
                f"Kafka at {self._client.get('bootstrap.servers', '')} has acknowledged {delivered} of "
                f"{len(records)} events ({why}); {advice}, and send the batch again",
                delivered, len(records),
            )  # fmt: skip
        self._cause.clear()

    def close(self) -> None:
        """Close the connections."""
        self._producer = None

    def _give_up(self, producer: Producer) -> None:
        """Let nothing that is still queued be sent by a later retry; the next batch has a new producer."""
        producer.purge(in_queue=True, in_flight=True, blocking=False)
        producer.flush(1.0)
        self._producer = None

    def _made(self) -> Producer:
        self._cause = Cause()
        properties: dict[str, Any] = {**DEFAULTS, **self._client, **OURS, "error_cb": self._cause.on_error}
        try:
            return Producer(properties, logger=LIBRDKAFKA)
        except (KafkaException, ValueError, TypeError) as error:
            why = configuration_fault(error, self._client)
            raise NotDeliveredError(f"Kafka refuses its configuration: {why}", 0, 0) from error
