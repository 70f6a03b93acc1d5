"""Progress: what a log gets to read, and that a bar writes nothing where there is no terminal."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from driftgraph.app.console.progress import (
    PLAIN_INTERVAL_MS,
    NoProgress,
    PlainProgress,
    RichProgress,
    progress_on_stderr,
)
from driftgraph.stream.time.clock import ManualClock, SystemClock
from tests.waits import until


def test_plain_progress_says_little_between_the_first_and_the_last_line() -> None:
    out, clock = io.StringIO(), ManualClock(1_000)
    with PlainProgress(out, clock) as progress:
        progress.start("reading", 3_000)
        for _ in range(3):
            progress.advance(1_000)
            clock.advance(PLAIN_INTERVAL_MS // 2 + 1)
        progress.note("half-way")
    assert out.getvalue().splitlines() == [
        "reading: 0/3,000",
        "reading: 3,000/3,000",
        "half-way",
        "reading: 3,000/3,000, 7.5 s",
    ]


def test_a_new_stage_ends_the_one_before_and_closing_twice_is_harmless() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, ManualClock(1))
    progress.start("one", 1)
    progress.start("two")
    progress.advance(2)
    progress.close()
    progress.close()
    assert out.getvalue().splitlines() == ["one: 0/1", "one: 0/1, 0.0 s", "two", "two: 2, 0.0 s"]


def test_a_stage_that_counts_nothing_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread says that it goes on, as often as a line is due, until the stage ends."""
    monkeypatch.setattr("driftgraph.app.console.progress.PLAIN_INTERVAL_MS", 20)
    out = io.StringIO()
    progress = PlainProgress(out, SystemClock())
    progress.start("compiling")
    until(lambda: out.getvalue().count("compiling, 0 s so far\n") > 1)
    progress.close()
    said = out.getvalue()
    until(lambda: not any(one.name == "progress" for one in threading.enumerate()))
    assert out.getvalue() == said
    assert said.splitlines()[-1].startswith("compiling, 0.")


def test_a_bar_shows_label_counts_and_notes_as_they_are() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with RichProgress(console) as progress:
        progress.start("reading", 10)
        progress.advance(10)
        progress.note("[bold] is not markup")
    assert "reading" in out.getvalue()
    assert "10/10" in out.getvalue()
    assert "[bold] is not markup" in out.getvalue()


def test_without_a_terminal_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr() as progress:
        progress.start("reading", 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("reading: 0/1\n")
    NoProgress().start("reading")
    assert capsys.readouterr().err == ""
