"""The heterograph: the window with external ids. Ingestion writes it, and everything else reads it.

EventBatch ──► [Heterograph.apply] ──► ids ──► window        worker, replay ──► [HeterographView]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from driftgraph.stream.arrays import I64, U32, U64, Index, Mask
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.kernels.hashing import GOLDEN, fold
from driftgraph.stream.window import writer as windows
from driftgraph.stream.window.adjacency import ITEM, NIL, USER
from driftgraph.stream.window.ids import IdTable, IdView
from driftgraph.stream.window.kept_rows import DUE, EMPTIED, HELD, KeptRows, KeptSide
from driftgraph.stream.window.named_events import NamedEvents
from driftgraph.stream.window.shared_files import Folder, Life
from driftgraph.stream.window.view import losses
from driftgraph.stream.window.writer import Cut, Relation, Window, WindowView

KINDS = ("user", "item")  # by side
STEPS = 16  # of event time in the shortest span: rows come free at steps

# Two odd constants for each of the two halves of a digest: the golden ratio and three primes of xxHash64.
DIGEST_MIX = (
    (GOLDEN, np.uint64(0xC2B2AE3D27D4EB4F)),
    (np.uint64(0x9E3779B185EBCA87), np.uint64(0x165667B19E3779F9)),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A cut, and the owners of the rows at it."""

    cut: Cut
    versions: tuple[U32, U32]  # by side


@dataclass(frozen=True, slots=True)
class Owners:
    """Whether rows have lost owners: how many rows there were by side, and how many owners they lost."""

    rows: tuple[int, int]
    lost: tuple[int, int]


class HeterographView:
    """The graph as a reader sees it."""

    def __init__(self, window: WindowView, ids: tuple[IdView, IdView]) -> None:
        self.window = window
        self.edges = window.edges()  # what the model is trained on
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

    def owners(self) -> Owners:
        """Of the rows now. O(1) for the writer, O(rows) for a reader."""
        (users, users_lost), (items, items_lost) = map(self.window.row_losses, (USER, ITEM))
        return Owners((users, items), (users_lost, items_lost))

    def moment_at(self, cut: Cut, owners: Owners | None) -> Moment:
        """An earlier cut as it can be read now; ``owners`` are those of its rows, None if nobody knows.

        If a row has lost its owner since, it is without the events that have expired since: nobody may take
        those of a row's former owner for the next one's. A row that was free at the cut has no event there,
        whoever got it since.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        self.window.check(cut)
        now = self.moment()
        if owners is not None:
            pairs = zip(now.versions, owners.rows, strict=True)
            if owners.lost == tuple(losses(versions[:rows]) for versions, rows in pairs):
                return Moment(cut, now.versions)
        first = tuple(min(a, b) for a, b in zip(now.cut.first, cut.next, strict=True))
        return Moment(Cut(now.cut.watermark_ms, first, cut.next), now.versions)

    def names(self, side: int, rows: U32, moment: Moment) -> list[str | None]:
        """The id of each row as of ``moment``; None if the row has changed its owner since, or has none."""
        names, known = self._strings(side, rows, moment)
        raw, ends = names.data.tobytes(), names.offsets.tolist()
        # an id that is half wiped may be no UTF-8; its row is then not known any more
        return [
            raw[a:b].decode(errors="replace") if kept else None
            for (a, b), kept in zip(pairwise(ends), known.tolist(), strict=True)
        ]

    def rows_of(self, side: int, ids: Sequence[str], moment: Moment) -> list[int | None]:
        """The row of each id as of ``moment``; None for one that has none. O(rows) for all of them."""
        rows = self._ids[side].candidates(Strings.of(ids), len(moment.versions[side]))
        found = dict(zip(self.names(side, rows, moment), rows.tolist(), strict=True))
        return [found.get(id_) for id_ in ids]

    def arrivals(self, relation: int, start: int, stop: int, moment: Moment) -> NamedEvents:
        """A relation's events from sequence number ``start`` to ``stop`` in order of arrival, by id.

        An event is lost if it was erased, or if it left the window since ``moment`` and its id went with it.

        Raises:
            StaleCut: Some of the events were overwritten meanwhile.
        """
        user, item, time_ms = self.window.arrivals(relation, start, stop)
        lost = user == NIL
        found = []
        for side, rows in ((USER, user), (ITEM, item)):
            distinct, place = np.unique(rows, return_inverse=True)  # NIL, if there, is the last
            distinct = distinct[distinct != NIL]
            names, known = self._strings(side, distinct, moment)
            owned, known = distinct[known], np.append(known, False)
            lost |= ~known[place]
            found.append((names.take(np.flatnonzero(known)), owned, (np.cumsum(known) - 1)[place]))
        (users, user_rows, user_place), (items, item_rows, item_place) = found
        user_place[lost] = item_place[lost] = 0
        places = (user_place.astype(np.uint32), item_place.astype(np.uint32))
        return NamedEvents(users, items, *places, time_ms, lost, user_rows, item_rows)

    def _strings(self, side: int, rows: U32, moment: Moment) -> tuple[Strings, Mask]:
        """The ids of rows, and which of the rows still have the owner that they had at ``moment``."""
        names = self._ids[side].strings(rows)
        now = self.window.row_versions(side)  # after the names
        then = moment.versions[side]
        known = rows < len(then)
        known[known] = now[rows[known]] == then[rows[known]]
        return names, known & (np.diff(names.offsets) > 0)

    def hashes(self, side: int, rows: U32) -> U64:
        """A 64-bit hash of the id of each row, the same in every process and run."""
        return self._ids[side].hashes(rows)

    def digest(self, cut: Cut) -> str:
        """128 bits of the live events by external id. Order, rows and batches do not change it. O(window)."""
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
            fold(columns, multiply, into=mixed)
            halves.append(int(mixed.sum(dtype=np.uint64)))
        return "".join(f"{half:016x}" for half in halves)


class Heterograph(HeterographView):
    """The graph as its one writer sees it.

    Always true after ``apply``, ``expire`` and ``erase``: an id has a row while it is held (``hold``) or the
    window holds an event of it, and for one to two steps of event time longer. A step is a sixteenth of the
    shortest span. Rows come free only where the watermark passes a multiple of the step, and then those that
    were without an event at the multiple before. So the same events have the same rows, however they are cut
    into batches, and a fit that is made soon after its mark finds the owners of the mark.
    """

    def __init__(self, window: Window, tables: tuple[IdTable, IdTable]) -> None:
        super().__init__(window, tables)
        self.window: Window = window
        self.tables = tables
        self.step_ms = max(1, min(relation.span_ms for relation in window.relations) // STEPS)
        self.step = window.watermark_ms // self.step_ms  # the one that event time is in
        self.emptied = _no_rows(window)  # those that events have left since the last multiple of the step
        self.due = _no_rows(window)  # those that events had left at it: they come free at the next one
        self.held = _no_rows(window)  # those that have a row without an event

    @classmethod
    def create(
        cls,
        directory: Path | None,
        relations: Sequence[Relation],
        *,
        user_rows: int,
        item_rows: int,
        history: tuple[Life, ...] = (),
    ) -> Heterograph:
        """Make an empty graph: in ``directory``, which other processes can read, or in private memory."""
        folder = Folder(directory, writable=True)
        if directory is None:
            window = windows.in_memory(relations, user_rows=user_rows, item_rows=item_rows)
        else:
            window = windows.create(directory, relations, user_rows=user_rows, item_rows=item_rows)
        ids = (IdTable(user_rows, folder, KINDS[USER]), IdTable(item_rows, folder, KINDS[ITEM]))
        window.history = history
        if directory is not None:
            windows.describe(directory, window)
        return cls(window, ids)

    @property
    def id_counts(self) -> dict[str, int]:
        """Users and items that have a row."""
        return {kind: len(table) for kind, table in zip(KINDS, self.tables, strict=True)}

    def apply(self, batch: EventBatch, before: Callable[[EventBatch], None] | None = None) -> None:
        """Append a batch. The caller has judged which events are late. O(batch).

        ``before`` is called when the ids have their rows and no reader sees the events yet.

        Raises:
            IdTableFullError: More users or items are live than there is room for.
        """
        if len(batch) == 0:
            return
        rows = []
        for side, ids in ((USER, batch.user), (ITEM, batch.item)):
            table = self.tables[side]
            if len(table) + len(ids) > table.row_capacity:  # before it is full: no id waits for a step
                self._release(self.due)
                if len(table) + len(ids) > table.row_capacity - int(self.emptied[side].sum()):
                    self.hold(side, Strings.of([]))  # events go before ids that have none
                self._release(self.emptied)
            side_rows, fresh = table.assign(ids)
            self.window.recycle(side, fresh)
            rows.append(side_rows)
        if before is not None:
            before(batch)
        self._note(self.window.append(rows[USER], rows[ITEM], batch.relation, batch.time_ms))

    def hold(self, side: int, ids: Strings) -> U32:
        """Give these ids a row, in the place of those that were held before: their rows, [N].

        Raises:
            IdTableFullError: There is no room for so many.
        """
        rows, fresh = self.tables[side].assign(ids)
        self.window.recycle(side, fresh)
        self.emptied[side][self.held[side]] = True  # who is held no more comes free as if events had left
        self.held[side][:] = False
        self.held[side][rows] = True
        return rows

    def hold_also(self, side: int, ids: Strings, instead_of: U32) -> U32:
        """Give these ids a row, too: their rows, [N]. The rows ``instead_of`` are held no more.

        Raises:
            IdTableFullError: There is no room for so many.
        """
        rows, fresh = self.tables[side].assign(ids)
        self.window.recycle(side, fresh)
        self.held[side][instead_of] = False
        self.emptied[side][instead_of] = True
        self.held[side][rows] = True
        return rows

    def let_go(self, side: int, rows: U32) -> None:
        """Hold these rows no more; those without an event come free at once."""
        self.held[side][rows] = False
        self.free(side, rows)

    def room(self, side: int) -> int:
        """How many rows are free."""
        return self.tables[side].row_capacity - len(self.tables[side])

    def expire(self, watermark_ms: int) -> bool:
        """Move event time on: events older than their span leave, and rows come free that are due.

        Returns:
            Whether it passed a step, so that rows may have come free.
        """
        step = watermark_ms // self.step_ms
        passed = step > self.step
        if passed:
            self.free_due(watermark_ms)
            if step > self.step + 1:  # what the multiples in between would have freed
                self._note(self.window.expire((step - 1) * self.step_ms))
                self._release(self.emptied)
            self._note(self.window.expire(step * self.step_ms))
            self.step, self.due, self.emptied = step, self.emptied, self.due
        self._note(self.window.expire(watermark_ms))
        return passed

    def free_due(self, watermark_ms: int) -> None:
        """Free the rows that are due when the watermark comes to ``watermark_ms``, but do not move it.

        A caller who marks a place in the stream calls it with the watermark behind the next event, before it
        notes the owners: the next event then takes no row from its owner.
        """
        if watermark_ms // self.step_ms > self.step:
            self._release(self.due)

    def erase(self, users: Sequence[str]) -> int:
        """Remove users with all their events, also from older moments.

        An erased id that comes again is a new user.

        Returns:
            The time in ms of the newest removed event; 0 if there was none.
        """
        newest_ms = 0
        for row in self.tables[USER].find(Strings.of(list(dict.fromkeys(users)))).tolist():
            if row >= 0:
                newest_ms = max(newest_ms, self.window.newest_ms(row))
                items = self.window.erase(row)  # before the name goes: its version tells readers
                self.tables[USER].forget(row)
                self.free(ITEM, items)
        return newest_ms

    def rows_in_use(self, side: int) -> U32:
        """The rows that have an id, ascending. O(rows)."""
        return self.tables[side].rows_in_use()

    def strings(self, side: int, rows: U32) -> Strings:
        """The id of each row that has one."""
        return self.tables[side].strings(rows)

    def find(self, side: int, ids: Strings) -> I64:
        """The row of each id, -1 for one that has none."""
        return self.tables[side].find(ids)

    def oldest_ms(self, user: str) -> int | None:
        """The time of the oldest live event of a user; None if it has none. O(its events)."""
        [row] = self.tables[USER].find(Strings.of([user])).tolist()
        if row < 0:
            return None
        rows, newest_ms = np.array([row], np.uint32), np.array([self.window.newest_ms(row) + 1])
        most = int(self.window.degrees(USER, row).max())
        near = self.window.recent(USER, rows, newest_ms, most, self.window.cut())
        real = np.arange(most) < near.count_BR[0][:, None]
        return int(near.time_ms_BRK[0][real].min()) if real.any() else None

    def kept_rows(self) -> KeptRows:
        """What a start needs to go on with the rows of this graph. O(rows)."""
        sides = []
        for side, table in enumerate(self.tables):
            count = table.row_count
            bits = ((self.emptied, EMPTIED), (self.due, DUE), (self.held, HELD))
            waits = np.zeros(count, np.uint8)
            for mask, bit in bits:
                waits |= np.where(mask[side][:count], bit, 0).astype(np.uint8)
            rows = np.flatnonzero(waits).astype(np.uint32)
            sides.append(KeptSide(count, rows, waits[rows], table.strings(rows)))
        return KeptRows(self.step_ms, self.step, (sides[USER], sides[ITEM]))

    def _note(self, emptied: tuple[U32, U32]) -> None:
        """Remember rows that may be without events now."""
        for side in (USER, ITEM):
            self.emptied[side][emptied[side]] = True

    def _release(self, waiting: tuple[Mask, Mask]) -> None:
        """Free those of the waiting rows that are still without an event; none waits any more."""
        for side in (USER, ITEM):
            waits = waiting[side][: self.window.rows(side)]
            self.free(side, np.flatnonzero(waits))
            waits[:] = False

    def free(self, side: int, rows: U32 | Index) -> None:
        """Free those of the rows that have an owner and no event."""
        once: U32 = np.unique(rows).astype(np.uint32)
        kept = self.window.has_events(side, once) | self.held[side][once]
        free = once[self.tables[side].is_used(once) & ~kept]
        # Its version counts before another id can get the row, so that a reader of the old id notices.
        self.window.recycle(side, free)
        self.tables[side].release(free)


def _no_rows(window: Window) -> tuple[Mask, Mask]:
    """A mark for each row of each side, none of them set."""
    users, items = window.row_capacity
    return np.zeros(users, np.bool_), np.zeros(items, np.bool_)
