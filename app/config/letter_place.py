"""Builds the place of dead letters that the configuration chooses: files or a topic.

[dead_letters] ──► letter_place: ``run`` puts letters there;  letter_box: ``dlq`` and the HTTP port find them;
                   sent_back: both retry them
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from driftgraph.app.config.formats import time_counts
from driftgraph.stream.dead_letters.files import FILES_MAX, FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.redrive import Keeping, Redriven, alone, retry
from driftgraph.stream.dead_letters.topic import TOPIC_CONFIG, KafkaDeadLetters, TopicLetterBox
from driftgraph.stream.kafka.causes import Property
from driftgraph.stream.kafka.producer import EventProducer
from driftgraph.stream.kafka.topics import TopicError, TopicRules, ensure_topic, topic_rules
from driftgraph.stream.time.clock import SystemClock

if TYPE_CHECKING:
    from driftgraph.app.config.settings import Settings
    from driftgraph.stream.dead_letters.letters import DeadLetters, LetterBox

log = logging.getLogger(__name__)

ASK_WITHIN_S = 5.0  # then a flush without an answer fails, and ingestion knows that the brokers are away


def letters_folder(settings: Settings) -> Path:
    """The folder of letters in files. The identities of kept letters are there in any case."""
    return settings.data_dir / "dead_letters"


def letter_place(settings: Settings) -> DeadLetters:
    """The place for new letters. A topic is made if it is missing.

    Raises:
        DriftgraphError: If the topic cannot be made, or the folder cannot be written.
    """
    own = settings.dead_letters
    if own.to == "files":
        return FileDeadLetters(letters_folder(settings), file_bytes_max=own.max_bytes // FILES_MAX)
    client, topic = settings.kafka.librdkafka(), own.topic_of(settings.kafka.topic)
    ensure_topic(client, topic, partitions=1, config={**TOPIC_CONFIG, "retention.bytes": str(own.max_bytes)})
    return KafkaDeadLetters(
        client, topic=topic, flush_timeout_s=ASK_WITHIN_S, at_its_time=_keeps_old(client, topic)
    )


def _keeps_old(client: Mapping[str, Property], topic: str) -> bool:
    """Whether a topic keeps a record with an old time as long as others; another program may have made it."""
    try:
        rules = topic_rules(client, topic)
    except TopicError as error:
        log.warning("%s; letters have the time at which they are kept", error)
        return False
    if rules.compacted:
        log.warning(
            "topic %s is compacted: it keeps one letter of each key; set cleanup.policy=delete", topic
        )
    return rules.retention_ms is None


def letter_box(settings: Settings) -> LetterBox:
    """The existing letters."""
    own = settings.dead_letters
    if own.to == "files":
        return FileLetterBox(letters_folder(settings))
    return TopicLetterBox(settings.kafka.librdkafka(), own.topic_of(settings.kafka.topic))


def sent_back(
    settings: Settings, *, reason: str | None = None, limit: int | None = None, say: Callable[[str], None]
) -> Redriven:
    """Send open letters back to their topic, the oldest first; one process of a data_dir at a time.

    Args:
        settings: Where the letters are, and the brokers.
        reason: Only letters of this reason.
        limit: The most letters to send.
        say: Is told what is odd, a sentence each.

    Raises:
        DriftgraphError: As ``redrive.retry``; or another retry runs.
    """

    def rules(topic: str) -> TopicRules | None:
        try:
            return topic_rules(settings.kafka.librdkafka(), topic)
        except TopicError as error:
            say(f"whether {topic} keeps old records is not known: {error}")
            return None

    producer = EventProducer(settings.kafka.librdkafka(), settings.kafka.topic)
    keeping = Keeping(rules, SystemClock().now_ms(), time_counts(settings.events))
    with alone(letters_folder(settings)):
        return retry(
            letter_box(settings),
            producer,
            topic=settings.kafka.topic,
            reason=reason,
            limit=limit,
            keeping=keeping,
        )
