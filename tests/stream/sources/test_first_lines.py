"""The first lines of a file: what is read, and what is refused with its cause, never in other words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driftgraph.stream.errors import SourceError
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.wording import BY_OPTION
from tests.decoded import events_of

NOW_S = 1_783_000_000
EVENTS = [("u1", "i1", 0, NOW_S * 1000), ("u2", "i2", 0, NOW_S * 1000 + 1000)]
HEADER = "user_id,item_id,behavior,timestamp"
ROWS = f"u1,i1,buy,{NOW_S}\nu2,i2,buy,{NOW_S + 1}\n"


def read(folder: Path, text: str, name: str = "e.csv", **options: object) -> list[tuple[object, ...]]:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return read_path(path, **options)


def read_path(path: Path, **options: object) -> list[tuple[object, ...]]:
    source = FileSource(path, FileOptions(wording=BY_OPTION, **options))  # type: ignore[arg-type]
    found: list[tuple[object, ...]] = []
    while (decoded := source.next_batch()) is not None:
        assert decoded.rejected == ()
        found += [event[:4] for event in events_of(decoded.batch)]
    return found


@pytest.mark.parametrize(
    "text",
    [
        f"\n{HEADER}\n{ROWS}",
        f"\r\n  \r\n{HEADER}\r\n{ROWS}",
        f"sep=,\n{HEADER}\n{ROWS}",
        f"\nSEP=;\r\n\n{HEADER}\n{ROWS}".replace(",", ";"),
        f'"sep=\t"\n{HEADER}\n{ROWS}'.replace(",", "\t"),
        f"\ufeffsep=|\n{HEADER}\n{ROWS}".replace(",", "|"),
        f"User_ID, ITEM_ID ,Behavior,TimeStamp\n{ROWS}",
        f" user_id,item_id,behavior, timestamp\n{ROWS}",
    ],
)
def test_what_stands_before_a_header_or_is_written_in_another_case_is_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == EVENTS


def test_lines_before_the_first_event_of_a_file_without_a_header(tmp_path: Path) -> None:
    columns = {"user": "0", "item": "1", "behavior": "2", "ts": "3"}
    text = f"\nsep=;\n{ROWS}".replace(",", ";")
    assert read(tmp_path, text, no_header=True, columns=columns) == EVENTS


def test_a_separator_that_was_given_goes_before_the_one_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, f"sep=;\n{HEADER}\n{ROWS}", separator=",") == EVENTS


def test_of_two_names_that_differ_in_case_alone_the_exact_one_counts(tmp_path: Path) -> None:
    text = f"USER_ID,user_id,item_id,behavior,timestamp\nx,u1,i1,buy,{NOW_S}\n"
    assert read(tmp_path, text) == EVENTS[:1]
    with pytest.raises(SourceError, match="no column 'user_id'; the first line has: 'USER_ID', 'User_id'"):
        read(tmp_path, f"USER_ID,User_id,item_id,behavior,timestamp\nx,u1,i1,buy,{NOW_S}\n")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("user_id,item_id,behavior,ts", "no column 'timestamp'; the first line has: 'user_id', 'item_id', "
         "'behavior', 'ts'; give --columns ts=ts"),
        ("visitorid,itemid,event,timestamp", "give --columns user=visitorid,item=itemid,behavior=event"),
        ("UserID,sku,action,Event Time", "give --columns user=UserID,item=sku,behavior=action,ts=Event Time"),
        ("a,b,c,d", "name the columns with --columns user=…,item=…,behavior=…,ts=…, or give --no-header"),
        ("user_id,item_id,behavior,date,time", "name the columns with --columns"),
    ],
)  # fmt: skip
def test_columns_of_other_names_are_named_in_the_error(tmp_path: Path, header: str, says: str) -> None:
    with pytest.raises(SourceError) as refused:
        read(tmp_path, f"{header}\n{ROWS}")
    assert says in str(refused.value)


@pytest.mark.parametrize(("name", "lines"), [
    ("e.csv", [HEADER, *ROWS.split()]), ("e.csv", [HEADER, ROWS.split(maxsplit=1)[0]]),
    ("e.jsonl", ['{"a": 1}', '{"a": 2}']),
])  # fmt: skip
def test_lines_that_end_with_cr_alone_are_told_as_such(tmp_path: Path, name: str, lines: list[str]) -> None:
    with pytest.raises(SourceError) as refused:
        read(tmp_path, "\r".join([*lines, ""]), name)
    assert "its lines end with CR alone, as on old Macs; convert it: tr '\\r' '\\n'" in str(refused.value)


OBJECTS = [
    {"user_id": user, "item_id": item, "behavior": "buy", "ts": ts // 1000} for user, item, _, ts in EVENTS
]


@pytest.mark.parametrize(
    ("document", "filter_"),
    [
        (json.dumps(OBJECTS[0], indent=2), "."),
        (json.dumps(OBJECTS, indent=2), ".[]"),
        ("[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]", ".[]"),
        ("[" + ",\n ".join(map(json.dumps, OBJECTS)) + "]", ".[]"),
        (json.dumps({"events": OBJECTS}, indent=1), "."),
        ("\n".join(json.dumps(one, indent=2) for one in OBJECTS), "."),
    ],
)
def test_a_json_document_over_several_lines_says_how_to_write_it(
    tmp_path: Path, document: str, filter_: str
) -> None:
    with pytest.raises(SourceError) as refused:
        read(tmp_path, document, "e.json")
    assert "e.json: it is one JSON document over several lines, and each line should be" in str(refused.value)
    assert f"jq -c '{filter_}' e.json > events.jsonl" in str(refused.value)


def test_an_array_in_one_line_and_lines_of_objects_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(OBJECTS), "e.json") == EVENTS
    assert read(tmp_path, "\n" + "\n".join(map(json.dumps, OBJECTS)), "e.json") == EVENTS


def test_a_bad_line_at_the_beginning_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"user_id": "u1",\n' + "\n".join(map(json.dumps, OBJECTS)), encoding="utf-8")
    source, found = FileSource(path, FileOptions()), []
    while (decoded := source.next_batch()) is not None:
        found.append((len(decoded.batch), len(decoded.rejected)))
    assert [sum(counts) for counts in zip(*found, strict=True)] == [2, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [(f"a,b,c,d\n{ROWS}", "no column"), (f"{HEADER}\r{ROWS[:-1]}".replace("\n", "\r"), "CR alone"),
     ("user_id,item_id,behavior,timestamp\ufffd", "no column")],
)  # fmt: skip
def test_a_fault_within_a_folder_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.csv").write_text(f"{HEADER}\n{ROWS}", encoding="utf-8")
    (folder / "b.csv").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(SourceError) as refused:
        read_path(folder)
    assert "parts/b.csv" in str(refused.value)
    assert says in str(refused.value)
