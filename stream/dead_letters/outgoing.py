"""The queue between ingestion and the place of dead letters: ingestion never waits for a disk or a broker.

    Ingest ──► [Outbox.put] ──► SafeQueue ──► thread ──► files or topic ──► safe
                    └ KeptLetters: a letter that is already safe is not kept twice

A start reads part of the topic again, with events that were rejected before. So the identities of letters are
remembered in data_dir, and a restart keeps no letter twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from driftgraph.stream import disk
from driftgraph.stream.dead_letters.letters import DeadLetterError, DeadLetters
from driftgraph.stream.events import Rejected
from driftgraph.stream.safe_queue import CLOSE_WITHIN_S, SafeQueue

LETTERS_MAX: Final = 10_000  # letters that wait; then no more events are read
BYTES_MAX: Final = 64 << 20  # size of the payloads that wait; then no more events are read
KEPT_MAX: Final = 1 << 18  # identities in one file; there are two files of 2 MB, and 30 MB of memory

log = logging.getLogger(__name__)


class KeptLetters:
    """Remembers which letters are safe, by a hash of 64 bits: the newest 262,144 to 524,288 of them.

    Always true: a letter that ``knows`` accepts was added by this process or an earlier one. If a crash or a
    full disk loses an identity, its letter may be kept twice. Late events carry no offset: two of them that
    are equal in all fields, to the millisecond, are one letter.
    """

    def __init__(self, folder: Path, *, kept_max: int = KEPT_MAX) -> None:
        self._current_path, self._previous_path = folder / "kept.new", folder / "kept.old"
        self._kept_max = kept_max
        self.forgotten = 0  # letters of this process and before that are known no longer
        folder.mkdir(parents=True, exist_ok=True)
        self._previous = _identities_in(self._previous_path)
        self._current = _identities_in(self._current_path)

    @staticmethod
    def identity(rejected: Rejected) -> int:
        """A hash that is equal for the same record of the same topic, whichever fault the record has."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (rejected.origin.encode(), str(rejected.timestamp_ms).encode(), rejected.key or b""):
            digest.update(b"%d:" % len(part) + part)
        digest.update(rejected.payload)
        return int.from_bytes(digest.digest(), "little")

    def knows(self, identity: int) -> bool:
        """Whether this letter is already safe."""
        return identity in self._current or identity in self._previous

    def add(self, identities: Iterable[int]) -> None:
        """Remember letters that are safe from now on."""
        new = list(identities)
        if len(self._current) + len(new) > self._kept_max:
            if self._previous:
                self.forgotten += len(self._previous)
                log.warning(
                    "of the dead letters the newest %d are remembered: %d older ones are so no longer, and "
                    "are kept twice if their events are read again; what rejects so many events?",
                    self._kept_max,
                    len(self._previous),
                )
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

    Always true: what ``SafeQueue`` says; a letter that is already safe is not kept twice.
    """

    def __init__(self, place: DeadLetters, kept: KeptLetters) -> None:
        self._place = place
        self._kept = kept
        self._counts: Counter[str] = Counter()
        self._handed = 0  # letters of the batch at hand that the place has
        self.queue = SafeQueue("dead letters", self._make_safe, count_max=LETTERS_MAX, bytes_max=BYTES_MAX)

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason, with those that were already safe."""
        return dict(self._counts)

    def status(self) -> dict[str, Any]:
        """The part of the status file about dead letters."""
        return {
            "kept": self.queue.safe_count,
            "waiting": self.queue.waiting,
            "failure": self.queue.failure,
            "forgotten": self._kept.forgotten,
        }

    def put(self, rejected: Rejected) -> None:
        """Take one letter, unless it is already safe."""
        self._counts[rejected.reason] += 1
        identity = KeptLetters.identity(rejected)
        if not self._kept.knows(identity):
            self.queue.put((identity, rejected), len(rejected.payload))

    def flush(self, timeout_s: float = CLOSE_WITHIN_S) -> None:
        """Wait until all letters are safe.

        Raises:
            DeadLetterError: If they are not safe in time. They go on waiting.
        """
        if not self.queue.wait(timeout_s):
            raise DeadLetterError(
                f"{self.queue.waiting:,} dead letters are not safe: "
                f"{self.queue.failure or f'their place did not take them in {timeout_s:g} s'}"
            )

    def close(self) -> None:
        """See ``SafeQueue.close``."""
        self.queue.close()

    def _make_safe(self, batch: list[tuple[int, Rejected]]) -> None:
        """Hand each letter to the place once, flush it, and remember the letters."""
        for _, rejected in batch[self._handed :]:
            with suppress(DeadLetterError):  # the place keeps the letter, and ``flush`` tells the error
                self._place.put(rejected)
            self._handed += 1
        self._place.flush()
        self._handed = 0
        try:
            self._kept.add(identity for identity, _ in batch)
        except OSError as error:
            log.warning("which dead letters are kept cannot be noted (%s)", error.strerror or error)
