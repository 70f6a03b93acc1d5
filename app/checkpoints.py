"""When the updater makes a checkpoint: every so often, once what lies before its position is safe.

    Updater ──► [Checkpoints.tend] ──► Snapshot ──► thread ──► WindowCheckpoints.write
            ◄── the position that a crash would go on from, for lag tools

A disk that is slow or full delays the next checkpoint and nothing else: the loop takes a snapshot, which
costs no I/O, and hands it over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from driftgraph.snapshots.window_checkpoint import Snapshot, WindowCheckpoints
from driftgraph.stream.clock import Clock
from driftgraph.stream.source import Position
from driftgraph.stream.window import StaleCut

LAST_WITHIN_S: Final = 10.0  # for the one of a clean stop; without it the next start reads a little more

log = logging.getLogger(__name__)


class Outgoing(Protocol):
    """What is made safe elsewhere before a position may pass it, such as dead letters."""

    put_count: int
    safe_count: int


class Checkpoints:
    """Makes checkpoints beside ingestion, one at a time.

    Always true: a checkpoint is there only if everything put into ``outgoing`` before its cut is safe;
    ``tend`` does not wait.
    """

    def __init__(
        self, writer: WindowCheckpoints, outgoing: Sequence[Outgoing], every_ms: int, clock: Clock
    ) -> None:
        self._writer = writer
        self._outgoing = outgoing
        self._every_ms = every_ms
        self._clock = clock
        self._due_ms = clock.now_ms() + every_ms
        self._taken: tuple[list[int], Snapshot] | None = None  # waits for what must be safe before it
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._newest: dict[str, Any] = {"number": 0, "time_ms": None, "took_ms": None}
        self._kept: Position | None = None  # what the thread has made durable, until the loop takes it

    def tend(self, take: Callable[[], Snapshot]) -> Position | None:
        """Do what is due; the position of a checkpoint that was finished since the last call."""
        if self._thread is not None and self._thread.is_alive():
            return None
        self._thread = None  # so what it wrote is ours now
        kept, self._kept = self._kept, None
        if self._taken is None and self._clock.now_ms() >= self._due_ms:
            self._taken = [one.put_count for one in self._outgoing], take()
        if self._taken is not None and self._is_safe(self._taken[0]):
            self._start(self._taken[1])
        return kept

    def finish(self, take: Callable[[], Snapshot]) -> Position | None:
        """A last checkpoint, if it can be had in ``LAST_WITHIN_S``; its position."""
        if self._thread is not None:
            self._thread.join(LAST_WITHIN_S)
        self._taken, self._due_ms = None, 0
        before = self.tend(take)
        if self._thread is not None:
            self._thread.join(LAST_WITHIN_S)
        return self._kept or before

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {**self._newest, "failure": self._failure}

    def _is_safe(self, counts: list[int]) -> bool:
        return all(one.safe_count >= count for one, count in zip(self._outgoing, counts, strict=True))

    def _start(self, snapshot: Snapshot) -> None:
        self._taken = None
        self._due_ms = self._clock.now_ms() + self._every_ms
        # a daemon, so that a disk that hangs does not keep the process from ending
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        begin_ms = self._clock.now_ms()
        try:
            written = self._writer.write(snapshot)
        except StaleCut:
            self._due_ms = 0  # the ring is small or the disk slow: once more, at a newer cut
            return
        except Exception as error:  # whatever it is, ingestion goes on and the next one is tried
            if self._failure is None:
                log.error("no checkpoint: %s", error)  # noqa: TRY400  a sentence that is meant to be read
            self._failure = str(error)
            return
        if self._failure is not None:
            log.warning("checkpoints are written again")
        self._failure = None
        now_ms = self._clock.now_ms()
        self._newest = {"number": written.number, "time_ms": now_ms, "took_ms": now_ms - begin_ms}
        self._kept = snapshot.position
