"""The updater's status file: also on a full disk its time says that the updater lives."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from driftgraph.app.console.status_files import write_json
from driftgraph.app.live import start_status
from driftgraph.app.live.loop import status_file
from driftgraph.app.live.loop.status_file import StatusFile
from driftgraph.stream.time.clock import ManualClock

NOW_MS = 1_783_000_000_000


def test_the_first_status_takes_the_place_of_what_the_start_said(tmp_path: Path) -> None:
    clock = ManualClock(NOW_MS)
    with start_status.starting(tmp_path, clock):
        assert (tmp_path / "status/start.json").exists()
        StatusFile(tmp_path, clock).write("filling", None, {"read": 3})
        assert not (tmp_path / "status/start.json").exists()
    said = json.loads((tmp_path / "status/updater.json").read_bytes())
    assert said == {"pid": os.getpid(), "state": "filling", "why": None, "time_ms": NOW_MS, "read": 3}


def test_on_a_full_disk_the_time_of_the_file_moves_on_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(NOW_MS)
    file, path = StatusFile(tmp_path, clock), tmp_path / "status/updater.json"
    file.write("running", None, {})
    write = write_json

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status_file, "write_json", full)
    for _ in range(3):
        clock.advance(1_000)
        file.write("running", None, {})
    assert path.stat().st_mtime_ns // 1_000_000 == NOW_MS + 3_000
    assert [record.message for record in caplog.records] == [
        f"{path} cannot be written: No space left on device"
    ]
    monkeypatch.setattr(status_file, "write_json", write)
    file.write("running", None, {})
    assert caplog.records[-1].message == "the status is written again"
