"""Files of events: every form, the real ones, and what a bad file or line costs."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.rules_by_column import concat
from driftgraph.stream.sources import line_blocks
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from tests.decoded import events_of

SharedData = Callable[[str], Path]

HEADER = "user_id,item_id,behavior,timestamp\n"
LINES = [
    ("u2", "i1", "click", 1_783_000_005),
    ("u1", "i1", "buy", 1_783_000_001),
    ("u1", "i2", "click", 1_783_000_003),
    ("u3", "i2", "impression", 1_783_000_004),
]
EVENTS = [  # relations: click, buy
    ("u2", "i1", 0, 1_783_000_005_000, 0, ""),
    ("u1", "i1", 1, 1_783_000_001_000, 0, ""),
    ("u1", "i2", 0, 1_783_000_003_000, 0, ""),
]


def read(source: FileSource) -> Decoded:
    """All of a source as one ``Decoded``."""
    parts = []
    while (part := source.next_batch()) is not None:
        parts.append(part)
    return Decoded(
        concat([part.batch for part in parts]),
        tuple(letter for part in parts for letter in part.rejected),
        source.position(),
        sum(part.ignored for part in parts),
    )


def csv_text() -> str:
    return HEADER + "".join(",".join(map(str, line)) + "\n" for line in LINES)


def json_text() -> str:
    names = ("user_id", "item_id", "behavior", "ts")
    return "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in LINES)


def write_parquet(path: Path, **columns: Any) -> None:
    users, items, behaviors, times = zip(*LINES, strict=True)
    table = {"user_id": users, "item_id": items, "behavior": behaviors, "timestamp": times}
    parquet.write_table(pa.table({**table, **columns}), path)


def compressed(text: str, suffix: str) -> bytes:
    if suffix == ".gz":
        half = len(text) // 2  # two members, as `cat a.gz b.gz` makes
        return gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode())
    return bytes(pa.compress(text.encode(), "zstd", asbytes=True)) if suffix == ".zst" else text.encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("name", "text"), [("e.csv", csv_text()), ("e.jsonl", json_text())])
def test_every_form_gives_the_same_events_in_the_order_of_the_file(
    tmp_path: Path, name: str, text: str, suffix: str
) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(compressed(text, suffix))
    source = FileSource(path)
    assert source.relations == ("click", "buy")
    decoded = read(source)
    assert events_of(decoded.batch) == EVENTS
    assert (decoded.rejected, decoded.ignored) == ((), 1)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"timestamp": [1_783_000_005_000, 1_783_000_001_000, 1_783_000_003_000, 1_783_000_004_000]},
        {"timestamp": [1_783_000_005.0, 1_783_000_001.0, 1_783_000_003.0, 1_783_000_004.0]},
        {"timestamp": pa.array([datetime.fromtimestamp(line[3], UTC) for line in LINES])},
        {"timestamp": [datetime.fromtimestamp(line[3], UTC).isoformat() for line in LINES]},
        {"behavior": pa.array([line[2] for line in LINES]).dictionary_encode()},
        {"user_id": pa.array([line[0] for line in LINES], pa.large_string()), "more": [1, 2, 3, 4]},
    ],
)
def test_parquet_takes_each_type_that_an_event_can_have(tmp_path: Path, columns: dict[str, Any]) -> None:
    write_parquet(tmp_path / "e.parquet", **columns)
    decoded = read(FileSource(tmp_path / "e.parquet"))
    assert (events_of(decoded.batch), decoded.ignored) == (EVENTS, 1)


def test_a_bad_row_of_parquet_is_told_by_its_number(tmp_path: Path) -> None:
    write_parquet(tmp_path / "e.parquet", user_id=[2, 1, None, 3], timestamp=[1_783_000_005, -1, 1, 1])
    decoded = read(FileSource(tmp_path / "e.parquet"))
    assert [event[0] for event in events_of(decoded.batch)] == ["2"]
    assert [(letter.origin, letter.reason) for letter in decoded.rejected] == [
        ("e.parquet:2", "bad_time"), ("e.parquet:3", "bad_id"),
    ]  # fmt: skip
    assert json.loads(decoded.rejected[0].payload)["timestamp"] == -1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"timestamp": pa.array([datetime(2026, 1, 1)] * 4)}, "timestamps with a zone"),
        (
            {"user_id": [1.0, 2.0, 3.0, 4.0]},
            "'user_id' of .* is of type double; it must hold text or integers",
        ),
        ({"behavior": [1, 2, 3, 4]}, "'behavior' of .* is of type int64; it must hold text"),
    ],
)
def test_a_parquet_column_of_the_wrong_type_is_refused_at_once(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    write_parquet(tmp_path / "e.parquet", **columns)
    with pytest.raises(SourceError, match=said):
        FileSource(tmp_path / "e.parquet")


def test_given_relations_decide_and_others_are_counted(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(csv_text())
    decoded = read(FileSource(tmp_path / "e.csv", FileOptions(relations=("impression", "buy"))))
    assert [(event[0], event[2]) for event in events_of(decoded.batch)] == [("u1", 1), ("u3", 0)]
    assert (decoded.ignored, decoded.rejected) == (2, ())


def test_relations_are_found_by_frequency_then_name_and_only_in_good_events(tmp_path: Path) -> None:
    counts = {"b": 2, "a": 2, "c": 3, "bad": 5}
    lines = [
        f"u,i,{name},{0 if name == 'bad' else 1_783_000_000}\n"
        for name, n in counts.items()
        for _ in range(n)
    ]
    (tmp_path / "e.csv").write_text(HEADER + "".join(lines))
    source = FileSource(tmp_path / "e.csv")
    assert source.relations == ("c", "a", "b")
    assert Counter(letter.reason for letter in read(source).rejected) == {"bad_time": 5}


def test_too_many_behaviors_say_that_the_column_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(HEADER + "".join(f"u,i,b{n},1783000000\n" for n in range(33)))
    with pytest.raises(SourceError, match=r"more than 32 different behaviors.*right column"):
        FileSource(tmp_path / "e.csv")


def test_columns_may_be_named_and_a_partial_mapping_keeps_the_other_names(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("timestamp,visitorid,behavior,item_id\n1783000000,7,view,9\n")
    decoded = read(FileSource(tmp_path / "e.csv", FileOptions(columns={"user": "visitorid"})))
    assert events_of(decoded.batch) == [("7", "9", 0, 1_783_000_000_000, 0, "")]


def test_columns_may_be_positions_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("view,7,1783000000,9\n" * 2)
    columns = {"user": "1", "item": "3", "behavior": "0", "ts": "2"}
    decoded = read(FileSource(tmp_path / "e.csv", FileOptions(columns=columns, no_header=True)))
    assert events_of(decoded.batch) == [("7", "9", 0, 1_783_000_000_000, 0, "")] * 2


def test_line_numbers_and_positions_count_every_line(tmp_path: Path) -> None:
    """Header, blank lines and a byte order mark included."""
    path = tmp_path / "e.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.encode() + b"\nu,i,buy,1783000000\n\nu,i,buy,never\nu,i,buy\n\n"
    )
    source = FileSource(path)
    decoded = read(source)
    assert [letter.origin for letter in decoded.rejected] == ["e.csv:5", "e.csv:6"]
    assert source.position() == {"e.csv": 7}


@pytest.mark.parametrize(("name", "text"), [("e.csv", csv_text()), ("e.jsonl", json_text())])
@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_blocks_of_any_size_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, block_bytes: int
) -> None:
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(line_blocks, "BATCH_ROWS_MAX", 2)
    (tmp_path / name).write_text(text + "cut off")
    decoded = read(FileSource(tmp_path / name))
    assert events_of(decoded.batch) == EVENTS
    last_line = text.count("\n") + 1
    assert [letter.origin for letter in decoded.rejected] == [f"{name}:{last_line}"]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_source_started_at_any_position_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 40)
    monkeypatch.setattr(line_blocks, "BATCH_ROWS_MAX", 1)
    path = tmp_path / f"e.{form}"
    if form == "parquet":
        write_parquet(path)
    else:
        path.write_text(csv_text() if form == "csv" else json_text())
    source = FileSource(path)
    seen: list[Any] = []
    while (decoded := source.next_batch()) is not None:
        seen += events_of(decoded.batch)
        rest = FileSource(path, start=source.position())
        assert rest.position() == source.position()
        assert seen + events_of(read(rest).batch) == EVENTS


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_start_may_lie_inside_a_batch(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"e.{form}"
    if form == "parquet":
        write_parquet(path)
    else:
        path.write_text(csv_text() if form == "csv" else json_text())
    behind = 2 if form == "csv" else 1  # the header is a line too
    assert events_of(read(FileSource(path, start={path.name: behind})).batch) == EVENTS[1:]


def test_a_batch_never_has_more_than_65536_events(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("1,1,a,1783000000\n" * 150_000)
    source = FileSource(path, FileOptions(no_header=True))
    sizes = []
    while (decoded := source.next_batch()) is not None:
        sizes.append(len(decoded.batch))
    assert sum(sizes) == 150_000
    assert max(sizes) <= 65_536


# Files that cannot be read


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("e.csv", b"", "has no event"),
        ("e.csv", HEADER.encode(), "has no event"),
        ("e.csv", HEADER.encode() + b"u,i,buy,never\n", "has no event that can be used: 1 rejected, e.csv:2"),
        ("e.csv", b"1,2,buy,1783000000\n", "no column 'user_id'; the first line has: '1', '2', 'buy'"),
        ("e.csv", b"user_id,item_id,behavior\n", "no column 'timestamp'"),
        ("e.csv", b"\xff\xfeu\x00s\x00", "no text in UTF-8"),
        ("e.csv.gz", gzip.compress(csv_text().encode() * 1_000)[:-20], "gzip data is damaged or cut off"),
        ("e.parquet", b"PAR1 not really", "as Parquet"),
        ("e.xlsx", b"PK", "cannot tell the format of .*e.xlsx"),
        ("e.jsonl", b"[1]\n", "has no event that can be used: 1 rejected, e.jsonl:1"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said) as error:
        read(FileSource(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(SourceError, match=f"{name}: there is no such file; check the path"):
            FileSource(tmp_path / name)
    with pytest.raises(SourceError, match="the folder has no files"):
        FileSource(tmp_path, FileOptions(format="csv"))


def test_a_wrong_option_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(csv_text())
    for options, said in (
        (FileOptions(format="xml"), "'xml' is no format"),
        (FileOptions(columns={"usr": "a"}), "'usr' is no field of an event; the fields are user, item"),
        (FileOptions(columns={"item": "sku"}), "no column 'sku'; the first line has: 'user_id'"),
        (FileOptions(columns={"item": "sku"}, no_header=True), "the position of user is needed"),
    ):
        with pytest.raises(SourceError, match=said):
            FileSource(tmp_path / "e.csv", options)


def test_each_part_of_a_folder_has_the_separator_that_its_name_tells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(csv_text())
    (tmp_path / "b.tsv").write_text(csv_text().replace(",", "\t"))
    one = read(FileSource(tmp_path / "a.csv"))
    both = read(FileSource(tmp_path))
    assert (len(both.batch), len(both.rejected)) == (2 * len(one.batch), 2 * len(one.rejected))
    assert len(one.batch) > 0


def test_a_line_without_end_is_no_event_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(line_blocks, "LINE_BYTES_MAX", 1_024)
    (tmp_path / "e.csv").write_bytes(HEADER.encode() + b"x" * 5_000)
    with pytest.raises(SourceError, match=r"line 2 of .* is longer than"):
        read(FileSource(tmp_path / "e.csv", FileOptions(relations=("buy",))))


# The real ones

REAL = [
    ("taobao_9d/events.csv.gz", FileOptions(), {"buy": 167_862, "cart": 140_068, "fav": 49_482}, 0, 0),
    (
        "kuairand/events.csv.gz",
        FileOptions(),
        {
            "click": 100_900, "long_view": 70_963, "profile_enter": 4_231, "like": 3_915, "comment": 579,
            "follow": 304, "forward": 195, "hate": 190,
        },
        0,
        228_329,
    ),
    (
        "tmall2013/events.csv.gz",
        FileOptions(),
        {"click": 174_539, "buy": 6_984, "fav": 1_204, "cart": 153},
        0,
        0,
    ),
    (
        "taobao_2h/UserBehavior.csv.gz",
        FileOptions(format="taobao"),
        {"pv": 98_361, "cart": 6_063, "fav": 3_383, "buy": 2_493},
        0,
        0,
    ),
    (
        "retailrocket_9k/events_sample.csv",
        FileOptions(columns={"user": "visitorid", "item": "itemid", "behavior": "event"}),
        {"view": 9_076, "addtocart": 263, "transaction": 46},
        0,
        0,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "counts", "rejected", "ignored"), REAL)
def test_a_real_file_reads_whole(
    shared_data: SharedData,
    name: str,
    options: FileOptions,
    counts: dict[str, int],
    rejected: int,
    ignored: int,
) -> None:
    source = FileSource(shared_data(name), options)
    decoded = read(source)
    found = Counter(source.relations[code] for code in decoded.batch.relation.tolist())
    assert dict(found) == counts
    assert source.relations == tuple(counts)
    assert (len(decoded.rejected), decoded.ignored) == (rejected, ignored)


def test_a_real_file_says_the_same_as_a_plain_csv_reader(shared_data: SharedData) -> None:
    path = shared_data("tmall2013/events.csv.gz")
    table = arrow_csv.read_csv(pa.CompressedInputStream(pa.OSFile(str(path)), "gzip"))
    source = FileSource(path)
    got = events_of(read(source).batch)
    expected = zip(*(table[name].to_pylist() for name in table.schema.names), strict=True)
    assert [(u, i, source.relations[r], t) for u, i, r, t, *_ in got] == [
        (str(u), str(i), b, t * 1_000) for u, i, b, t in expected
    ]


def test_the_raw_file_costs_its_last_record_only(shared_data: SharedData) -> None:
    source = FileSource(shared_data("taobao_815_raw/UserBehavior.csv.gz"), FileOptions(no_header=True))
    decoded = read(source)
    assert len(decoded.batch) == 84_475
    [letter] = decoded.rejected
    assert (letter.origin, letter.reason) == ("UserBehavior.csv.gz:84476", "bad_row")
    assert letter.payload == b"100370,1968385,1875258,pv"
    assert (
        datetime.fromtimestamp(int(decoded.batch.time_ms.min()) / 1000, UTC).date().isoformat()
        == "2017-09-11"
    )
