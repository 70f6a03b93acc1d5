"""Where events come from: three methods, and one plain source that every test can write down.

[Source.next_batch] ──► Decoded ──► ids, window
     position ──► checkpoint ──► start of the next run
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from driftgraph.stream.events import Decoded, EventBatch

Position = Mapping[str, int]  # part of the source → what to read next from it


@runtime_checkable
class Source(Protocol):
    """Events in batches.

    Always true: ``position`` is that after the last event returned; a new source that starts there goes on
    with the next event, none left out and none twice. One thread uses it.
    """

    def next_batch(self, timeout_s: float) -> Decoded | None:
        """The next events, with the position after them; None at the end, for ever.

        An empty ``Decoded`` means that none came within ``timeout_s``.

        Raises:
            SourceError: If it cannot be read any further.
        """
        ...

    def position(self) -> Position:
        """After the last event returned; at first where the source started."""
        ...

    def close(self) -> None:
        """Let go of files and connections. May be called twice."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source without an end, whose broker may go away and come back."""

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached: time stands still (``Watermark.tick``)."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether the broker answers and every event it has was returned."""
        ...

    def lag(self) -> Mapping[str, int]:
        """Events not yet returned, by part; a part whose end is not known yet is left out."""
        ...

    @property
    def behind(self) -> Collection[int]:
        """Partitions with events to come, by their numbers in ``EventBatch.partition``."""
        ...

    @property
    def lost(self) -> Mapping[str, int]:
        """Events that were gone before they could be read, by part."""
        ...

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more from exactly these until the next call; ``pause`` is beside it, and either holds."""
        ...

    def pause(self) -> None:
        """Fetch no more; ``next_batch`` must go on being called."""
        ...

    def resume(self) -> None:
        """Fetch again."""
        ...

    def commit(self, position: Position) -> None:
        """Tell the broker a position for lag tools; nothing here reads it back."""
        ...


class Mark(Enum):
    """What a script may hold between batches."""

    CRASH = "crash"
    END = "end"


CRASH: Final = Mark.CRASH  # the first source to come here raises SimulatedCrash; the next goes past
END: Final = Mark.END  # the first source to come here ends; the next goes past


class SimulatedCrash(Exception):  # noqa: N818  it is an event of a script, not an error
    """The process dies here."""


class Script:
    """What a ``MemorySource`` plays: ``[batch, CRASH, batch]``. Remembers which marks have been met."""

    def __init__(self, *items: EventBatch | Decoded | Mark) -> None:
        self.items: Sequence[EventBatch | Decoded | Mark] = items
        self.met: set[int] = set()


class MemorySource:
    """Plays a script. Its position counts the items of the script that are behind it.

    A recovery test is a list in and a list out: run until ``SimulatedCrash``, then make another source on
    the same script at the position of the checkpoint.
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
        """How many items of the script are behind."""
        return {self.PART: self._next}

    def close(self) -> None:
        """Nothing to let go of."""
        self._ended = True
