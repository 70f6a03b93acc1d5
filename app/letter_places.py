"""Which place the dead letters of a configuration have.

[dead_letters] ──► letter_place: where ``run`` puts them;  letter_box: where ``dlq`` finds them
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from driftgraph.app.dead_letter_files import FILES_MAX, FileDeadLetters, FileLetterBox
from driftgraph.app.dead_letter_topic import TOPIC_CONFIG, KafkaDeadLetters, TopicLetterBox
from driftgraph.app.topics import ensure_topic

if TYPE_CHECKING:
    from driftgraph.app.config import Settings
    from driftgraph.app.dead_letters import DeadLetters, LetterBox

ASK_WITHIN_S = 5.0  # a flush that the brokers do not answer: then ingestion knows that they are away


def letters_folder(settings: Settings) -> Path:
    """Where letters lie as files, and always what is remembered of them."""
    return settings.data_dir / "dead_letters"


def letter_place(settings: Settings) -> DeadLetters:
    """Where letters are to be put; a topic is made if it is missing.

    Raises:
        DriftgraphError: If the topic cannot be made or the folder not be written.
    """
    own = settings.dead_letters
    if own.to == "files":
        return FileDeadLetters(letters_folder(settings), file_bytes_max=own.max_bytes // FILES_MAX)
    client, topic = settings.kafka.librdkafka(), own.topic_of(settings.kafka.topic)
    ensure_topic(client, topic, partitions=1, config={**TOPIC_CONFIG, "retention.bytes": str(own.max_bytes)})
    return KafkaDeadLetters(client, topic=topic, flush_timeout_s=ASK_WITHIN_S)


def letter_box(settings: Settings) -> LetterBox:
    """The letters that are there."""
    own = settings.dead_letters
    if own.to == "files":
        return FileLetterBox(letters_folder(settings))
    return TopicLetterBox(settings.kafka.librdkafka(), own.topic_of(settings.kafka.topic))
