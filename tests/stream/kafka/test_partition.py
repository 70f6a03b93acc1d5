"""The state of one partition: its position never goes back, and a kept message is returned once, in order."""

from __future__ import annotations

from confluent_kafka import Consumer, Message

from driftgraph.stream.kafka.partition import Partition, partition_name, places_of_shard
from tests.kafka_brokers import event, mock_kafka, produce


def a_partition(next_offset: int = 5) -> Partition:
    return Partition("events", 3, number=3, next_offset=next_offset)


def messages(count: int) -> list[Message]:
    with mock_kafka() as address:
        produce(address, "events", [{"value": event(f"u{n}"), "partition": 3} for n in range(count)])
        consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "log_level": 0})
        partition = a_partition(next_offset=0)
        consumer.assign([partition.assignment()])
        read: list[Message] = []
        while len(read) < count:
            read += consumer.consume(count - len(read), 10)
        consumer.close()
        return read


def test_the_position_is_after_the_last_message_returned() -> None:
    partition = a_partition()
    partition.returned(7)
    assert (partition.next_offset, partition.at_end) == (8, False)
    assert (partition.assignment().topic, partition.assignment().partition) == partition.place
    assert partition.assignment().offset == 8


def test_an_end_moves_the_position_past_markers_and_never_back() -> None:
    partition = a_partition(next_offset=8)
    partition.ended(6)
    assert (partition.next_offset, partition.at_end) == (8, False), "it was told before the last read"
    partition.ended(9)
    assert (partition.next_offset, partition.at_end) == (9, True)
    partition.returned(9)
    assert not partition.at_end


def test_kept_messages_come_once_in_order_and_the_end_waits_for_them() -> None:
    partition = a_partition(next_offset=0)
    partition.ended(0)
    for message in messages(3):
        partition.keep(message)
    assert not partition.at_end
    assert [message.offset() for message in partition.take_kept()] == [0, 1, 2]
    assert partition.take_kept() == []


def test_a_partition_that_is_fetched_again_keeps_no_message_twice() -> None:
    partition = a_partition(next_offset=0)
    partition.keep(messages(1)[0])
    partition.ended(2)
    partition.seek()
    assert (partition.take_kept(), partition.at_end, partition.next_offset) == ([], False, 2)


def test_every_partition_belongs_to_one_shard() -> None:
    counts = {"a": 4, "b": 1}
    shards = [places_of_shard(counts, (i, 3)) for i in range(3)]
    assert shards[0] == {"a[0]": ("a", 0), "a[3]": ("a", 3), "b[0]": ("b", 0)}
    names = sorted(name for shard in shards for name in shard)
    assert names == sorted(partition_name(topic, p) for topic, count in counts.items() for p in range(count))
