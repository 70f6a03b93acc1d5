"""A Kafka broker and topics for a benchmark, and records onto them.

DRIFTGRAPH_TEST_KAFKA or KAFKA_HOME ──► [broker, topics] ──► [put, flush] ──► a topic
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.services.conftest import RealKafka, kafka_server

PARTITIONS = 4
TAKEN_WITHIN_S = 120.0


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The address of the given broker, or of one that is started here."""
    if given := os.environ.get("DRIFTGRAPH_TEST_KAFKA"):
        yield given
        return
    server = kafka_server()
    if server is None or shutil.which("java") is None:
        sys.exit(
            "no broker: set DRIFTGRAPH_TEST_KAFKA to its address, or KAFKA_HOME and have Java 17 on PATH"
        )
    started = RealKafka(server, folder)
    try:
        yield started.address
    finally:
        started.stop()


@contextmanager
def topics(address: str, *names: str) -> Iterator[None]:
    """Create topics, and delete them at the end."""
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
        made.result()
    try:
        yield
    finally:
        for gone in admin.delete_topics(list(names)).values():
            gone.result()


def put(producer: Producer, topic: str, value: bytes, key: bytes) -> None:
    """Hand a record to the producer; while its queue is full, wait for the broker."""
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def flush(producer: Producer) -> None:
    """Wait until the broker has every record; exit if it does not take them."""
    if left := producer.flush(TAKEN_WITHIN_S):
        sys.exit(f"{left} events were not taken by the broker within {TAKEN_WITHIN_S:g} s")
