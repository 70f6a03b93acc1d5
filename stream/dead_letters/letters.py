"""Dead letters: events that could not be applied are kept with their reason and can be sent again.

    Decoded.rejected ──► [DeadLetters.put] ──► flush ──► only then may a position pass them
                              │ files, topic
    dlq ls, show ◄── [LetterBox] ──► dlq retry, purge

The two places that keep them are in ``files`` and ``topic``.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT, Headers, Rejected

MEMORY_LETTERS_MAX: Final = 10_000
ATTEMPTS_HEADER: Final = "driftgraph.attempts"  # of a record: how often dlq retry has sent it
CONNECT_PREFIX: Final = "__connect.errors."
OWN_PREFIX: Final = "driftgraph."
_ORIGIN: Final = re.compile(r"(.+)\[(\d+)\]@(\d+)", re.DOTALL)
_LATE_ORIGIN: Final = re.compile(r"partition (\d+)")
_ID: Final = re.compile(r"\d{1,9}-\d{1,18}", re.ASCII)


class DeadLetterError(DriftgraphError):
    """Dead letters cannot be kept, so that the position must not pass their events; or cannot be read."""


class DeadLetters(Protocol):
    """A place that keeps rejected events.

    Always true: after ``flush`` returns, all letters put before it are safe. While the place is away no
    letter is dropped: the next ``flush`` tries again.
    """

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason."""
        ...

    def put(self, rejected: Rejected) -> None:
        """Take one letter; it is safe after the next ``flush``.

        Raises:
            DeadLetterError: If there is no more room for letters that are not safe. This one is kept, too.
        """
        ...

    def flush(self) -> None:
        """Make all letters safe.

        Raises:
            DeadLetterError: If that is not possible. No event is lost, as the position has not passed them.
        """
        ...

    def close(self) -> None:
        """Flush, and close files and connections. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as its place keeps it. ``id`` is ``file-line`` or ``partition-offset``; it never changes."""

    id: str
    rejected: Rejected
    kept_ms: int  # when it was kept; 0 if that is not known
    payload_bytes: int  # the length before the payload was cut
    done: bool = False  # it was sent again or purged, so that no retry sends it

    @property
    def attempts(self) -> int:
        """How often a retry had sent the event before it became this letter."""
        value = dict(self.rejected.headers).get(ATTEMPTS_HEADER)
        return int(value) if value and value.isdigit() else 0

    @property
    def is_whole(self) -> bool:
        """Whether all of its payload was kept."""
        return len(self.rejected.payload) == self.payload_bytes


class LetterBox(Protocol):
    """The letters of one place, for the commands that show them or send them again."""

    @property
    def name(self) -> str:
        """The folder or the topic, as messages name it."""
        ...

    def letters(self) -> Iterator[Letter]:
        """The letters of the moment of the first step, also done ones, in the order in which they were put.

        Letters of one file or partition come together. Memory holds the ids of the letters that are done.
        """
        ...

    def newest(self, limit: int) -> list[Letter]:
        """At most ``limit`` open letters, newest first; only the end of the place is read."""
        ...

    def mark_done(self, ids: Collection[str]) -> None:
        """Record on the disk or on the brokers that these letters are done. Marking twice does no harm."""
        ...

    def purge(self, ids: Collection[str]) -> None:
        """Mark letters as done and remove those that the place can remove."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


class MemoryDeadLetters:
    """Keeps the newest ``MEMORY_LETTERS_MAX`` letters, each with the first 64 KiB of its payload."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.letters: deque[Rejected] = deque(maxlen=MEMORY_LETTERS_MAX)

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason, with those that were dropped since."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Keep one letter. The oldest letter is dropped when there are too many."""
        self._counts[rejected.reason] += 1
        self.letters.append(replace(rejected, payload=rejected.payload[:PAYLOAD_BYTES_KEPT]))

    def flush(self) -> None:
        """Do nothing: memory has no safer state."""

    def close(self) -> None:
        """Do nothing: no file or connection is open."""


def origin_of(rejected: Rejected) -> tuple[str, int, int] | None:
    """Topic, partition and offset of a letter from Kafka; None for any other."""
    match = _ORIGIN.fullmatch(rejected.origin)
    return (match[1], int(match[2]), int(match[3])) if match else None


def partition_of(rejected: Rejected) -> int | None:
    """The partition that a letter came from; None if it did not come from Kafka."""
    origin = origin_of(rejected)
    if origin is not None:
        return origin[1]
    late = _LATE_ORIGIN.fullmatch(rejected.origin)
    return int(late[1]) if late else None


def own_headers(headers: Headers) -> Headers:
    """The headers that the event itself came with, without those of Kafka Connect and of driftgraph."""
    return tuple(pair for pair in headers if not pair[0].startswith((CONNECT_PREFIX, OWN_PREFIX)))


def parts_of_id(letter_id: str) -> tuple[int, int]:
    """The two numbers of a letter's id: file and line, or partition and offset.

    Raises:
        DeadLetterError: If ``id`` is not the id of a letter.
    """
    if _ID.fullmatch(letter_id) is None:
        raise DeadLetterError(f"{letter_id!r} is no dead letter: they are named such as 1-17; see dlq ls")
    first, _, second = letter_id.partition("-")
    return int(first), int(second)
