"""A queue and a thread that make things safe before a position passes them, so that ingestion never waits.

    [SafeQueue.put] ──► queue in memory ──► thread ──► make_safe(batch), until it succeeds ──► safe
         │ full: the updater pauses the source and goes on polling (app/live/loop/backpressure.py)
         └ put_count, safe_count: a checkpoint waits for them (app/live/loop/checkpoint_timer.py)

Dead letters wait in one (dead_letters/outgoing.py), requests to erase in another (snapshots/erasures.py).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from driftgraph.stream.pauses import pause_after

RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0)  # pauses while the place of the things is away
TEND_S: Final = 0.05  # how often ``tend`` is called while it has something to do
CLOSE_WITHIN_S: Final = 3.0

log = logging.getLogger(__name__)
Thing = TypeVar("Thing")


def _nothing() -> bool:
    return False


class SafeQueue(Generic[Thing]):
    """Things on their way to a disk or a broker that may be away.

    Always true: ``put`` returns at once; things become safe in the order in which they were put; a thing
    is removed only when it is safe. At most ``count_max`` things or ``bytes_max`` wait, plus the things of
    the read that reached the limit.

    Args:
        what: The things, for sentences: "dead letters".
        make_safe: Makes a batch safe. If it raises, it is called with the same batch again, after a pause.
        tend: Is called after each batch, and every ``TEND_S`` as long as it says that something is left to
            do. It must not raise.
    """

    def __init__(
        self,
        what: str,
        make_safe: Callable[[list[Thing]], None],
        *,
        count_max: int,
        bytes_max: int | None = None,
        tend: Callable[[], bool] = _nothing,
    ) -> None:
        self._what = what
        self._make_safe = make_safe
        self._count_max, self._bytes_max = count_max, bytes_max
        self._tend = tend
        self._queue: deque[tuple[Thing, int]] = deque()
        self._waiting_bytes = 0  # size of the things that are not safe
        self._change = threading.Condition()
        self._closing = False
        self.failure: str | None = None  # why ``make_safe`` fails; None while it does not
        self.put_count = 0
        self.safe_count = 0  # of those
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Things that are not safe yet."""
        return self.put_count - self.safe_count

    @property
    def full(self) -> bool:
        """Whether reading should pause."""
        too_long = self._bytes_max is not None and self._waiting_bytes >= self._bytes_max
        return self.waiting >= self._count_max or too_long

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after a pause: half of the queue is free."""
        short = self._bytes_max is None or 2 * self._waiting_bytes <= self._bytes_max
        return 2 * self.waiting <= self._count_max and short

    @property
    def told(self) -> str:
        """A sentence for the log: how many things wait, and why."""
        return f"{self.waiting} {self._what} wait ({self.failure or 'their place is slow'})"

    def put(self, thing: Thing, size: int = 0) -> None:
        """Take one thing, of ``size`` bytes."""
        with self._change:
            self._queue.append((thing, size))
            self.put_count += 1
            self._waiting_bytes += size
            self._change.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all things are safe; False if they are not in time."""
        with self._change:
            return self._change.wait_for(lambda: not self.waiting, timeout_s)

    def close(self) -> None:
        """Wait some seconds for the things. The log counts those that are not safe then; the position has not
        passed their events, so the next start reads them again.
        """
        if self._closing:
            return
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(CLOSE_WITHIN_S)
        if self.waiting:
            log.warning(
                "%d %s are not kept; their events are read again at the next start", self.waiting, self._what
            )

    def _run(self) -> None:
        """Make waiting things safe, until closed and empty, or closed while ``make_safe`` fails."""
        batch: list[tuple[Thing, int]] = []
        failures, tending = 0, False
        while True:
            with self._change:
                if batch:
                    self._change.wait_for(lambda: self._closing, pause_after(failures, RETRY_S))
                else:
                    self._change.wait_for(lambda: self._queue or self._closing, TEND_S if tending else None)
                    batch = list(self._queue)
                    self._queue.clear()
                closing = self._closing
            if self._tried(batch):
                batch, failures = [], 0
            else:
                failures += 1
            tending = self._tend()
            if closing and (batch or not self._queue):
                return

    def _tried(self, batch: list[tuple[Thing, int]]) -> bool:
        """Make a batch safe; False if ``make_safe`` fails."""
        if not batch:
            return True
        try:
            self._make_safe([thing for thing, _ in batch])
        except Exception as error:  # any error: the thread must go on, or all things would wait for ever
            if self.failure is None:
                log.error(  # noqa: TRY400  a sentence that is meant to be read
                    "%s cannot be kept: %s; events wait when %d of them do",
                    self._what,
                    error,
                    self._count_max,
                )
            self.failure = str(error)
            return False
        if self.failure is not None:
            log.warning("%s are kept again", self._what)
        self.failure = None
        with self._change:
            self.safe_count += len(batch)
            self._waiting_bytes -= sum(size for _, size in batch)
            self._change.notify_all()
        return True
