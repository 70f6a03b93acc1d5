"""Text files as blocks of whole lines, compressed or not. ``_parquet_rows`` reads the other kind.

    file ──► [line_blocks] ──► formats.delimited, formats.canonical_json

Memory is bounded by ``BLOCK_BYTES`` and ``LINE_BYTES_MAX``, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from driftgraph.stream.source import SourceError

BATCH_ROWS_MAX = 65_536  # events of one read; a batch of all columns stays in the cache of a core
BLOCK_BYTES = 1 << 20  # about 35,000 lines of a behavior log
LINE_BYTES_MAX = 16 << 20  # a longer line is no event, and the file no event file
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10


class TextFile:
    """A text file opened for one pass, decompressed by what its first bytes say."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = opened(path)
        self.size_bytes: int = self._raw.size()
        head = self._raw.read(4)
        self._raw.seek(0)
        codec = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
        self._stream = self._raw if codec is None else pa.CompressedInputStream(self._raw, codec)
        self._codec = codec

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, fewer only at the end."""
        try:
            data: bytes = self._stream.read(size)
        except (OSError, pa.ArrowInvalid) as error:
            what = f"its {self._codec} data is damaged or cut off" if self._codec else "it cannot be read"
            raise SourceError(
                f"cannot read {self._path} to its end: {what} ({error}); get it again"
            ) from error
        return data

    def read_share(self) -> float:
        """How much of the file has been read, 0 to 1."""
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
    """Whole lines in blocks, each with the number of its first line from 1; the last may lack its line break.

    A block has at most ``BATCH_ROWS_MAX`` lines.

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
                raise SourceError(
                    f"line {line} of {path} is longer than {limit} MiB; is it a file of events?"
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
