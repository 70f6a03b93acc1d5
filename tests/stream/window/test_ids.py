"""External ids against a plain dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.events import ID_BYTES_MAX, Strings
from driftgraph.stream.window.ids import IdTable, IdTableFullError
from driftgraph.stream.window.shared_files import Folder

names = (
    st.text(min_size=1, max_size=40)
    .filter(lambda s: 0 < len(s.encode("utf-8", "ignore")) <= ID_BYTES_MAX)
    .map(lambda s: s.encode("utf-8", "ignore").decode())
)


def table(rows: int = 64) -> IdTable:
    return IdTable(rows, Folder(None), "user")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.lists(names.filter(bool), max_size=8), st.integers(0, 3)), max_size=12))
def test_a_table_agrees_with_a_dictionary(steps: list[tuple[list[str], int]]) -> None:
    """Assign and release at random: rows are unique, stable, reused, and read back as the same id."""
    ids, oracle = table(200), dict[str, int]()
    for wanted, forget in steps:
        rows, fresh = ids.assign(Strings.of(wanted))
        new = [name for name in dict.fromkeys(wanted) if name not in oracle]
        assert len(fresh) == len(new)
        for name, row in zip(wanted, rows.tolist(), strict=True):
            assert oracle.setdefault(name, row) == row
        assert len(set(oracle.values())) == len(oracle) == len(ids)
        assert ids.strings(np.array(list(oracle.values()), np.uint32)).to_list() == list(oracle)
        assert ids.find(Strings.of([*oracle, "?" * 41])).tolist() == [*oracle.values(), -1]
        gone = list(oracle)[:forget]
        ids.release(np.array([oracle.pop(name) for name in gone], np.uint32))
    assert ids.assign(Strings.of(oracle))[0].tolist() == list(oracle.values())


def test_ids_that_collide_in_every_bit_the_index_keeps_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force equal hashes: the bytes decide."""
    ids = table()
    rows, _ = ids.assign(Strings.of(["a", "b"]))
    ids._names.hashes[rows[1]] = ids._names.hashes[rows[0]]
    ids._index[:] = 0
    home = int(ids._names.hashes[rows[0]] >> np.uint64(32)) & (len(ids._index) - 1)
    for place, row in enumerate(rows.tolist()):
        high = int(ids._names.hashes[rows[0]]) & 0xFFFFFFFF00000000
        ids._index[(home + place) % len(ids._index)] = np.uint64(high | (row + 1))
    assert ids.assign(Strings.of(["a"]))[0].tolist() == [rows[0]]


def test_user_42_and_its_many_spellings_are_different_ids() -> None:
    rows, _ = table().assign(Strings.of(["42", " 42", "42 ", "042", "４２"]))
    assert len(set(rows.tolist())) == 5


def test_a_full_table_says_which_setting_to_raise() -> None:
    ids = table(2)
    with pytest.raises(IdTableFullError, match=r"raise window\.user_rows"):
        ids.assign(Strings.of(["a", "b", "c"]))
    assert ids.assign(Strings.of(["a", "b"]))[0].tolist() == [0, 1]


def test_memory_for_names_is_reused() -> None:
    """Let 200,000 different ids come and go, a thousand at a time: the arena must not grow with them."""
    ids = table(2_048)
    for start in range(0, 200_000, 1_000):
        rows, fresh = ids.assign(
            Strings.of([f"user-{n}-{'x' * (n % 37)}" for n in range(start, start + 1_000)])
        )
        assert len(fresh) == 1_000
        ids.release(rows)
    assert int(ids._counters[2]) < 80_000  # 200,000 of them have about 6 MB
    assert int(ids._counters[0]) == 1_000


@settings(deadline=None, max_examples=60)
@given(st.lists(names, min_size=1, max_size=12, unique=True), st.data())
def test_ids_that_are_placed_have_their_rows_and_the_next_ones_those_that_are_free(
    wanted: list[str], data: st.DataObject
) -> None:
    """As in the table that the rows are of: there some ids were released, in any order."""
    before, after = table(), table()
    rows = before.assign(Strings.of(wanted))[0]
    gone = np.array(data.draw(st.lists(st.sampled_from(rows.tolist()), unique=True)), np.uint32)
    before.release(gone)
    kept = np.flatnonzero(~np.isin(rows, gone))
    after.begin(before.row_count)
    for part in (kept[::2], kept[1::2], kept):  # the last time, all are there already
        fresh = after.place(Strings.of([wanted[n] for n in part]), rows[part])
        assert fresh.tolist() == ([] if part is kept else rows[part].tolist())
    after.settle()
    assert (len(after), after.row_count) == (len(before), before.row_count)
    more = Strings.of([f"new {n}" for n in range(4)])
    assert after.assign(more)[0].tolist() == before.assign(more)[0].tolist()
    assert after.strings(after.rows_in_use()).to_list() == before.strings(before.rows_in_use()).to_list()


def test_rows_that_contradict_each_other_are_refused() -> None:
    ids = table(8)
    ids.begin(4)
    ids.place(Strings.of(["a"]), np.array([2], np.uint32))
    for name, row in (("b", 2), ("a", 3), ("b", 4)):
        with pytest.raises(ValueError, match="row"):
            ids.place(Strings.of([name]), np.array([row], np.uint32))
    with pytest.raises(ValueError, match="empty"):
        ids.begin(4)
    with pytest.raises(ValueError, match="9"):
        table(8).begin(9)
