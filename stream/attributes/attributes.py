"""The attributes of users and items: ingestion writes them behind the events that say them.

EventBatch with columns of values ──► [Attributes.apply] ──► a table of each side
                                                                ▲ AttributesView: worker, replay
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from driftgraph.stream.arrays import I64, Mask
from driftgraph.stream.attributes.fields import ABSENT, CUT, UNREADABLE, Field, tokens_of
from driftgraph.stream.attributes.table import AttributeTable, AttributeView
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import KINDS, Heterograph, HeterographView
from driftgraph.stream.window.shared_files import Folder

Arrays = Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
Kept = Mapping[int, tuple[tuple[Field, ...], Arrays]]  # by side: the fields, and copies of ids and values

ALWAYS_MS = 1  # the time of what was so before the first event


@dataclass(frozen=True, slots=True)
class AttributeFields:
    """The fields of each side. An event's columns of values are those of its item, then those of its user.

    The values of a side ``in_files`` or ``in_topics`` are in no event: the file or the topic is a catalog of
    the side's ids, of which ``cold_max`` have a row of the window though they have no event.
    """

    user: tuple[Field, ...] = ()
    item: tuple[Field, ...] = ()
    in_files: tuple[bool, bool] = (False, False)  # by side
    cold_max: int = 10_000
    in_topics: tuple[bool, bool] = (False, False)  # by side

    def __bool__(self) -> bool:
        return bool(self.user or self.item)

    def of(self, side: int) -> tuple[Field, ...]:
        """The fields of a side."""
        return self.user if side == USER else self.item

    def has_catalog(self, side: int) -> bool:
        """Whether a side's values come without events."""
        return self.in_files[side] or self.in_topics[side]


@dataclass(slots=True)
class AttributeCounts:
    """Values since the start, by ``item.category``."""

    unreadable: Counter[str] = field(default_factory=Counter)  # of another kind than the field
    cut: Counter[str] = field(default_factory=Counter)  # with more tags or words than are taken


class AttributesView:
    """The attributes as a reader sees them; None for a side without fields."""

    def __init__(
        self, fields: AttributeFields, sides: tuple[AttributeView | None, AttributeView | None]
    ) -> None:
        self.fields, self._sides = fields, sides

    def __getitem__(self, side: int) -> AttributeView | None:
        return self._sides[side]

    @classmethod
    def attach(cls, directory: Path, fields: AttributeFields, graph: HeterographView) -> AttributesView:
        """Open the attributes that another process writes.

        Raises:
            WindowError: There are none, or their files are of other fields or sizes.
        """
        folder, rows = Folder(directory), graph.window.row_capacity
        user, item = (
            AttributeView(side, KINDS[side], fields.of(side), folder, rows=rows[side], of=graph)
            if fields.of(side)
            else None
            for side in (USER, ITEM)
        )
        return cls(fields, (user, item))


class Attributes(AttributesView):
    """The attributes as their one writer sees them.

    Always true: every value of an applied event is in a table, or counted with the reason why not; what a
    table holds does not depend on how the events are cut into batches.
    """

    def __init__(self, directory: Path | None, fields: AttributeFields, graph: Heterograph) -> None:
        """Empty tables: in ``directory``, which other processes can read, or in private memory."""
        folder, rows = Folder(directory, writable=True), graph.window.row_capacity
        user, item = (
            AttributeTable(side, KINDS[side], fields.of(side), folder, rows=rows[side], of=graph)
            if fields.of(side)
            else None
            for side in (USER, ITEM)
        )
        super().__init__(fields, (user, item))
        self._graph, self._tables = graph, (user, item)
        self.counts = AttributeCounts()

    def warnings(self) -> list[str]:
        """A sentence for each field with values that could not be taken, and for each side that is full."""
        said = [
            f"attribute {name}: {count:,} values are not of its kind and were left out"
            for name, count in sorted(self.counts.unreadable.items())
        ]
        said += [
            f"attribute {name}: {count:,} values have more tags or words than are taken"
            for name, count in sorted(self.counts.cut.items())
        ]
        return said + [
            f"there are more {kind}s with attributes than window.{kind}_rows: {count:,} have lost theirs"
            for kind, count in self.evicted.items()
            if count
        ]

    @property
    def evicted(self) -> dict[str, int]:
        """How many ids a full table has lost, by side."""
        return {
            kind: 0 if table is None else table.evicted
            for kind, table in zip(KINDS, self._tables, strict=True)
        }

    def apply(self, batch: EventBatch) -> None:
        """Take the values of events whose ids the graph has rows for. A value holds from its event's time on.

        Raises:
            WindowError: The disk is full.
        """
        of_item = 0 if self.fields.has_catalog(ITEM) else len(self.fields.item)
        for side, ids, columns in (
            (ITEM, batch.item, batch.attributes[:of_item]),
            (USER, batch.user, batch.attributes[of_item:]),
        ):
            self._apply(side, ids, batch.time_ms, columns or [None] * len(self.fields.of(side)))

    def say(self, side: int, ids: Strings, values: Sequence[Strings], time_ms: I64) -> None:
        """Take values of ids that need have no event.

        Raises:
            WindowError: The disk is full.
        """
        self._apply(side, ids, time_ms, values)

    def say_all(self, side: int, ids: Strings, values: Sequence[Strings], time_ms: I64) -> None:
        """As ``say``, and a field without a value has none from then on.

        Ids of which nothing was said before have a row of the window at once, though they have no event.

        Raises:
            WindowError: The disk is full.
        """
        table = self._tables[side]
        assert table is not None
        new = np.flatnonzero(table.find(ids) < 0)
        self._apply(side, ids, time_ms, values, whole=True)
        if len(new):
            self._hold_also(side, ids.take(new))

    def newest_ms(self, side: int, ids: Strings) -> I64:
        """[N] when something was last said of each id; 0: never."""
        table = self._tables[side]
        assert table is not None
        return table.newest_ms(table.find(ids))

    def forget(self, side: int, ids: Strings) -> None:
        """Forget all that was said of these ids. Those without an event lose their row of the window."""
        table = self._tables[side]
        assert table is not None
        table.erase(ids)
        found = self._graph.find(side, ids)
        rows = np.unique(found[found >= 0]).astype(np.uint32)
        table.have_cold_also(rows[:0], rows[:0], rows)
        self._graph.let_go(side, rows)

    def hold(self) -> None:
        """Let ids of a catalog that have no event have rows of the window: up to ``cold_max`` of a side.

        Those with the newest values are taken, and at most as many as leave half of the free rows to events.
        A pure function of what is said and of who has events; it is called where rows come free. O(ids).

        Raises:
            WindowError: The disk is full.
        """
        for side, table in enumerate(self._tables):
            if table is None or not self.fields.has_catalog(side):
                continue
            busy = self._graph.rows_in_use(side)
            busy = busy[self._graph.window.has_events(side, busy)]
            free = (table.rows_max - len(busy)) // 2
            without, names = table.newest(min(self.fields.cold_max, free), self._graph.strings(side, busy))
            table.have_cold(self._graph.hold(side, names), without)

    def _hold_also(self, side: int, ids: Strings) -> None:
        """Let these ids, new ones of a catalog, have rows of the window until the next ``hold`` chooses.

        There are never more than ``cold_max``: those with the oldest values make room, and wait for a step as
        any id without events does. O(rows), but nothing by id.
        """
        table = self._tables[side]
        assert table is not None
        own = table.find(ids)
        places = np.flatnonzero((self._graph.find(side, ids) < 0) & (own >= 0))
        places = np.sort(places[np.unique(own[places], return_index=True)[1]])
        most = min(self.fields.cold_max, self._graph.room(side) // 2)
        names = ids.take(places[max(0, len(places) - most) :])
        if not len(names):
            return
        held = table.cold_by_age()
        former = held[: max(0, len(held) + len(names) - self.fields.cold_max)]
        rows = self._graph.hold_also(side, names, former)
        table.have_cold_also(rows, table.find(names).astype(np.uint32), former)

    def erase(self, user: str) -> None:
        """Forget all that was said of a user."""
        if (table := self._tables[USER]) is not None:
            table.erase(Strings.of([user]))

    def kept(self) -> Kept:
        """Copies of all that the tables hold, for ``put_back``, but of no side in a file. O(ids)."""
        tables = enumerate(self._tables)
        return {
            side: (table.fields, table.kept())
            for side, table in tables
            if table is not None and not self.fields.in_files[side]
        }

    def put_back(self, side: int, arrays: Arrays, then: Sequence[Field], gone: Mask) -> None:
        """Fill an empty side; see ``AttributeTable.put_back``. The ids that have a row are linked."""
        table = self._tables[side]
        assert table is not None
        table.put_back(arrays, then, gone)
        rows = self._graph.rows_in_use(side)
        names = self._graph.strings(side, rows)
        table.link(rows, table.find(names))

    def _apply(
        self,
        side: int,
        ids: Strings,
        time_ms: I64,
        columns: Sequence[Strings | None],
        *,
        whole: bool = False,
    ) -> None:
        table = self._tables[side]
        if table is None or len(ids) == 0:
            return
        made = []
        there = np.full(len(ids), whole)
        for one, values in zip(table.fields, columns, strict=True):
            if values is None:
                continue
            tokens, became = tokens_of(one.kind, values)
            name = f"{KINDS[side]}.{one.name}"
            self._count(self.counts.unreadable, name, became == UNREADABLE)
            self._count(self.counts.cut, name, became == CUT)
            good = (whole | (became != ABSENT)) & (became != UNREADABLE)
            made.append((table.fields.index(one), good, tokens))
            there |= good
        places = np.flatnonzero(there)
        while len(places):  # a new id pushes others out where it comes, not at the begin of its batch
            part = places[: table.rows_max]
            part = part[: table.fitting(ids.take(part))]
            if len(part) == 0:
                table.evict()
                continue
            rows = table.assign(ids.take(part), time_ms[part])
            for number, good, tokens in made:
                own = good[part]
                if own.any():
                    table.put(number, rows[own], time_ms[part][own], tokens[part][own])
            places = places[len(part) :]
        own_rows = self._graph.find(side, ids)
        known = np.flatnonzero(own_rows >= 0)
        table.link(own_rows[known].astype(np.uint32), table.find(ids.take(known)))

    @staticmethod
    def _count(counter: Counter[str], name: str, mask: Mask) -> None:
        if count := int(mask.sum()):
            counter[name] += count
