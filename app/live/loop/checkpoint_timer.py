"""Decides when the updater makes a checkpoint: at intervals, once all things before its position are safe.

    Updater ──► [CheckpointTimer.tend] ──► Snapshot ──► thread ──► WindowCheckpoints.write
            ◄── the position of the newest checkpoint, for lag tools

A disk that is slow or full delays only the next checkpoint: the loop takes a snapshot, which costs no I/O,
and gives it to a thread. While a checkpoint is overdue, for any reason, the status says so, and the log each
minute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.window.writer import StaleCut

LAST_WITHIN_S: Final = 10.0  # of a clean stop; without that checkpoint the next start reads a little more
OVERDUE_INTERVALS: Final = 4  # and a minute at least: no healthy disk is slow for so long
OVERDUE_MS_MIN: Final = 60_000
SAY_EVERY_MS: Final = 60_000

log = logging.getLogger(__name__)


class Outgoing(Protocol):
    """A queue of things that must be safe before a position passes them, such as dead letters."""

    put_count: int
    safe_count: int

    @property
    def told(self) -> str:
        """A sentence for the log: how many things are not safe, and why."""
        ...


class CheckpointTimer:
    """Makes checkpoints beside ingestion, one at a time.

    Always true: a checkpoint is written only when everything that was put into ``outgoing`` before its cut is
    safe; ``tend`` does not wait.
    """

    def __init__(
        self, writer: WindowCheckpoints, outgoing: Sequence[Outgoing], every_ms: int, clock: Clock
    ) -> None:
        self._writer = writer
        self._outgoing = outgoing
        self._every_ms = every_ms
        self._clock = clock
        self._since_ms = clock.now_ms()  # when the newest checkpoint was complete, or at the start
        self._due_ms = self._since_ms + every_ms
        self._taken: tuple[list[int], Snapshot] | None = None  # waits until things before it are safe
        self._thread: threading.Thread | None = None
        self._begun_ms = 0  # when the thread began
        self._failure: str | None = None
        self._forbidden: str | None = None  # why no checkpoint may be begun
        self._said_ms: int | None = None  # when the log last said that one is overdue; None: none is
        self._newest: dict[str, Any] = {
            "number": 0, "time_ms": None, "took_ms": None, "bytes": 0, "copied_bytes": 0,
        }  # fmt: skip
        self._kept: Position | None = None  # the position of a finished checkpoint, until the loop takes it

    def tend(self, take: Callable[[], Snapshot], forbidden: str | None = None) -> Position | None:
        """Begin a checkpoint if one is due; return the position of one that was finished since the last call.

        Args:
            take: Takes a snapshot.
            forbidden: Why no checkpoint may be begun now, or None.
        """
        self._forbidden = forbidden
        self._say_overdue()
        if self._thread is not None and self._thread.is_alive():
            return None
        self._thread = None  # its results may be read now
        if forbidden is not None:
            return None
        kept, self._kept = self._kept, None
        if self._taken is None and self._clock.now_ms() >= self._due_ms:
            self._taken = [one.put_count for one in self._outgoing], take()
        if self._taken is not None and not self._unsafe(self._taken[0]):
            self._start(self._taken[1])
        return kept

    def change_interval(self, every_ms: int) -> None:
        """Make them at this interval from now on."""
        self._every_ms = every_ms
        self._due_ms = min(self._due_ms, self._clock.now_ms() + every_ms)

    def finish(self, take: Callable[[], Snapshot], forbidden: str | None = None) -> Position | None:
        """Make a last checkpoint, if ``LAST_WITHIN_S`` is enough; return its position. Else as ``tend``."""
        if self._thread is not None:
            self._thread.join(LAST_WITHIN_S)
        self._taken, self._due_ms = None, 0
        before = self.tend(take, forbidden)
        if self._thread is not None:
            self._thread.join(LAST_WITHIN_S)
        if self._kept is None:
            log.warning(
                "there is no last checkpoint: %s; the next start reads more of the topic", self._reason()
            )
        return (self._kept or before) if forbidden is None else None

    def status(self) -> dict[str, Any]:
        """For the status file. ``age_ms``: since the newest checkpoint, or since the start."""
        overdue = self._is_overdue()
        return {
            **self._newest,
            "failure": self._failure,
            "age_ms": self._clock.now_ms() - self._since_ms,
            "overdue": overdue,
            "reason": self._reason() if overdue else None,
        }

    def _is_overdue(self) -> bool:
        after_ms = max(OVERDUE_INTERVALS * self._every_ms, OVERDUE_MS_MIN)
        return self._clock.now_ms() - self._since_ms >= after_ms

    def _reason(self) -> str:
        """Why there is no newer checkpoint."""
        if self._forbidden is not None:
            return self._forbidden
        if self._failure is not None:
            return self._failure
        if self._thread is not None and self._thread.is_alive():
            seconds = (self._clock.now_ms() - self._begun_ms) / 1000
            return f"the disk is slow: it has been written to for {seconds:.0f} s"
        if self._taken is not None and (unsafe := self._unsafe(self._taken[0])):
            return "; ".join(one.told for one in unsafe)
        return "none was begun"

    def _say_overdue(self) -> None:
        if not self._is_overdue():
            self._said_ms = None
            return
        now_ms = self._clock.now_ms()
        if self._said_ms is None or now_ms - self._said_ms >= SAY_EVERY_MS:
            self._said_ms = now_ms
            seconds = (now_ms - self._since_ms) // 1000
            log.error("no checkpoint for %d s: %s", seconds, self._reason())

    def _unsafe(self, counts: list[int]) -> list[Outgoing]:
        pairs = zip(self._outgoing, counts, strict=True)
        return [one for one, count in pairs if one.safe_count < count]

    def _start(self, snapshot: Snapshot) -> None:
        self._taken = None
        self._begun_ms = self._clock.now_ms()
        self._due_ms = self._begun_ms + self._every_ms
        # a daemon, so that a disk that hangs does not keep the process from ending
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        begin_ms = self._clock.now_ms()
        try:
            written = self._writer.write(snapshot)
        except StaleCut:
            if self._is_overdue():  # once may be a burst; again and again, the rings are too small
                self._failure = (
                    "events leave their ring while they are written; give the relations more capacity, or "
                    "data_dir a faster disk"
                )
            self._due_ms = 0  # try again, at a newer cut
            return
        except Exception as error:  # any error: ingestion goes on and the next checkpoint is tried
            if self._failure is None:
                log.error("no checkpoint: %s", error)  # noqa: TRY400  a sentence that is meant to be read
            self._failure = str(error)
            return
        if self._failure is not None or self._said_ms is not None:
            log.warning("checkpoints are written again")
        if written.copied_bytes and not self._newest["copied_bytes"]:
            log.warning(
                "%s has no hard links: each checkpoint copies what has not changed, now %.1f MB",
                written.folder.parent,
                written.copied_bytes / 1e6,
            )
        self._failure = None
        now_ms = self._since_ms = self._clock.now_ms()
        self._newest = {
            "number": written.number,
            "time_ms": now_ms,
            "took_ms": now_ms - begin_ms,
            "bytes": sum(one.size for one in written.files.values()),
            "copied_bytes": written.copied_bytes,
        }
        self._kept = snapshot.position
