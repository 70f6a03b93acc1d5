"""The consumer as driftgraph needs it: which librdkafka properties it sets, and which the user sets.

    kafka.options, kafka.secrets ──► [consumer_of] ──► Consumer of KafkaSource

The user's properties of SASL and TLS go to librdkafka unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from driftgraph.stream.errors import SourceError
from driftgraph.stream.formats.event_rules import RowOrigin
from driftgraph.stream.kafka.causes import Property, configuration_fault
from driftgraph.stream.kafka.partition import partition_name_of
from driftgraph.stream.kafka.signals import STATISTICS_EVERY_MS, KafkaSignals

LOG = logging.getLogger("driftgraph.kafka")
LIBRDKAFKA: Final = logging.getLogger("driftgraph.librdkafka")
# librdkafka logs ten lines a second during an outage, and our error message has the cause
LIBRDKAFKA.setLevel(logging.CRITICAL)

OURS: Final[Mapping[str, Property]] = {
    "enable.auto.commit": False,  # a position is committed after the checkpoint that holds it
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",  # an aborted transaction never happened
    "auto.offset.reset": "error",  # an offset that is gone is told, never jumped over
    "enable.partition.eof": True,  # tells the end of a partition, past the markers of transactions
    "statistics.interval.ms": STATISTICS_EVERY_MS,
    "allow.auto.create.topics": False,  # a misspelt topic is told, not made
}

UNLESS_GIVEN: Final[Mapping[str, Property]] = {
    # a partition that is read again waits for the fetch under way; at the end of a topic that lasts so long
    "fetch.wait.max.ms": 50,
}

# errors after which no event will come, whatever time passes; librdkafka retries all the others by itself
_FINAL: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not read the topic; ask for READ on it",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this user may not use the group; ask for READ on it",
}
CHECK_WITHIN_S: Final = 0.5  # for a request to the broker between two polls


def consumer_of(
    client: Mapping[str, Property], more: Mapping[str, Property], signals: KafkaSignals
) -> Consumer:
    """A consumer with the user's properties ``client``, and ``more`` of ours.

    Raises:
        SourceError: If a property of the user contradicts one of ours, or librdkafka refuses one.
    """
    if not client.get("bootstrap.servers"):
        raise SourceError("Kafka needs bootstrap.servers: host:port of one broker at least")
    ours: dict[str, Any] = {**OURS, **more}
    for key, value in ours.items():
        if key in client and str(client[key]).lower() != str(value).lower():
            raise SourceError(
                f"the Kafka property {key} must be {str(value).lower()}, got {client[key]}; remove it"
            )
    callbacks: dict[str, Any] = {
        "error_cb": signals.on_error,
        "stats_cb": signals.on_statistics,
        "on_commit": signals.on_commit,
    }
    try:
        return Consumer({**UNLESS_GIVEN, **client, **ours, **callbacks}, logger=LIBRDKAFKA)
    except (KafkaException, ValueError, TypeError) as error:
        raise SourceError(f"Kafka refuses its configuration: {configuration_fault(error, client)}") from error


class KafkaAwayError(SourceError):
    """No broker answers, for a cause that may pass: a caller that can wait tries again."""


def partition_counts(
    consumer: Consumer,
    signals: KafkaSignals,
    topics: Sequence[str],
    *,
    servers: str,
    within_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """How many partitions each topic has. Gives up early once ``stopped``.

    Raises:
        KafkaAwayError: If no broker answers within ``within_s``.
        SourceError: If one refuses us, or a topic is not there.
    """
    end_s = time.monotonic() + within_s
    while True:
        left_s = max(0.01, end_s - time.monotonic())
        try:
            there = consumer.list_topics(timeout=min(left_s, CHECK_WITHIN_S)).topics
            break
        except KafkaException as error:
            consumer.poll(0)  # lets the callback tell the cause
            if time.monotonic() < end_s and not stopped():
                continue
            why, advice = signals.why_unreachable(error.args[0].str())
            kind = KafkaAwayError if signals.cause.may_pass else SourceError
            raise kind(f"cannot reach Kafka at {servers} within {within_s:g} s ({why}); {advice}") from error
    for topic in topics:
        found = there.get(topic)
        if found is None or found.error is not None or not found.partitions:
            why = f" ({found.error.str()})" if found is not None and found.error is not None else ""
            raise SourceError(
                f"Kafka at {servers} has no topic {topic!r}{why}; create it or name another one, "
                "and ask for DESCRIBE and READ on it if it is there"
            )
    return {topic: len(there[topic].partitions) for topic in topics}


def look_for(
    client: Mapping[str, Property],
    topics: Sequence[str],
    within_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Return if brokers answer and have the topics.

    Raises:
        SourceError: As ``partition_counts``.
    """
    signals = KafkaSignals(topics)
    consumer = consumer_of(client, {"group.id": "driftgraph"}, signals)
    try:
        servers = str(client.get("bootstrap.servers", ""))
        partition_counts(consumer, signals, topics, servers=servers, within_s=within_s, stopped=stopped)
    finally:
        consumer.close()


def raise_if_final(error: KafkaError, where: str) -> None:
    """Do nothing about an error that passes.

    Raises:
        SourceError: If it does not.
    """
    what = _FINAL.get(error.code())
    if what is not None or error.fatal():
        raise SourceError(f"cannot go on reading {where}: {what or error.str()}")
    LOG.debug("Kafka at %s: %s", where, error.str())


def all_are_there(consumer: Consumer, topics: Sequence[str]) -> bool:
    """Ask whether topics are there; False if no broker says so within ``CHECK_WITHIN_S``.

    Raises:
        SourceError: If one is gone.
    """
    for topic in topics:
        try:
            found = consumer.list_topics(topic, timeout=CHECK_WITHIN_S).topics[topic]
        except KafkaException:
            return False
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise SourceError(f"the topic {topic!r} is gone; create it again or name another one")
    return True


def origin_of(message: Message) -> RowOrigin:
    """Where a message comes from, with its key, headers and timestamp."""
    kind, timestamp_ms = message.timestamp()
    headers = cast("list[tuple[str, str | bytes | None]]", message.headers() or [])
    key = message.key()
    return RowOrigin(
        origin=f"{partition_name_of(message)}@{message.offset()}",
        key=key.encode() if isinstance(key, str) else key,
        headers=tuple((n, value.encode() if isinstance(value, str) else value) for n, value in headers),
        timestamp_ms=timestamp_ms if kind else None,
    )
