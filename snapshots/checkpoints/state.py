"""``state.json`` of a checkpoint: where the stream stood, and at which cuts fits were due.

Snapshot ──► [State] ──► the next start: its position, its clock, its marks
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from driftgraph.stream.arrays import U32
from driftgraph.stream.ingest.fit_schedule import Counted, Mark, Marks
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.heterograph import Owners
from driftgraph.stream.window.shared_files import ANEW, Life
from driftgraph.stream.window.view import losses
from driftgraph.stream.window.writer import Cut

LIVES_MAX = 1_000  # lives of a window, 100 bytes each; a trainer checkpoint of an older life cannot be used


class Ring(msgspec.Struct, frozen=True):
    """The events of a relation that a checkpoint keeps: from ``first`` up to ``next``."""

    name: str
    first: int
    next: int
    span_ms: int = 0  # 0 in older states


class Ids(msgspec.Struct, frozen=True):
    """A set of event ids of the deduplicator."""

    number: int
    started_ms: int
    count: int
    newest_ms: int = 0


class KeptMark(msgspec.Struct, frozen=True):
    """A place in the stream at which a fit was due."""

    watermark_ms: int
    first: tuple[int, ...]  # of each of the state's relations
    next: tuple[int, ...]
    rows: tuple[int, int] | None = None  # by side at the mark; None: one may have lost its owner since

    @classmethod
    def of(cls, mark: Mark | None, versions: tuple[U32, U32]) -> KeptMark | None:
        """``versions`` are those of the rows at the checkpoint."""
        if mark is None:
            return None
        rows = mark.owners.rows if mark.owners is not None and has_its_owners(mark, versions) else None
        return cls(mark.cut.watermark_ms, mark.cut.first, mark.cut.next, rows)


def has_its_owners(mark: Mark, versions: tuple[U32, U32]) -> bool:
    """Whether it is known that no row has lost its owner between the mark and these versions of the rows."""
    return mark.owners is not None and mark.owners.lost == tuple(
        losses(own[:count]) for own, count in zip(versions, mark.owners.rows, strict=True)
    )


class State(msgspec.Struct, frozen=True):
    """``state.json``."""

    stream: str  # topic and shard: a checkpoint of another stream cannot be used
    history: tuple[Life, ...]
    position: dict[str, int]
    watermark_ms: int
    high_ms: dict[int, int]
    relations: tuple[Ring, ...]
    ids: tuple[Ids, ...]
    topic_ids: dict[str, str] = {}  # empty in older checkpoints
    seen_ms: dict[int, int] = {}  # this and the next two: wall times, see ``WatermarkState``
    wall_ms: int = 0
    away_since_ms: int | None = None
    counted: Counted | None = None  # this and the next two: none in a checkpoint from before there were any
    regular_mark: KeptMark | None = None
    early_mark: KeptMark | None = None
    said_by: dict[str, str] = {}  # empty in older checkpoints

    @property
    def watermark(self) -> WatermarkState:
        """The state for the ``Watermark`` of the next run."""
        return WatermarkState(self.watermark_ms, self.high_ms, self.seen_ms, self.wall_ms, self.away_since_ms)

    def marks(self, relations: Sequence[str], *, same_rows: bool = False) -> Marks:
        """Where fits were due, for a window of these relations that goes on from here, matched by name.

        ``same_rows``: ids have the rows of before, and none has lost its owner since the window was filled.
        """
        place = {ring.name: r for r, ring in enumerate(self.relations)}

        def moved(mark: KeptMark | None, *, is_early: bool) -> Mark | None:
            if mark is None:
                return None
            first, next_ = (
                tuple(numbers[place[name]] if name in place else 0 for name in relations)
                for numbers in (mark.first, mark.next)
            )
            is_whole = all(ring.first <= mark.first[r] for r, ring in enumerate(self.relations))
            owners = Owners(mark.rows, (0, 0)) if same_rows and is_whole and mark.rows is not None else None
            return Mark(Cut(mark.watermark_ms, first, next_), owners, is_early)

        return Marks(moved(self.regular_mark, is_early=False), moved(self.early_mark, is_early=True))

    def lives(self, relations: Sequence[str]) -> tuple[Life, ...]:
        """The earlier lives of a window that goes on from here, and where each ended in these relations."""
        then = {ring.name: r for r, ring in enumerate(self.relations)}
        ended = Life(self.history[-1].id, tuple(ring.next for ring in self.relations))
        return tuple(
            Life(one.id, tuple(one.until[then[name]] if name in then else ANEW for name in relations))
            for one in (*self.history[-LIVES_MAX:-1], ended)
            if one.until is not None
        )
