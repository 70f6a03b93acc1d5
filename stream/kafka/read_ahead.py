"""Reading ahead in a catch-up: a thread takes the next messages while the previous ones are decoded.

    librdkafka ──► [ReadAhead.take] ──► KafkaSource

librdkafka makes messages into Python objects under the interpreter's lock, and most of the work on them
releases that lock, so both run in parallel. At the end of a topic nothing is read ahead and no thread runs.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message

AT_ONCE: Final = 1_000  # messages of one call, which holds the interpreter's lock while other threads wait
AHEAD_FROM: Final = 10_000  # messages of one read: fewer are no catch-up


class ReadAhead:
    """Takes messages from a consumer, in their order.

    Always true: between two calls at most one read of ``batch_max`` messages is on its way.
    """

    def __init__(self, consumer: Consumer, batch_max: int) -> None:
        self._consumer = consumer
        self._batch_max = batch_max
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._ahead: Future[list[Message]] | None = None

    def take(self, timeout_s: float) -> list[Message]:
        """The messages of the next ``timeout_s``. A large read begins the next one in the thread.

        Raises:
            KafkaException: As ``consume``.
        """
        ahead, self._ahead = self._ahead, None
        messages = self._read(timeout_s) if ahead is None else ahead.result()
        if len(messages) >= AHEAD_FROM:
            self._ahead = self._thread.submit(self._read, timeout_s)
        return messages

    @property
    def is_ahead(self) -> bool:
        """Whether a read is on its way or done that ``take`` has not returned."""
        return self._ahead is not None

    def settle(self) -> None:
        """Wait for the read that is on its way, and keep it: no partition may be paused during a read."""
        if self._ahead is not None:
            self._ahead.exception()

    def drop(self) -> None:
        """Forget the messages that were read ahead. The caller assigns the partitions at their positions."""
        if self._ahead is not None:
            self._ahead.exception()  # waits for the read; its messages or its error come again
            self._ahead = None

    def close(self) -> None:
        """End the thread. The caller closes the consumer."""
        self.drop()
        self._thread.shutdown()

    def _read(self, timeout_s: float) -> list[Message]:
        messages = self._consumer.consume(min(AT_ONCE, self._batch_max), timeout_s)
        while len(messages) % AT_ONCE == 0 and 0 < len(messages) < self._batch_max:
            try:
                more = self._consumer.consume(min(AT_ONCE, self._batch_max - len(messages)), 0)
            except KafkaException:
                break  # the messages before the error are returned, and the next read raises it again
            if not more:
                break
            messages += more
        return messages
