"""What librdkafka tells beside messages: whether brokers answer, which partitions exist, where each ends.

librdkafka's callbacks, once a second ──► [KafkaSignals] ──► KafkaSource: away, lag, new partitions

The callbacks run while the consumer is polled. Reading the signals asks no broker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from confluent_kafka import KafkaError, TopicPartition

from driftgraph.stream.kafka.causes import Cause
from driftgraph.stream.kafka.partition import partition_name

LOG = logging.getLogger("driftgraph.kafka")

STATISTICS_EVERY_MS: Final = 1_000
SILENT_MS: Final = 5_000  # beside fetch.wait.max.ms, for which a broker may keep a fetch waiting


class _Broker(msgspec.Struct):
    nodeid: int
    state: str
    txidle: int = 0  # µs since something was sent to it
    rxidle: int = 0  # µs since something came from it
    waitresp_cnt: int = 0  # requests that it has not answered

    def answers(self, silent_us: int) -> bool:
        """Whether it is connected, and not silent on a request: librdkafka itself waits a minute for that."""
        is_silent = self.waitresp_cnt > 0 and min(self.txidle, self.rxidle) > silent_us
        return self.nodeid >= 0 and self.state == "UP" and not is_silent


class _Partition(msgspec.Struct):
    ls_offset: int  # the last stable offset: what read_committed can see; negative before the first fetch


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition]


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker]
    topics: dict[str, _Topic]


_statistics = msgspec.json.Decoder(_Statistics)


class KafkaSignals:
    """The newest state that librdkafka has told.

    Always true: ``ends`` are those of the newest statistics and ``ends_before`` those of the statistics
    before them; both have a partition only once its end is known.
    """

    def __init__(self, topics: Sequence[str], *, fetch_wait_ms: int = 0) -> None:
        self._silent_us = (SILENT_MS + fetch_wait_ms) * 1_000
        self.away = False  # no broker can be reached
        self.topic_missing = False  # a broker said so, but a broker that has just started may not know it yet
        self.partition_counts: dict[str, int] = {}  # by topic
        self.ends: Mapping[str, int] = {}  # partition name → last stable offset
        self.ends_before: Mapping[str, int] = {}
        self._topics = topics
        self.cause = Cause()  # why brokers are away
        self._commit_error: int | None = None

    def on_error(self, error: KafkaError) -> None:
        """Take an error that concerns no single partition."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.away = True
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            self.topic_missing = True
        else:
            self.cause.on_error(error)

    def on_statistics(self, text: str) -> None:
        """Take the statistics of the last second, as JSON."""
        statistics = _statistics.decode(text)
        self.away = not any(broker.answers(self._silent_us) for broker in statistics.brokers.values())
        if not self.away:
            self.cause.clear()
        ends = dict(self.ends)
        for topic in self._topics:
            partitions = statistics.topics[topic].partitions if topic in statistics.topics else {}
            for name, partition in partitions.items():
                number = int(name)
                if number < 0:
                    continue  # librdkafka's own entry for messages without a partition
                self.partition_counts[topic] = max(self.partition_counts.get(topic, 0), number + 1)
                if partition.ls_offset >= 0:
                    ends[partition_name(topic, number)] = partition.ls_offset
        self.ends_before, self.ends = self.ends, ends

    def on_commit(self, error: KafkaError | None, _offsets: Sequence[TopicPartition]) -> None:
        """Log once that the offsets for lag tools could not be committed. Nothing else depends on them."""
        code = None if error is None else error.code()
        if error is not None and code != self._commit_error:
            LOG.warning(
                "offsets for lag tools are not committed: %s; does a consumer subscribe with our group.id?",
                error.str(),
            )
        self._commit_error = code

    def why_unreachable(self, otherwise: str) -> tuple[str, str]:
        """The cause that was told last, or ``otherwise``, and what to check."""
        return self.cause.why(otherwise)
