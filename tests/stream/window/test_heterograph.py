"""The graph with names: rows come and go, ids stay who they are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.heterograph import Heterograph, HeterographView, Moment
from driftgraph.stream.window.writer import ITEM, USER, Relation, StaleCut

CLICK, BUY = 0, 1
RELATIONS = [Relation("click", 100, 1_000), Relation("buy", 1_000, 1_000)]


def batch(*events: tuple[str, str, int, int]) -> EventBatch:
    user, item, relation, time_ms = zip(*events, strict=True)
    return EventBatch(
        Strings.of(user), Strings.of(item), np.array(relation, np.uint8), np.array(time_ms, np.int64)
    )


def graph(directory: Path | None = None) -> Heterograph:
    return Heterograph.create(directory, RELATIONS, user_rows=64, item_rows=64)


def neighbors(view: HeterographView, user: str, relation: int, at_ms: int) -> list[str | None]:
    moment = view.moment()
    rows = np.arange(view.window.rows(USER), dtype=np.uint32)
    row = view.names(USER, rows, moment).index(user)
    near = view.window.recent(USER, np.array([row], np.uint32), np.array([at_ms]), 10, moment.cut)
    count = near.count_BR[0, relation]
    return view.names(ITEM, near.neighbor_BRK[0, relation, :count], moment)


def test_user_42_is_not_item_42() -> None:
    g = graph()
    g.apply(batch(("42", "7", CLICK, 10), ("7", "42", CLICK, 11)))
    assert neighbors(g, "42", CLICK, 50) == ["7"]
    assert neighbors(g, "7", CLICK, 50) == ["42"]


def test_survivors_keep_their_neighbors_while_others_expire_and_rows_are_reused() -> None:
    """Ten users expire in turn and new ones take their rows (PITFALLS: rows shift and ids do not follow)."""
    g = graph()
    g.apply(batch(("keeper", "i9", BUY, 10), ("keeper", "i8", BUY, 20)))
    for generation in range(20):
        at_ms = 30 + generation * 50
        g.apply(batch(*((f"u{generation}-{n}", f"i{generation}-{n}", CLICK, at_ms + n) for n in range(10))))
        g.expire(at_ms + 9)
        if at_ms < 900:
            assert neighbors(g, "keeper", BUY, at_ms) == ["i8", "i9"]
    assert g.window.rows(USER) < 64
    assert g.id_counts["user"] <= 31


def test_the_row_of_an_id_is_the_one_that_names_it_while_rows_change_hands(tmp_path: Path) -> None:
    """A reader finds by hash what the writer's table knows; ids that have left are not found."""
    g = graph(tmp_path / "window")
    view, rng = HeterographView.attach(tmp_path / "window"), random.Random(3)
    for turn in range(1, 30):
        g.apply(
            batch(*((f"u{rng.randrange(40)}", f"i{rng.randrange(9)}", CLICK, turn * 30) for _ in range(6)))
        )
        g.expire(turn * 30)
        moment, ids = view.moment(), [f"u{n}" for n in range(40)] + ["", "é", "nobody"]
        rows = np.arange(len(moment.versions[USER]), dtype=np.uint32)
        named = {name: row for row, name in enumerate(view.names(USER, rows, moment)) if name}
        assert view.rows_of(USER, ids, moment) == [named.get(one) for one in ids]
        assert len(named) < 40
    assert g.window.allocated_bytes() > 0


def test_a_row_with_a_new_owner_is_not_named_for_the_old_one() -> None:
    g = graph()
    g.apply(batch(("old", "i", CLICK, 10)))
    then = g.moment()
    g.expire(500)
    g.apply(batch(("new", "j", CLICK, 500)))
    row = np.zeros(1, np.uint32)
    assert g.names(USER, row, then) == [None]
    assert g.names(USER, row, g.moment()) == ["new"]
    assert g.window.row_versions(USER).tolist() == [3]  # as it got an owner, lost it, got another
    assert neighbors(g, "new", CLICK, 600) == ["j"]


def live_at(g: Heterograph, moment: Moment) -> list[int]:
    times_ms: list[int] = g.window.events(moment.cut).time_ms.tolist()
    return times_ms


def test_an_earlier_cut_is_read_as_it_was_until_a_row_loses_its_owner() -> None:
    """A new row changes none. Then what has expired since is gone from it: its rows may be others' by now."""
    g = graph()
    g.apply(batch(("a", "i", CLICK, 10), ("a", "i", CLICK, 60), ("b", "i", CLICK, 20), ("b", "i", CLICK, 70)))
    g.expire(90)
    cut, owners = g.window.cut(), g.owners()
    g.apply(batch(("c", "j", CLICK, 100)))
    g.expire(140)
    moment = g.moment_at(cut, owners)
    assert moment.cut == cut
    assert live_at(g, moment) == [10, 20, 60, 70]
    assert live_at(g, g.moment_at(cut, None)) == [60, 70], "of rows of before a restart nobody knows"
    g.expire(168)  # "a" goes, and its row is the next one's
    g.apply(batch(("d", "j", CLICK, 168)))
    moment = g.moment_at(cut, owners)
    assert moment.cut.next == cut.next
    assert live_at(g, moment) == [70]
    assert g.names(USER, g.window.events(moment.cut).user, moment) == ["b"]


def test_the_writer_counts_the_owners_of_rows_as_a_reader_sums_them(tmp_path: Path) -> None:
    """Random events, expiry, rows that are given anew, and erasures."""
    g, chance = graph(tmp_path), random.Random(3)
    reader = HeterographView.attach(tmp_path)
    for n in range(300):
        now_ms = 1_000 + 7 * n
        count = 1 + chance.randrange(3)
        users, items = ([f"{kind}{chance.randrange(9 * count)}" for _ in range(count)] for kind in "ui")
        g.apply(
            batch(*((u, i, chance.randrange(20) // 19, now_ms) for u, i in zip(users, items, strict=True)))
        )
        if not chance.randrange(5):
            g.erase([f"u{chance.randrange(9)}"])
        g.expire(now_ms)
        assert g.owners() == reader.owners()
    assert min(g.owners().lost) > 9, "rows were given anew"


def test_an_earlier_cut_that_was_overwritten_is_stale() -> None:
    g = graph()
    g.apply(batch(("a", "i", CLICK, 10)))
    cut, owners = g.window.cut(), g.owners()
    g.apply(batch(*(("a", "i", CLICK, 10 + n) for n in range(1_000))))
    with pytest.raises(StaleCut):
        g.moment_at(cut, owners)


def test_an_erased_user_is_gone_from_older_moments_too_and_comes_back_as_another() -> None:
    """PITFALLS A14: nothing of an erased user is left, and nobody else's history changes."""
    g = graph()
    g.apply(batch(("ann", "tea", CLICK, 10), ("bob", "tea", CLICK, 11), ("ann", "jam", BUY, 12)))
    then = g.moment()
    row = int(g.tables[USER].find(Strings.of(["ann"]))[0])
    assert g.erase(["ann", "nobody", "ann"]) == 12
    assert g.id_counts == {"user": 1, "item": 1}  # jam was hers alone
    assert g.window.events(then.cut).time_ms.tolist() == [11]
    assert g.names(USER, np.array([row], np.uint32), then) == [None]
    assert b"ann" not in g.tables[USER]._names.bytes.tobytes()

    only_bob = graph()
    only_bob.apply(batch(("bob", "tea", CLICK, 11)))
    assert g.digest(g.moment().cut) == only_bob.digest(only_bob.moment().cut)

    g.apply(batch(("ann", "jam", CLICK, 13)))
    assert neighbors(g, "ann", CLICK, 50) == ["jam"]
    assert neighbors(g, "bob", CLICK, 50) == ["tea"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 1), st.integers(1, 300))),
       st.lists(st.integers(0, 6), min_size=1, max_size=4))  # fmt: skip
def test_erasing_is_as_if_the_user_had_never_been(
    events: list[tuple[int, int, int, int]], erased: list[int]
) -> None:
    whole, without = graph(), graph()
    for user, item, relation, time_ms in events:
        event = (f"u{user}", f"i{item}", relation, time_ms)
        whole.apply(batch(event))
        if user not in erased:
            without.apply(batch(event))
    whole.erase([f"u{user}" for user in erased])
    assert whole.digest(whole.moment().cut) == without.digest(without.moment().cut)
    assert whole.id_counts == without.id_counts
    whole.expire(10_000)
    assert whole.id_counts == {"user": 0, "item": 0}


def test_an_event_that_a_cap_left_out_leaves_no_name() -> None:
    rules = [Relation("click", 1_000, 100, user_events_max=2)]
    g = Heterograph.create(None, rules, user_rows=8, item_rows=8)
    g.apply(batch(*((("bot", f"i{n}", CLICK, 10 + n)) for n in range(5)), ("ann", "i9", CLICK, 20)))
    assert g.window.capped.tolist() == [3]
    for now_ms in range(0, 200, 50):  # names go where rows come free
        g.expire(now_ms)
    assert g.id_counts == {"user": 2, "item": 3}
    assert neighbors(g, "bot", CLICK, 50) == ["i1", "i0"]


def test_the_digest_knows_content_and_not_order_rows_or_batches() -> None:
    events = [(f"u{n % 7}", f"i{n % 5}", n % 2, 100 + n) for n in range(40)]
    whole, shuffled, other = graph(), graph(), graph()
    whole.apply(batch(*events))
    for event in reversed(events):
        shuffled.apply(batch(event))
    other.apply(batch(*events[:-1], ("u0", "i0", 1, 139)))
    digests = [g.digest(g.moment().cut) for g in (whole, shuffled, other)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_the_digest_counts_events_that_are_equal() -> None:
    once, twice = graph(), graph()
    once.apply(batch(("u", "i", 0, 5)))
    twice.apply(batch(("u", "i", 0, 5), ("u", "i", 0, 5)))
    assert once.digest(once.moment().cut) != twice.digest(twice.moment().cut)


def test_another_reader_sees_the_same_graph(tmp_path: Path) -> None:
    g = graph(tmp_path / "window")
    reader = HeterographView.attach(tmp_path / "window")
    g.apply(batch(("ann", "tea", CLICK, 10), ("bob", "tea", BUY, 20)))
    assert neighbors(reader, "bob", BUY, 50) == ["tea"]
    assert reader.digest(reader.moment().cut) == g.digest(g.moment().cut)
