"""Producing a file: what arrives is what the file has, at the pace that was asked for."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from driftgraph.app.commands.produce import (
    AtOnce,
    EventsPerSecond,
    EventTime,
    Pace,
    ProduceReport,
    canonical_json,
)
from driftgraph.app.commands.produce import produce as produce_file
from driftgraph.app.console.progress import NoProgress
from driftgraph.stream.events import EMPTY
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, Event, EventRules, RowOrigin, Rows
from driftgraph.stream.formats.rules_by_column import batch_of
from driftgraph.stream.kafka import producer as event_producer
from driftgraph.stream.kafka.producer import EventProducer, ProduceError
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.time.clock import REPLAY_TIMES, SystemClock
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.kafka_brokers import mock_kafka
from tests.kafka_brokers import produce as put
from tests.stream.dead_letters.test_dead_letters import records_of

ROWS = [
    ("1", "2", "buy", 1_511_539_200),
    ("ü", 'a "quoted" one', "pv", 1_511_539_201),
    ("1", "4", "buy", 1_511_539_300),
]


@pytest.fixture
def kafka() -> Iterator[str]:
    """A broker whose topic is there."""
    with mock_kafka() as address:
        put(address, "t", [{"value": b"first", "partition": 0}])
        yield address


def csv_of(folder: Path, *more: str) -> Path:
    quoted = [f'{u},"{i.replace(chr(34), chr(34) * 2)}",{b},{t}' for u, i, b, t in ROWS]
    path = folder / "events.csv"
    path.write_text(
        "\n".join(["user_id,item_id,behavior,timestamp", *quoted, *more]) + "\n", encoding="utf-8"
    )
    return path


def produced(address: str, path: Path, *, pace: Pace | None = None, **options: Any) -> ProduceReport:
    return produce_file(
        {"bootstrap.servers": address},
        "t",
        path,
        FileOptions(**{"ignore": (), **options}),
        pace=pace or AtOnce(),
        partitions=None,
        progress=NoProgress(),
        clock=SystemClock(),
    )


def arrived(address: str, count: int) -> dict[tuple[Any, Any, int], list[bytes]]:
    """What is on the topic beside its first record: (key, value, timestamp), each with its partitions."""
    found: dict[tuple[Any, Any, int], list[bytes]] = {}
    for record in records_of(address, "t", count + 1):
        if record.value() != b"first":
            found.setdefault((record.key(), record.value(), record.timestamp()[1]), []).append(
                record.partition()
            )
    return found


# --- what arrives -----------------------------------------------------


def test_each_row_arrives_as_canonical_json_under_its_user_and_its_time(kafka: str, tmp_path: Path) -> None:
    report = produced(kafka, csv_of(tmp_path))
    assert (report.produced, report.rejected, report.interrupted, report.created) == (3, 0, False, False)
    found = arrived(kafka, 3)
    assert {(key, time_ms): json.loads(value) for key, value, time_ms in found} == {
        (user.encode(), seconds * 1000): {
            "user_id": user, "item_id": item, "behavior": behavior, "ts": seconds * 1000,
        }
        for user, item, behavior, seconds in ROWS
    }  # fmt: skip
    by_user = {key: {p for (k, _, _), ps in found.items() if k == key for p in ps} for key, _, _ in found}
    assert all(len(partitions) == 1 for partitions in by_user.values()), "a user is in two partitions"


def test_a_bad_row_is_left_out_counted_and_shown(kafka: str, tmp_path: Path) -> None:
    report = produced(kafka, csv_of(tmp_path, "5,6,buy,never", "7,8,buy", ",9,buy,1511539200"))
    assert (report.produced, report.rejected) == (3, 3)
    assert dict(report.reasons) == {"bad_time": 1, "bad_row": 1, "bad_id": 1}
    assert report.example.startswith("events.csv:5: the time must be")
    assert len(arrived(kafka, 3)) == 3


def test_behaviors_that_were_not_asked_for_are_left_out_and_counted(kafka: str, tmp_path: Path) -> None:
    report = produced(kafka, csv_of(tmp_path), relations=("pv",))
    assert (report.produced, report.ignored) == (1, 2)


def test_parquet_and_json_lines_go_the_same_way(kafka: str, tmp_path: Path) -> None:
    names = ("user_id", "item_id", "behavior", "timestamp")
    columns = dict(zip(names, zip(*ROWS, strict=True), strict=True))
    parquet.write_table(
        pa.table({name: list(column) for name, column in columns.items()}), tmp_path / "e.parquet"
    )
    lines = [{"user_id": u, "item_id": i, "behavior": b, "ts": t, "event_id": f"e{t}"} for u, i, b, t in ROWS]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert produced(kafka, tmp_path / "e.parquet").produced == 3
    assert produced(kafka, tmp_path / "e.jsonl").produced == 3
    events = [json.loads(value) for _, value, _ in arrived(kafka, 6)]
    ids = {event.pop("event_id") for event in events if "event_id" in event}
    assert ids == {line["event_id"] for line in lines}
    assert len({str(event) for event in events}) == 3


# control characters, quotes and anything else inside, but none that an id must not have at its ends
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and text[0] > " " and text[-1] > " "
)


@example([("a\u2028\x01b", '"\\', 1, 1_700_000_000_000, "")])
@given(
    st.lists(
        st.tuples(
            texts, texts, st.integers(0, 1), st.integers(1_600_000_000_000, 1_800_000_000_000),
            st.one_of(st.just(""), texts),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_what_is_written_is_what_the_decoder_reads(rows: list[tuple[str, str, int, int, str]]) -> None:
    names = ("click", 'odd "name"')
    events = [Event(*row) for row in rows]
    keys, values = canonical_json(batch_of(events, EMPTY.partition), names)
    read = CanonicalJson(EventRules(Behaviors(names), REPLAY_TIMES)).decode(
        Rows(values, lambda row: RowOrigin(f"row {row}"))
    )
    assert read.rejected == ()
    batch = read.batch
    ids = [""] * len(batch) if batch.event_id is None else batch.event_id.to_list()
    columns = (batch.user.to_list(), batch.item.to_list(), batch.relation.tolist(), batch.time_ms.tolist())
    assert list(zip(*columns, ids, strict=True)) == rows
    assert keys == [event.user.encode() for event in events]


# --- pace -----------------------------------------------------


def paced(pace: Pace, times_ms: list[int], ticks_s: list[float]) -> list[int]:
    """How many events have gone after each tick."""
    at, found = 0, []
    for tick_s in ticks_s:
        if at < len(times_ms):
            at = pace.due(times_ms, at, tick_s)
        found.append(at)
    return found


def test_a_rate_is_kept_whatever_the_times_are() -> None:
    assert paced(EventsPerSecond(10), [5] * 100, [0, 0.05, 0.1, 1.0, 1.0, 60]) == [1, 1, 2, 11, 11, 100]


def test_a_rate_goes_on_over_the_batches() -> None:
    pace = EventsPerSecond(10)
    assert paced(pace, [5] * 10, [0, 2]) == [1, 10]
    assert paced(pace, [5] * 100, [2, 3]) == [11, 21]


def test_a_speed_follows_event_time_and_never_goes_back() -> None:
    times_ms = [1_000, 1_000, 11_000, 2_000, 21_000, 500]
    assert paced(EventTime(10), times_ms, [0, 0.9, 1.0, 1.9, 2.0, 2.0]) == [2, 2, 4, 4, 6, 6]


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=50), st.floats(0.1, 100))
def test_every_pace_ends_and_skips_nothing(times_ms: list[int], speed: float) -> None:
    for pace in (AtOnce(), EventsPerSecond(speed), EventTime(speed)):
        gone = paced(pace, times_ms, [0, 0, 0.5, 1, 2, 1e6])
        assert gone == sorted(gone)
        assert gone[-1] == len(times_ms)
        assert gone[0] >= 1, "the first event goes at once"


def test_a_pace_is_kept_on_the_way_to_kafka(kafka: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert produced(kafka, csv_of(tmp_path), pace=EventsPerSecond(4)).produced == 3
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("pace", [EventsPerSecond, EventTime])
def test_no_pace_stands_still(pace: type[EventsPerSecond] | type[EventTime]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        pace(0)


# --- the producer -----------------------------------------------------


def test_a_full_queue_is_waited_for(kafka: str) -> None:
    producer = EventProducer({"bootstrap.servers": kafka, "queue.buffering.max.messages": 10}, "t")
    producer.send_many([b"k"] * 500, [b"%d" % n for n in range(500)], [1_700_000_000_000] * 500)
    for number in range(500, 600):
        producer.send(key=b"k", value=b"%d" % number, timestamp_ms=None)
    producer.finish()
    assert producer.sent == 600
    assert {int(value) for _, value, _ in arrived(kafka, 600)} == set(range(600))


def test_a_full_queue_is_not_waited_for_after_a_stop() -> None:
    producer = EventProducer({"bootstrap.servers": "127.0.0.1:1", "queue.buffering.max.messages": 10}, "t")
    threading.Timer(0.3, producer.stopped.set).start()
    producer.send_many([b"k"] * 20, [b"v"] * 20, [1_700_000_000_000] * 20)
    producer.send(key=b"k", value=b"v", timestamp_ms=None)
    assert producer.sent == 10
    with pytest.raises(
        ProduceError, match=r"10 events were not acknowledged by Kafka at 127.0.0.1:1 in 0.1 s \("
    ):
        producer.finish(0.1)


def test_what_the_brokers_refuse_is_one_sentence(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = EventProducer({"bootstrap.servers": kafka, "message.max.bytes": 1_000}, "t")
    with pytest.raises(ProduceError, match=r"topic t on Kafka at .* does not take an event: .*too large"):
        producer.send(key=b"k", value=b"x" * 5_000, timestamp_ms=None)
    with pytest.raises(ProduceError, match="too large"):
        producer.send_many([b"k"], [b"x" * 5_000], [1_700_000_000_000])
    later = EventProducer({"bootstrap.servers": kafka}, "t")
    later._on_failure(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), None)
    with pytest.raises(ProduceError, match="uthoriz"):
        later.finish()
    with pytest.raises(ProduceError, match=r"refuses its configuration: .*no.such"):
        EventProducer({"bootstrap.servers": kafka, "no.such": 1}, "t")
    with pytest.raises(ProduceError, match="has no topic 'u'"):
        later.partition_count("u")
    monkeypatch.setattr(event_producer, "FINISH_WITHIN_S", 0.1)
    with pytest.raises(ProduceError, match=r"on Kafka at 127\.0\.0\.1:1"):
        EventProducer({"bootstrap.servers": "127.0.0.1:1"}, "t").partition_count("t")


# --- the command -----------------------------------------------------


def test_the_command_says_what_it_did(kafka: str, shell: Shell, tmp_path: Path) -> None:
    path = str(csv_of(tmp_path, "5,6,buy,never"))
    done = shell("produce", path, "--topic", "t", "--bootstrap", kafka, "--json")
    told = done.json()
    assert (done.code, told["produced"], told["rejected"], told["topic"]) == (0, 3, 1, "t")
    assert told["events_per_second"] > 0
    people = shell("produce", path, "--topic", "t", "--bootstrap", kafka)
    assert people.out.startswith("3 events to t in ")
    assert "1 rows left out, such as events.csv:5: the time must be" in people.out
    assert "produce to t: 100/100" in people.err


def test_the_command_reads_a_file_as_replay_does(kafka: str, shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("1511539200,buy,i1,u1\n1511539201,pv,i2,u2\n", encoding="utf-8")
    argv = ["--no-header", "--columns", "user=3,item=2,behavior=1,ts=0", "--relations", "pv", "--json"]
    told = shell("produce", str(path), "--topic", "t", "--bootstrap", kafka, *argv).json()
    assert (told["produced"], told["ignored"]) == (1, 1)
    assert [key for key, _, _ in arrived(kafka, 1)] == [b"u2"]


def test_wrong_use_is_told(shell: Shell, tmp_path: Path) -> None:
    path = str(csv_of(tmp_path))
    assert shell("produce", str(tmp_path / "none.csv")).sentence().endswith("file of events")
    for argv in (["--rate", "0"], ["--speed", "fast"], ["--speed", "0x"], ["--rate", "1", "--speed", "2x"],
                 ["--partitions", "0"], ["--columns", "who=1"]):  # fmt: skip
        assert shell("produce", path, *argv).code == 2, argv


def test_a_kafka_that_is_away_is_one_sentence(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftgraph.stream.kafka.topics.ANSWER_WITHIN_S", 0.5)
    failed = shell("produce", str(csv_of(tmp_path)), "--topic", "t", "--bootstrap", "127.0.0.1:1")
    assert failed.code == 1
    assert "topic 't' cannot be found or made on Kafka at 127.0.0.1:1" in failed.sentence()


def test_ctrl_c_ends_it_with_a_count(kafka: str, shell: Shell, tmp_path: Path) -> None:
    rows = [f"{n},{n},buy,1511539200" for n in range(1_000)]
    path = str(csv_of(tmp_path, *rows))
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    done = shell("produce", path, "--topic", "t", "--bootstrap", kafka, "--rate", "50", "--json")
    told = done.json()
    assert (done.code, told["interrupted"]) == (0, True)
    assert 3 < told["produced"] < 500
    assert sum(map(len, arrived(kafka, told["produced"]).values())) == told["produced"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_kafka_exceptions_of_the_admin_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from driftgraph.stream.kafka import topics

    class Admin:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "no such property"))

    monkeypatch.setattr(topics, "AdminClient", Admin)
    with pytest.raises(topics.TopicError, match="no such property; check"):
        topics.ensure_topic({"bootstrap.servers": "x"}, "t")
