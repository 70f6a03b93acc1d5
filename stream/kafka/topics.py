"""Topics as the brokers keep them: makes the topics that driftgraph needs, and reads what a topic keeps.

produce, letter_place ──► [ensure_topic] ──► the brokers
produce, doctor, letter_place ──► [topic_rules] ──► TopicRules: retention, compaction, limits of times
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.kafka.causes import Cause, Property, configuration_fault
from driftgraph.stream.kafka.client import LIBRDKAFKA

ANSWER_WITHIN_S: Final = 10.0
RECORD_MS_MAX: Final = (1 << 63) - 1  # means "no limit" of record times to a broker
T = TypeVar("T")
_BROKER_DEFAULT: Final = -1  # of partitions and replicas
_BEFORE_MAX: Final = "message.timestamp.before.max.ms"  # Kafka 3.6 and newer
KEEPS_ALL: Final[Mapping[str, str]] = {  # records have event times, so retention by age would remove old ones
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    _BEFORE_MAX: str(RECORD_MS_MAX),
}


class TopicError(DriftgraphError):
    """A topic is not there and cannot be made, or the brokers do not answer."""


@dataclass(frozen=True, slots=True)
class TopicRules:
    """The limits of a topic; None where it has no such limit."""

    partitions: int
    retention_ms: int | None = None  # by the record's own time, unless ``append_time``
    retention_bytes: int | None = None  # of all partitions
    compacted: bool = False  # only the newest record of each key is kept
    append_time: bool = False  # a record has the time at which it came
    before_max_ms: int | None = None  # a record older than this is refused
    after_max_ms: int | None = None  # one further ahead than this is refused


def ensure_topic(
    client: Mapping[str, Property],
    topic: str,
    *,
    partitions: int = _BROKER_DEFAULT,
    config: Mapping[str, str] = KEEPS_ALL,
) -> bool:
    """Make a topic unless it exists; return whether it was made. A topic that exists is not changed.

    Raises:
        TopicError: If the topic cannot be made, or no broker answers.
    """

    def make(admin: AdminClient) -> bool:
        if topic in admin.list_topics(timeout=ANSWER_WITHIN_S).topics:
            return False
        wanted = dict(config)
        while True:
            made = admin.create_topics(
                [NewTopic(topic, partitions, _BROKER_DEFAULT, config=wanted)], request_timeout=ANSWER_WITHIN_S
            )[topic]
            try:
                made.result(ANSWER_WITHIN_S + 5)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    return False  # another process was quicker
                if code != KafkaError.INVALID_CONFIG or _BEFORE_MAX not in wanted:
                    raise
                del wanted[_BEFORE_MAX]  # an older Kafka, which has no such limit
            else:
                return True

    return _asked(client, make, f"topic {topic!r} cannot be found or made")


def topic_rules(client: Mapping[str, Property], topic: str) -> TopicRules:
    """The limits of a topic.

    Raises:
        TopicError: If the brokers do not tell: it needs DESCRIBE_CONFIGS on the topic.
    """

    def ask(admin: AdminClient) -> TopicRules:
        there = admin.list_topics(timeout=ANSWER_WITHIN_S)  # of all topics: asking for one may create it
        if topic not in there.topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "there is no such topic"))
        if there.controller_id not in there.brokers:  # librdkafka's mock: nobody would answer
            raise KafkaException(KafkaError(KafkaError._UNSUPPORTED_FEATURE, "there is no controller"))
        resource = ConfigResource(ResourceType.TOPIC, topic)
        told = admin.describe_configs([resource], request_timeout=ANSWER_WITHIN_S)[resource]
        values = {name: one.value for name, one in told.result(ANSWER_WITHIN_S + 5).items()}
        return rules_of(values, len(there.topics[topic].partitions))

    return _asked(client, ask, f"what topic {topic!r} keeps cannot be asked", right="DESCRIBE_CONFIGS on it")


def rules_of(values: Mapping[str, Any], partitions: int) -> TopicRules:
    """The limits in a topic's properties. A property that is missing means no limit."""

    def limit(*names: str) -> int | None:
        found = [int(values[name]) for name in names if values.get(name) not in (None, "")]
        return min((n for n in found if 0 <= n < RECORD_MS_MAX), default=None)

    policies = {one.strip() for one in str(values.get("cleanup.policy") or "delete").split(",")}
    by_bytes = limit("retention.bytes") if "delete" in policies else None
    difference = "message.timestamp.difference.max.ms"  # of Kafka before 3.6: in both directions
    return TopicRules(
        partitions,
        retention_ms=limit("retention.ms") if "delete" in policies else None,
        retention_bytes=None if by_bytes is None else by_bytes * partitions,
        compacted="compact" in policies,
        append_time=values.get("message.timestamp.type") == "LogAppendTime",
        before_max_ms=limit(_BEFORE_MAX, difference),
        after_max_ms=limit("message.timestamp.after.max.ms", difference),
    )


def _asked(
    client: Mapping[str, Property], ask: Callable[[AdminClient], T], what: str, right: str = "CREATE"
) -> T:
    """What the brokers answer to ``ask``, or a sentence that says why they do not."""
    servers, cause = client.get("bootstrap.servers", ""), Cause()
    try:
        properties: dict[str, Any] = {**client, "error_cb": cause.on_error}
        admin = AdminClient(properties, logger=LIBRDKAFKA)
    except (KafkaException, ValueError, TypeError) as error:
        raise TopicError(f"{what} on Kafka at {servers}: {configuration_fault(error, client)}") from error
    try:
        return ask(admin)
    except (KafkaException, TimeoutError) as error:
        with suppress(KafkaException):
            admin.poll(0)  # lets the callback tell the cause
        first = error.args[0] if error.args else error
        if isinstance(first, KafkaError) and "AUTHORIZATION" in first.name():
            why, advice = first.str(), f"this user needs the right to do so: ask for {right}"
        elif isinstance(first, KafkaError) and not first.name().startswith("_"):
            why, advice = first.str(), "see what the topic and the brokers allow"  # a broker has answered
        else:
            why, advice = cause.why(first.str() if isinstance(first, KafkaError) else str(first))
        raise TopicError(f"{what} on Kafka at {servers}: {why}; {advice}") from error
