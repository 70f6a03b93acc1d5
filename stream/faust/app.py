"""The Faust app in front of and beside the updater: ``normalize`` and ``trends``.

    site's topic ──► normalize ──► canonical topic ──► updater
                        └──► <site's topic>.dlq   └──► count ──► steps topic ──► trends ──► web views, sink

It takes tens of thousands of events a second and is no part of the hot path. Delivery is at least once: an
offset is committed after the broker has all messages that its record became. ``normalize`` gives an event
without an id one made from the origin of its record, so that deduplication by id sees it once.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import faust
import mode
from faust.transport.drivers import aiokafka as driver
from faust.types import EventT

from driftgraph.stream.events import PAYLOAD_BYTES_KEPT
from driftgraph.stream.faust.lanes import Lane, Outgoing, run_for_ever
from driftgraph.stream.faust.normalize import NormalizeProcess, Normalizer, SiteRecord
from driftgraph.stream.faust.options import FaustOptions
from driftgraph.stream.faust.trends import TrendAgents
from driftgraph.stream.formats.event_rules import Reason, Refusal, RowOrigin, rejected

LOG = logging.getLogger("driftgraph.faust")

SESSION_S: Final = 10.0  # so long after a worker was killed, another worker takes over its partitions
MESSAGE_BYTES_MAX: Final = 64 << 20  # the topic's own limit decides, as for the updater's dead letters
_LIMIT_HEADER: Final = "driftgraph.payload.bytes"  # of a dead letter: its length before it was cut


def make_app(options: FaustOptions) -> faust.App:
    """The app, ready for ``faust worker``. Nothing is connected or started yet."""
    app = faust.App(
        f"{options.name}-faust",
        broker=[f"kafka://{one.strip()}" for one in options.brokers.split(",")],
        broker_credentials=options.credentials,
        store="memory://",
        datadir=options.data_dir,
        value_serializer="raw",
        key_serializer="raw",
        autodiscover=False,
        agent_supervisor=mode.CrashingSupervisor,  # a worker whose agent has died must die too
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=SESSION_S / 3,
        broker_rebalance_timeout=SESSION_S,
        producer_max_request_size=MESSAGE_BYTES_MAX,
        topic_replication_factor=options.replication,
        web_bind=options.web_host,
        web_host=options.web_host,
        web_port=options.web_port,
    )
    app.transport = _ReadCommitted(app.conf.broker, app)
    if options.source_topic is not None:
        _add_normalize(app, options, options.source_topic)
    trends = TrendAgents(app, options)
    trends.add_agents()
    trends.add_views()
    return app


class _ReadCommittedThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust has no setting for it
        return consumer


class _ReadCommittedConsumer(driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)


class _ReadCommitted(driver.Transport):
    """Faust's own transport, which leaves out the records of aborted transactions."""

    Consumer = _ReadCommittedConsumer


def _add_normalize(app: faust.App, options: FaustOptions, source_topic: str) -> None:
    source = app.topic(source_topic, value_type=bytes, key_type=bytes)
    agent = _Normalize(app, options, source_topic)
    lanes = [Lane(agent.worker_of(number)) for number in range(options.processes)]

    @app.agent(source, name="normalize")
    async def normalize(stream: Any) -> None:
        async for event in stream.noack().events():
            await lanes[_lane_of(event) % len(lanes)].put(event)

    run_for_ever(app, lanes)


def _lane_of(event: EventT[Any]) -> int:
    """Events of one key go to one lane, and events without a key to the lane of their partition."""
    key = event.message.key
    return zlib.crc32(key) if key is not None else int(event.message.partition)


_KEYED_BY_WHAT: Final = Refusal(
    Reason.TOMBSTONE,
    "a record without a value in the site's own topic; set events.tombstones to erase if its key is the "
    "user, else to ignore",
)


class _Normalize:
    """Makes canonical messages and dead letters from chunks of the site's records."""

    def __init__(self, app: faust.App, options: FaustOptions, source_topic: str) -> None:
        self._options = options
        self._headers = options.dead_letter_headers
        # without a function: checks take microseconds
        self._inline = Normalizer(options.rules, options.names)
        self._canonical = app.topic(options.topic, value_type=bytes, key_type=bytes)
        self._dead = app.topic(
            f"{source_topic}.dlq",
            value_type=bytes,
            key_type=bytes,
            internal=True,
            partitions=1,
            retention=None,
            config={
                "retention.ms": -1
            },  # letters have their record's time, so retention by age would remove old ones
        )

    def worker_of(self, number: int) -> Callable[[Sequence[EventT[Any]]], Any]:
        """The work of lane ``number`` on a chunk; a function of the site runs in a process of its own."""
        name = self._options.normalize
        if name is None:
            return self._inline_work
        process = NormalizeProcess(name, self._options.rules, self._options.names)
        thread = ThreadPoolExecutor(1, f"normalize-{number}")  # waits for the answers of the process

        async def work(events: Sequence[EventT[Any]]) -> list[Outgoing]:
            records = [_record_of(event) for event in events if event.message.value is not None]
            loop = asyncio.get_running_loop()
            answers = iter(await loop.run_in_executor(thread, process.answers, records))
            return [
                message
                for event in events
                for message in self._messages(event, None if event.message.value is None else next(answers))
            ]

        return work

    async def _inline_work(self, events: Sequence[EventT[Any]]) -> list[Outgoing]:
        return [
            message
            for event in events
            for message in self._messages(
                event, None if event.message.value is None else self._inline.answer(_record_of(event))
            )
        ]

    def _messages(self, event: EventT[Any], answer: Any) -> list[Outgoing]:
        """The messages that a record becomes. A record without a value has no answer."""
        timestamp_ms = round(event.message.timestamp * 1000)
        if answer is None:
            return self._without_value(event, timestamp_ms)
        if isinstance(answer, Refusal):
            return [self._letter(event, answer)]
        too_large = Refusal(Reason.NORMALIZE_FAILED, f"topic {self._options.topic} takes no event so large")
        return [
            Outgoing(
                self._canonical, one.key, one.value, timestamp_ms, instead=self._letter(event, too_large)
            )
            for one in answer
        ]

    def _without_value(self, event: EventT[Any], timestamp_ms: int) -> list[Outgoing]:
        """A record without a value is passed on if its key is a user: it asks to erase that user."""
        by_key = self._options.erase_by_key
        if by_key or (by_key is None and self._options.normalize is None):
            return [Outgoing(self._canonical, event.message.key, None, timestamp_ms)]
        return [] if by_key is False else [self._letter(event, _KEYED_BY_WHAT)]

    def _letter(self, event: EventT[Any], refusal: Refusal) -> Outgoing:
        """The record byte by byte, with the reason in its headers; cut if the topic refuses one so large."""
        record = _record_of(event)
        at = RowOrigin(record.origin, record.key, record.headers, record.timestamp_ms)
        headers = (*record.headers, *self._headers(rejected(refusal, record.value, at)))
        cut_headers = (*headers, (_LIMIT_HEADER, b"%d" % len(record.value)))
        cut = Outgoing(
            self._dead, record.key, record.value[:PAYLOAD_BYTES_KEPT], record.timestamp_ms, cut_headers
        )
        return Outgoing(self._dead, record.key, record.value, record.timestamp_ms, headers, instead=cut)


def _record_of(event: EventT[Any]) -> SiteRecord:
    message = event.message
    headers = message.headers or []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return SiteRecord(
        value=message.value or b"",
        key=message.key,
        headers=tuple((name, value or b"") for name, value in pairs),
        timestamp_ms=round(message.timestamp * 1000),
        origin=f"{message.topic}[{message.partition}]@{message.offset}",
    )
