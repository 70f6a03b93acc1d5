"""Attributes as of a time, beside the plainest implementation; bounded; a bad value costs itself alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.stream.arrays import U32, U64
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes, AttributesView
from driftgraph.stream.attributes.fields import BUCKETS, GOOD, UNREADABLE, Field, number_of, tokens_of
from driftgraph.stream.attributes.table import VERSIONS
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph, HeterographView
from driftgraph.stream.window.writer import Relation

DAY_MS = 86_400_000
CATEGORY = Field("category", "category")
ROWS = 64


def graph_of(directory: Path | None = None, rows: int = ROWS) -> Heterograph:
    return Heterograph.create(directory, [Relation("click", DAY_MS, 1 << 10)], user_rows=rows, item_rows=rows)


def batch_of(rows: Sequence[tuple[str, str, int, Sequence[str]]]) -> EventBatch:
    """User, item, time and the values of each event."""
    return EventBatch(
        Strings.of([row[0] for row in rows]),
        Strings.of([row[1] for row in rows]),
        np.zeros(len(rows), np.uint8),
        np.array([row[2] for row in rows], np.int64),
        attributes=tuple(map(Strings.of, zip(*(row[3] for row in rows), strict=True))),
    )


def token(kind: str, value: str) -> list[int]:
    tokens, _ = tokens_of(kind, Strings.of([value]))  # type: ignore[arg-type]
    found: list[int] = tokens[0].tolist()
    return found


class PlainHistory:
    """Every value ever said of one id; the value as of t is that of the newest time before t."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []  # in order of arrival

    def put(self, time_ms: int, value: str) -> None:
        if value:
            self.said.append((time_ms, value))

    def runs(self) -> list[tuple[int, str]]:
        by_time = dict(self.said)
        runs: list[tuple[int, str]] = []
        for time_ms in sorted(by_time):
            if not runs or runs[-1][1] != by_time[time_ms]:
                runs.append((time_ms, by_time[time_ms]))
        return runs

    def at(self, time_ms: int) -> str:
        return ([""] + [value for since, value in self.runs() if since < time_ms])[-1]


EVENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 40), st.sampled_from(["", "red", "blue"])), max_size=30
)


def applied(events: Sequence[tuple[str, int, str]], size: int) -> tuple[Heterograph, Attributes]:
    graph = graph_of()
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    for start in range(0, len(events), size):
        batch = batch_of(
            [("u", item, time_ms, [value]) for item, time_ms, value in events[start : start + size]]
        )
        graph.apply(batch)
        table.apply(batch)
    return graph, table


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.integers(1, 7), st.booleans())
def test_a_value_is_that_of_the_newest_time_strictly_before(
    events: list[tuple[str, int, str]], size: int, in_order: bool
) -> None:
    """After the newest event in any order; at any time, while all is kept, if the events came in order."""
    if in_order:
        events = sorted(events, key=lambda event: event[1])
    else:  # two values at one time are for another test
        events = list({event[:2]: event for event in events}.values())
    graph, table = applied(events, size)
    view = table[ITEM]
    assert view is not None
    for item in "ab":
        history = PlainHistory()
        for _, time_ms, value in (event for event in events if event[0] == item):
            history.put(time_ms, value)
        row = graph.find(ITEM, Strings.of([item])).astype(np.int64)
        runs = history.runs()
        if row[0] < 0 or not runs:
            continue
        first_ms = 1 if in_order and len(history.said) <= VERSIONS else max(history.said)[0] + 1
        for time_ms in range(first_ms, 43):
            found = view.tokens(row.astype(np.uint32), time_ms)[0].tolist()
            value = history.at(time_ms)
            assert found == (token("category", value) if value else [0]), (item, time_ms)


def test_a_value_is_not_seen_at_the_time_of_its_event() -> None:
    graph = graph_of()
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    batch = batch_of([("u", "i", 100, ["shoes"]), ("u", "i", 200, ["boots"])])
    graph.apply(batch)
    table.apply(batch)
    view, row = table[ITEM], graph.find(ITEM, Strings.of(["i"])).astype(np.uint32)
    assert view is not None
    at = [view.tokens(row, time_ms)[0].tolist() for time_ms in (100, 101, 200, 201)]
    assert at == [[0], token("category", "shoes"), token("category", "shoes"), token("category", "boots")]


def test_an_attribute_before_the_first_event_is_found_when_the_event_comes() -> None:
    graph = graph_of()
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    table.say(ITEM, Strings.of(["i"]), [Strings.of(["shoes"])], np.array([1], np.int64))
    batch = batch_of([("u", "other", 90, ["hats"]), ("u", "i", 100, [""])])
    graph.apply(batch)
    table.apply(batch)
    view, row = table[ITEM], graph.find(ITEM, Strings.of(["i"])).astype(np.uint32)
    assert view is not None
    assert view.tokens(row, 50)[0].tolist() == token("category", "shoes")


@pytest.mark.parametrize(
    ("kind", "value", "unreadable"),
    [
        ("number", "nan", True),
        ("number", "inf", True),
        ("number", "1e400", True),
        ("number", "twelve", True),
        ("number", "1\x1f2", True),
        ("number", "-12.5", False),
        ("category", "a\x1fb", True),
        ("category", "\x1e", True),
        ("category", "a,b", False),
        ("tags", "\x1e", True),
        ("tags", "a,b", False),
        ("text", "A red shoe", False),
    ],
)
def test_a_value_of_another_kind_is_told_from_a_good_one(kind: str, value: str, unreadable: bool) -> None:
    tokens, became = tokens_of(kind, Strings.of([value, ""]))  # type: ignore[arg-type]
    assert became.tolist() == [UNREADABLE if unreadable else GOOD, 0]
    assert tokens[0].any() != unreadable
    assert not tokens[1].any()


def test_a_number_is_kept_as_it_is() -> None:
    tokens, _ = tokens_of("number", Strings.of(["0", "-0.0", "-1.5", "87433.0", ""]))
    assert tokens[0] == tokens[1]
    numbers = number_of(tokens[:, 0])
    assert numbers[:4].tolist() == [0.0, 0.0, -1.5, 87433.0]
    assert np.isnan(numbers[4])


def test_tags_and_words_are_a_set() -> None:
    assert token("tags", "b,a;a") == token("tags", "a|b")
    assert token("text", "Red, SHOE!") == token("text", "shoe red")
    assert np.count_nonzero(token("tags", ",".join(map(str, range(20))))) == 8


def plain_words(text: str) -> set[str]:
    """The words of a text, and each two characters of a run of Chinese or Japanese."""
    words = set(re.findall(r"[^\W_\u3040-\u9fff]+", text.lower()))
    for run in re.findall(r"[\u3040-\u9fff]+", text):
        words |= {run[n : n + 2] for n in range(max(1, len(run) - 1))}
    return words


@pytest.mark.parametrize(
    "text",
    [
        "红色的鞋",
        "新款Nike运动鞋 42码",
        "赤いシューズ",
        "鞋",
        "女鞋,男鞋",
        "鞋。a鞋",
        "Red 红",
        "größe 鞋子",
        "好",
        "你好,世界。再见",
    ],
)
def test_a_text_without_spaces_is_its_pairs_of_characters(text: str) -> None:
    wanted = sorted(token("category", word)[0] for word in plain_words(text))
    assert [one for one in token("text", text) if one] == wanted
    assert token("tags", text)[0] in {token("category", part)[0] for part in re.split("[,;|]", text)}


def test_a_text_has_the_same_words_whatever_stands_before_it_in_the_batch() -> None:
    texts = ["女鞋", "鞋", "男鞋", "好a", "鞋"]
    together, _ = tokens_of("text", Strings.of(texts))
    assert together.tolist() == [token("text", text) for text in texts]


def test_a_bad_value_is_counted_and_leaves_the_others() -> None:
    graph = graph_of()
    fields = AttributeFields(item=(CATEGORY, Field("length", "number")), user=(Field("age", "number"),))
    table = Attributes(None, fields, graph)
    batch = batch_of([("u", "i", 100, ["shoes", "long", "NaN"]), ("u", "i", 101, ["a\x1fb", "3", "30"])])
    graph.apply(batch)
    table.apply(batch)
    view, row = table[ITEM], graph.find(ITEM, Strings.of(["i"])).astype(np.uint32)
    assert view is not None
    found = view.tokens(row, 200)[0]
    assert found[:1].tolist() == token("category", "shoes")
    assert number_of(found[1:2]).tolist() == [3.0]
    assert table.counts.unreadable == {"item.category": 1, "item.length": 1, "user.age": 1}
    assert table.warnings()[1] == "attribute item.length: 1 values are not of its kind and were left out"


def test_a_million_categories_are_no_more_tokens_than_buckets() -> None:
    tokens, became = tokens_of("category", Strings.of(map(str, range(1_000_000))))
    assert int(tokens.max()) <= BUCKETS
    assert (became == GOOD).all()


def test_a_full_table_loses_the_ids_that_were_longest_without_a_value() -> None:
    graph = graph_of(rows=16)
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    for n in range(40):
        table.say(ITEM, Strings.of([f"i{n}"]), [Strings.of([f"c{n}"])], np.array([100 + n], np.int64))
    batch = batch_of([("u", f"i{n}", 1_000, [""]) for n in (30, 39)])
    graph.apply(batch)
    table.apply(batch)
    view, rows = table[ITEM], graph.find(ITEM, Strings.of(["i30", "i39"])).astype(np.uint32)
    assert view is not None
    assert view.tokens(rows, 2_000).tolist() == [token("category", "c30"), token("category", "c39")]
    assert not view.tokens(rows, 130).any()  # nor what ids said that had their rows before
    assert table.evicted == {"user": 0, "item": 24}
    assert table.warnings() == [
        "there are more items with attributes than window.item_rows: 24 have lost theirs"
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 24), st.integers(1, 60)), max_size=60), st.integers(2, 60))
def test_a_full_table_keeps_the_same_ids_in_batches_of_any_size(
    said: list[tuple[int, int]], size: int
) -> None:
    """The oracle takes one value after the other, and only a new id in a full table pushes others out."""
    values = [(f"i{item}", time_ms) for item, time_ms in said]
    rows_max, kept = 16, dict[str, int]()
    tables = []
    for count in (1, size):
        table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph_of(rows=rows_max))
        for start in range(0, len(values), count):
            part = values[start : start + count]
            ids, times_ms = Strings.of([item for item, _ in part]), [time_ms for _, time_ms in part]
            table.say(ITEM, ids, [ids], np.array(times_ms, np.int64))
        tables.append(table)
    for item, time_ms in values:
        assert len(kept) <= rows_max
        if item not in kept and len(kept) == rows_max:
            oldest_ms = min(kept.values())
            ties = {name for name, newest_ms in kept.items() if newest_ms == oldest_ms}
            if len(ties) > 1:  # a hash decides
                break
            kept.pop(ties.pop())
        kept[item] = max(time_ms, kept.get(item, 0))
    else:
        assert {name for name in dict(values) if is_kept(tables[0], name)} == set(kept)
    for name in dict(values):
        assert is_kept(tables[1], name) == is_kept(tables[0], name)
    assert tables[1].evicted == tables[0].evicted


def is_kept(table: Attributes, name: str) -> bool:
    side = table._tables[ITEM]
    assert side is not None
    return bool(side.find(Strings.of([name]))[0] >= 0)


def test_an_erased_user_has_no_attribute_and_the_others_keep_theirs() -> None:
    graph = graph_of()
    table = Attributes(None, AttributeFields(user=(Field("city", "category"),)), graph)
    batch = batch_of([("u", "i", 100, ["Oslo"]), ("v", "i", 100, ["Rome"])])
    graph.apply(batch)
    table.apply(batch)
    graph.erase(["u"])
    table.erase("u")
    again = batch_of([("u", "i", 300, [""])])
    graph.apply(again)
    table.apply(again)
    view, rows = table[USER], graph.find(USER, Strings.of(["u", "v"])).astype(np.uint32)
    assert view is not None
    assert view.tokens(rows, 400).tolist() == [[0], token("category", "Rome")]


def test_another_process_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    fields = AttributeFields(item=(CATEGORY, Field("tags", "tags")))
    graph = graph_of(tmp_path)
    table = Attributes(tmp_path, fields, graph)
    batch = batch_of([("u", f"i{n}", 100 + n, [f"c{n}", f"a,b{n}"]) for n in range(20)])
    graph.apply(batch)
    table.apply(batch)
    reader = HeterographView.attach(tmp_path)
    read = AttributesView.attach(tmp_path, fields, reader)[ITEM]
    own, rows = table[ITEM], np.arange(20, dtype=np.uint32)
    assert read is not None
    assert own is not None
    assert own.tokens(rows, 1_000).any()
    assert np.array_equal(read.tokens(rows, 110), own.tokens(rows, 110))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from driftgraph.stream.attributes.attributes import Attributes
from driftgraph.stream.events import Strings
from driftgraph.stream.window.adjacency import ITEM
from tests.stream.attributes.test_attributes import TORN, batch_of, graph_of

graph = graph_of(Path(sys.argv[1]), rows=16)
table = Attributes(Path(sys.argv[1]), TORN, graph)
batch = batch_of([("u", f"i{n}", 100, [str(n) * 8]) for n in range(4)])
graph.apply(batch)
table.apply(batch)
print("there", flush=True)
names = [f"x{n}" for n in range(16)]
for turn in range(int(sys.argv[2])):
    time_ms = 200 + turn
    for n in range(4):  # the tags of a value are its number, a letter, and nothing else
        value = ",".join(f"{n}-{turn % 3}-{part}" for part in range(8))
        table.say(ITEM, Strings.of([f"i{n}"]), [Strings.of([value])], np.array([time_ms], np.int64))
    one = [names[turn % 16]]  # ids that come and go: rows of the table change hands
    table.say(ITEM, Strings.of(one), [Strings.of(["stranger"])], np.array([time_ms], np.int64))
print("done", flush=True)
"""
TORN = AttributeFields(item=(Field("tags", "tags"),))


def test_a_reader_in_another_process_sees_whole_values_of_the_right_id_while_they_are_written(
    tmp_path: Path,
) -> None:
    """Every value is one that was said of that very id, or none while the full table has lost the id."""
    command = [sys.executable, "-c", WRITER, str(tmp_path), "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        graph = HeterographView.attach(tmp_path)
        view = AttributesView.attach(tmp_path, TORN, graph)[ITEM]
        assert view is not None
        said = [
            {tuple(token("tags", str(n) * 8)), tuple([0] * 8)}
            | {tuple(token("tags", ",".join(f"{n}-{turn}-{part}" for part in range(8)))) for turn in range(3)}
            for n in range(4)
        ]
        rows, seen, reads = np.arange(4, dtype=np.uint32), set[tuple[int, ...]](), 0
        while writer.poll() is None:
            for _ in range(100):
                for n, found in enumerate(view.tokens(rows, 1 << 40).tolist()):
                    assert tuple(found) in said[n], (n, reads)
                    seen.add(tuple(found))
                reads += 1
        assert writer.returncode == 0
    assert len(seen) > 6, (len(seen), reads)  # it was read while it changed


class Between:
    """The owners of the window's rows; the writer goes on once, right after they were first asked for."""

    def __init__(self, graph: Heterograph, go_on: Callable[[], None]) -> None:
        self._graph, self._waiting = graph, [go_on]

    def hashes(self, side: int, rows: U32) -> U64:
        found = self._graph.hashes(side, rows)
        if self._waiting:
            self._waiting.pop()()
        return found


def test_a_row_that_another_id_gets_during_a_read_gives_nothing_of_that_id() -> None:
    graph = graph_of(rows=16)
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    batch = batch_of([("u", "i", 100, ["shoes"])])
    graph.apply(batch)
    table.apply(batch)
    view, row = table[ITEM], graph.find(ITEM, Strings.of(["i"])).astype(np.uint32)
    assert view is not None

    def go_on() -> None:
        names = Strings.of([f"x{n}" for n in range(16)])
        table.say(ITEM, names, [Strings.of(["hats"] * 16)], np.full(16, 200, np.int64))

    view._of = Between(graph, go_on)
    assert view.tokens(row, 1_000)[0].tolist() == [0]
    assert table.evicted["item"] == 1


CATALOG = AttributeFields(
    user=(Field("city", "category"),), item=(CATEGORY,), in_files=(True, True), cold_max=4
)


def catalog(rows: int = ROWS, count: int = 6) -> tuple[Heterograph, Attributes]:
    """Items i0 to i5 as a file says them, one newer than the other."""
    graph = graph_of(rows=rows)
    table = Attributes(None, CATALOG, graph)
    for n in range(count):
        table.say(ITEM, Strings.of([f"i{n}"]), [Strings.of([f"c{n}"])], np.array([1 + n], np.int64))
    table.say(USER, Strings.of(["ann"]), [Strings.of(["Oslo"])], np.array([1], np.int64))
    table.hold()
    return graph, table


def cold_ids(graph: Heterograph, table: Attributes, side: int = ITEM) -> list[str]:
    moment, view = graph.moment(), table[side]
    assert view is not None
    rows = view.cold(moment.versions[side])
    return sorted(str(name) for name in graph.names(side, rows, moment))


def events_of(graph: Heterograph, table: Attributes, *events: tuple[str, str, int]) -> None:
    batch = batch_of([(*event, []) for event in events])
    if graph.expire(max(event[2] for event in events)):
        table.hold()
    graph.apply(batch)
    table.apply(batch)


def test_the_newest_ids_of_a_catalog_have_rows_without_an_event() -> None:
    graph, table = catalog()
    assert cold_ids(graph, table) == ["i2", "i3", "i4", "i5"]
    assert cold_ids(graph, table, USER) == ["ann"]
    view, rows = table[ITEM], graph.find(ITEM, Strings.of(["i5", "i1"]))
    assert view is not None
    assert rows[1] == -1
    assert view.tokens(rows[:1].astype(np.uint32), 10)[0].tolist() == token("category", "c5")
    assert graph.digest(graph.window.cut()) == graph_of().digest(graph_of().window.cut())


def test_a_touched_id_makes_room_for_an_older_one_and_comes_back_when_its_events_have_gone() -> None:
    graph, table = catalog()
    events_of(graph, table, ("u", "i5", 1_000))
    events_of(graph, table, ("u", "other", 1_000 + graph.step_ms))
    assert cold_ids(graph, table) == ["i1", "i2", "i3", "i4"]
    for step in range(3, 22):
        events_of(graph, table, ("u", "other", 1_000 + step * graph.step_ms))
    assert cold_ids(graph, table) == ["i2", "i3", "i4", "i5"]
    own = graph.find(ITEM, Strings.of(["i5"]))
    version = graph.window.row_versions(ITEM)[own]
    for step in range(22, 26):
        events_of(graph, table, ("u", "other", 1_000 + step * graph.step_ms))
    assert graph.find(ITEM, Strings.of(["i5"])).tolist() == own.tolist()
    assert graph.window.row_versions(ITEM)[own].tolist() == version.tolist()  # it kept its row all the time
    rows = graph.find(ITEM, Strings.of(["i1"]))
    assert rows[0] == -1  # whoever is held no more gave its row back


def test_events_go_before_ids_that_have_none() -> None:
    graph, table = catalog(rows=8)
    events_of(graph, table, *[("u", f"e{n}", 1_000 + n) for n in range(8)])
    assert cold_ids(graph, table) == []
    assert graph.id_counts["item"] == 8


def test_an_erased_user_of_a_catalog_has_no_row_left() -> None:
    graph, table = catalog()
    graph.erase(["ann"])
    table.erase("ann")
    table.hold()
    assert cold_ids(graph, table, USER) == []
    assert graph.find(USER, Strings.of(["ann"]))[0] == -1


def test_only_a_catalog_has_ids_without_an_event() -> None:
    graph = graph_of()
    table = Attributes(None, AttributeFields(item=(CATEGORY,)), graph)
    table.say(ITEM, Strings.of(["i"]), [Strings.of(["shoes"])], np.array([1], np.int64))
    table.hold()
    assert cold_ids(graph, table) == []
    assert graph.id_counts["item"] == 0
