"""Reading ahead in a catch-up: a thread takes the next messages while the ones before are worked on.

    librdkafka ──► [ReadAhead.take] ──► KafkaSource

Messages become Python objects under the interpreter's lock and most of the work on them is done without it,
so both cores are used. At the end of a topic there is nothing to read ahead and no thread between.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message

AT_ONCE: Final = 1_000  # messages made under one hold of the interpreter's lock, which the others wait for
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
        """What comes within ``timeout_s``, and begin the next read if that was much.

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
        """Whether there is a read that was not taken."""
        return self._ahead is not None

    def settle(self) -> None:
        """Wait for what is read ahead, and keep it: no partition may be paused in the middle of a read."""
        if self._ahead is not None:
            self._ahead.exception()

    def drop(self) -> None:
        """Forget what was read ahead. The caller seeks to where it goes on."""
        if self._ahead is not None:
            self._ahead.exception()  # waits for it; whatever it is comes again
            self._ahead = None

    def close(self) -> None:
        """End the thread; the consumer is the caller's."""
        self.drop()
        self._thread.shutdown()

    def _read(self, timeout_s: float) -> list[Message]:
        messages = self._consumer.consume(min(AT_ONCE, self._batch_max), timeout_s)
        while len(messages) % AT_ONCE == 0 and 0 < len(messages) < self._batch_max:
            try:
                more = self._consumer.consume(min(AT_ONCE, self._batch_max - len(messages)), 0)
            except KafkaException:
                break  # what was read before it is not lost; the next read tells it again
            if not more:
                break
            messages += more
        return messages
