"""Dead letters seen again: what is done stays done through any crash, and what goes back is what came."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.app.config.formats import time_counts
from driftgraph.app.config.tables.events import EventSettings
from driftgraph.stream.dead_letters import redrive
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.letters import DeadLetterError, Letter, LetterBox
from driftgraph.stream.dead_letters.redrive import alone, purge, retry, summarize
from driftgraph.stream.dead_letters.topic import KafkaDeadLetters, TopicLetterBox
from driftgraph.stream.events import Rejected
from driftgraph.stream.kafka.producer import EventProducer
from driftgraph.stream.kafka.topics import TopicRules
from driftgraph.stream.time.clock import ManualClock
from tests.kafka_brokers import mock_kafka, produce
from tests.stream.dead_letters.test_dead_letters import LETTER, records_of


def letter(number: int, reason: str = "bad_id") -> Rejected:
    return replace(LETTER, reason=reason, origin=f"events[{number % 4}]@{number}", payload=b"%d" % number)


def files_of(folder: Path, letters: list[Rejected], clock: ManualClock | None = None) -> FileLetterBox:
    """A box of files of three letters or so."""
    place = FileDeadLetters(folder, file_bytes_max=900, files_max=1_000, clock=clock)
    for one in letters:
        place.put(one)
        place.flush()
        if clock is not None:
            clock.advance(1_000)
    place.close()
    return FileLetterBox(folder)


def still_open(box: LetterBox) -> list[str]:
    return [one.rejected.origin for one in box.letters() if not one.done]


class Sink:
    """Stands where the producer stands; may fail after some events."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.fails_at = fails_at

    def partition_count(self, topic: str) -> int:
        return 3 if topic == "narrow" else 16

    def send(self, **event: Any) -> None:
        self.sent.append(event)

    def finish(self, within_s: float = 30) -> None:
        if self.fails_at is not None and len(self.sent) > self.fails_at:
            raise DeadLetterError("the brokers are away")


def send_back(box: LetterBox, sink: Sink, **more: Any) -> redrive.Redriven:
    return retry(box, sink, topic="events", **more)  # type: ignore[arg-type]  # what it needs of a producer


# --- files -----------------------------------------------------


def test_a_letter_keeps_its_name_and_its_bytes(tmp_path: Path) -> None:
    box = files_of(tmp_path, [LETTER, letter(1), letter(2)], ManualClock(5_000))
    first, *others = box.letters()
    assert first == Letter("1-1", LETTER, 5_000, len(LETTER.payload), done=False)
    box.mark_done([others[0].id])
    box.purge([first.id])
    assert [(one.id, one.done) for one in box.letters()] == [(others[0].id, True), (others[1].id, False)]


@st.composite
def acts(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Letters put, marked and purged in any order; the numbers count letters."""
    kinds = st.sampled_from(["put", "done", "purge", "reopen"])
    return draw(st.lists(st.tuples(kinds, st.lists(st.integers(0, 30), max_size=4)), max_size=14))


@given(acts())
def test_files_agree_with_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("letters")
    place = FileDeadLetters(folder, file_bytes_max=900, files_max=1_000)
    box = FileLetterBox(folder)
    plain: dict[str, bool] = {}  # origin → done
    name_of: dict[str, str] = {}
    numbers = itertools.count()
    for act, picked in script:
        if act == "put":
            for _ in picked:
                place.put(one := letter(next(numbers)))
                plain[one.origin] = False
            place.flush()
        elif act == "reopen":
            place = FileDeadLetters(folder, file_bytes_max=900, files_max=1_000)
        else:
            origins = [origin for n, origin in enumerate(plain) if n in picked]
            ids = [name_of[origin] for origin in origins]
            (box.mark_done if act == "done" else box.purge)(ids)
            for origin in origins:
                plain[origin] = True
                if act == "purge":
                    del plain[origin]
        found = list(box.letters())
        assert {one.rejected.origin: one.done for one in found} == plain
        assert [one.rejected.origin for one in found] == list(plain), "in the order in which they were put"
        for kept in found:
            assert name_of.setdefault(kept.rejected.origin, kept.id) == kept.id, "a name changed"
        assert len(set(name_of.values())) == len(name_of), "two letters had one name"


def test_a_purge_removes_the_bytes_and_the_files_that_are_empty(tmp_path: Path) -> None:
    box = files_of(tmp_path, [letter(n, reason=f"r{n % 2}") for n in range(12)])
    assert purge(box, reason="r0") == 6
    text = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (text.count(b'"r0"'), text.count(b'"r1"')) == (0, 6)
    assert purge(box) == 6
    [left] = tmp_path.glob("*.jsonl")
    assert left.read_bytes().strip() == b""
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix == ".done"] in ([], [".done"])
    FileDeadLetters(tmp_path).put(LETTER)
    assert still_open(box) == []


def test_a_purge_by_age_leaves_the_newer_ones(tmp_path: Path) -> None:
    box = files_of(tmp_path, [letter(n) for n in range(6)], ManualClock(10_000))
    assert purge(box, before_ms=13_000) == 3
    assert [one.kept_ms for one in box.letters()] == [13_000, 14_000, 15_000]


def test_what_is_done_may_be_cut_anywhere_by_a_crash(tmp_path: Path) -> None:
    """A number that lost its end is not done: at worst its letter is sent again, never another one lost."""
    place = FileDeadLetters(tmp_path)
    for number in range(130):
        place.put(letter(number))
    place.close()
    box = FileLetterBox(tmp_path)
    box.mark_done(["1-1", "1-12", "1-123"])
    path = tmp_path / "dead-letters-000001.done"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        marked = [text for text in ("1", "12", "123") if whole.index(f"{text}\n".encode()) + len(text) < cut]
        assert [one.id for one in box.letters() if one.done] == [f"1-{text}" for text in marked], cut
        box.mark_done(["1-30"])
        assert {one.id for one in box.letters() if one.done} == {"1-30", *(f"1-{text}" for text in marked)}


def test_a_line_that_nobody_can_read_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = files_of(tmp_path, [letter(0)])
    with (tmp_path / "dead-letters-000001.jsonl").open("ab") as file:
        file.write(b"no json\n")
    FileDeadLetters(tmp_path).close()
    place = FileDeadLetters(tmp_path)
    place.put(letter(1))
    place.close()
    assert len(still_open(box)) == 2
    assert "dead letter 1-2 cannot be read" in caplog.text


def test_a_full_folder_says_how_many_open_letters_it_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = FileDeadLetters(tmp_path, file_bytes_max=900, files_max=2)
    lost = 0
    for number in range(20):
        place.put(letter(number))
        place.flush()
        if number == 0:
            FileLetterBox(tmp_path).mark_done(["1-1"])
    for record in caplog.records:
        assert isinstance(record.args, tuple)
        assert isinstance(record.args[0], int)
        lost += record.args[0]
    assert lost == 20 - 1 - len(still_open(FileLetterBox(tmp_path)))


def test_two_processes_may_write_to_one_folder(tmp_path: Path) -> None:
    first, second = FileDeadLetters(tmp_path), FileDeadLetters(tmp_path)
    for number in range(10):
        (first, second)[number % 2].put(letter(number))
        (first, second)[number % 2].flush()
    assert len(still_open(FileLetterBox(tmp_path))) == 10


# --- summarize -----------------------------------------------------


def test_letters_are_counted_by_reason_with_the_newest_as_example(tmp_path: Path) -> None:
    tried = replace(letter(4), headers=(("driftgraph.attempts", b"2"),))
    box = files_of(
        tmp_path, [letter(0, "bad_time"), letter(1), letter(2), letter(3), tried], ManualClock(1_000)
    )
    box.mark_done(["1-2"])
    groups, done = summarize(box.letters())
    assert done == 1
    assert [(g.reason, g.count, g.tried, g.newest_ms) for g in groups] == [
        ("bad_id", 3, 1, 5_000),
        ("bad_time", 1, 0, 1_000),
    ]
    assert groups[0].to_json()["example"]["origin"] == "events[0]@4"


# --- retry -----------------------------------------------------


def test_the_event_goes_back_as_it_came_with_the_number_of_attempts(tmp_path: Path) -> None:
    sent_before = replace(
        LETTER,
        origin="other[5]@9",
        headers=(*LETTER.headers, ("__connect.errors.topic", b"x"), ("driftgraph.attempts", b"3")),
    )
    tombstone = replace(LETTER, reason="tombstone", payload=b"", origin="narrow[3]@1")
    late = Rejected("late", "…", b'{"ts":1}', "partition 2", key=b"u1", timestamp_ms=7)
    box, sink = files_of(tmp_path, [LETTER, sent_before, tombstone, late]), Sink()
    assert send_back(box, sink).sent == 4
    shared = {"key": LETTER.key, "value": LETTER.payload, "timestamp_ms": LETTER.timestamp_ms}
    assert sink.sent == [
        {**shared, "partition": 3, "headers": (*LETTER.headers, ("driftgraph.attempts", b"1")),
         "topic": "events"},
        {**shared, "partition": 5, "headers": (*LETTER.headers, ("driftgraph.attempts", b"4")),
         "topic": "other"},
        # the topic has fewer partitions by now: the key chooses
        {**shared, "value": None, "partition": None,
         "headers": (*LETTER.headers, ("driftgraph.attempts", b"1")), "topic": "narrow"},
        {"key": b"u1", "value": b'{"ts":1}', "timestamp_ms": 7, "partition": 2,
         "headers": (("driftgraph.attempts", b"1"),), "topic": "events"},
    ]  # fmt: skip


def test_a_second_retry_sends_nothing(tmp_path: Path) -> None:
    box, sink = files_of(tmp_path, [letter(n) for n in range(10)]), Sink()
    assert send_back(box, sink, limit=4).sent == 4
    assert send_back(box, sink, reason="bad_time").sent == 0
    report = send_back(box, sink)
    assert (report.sent, dict(report.reasons)) == (6, {"bad_id": 6})
    assert send_back(box, sink).sent == 0
    assert [event["value"] for event in sink.sent] == [b"%d" % n for n in range(10)]


def test_what_cannot_go_back_is_counted_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftgraph.stream.dead_letters.files.PAYLOAD_BYTES_MAX", 4)
    from_file = Rejected("bad_row", "expected 4 fields, got 3", b"a,b", "events.csv:7")
    box, sink = files_of(tmp_path, [LETTER, from_file, letter(1)]), Sink()
    report = send_back(box, sink)
    assert report.to_json() == {"sent": 1, "reasons": {"bad_id": 1}, "cut": 1, "foreign": 1}
    assert still_open(box) == [LETTER.origin, from_file.origin]


# --- the time of a record ------------------------------------------

DAY_MS = 86_400_000
NOW_MS = 1_783_000_000_123 + 100 * DAY_MS


def aged(number: int, days: float, **changed: Any) -> Rejected:
    return replace(letter(number), timestamp_ms=NOW_MS - round(days * DAY_MS), **changed)


def times_after(
    folder: Path, letters: list[Rejected], rules: TopicRules | None, **more: Any
) -> tuple[list[int | None], redrive.Redriven, FileLetterBox]:
    box, sink = files_of(folder, letters), Sink()
    report = send_back(box, sink, keeping=redrive.Keeping(lambda _: rules, NOW_MS, **more))
    return [event["timestamp_ms"] for event in sink.sent], report, box


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (None, True),
        (TopicRules(1), True),
        (TopicRules(1, retention_ms=21 * DAY_MS), True),
        (TopicRules(1, retention_ms=7 * DAY_MS, append_time=True), True),
        (TopicRules(1, retention_ms=7 * DAY_MS), False),
        (TopicRules(1, retention_ms=15 * DAY_MS), False),  # removed within days: it has to be read before
        (TopicRules(1, before_max_ms=DAY_MS), False),
    ],
)
def test_a_record_that_the_topic_would_soon_remove_has_the_time_of_now(
    tmp_path: Path, rules: TopicRules | None, kept: bool
) -> None:
    times, report, box = times_after(tmp_path, [aged(1, 10), aged(2, 0.1)], rules)
    assert times == [NOW_MS - (10 * DAY_MS if kept else 0), NOW_MS - DAY_MS // 10]
    assert (report.sent, report.retimed, report.too_old) == (2, int(not kept), 0)
    assert report.to_json().get("retimed") == (None if kept else 1)
    assert still_open(box) == []


def test_where_the_time_of_a_record_counts_it_stays_or_the_letter_does(tmp_path: Path) -> None:
    """A request to erase must not reach further than it asked, and an event keeps its time."""
    letters = [
        aged(1, 10, reason="tombstone", payload=b""),
        aged(2, 5, reason="tombstone", payload=b""),
        aged(3, 10, payload=b"{}"),
    ]
    rules = TopicRules(1, retention_ms=7 * DAY_MS)
    times, report, box = times_after(tmp_path / "a", letters, rules)
    assert times == [NOW_MS - 5 * DAY_MS, NOW_MS]
    assert (report.sent, report.retimed, report.too_old) == (2, 1, 1)
    assert still_open(box) == [letters[0].origin]
    times, report, _ = times_after(tmp_path / "b", letters, rules, time_counts=lambda _: True)
    assert (times, report.too_old) == ([NOW_MS - 5 * DAY_MS], 2)


@pytest.mark.parametrize(
    ("ts", "payload", "counts"),
    [("$timestamp", b"{}", True), ("at", b"{}", False), ("at", b'{"kind": "$erase"}', True)],
)
def test_whose_time_is_that_of_the_record_is_known_from_the_configuration(
    ts: str, payload: bytes, counts: bool
) -> None:
    mapping = {"user": "u", "item": "i", "behavior": "kind", "ts": ts}
    events = EventSettings.model_validate({"format": "mapping", "mapping": mapping})
    assert time_counts(events)(replace(LETTER, payload=payload)) is counts
    assert not time_counts(EventSettings())(LETTER)


class Crash(Exception):  # noqa: N818  it is an event of a test
    """The process dies here."""


def crash_after(count: int) -> Callable[[], None]:
    """Something to be called at every step: dies at the ``count``-th."""
    steps = itertools.count(1)

    def step() -> None:
        if next(steps) == count:
            raise Crash

    return step


@pytest.mark.parametrize("crash_at", range(1, 16))
def test_a_crash_at_any_step_loses_no_letter_and_repeats_one_chunk_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """Chunks of 4: die before or after the n-th send, acknowledgement or mark; then run it again."""
    monkeypatch.setattr(redrive, "CHUNK", 4)
    step = crash_after(crash_at)
    box = files_of(tmp_path, [letter(n) for n in range(10)])
    acknowledged: list[bytes] = []

    class Dying(Sink):
        def send(self, **event: Any) -> None:
            step()
            super().send(**event)

        def finish(self, within_s: float = 30) -> None:
            step()
            acknowledged.extend(event["value"] for event in self.sent)
            self.sent.clear()
            step()

    class DyingBox(FileLetterBox):
        def mark_done(self, ids: Collection[str]) -> None:
            super().mark_done(ids)
            step()

    try:
        send_back(DyingBox(tmp_path), Dying())
    except Crash:
        after, sink = len(acknowledged), Sink()
        send_back(box, sink)
        acknowledged.extend(event["value"] for event in sink.sent)
        assert len(acknowledged) - 10 in ((0, 4) if after else (0,))
    assert sorted(set(acknowledged), key=int) == [b"%d" % n for n in range(10)]
    assert still_open(box) == []


def test_brokers_that_refuse_stop_it_and_leave_the_chunk_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "CHUNK", 4)
    box = files_of(tmp_path, [letter(n) for n in range(10)])
    with pytest.raises(DeadLetterError, match="brokers are away"):
        send_back(box, Sink(fails_at=4))
    assert len(still_open(box)) == 6


def test_letters_that_come_back_meanwhile_are_not_sent_again_by_the_same_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The updater rejects them again while the retry runs: it must not go round in circles."""
    monkeypatch.setattr(redrive, "CHUNK", 1)
    place = FileDeadLetters(tmp_path)
    for number in range(3):
        place.put(letter(number))
    place.flush()

    class Echo(Sink):
        def finish(self, within_s: float = 30) -> None:
            if len(self.sent) < 20:
                place.put(letter(100 + len(self.sent)))
                place.flush()

    assert send_back(FileLetterBox(tmp_path), Echo()).sent == 3


def test_one_retry_runs_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(DeadLetterError, match="another dlq retry"), alone(tmp_path):
        pytest.fail("two at once")
    with alone(tmp_path):
        pass


# --- a topic -----------------------------------------------------


@pytest.fixture
def kafka() -> Iterator[str]:
    with mock_kafka() as address:
        yield address


def topic_of(address: str, letters: list[Rejected]) -> TopicLetterBox:
    place = KafkaDeadLetters({"bootstrap.servers": address}, topic="events.dlq", clock=ManualClock(9_000))
    for one in letters:
        place.put(one)
    place.flush()
    return TopicLetterBox({"bootstrap.servers": address}, "events.dlq")


def test_a_topic_gives_back_what_was_put_byte_by_byte(kafka: str) -> None:
    late = Rejected("late", "…", b"{}", "partition 2", key=b"u1", timestamp_ms=1_783_000_000_000)
    tried = replace(LETTER, origin="events[0]@1", headers=(("driftgraph.attempts", b"2"), ("own", b"")))
    tombstone = replace(LETTER, reason="tombstone", payload=b"", origin="events[0]@2")
    found = {one.rejected.origin: one for one in topic_of(kafka, [LETTER, late, tried, tombstone]).letters()}
    assert [found[one.origin].rejected for one in (LETTER, late, tried, tombstone)] == [
        LETTER, late, tried, tombstone,
    ]  # fmt: skip
    assert found[LETTER.origin].kept_ms == 9_000
    assert found[tried.origin].attempts == 2


def test_a_topic_remembers_what_is_done(kafka: str) -> None:
    box = topic_of(kafka, [letter(n) for n in range(30)])
    ids = {one.rejected.origin: one.id for one in box.letters()}
    box.mark_done([ids[letter(n).origin] for n in range(0, 30, 3)])
    assert set(still_open(box)) == {letter(n).origin for n in range(30) if n % 3}
    box.mark_done([ids[letter(1).origin], ids[letter(0).origin]])
    box.mark_done([])
    assert set(still_open(box)) == {letter(n).origin for n in range(2, 30) if n % 3}
    assert len(list(box.letters())) == 30, "a record of what is done is no letter"


def test_a_topic_that_is_not_there_has_no_letters(kafka: str) -> None:
    assert list(TopicLetterBox({"bootstrap.servers": kafka}, "never-made").letters()) == []


def test_letters_of_other_tools_are_letters_too(kafka: str) -> None:
    said = {"topic": b"t", "partition": b"1", "offset": b"5", "exception.class.name": b"Oops"}
    headers = [(f"__connect.errors.{name}", value) for name, value in said.items()]
    produce(kafka, "events.dlq", [{"value": b"a", "headers": headers}, {"value": b"b"}])
    box = TopicLetterBox({"bootstrap.servers": kafka}, "events.dlq")
    found = {one.rejected.payload: one.rejected for one in box.letters()}
    assert (found[b"a"].reason, found[b"a"].origin) == ("Oops", "t[1]@5")
    assert (found[b"b"].reason, found[b"b"].origin) == ("unknown", "")


def test_a_retry_from_topic_to_topic(kafka: str) -> None:
    """On the wire: bytes, key, time, partition and headers, and nothing of ours but the attempts."""
    produce(kafka, "events", [{"value": b"first"}])
    box = topic_of(kafka, [LETTER])
    producer = EventProducer({"bootstrap.servers": kafka}, "events")
    assert retry(box, producer, topic="events").sent == 1
    record = next(r for r in records_of(kafka, "events", 2) if r.value() != b"first")
    assert (record.value(), record.key(), record.timestamp()[1], record.partition()) == (
        LETTER.payload, LETTER.key, LETTER.timestamp_ms, 3,
    )  # fmt: skip
    assert record.headers() == [*LETTER.headers, ("driftgraph.attempts", b"1")]
    assert retry(box, producer, topic="events").sent == 0


def test_a_source_topic_that_is_gone_is_told_and_nothing_is_marked(kafka: str) -> None:
    box = topic_of(kafka, [LETTER])
    producer = EventProducer({"bootstrap.servers": kafka}, "events")
    with pytest.raises(Exception, match="has no topic 'events'"):
        retry(box, producer, topic="events")
    assert still_open(box) == [LETTER.origin]
