"""When a checkpoint is made, and that nothing waits for it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftgraph.app.live.loop.checkpoint_timer import CheckpointTimer
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint, CheckpointError
from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation, StaleCut


class Writer(WindowCheckpoints):
    """Notes positions instead of writing; may be slow, or fail as told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, GRAPH, "events 0/1")
        self.wrote: list[Position] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.fails: list[Exception] = []

    def write(self, snapshot: Snapshot) -> Checkpoint:
        self.may_end.wait(100)
        if self.fails:
            raise self.fails.pop()
        self.wrote.append(snapshot.position)
        return Checkpoint(Path(), len(self.wrote), {}, {})


class Letters:
    put_count = 0
    safe_count = 0

    @property
    def told(self) -> str:
        return f"{self.put_count - self.safe_count} dead letters wait (the broker is away)"


GRAPH = Heterograph.create(None, [Relation("click", 1_000, 8)], user_rows=8, item_rows=8)


class Rig:
    """A loop that has applied ``offset`` messages."""

    def __init__(self, root: Path) -> None:
        self.clock, self.writer, self.letters = ManualClock(1_000_000), Writer(root), Letters()
        self.checkpoints = CheckpointTimer(self.writer, [self.letters], 10_000, self.clock)
        self.offset = 0

    def snapshot(self) -> Snapshot:
        position = {"events[0]": self.offset}
        return Snapshot(GRAPH.moment(), position, WatermarkState(), Deduplicator(for_checkpoints=True).sets())

    def loop(self) -> Position | None:
        """One round, after which a thread that can end has ended."""
        self.offset += 1
        kept = self.checkpoints.tend(self.snapshot)
        thread = self.checkpoints._thread
        if thread is not None and self.writer.may_end.is_set():
            thread.join(10)
        return kept or self.checkpoints.tend(self.snapshot)


def status(*, number: int, time_ms: int, age_ms: int) -> dict[str, object]:
    return {
        "number": number,
        "time_ms": time_ms,
        "took_ms": 0,
        "bytes": 0,
        "copied_bytes": 0,
        "failure": None,
        "age_ms": age_ms,
        "overdue": False,
        "reason": None,
    }


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.writer.may_end.set()


def test_one_is_made_when_it_is_due_and_its_position_is_told_once(rig: Rig) -> None:
    assert [rig.loop() for _ in range(3)] == [None] * 3
    rig.clock.advance(10_000)
    assert [rig.loop() for _ in range(3)] == [{"events[0]": 4}, None, None]
    rig.clock.advance(9_999)
    assert [rig.loop() for _ in range(2)] == [None] * 2
    rig.clock.advance(1)
    assert [rig.loop() for _ in range(2)] == [{"events[0]": 9}, None]
    assert rig.checkpoints.status() == status(number=2, time_ms=1_020_000, age_ms=0)


def test_a_slow_disk_delays_the_next_one_and_not_the_loop(rig: Rig) -> None:
    rig.clock.advance(10_000)
    rig.writer.may_end.clear()
    rig.loop()
    rig.clock.advance(100_000)
    begin = time.monotonic()
    assert [rig.loop() for _ in range(50)] == [None] * 50
    assert time.monotonic() - begin < 50, "it waited for the writer, who waits a hundred"
    assert threading.active_count() < 20, "one at a time"
    rig.writer.may_end.set()
    assert rig.checkpoints.finish(rig.snapshot) == {"events[0]": 51}
    assert rig.writer.wrote == [{"events[0]": 1}, {"events[0]": 51}]


def test_none_is_made_before_the_letters_in_front_of_it_are_safe(rig: Rig) -> None:
    rig.letters.put_count = 3
    rig.clock.advance(10_000)
    assert [rig.loop() for _ in range(3)] == [None] * 3
    rig.letters.put_count, rig.letters.safe_count = 5, 2
    rig.loop()
    assert rig.writer.wrote == []
    rig.letters.safe_count = 3  # those after the snapshot need not be
    rig.loop()
    assert rig.writer.wrote == [{"events[0]": 1}]
    assert rig.checkpoints.finish(rig.snapshot) is None
    assert rig.writer.wrote == [{"events[0]": 1}], "no last one: two letters are not safe"


def test_a_full_disk_is_said_once_and_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        rig.clock.advance(10_000)
        rig.writer.fails = [CheckpointError("cannot write checkpoint 1: No space left on device")]
        rig.loop()
    assert rig.checkpoints.status()["failure"] == "cannot write checkpoint 1: No space left on device"
    rig.clock.advance(10_000)
    rig.loop()
    assert rig.checkpoints.status() == status(number=1, time_ms=1_040_000, age_ms=0)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_one_that_the_ring_has_left_is_made_again_at_once(rig: Rig) -> None:
    rig.clock.advance(10_000)
    rig.writer.fails = [StaleCut("overwritten")]
    rig.loop()
    rig.loop()
    assert len(rig.writer.wrote) == 1
    assert rig.checkpoints.status()["failure"] is None


def test_a_clean_stop_makes_a_last_one(rig: Rig) -> None:
    rig.loop()
    assert rig.checkpoints.finish(rig.snapshot) == {"events[0]": 1}


def overdue(rig: Rig, seconds: int, forbidden: str | None = None) -> str | None:
    """One round a second; the reason at the end."""
    for _ in range(seconds):
        rig.clock.advance(1_000)
        rig.offset += 1
        rig.checkpoints.tend(rig.snapshot, forbidden)
        thread = rig.checkpoints._thread
        if thread is not None and rig.writer.may_end.is_set():
            thread.join(10)
    told = rig.checkpoints.status()
    assert told["overdue"] == (told["reason"] is not None)
    reason: str | None = told["reason"]
    return reason


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_an_overdue_one_is_said_each_minute_and_in_the_status(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Every 10 s: overdue after a minute, whatever the reason."""
    assert overdue(rig, 59, "the lease is away") is None
    assert errors(caplog) == []
    assert overdue(rig, 180, "the lease is away") == "the lease is away"
    assert errors(caplog) == [f"no checkpoint for {n} s: the lease is away" for n in (60, 120, 180)]
    assert rig.checkpoints.status()["age_ms"] == 239_000
    assert overdue(rig, 1) is None, "the lease is back, and one is made at once"
    assert caplog.records[-1].getMessage() == "checkpoints are written again"


def test_an_overdue_one_names_what_it_waits_for(rig: Rig) -> None:
    rig.letters.put_count = 2
    assert overdue(rig, 70) == "2 dead letters wait (the broker is away)"
    rig.letters.safe_count = 2
    assert overdue(rig, 2) is None
    rig.writer.may_end.clear()
    assert re.fullmatch(r"the disk is slow: it has been written to for 7\d s", overdue(rig, 80) or "")
    rig.writer.may_end.set()
    assert overdue(rig, 11) is None


def test_a_disk_that_refuses_is_said_again_and_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.writer.fails = [CheckpointError("Permission denied")] * 100
    assert overdue(rig, 200) == "Permission denied"
    assert errors(caplog) == [
        "no checkpoint: Permission denied",
        *(f"no checkpoint for {n} s: Permission denied" for n in (60, 120, 180)),
    ]


def test_a_ring_that_turns_faster_than_it_is_written_is_said(rig: Rig) -> None:
    """It is tried again at each turn, for ever: that was said nowhere."""
    rig.writer.fails = [StaleCut("overwritten")] * 1_000
    assert "give the relations more capacity" in (overdue(rig, 70) or "")


def test_a_stop_without_a_last_checkpoint_says_why(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    assert rig.checkpoints.finish(rig.snapshot, "the lease is away") is None
    assert "there is no last checkpoint: the lease is away" in caplog.text
    assert rig.writer.wrote == []
