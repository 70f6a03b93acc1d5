"""Dead letters: nothing of the event is lost, and nothing grows without end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from driftgraph.app import dead_letters
from driftgraph.app.dead_letters import (
    DeadLetterError,
    DeadLetters,
    FileDeadLetters,
    KafkaDeadLetters,
    MemoryDeadLetters,
    read_letters,
)
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT, Rejected
from tests.kafka_brokers import mock_kafka

LETTER = Rejected(
    reason="bad_id",
    detail="user id must be a text or an integer, got 42.0",
    payload=b'{"user_id":42.0}\xff\x00',
    origin="events[3]@17",
    key=b"k\xff",
    headers=(("trace", b"\x00\x01"), ("trace", b"second")),
    timestamp_ms=1_783_000_000_123,
)
BARE = Rejected("bad_row", "expected 4 fields, got 3", b"a,b,c", "events.csv:7")


@pytest.fixture
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


def test_memory_keeps_the_newest_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MEMORY_LETTERS_MAX", 3)
    letters = MemoryDeadLetters()
    for number in range(5):
        letters.put(replace(LETTER, origin=f"t[0]@{number}"))
    letters.put(BARE)
    assert [letter.origin for letter in letters.letters] == ["t[0]@3", "t[0]@4", "events.csv:7"]
    assert letters.counts == {"bad_id": 5, "bad_row": 1}


def test_a_file_gives_back_what_was_put_byte_by_byte(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path / "dead_letters")
    letters.put(LETTER)
    letters.put(BARE)
    letters.flush()
    assert list(read_letters(tmp_path / "dead_letters")) == [LETTER, BARE]
    assert letters.counts == {"bad_id": 1, "bad_row": 1}
    letters.close()
    letters.close()


def test_a_file_is_lines_of_json_that_anybody_can_read(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path)
    letters.put(LETTER)
    letters.close()
    [line] = (tmp_path / "dead-letters-000001.jsonl").read_text().splitlines()
    assert json.loads(line) | {"payload": "", "key": "", "headers": []} == {
        "reason": "bad_id",
        "detail": LETTER.detail,
        "origin": "events[3]@17",
        "payload": "",
        "payload_bytes": len(LETTER.payload),
        "key": "",
        "headers": [],
        "timestamp_ms": 1_783_000_000_123,
    }


def test_a_huge_payload_is_cut_in_the_file_and_its_size_is_kept(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path)
    letters.put(replace(LETTER, payload=b"x" * 5_000_000))
    letters.close()
    [letter] = read_letters(tmp_path)
    assert letter.payload == b"x" * PAYLOAD_BYTES_KEPT
    assert json.loads((tmp_path / "dead-letters-000001.jsonl").read_text())["payload_bytes"] == 5_000_000


def test_files_are_bounded_in_size_and_number_and_the_oldest_goes(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path, file_bytes_max=1_000, files_max=3)
    for number in range(40):
        letters.put(replace(LETTER, origin=f"t[0]@{number}"))
    letters.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(0 < file.stat().st_size <= 1_000 for file in files)
    kept = [int(letter.origin.partition("@")[2]) for letter in read_letters(tmp_path)]
    assert kept == list(range(kept[0], 40))


def test_a_line_cut_off_anywhere_by_a_crash_costs_that_line_only(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path)
    letters.put(BARE)
    letters.put(LETTER)
    letters.close()
    path = tmp_path / "dead-letters-000001.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read_letters(tmp_path)) == ([BARE] if cut >= first else []), f"cut at byte {cut}"
        again = FileDeadLetters(tmp_path)
        again.put(LETTER)
        again.close()
        assert list(read_letters(tmp_path)) == ([BARE] if cut >= first else []) + [LETTER], (
            f"cut at byte {cut}"
        )


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(DeadLetterError, match=r"cannot be written to .*taken.*set data_dir"):
        FileDeadLetters(tmp_path / "taken")


def test_a_full_disk_is_told_when_letters_are_made_safe(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    letters = FileDeadLetters(tmp_path)
    letters.close()
    letters._file = full.open("ab")
    letters.put(LETTER)
    for make_safe in (letters.flush, letters.close):
        with pytest.raises(DeadLetterError, match="No space left on device; free space"):
            make_safe()
    assert list(read_letters(tmp_path)) == []


def records_of(address: str, topic: str, count: int) -> list[Any]:
    """The first ``count`` records of partition by partition of a topic."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "log_level": 0})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        found: list[Any] = []
        for _ in range(100):
            found += consumer.consume(count, 0.2)
            if len(found) >= count:
                return found
    finally:
        consumer.close()
    return pytest.fail(f"{len(found)} of {count} records came")


def test_kafka_gets_the_event_byte_by_byte_and_the_reason_in_headers(kafka: str) -> None:
    letters = KafkaDeadLetters({"bootstrap.servers": kafka}, default_topic="files")
    letters.put(LETTER)
    letters.put(BARE)
    letters.put(replace(LETTER, reason="tombstone", payload=b"", origin="other[0]@1"))
    letters.flush()
    [record] = records_of(kafka, "events.dlq", 1)
    assert (record.value(), record.key(), record.timestamp()[1]) == (
        LETTER.payload,
        LETTER.key,
        LETTER.timestamp_ms,
    )
    headers = record.headers()
    assert headers[:2] == [("trace", b"\x00\x01"), ("trace", b"second")]
    said = dict(headers[2:])
    assert said["driftgraph.reason"] == b"bad_id"
    assert [said[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset")] == [
        b"events",
        b"3",
        b"17",
    ]
    assert said["__connect.errors.exception.message"] == LETTER.detail.encode()
    [bare] = records_of(kafka, "files.dlq", 1)
    assert (bare.value(), bare.key()) == (b"a,b,c", None)
    [tombstone] = records_of(kafka, "other.dlq", 1)
    assert tombstone.value() is None
    assert letters.counts == {"bad_id": 1, "bad_row": 1, "tombstone": 1}


def test_an_event_too_large_for_the_topic_is_cut_and_says_so(kafka: str) -> None:
    letters = KafkaDeadLetters(
        {"bootstrap.servers": kafka, "message.max.bytes": 200_000}, default_topic="events"
    )
    letters.put(replace(LETTER, payload=b"x" * 1_000_000))
    letters.flush()
    [record] = records_of(kafka, "events.dlq", 1)
    assert record.value() == b"x" * PAYLOAD_BYTES_KEPT
    assert ("driftgraph.payload.bytes", b"1000000") in record.headers()


def test_letters_that_nobody_acknowledges_are_told() -> None:
    letters = KafkaDeadLetters(
        {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, default_topic="events", flush_timeout_s=0.2
    )
    letters.put(LETTER)
    with pytest.raises(DeadLetterError, match=r"cannot be sent to events.dlq: 1 not acknowledged in 0.2 s"):
        letters.flush()


def test_each_sink_keeps_the_protocol(tmp_path: Path, kafka: str) -> None:
    sinks: list[DeadLetters] = [
        MemoryDeadLetters(),
        FileDeadLetters(tmp_path),
        KafkaDeadLetters({"bootstrap.servers": kafka}, default_topic="events"),
    ]
    for sink in sinks:
        sink.put(LETTER)
        sink.put(LETTER)
        sink.flush()
        assert dict(sink.counts) == {"bad_id": 2}
        sink.close()
        sink.close()
