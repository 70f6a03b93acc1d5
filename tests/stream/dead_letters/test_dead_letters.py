"""Dead letters: nothing of the event is lost, and nothing grows without end."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from driftgraph.stream.dead_letters import letters as letters_module
from driftgraph.stream.dead_letters.files import PAYLOAD_BYTES_MAX, FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.letters import DeadLetterError, DeadLetters, MemoryDeadLetters
from driftgraph.stream.dead_letters.topic import KafkaDeadLetters
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT, Rejected
from driftgraph.stream.time.clock import ManualClock
from tests.kafka_brokers import mock_kafka

LETTER = Rejected(
    reason="bad_id",
    detail="user id must be a text or an integer, got 42.0",
    payload=b'{"user_id":42.0}\xff\x00',
    origin="events[3]@17",
    key=b"k\xff",
    headers=(("trace", b"\x00\x01"), ("trace", b"second"), ("null", None)),
    timestamp_ms=1_783_000_000_123,
)
BARE = Rejected("bad_row", "expected 4 fields, got 3", b"a,b,c", "events.csv:7")


def read_letters(folder: Path) -> list[Rejected]:
    return [letter.rejected for letter in FileLetterBox(folder).letters() if not letter.done]


def letter_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("dead-letters-*.jsonl"))


@pytest.fixture
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


def test_memory_keeps_the_newest_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "MEMORY_LETTERS_MAX", 3)
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
    assert read_letters(tmp_path / "dead_letters") == [LETTER, BARE]
    assert letters.counts == {"bad_id": 1, "bad_row": 1}
    letters.close()
    letters.close()


def test_a_file_is_lines_of_json_that_anybody_can_read(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path, clock=ManualClock(1_783_000_000_999))
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
        "kept_ms": 1_783_000_000_999,
    }


def test_a_huge_payload_is_cut_in_the_file_and_its_size_is_kept(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path)
    letters.put(replace(LETTER, payload=b"x" * 5_000_000))
    letters.close()
    [letter] = FileLetterBox(tmp_path).letters()
    assert letter.rejected.payload == b"x" * PAYLOAD_BYTES_MAX
    assert (letter.payload_bytes, letter.is_whole) == (5_000_000, False)
    assert json.loads((tmp_path / "dead-letters-000001.jsonl").read_text())["payload_bytes"] == 5_000_000


def test_files_are_bounded_in_size_and_number_and_the_oldest_goes(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path, file_bytes_max=1_000, files_max=3)
    for number in range(40):
        letters.put(replace(LETTER, origin=f"t[0]@{number}"))
    letters.close()
    files = letter_files(tmp_path)
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
        assert read_letters(tmp_path) == ([BARE] if cut >= first else []), f"cut at byte {cut}"
        again = FileDeadLetters(tmp_path)
        again.put(LETTER)
        again.close()
        assert read_letters(tmp_path) == ([BARE] if cut >= first else []) + [LETTER], f"cut at byte {cut}"


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(DeadLetterError, match=r"cannot be written to .*taken.*set data_dir"):
        FileDeadLetters(tmp_path / "taken")


def test_a_full_disk_costs_nothing_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before the disk was full is taken back; after space was made it is there, once."""
    letters = FileDeadLetters(tmp_path)
    letters.put(BARE)
    letters.flush()
    size = letter_files(tmp_path)[0].stat().st_size
    fsync = os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    letters.put(LETTER)
    monkeypatch.setattr(os, "fsync", full)
    for make_safe in (letters.flush, letters.close):
        with pytest.raises(DeadLetterError, match="No space left on device; free space"):
            make_safe()
        assert letter_files(tmp_path)[0].stat().st_size == size
    monkeypatch.setattr(os, "fsync", fsync)
    letters.close()
    assert read_letters(tmp_path) == [BARE, LETTER]


def test_a_megabyte_of_letters_is_written_without_a_flush(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path)
    for _ in range(10):
        letters.put(replace(LETTER, payload=b"x" * 100_000))
    assert len(read_letters(tmp_path)) >= 7


def test_the_folder_may_be_cleared_away_meanwhile(tmp_path: Path) -> None:
    letters = FileDeadLetters(tmp_path / "letters")
    letters.put(LETTER)
    letters.flush()
    shutil.rmtree(tmp_path / "letters")
    letters.put(BARE)
    letters.flush()
    assert read_letters(tmp_path / "letters") == [BARE]


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
    letters = KafkaDeadLetters({"bootstrap.servers": kafka}, topic="events.dlq")
    letters.put(LETTER)
    letters.put(BARE)
    letters.put(replace(LETTER, reason="tombstone", payload=b"", origin="other[0]@1"))
    letters.flush()
    found = records_of(kafka, "events.dlq", 3)
    record, bare, tombstone = (
        next(r for r in found if dict(r.headers())["driftgraph.origin"] == origin.encode())
        for origin in (LETTER.origin, BARE.origin, "other[0]@1")
    )
    assert (record.value(), record.key(), record.timestamp()[1]) == (
        LETTER.payload,
        LETTER.key,
        LETTER.timestamp_ms,
    )
    headers = record.headers()
    assert headers[:3] == [("trace", b"\x00\x01"), ("trace", b"second"), ("null", None)]
    said = dict(headers[3:])
    assert said["driftgraph.reason"] == b"bad_id"
    assert [said[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset")] == [
        b"events",
        b"3",
        b"17",
    ]
    assert said["__connect.errors.exception.message"] == LETTER.detail.encode()
    assert (bare.value(), bare.key()) == (b"a,b,c", None)
    assert tombstone.value() is None
    assert letters.counts == {"bad_id": 1, "bad_row": 1, "tombstone": 1}


def test_an_event_too_large_for_the_topic_is_cut_and_says_so(kafka: str) -> None:
    letters = KafkaDeadLetters({"bootstrap.servers": kafka, "message.max.bytes": 200_000}, topic="events.dlq")
    letters.put(replace(LETTER, payload=b"x" * 1_000_000))
    letters.flush()
    [record] = records_of(kafka, "events.dlq", 1)
    assert record.value() == b"x" * PAYLOAD_BYTES_KEPT
    assert ("driftgraph.payload.bytes", b"1000000") in record.headers()


def test_letters_that_nobody_acknowledges_are_told() -> None:
    letters = KafkaDeadLetters(
        {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, topic="events.dlq", flush_timeout_s=0.2
    )
    letters.put(LETTER)
    with pytest.raises(DeadLetterError, match=r"cannot be sent to events.dlq: .*(not acknowledged|refused)"):
        letters.flush()


def test_each_sink_keeps_the_protocol(tmp_path: Path, kafka: str) -> None:
    sinks: list[DeadLetters] = [
        MemoryDeadLetters(),
        FileDeadLetters(tmp_path),
        KafkaDeadLetters({"bootstrap.servers": kafka}, topic="events.dlq"),
    ]
    for sink in sinks:
        sink.put(LETTER)
        sink.put(LETTER)
        sink.flush()
        assert dict(sink.counts) == {"bad_id": 2}
        sink.close()
        sink.close()
