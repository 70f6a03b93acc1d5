"""Attributes of events in every format, and of files: the values arrive as they were said."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from driftgraph.app.config.builders import file_options
from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field, tokens_of
from driftgraph.stream.attributes.file import read_attributes
from driftgraph.stream.errors import ConfigError, SourceError
from driftgraph.stream.events import Decoded, EventBatch, Strings
from driftgraph.stream.formats.event_rules import RowOrigin, Rows
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

NOW_MS = 1_783_000_000_123
TABLE = {"category": "category", "tags": {"kind": "tags", "field": "video.tags"}}


def settings_of(events: dict[str, object]) -> Settings:
    return Settings.model_validate({"relations": {"click": {}}, "events": events})


def said(batch: EventBatch) -> list[list[str]]:
    return [column.to_list() for column in batch.attributes]


def decoded(settings: Settings, messages: list[object]) -> Decoded:
    decoder = topic_decoder(settings, event_rules(settings, SystemClock()))
    payloads = [json.dumps(one).encode() for one in messages]
    return decoder.decode(Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}")))


def event(**more: object) -> dict[str, object]:
    return {"user_id": "u", "item_id": "i", "behavior": "click", "ts": NOW_MS, **more}


def test_plain_json_has_attributes_at_their_paths() -> None:
    messages = [
        event(category="shoes", video={"tags": ["a", 7]}),
        event(category=12, video={"tags": "b"}),
        event(category=None),
        event(ts="2026-07-02T13:46:40Z", category={"deep": 1}, video=7),
    ]
    got = decoded(settings_of({"attributes": {"item": TABLE}}), list(messages))
    assert got.rejected == ()
    assert said(got.batch) == [["shoes", "12", "", "\x1e"], ["a\x1f7", "b", "", ""]]


def test_a_mapping_has_attributes_of_the_turn_of_its_loop() -> None:
    mapping = {
        "user": "who",
        "item": "lines[*].sku",
        "behavior": {"const": "click"},
        "ts": "at",
    }
    table = {"price": {"kind": "number", "field": "lines[*].price"}}
    events: dict[str, object] = {
        "format": "mapping",
        "mapping": mapping,
        "attributes": {"item": table, "user": {"city": "category"}},
    }
    order = {"who": "u", "at": NOW_MS, "city": "Oslo", "lines": [{"sku": "a", "price": 1.5}, {"sku": "b"}]}
    got = decoded(settings_of(events), [order])
    assert said(got.batch) == [["1.5", ""], ["Oslo", "Oslo"]]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_csv_has_them_in_columns_also_when_it_is_sorted(tmp_path: Path, shuffled: bool) -> None:
    rows = [f'u{n},i{n},click,{1_783_000_000 + n},c{n},"x,y{n}"' for n in range(50)]
    rows[3] = "u3,i3,click,1783000003,NULL,"
    order = np.random.default_rng(0).permutation(50) if shuffled else np.arange(50)
    path = tmp_path / "events.csv"
    header = "user_id,item_id,behavior,timestamp,category,tags"
    path.write_text("\n".join([header, *(rows[n] for n in order)]) + "\n")
    settings = settings_of({"attributes": {"item": {"category": "category", "tags": "tags"}}})
    options = file_options(settings)
    source = FileSource(path, replace(options, sort_in=tmp_path))
    batches = []
    while (got := source.next_batch()) is not None:
        batches.append(got.batch)
    assert [one for batch in batches for one in batch.item.to_list()] == [f"i{n}" for n in range(50)]
    values = [said(batch) for batch in batches if len(batch)]
    assert [v for one in values for v in one[0]] == [f"c{n}" if n != 3 else "" for n in range(50)]
    assert [v for one in values for v in one[1]] == [f"x,y{n}" if n != 3 else "" for n in range(50)]


def test_taobao_has_a_category(tmp_path: Path) -> None:
    path = tmp_path / "UserBehavior.csv"
    path.write_text("1,2,77,click,1511544070\n1,3,78,click,1511544071\n")
    events = {"format": "taobao", "attributes": {"item": {"category": "category"}}}
    settings = settings_of({**events, "ignore": []})
    got = FileSource(path, file_options(settings)).next_batch()
    assert got is not None
    assert said(got.batch) == [["77", "78"]]


def test_parquet_has_them_in_columns_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    table = {
        "user_id": ["u", "v"],
        "item_id": ["i", "j"],
        "behavior": ["click", "click"],
        "timestamp": [NOW_MS, NOW_MS + 1],
        "category": [7, None],
        "tags": [["a", "b"], None],
    }
    parquet.write_table(pa.table(table), path)
    settings = settings_of({"attributes": {"item": {"category": "category", "tags": "tags"}}})
    got = FileSource(path, file_options(settings)).next_batch()
    assert got is not None
    assert said(got.batch) == [["7", ""], ["a\x1fb", ""]]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,behavior,timestamp\nu,i,click,1783000000\n")
    settings = settings_of({"attributes": {"item": {"category": "category"}}})
    with pytest.raises(SourceError, match="no column 'category' of an attribute"):
        FileSource(path, file_options(settings))


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_says_what_is_so_before_the_first_event(tmp_path: Path, packed: bool) -> None:
    text = b"video,author,length\ni,anna,12.5\n,nobody,1\nj,bert,NULL\n"
    path = tmp_path / ("items.csv.gz" if packed else "items.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    graph = Heterograph.create(None, [Relation("click", 10**9, 16)], user_rows=8, item_rows=8)
    fields = AttributeFields(
        item=(Field("author", "category"), Field("length", "number")), in_files=(False, True)
    )
    table = Attributes(None, fields, graph)
    taken = read_attributes(path, table, ITEM, key="video", columns=["author", "length"])
    assert taken == (2, 1)
    ids = Strings.of(["j", "i"])
    batch = EventBatch(Strings.of(["u", "u"]), ids, np.zeros(2, np.uint8), np.array([50, 60], np.int64))
    graph.apply(batch)
    table.apply(batch)
    view = table[ITEM]
    assert view is not None
    found = view.tokens(graph.find(ITEM, ids).astype(np.uint32), 2)
    authors, _ = tokens_of("category", Strings.of(["bert", "anna"]))
    assert found[:, :1].tolist() == authors.tolist()
    assert (found[:, 1] > 0).tolist() == [False, True]


def test_a_file_without_the_column_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,author\ni,anna\n")
    graph = Heterograph.create(None, [Relation("click", 10**9, 16)], user_rows=8, item_rows=8)
    table = Attributes(None, AttributeFields(item=(Field("length", "number"),)), graph)
    with pytest.raises(SourceError, match="has no column 'length', it has: item_id, author"):
        read_attributes(path, table, ITEM, key="item_id", columns=["length"])


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="category should be of a kind"):
        settings_of({"attributes": {"item": {"category": "kategorie"}}})
