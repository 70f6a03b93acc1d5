"""One partition of a topic: its names, where it is read, and what is kept of it while it is held.

    KafkaSource ──► {name: [Partition]} ──► Position, the assignment of the consumer
                          └─ kept: messages that were fetched before the partition was held

Where a partition ends is not here: librdkafka tells that once a second, and ``KafkaSignals`` keeps it. The
id of a topic is in ``TopicIds``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from confluent_kafka import Message, TopicPartition

from driftgraph.stream.arrays import I32

TOPIC_STRIDE: Final = 1 << 16  # of the number that stands for (topic, partition) in EventBatch.partition

Place = tuple[str, int]  # topic, partition


def partition_name(topic: str, partition: int) -> str:
    """A partition as positions, logs and error messages name it."""
    return f"{topic}[{partition}]"


def partition_name_of(message: Message) -> str:
    """The partition that a message, or an error in place of one, comes from."""
    return partition_name(str(message.topic()), message.partition() or 0)


def numbers_of(messages: Sequence[Message], topics: Sequence[str]) -> I32:
    """The number of each message's partition in ``EventBatch.partition``, by calls that are made in C."""
    partition = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
    if len(topics) == 1:
        return partition
    first_of = {topic: number * TOPIC_STRIDE for number, topic in enumerate(topics)}
    return partition + np.fromiter((first_of[str(m.topic())] for m in messages), np.int32, len(messages))


def places_of_shard(counts: Mapping[str, int], shard: tuple[int, int]) -> dict[str, Place]:
    """The partitions that shard ``(i, n)`` reads, by name: those with p mod n = i.

    Args:
        counts: How many partitions each topic has.
        shard: (i, n).
    """
    index, shards = shard
    mine = [(topic, p) for topic, count in counts.items() for p in range(count) if p % shards == index]
    return {partition_name(*place): place for place in mine}


@dataclass(slots=True)
class Partition:
    """All that a ``KafkaSource`` knows of one assigned partition.

    Always true: ``next_offset`` is the offset after the last event returned, which is the position of the
    partition; ``at_end`` only while no message is known to follow; ``kept`` is empty unless the partition
    is or was held.
    """

    topic: str
    index: int  # Kafka's number of the partition in its topic
    number: int  # in EventBatch.partition
    next_offset: int
    at_end: bool = False  # the broker has told that ``next_offset`` is the end
    held: bool = False  # not fetched until the caller's next ``hold``, whether the source is paused or not
    kept: list[Message] = field(default_factory=list)  # fetched before the hold, returned after it

    @property
    def place(self) -> Place:
        """The topic, and Kafka's number of the partition in it."""
        return self.topic, self.index

    def assignment(self) -> TopicPartition:
        """The partition at its position, for ``Consumer.assign``, ``pause`` and ``resume``."""
        return TopicPartition(self.topic, self.index, self.next_offset)

    def returned(self, offset: int) -> None:
        """The message at ``offset`` was returned, and all before it."""
        self.next_offset = offset + 1
        self.at_end = False

    def ended(self, offset: int) -> None:
        """The broker has told that the partition ends at ``offset``: after the markers of transactions."""
        if offset >= self.next_offset:
            self.next_offset = offset
            self.at_end = True

    def keep(self, message: Message) -> None:
        """Keep a message of a held partition until the partition is read again."""
        self.kept.append(message)
        self.at_end = False

    def take_kept(self) -> list[Message]:
        """The kept messages, oldest first. The partition keeps none of them."""
        kept, self.kept = self.kept, []
        return kept

    def seek(self) -> None:
        """Forget what was fetched: the consumer is assigned anew and fetches again from ``next_offset``."""
        self.kept = []
        self.at_end = False
