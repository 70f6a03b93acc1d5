"""Events of a synthetic shop onto a topic: what the ingestion benchmarks read.

Shop ──► [Sender] ──► JSON records, keyed by user ──► a topic
"""

from __future__ import annotations

import time

from confluent_kafka import Producer

from benchmarks.live_updater.broker import flush, put
from benchmarks.report import Figures
from benchmarks.traffic import RELATION_NAMES, Shop, draw

EVENTS_SPAN_MS = 3_000_000  # of the event times of a filled topic, up to now: nothing expires


class Sender:
    """Puts the events of a shop on a topic, one by one: a tenth as many users, a fiftieth as many items."""

    def __init__(self, address: str, topic: str, count: int) -> None:
        self._producer = Producer(
            {"bootstrap.servers": address, "queue.buffering.max.messages": 1_000_000, "log_level": 0}
        )
        self._topic = topic
        traffic = draw(Shop(users=count // 10, items=count // 50), count)
        columns = (traffic.user, traffic.item, traffic.relation)
        self._events = zip(*(column.tolist() for column in columns), strict=True)
        self.sent = 0
        self.last = b""

    def send(self, time_ms: int) -> None:
        """The next event, with its time."""
        user, item, relation = next(self._events)
        text = (
            f'{{"event_id":"{self.sent:016x}","user_id":"u{user}","item_id":"i{item}",'
            f'"behavior":"{RELATION_NAMES[relation]}","ts":{time_ms}}}'
        )
        self.last = text.encode()
        put(self._producer, self._topic, self.last, b"u%d" % user)
        self.sent += 1

    def poll(self) -> None:
        """Let go of what the broker has."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has all."""
        flush(self._producer)


def fill(address: str, topic: str, count: int) -> Figures:
    """Put ``count`` events on the topic; the result says what a message looks like."""
    sender = Sender(address, topic, count)
    end_ms = time.time_ns() // 1_000_000
    for number in range(count):
        sender.send(end_ms - EVENTS_SPAN_MS + EVENTS_SPAN_MS * number // count)
    sender.flush()
    return {"example": sender.last.decode(), "bytes": len(sender.last), "events": count}
