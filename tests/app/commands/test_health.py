"""When ``driftgraph status --check`` says that an updater does its work, and when not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.health import SILENT_MS, fault
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell, shell  # noqa: F401  a fixture

NOW_MS = 1_783_000_000_000


def updater(state: str, *, silent_ms: int = 1_000, why: str | None = None) -> dict[str, Any]:
    return {"state": state, "why": why, "time_ms": NOW_MS - silent_ms}


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (None, "no updater has run"),
        (updater("filling"), None),
        (updater("running"), None),
        (updater("running", silent_ms=SILENT_MS), None),
        (updater("running", silent_ms=SILENT_MS + 1), "no status for 60 s"),
        (updater("stopped"), "the updater is stopped"),
        ({"state": "unknown", "why": "Permission denied"}, "unknown: Permission denied"),
        (updater("gone"), "the updater is gone"),
        (updater("failed", why="the disk is full"), "the updater is failed: the disk is full"),
    ],
)
def test_what_is_wrong_with_an_updater(told: dict[str, Any] | None, wrong: str | None) -> None:
    found = fault(told, None, now_ms=NOW_MS)
    assert (found is None) if wrong is None else (found is not None and wrong in found)
    assert fault(told, {"state": "standby"}, now_ms=NOW_MS) is None, "another one waits, as it should"


def test_the_command_exits_by_it_and_prints_the_status_all_the_same(
    shell: Shell,  # noqa: F811
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRIFTGRAPH__DATA_DIR", str(tmp_path))
    asked = ("status", "--redis", redis_server.url, "--check", "--json")
    assert shell("status", "--redis", redis_server.url).code == 0
    assert shell(*asked).code == 1
    told = updater("running") | {"pid": os.getpid(), "watermark_ms": 0, "lag": {}, "events": {}, "window": {}}
    path = tmp_path / "status" / "updater.json"
    path.parent.mkdir()
    path.write_text(json.dumps(told))
    late = shell(*asked)
    assert (late.code, late.json()["updater"]["state"]) == (1, "running")
    assert "has written no status" in late.err
    path.write_text(json.dumps(told | {"time_ms": SystemClock().now_ms()}))
    assert shell(*asked).code == 0


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_status_that_may_not_be_read_is_not_told_as_none(
    shell: Shell,  # noqa: F811
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
    form: tuple[str, ...],
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = shell("status", "--redis", redis_server.url, *form)
    assert found.code == 0
    assert "updater.json: Permission denied" in found.out
    assert "none has run" not in found.out
