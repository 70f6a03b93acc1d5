"""Shows the progress of long work: a bar on a terminal, a line now and then elsewhere.

    replay, live, demo ──► [Progress] ──► stderr        (stdout belongs to the result)

A caller uses four methods and does not know which kind of output they have. A stage that counts nothing for a
while is not silent: a thread says that it still goes on.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars

from driftgraph.stream.time.clock import Clock, SystemClock

LOGGED_INTERVAL_MS = 10_000  # a log has lines of others, too
PLAIN_INTERVAL_MS = 5_000  # a log file gets at most one line of counting in this time


log = logging.getLogger(__name__)


class Progress(Protocol):
    """The progress of a long task.

    ``start`` ends the previous stage and begins the next one; ``advance`` counts within the stage. ``close``
    may be called twice. A ``with`` block closes. One thread uses it.
    """

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps; None if their number is not known."""

    def advance(self, n: int) -> None:
        """Count ``n`` more steps of the stage."""

    def note(self, text: str) -> None:
        """Print a text that stays readable above the bar."""

    def close(self) -> None:
        """End the last stage and leave the terminal as it was."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoProgress:
    """Shows nothing; for tests and for ``--quiet``."""

    def start(self, label: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pulse:
    """Calls a function again and again while a stage lasts, from a thread of its own."""

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        self._beat = beat
        self._every_s = every_s
        self._end = threading.Event()

    def start(self) -> None:
        """Begin; a stage before ends."""
        self.stop()
        self._end = threading.Event()
        threading.Thread(target=self._run, args=(self._end,), name="progress", daemon=True).start()

    def stop(self) -> None:
        """No beat begins any more. Free if there is no stage."""
        self._end.set()

    def _run(self, end: threading.Event) -> None:
        while not end.wait(self._every_s):
            self._beat()


class PlainProgress(NoProgress):
    """One line when a stage begins and ends, and one each ``PLAIN_INTERVAL_MS`` in between."""

    def __init__(self, out: TextIO, clock: Clock) -> None:
        self._out = out
        self._clock = clock
        self._label = ""  # empty between stages
        self._total: int | None = None
        self._done = 0
        self._begun_ms = 0
        self._said_ms = 0
        self._pulse = Pulse(self._beat, PLAIN_INTERVAL_MS / 1000)

    def start(self, label: str, total: int | None = None) -> None:
        """Print that a stage begins."""
        self.close()
        self._label, self._total, self._done = label, total, 0
        self._begun_ms = self._said_ms = self._clock.now_ms()
        self._say(label if total is None else f"{label}: 0/{total:,}")
        self._pulse.start()

    def advance(self, n: int) -> None:
        """Count, and print a line if the last one is old enough."""
        self._done += n
        now_ms = self._clock.now_ms()
        if self._label and now_ms - self._said_ms >= PLAIN_INTERVAL_MS:
            self._said_ms = now_ms
            self._say(self._line())

    def _beat(self) -> None:
        """Print that the stage still goes on, if nothing was said for long. It counts nothing."""
        now_ms = self._clock.now_ms()
        if self._label and now_ms - self._said_ms >= PLAIN_INTERVAL_MS:
            self._said_ms = now_ms
            self._say(f"{self._line()}, {(now_ms - self._begun_ms) // 1000} s so far")

    def note(self, text: str) -> None:
        """Print the text as a line of its own."""
        self._say(text)

    def close(self) -> None:
        """Print how far the last stage came and how long it took."""
        self._pulse.stop()
        if self._label:
            self._say(f"{self._line()}, {(self._clock.now_ms() - self._begun_ms) / 1000:.1f} s")
        self._label = ""

    def _line(self) -> str:
        of_total = "" if self._total is None else f"/{self._total:,}"
        return f"{self._label}: {self._done:,}{of_total}" if self._done or of_total else self._label

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class RichProgress(NoProgress):
    """A bar on a terminal, one stage after the other; notes scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None = None) -> None:
        """Leave the bar of the previous stage and begin a new one below it."""
        self._end_stage()
        self._bars.start()
        self._task = self._bars.add_task(label, total=total)

    def advance(self, n: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, n)

    def note(self, text: str) -> None:
        """Print above the bar, exactly as given."""
        self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing; the bars stay on the screen."""
        self._end_stage()
        self._bars.stop()

    def _end_stage(self) -> None:
        if self._task is not None:
            self._bars.stop_task(self._task)
        self._task = None


class LoggedProgress(NoProgress):
    """A line of the log when a stage begins, and one each ``LOGGED_INTERVAL_MS`` after it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._begun_ms = self._said_ms = 0
        self._pulse = Pulse(self._beat, LOGGED_INTERVAL_MS / 1000)

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage and say so."""
        self._label, self._total, self._done = label, total, 0
        self._begun_ms = self._said_ms = self.clock.now_ms()
        log.info("%s", label)
        self._pulse.start()

    def advance(self, n: int) -> None:
        """Count, and say so when the last line is old enough."""
        self._done += n
        now_ms = self.clock.now_ms()
        if now_ms - self._said_ms >= LOGGED_INTERVAL_MS and self._total:
            self._said_ms = now_ms
            left_s = (now_ms - self._begun_ms) / 1000 * (self._total - self._done) / self._done
            log.info("%s: %s", self._label, how_far(self._done, self._total, round(left_s)))

    def _beat(self) -> None:
        """Say that the stage still goes on, if nothing was said for long."""
        now_ms = self.clock.now_ms()
        if now_ms - self._said_ms >= LOGGED_INTERVAL_MS:
            self._said_ms = now_ms
            far = how_far(self._done, self._total, None)
            past = f"{(now_ms - self._begun_ms) // 1000} s so far"
            log.info("%s: %s", self._label, f"{far}, {past}" if far else past)

    def close(self) -> None:
        """End the last stage."""
        self._pulse.stop()

    def note(self, text: str) -> None:
        """Say one thing."""
        log.info("%s", text)


def how_far(done: int, total: int | None, left_s: int | None) -> str:
    """``120 of 340, about 40 s left``."""
    counted = f"{done:,} of {total:,}" if total else ""
    left = f"about {left_s} s left" if left_s else ""
    return ", ".join(part for part in (counted, left) if part)


def progress_on_stderr() -> Progress:
    """A bar where stderr is a terminal, plain lines where it is not."""
    return bar_on_terminal() or PlainProgress(sys.stderr, SystemClock())


def bar_on_terminal() -> Progress | None:
    """A bar, if stderr is a terminal."""
    console = Console(stderr=True)
    return RichProgress(console) if console.is_terminal else None
