"""What doctor says of data_dir, of the updater that uses it, and of event ids: each answer, yes and no."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.commands.doctor.data_dir import data_dir_checks, event_ids
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.config.tables.sections import DeduplicationSettings
from driftgraph.app.console.status_files import write_json
from tests import volumes

CHECKPOINT = {"number": 7, "age_ms": 200_000, "overdue": False, "reason": None, "failure": None}
IDS = {"ids": 1_000, "bytes": 9_000_000, "horizon_ms": 86_400_000, "reach_ms": 9_000_000, "short": False}


def settings(folder: Path) -> Settings:
    return load(options={"data_dir": str(folder), "relations": {"click": {}}})


def found(folder: Path) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.detail) for check in data_dir_checks(settings(folder))}


def test_a_good_volume_is_good_and_nothing_stays_on_it(tmp_path: Path) -> None:
    state, detail = found(tmp_path / "not" / "there")["data_dir"]
    assert (state, "can be written, linked, locked and mapped" in detail) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        (volumes.without_links, "no hard links, so each checkpoint copies"),
        (volumes.without_locks, "no locks"),
        (volumes.without_mapping, "set window.dir to a folder of a local disk"),
    ],
)
def test_what_a_volume_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: Any, said: str
) -> None:
    lack(monkeypatch)
    state, detail = found(tmp_path)["data_dir"]
    assert (state, said in detail) == ("warn", True)


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", volumes.refusing(13))
    state, detail = found(tmp_path)["data_dir"]
    assert (state, "Permission denied; give this user the right" in detail) == ("fail", True)


def test_an_overdue_checkpoint_and_a_short_memory_of_a_running_updater_are_said(tmp_path: Path) -> None:
    status: dict[str, Any] = {
        "pid": os.getpid(),
        "state": "running",
        "checkpoint": CHECKPOINT,
        "deduplication": IDS,
    }
    path = tmp_path / "status" / "updater.json"
    write_json(path, status)
    assert found(tmp_path)["checkpoint"] == ("ok", "number 7, 3 min old")
    assert "event ids" not in found(tmp_path)
    overdue = {**CHECKPOINT, "overdue": True, "reason": "No space left on device"}
    write_json(path, {**status, "checkpoint": overdue, "deduplication": {**IDS, "short": True}})
    answers = found(tmp_path)
    assert answers["checkpoint"] == (
        "fail", "overdue, the newest, number 7, is 3 min old: No space left on device"
    )  # fmt: skip
    state, detail = answers["event ids"]
    assert (state, "reach back 2.5 h of 24.0 h" in detail) == ("warn", True)
    write_json(path, {**status, "state": "stopped", "checkpoint": overdue})
    assert "checkpoint" not in found(tmp_path), "who does not run makes none"


@pytest.mark.parametrize(
    ("per_day", "horizon", "state", "said"),
    [
        (0, "1d", "ok", "the sample has none"),
        (600 * 86_400, "1d", "ok", "56,160,000 within 1d take 0.54 GB"),
        (2_500 * 86_400, "1d", "ok", "ids_max is 240,000,000"),
        (10_000 * 86_400, "1d", "warn", "936,000,000 within 1d take 8.59 GB"),
        (10_000 * 86_400, "1d", "warn", "which reach back 6.1 h: set it to 936,000,000 or more"),
        (600 * 86_400, "7d", "warn", "which reach back 4.2 d"),
    ],
)
def test_the_memory_for_event_ids_is_computed_from_the_rate(
    per_day: float, horizon: str, state: str, said: str
) -> None:
    check = event_ids(DeduplicationSettings.model_validate({"horizon": horizon}), per_day)
    assert (check.state, said in check.detail) == (state, True), check
