"""Parquet as other engines write it: types, times and folders of part files; by column as by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from pyarrow import parquet

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Others
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.time.clock import REPLAY_TIMES, TimeRules
from tests.decoded import events_of

AT_MS = 1_783_000_000_123  # 2026-07-02T13:46:40.123Z
SHANGHAI = FileOptions(times=TimeRules(future_skew_ms=None, zone=ZoneInfo("Asia/Shanghai")))
UTC_TIMES = pa.array([datetime.fromtimestamp(AT_MS / 1_000, UTC)] * 2)
LOCAL_TIMES = pa.array([datetime(2026, 7, 2, 21, 46, 40, 123_000)] * 2)
U = UUID("6f442125-d9d9-47ad-878c-a07a1c476dee")


def table_of(**columns: Any) -> pa.Table:
    usual = {
        "user_id": ["u1", "u2"],
        "item_id": ["i1", "i2"],
        "behavior": ["click"] * 2,
        "timestamp": [AT_MS] * 2,
    }
    return pa.table({**usual, **columns})


def read(path: Path, options: FileOptions | None = None) -> Decoded:
    source = FileSource(path, options)
    parts = list(iter(source.next_batch, None))
    assert len(parts) == 1
    return parts[0]


def written(tmp_path: Path, options: FileOptions | None = None, **columns: Any) -> Decoded:
    parquet.write_table(table_of(**columns), tmp_path / "e.parquet")
    return read(tmp_path / "e.parquet", options)


def decimals(*values: str | None, scale: int = 0) -> pa.Array:
    return pa.array([None if v is None else Decimal(v) for v in values], pa.decimal128(38, scale))


IDS = [
    (decimals("7", "12345678901234567890"), ["7", "12345678901234567890"]),
    (decimals("0", "42.0", scale=10), ["0", "42"]),  # Oracle's NUMBER by Spark
    (pa.array([U.bytes, bytes(16)], pa.uuid()), [str(U), "00000000-0000-0000-0000-000000000000"]),
    (pa.array([b"u1", "é".encode()]), ["u1", "é"]),
    (pa.array([b"u1", b"u2"], pa.large_binary()), ["u1", "u2"]),
    (pa.array([b"u1", b"u2"]).dictionary_encode(), ["u1", "u2"]),
    (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
    (pa.array([7, 8], pa.uint64()), ["7", "8"]),
    (pa.array([7, 8], pa.int8()), ["7", "8"]),
    (pa.array(["u1", "u2"], pa.string_view()), ["u1", "u2"]),
]


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_id"])
@pytest.mark.parametrize(("column", "expected"), IDS)
def test_ids_of_each_type(tmp_path: Path, field: str, column: pa.Array, expected: list[str]) -> None:
    place = {"user_id": 0, "item_id": 1, "event_id": 5}[field]
    assert [event[place] for event in events_of(written(tmp_path, **{field: column}).batch)] == expected


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_id"])
@pytest.mark.parametrize(
    "column",
    [
        decimals("42.5", "7", scale=2),
        pa.array([b"\xff\xfe", b"7"]),
        pa.array([b" 7", b"7"]),
    ],
)
def test_a_value_that_is_no_id_costs_its_row(tmp_path: Path, field: str, column: pa.Array) -> None:
    decoded = written(tmp_path, **{field: column})
    place = {"user_id": 0, "item_id": 1, "event_id": 5}[field]
    assert [event[place] for event in events_of(decoded.batch)] == ["7"]
    assert [(letter.reason, letter.origin) for letter in decoded.rejected] == [("bad_id", "e.parquet:1")]
    assert field in json.loads(decoded.rejected[0].payload)


def test_a_null_of_any_type_is_no_id(tmp_path: Path) -> None:
    for column in (decimals(None, "7"), pa.array([None, U.bytes], pa.uuid()), pa.array([None, b"7"])):
        assert [letter.reason for letter in written(tmp_path, user_id=column).rejected] == ["bad_id"]


def test_behaviors_that_are_bytes_are_texts(tmp_path: Path) -> None:
    decoded = written(
        tmp_path, FileOptions(relations=("buy",), others=Others.REJECT), behavior=[b"buy", b"\xff"]
    )
    assert len(decoded.batch) == 1
    assert [letter.reason for letter in decoded.rejected] == ["bad_behavior"]


def test_int96_is_utc_and_of_any_year(tmp_path: Path) -> None:
    """Spark and Hive write UTC; in nanoseconds the year 2500 would come back as 1915."""
    far = datetime(2500, 1, 1, tzinfo=UTC)
    for zone in (None, "UTC"):
        column = pa.array([datetime.fromtimestamp(AT_MS / 1_000, UTC), far], pa.timestamp("us", zone))
        parquet.write_table(
            table_of(timestamp=column), tmp_path / "e.parquet", use_deprecated_int96_timestamps=True
        )
        for options in (None, SHANGHAI):
            got = read(tmp_path / "e.parquet", options).batch.time_ms.tolist()
            assert got == [AT_MS, int(far.timestamp()) * 1_000]


def test_int96_of_impala_has_no_zone(tmp_path: Path) -> None:
    """The name of Impala is put where Parquet has that of the writer."""
    path = tmp_path / "e.parquet"
    parquet.write_table(table_of(timestamp=LOCAL_TIMES), path, use_deprecated_int96_timestamps=True)
    writer = str(parquet.ParquetFile(path).metadata.created_by)
    name = "impala version 4.4".ljust(len(writer))
    path.write_bytes(path.read_bytes().replace(writer.encode(), name.encode()))
    assert parquet.ParquetFile(path).metadata.created_by == name
    with pytest.raises(SourceError, match=r"'timestamp' of .* with a zone, .* set events.timezone"):
        FileSource(path)
    assert read(path, SHANGHAI).batch.time_ms.tolist() == [AT_MS, AT_MS]


@pytest.mark.parametrize(
    ("column", "expected_ms"),
    [
        (UTC_TIMES, AT_MS),
        (UTC_TIMES.cast(pa.timestamp("ns", "Europe/Berlin")), AT_MS),
        (LOCAL_TIMES, AT_MS),
        (LOCAL_TIMES.cast(pa.timestamp("ns")), AT_MS),
        (LOCAL_TIMES.cast(pa.timestamp("s"), safe=False), AT_MS - 123),
        (
            pa.array([date(2026, 7, 3)] * 2),
            AT_MS - AT_MS % 86_400_000 + 16 * 3_600_000,
        ),  # midnight in Shanghai
        (pa.array(["2026-07-02 21:46:40.123"] * 2), AT_MS),
        (pa.array([b"2026-07-02 13:46:40.123 UTC"] * 2), AT_MS),
        (decimals(str(AT_MS), str(AT_MS)), AT_MS),
        (decimals("1783000000.123456", "1783000000.123456", scale=6), AT_MS),
    ],
)
def test_times_of_each_type(tmp_path: Path, column: pa.Array, expected_ms: int) -> None:
    assert written(tmp_path, SHANGHAI, timestamp=column).batch.time_ms.tolist() == [expected_ms] * 2


def test_a_timestamp_is_what_its_type_says_and_is_not_guessed(tmp_path: Path) -> None:
    """1971 in milliseconds is a number that would pass for seconds of the year 2969."""
    for unit in ("ms", "us"):
        column = pa.array([datetime(1971, 1, 1), datetime(2005, 1, 1)], pa.timestamp(unit, "UTC"))
        decoded = written(tmp_path, timestamp=column)
        assert [letter.reason for letter in decoded.rejected] == ["time_too_old"]
        assert decoded.batch.time_ms.tolist() == [1_104_537_600_000]


def test_a_bad_time_of_nanoseconds_is_told(tmp_path: Path) -> None:
    column = pa.array([1_000_000_001, None, AT_MS * 1_000_000], pa.timestamp("ns", "UTC"))
    decoded = written(
        tmp_path, timestamp=column, user_id=list("abc"), item_id=list("abc"), behavior=list("abc")
    )
    assert [letter.reason for letter in decoded.rejected] == ["time_too_old", "bad_time"]
    assert json.loads(decoded.rejected[0].payload)["timestamp"] == "1970-01-01 00:00:01.000000001Z"


def test_an_hour_that_clocks_skip_is_told_with_the_zone(tmp_path: Path) -> None:
    berlin = FileOptions(times=TimeRules(future_skew_ms=None, zone=ZoneInfo("Europe/Berlin")))
    column = pa.array([datetime(2026, 3, 29, 2, 30), datetime(2026, 3, 29, 3, 30)])
    [letter] = written(tmp_path, berlin, timestamp=column).rejected
    assert letter.reason == "bad_time"
    assert "no such time in Europe/Berlin" in letter.detail


@pytest.mark.parametrize(
    ("field", "column", "said"),
    [
        (
            "user_id",
            [1.0, 2.0],
            "'user_id' of .* is of type double; it must hold text or integers; write whole",
        ),
        ("user_id", pa.array([b"a" * 16] * 2, pa.binary(16)), "as Parquet's UUID"),
        (
            "item_id",
            [["a"], ["b"]],
            "'item_id' of .* is of type list<.*>; it must hold text or integers; name",
        ),
        ("item_id", [{"id": 1}, {"id": 2}], "'item_id' of .* struct<.*name another column"),
        ("event_id", [True, False], "'event_id' of .* is of type bool; it must hold text or integers"),
        ("user_id", UTC_TIMES, "'user_id' of .* is of type timestamp"),
        ("behavior", [1, 2], "'behavior' of .* is of type int64; it must hold text"),
        ("timestamp", LOCAL_TIMES, "'timestamp' of .* or set events.timezone"),
        ("timestamp", [date(2026, 7, 2)] * 2, "'timestamp' of .* date32.* or set events.timezone"),
        (
            "timestamp",
            pa.array([1.0, 2.0], pa.float32()),
            "'timestamp' of .* is of type float; .* write float64",
        ),
        ("timestamp", [[1], [2]], "'timestamp' of .* list"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_column(
    tmp_path: Path, field: str, column: Any, said: str
) -> None:
    parquet.write_table(table_of(**{field: column}), tmp_path / "e.parquet")
    with pytest.raises(SourceError, match=said):
        FileSource(tmp_path / "e.parquet")


# Folders


def part(user: str) -> pa.Table:
    return table_of(user_id=[user, user])


def one_by_one(write: Callable[[pa.Table, Path], None], folder: Path, suffix: str) -> list[str]:
    """Two days with their part files, and all that engines leave beside them; returns the users in order."""
    for day, users in (("2026-07-01", "ab"), ("2026-07-02", "cd")):
        (folder / f"day={day}").mkdir(parents=True)
        for number, user in enumerate(users):
            write(part(user), folder / f"day={day}" / f"part-0000{number}-x.c000{suffix}")
        (folder / f"day={day}" / f".part-00000-x.c000{suffix}.crc").write_bytes(b"crc")
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".hidden"):
        (folder / name).write_bytes(b"")
    (folder / "_temporary" / "0").mkdir(parents=True)
    write(part("half"), folder / "_temporary" / "0" / f"part-00000{suffix}")
    return [user for user in "abcd" for _ in range(2)]


def as_json(table: pa.Table, path: Path) -> None:
    rows = ({**row, "ts": row["timestamp"]} for row in table.to_pylist())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_csv(table: pa.Table, path: Path) -> None:
    rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
    path.write_text("\n".join([",".join(table.column_names), *rows, ""]))


WRITERS = [(parquet.write_table, ".snappy.parquet"), (as_json, ".json"), (as_csv, ".csv")]


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
def test_a_folder_of_part_files_is_one_file(
    tmp_path: Path, write: Callable[[pa.Table, Path], None], suffix: str
) -> None:
    users = one_by_one(write, tmp_path / "events", suffix)
    source = FileSource(tmp_path / "events")
    batches = list(iter(source.next_batch, None))
    assert [event[0] for decoded in batches for event in events_of(decoded.batch)] == users
    lines = 3 if suffix == ".csv" else 2
    assert [decoded.position["events"] for decoded in batches] == [lines * n for n in (1, 2, 3, 4)]
    assert source.read_share() == 1.0
    for start in range(1, 4 * lines + 1):
        rest = FileSource(tmp_path / "events", FileOptions(relations=("click",)), start={"events": start})
        left = [event[0] for decoded in iter(rest.next_batch, None) for event in events_of(decoded.batch)]
        rows_behind = sum(n % lines != 0 for n in range(start)) if suffix == ".csv" else start
        assert left == users[rows_behind:], start


def test_a_bad_row_is_told_with_its_part_file(tmp_path: Path) -> None:
    one_by_one(parquet.write_table, tmp_path / "events", ".parquet")
    parquet.write_table(
        table_of(user_id=["x", None]), tmp_path / "events" / "day=2026-07-02" / "part-00009.parquet"
    )
    source = FileSource(tmp_path / "events")
    letters = [letter for decoded in iter(source.next_batch, None) for letter in decoded.rejected]
    assert [letter.origin for letter in letters] == ["day=2026-07-02/part-00009.parquet:2"]


def test_a_column_may_stand_in_the_names_of_folders(tmp_path: Path) -> None:
    for behavior in ("buy", "click", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / "events" / f"behavior={behavior}" / "who=a%20b"
        folder.mkdir(parents=True)
        parquet.write_table(part("u").drop_columns(["behavior"]), folder / "part-0.parquet")
    source = FileSource(tmp_path / "events", FileOptions(columns={"user": "who"}, relations=("click", "buy")))
    batches = list(iter(source.next_batch, None))
    assert [event[:3] for decoded in batches for event in events_of(decoded.batch)] == [
        ("a b", "i1", 1), ("a b", "i2", 1), ("a b", "i1", 0), ("a b", "i2", 0),
    ]  # fmt: skip
    assert [letter.reason for decoded in batches for letter in decoded.rejected] == ["bad_behavior"] * 2


def test_a_part_file_that_lacks_a_column_or_has_no_rows(tmp_path: Path) -> None:
    folder = tmp_path / "events.parquet"
    folder.mkdir()
    parquet.write_table(part("a"), folder / "000000_0")  # Hive gives its files no ending
    parquet.write_table(part("b").slice(0, 0), folder / "000001_0")
    assert len(read(folder).batch) == 2
    parquet.write_table(part("c").drop_columns(["item_id"]), folder / "000002_0")
    with pytest.raises(SourceError, match="000002_0 has no column 'item_id'"):
        FileSource(folder)


@pytest.mark.parametrize(
    ("marker", "name"), [("_delta_log", "Delta"), (".hoodie", "Hudi"), ("metadata", "Iceberg")]
)
def test_a_table_whose_files_may_hold_deleted_rows_is_refused(tmp_path: Path, marker: str, name: str) -> None:
    parquet.write_table(part("a"), tmp_path / "part-0.parquet")
    (tmp_path / marker).mkdir()
    (tmp_path / marker / "v1.metadata.json").write_text("{}")
    with pytest.raises(SourceError, match=f"{name} table, whose files may hold rows that were deleted"):
        FileSource(tmp_path)


def test_a_folder_of_files_of_two_kinds_is_told(tmp_path: Path) -> None:
    parquet.write_table(part("a"), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("x")
    with pytest.raises(SourceError, match="cannot tell the format"):
        FileSource(tmp_path)


def test_what_no_library_here_can_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(part("a"), tmp_path / "e.parquet")

    class Lzo(parquet.ParquetFile):  # type: ignore[misc]
        def iter_batches(self, *_: Any, **__: Any) -> Any:
            raise pa.ArrowNotImplementedError("Support for codec 'lzo' not built")

    monkeypatch.setattr(parquet, "ParquetFile", Lzo)
    with pytest.raises(SourceError, match="'lzo' not built; write it with another compression"):
        FileSource(tmp_path / "e.parquet")


def test_without_a_zone_the_rules_of_a_replay_have_none() -> None:
    assert REPLAY_TIMES.bounds().zone is None
