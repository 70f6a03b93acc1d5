"""``driftgraph status``: what is wrong comes first, as on every surface, and each second with --watch."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from rich.console import Console

from driftgraph.app.cli.status import line_of, screen_of, trouble_lines
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.status import Served, status_of
from driftgraph.app.config.settings import load
from driftgraph.app.console.troubles import CODES
from driftgraph.app.web.answers import Answers
from driftgraph.snapshots.generations.keys import StoreError
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell, shell  # noqa: F401  a fixture
from tests.app.web.serving import updater_says
from tests.app.web.troubled import BROKEN, facts
from tests.waits import until

NOWHERE = "redis://127.0.0.1:1/0"
CODE = "from driftgraph.app.cli.main import main; main()"
KEYS = [
    "time_ms", "troubles", "redis", "namespace", "redis_error", "generation", "choice", "manifest", "keys",
    "updater", "standby", "worker", "start",
]  # fmt: skip


def value_of(folder: Path, served: Served | None = None) -> dict[str, Any]:
    return status_of(load(options={"data_dir": str(folder)}), served or Served(number=3), SystemClock())


def said(value: dict[str, Any]) -> list[str]:
    return [line.plain for line in trouble_lines(value)]


def test_golden_keys(tmp_path: Path) -> None:
    assert list(value_of(tmp_path)) == KEYS


def test_all_is_well_is_one_line(tmp_path: Path) -> None:
    updater_says(tmp_path)
    assert said(value_of(tmp_path)) == ["ok    fresh vectors and lists are served"]


def test_what_keeps_from_serving_comes_before_the_rest_each_with_its_remedy(tmp_path: Path) -> None:
    updater_says(tmp_path, lost={"events[0]": 7}, kafka_away=True)
    assert said(value_of(tmp_path)) == [
        "fail  Kafka does not answer",
        "      look at the brokers; driftgraph doctor tries them",
        "warn  7 messages were deleted by Kafka's retention before they were read",
        "      raise the topic's retention above the longest stop",
    ]


def test_it_says_what_readyz_says(tmp_path: Path) -> None:
    """The words of one source, for the same facts."""
    updater_says(tmp_path, state="degraded", worker={"state": "failing", "failures": 3, "why": "no room"})
    settings = load(options={"data_dir": str(tmp_path), "redis": {"url": NOWHERE}})
    answers = Answers(settings, SystemClock(), os.getpid())
    answers._redis_error = "Redis is away"
    there = answers.ready()[1]["troubles"]
    answers.close()
    here = value_of(tmp_path, Served(error=StoreError("Redis is away")))["troubles"]
    assert here == there
    assert [one["code"] for one in here] == ["worker_failing", "redis_away"]


@pytest.mark.parametrize("code", [None, *CODES])
def test_check_exits_with_what_readyz_answers(
    shell: Shell,  # noqa: F811
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str | None,
) -> None:
    """The same facts for both: all is well, and each trouble."""
    known = facts(**BROKEN[code] if code else {})
    for place in ("app.commands.status", "app.web.answers"):
        monkeypatch.setattr(f"driftgraph.{place}.facts_of", lambda *_, **__: known)
    answers = Answers(
        load(options={"data_dir": str(tmp_path), "redis": {"url": NOWHERE}}), SystemClock(), os.getpid()
    )
    is_ready, readyz = answers.ready()
    answers.close()
    checked = shell("status", "--redis", redis_server.url, "--check", "--json")
    assert checked.code == (0 if is_ready else 1)
    assert [one["code"] for one in checked.json()["troubles"]] == ([code] if code else [])
    if not is_ready:
        assert readyz["troubles"][0]["said"] in checked.err


def test_check_prints_the_status_and_then_what_keeps_from_serving(
    shell: Shell,  # noqa: F811
    redis_server: EmbeddedRedis,
    redis_client: redis_py.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert redis_client.ping()
    monkeypatch.setenv("DRIFTGRAPH__DATA_DIR", str(tmp_path))
    updater_says(tmp_path, state="filling")
    checked = shell("status", "--redis", redis_server.url, "--check")
    assert checked.code == 1
    assert "filling, pid" in checked.out
    both = "the window is filling, 7 messages are left; Redis serves no generation in this namespace"
    assert checked.err == f"driftgraph: {both}\n"
    assert shell("status", "--redis", redis_server.url).code == 0, "without --check a start is no fault"


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


@pytest.mark.parametrize("state", ["unknown", "running"])
def test_the_file_of_an_older_updater_or_of_another_user_is_read_as_far_as_it_goes(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"state": state, "pid": os.getpid(), "why": "updater.json: Permission denied"}
    monkeypatch.setattr(
        "driftgraph.app.console.troubles.told", lambda _, who: old if who == "updater" else None
    )
    assert [one["code"] for one in value_of(tmp_path)["troubles"]] == (
        ["updater_silent"] if state == "unknown" else []
    )


# --- each second -----------------------------------------------------------------------------------------


def test_a_line_has_the_rate_between_two_looks(tmp_path: Path) -> None:
    updater_says(tmp_path)
    before = value_of(tmp_path)
    now = before | {"updater": before["updater"] | {
        "time_ms": before["updater"]["time_ms"] + 2_000,
        "events": before["updater"]["events"] | {"read": 3_030},
    }}  # fmt: skip
    assert line_of(before, None).split("  ")[1:] == ["running", "lag 7", "generation 3", "ok"]
    assert line_of(now, before).split("  ")[2] == "1,500 events/s"
    ended = line_of(value_of(tmp_path / "none", Served(error=StoreError("x"))), now).split("  ")
    assert ended[1:] == ["no updater", "generation unknown", "no_updater, redis_away"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 120)])
def test_a_screen_is_never_larger_than_the_terminal(tmp_path: Path, width: int, height: int) -> None:
    updater_says(tmp_path, lost={"events[0]": 7}, kafka_away=True, window={f"r{n}": n for n in range(40)})
    value, out = value_of(tmp_path), Console(width=width, height=height, force_terminal=True)
    lines = [line.plain for line in screen_of("shop", value, None, out)]
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[1] == "fail  Kafka does not answer"
    assert lines[-1].startswith("… ") is (height < 120)


def watch(
    folder: Path, stdout: int, stderr: int, stdin: int | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    config = folder / "driftgraph.toml"
    config.write_text(f'data_dir = "{folder / "var"}"\n[redis]\nurl = "{NOWHERE}"\n', encoding="utf-8")
    arguments = ["status", "--watch", "-c", str(config)]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], stdin=stdin, stdout=stdout, stderr=stderr, env=env
    )


def test_without_a_terminal_it_says_lines_from_before_anything_runs_and_ends_with_0(tmp_path: Path) -> None:
    with watch(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"no updater" in process.stdout.readline()
        updater_says(tmp_path / "var")
        until(lambda: b"  running  lag 7  " in process.stdout.readline())  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_has_seen_enough_ends_it(tmp_path: Path) -> None:
    with watch(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_on_a_terminal_of_80_by_24_it_redraws_and_leaves_the_screen_as_it_was(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    drawn = bytearray()

    def has(text: bytes) -> Callable[[], bool]:
        def look() -> bool:
            drawn.extend(os.read(ours, 1 << 16))
            return text in drawn

        return look

    with watch(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        until(has(b"no updater has run with this data_dir"))
        updater_says(tmp_path / "var")
        until(has(b"running, pid"))
        process.send_signal(signal.SIGINT)
        until(has(b"\x1b[?1049l"))  # the other screen is left
        assert process.wait(60) == 0
    os.close(theirs)
    os.close(ours)


def test_json_lines_are_documents(tmp_path: Path) -> None:
    config = tmp_path / "driftgraph.toml"
    config.write_text(f'data_dir = "{tmp_path / "var"}"\n[redis]\nurl = "{NOWHERE}"\n', encoding="utf-8")
    arguments = ["status", "--watch", "--json", "-c", str(config)]
    with subprocess.Popen([sys.executable, "-c", CODE, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        one, two = (json.loads(process.stdout.readline()) for _ in range(2))
        process.terminate()
    assert list(one) == list(two) == KEYS
    assert two["time_ms"] > one["time_ms"]
