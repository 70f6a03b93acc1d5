"""The consumer as we need it: which librdkafka properties are ours, which are the user's to set.

    kafka.options, kafka.secrets ──► [consumer_of] ──► Consumer of KafkaSource

Everything about SASL and TLS is the user's and goes through as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException

from driftgraph.stream.kafka_signals import STATISTICS_EVERY_MS, KafkaSignals
from driftgraph.stream.source import SourceError

LOG = logging.getLogger("driftgraph.kafka")

Property = str | int | float | bool

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
    # a partition that is read again waits for the fetch under way, which waits this long where all is read
    "fetch.wait.max.ms": 50,
}


def consumer_of(
    client: Mapping[str, Property], more: Mapping[str, Property], signals: KafkaSignals
) -> Consumer:
    """A consumer with the user's properties ``client``, and ``more`` of ours.

    Raises:
        SourceError: If a property of the user fights one of ours, or librdkafka refuses one.
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
        return Consumer({**UNLESS_GIVEN, **client, **ours, **callbacks}, logger=LOG)
    except (KafkaException, ValueError, TypeError) as error:
        detail = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise SourceError(f"Kafka refuses its configuration: {detail}; check kafka.options") from error
