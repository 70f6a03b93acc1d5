"""Checkpoints of the window: what is restored goes on as if nothing had happened."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftgraph.snapshots.checkpoints import segments, window
from driftgraph.snapshots.checkpoints.state import KeptMark, State, has_its_owners
from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints, latest, restore
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.ingest import dedupe as dedupe_module
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.ingest.fit_schedule import Counted, Mark, Marks
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.adjacency import NIL
from driftgraph.stream.window.heterograph import Heterograph, Owners
from driftgraph.stream.window.shared_files import ANEW, Life
from driftgraph.stream.window.writer import ITEM, USER, Cut, Relation, StaleCut

RELATIONS = [Relation("click", 400, 40), Relation("buy", 1_000, 25)]
STREAM = "events 0/1"
NOBODY = ErasedUsers(bytes(16))
LATE_MS = 50  # the watermark stays so far behind the newest event


def graph(relations: list[Relation] = RELATIONS, *, rows: int = 30) -> Heterograph:
    return Heterograph.create(None, relations, user_rows=rows, item_rows=rows, history=(Life("one"),))


def batch(events: list[tuple[int, int, int, int]]) -> EventBatch:
    users, items, relations, times = zip(*events, strict=True)
    return EventBatch(
        Strings.of([f"u{u}" for u in users]),
        Strings.of([f"i{i}" for i in items]),
        np.array(relations, np.uint8),
        np.array(times, np.int64),
        event_id=Strings.of([f"{u}-{i}-{t % 7}" for u, i, _, t in events]),
    )


def small_files(patch: pytest.MonkeyPatch, size: int) -> None:
    """So many events, or ids, in a file."""
    patch.setattr(window, "SEGMENT_EVENTS", size)
    patch.setattr(window, "BLOCK_IDS", size)
    patch.setattr(dedupe_module, "BLOCK_IDS", size)


def snapshot(g: Heterograph, dedupe: Deduplicator, watermark_ms: int, offset: int = 0) -> Snapshot:
    state = WatermarkState(watermark_ms, {0: watermark_ms + 5})
    return Snapshot(g.moment(), {"events[0]": offset}, state, dedupe.sets(), rows=g.kept_rows())


def go(g: Heterograph, dedupe: Deduplicator, step: tuple[str, object]) -> list[bool]:
    """One step of a stream; what the deduplicator said."""
    kind, value = step
    if kind == "erase":
        g.erase([f"u{value}"])
        return []
    events = batch(value)  # type: ignore[arg-type]
    assert events.event_id is not None
    said = dedupe.repeated(events.event_id, events.time_ms)
    g.expire(int(events.time_ms.max()) - LATE_MS)
    g.apply(events.take(np.flatnonzero(~said)))
    return [bool(one) for one in said]


def lists(g: Heterograph, ahead_ms: int = LATE_MS + 1) -> dict[str, object]:
    """The neighbors of each node and relation that has some, by name and in order."""
    moment, now_ms = g.moment(), g.window.watermark_ms + ahead_ms
    found: dict[str, object] = {}
    for side, other in ((USER, ITEM), (ITEM, USER)):
        rows = np.arange(g.window.rows(side), dtype=np.uint32)
        near = g.window.recent(side, rows, np.full(len(rows), now_ms), 12, moment.cut)
        for row, name in zip(rows, g.names(side, rows, moment), strict=True):
            if name is not None:
                for r in range(len(g.window.relations)):
                    count = near.count_BR[row, r]
                    if count:
                        named = g.names(other, near.neighbor_BRK[row, r, :count], moment)
                        found[f"{name} {r}"] = (named, near.time_ms_BRK[row, r, :count].tolist())
    return found


def rows_of(g: Heterograph) -> list[dict[int, bytes]]:
    """The id of each row, and of row -1 how many rows there are."""
    found = []
    for side in (USER, ITEM):
        rows = g.rows_in_use(side)
        ids = g.strings(side, rows)
        found.append({row: ids.bytes_at(n) for n, row in enumerate(rows.tolist())})
        found[-1][-1] = str(g.window.rows(side)).encode()
    return found


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[str, object]]:
    now, steps = 1_000, list[tuple[str, object]]()
    for _ in range(draw(st.integers(2, 12))):
        if draw(st.integers(0, 5)) == 0:
            steps.append(("erase", draw(st.integers(0, 8))))
            continue
        now += draw(st.integers(0, 150))
        event = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 1), st.integers(now - 60, now))
        steps.append(("batch", draw(st.lists(event, min_size=1, max_size=14))))
    return steps


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams(), st.data())
def test_a_restored_run_is_the_one_that_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], data: st.DataObject
) -> None:
    """Checkpoints at random places, a crash after one of them, and the rest of the stream once more."""
    root = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        small_files(patch, data.draw(st.sampled_from([1, 4, 7, 64])))
        real, remembered = graph(), Deduplicator(ids_max=48, for_checkpoints=True)
        writer = WindowCheckpoints(root, real, STREAM)
        lives = [(real, remembered, 0)]
        for place, step in enumerate(steps):
            said = [go(g, dedupe, step) for g, dedupe, _ in lives]
            assert all(answer == said[0] for answer in said)
            if data.draw(st.integers(0, 2)) == 0:
                watermark_ms = real.window.watermark_ms
                writer.write(snapshot(real, remembered, watermark_ms, place))
                if data.draw(st.booleans()):  # a crash: another goes on, and writes the next checkpoints
                    found, state, damaged = latest(root, STREAM)
                    assert found is not None
                    assert state is not None
                    assert (damaged, state.position) == ([], {"events[0]": place})
                    assert state.watermark == WatermarkState(watermark_ms, {0: watermark_ms + 5})
                    again, also = graph(), Deduplicator(ids_max=48, for_checkpoints=True)
                    assert restore(found, state, again, also, NOBODY) == (0, True)
                    lives.append((again, also, place))
                    writer = WindowCheckpoints(root, again, STREAM, found)
                    real, remembered = again, also
        first = lives[0][0]
        for g, _, _ in lives:
            g.expire(0)  # what was erased leaves the ring at its front
        for g, _, _ in lives[1:]:
            assert g.window.cut() == first.window.cut()
            assert g.digest(g.window.cut()) == first.digest(first.window.cut())
            assert lists(g) == lists(first)
            assert rows_of(g) == rows_of(first)
        for ahead in (1, 2, 3):  # steps, in which ids without events lose their rows and new ones get them
            for g, _, _ in lives:
                g.expire(g.window.watermark_ms + g.step_ms)
                g.apply(batch([(20 + ahead, 20 + ahead, 0, g.window.watermark_ms)]))
            for g, _, _ in lives[1:]:
                assert rows_of(g) == rows_of(first)


def test_an_id_without_events_waits_for_two_steps_over_a_start_as_well(tmp_path: Path) -> None:
    """A row waits for its id to come back. A start goes on with the rows of before."""
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(1, 1, 0, 1_000)]))
    go(g, dedupe, ("batch", [(2, 2, 0, 1_460)]))  # the watermark is 1,410, and the span 400
    g.hold(ITEM, Strings.of(["i7"]))
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, g.window.watermark_ms))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = graph()
    restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY)
    assert g.id_counts == again.id_counts == {"user": 2, "item": 3}
    assert lists(g) == lists(again) == {"u2 0": (["i2"], [1_460]), "i2 0": (["u2"], [1_460])}
    for one in (g, again):
        one.expire(one.window.watermark_ms + 2 * one.step_ms)
        assert one.id_counts == {"user": 1, "item": 2}
        one.apply(batch([(5, 5, 0, 1_470), (6, 6, 0, 1_470)]))
    assert rows_of(g) == rows_of(again)


def test_rows_are_given_anew_where_there_is_no_room_for_those_of_before(tmp_path: Path) -> None:
    """Then no file of events may be linked: its rows would be those of before."""
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(9)]))
    g.expire(1_404)  # most have left, but for their rows
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, g.window.watermark_ms))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = graph(rows=8)
    assert restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY) == (0, False)
    assert again.id_counts == {"user": 5, "item": 5}
    assert lists(again, 0) == lists(g, 0)


def test_files_from_before_there_were_rows_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch, 4)
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(9)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(replace(snapshot(g, dedupe, 900), rows=None))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again, also = graph(), Deduplicator(for_checkpoints=True)
    assert restore(found, state, again, also, NOBODY) == (0, False)
    second = WindowCheckpoints(tmp_path, again, STREAM, found).write(snapshot(again, also, 900))
    assert not (found.folder / "0-0.arrow").samefile(second.folder / "0-0.arrow")
    assert (found.folder / "ids-1-0").samefile(second.folder / "ids-1-0")
    third = WindowCheckpoints(tmp_path, again, STREAM, second).write(snapshot(again, also, 900))
    assert (second.folder / "0-0.arrow").samefile(third.folder / "0-0.arrow")


def test_a_full_segment_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch, 4)
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    writer = WindowCheckpoints(tmp_path, g, STREAM)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(6)]))
    first = writer.write(snapshot(g, dedupe, 900))
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(6, 9)]))
    second = writer.write(snapshot(g, dedupe, 900))
    assert sorted(second.files) == [
        "0-0.arrow",
        "0-1.arrow",
        "0-2.arrow",
        "ids-1-0",
        "ids-1-1",
        "ids-1-2",
        "rows.npz",
        "state.json",
    ]

    def same(name: str) -> bool:
        return (first.folder / name).samefile(second.folder / name)

    assert [same(name) for name in ("0-0.arrow", "0-1.arrow", "ids-1-0", "ids-1-1")] == [
        True,
        False,
        True,
        False,
    ]


def test_an_erased_user_is_in_no_file_of_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch, 4)
    monkeypatch.setattr(segments, "OPTIONS", None)  # not compressed, so that the name can be looked for
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    writer = WindowCheckpoints(tmp_path, g, STREAM)
    go(g, dedupe, ("batch", [(n % 8, n, 0, 1_000 + n) for n in range(20)]))
    assert any(b"u5" in one.read_bytes() for one in writer.write(snapshot(g, dedupe, 900)).folder.iterdir())
    g.erase(["u5"])
    second = writer.write(snapshot(g, dedupe, 900))
    assert not [one for one in second.folder.iterdir() if b"u5" in one.read_bytes()]
    assert (tmp_path / "1/0-2.arrow").samefile(second.folder / "0-2.arrow"), "u0 to u3 only"


def test_who_was_erased_since_does_not_come_back_and_who_is_back_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch, 4)
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n % 3, n, n % 2, 1_000 + n) for n in range(20)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, 900))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    erased, names = ErasedUsers(bytes(16)), Strings.of(["u1", "u2", "stranger"])
    erased.add(erased.hashes(names), np.array([[5, 1_010], [5, 9_999], [5, 9_999]]))
    again = graph()
    assert restore(found, state, again, Deduplicator(for_checkpoints=True), erased) == (4 + 6, True)
    assert again.window.cut().next == g.window.cut().next
    left = [(f"u{n % 3}", 1_000 + n) for n in range(20) if n % 3 == 0 or (n % 3 == 1 and n > 10)]
    events = again.window.events(again.window.cut())
    users = again.names(USER, events.user, again.moment())
    assert sorted(zip(map(str, users), events.time_ms.tolist(), strict=True)) == sorted(left)
    assert again.id_counts == {"user": 2, "item": len(left)}
    assert b"u2" not in again.tables[USER]._names.bytes.tobytes()


def test_one_of_another_stream_is_passed_over(tmp_path: Path) -> None:
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    WindowCheckpoints(tmp_path, g, "events 0/2").write(snapshot(g, dedupe, 900))
    assert latest(tmp_path, STREAM) == (None, None, [])


def test_other_relations_take_what_there_is_of_theirs(tmp_path: Path) -> None:
    """One is gone, one is new, one has a smaller ring: the newest of it come back."""
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n, n, n % 2, 1_000 + n) for n in range(20)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, 900))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = graph([Relation("favorite", 1_000, 10), Relation("click", 400, 4)])
    restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY)
    cut = again.window.cut()
    assert (cut.first, cut.next) == ((0, 6), (0, 10))
    assert [name for name in lists(again, 200) if name.startswith("u")] == [
        f"u{n} 1" for n in (12, 14, 16, 18)
    ]
    next_one = WindowCheckpoints(tmp_path, again, STREAM, found).write(snapshot(again, dedupe, 900))
    assert not (next_one.folder / "0-0.arrow").exists(), "favorites have no event yet"


def test_a_lower_cap_takes_nothing_away_that_is_there(tmp_path: Path) -> None:
    """Every event keeps its number; the cap is for those that come."""
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(1, n, 0, 1_000 + n) for n in range(9)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, 900))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = graph([Relation("click", 400, 40, user_events_max=4), RELATIONS[1]])
    restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY)
    assert again.window.cut() == Cut(900, (0, 0), (9, 0))
    go(again, Deduplicator(for_checkpoints=True), ("batch", [(1, 9, 0, 1_009)]))
    assert again.window.cut().next == (9, 0)


def test_a_moment_that_the_ring_has_left_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    g, dedupe = graph([Relation("click", 10_000, 8)]), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(8)]))
    then = snapshot(g, dedupe, 900)
    go(g, dedupe, ("batch", [(n, n, 0, 1_100 + n) for n in range(3)]))
    with pytest.raises(StaleCut):
        WindowCheckpoints(tmp_path, g, STREAM).write(then)
    assert latest(tmp_path, STREAM) == (None, None, [])


def test_what_expired_meanwhile_is_nobodys(tmp_path: Path) -> None:
    """Between the cut and the write a row expires and gets another owner: the new one has no old event."""
    g, dedupe = graph([Relation("click", 100, 30)]), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(1, 1, 0, 1_000), (2, 2, 0, 1_090)]))
    then = snapshot(g, dedupe, 950)
    g.expire(1_120)
    g.apply(batch([(7, 7, 0, 1_130)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(then)
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = graph([Relation("click", 100, 30)])
    restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY)
    assert sorted(lists(again, 200)) == ["i2 0", "u2 0"]
    assert again.window.cut().next == (2,)


def test_lives() -> None:
    view = graph().window
    view.history = (Life("a", (5, 5)), Life("b", (9, ANEW)), Life("c"))
    assert view.numbers_here("a", {"click": 5, "buy": 4}) == (5, 4)
    assert view.numbers_here("a", {"buy": 4, "click": 5, "gone": 7}) == (5, 4), "by name"
    assert view.numbers_here("a", {"click": 5}) == (5, 0)
    assert view.numbers_here("a", {"click": 5, "buy": 6}) is None, "came after the checkpoint b began with"
    assert view.numbers_here("b", {"click": 5, "buy": 6}) == (5, 0), "others have its buys' numbers"
    assert view.numbers_here("c", {"click": 1 << 40, "buy": 0}) == (1 << 40, 0)
    assert view.numbers_here("d", {"click": 0, "buy": 0}) is None


@pytest.mark.parametrize(
    ("relations", "ended", "before"),
    [
        (["click", "buy"], (10, 7), (4, 3)),
        (["buy", "click"], (7, 10), (3, 4)),
        (["view", "buy"], (ANEW, 7), (ANEW, 3)),
        (["click"], (10,), (4,)),
    ],
)
def test_lives_go_on_with_other_relations(
    relations: list[str], ended: tuple[int, ...], before: tuple[int, ...], tmp_path: Path
) -> None:
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    g.window.history = (Life("zero", (4, 3)), Life("one"))
    go(g, dedupe, ("batch", [(n, n, int(n > 9), 1_000 + n) for n in range(17)]))
    WindowCheckpoints(tmp_path, g, STREAM).write(snapshot(g, dedupe, 900))
    _, state, _ = latest(tmp_path, STREAM)
    assert state is not None
    assert state.lives(relations) == (Life("zero", before), Life("one", ended))


def test_the_wall_times_of_the_clock_come_back_and_old_states_have_none(tmp_path: Path) -> None:
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    watermark = WatermarkState(500, {0: 505, 7: 0}, {0: 1_000, 7: 2_000}, 3_000, 2_500)
    WindowCheckpoints(tmp_path, g, STREAM).write(Snapshot(g.moment(), {}, watermark, dedupe.sets()))
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    assert state.watermark == watermark
    old = msgspec.json.decode(found.read("state.json"))
    for name in ("seen_ms", "wall_ms", "away_since_ms"):
        del old[name]
    decoded = msgspec.json.decode(msgspec.json.encode(old), type=State)
    assert decoded.watermark == WatermarkState(500, {0: 505, 7: 0})


def test_a_mark_is_kept_with_its_rows_unless_one_of_them_has_lost_its_owner() -> None:
    mark = Mark(Cut(5, (0,), (1,)), Owners((2, 1), (0, 0)), is_early=False)
    item, kept, lost = (np.array(versions, np.uint32) for versions in ([1], [1, 1, 3], [1, 3, 1]))
    found = [KeptMark.of(mark, (user, item)) for user in (kept, lost)]
    assert [one and one.rows for one in found] == [(2, 1), None], "the third row is newer than the mark"


@given(steps=streams(), size=st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_window_of_a_mark_is_read_after_a_start_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, object]], size: int
) -> None:
    """Also the events that expired behind the mark, and of all marks in a row."""
    small_files(monkeypatch, size)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    writer, marks = WindowCheckpoints(folder, g, STREAM), Marks()
    for number, step in enumerate(steps):
        go(g, dedupe, step)
        kept = replace(snapshot(g, dedupe, g.window.watermark_ms), marks=marks)
        writer.write(kept)
        if marks.regular is not None and (expected := seen_at(g, marks.regular)) is not None:
            found, state, _ = latest(folder, STREAM)
            assert found is not None
            assert state is not None
            again = graph()
            assert restore(found, state, again, Deduplicator(for_checkpoints=True), NOBODY).same_rows
            mark = state.marks([one.name for one in RELATIONS], same_rows=True).regular
            assert mark is not None
            assert seen_at(again, mark) == expected
            assert lists(again) == lists(g), "what has expired is not in the window"
        if number % 2 == 0:
            marks = marks.having(Mark(g.window.cut(), g.owners(), is_early=False))


def seen_at(g: Heterograph, mark: Mark) -> list[tuple[str | None, str | None, int]] | None:
    """The events of a mark's cut by name; None if the fit would not be as of the mark."""
    if not has_its_owners(mark, g.moment().versions):
        return None
    try:
        moment = g.moment_at(mark.cut, mark.owners)
    except StaleCut:
        return None
    found = list[tuple[str | None, str | None, int]]()
    for r in range(len(RELATIONS)):
        user, item, time_ms = g.window.arrivals(r, mark.cut.first[r], mark.cut.next[r])
        there = user != NIL
        names = [g.names(side, rows[there], moment) for side, rows in ((USER, user), (ITEM, item))]
        found += zip(*names, time_ms[there].tolist(), strict=True)
    return found


def test_where_fits_were_due_comes_back_for_the_relations_of_now(tmp_path: Path) -> None:
    """A mark that passed before a stop, and whose fit was not made, is not lost; old states have none."""
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    go(g, dedupe, ("batch", [(n, n, n % 2, 1_000 + n) for n in range(7)]))
    marks = Marks().having(Mark(g.window.cut(), g.owners(), is_early=False))
    go(g, dedupe, ("batch", [(8, 8, 0, 1_010)]))
    marks = marks.having(Mark(g.window.cut(), g.owners(), is_early=True))
    kept = replace(snapshot(g, dedupe, 900), counted=Counted(8, 1, 0, 7, 6, 5), marks=marks)
    WindowCheckpoints(tmp_path, g, STREAM).write(kept)
    _, state, _ = latest(tmp_path, STREAM)
    assert state is not None
    assert state.counted == kept.counted
    own, other = (relation.name for relation in RELATIONS)
    found = state.marks([own, other])
    assert found.regular is not None
    assert found.early is not None
    assert (found.regular.cut.next, found.early.cut.next) == ((4, 3), (5, 3))
    assert found.regular.owners is None, "ids may have other rows"
    same = state.marks([own, other], same_rows=True)
    assert same.regular is not None
    assert same.regular.owners == Owners((7, 7), (0, 0)), "losses of rows are counted from a start on"
    moved = state.marks(["new", other, own]).regular
    assert moved is not None
    assert moved.cut.next == (0, 3, 4)
    raw = msgspec.json.decode(msgspec.json.encode(state))
    for name in ("counted", "regular_mark", "early_mark"):
        del raw[name]
    old = msgspec.json.decode(msgspec.json.encode(raw), type=State)
    assert (old.counted, old.marks([own, other])) == (None, Marks())


def test_ids_that_a_checkpoint_has_are_let_go_of_and_linked_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch, 4)
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    writer = WindowCheckpoints(tmp_path, g, STREAM)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(9)]))
    for _ in range(3):
        writer.write(snapshot(g, dedupe, 900))
        blocks = dedupe.sets()[-1].blocks
        assert [block.pairs is None for block in blocks] == [True, True, False]
    found, state, _ = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    again = Deduplicator(for_checkpoints=True)
    restore(found, state, graph(), again, NOBODY)
    assert again.status()["ids"] == 9


def test_checkpoints_that_somebody_removed_are_made_anew_and_what_is_lost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No later one could be written: each wanted to link files of the one that is gone."""
    small_files(monkeypatch, 4)
    g, dedupe = graph(), Deduplicator(for_checkpoints=True)
    writer = WindowCheckpoints(tmp_path, g, STREAM)
    go(g, dedupe, ("batch", [(n, n, 0, 1_000 + n) for n in range(9)]))
    writer.write(snapshot(g, dedupe, 900))
    shutil.rmtree(tmp_path)
    for _ in range(2):
        writer.write(snapshot(g, dedupe, 900))
    assert caplog.text.count("the files of the last checkpoint were removed") == 1
    found, state, damaged = latest(tmp_path, STREAM)
    assert found is not None
    assert state is not None
    assert damaged == []
    again, also = graph(), Deduplicator(for_checkpoints=True)
    restore(found, state, again, also, NOBODY)
    assert again.digest(again.window.cut()) == g.digest(g.window.cut())
    assert go(again, also, ("batch", [(9, 9, 0, 1_009)])) == [False]
