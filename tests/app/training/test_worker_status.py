"""What the worker is at: in the file, in words, and never in the way of its work."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from driftgraph.app.console.progress import LoggedProgress, NoProgress
from driftgraph.app.training.worker_status import WorkerStatus, worker_pairs
from driftgraph.model.fitting.fit_report import FitReport
from driftgraph.stream.time.clock import ManualClock, SystemClock
from tests.waits import until

REFUSED = FitReport(
    0, False, "popularity", "worse than it", 9, 0, 5.0, 9, 0, 0, {}, ("far worse", "worse than it")
)


def test_the_file_says_what_the_worker_is_at_and_how_long_it_will_take(tmp_path: Path) -> None:
    path, clock = tmp_path / "status" / "worker.json", ManualClock(1_000_000)
    status = WorkerStatus(path, clock, NoProgress())
    status.start("training model version 1", total=340)
    clock.advance(20_000)
    status.advance(120)
    told = json.loads(path.read_bytes())
    assert (told["stage"], told["done"], told["total"], told["left_s"]) == (
        "training model version 1",
        120,
        340,
        37,
    )
    assert worker_pairs(told) == [("worker", "training model version 1: 120 of 340, about 37 s left")]
    status.fitted(REFUSED)
    status.serves(3, 0, "co-visitation and popularity")
    status.close()
    assert worker_pairs(json.loads(path.read_bytes())) == [
        ("worker", "waits until a fit is due"),
        ("last fit", "no new generation (2 attempts): worse than it"),
        ("serves", "generation 3, made by co-visitation and popularity"),
    ]
    status.serves(4, 1, "model")
    assert ("serves", "generation 4 (model version 1), made by model") in worker_pairs(
        json.loads(path.read_bytes())
    )
    assert worker_pairs(None) == []


def test_the_file_is_written_once_a_second_at_most_and_a_full_disk_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[object] = []
    monkeypatch.setattr(
        "driftgraph.app.training.worker_status.write_json", lambda _, value: written.append(value)
    )
    clock = ManualClock(1_000_000)
    status = WorkerStatus(tmp_path / "worker.json", clock, NoProgress())
    status.start("training", total=1_000)
    for _ in range(100):
        clock.advance(100)
        status.advance(1)
    assert len(written) == 11

    def full(_: object, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("driftgraph.app.training.worker_status.write_json", full)
    status.close()
    assert "worker.json cannot be written: No space left on device" in caplog.text


def test_the_file_has_the_memory_of_a_gpu_that_is_used_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = WorkerStatus(tmp_path / "worker.json", ManualClock(1_000_000), NoProgress())
    status.close()
    assert json.loads((tmp_path / "worker.json").read_bytes())["gpu"] is None
    for name, said in (
        ("is_initialized", True), ("current_device", 0), ("memory_allocated", 5), ("memory_reserved", 7),
        ("get_device_properties", SimpleNamespace(total_memory=9)),
    ):  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, said=said: said)
    status.close()
    told = json.loads((tmp_path / "worker.json").read_bytes())["gpu"]
    assert told == {"allocated": 5, "reserved": 7, "total": 9}


def test_a_log_has_a_line_for_each_stage_and_one_each_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = ManualClock(1_000_000)
    progress = LoggedProgress(clock)
    progress.start("training model version 1", total=300)
    for _ in range(25):
        clock.advance(1_000)
        progress.advance(10)
    progress.close()
    assert [record.getMessage() for record in caplog.records] == [
        "training model version 1",
        "training model version 1: 100 of 300, about 20 s left",
        "training model version 1: 200 of 300, about 10 s left",
    ]


def test_a_log_says_of_a_stage_that_counts_nothing_that_it_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("driftgraph.app.console.progress.LOGGED_INTERVAL_MS", 20)
    progress = LoggedProgress(SystemClock())
    progress.start("ids and lists of all users and items", total=70)
    until(lambda: "ids and lists of all users and items: 0 of 70, 0 s so far" in caplog.text)
    progress.close()
    until(lambda: not any(one.name == "progress" for one in threading.enumerate()))


def test_a_refresh_beside_a_stuck_stage_does_not_move_it(tmp_path: Path) -> None:
    """Otherwise a stuck fit would look like one that goes on."""
    path, clock = tmp_path / "worker.json", ManualClock(1_000_000)
    status = WorkerStatus(path, clock, NoProgress())
    status.start("training model version 2", total=300)
    clock.advance(5_000)
    status.advance(1)
    clock.advance(900_000)
    status.refreshed(lambda: {"users": 3}, None)
    told = json.loads(path.read_bytes())
    assert (told["time_ms"], told["moved_ms"]) == (1_905_000, 1_005_000)
