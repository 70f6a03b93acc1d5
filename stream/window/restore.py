"""A window put back from a checkpoint: events with their old sequence numbers, and ids with their old rows.

    NamedEvents, KeptRows of a checkpoint ──► [Restore.events, end] ──► Heterograph

With the rows of before, whatever is drawn or added up by row is what it would be in a run that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftgraph.stream.arrays import U32
from driftgraph.stream.events import Strings
from driftgraph.stream.window.adjacency import ITEM, NIL, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.kept_rows import DUE, EMPTIED, HELD, KeptRows
from driftgraph.stream.window.named_events import NamedEvents


class Restore:
    """Of an empty graph. The caller puts back the events of each relation, calls ``end``, and nothing else.

    ``same_rows`` says whether ids have the rows of before: if those are known and there is room for them.
    Else ids get rows anew.
    """

    def __init__(self, graph: Heterograph, first: Sequence[int], kept: KeptRows | None) -> None:
        """Let the sequence numbers begin at ``first``.

        Raises:
            ValueError: The rows of before contradict each other.
        """
        capacity = graph.window.row_capacity
        if kept is not None and any(s.row_count > most for s, most in zip(kept.sides, capacity, strict=True)):
            kept = None
        self._graph, self.same_rows = graph, kept is not None
        graph.window.begin(first, (0, 0) if kept is None else [own.row_count for own in kept.sides])
        if kept is None:
            return
        for side, own in enumerate(kept.sides):
            graph.tables[side].begin(own.row_count)
            named = np.flatnonzero(np.diff(own.ids.offsets))
            self._place(side, own.ids.take(named), own.rows[named])
            for mask, bit in ((graph.emptied, EMPTIED), (graph.due, DUE), (graph.held, HELD)):
                mask[side][own.rows] = (own.waits & bit) > 0
        if kept.step_ms == graph.step_ms:
            graph.step = kept.step

    def events(self, relation: int, events: NamedEvents) -> None:
        """Put back events of one relation, in order and without a gap, from the window's first number on.

        A lost event becomes a tombstone.

        Raises:
            IdTableFullError: More users or items are live than there is room for.
            ValueError: The rows of before contradict each other.
        """
        user = self._rows(USER, events.users, events.user_rows, events.user[~events.lost])
        item = self._rows(ITEM, events.items, events.item_rows, events.item[~events.lost])
        rows = [
            np.append(rows, NIL)[np.where(events.lost, len(rows), place)]
            for rows, place in ((user, events.user), (item, events.item))
        ]
        self._graph.window.restore(relation, rows[USER], rows[ITEM], events.time_ms)

    def end(self, watermark_ms: int) -> None:
        """Drop the expired events, and the ids that neither have an event nor wait for a step."""
        graph = self._graph
        for table in graph.tables:
            table.settle()
        graph.expire(watermark_ms)
        for side in (USER, ITEM):
            rows = graph.tables[side].rows_in_use()
            waits = graph.emptied[side] | graph.due[side]
            graph.free(side, rows[~waits[rows]] if self.same_rows else rows)

    def _rows(self, side: int, ids: Strings, had: U32 | None, places: U32) -> U32:
        """The row of each id; ``places`` are those of the ids that have an event."""
        if self.same_rows:
            assert had is not None
            live = np.unique(places)  # the row of an id without an event may have another owner by now
            self._place(side, ids.take(live.astype(np.intp)), had[live])
            return had
        rows, fresh = self._graph.tables[side].assign(ids)
        self._graph.window.recycle(side, fresh)
        return rows

    def _place(self, side: int, ids: Strings, rows: U32) -> None:
        fresh = self._graph.tables[side].place(ids, np.ascontiguousarray(rows))
        self._graph.window.recycle(side, fresh)
