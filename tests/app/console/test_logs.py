"""Lines of the log: text as before, one JSON object a line, and no secret in either."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftgraph.app.config.settings import Settings
from driftgraph.app.console import logs

GOLDEN = Path(__file__).parents[2] / "golden" / "log.jsonl"
AT_S = 1_783_000_000.123
SECRET = "h5sh and more"


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.OURS)
    before = [*root.handlers], root.level, ours.level, sys.excepthook, threading.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers[:], _, _, sys.excepthook, threading.excepthook = before
    root.setLevel(before[1])
    ours.setLevel(before[2])


def settings_of(**log: str) -> Settings:
    return Settings.model_validate({"log": log, "web": {"token": SECRET}})


def record(level: int, message: str, *args: object, name: str = "driftgraph.kafka") -> logging.LogRecord:
    made = logging.LogRecord(name, level, "kafka.py", 1, message, args, None)
    made.created = AT_S
    return made


def test_golden_lines() -> None:
    lines = logs.JsonLines("updater", lambda text: text.replace(SECRET, "…"))
    made = [
        record(logging.INFO, "filling the window: %s of %s", "3", "7"),
        record(logging.WARNING, "two\nlines, “quoted” and \udc80", name="aiohttp.server"),
        record(logging.ERROR, f"it has {SECRET} in it"),
    ]
    try:
        int(SECRET)
    except ValueError:
        made[-1].exc_info = sys.exc_info()
    said = [json.loads(lines.format(one)) for one in made]
    assert said[-1]["exception"].splitlines()[-1] == "ValueError: invalid literal for int() with base 10: '…'"
    said[-1]["exception"] = "Traceback …"
    written = [lines.format(one) for one in made[:-1]] + [json.dumps(said[-1])]
    assert "\n".join(written) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_a_line_of_text_has_its_time_its_process_and_who_else_than_we_said_it() -> None:
    lines = logs.TextLines("updater", str)
    said = [
        lines.format(record(logging.INFO, "Kafka is %s", "back")),
        lines.format(record(logging.WARNING, "Kafka is away")),
        lines.format(record(logging.ERROR, "it ends", name="asyncio")),
    ]
    assert [one.partition(":40,")[2].partition(" ")[2] for one in said] == [
        "updater: Kafka is back",
        "updater: WARNING Kafka is away",
        "updater: ERROR asyncio: it ends",
    ]


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_line_has_a_secret(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(settings_of(format=format_), "web")
    logging.getLogger("aiohttp").warning("header %s", SECRET)
    try:
        int(SECRET)
    except ValueError:
        logging.getLogger("driftgraph.x").exception("it fails")
    err = capsys.readouterr().err
    assert "header …" in err or "header \\u2026" in err
    assert "ValueError" in err
    assert SECRET not in err


@pytest.mark.usefixtures("logging_as_before")
def test_the_level_is_that_of_our_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(settings_of(level="info"), "worker")
    logging.getLogger("driftgraph.x").info("ours")
    logging.getLogger("library").info("theirs")
    logs.set_level("debug")
    logging.getLogger("driftgraph.x").debug("ours again")
    logging.getLogger("library").debug("theirs again")
    logs.set_level("error")
    logging.getLogger("driftgraph.x").warning("not wanted")
    logging.getLogger("library").warning("not wanted")
    lines = [line.partition("worker: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["ours", "ours again"]


@pytest.mark.usefixtures("logging_as_before")
def test_in_json_warnings_and_the_end_of_a_thread_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(settings_of(format="json"), "updater")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings has taken it back
        warnings.warn("an old call", DeprecationWarning, stacklevel=1)

    def fail() -> None:
        raise KeyError(SECRET)

    thread = threading.Thread(target=fail, name="refresher")
    thread.start()
    thread.join()
    one, two = map(json.loads, capsys.readouterr().err.splitlines())
    assert (one["logger"], one["level"]) == ("py.warnings", "warning")
    assert "an old call" in one["message"]
    assert (two["message"], two["level"]) == ("thread refresher ends", "critical")
    assert two["exception"].endswith("KeyError: '…'")


def test_a_run_that_cannot_start_says_so_in_json(tmp_path: Path) -> None:
    config = tmp_path / "driftgraph.toml"
    config.write_text('[log]\nformat = "json"\n', encoding="utf-8")
    code = "from driftgraph.app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "-c", str(config)], capture_output=True, text=True, check=False
    )
    [line] = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 2
    assert (line["level"], line["process"]) == ("error", "updater")
    assert line["message"].startswith("no relations are configured")
