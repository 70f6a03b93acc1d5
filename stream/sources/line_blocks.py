"""Text files, compressed or not, as blocks of whole lines. ``parquet_rows`` reads Parquet files.

    file ──► [line_blocks] ──► formats.delimited, formats.canonical_json

Memory is bounded by ``BLOCK_BYTES`` and ``LINE_BYTES_MAX``, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from driftgraph.stream.errors import SourceError
from driftgraph.stream.sources import zstd_window

BATCH_ROWS_MAX = 65_536  # events of one read, whose columns fit into the cache of a core
BLOCK_BYTES = 1 << 20  # about 35,000 lines of a behavior log
HEAD_BYTES = 32  # the first bytes of a file, which tell what kind it is
LINE_BYTES_MAX = 16 << 20  # a longer line is no event, and its file no file of events
_MAGIC = ((b"\x1f\x8b", "gzip"), (zstd_window.MAGIC, "zstd"))
_OTHERS = (  # other kinds of files by their first bytes, and what to do with them
    (b"BZh", "compressed by bzip2", "decompress it: bunzip2"),
    (b"\xfd7zXZ", "compressed by xz", "decompress it: unxz"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "decompress it: unlz4"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"PAR1", "a Parquet file", "name its format: --format parquet"),
    (b"ORC", "an ORC file", "convert it to Parquet"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet"),
    (b"\xff\xfe", "no text in UTF-8 but in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "no text in UTF-8 but in UTF-16", "save it as UTF-8"),
)
_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10


class TextFile:
    """A text file, opened for one pass and decompressed as its first bytes tell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = opened(path)
        self.size_bytes: int = self._raw.size()
        head = self._raw.read(HEAD_BYTES)
        self._raw.seek(0)
        for magic, what, advice in _OTHERS:
            if head.startswith(magic):
                raise SourceError(f"cannot read {path}: it is {what}; {advice}")
        codec = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
        if zstd_window.is_skippable(head):
            codec = "zstd"
        if zstd_window.needs_dictionary(head):
            raise SourceError(
                f"cannot read {path}: it was compressed with a zstd dictionary; decompress it with that: "
                "zstd -d -D"
            )
        self._window_bytes = zstd_window.window_bytes(head)
        self._stream = self._raw if codec is None else pa.CompressedInputStream(self._raw, codec)
        self._codec = codec

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, fewer only at the end."""
        try:
            data: bytes = self._stream.read(size)
        except (OSError, pa.ArrowInvalid) as error:
            if self._codec == "zstd" and zstd_window.is_too_long(str(error)):
                raise SourceError(zstd_window.sentence(self._path, self._window_bytes)) from error
            what = f"its {self._codec} data is damaged or cut off" if self._codec else "it cannot be read"
            raise SourceError(
                f"cannot read {self._path} to its end: {what} ({error}); get it again"
            ) from error
        return data

    def read_share(self) -> float:
        """The share of the file that has been read, 0 to 1."""
        if self._raw.closed or not self.size_bytes:
            return 1.0
        behind: int = self._raw.tell()
        return min(1.0, behind / self.size_bytes)

    def close(self) -> None:
        """May be called twice."""
        self._stream.close()
        self._raw.close()


def opened(path: Path) -> Any:
    """The raw file.

    Raises:
        SourceError: If it is not there or cannot be opened.
    """
    if path.is_dir():
        raise SourceError(f"cannot read {path}: it is a folder; name a file of events")
    try:
        return pa.OSFile(str(path))
    except FileNotFoundError as error:
        raise SourceError(f"cannot read {path}: there is no such file; check the path") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}; check the file") from error


def line_blocks(file: TextFile, path: Path) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line, counted from 1.

    A block has at most ``BATCH_ROWS_MAX`` lines. The last line of the file may lack its line break.

    Raises:
        SourceError: If the file cannot be read, or a line is longer than ``LINE_BYTES_MAX``.
    """
    line, rest, at_start = 1, b"", True
    while chunk := file.read(BLOCK_BYTES):
        if at_start:
            chunk, at_start = chunk.removeprefix(_BOM), False
        whole, seam, tail = chunk.rpartition(b"\n")
        if not seam:
            rest += chunk
            if len(rest) > LINE_BYTES_MAX:
                limit = LINE_BYTES_MAX >> 20
                ends = "; its lines seem to end with CR alone: convert them" if rest.count(b"\r") > 1 else ""
                raise SourceError(
                    f"line {line} of {path} is longer than {limit} MiB{ends or '; is it a file of events?'}"
                )
            continue
        for block, count in _cut(rest + whole + seam):
            yield line, block
            line += count
        rest = tail
    if rest:
        yield line, rest


def _cut(block: bytes) -> Iterator[tuple[bytes, int]]:
    """A block in parts of at most ``BATCH_ROWS_MAX`` lines, each with its number of lines."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _NEWLINE) + 1
    start = 0
    for first in range(0, len(ends), BATCH_ROWS_MAX):
        last = min(first + BATCH_ROWS_MAX, len(ends))
        stop = int(ends[last - 1])
        yield block[start:stop], last - first
        start = stop
