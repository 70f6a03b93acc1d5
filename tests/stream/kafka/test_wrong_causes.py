"""A file that cannot be read is told with what is wrong with it, not with what is not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest
import redis

from driftgraph.snapshots.generations.keys import StoreError, connect, redis_errors
from driftgraph.stream.errors import SourceError
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.sources.zstd_window import MAGIC, window_bytes

ROWS = b"user_id,item_id,behavior,timestamp\n" + b"".join(
    b"u%d,i%d,click,%d\n" % (n, n, 1_783_000_000 + n) for n in range(100)
)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def frame(window_log: int, content: bytes = ROWS, *, eighths: int = 0) -> bytes:
    """A zstd frame with one raw block and a window of 2^window_log bytes and some eighths more."""
    descriptor = (window_log - 10) << 3 | eighths
    block = (1 | len(content) << 3).to_bytes(3, "little")
    return MAGIC + bytes([0, descriptor]) + block + content


def read(path: Path, data: bytes) -> int:
    """How many events a file has."""
    path.write_bytes(data)
    source = FileSource(path, FileOptions(format="csv"))
    count = 0
    while (part := source.next_batch()) is not None:
        count += part.read_count
    source.close()
    return count


def refused(path: Path, data: bytes) -> str:
    with pytest.raises(SourceError) as told:
        read(path, data)
    return str(told.value)


@pytest.mark.parametrize("window_log", [12, 20, 27])
def test_a_window_of_up_to_128_mib_is_read(tmp_path: Path, window_log: int) -> None:
    assert read(tmp_path / "e.csv.zst", frame(window_log)) == 100
    assert read(tmp_path / "e.csv.zst", SKIPPABLE + frame(window_log)) == 100, "as pzstd writes it"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (frame(28), "a window of 256 MiB"),
        (frame(27, eighths=4), "a window of 192 MiB"),
        (frame(31), "a window of 2,048 MiB"),
        (frame(20) + frame(30), "a window "),
        (SKIPPABLE + frame(31), "a window "),
    ],
)
def test_a_longer_window_is_named_and_the_file_is_not_called_damaged(
    tmp_path: Path, data: bytes, size: str
) -> None:
    said = refused(tmp_path / "e.csv.zst", data)
    assert size in said
    assert "zstd -d --long=31" in said
    assert "damaged" not in said


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (MAGIC + bytes([0x20, 200]), 200),
        (MAGIC + bytes([0x60, 0x00, 0x01]), 512),
        (MAGIC + bytes([0xA0]) + (1 << 28).to_bytes(4, "little"), 1 << 28),
        (MAGIC + bytes([0xE0]) + (1 << 33).to_bytes(8, "little"), 1 << 33),
        (MAGIC + bytes([0xA2, 7, 7]) + (1 << 28).to_bytes(4, "little"), 1 << 28),
        (b"user_id,item_id,behavior,ts", None),
    ],
)
def test_the_window_of_a_single_segment_is_its_content(head: bytes, size: int | None) -> None:
    assert window_bytes(head.ljust(32, b"\x00")) == size
    assert window_bytes(head[:5]) is None


def test_what_is_damaged_is_called_so(tmp_path: Path) -> None:
    whole = gzip.compress(ROWS)
    assert "damaged or cut off" in refused(tmp_path / "e.csv.gz", whole[:-20])
    assert "damaged or cut off" in refused(tmp_path / "e.csv.zst", frame(20)[:-20])


def test_what_a_file_is_instead_is_named_with_the_way_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("events.csv", ROWS)
    for data, what, advice in (
        (bz2.compress(ROWS), "compressed by bzip2", "bunzip2"),
        (lzma.compress(ROWS), "compressed by xz", "unxz"),
        (archive.read_bytes(), "a ZIP archive or a spreadsheet", "save the sheet as CSV"),
        (ROWS.decode().encode("utf-16"), "in UTF-16", "save it as UTF-8"),
        (b"PAR1" + bytes(100), "a Parquet file", "--format parquet"),
        (MAGIC + bytes([1, 0x50, 9]) + bytes(30), "compressed with a zstd dictionary", "zstd -d -D"),
    ):
        said = refused(path, data)
        assert what in said
        assert advice in said


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (redis.ConnectionError("max number of clients reached"), "raise its maxclients"),
        (
            redis.ConnectionError("Error -2 connecting. Name or service not known."),
            "check the name",
        ),
        (redis.ConnectionError("Error 1: [SSL: WRONG_VERSION_NUMBER]"), "check rediss://"),
        (redis.BusyLoadingError("Redis is loading"), "it still loads its data"),
        (redis.ConnectionError("Error 111 connecting. Connection refused."), "is it running"),
        (
            redis.AuthenticationError("invalid username-password pair"),
            "check redis.username and redis.password",
        ),
    ],
)
def test_a_redis_that_does_not_serve_is_asked_whether_it_runs_only_where_it_may_not(
    error: redis.RedisError, advice: str
) -> None:
    with pytest.raises(StoreError) as told, redis_errors(connect("redis://h/0"), "asking"):
        raise error
    assert advice in str(told.value)
    assert ("is it running" in str(told.value)) is (advice == "is it running")
