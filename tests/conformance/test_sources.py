"""What every source keeps, whatever is behind it: the same eight events from memory, files and Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats.event_rules import Behaviors, Event, EventRules
from driftgraph.stream.formats.rules_by_column import batch_of
from driftgraph.stream.sources import line_blocks
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.sources.source import (
    CRASH,
    END,
    MemorySource,
    Position,
    Script,
    SimulatedCrash,
    Source,
)
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.kafka_brokers import NOW_MS, event, mock_kafka, produce, source_of

USERS = [f"u{n}" for n in range(8)]
POLLS_MAX = 300  # of 50 ms: a source that has not given its events by then will not

Open = Callable[[Position | None], Source]


def decoded(*users: str) -> Decoded:
    return Decoded(batch_of([Event(user, "i1", 0, NOW_MS) for user in users], EMPTY.partition))


@contextmanager
def memory(_: Path) -> Iterator[Open]:
    script = Script(decoded("u0", "u1", "u2"), decoded("u3"), decoded(), decoded("u4", "u5", "u6", "u7"))
    yield lambda start: MemorySource(script, start=start)


@contextmanager
def csv_file(folder: Path) -> Iterator[Open]:
    lines = "".join(f"{user},i1,click,{NOW_MS}\n" for user in USERS)
    (folder / "e.csv").write_text("user_id,item_id,behavior,timestamp\n" + lines)
    yield lambda start: FileSource(folder / "e.csv", start=start)


@contextmanager
def json_file(folder: Path) -> Iterator[Open]:
    (folder / "e.jsonl").write_bytes(b"".join(event(user) + b"\n" for user in USERS))
    yield lambda start: FileSource(folder / "e.jsonl", FileOptions(relations=("click",)), start=start)


@contextmanager
def kafka(_: Path) -> Iterator[Open]:
    with mock_kafka() as address:
        produce(address, "events", [{"value": event(user), "partition": 0} for user in USERS])
        yield lambda start: source_of(address, batch_max=3, position=start)


@pytest.fixture(params=[memory, csv_file, json_file, kafka], ids=lambda make: str(make.__name__))
def open_source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    monkeypatch.setattr(line_blocks, "BATCH_ROWS_MAX", 3)
    with request.param(tmp_path) as opened:
        yield opened


def read(source: Source, count: int) -> list[str]:
    """Poll until ``count`` users have come or the source has ended."""
    users: list[str] = []
    for _ in range(POLLS_MAX):
        part = source.next_batch(0.05)
        if part is None:
            break
        assert part.position == source.position()
        users += part.batch.user.to_list()
        if len(users) >= count:
            break
    return users


def test_every_event_comes_once_and_in_order(open_source: Open) -> None:
    source = open_source(None)
    assert read(source, 8) == USERS
    source.close()


def test_it_is_a_source(open_source: Open) -> None:
    source = open_source(None)
    assert isinstance(source, Source)
    source.close()
    source.close()


def test_a_new_source_goes_on_where_any_position_says(open_source: Open) -> None:
    first = open_source(None)
    seen: list[str] = []
    while len(seen) < 8:
        second = open_source(first.position())
        assert second.position() == first.position(), "opening moves nothing"
        assert seen + read(second, 8 - len(seen)) == USERS
        second.close()
        seen += read(first, 1)
    first.close()


def test_after_close_there_is_nothing_more(open_source: Open) -> None:
    source = open_source(None)
    position = source.position()
    source.close()
    assert source.next_batch(0) is None
    assert source.next_batch(0) is None
    assert source.position() == position


def test_the_rules_reach_the_events(open_source: Open) -> None:
    """Each of them gives relation 0 and the same event time."""
    source = open_source(None)
    part = source.next_batch(0.05)
    for _ in range(POLLS_MAX):
        if part is None or len(part.batch):
            break
        part = source.next_batch(0.05)
    assert part is not None
    assert set(part.batch.relation.tolist()) == {0}
    assert set(part.batch.time_ms.tolist()) == {NOW_MS}
    source.close()


# The marks of a script


def test_a_crash_in_the_data_happens_once_and_the_next_source_goes_past() -> None:
    script = Script(decoded("u0"), CRASH, decoded("u1"), END, decoded("u2"))
    first = MemorySource(script)
    assert read(first, 1) == ["u0"]
    with pytest.raises(SimulatedCrash):
        first.next_batch(0)
    unsaved = MemorySource(script)  # no checkpoint was written: from the start
    assert read(unsaved, 9) == ["u0", "u1"]
    assert unsaved.next_batch(0) is None, "it ended for good"
    assert read(MemorySource(script, start=unsaved.position()), 9) == ["u2"]


def test_bad_events_come_with_the_batch_of_a_script() -> None:
    rules = EventRules(Behaviors(["click"]), REPLAY_TIMES)
    assert rules.behaviors.names == ("click",)
    source = MemorySource(Script(Decoded(EMPTY, ignored=3)))
    part = source.next_batch(0)
    assert part is not None
    assert (part.ignored, part.read_count, json.dumps(dict(part.position))) == (3, 3, '{"memory": 1}')
