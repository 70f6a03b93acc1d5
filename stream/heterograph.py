"""The heterograph: the window with names. What ingestion writes into and everything else reads from.

EventBatch ──► [Heterograph.apply] ──► ids ──► window        worker, replay ──► [HeterographView]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftgraph.stream import window as windows
from driftgraph.stream.adjacency import ITEM, USER
from driftgraph.stream.events import U32, EventBatch, Strings
from driftgraph.stream.ids import IdTable, IdView
from driftgraph.stream.mapped import Folder
from driftgraph.stream.window import Cut, Relation, Window, WindowView

KINDS = ("user", "item")  # by side

# Two odd constants for each of the two halves of a digest: the golden ratio and three primes of xxHash64.
DIGEST_MIX = (
    (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)),
    (np.uint64(0x9E3779B185EBCA87), np.uint64(0x165667B19E3779F9)),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A cut and who owned the rows at it."""

    cut: Cut
    versions: tuple[U32, U32]  # by side


class HeterographView:
    """The graph as a reader sees it."""

    def __init__(self, window: WindowView, ids: tuple[IdView, IdView]) -> None:
        self.window = window
        self._ids = ids

    @classmethod
    def attach(cls, directory: Path) -> HeterographView:
        """Open the graph that another process writes.

        Raises:
            WindowError: There is none, or its files are of another format or size.
        """
        window = windows.attach(directory)
        folder = Folder(directory)
        user, item = (IdView(window.row_capacity[side], folder, KINDS[side]) for side in (USER, ITEM))
        return cls(window, (user, item))

    def moment(self) -> Moment:
        """The newest cut, with the owners of its rows."""
        versions = (
            self.window.row_versions(USER),
            self.window.row_versions(ITEM),
        )  # before the cut, see there
        return Moment(self.window.cut(), versions)

    def names(self, side: int, rows: U32, moment: Moment) -> list[str | None]:
        """The id of each row as of ``moment``; None if the row has had another owner since, or none."""
        names = self._ids[side].names(rows)
        now = self.window.row_versions(side)
        then = moment.versions[side]
        known = rows < len(then)
        same = np.zeros(len(rows), bool)
        same[known] = now[rows[known]] == then[rows[known]]
        return [name if name and kept else None for name, kept in zip(names, same.tolist(), strict=True)]

    def digest(self, cut: Cut) -> str:
        """128 bits of the live events by external id, whatever their order, rows and batches. O(window)."""
        events = self.window.events(cut)
        relation_names = Strings.of([relation.name for relation in self.window.relations])
        relation_hash = IdTable(len(relation_names), Folder(None), "relation")
        relation_row, _ = relation_hash.assign(relation_names)
        columns = (
            self._ids[USER].hashes(events.user),
            self._ids[ITEM].hashes(events.item),
            relation_hash.hashes(relation_row[events.relation]),
            events.time_ms.astype(np.uint64),
        )
        halves = []
        for multiply, add in DIGEST_MIX:
            mixed = np.full(len(events), add, np.uint64)
            for column in columns:
                mixed = (mixed ^ column) * multiply
                mixed ^= mixed >> np.uint64(29)
            halves.append(int(mixed.sum(dtype=np.uint64)))
        return "".join(f"{half:016x}" for half in halves)


class Heterograph(HeterographView):
    """The graph as its one writer sees it.

    Always true after ``apply``, ``expire`` and ``erase``: an id has a row exactly while the window holds an
    event of it.
    """

    def __init__(self, window: Window, ids: tuple[IdTable, IdTable]) -> None:
        super().__init__(window, ids)
        self.window: Window = window
        self._tables = ids

    @classmethod
    def create(
        cls, directory: Path | None, relations: Sequence[Relation], *, user_rows: int, item_rows: int
    ) -> Heterograph:
        """Make an empty graph: in ``directory`` for readers elsewhere, or without one in private memory."""
        folder = Folder(directory, writable=True)
        if directory is None:
            window = windows.in_memory(relations, user_rows=user_rows, item_rows=item_rows)
        else:
            window = windows.create(directory, relations, user_rows=user_rows, item_rows=item_rows)
        ids = (IdTable(user_rows, folder, KINDS[USER]), IdTable(item_rows, folder, KINDS[ITEM]))
        if directory is not None:
            windows.describe(directory, window)
        return cls(window, ids)

    @property
    def id_counts(self) -> dict[str, int]:
        """Users and items that have a row."""
        return {kind: len(table) for kind, table in zip(KINDS, self._tables, strict=True)}

    def apply(self, batch: EventBatch) -> None:
        """Append a batch whose lateness was judged already. O(batch).

        Raises:
            IdTableFullError: More users or items are live than there is room for.
        """
        if len(batch) == 0:
            return
        rows = []
        for side, ids in ((USER, batch.user), (ITEM, batch.item)):
            side_rows, fresh = self._tables[side].assign(ids)
            self.window.recycle(side, fresh)
            rows.append(side_rows)
        self._release(self.window.append(rows[USER], rows[ITEM], batch.relation, batch.time_ms))

    def expire(self, watermark_ms: int) -> None:
        """Move event time on: what is older than its span leaves, ids that nothing refers to are freed."""
        self._release(self.window.expire(watermark_ms))

    def erase(self, users: Sequence[str]) -> int:
        """Remove users with all their events, from older moments too; return how many were there.

        An id that is erased and comes again is a new user.
        """
        erased = 0
        for row in self._tables[USER].find(Strings.of(list(dict.fromkeys(users)))).tolist():
            if row >= 0:
                items = self.window.erase(row)  # before the name goes: its version tells readers
                self._tables[USER].forget(row)
                self._release((np.zeros(0, np.uint32), items))
                erased += 1
        return erased

    def _release(self, emptied: tuple[U32, U32]) -> None:
        for side in (USER, ITEM):
            rows = np.unique(emptied[side])
            self._tables[side].release(rows[~self.window.has_events(side, rows)])
