"""Between ingestion and its dead letters: ingestion never waits for a disk or a broker.

    Ingest ──► [Outbox.put] ──► queue in memory ──► thread ──► files or topic ──► safe
                    │ full: the updater pauses the source and goes on polling
                    └ KeptLetters: a letter that is safe already is not kept twice

A start reads part of the topic again, and with it the events that were rejected before. So what identifies a
letter is remembered beside the data, and a restart multiplies none.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from driftgraph.stream import disk
from driftgraph.stream.dead_letters.letters import DeadLetterError, DeadLetters
from driftgraph.stream.events import Rejected

LETTERS_MAX: Final = 10_000  # that wait; then no more events are read
BYTES_MAX: Final = 64 << 20  # of their payloads
RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0)  # pauses while the place is away; the last one repeats
CLOSE_WITHIN_S: Final = 3.0
KEPT_MAX: Final = 1 << 18  # letters of one file of identities; two files, 2 MB each, and 30 MB of memory

log = logging.getLogger(__name__)


class KeptLetters:
    """Which letters are safe, by a hash of 64 bits: the newest 262,144 to 524,288 of them.

    Always true: what ``knows`` says yes to was added, here or by a process before; what a crash or a full
    disk keeps from the file costs a letter that is kept twice. Late events carry no offset: two of them that
    agree in everything, to the millisecond, are one letter.
    """

    def __init__(self, folder: Path, *, kept_max: int = KEPT_MAX) -> None:
        self._current_path, self._previous_path = folder / "kept.new", folder / "kept.old"
        self._kept_max = kept_max
        folder.mkdir(parents=True, exist_ok=True)
        self._previous = _identities_in(self._previous_path)
        self._current = _identities_in(self._current_path)

    @staticmethod
    def identity(rejected: Rejected) -> int:
        """Equal for the same record of the same topic, whatever was wrong with it."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (rejected.origin.encode(), str(rejected.timestamp_ms).encode(), rejected.key or b""):
            digest.update(b"%d:" % len(part) + part)
        digest.update(rejected.payload)
        return int.from_bytes(digest.digest(), "little")

    def knows(self, identity: int) -> bool:
        """Whether this letter is safe."""
        return identity in self._current or identity in self._previous

    def add(self, identities: Iterable[int]) -> None:
        """Remember letters that are safe now."""
        new = list(identities)
        if len(self._current) + len(new) > self._kept_max:
            with suppress(FileNotFoundError):
                disk.replace(self._current_path, self._previous_path)
            self._previous, self._current = self._current, set()
        self._current.update(new)
        with self._current_path.open("ab") as file:
            file.seek(file.tell() // 8 * 8)
            file.truncate()
            file.write(np.array(new, "<u8").tobytes())


def _identities_in(path: Path) -> set[int]:
    with suppress(FileNotFoundError):
        data = path.read_bytes()
        return set(np.frombuffer(data[: len(data) // 8 * 8], "<u8").tolist())
    return set()


class Outbox:
    """Dead letters on their way to a place that may be away.

    Always true: ``put`` returns at once; a letter leaves only when its place has made it safe; letters become
    safe in the order in which they were put. At most ``LETTERS_MAX`` letters or ``BYTES_MAX`` wait, and those
    of the one read that filled it.
    """

    def __init__(self, place: DeadLetters, kept: KeptLetters) -> None:
        self._place = place
        self._kept = kept
        self._counts: Counter[str] = Counter()
        self._queue: deque[tuple[int, Rejected]] = deque()
        self._waiting_bytes = 0  # of letters that are not safe
        self._change = threading.Condition()
        self._closing = False
        self._failure: str | None = None
        self.put_count = 0  # letters that are to be kept, of this process
        self.safe_count = 0  # of those
        self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason; also those that were safe before."""
        return dict(self._counts)

    @property
    def waiting(self) -> int:
        """Letters that are not safe yet."""
        return self.put_count - self.safe_count

    @property
    def failure(self) -> str | None:
        """Why the place does not take them; None while it does."""
        return self._failure

    @property
    def full(self) -> bool:
        """Whether nothing more should be read."""
        return self.waiting >= LETTERS_MAX or self._waiting_bytes >= BYTES_MAX

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after it was full: half of it is free."""
        return 2 * self.waiting <= LETTERS_MAX and 2 * self._waiting_bytes <= BYTES_MAX

    @property
    def told(self) -> str:
        """What waits, and why, as a sentence for the log."""
        return f"{self.waiting} dead letters wait ({self._failure or 'their place is slow'})"

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {"kept": self.safe_count, "waiting": self.waiting, "failure": self._failure}

    def put(self, rejected: Rejected) -> None:
        """Take one letter, unless it is safe already."""
        self._counts[rejected.reason] += 1
        identity = KeptLetters.identity(rejected)
        with self._change:
            if not self._kept.knows(identity):
                self._queue.append((identity, rejected))
                self.put_count += 1
                self._waiting_bytes += len(rejected.payload)
                self._change.notify_all()

    def flush(self, timeout_s: float = CLOSE_WITHIN_S) -> None:
        """Wait until all letters are safe.

        Raises:
            DeadLetterError: If they are not in time; they go on waiting.
        """
        with self._change:
            if not self._change.wait_for(lambda: not self.waiting, timeout_s):
                raise DeadLetterError(
                    f"{self.waiting:,} dead letters are not safe: "
                    f"{self._failure or f'their place did not take them in {timeout_s:g} s'}"
                )

    def close(self) -> None:
        """Give the letters some seconds more; those that are not safe then are logged, and their events lie
        behind the position that was passed: they are read again.
        """
        if self._closing:
            return
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(CLOSE_WITHIN_S)
        if self.waiting:
            log.warning(
                "%d dead letters are not kept; their events are read again at the next start", self.waiting
            )

    def _run(self) -> None:
        """Take what waits, make it safe, take the next; until closed and empty, or closed and away."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or self._closing)
                batch = list(self._queue)
                self._queue.clear()
            if batch and not self._deliver(batch):
                return
            if not batch:
                return

    def _deliver(self, batch: list[tuple[int, Rejected]]) -> bool:
        """Put and flush until the place has them; False if there was no more time."""
        for _, rejected in batch:
            with suppress(DeadLetterError):  # it is taken all the same, and flush says why
                self._place.put(rejected)
        tries = 0
        while not self._flushed():
            with self._change:
                if self._change.wait_for(lambda: self._closing, RETRY_S[min(tries, len(RETRY_S) - 1)]):
                    return self._flushed() and self._safe(batch)
            tries += 1
        return self._safe(batch)

    def _flushed(self) -> bool:
        try:
            self._place.flush()
        except (
            Exception
        ) as error:  # whatever it is: the thread must go on, or all letters would wait for ever
            if self._failure is None:
                log.error("%s; events wait when %d letters do", error, LETTERS_MAX)  # noqa: TRY400  a sentence
            self._failure = str(error)
            return False
        if self._failure is not None:
            log.warning("dead letters are kept again")
        self._failure = None
        return True

    def _safe(self, batch: list[tuple[int, Rejected]]) -> bool:
        try:
            self._kept.add(identity for identity, _ in batch)
        except OSError as error:
            log.warning("which dead letters are kept cannot be noted (%s)", error.strerror or error)
        with self._change:
            self.safe_count += len(batch)
            self._waiting_bytes -= sum(len(rejected.payload) for _, rejected in batch)
            self._change.notify_all()
        return True
