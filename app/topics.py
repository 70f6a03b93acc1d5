"""Topics that driftgraph makes: the one that ``produce`` fills, and the one of dead letters.

produce, live ──► [ensure_topic] ──► the brokers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from driftgraph.app.errors import DriftgraphError
from driftgraph.stream.kafka_client import LIBRDKAFKA, Property

ANSWER_WITHIN_S: Final = 10.0
_BROKER_DEFAULT: Final = -1  # of partitions and replicas


class TopicError(DriftgraphError):
    """A topic is not there and cannot be made, or the brokers do not answer."""


def ensure_topic(
    client: Mapping[str, Property],
    topic: str,
    *,
    partitions: int = _BROKER_DEFAULT,
    config: Mapping[str, str] | None = None,
) -> bool:
    """Make a topic unless it is there; returns whether it was made. One that is there stays as it is.

    Raises:
        TopicError: If it is not there afterwards, or nobody answers.
    """
    servers = client.get("bootstrap.servers", "")
    try:
        admin = AdminClient(dict(client), logger=LIBRDKAFKA)
        if topic in admin.list_topics(timeout=ANSWER_WITHIN_S).topics:
            return False
        wanted = NewTopic(topic, partitions, _BROKER_DEFAULT, config=dict(config or {}))
        [made] = admin.create_topics([wanted], request_timeout=ANSWER_WITHIN_S).values()
        made.result(ANSWER_WITHIN_S + 5)
    except (KafkaException, ValueError, TypeError) as error:
        first = error.args[0] if error.args else error
        if isinstance(first, KafkaError) and first.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False  # somebody was quicker
        why = first.str() if isinstance(first, KafkaError) else str(first)
        raise TopicError(
            f"topic {topic!r} cannot be found or made on Kafka at {servers}: {why}; "
            "check kafka.bootstrap_servers, that the brokers run and what this user may do"
        ) from error
    return True
