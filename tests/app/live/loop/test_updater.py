"""The ingest loop: what it asks of its source at each turn, and what it writes down of itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from driftgraph.app.config.builders import watermark_rules, window_relations
from driftgraph.app.config.settings import load
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.live.loop import status_file
from driftgraph.app.live.loop.checkpoint_timer import CheckpointTimer
from driftgraph.app.live.loop.ingestion import Ingestion
from driftgraph.app.live.loop.updater import POLL_S, Updater
from driftgraph.app.live.reload import Reload
from driftgraph.app.live.supervisor import Supervisor
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.window import WindowCheckpoints
from driftgraph.snapshots.erasures import DurableErasures
from driftgraph.snapshots.generations.lease import Lease, LeaseOwner
from driftgraph.stream.dead_letters.files import FileDeadLetters
from driftgraph.stream.dead_letters.outgoing import KeptLetters, Outbox
from driftgraph.stream.events import Decoded, Erasure, EventBatch, Strings
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erasures import key_users
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import Watermark
from driftgraph.stream.window.heterograph import Heterograph

NOW_MS = 1_783_000_000_000
HOUR_MS = 3_600_000


class Source:
    """Two partitions with much to come. Each turn costs what the test says."""

    away = False
    caught_up = False
    behind: Collection[int] = (0, 1)
    partitions = (0, 1)
    lost: Mapping[str, int] = {"events[0]": 7}
    topic_ids: Mapping[str, str] = {"events": "an id"}

    def __init__(self, clock: ManualClock, batches: Sequence[Decoded], costs_ms: Sequence[int]) -> None:
        self.held: list[set[int]] = []
        self._clock = clock
        self._batches = list(batches)
        self._costs_ms = list(costs_ms)

    def next_batch(self, timeout_s: float) -> Decoded | None:
        self._clock.advance(round(1_000 * timeout_s))
        return self._batches.pop(0) if self._batches else None

    def hold(self, partitions: Collection[int]) -> None:
        self.held.append(set(partitions))
        self._clock.advance(self._costs_ms.pop(0))

    def position(self) -> Position:
        return {"events[0]": 1}

    def lag(self) -> Mapping[str, int]:
        return {"events[0]": 5}

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def commit(self, position: Position) -> None: ...
    def close(self) -> None: ...


def clicks(partition: int, *hours: float) -> Decoded:
    """Of user u<partition>, that many hours before NOW."""
    count = len(hours)
    return Decoded(
        EventBatch(
            Strings.of([f"u{partition}"] * count),
            Strings.of(["i"] * count),
            np.zeros(count, np.uint8),
            np.array([NOW_MS - round(h * HOUR_MS) for h in hours], np.int64),
            np.full(count, partition, np.int32),
        ),
        position={"events[0]": 1},
    )


class Notes(NoProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said = list[str]()

    def note(self, text: str) -> None:
        self.said.append(text)


def ran(
    folder: Path, batches: Sequence[Decoded], costs_ms: Sequence[int], progress: NoProgress | None = None
) -> tuple[Source, dict[str, Any]]:
    """The loop until the source ends; the status that it left."""
    settings = load(
        options={"data_dir": str(folder), "relations": {"click": {}}, "time": {"idle_timeout": "10m"}}
    )
    clock = ManualClock(NOW_MS)
    source = Source(clock, batches, costs_ms)
    graph = Heterograph.create(None, window_relations(settings), user_rows=16, item_rows=16)
    watermark = Watermark(watermark_rules(settings), clock)
    watermark.assign(source.partitions)
    letters = Outbox(FileDeadLetters(folder / "letters"), KeptLetters(folder / "letters"))
    erasures = DurableErasures(folder / "erasures", key_users, lambda: (0, 0))
    worker = Supervisor(settings, folder, cast(LeaseOwner, None), clock)
    ids = Deduplicator(ids_max=24, for_checkpoints=True)
    ingest = Ingest(graph, watermark, letters, FitSchedule(24 * HOUR_MS), dedupe=ids)
    kafka = cast(KafkaSource, source)
    checkpoints = CheckpointTimer(
        WindowCheckpoints(folder / "kept", graph, "one"), [letters.queue], 60_000, clock
    )
    lease = cast(Lease, SimpleNamespace(held=True, check=lambda: None, status=lambda: {}))
    shown = progress or NoProgress()
    ingestion = Ingestion(kafka, ingest, letters, erasures)
    reload = Reload(settings, lambda: settings, clock)
    updater = Updater(settings, ingestion, checkpoints, lease, worker, reload, clock=clock, progress=shown)
    updater.run(threading.Event())
    erasures.close()
    letters.close()
    return source, json.loads((folder / "status/updater.json").read_bytes())


def test_a_partition_is_held_as_soon_as_it_is_a_quarter_of_an_hour_ahead(tmp_path: Path) -> None:
    source, _ = ran(
        tmp_path, [clicks(1, 9), clicks(0, 9), clicks(0, 8.76), clicks(0, 8.7), clicks(1, 8.8)], [0] * 5
    )
    assert source.held == [{1}, set(), set(), {0}, set()]


def test_the_status_tells_the_longest_time_between_two_polls_since_the_last_one(tmp_path: Path) -> None:
    """Written once a second: 900 ms were before the last status of the loop, 300 ms and a poll after it."""
    costs_ms = [0, 800, 200, 0, 300, 100]
    _, status = ran(tmp_path, [clicks(0, 9)] * len(costs_ms), costs_ms)
    assert status["poll_gap_max_ms"] == 300 + round(1_000 * POLL_S)
    assert (status["lost"], status["lag"]) == ({"events[0]": 7}, {"events[0]": 5})


def test_records_without_a_value_that_are_left_out_stand_in_the_status_and_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_out = replace(clicks(0, 1), ignored=3, tombstones=2)
    _, status = ran(tmp_path, [left_out, clicks(1, 1), left_out], [0, 0, 0])
    assert (status["events"]["ignored"], status["ignored_tombstones"]) == (6, 4)
    assert caplog.text.count("records without a value are ignored") == 1
    _, status = ran(tmp_path / "none", [clicks(0, 1)], [0])
    assert status["ignored_tombstones"] == 0
    assert caplog.text.count("records without a value are ignored") == 1


def test_the_status_says_what_the_first_fit_waits_for_until_there_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does the progress, once the window is full."""
    notes = Notes()
    monkeypatch.setattr(Source, "caught_up", True)  # by the only batch: no worker is started any more
    both = np.array([0, 1, 1], np.int32)
    batch = replace(clicks(0, 9, 8.9, 8.8), batch=replace(clicks(0, 9, 8.9, 8.8).batch, partition=both))
    _, status = ran(tmp_path, [batch], [0], progress=notes)
    assert status["first_fit"]["early"]["events"] == 3
    assert status["first_fit"]["early"]["needed"] == 10_000
    assert status["first_fit"]["early"]["at_ms"] % 900_000 == 0
    assert status["first_fit"]["by_count"] is None
    [note] = [note for note in notes.said if "no model" in note]
    assert "its first fit is due once 10,000 events are applied (3 so far)" in note
    assert status["first_fit"]["marked"] is False
    hours = np.linspace(30, 0, 400).tolist()  # over a midnight, behind 100 events
    history = [clicks(1, *hours), clicks(0, *hours)]
    _, status = ran(tmp_path / "history", history, [0, 0], progress=Notes())
    assert status["first_fit"]["marked"] is True
    checkpoint.write(tmp_path / "saved" / "trainer", 1, [("trainer.json", b"{}")], {})
    _, status = ran(tmp_path / "saved", [clicks(0, 9)], [0], progress=notes)
    assert status["first_fit"] is None
    assert len([note for note in notes.said if "no model" in note]) == 1
    assert notes.said[-1].startswith("stopped; the next start goes on from checkpoint ")


def test_the_status_counts_live_events_alone(tmp_path: Path) -> None:
    """Span 30 d. One is read first and lives; one behind it has expired by then; one is of an erased user."""
    day = 24
    batches = [clicks(1, 29.9 * day), clicks(0, 0.1), clicks(0, 30.1 * day), clicks(1, 0.0, 0.0)]
    _, status = ran(tmp_path, batches, [0] * 4)
    assert status["window"] == {"click": 4}
    erased = replace(clicks(1, 0.0), erased=(Erasure("u1", 1, NOW_MS),))
    _, status = ran(tmp_path / "again", [*batches, erased], [0] * 5)
    assert status["window"] == {"click": 1}


def test_event_ids_that_are_forgotten_early_are_said_in_the_status_and_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def with_ids(start: int) -> Decoded:
        decoded = clicks(0, *[0.0] * 20)
        ids = Strings.of(f"e{n}" for n in range(start, start + 20))
        return replace(decoded, batch=replace(decoded.batch, event_id=ids))

    _, status = ran(tmp_path, [with_ids(0)], [1_000])
    ids = status["deduplication"]
    assert (ids["ids"], ids["horizon_ms"], ids["reach_ms"], ids["short"]) == (20, 86_400_000, 0, False)
    _, status = ran(tmp_path / "again", [with_ids(n) for n in range(0, 80, 20)], [1_000] * 4)
    assert status["deduplication"]["short"] is True
    told = [record.getMessage() for record in caplog.records if "event ids" in record.getMessage()]
    assert len(told) == 1
    assert "reach back 0 s of 24.0 h" in told[0]


def test_more_than_a_hundredth_of_late_events_is_loud_with_cause_and_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the status at once, in the log once there are a thousand events."""
    hours = [9.0] * 989 + [12.0] * 10 + [57.0]
    batches = [clicks(1, 9), clicks(0, 9), clicks(0, *hours), clicks(1, *hours)]
    _, status = ran(tmp_path, batches, [0, 0, 1_000, 1_000])
    [warning] = status["warnings"]
    assert warning.startswith(
        "22 of 2,002 events (1.1%) came late and are not in the window: they stand up to 48 hours behind"
    )
    for words in ("time.lateness allows 60 minutes", "produce sorts a file", "dlq ls"):
        assert words in warning
    assert [record.message[:30] for record in caplog.records if "came late" in record.message] == [
        "11 of 1,002 events (1.1%) came"
    ], "not once"


def test_a_few_late_events_are_no_reason_to_be_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, status = ran(tmp_path, [clicks(1, 9), clicks(0, 9), clicks(0, *[9.0] * 999, *[12.0] * 10)], [0] * 3)
    assert (status["warnings"], status["events"]["late"]) == ([], 10)
    assert not [record for record in caplog.records if "late" in record.message]


def test_a_worker_that_keeps_failing_is_the_state_of_the_updater(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs; ingestion goes on."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(status_file, "write_json", lambda _, status: written.append(status))
    why = "the worker failed 2 times in a row, last: no memory"
    monkeypatch.setattr(Supervisor, "trouble", property(lambda _: why))
    (tmp_path / "status").mkdir()
    (tmp_path / "status/updater.json").write_text("{}")
    ran(tmp_path, [clicks(0, 9)] * 3, [2_000] * 3)
    assert {(status["state"], status["why"]) for status in written[:-1]} == {("degraded", why)}
    assert written[-1]["state"] == "stopped"
    assert written[-1]["events"]["applied"] == 3
