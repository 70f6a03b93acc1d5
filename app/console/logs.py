"""How a process of a run logs on stderr: as text for people, or one JSON object a line for programs.

settings ──► [set_up] ──► the logging of updater, worker and HTTP process ──► stderr

No line has a secret of the configuration, whoever logs it: each handler replaces them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from driftgraph.app.config.settings import Settings
from driftgraph.app.config.text import secrets_of
from driftgraph.app.console.progress import LoggedProgress, Progress, progress_on_stderr
from driftgraph.stream.addresses import HIDDEN
from driftgraph.stream.time.clock import SystemClock

OURS: Final = "driftgraph"  # the logger above all of ours

log = logging.getLogger(__name__)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is now: while a bar is drawn, that prints above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where lines go."""
        return sys.stderr


class TextLines(logging.Formatter):
    """Lines for people, without secrets: time, process, the level from a warning on, and whose line it is.

    A logger of ours is not named: the sentence says what it is about.
    """

    def __init__(self, process: str, hidden: Callable[[str], str]) -> None:
        super().__init__()
        self._process = process
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback below it where there is one."""
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        name = "" if record.name.partition(".")[0] == OURS else f"{record.name}: "
        said = super().format(record)
        return self._hidden(f"{self.formatTime(record)} {self._process}: {level}{name}{said}")


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII, so that no terminal or collector can break it."""

    def __init__(self, process: str, hidden: Callable[[str], str]) -> None:
        super().__init__()
        self._process = process
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """``exception`` is there only if there is one."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": self._hidden(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self._hidden(self.formatException(record.exc_info))
        return json.dumps(line)


def set_up(settings: Settings, process: str) -> None:
    """Let everything that this process logs go to stderr as ``[log]`` says.

    In JSON, warnings of Python and errors that end a thread are lines of the log, too.
    """
    secrets = sorted(secrets_of(settings), key=len, reverse=True)

    def hidden(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text

    is_json = settings.log.format == "json"
    handler = StderrHandler()
    handler.setFormatter((JsonLines if is_json else TextLines)(process, hidden))
    root = logging.getLogger()
    for one in [one for one in root.handlers if type(one) in (logging.StreamHandler, StderrHandler)]:
        root.removeHandler(one)
    root.addHandler(handler)
    set_level(settings.log.level)
    logging.captureWarnings(is_json)
    if is_json:
        sys.excepthook = _ended
        threading.excepthook = _thread_ended


def set_level(level: str) -> None:
    """The least level of our own lines; libraries say warnings at least."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger(OURS).setLevel(number)
    logging.getLogger().setLevel(max(number, logging.WARNING))


def progress_of(settings: Settings) -> Progress:
    """How a run shows its progress: a bar on a terminal, lines elsewhere, lines of the log in JSON."""
    return LoggedProgress(SystemClock()) if settings.log.format == "json" else progress_on_stderr()


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the process ends", exc_info=(kind, error, trace))


def _thread_ended(args: Any) -> None:
    if args.exc_type is not SystemExit:
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        log.critical("thread %s ends", args.thread and args.thread.name, exc_info=found)
