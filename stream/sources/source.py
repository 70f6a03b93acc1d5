"""The protocol of a source of events, and the plain source that tests write down as a list.

[Source.next_batch] ──► Decoded ──► ids, window
     position ──► checkpoint ──► start of the next run
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from driftgraph.stream.events import Decoded, EventBatch

Position = Mapping[str, int]  # name of a partition (or of a file) → the offset or line to read next


@runtime_checkable
class Source(Protocol):
    """Events in batches.

    Always true: ``position`` is after the last event returned; a new source that starts there returns the
    next event, leaves none out and repeats none. One thread uses it.
    """

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """The next events, with the position after them; None at the end, and in each call after it.

        An empty ``Decoded`` means that none came within ``timeout_s``.

        Raises:
            SourceError: If it cannot be read any further.
        """
        ...

    def position(self) -> Position:
        """The position after the last event returned; at first, where the source started."""
        ...

    def close(self) -> None:
        """Close files and connections. May be called twice."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source without an end, whose broker may go away and come back."""

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached, so that event time stands still (``Watermark.tick``)."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether the broker answers and every event it has was returned."""
        ...

    def lag(self) -> Mapping[str, int]:
        """Events not yet returned, by partition. A partition whose end is not known yet is left out."""
        ...

    @property
    def behind(self) -> Collection[int]:
        """Partitions that have more events, by their numbers in ``EventBatch.partition``."""
        ...

    @property
    def lost(self) -> Mapping[str, int]:
        """How many events were gone before they could be read, by partition."""
        ...

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these partitions until the next call, also after ``resume``."""
        ...

    def pause(self) -> None:
        """Fetch no more. The caller goes on calling ``next_batch``."""
        ...

    def resume(self) -> None:
        """Fetch again from all partitions that are not held."""
        ...

    def commit(self, position: Position) -> None:
        """Commit a position for lag tools; driftgraph never reads it back."""
        ...


class Mark(Enum):
    """What may stand between the batches of a ``Script``."""

    CRASH = "crash"
    END = "end"


CRASH: Final = Mark.CRASH  # the first source that gets here raises SimulatedCrash; the next one goes on
END: Final = Mark.END  # the first source that gets here ends; the next one goes on


class SimulatedCrash(Exception):  # noqa: N818  it is an event of a script, not an error
    """The process dies here."""


class Script:
    """The list that a ``MemorySource`` plays: ``[batch, CRASH, batch]``. Remembers which marks were met."""

    def __init__(self, *items: EventBatch | Decoded | Mark) -> None:
        self.items: Sequence[EventBatch | Decoded | Mark] = items
        self.met: set[int] = set()


class MemorySource:
    """Plays a script. Its position counts the items of the script that it has passed.

    A recovery test runs until ``SimulatedCrash``, then makes another source on the same script at the
    position of the checkpoint.
    """

    PART: Final = "memory"

    def __init__(self, script: Script, *, start: Position | None = None) -> None:
        self._script = script
        self._next = (start or {}).get(self.PART, 0)
        self._ended = False

    def next_batch(self, timeout_s: float) -> Decoded | None:  # noqa: ARG002  it never waits
        """The next batch of the script, None at its end or at a first END."""
        items, met = self._script.items, self._script.met
        while not self._ended and self._next < len(items):
            item = items[self._next]
            if not isinstance(item, Mark):
                self._next += 1
                decoded = Decoded(item) if isinstance(item, EventBatch) else item
                return replace(decoded, position=self.position())
            if self._next not in met:
                met.add(self._next)
                if item is CRASH:
                    raise SimulatedCrash(f"item {self._next} of the script")
                self._ended = True
                return None
            self._next += 1
        self._ended = True
        return None

    def position(self) -> Position:
        """How many items of the script the source has passed."""
        return {self.PART: self._next}

    def close(self) -> None:
        """End the source."""
        self._ended = True
