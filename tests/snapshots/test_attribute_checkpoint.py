"""Attributes in checkpoints: what is restored is what was there, without users who were erased since."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.snapshots.checkpoints import attributes as attribute_files
from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints, latest, restore
from driftgraph.stream.arrays import U32
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.events import Decoded, Erasure, EventBatch, Strings
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules, WatermarkState
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Relation

FIELDS = AttributeFields(
    user=(Field("city", "category"),), item=(Field("kind", "category"), Field("tags", "tags"))
)
NAMES = [f"x{n}" for n in range(6)]


def world(fields: AttributeFields = FIELDS) -> tuple[Heterograph, Attributes]:
    relations = [Relation("click", 10_000, 256)]
    graph = Heterograph.create(None, relations, user_rows=32, item_rows=32, history=(Life("one"),))
    return graph, Attributes(None, fields, graph)


def batch_of(events: list[tuple[int, int, int, int]]) -> EventBatch:
    """User, item, time, and a number that all values are made of."""
    users, items, times, values = zip(*events, strict=True)
    return EventBatch(
        Strings.of([f"x{u}" for u in users]),
        Strings.of([f"x{i}" for i in items]),
        np.zeros(len(events), np.uint8),
        np.array(times, np.int64),
        attributes=(
            Strings.of([f"k{v}" if v else "" for v in values]),
            Strings.of([f"a,b{v}" for v in values]),
            Strings.of([f"c{v}" for v in values]),
        ),
    )


def found_by_name(graph: Heterograph, table: Attributes, side: int) -> dict[str, list[list[int]]]:
    ids = Strings.of(NAMES)
    rows = graph.find(side, ids)
    view = table[side]
    assert view is not None
    found: dict[str, list[list[int]]] = {}
    for name, row in zip(NAMES, rows.tolist(), strict=True):
        if row >= 0:
            one: U32 = np.full(60, row, np.uint32)
            found[name] = view.tokens(one, np.arange(60, dtype=np.int64)).tolist()
    return found


def written(graph: Heterograph, table: Attributes, root: Path) -> None:
    state = WatermarkState(100, {0: 100})
    taken = Snapshot(graph.moment(), {"e[0]": 1}, state, Deduplicator().sets(), attributes=table.kept())
    WindowCheckpoints(root, graph, "e 0/1").write(taken)


def restored(
    root: Path, erased: ErasedUsers, fields: AttributeFields = FIELDS
) -> tuple[Heterograph, Attributes]:
    found, state, damaged = latest(root, "e 0/1")
    assert found is not None
    assert state is not None
    assert not damaged
    graph, table = world(fields)
    restore(found, state, graph, Deduplicator(), erased)
    attribute_files.restore(found, table, erased)
    return graph, table


STREAM = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 50), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(STREAM, st.integers(0, 40))
def test_what_is_restored_goes_on_as_if_nothing_had_happened(
    events: list[tuple[int, int, int, int]], cut: int
) -> None:

    nobody = ErasedUsers(bytes(16))
    with tempfile.TemporaryDirectory() as folder:
        graph, table = world()
        for part in (events[:cut],):
            if part:
                graph.apply(batch_of(part))
                table.apply(batch_of(part))
        written(graph, table, Path(folder))
        other, read = restored(Path(folder), nobody)
        if events[cut:]:
            for g, t in ((graph, table), (other, read)):
                g.apply(batch_of(events[cut:]))
                t.apply(batch_of(events[cut:]))
        for side in (USER, ITEM):
            assert found_by_name(other, read, side) == found_by_name(graph, table, side)


def test_a_user_who_was_erased_since_has_nothing_left(tmp_path: Path) -> None:
    graph, table = world()
    batch = batch_of([(0, 0, 10, 1), (1, 0, 20, 2)])
    graph.apply(batch)
    table.apply(batch)
    written(graph, table, tmp_path)
    erased = ErasedUsers(bytes(16))
    erased.add(erased.hashes(Strings.of(["x0"])), np.array([[15, 15]], np.int64))
    other, read = restored(tmp_path, erased)
    again = batch_of([(0, 0, 30, 0)])
    again = EventBatch(again.user, again.item, again.relation, again.time_ms)
    other.apply(again)
    read.apply(again)
    view = read[USER]
    assert view is not None
    rows = other.find(USER, Strings.of(["x0", "x1"])).astype(np.uint32)
    assert view.tokens(rows, 50).astype(bool).tolist() == [[False], [True]]


def test_a_field_of_another_kind_begins_without_values(tmp_path: Path) -> None:
    graph, table = world()
    batch = batch_of([(0, 0, 10, 1)])
    graph.apply(batch)
    table.apply(batch)
    written(graph, table, tmp_path)
    fields = AttributeFields(item=(Field("tags", "tags"), Field("kind", "text")))
    other, read = restored(tmp_path, ErasedUsers(bytes(16)), fields)
    view, before = read[ITEM], table[ITEM]
    assert view is not None
    assert before is not None
    row = other.find(ITEM, Strings.of(["x0"])).astype(np.uint32)
    assert view.tokens(row, 50)[0, :8].tolist() == before.tokens(row, 50)[0, 1:].tolist()
    assert not view.tokens(row, 50)[0, 8:].any()


def test_ingestion_takes_the_attributes_of_applied_events_and_an_erasure_forgets_them() -> None:
    graph, table = world()
    rules = WatermarkRules(
        out_of_orderness_ms=0, allowed_lateness_ms=0, idle_timeout_ms=None, future_skew_ms=None
    )
    ingest = Ingest(
        graph, Watermark(rules, ManualClock(0)), MemoryDeadLetters(), FitSchedule(1 << 62), attributes=table
    )
    events = batch_of([(0, 0, 10, 1), (1, 1, 40, 2), (2, 2, 12, 3), (1, 1, 41, 0)])  # the third is late
    for _ in ingest.take(Decoded(events, erased=(Erasure("x1", 4, 45),), position={})):
        pass
    for _ in ingest.take(Decoded(batch_of([(1, 1, 50, 0)]).take(np.array([0])), position={})):
        pass
    items = found_by_name(graph, table, ITEM)
    assert "x2" not in items
    assert any(items["x0"][11])
    users = found_by_name(graph, table, USER)
    assert any(users["x0"][11])
    assert not any(any(tokens) for tokens in users["x1"][:51])
