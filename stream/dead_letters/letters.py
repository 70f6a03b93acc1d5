"""Where events go that could not be applied: kept with their reason, so that they can be tried again.

    Decoded.rejected ──► [DeadLetters.put] ──► flush ──► only then the position may pass them
                              │ files, topic
    dlq ls, show ◄── [LetterBox] ──► dlq retry, purge

The places themselves are in ``dead_letter_files`` and ``dead_letter_topic``.
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
    """When dead letters cannot be kept, so that the events behind them must not pass; or cannot be read."""


class DeadLetters(Protocol):
    """A place for rejected events.

    Always true: after ``flush`` returns, all letters put before it are safe. A letter that was put is never
    dropped because the place is away: the next ``flush`` tries again.
    """

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason."""
        ...

    def put(self, rejected: Rejected) -> None:
        """Take one letter; it is safe after the next ``flush``.

        Raises:
            DeadLetterError: If there is no more room for letters that are not safe; this one is taken, too.
        """
        ...

    def flush(self) -> None:
        """Make all letters safe.

        Raises:
            DeadLetterError: If they cannot be. Nothing is lost then, as the position has not passed them.
        """
        ...

    def close(self) -> None:
        """Flush, and let go of files and connections. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it lies in its place. ``id`` is ``file-line`` or ``partition-offset``; it never changes."""

    id: str
    rejected: Rejected
    kept_ms: int  # when it was put; 0 if nobody knows
    payload_bytes: int  # before any cut
    done: bool = False  # sent again, or purged: not to be sent any more

    @property
    def attempts(self) -> int:
        """How often its event was sent again before it became this letter."""
        value = dict(self.rejected.headers).get(ATTEMPTS_HEADER)
        return int(value) if value and value.isdigit() else 0

    @property
    def is_whole(self) -> bool:
        """Whether all of its payload was kept."""
        return len(self.rejected.payload) == self.payload_bytes


class LetterBox(Protocol):
    """The letters of one place, for who looks at them or tries them again."""

    @property
    def name(self) -> str:
        """The folder or the topic, for people."""
        ...

    def letters(self) -> Iterator[Letter]:
        """Those that are there as of the first step, done ones too, in the order in which they were put.

        Letters of one file or partition are together. Memory is that of the ids that are done.
        """
        ...

    def mark_done(self, ids: Collection[str]) -> None:
        """Make sure, on the disk or on the brokers, that these are done. Marking twice does no harm."""
        ...

    def purge(self, ids: Collection[str]) -> None:
        """Mark as done and remove as far as the place can; what can be removed is the place's to say."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryDeadLetters:
    """Keeps the newest ``MEMORY_LETTERS_MAX`` letters, each with the first 64 KiB of its payload."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.letters: deque[Rejected] = deque(maxlen=MEMORY_LETTERS_MAX)

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason; also those that were dropped since."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Keep one letter; the oldest goes when there are too many."""
        self._counts[rejected.reason] += 1
        self.letters.append(replace(rejected, payload=rejected.payload[:PAYLOAD_BYTES_KEPT]))

    def flush(self) -> None:
        """Nothing to do: memory is as safe as it will be."""

    def close(self) -> None:
        """Nothing to let go of."""


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
    """The headers that the event itself came with: none of Kafka Connect's and none of ours."""
    return tuple(pair for pair in headers if not pair[0].startswith((CONNECT_PREFIX, OWN_PREFIX)))


def parts_of_id(letter_id: str) -> tuple[int, int]:
    """File and line, or partition and offset.

    Raises:
        DeadLetterError: If it is no id of a letter.
    """
    if _ID.fullmatch(letter_id) is None:
        raise DeadLetterError(f"{letter_id!r} is no dead letter: they are named such as 1-17; see dlq ls")
    first, _, second = letter_id.partition("-")
    return int(first), int(second)
