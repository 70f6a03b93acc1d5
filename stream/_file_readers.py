"""Files as blocks: whole lines of a text file, compressed or not, and row groups of a Parquet file.

    file ──► [line_blocks] ──► formats.delimited, formats.canonical_json
         └─► [ParquetRows] ──► columns

Memory is bounded by ``BLOCK_BYTES`` and ``LINE_BYTES_MAX``, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from driftgraph.stream.clock import TimeBounds
from driftgraph.stream.columns import Columns, decode_columns, strings_of, times_of
from driftgraph.stream.decode import MISSING, Event, EventRules, Refusal, RowOrigin, rejected
from driftgraph.stream.events import EMPTY, Decoded, Rejected, Strings
from driftgraph.stream.formats import FieldNames
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
        self._raw = _opened(path)
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
        return min(1.0, self._raw.tell() / self.size_bytes) if self.size_bytes else 1.0

    def close(self) -> None:
        """May be called twice."""
        self._stream.close()
        self._raw.close()


def _opened(path: Path) -> Any:
    if path.is_dir():
        raise SourceError(f"cannot read {path}: it is a folder; name one file of events")
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


class ParquetRows:
    """A Parquet file as events. Its columns have been checked to be of types that events can have."""

    def __init__(self, path: Path, names: FieldNames) -> None:
        self._path = path
        if path.is_dir() or not path.exists():
            _opened(path)  # says what is wrong with it
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"cannot read {path} as Parquet: {error}; check the file or name its format"
            ) from error
        self.row_count: int = self._file.metadata.num_rows
        schema = self._file.schema_arrow
        for field in (names.user, names.item, names.behavior, names.ts):
            if field not in schema.names:
                raise SourceError(
                    f"{path} has no column {field!r}, it has: {', '.join(schema.names)}; "
                    "name the right ones with columns user=…, item=…, behavior=…, ts=…"
                )
        self._names = names
        self._event_id = names.event_id if names.event_id in schema.names else None
        for field in (names.user, names.item, *([self._event_id] if self._event_id else [])):
            self._require(field, _is_text(schema, field) or _is_integer(schema, field), "text or integers")
        self._require(names.behavior, _is_text(schema, names.behavior), "text")
        kind = schema.field(names.ts).type
        timed = pa.types.is_timestamp(kind) and kind.tz is not None
        number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
        self._require(
            names.ts, timed or number or _is_text(schema, names.ts), "timestamps with a zone, numbers or text"
        )

    def _require(self, field: str, fits: bool, what: str) -> None:
        if not fits:
            kind = self._file.schema_arrow.field(field).type
            raise SourceError(f"column {field!r} of {self._path} is of type {kind}; it must hold {what}")

    def decoded(self, rules: EventRules, start: int) -> Iterator[tuple[Decoded, int]]:
        """Batches from row ``start`` on, each with the number of rows before its end."""
        wanted = [self._names.user, self._names.item, self._names.behavior, self._names.ts]
        wanted += [self._event_id] if self._event_id else []
        done = 0
        try:
            for read in self._file.iter_batches(BATCH_ROWS_MAX, columns=list(dict.fromkeys(wanted))):
                done += read.num_rows
                if done > start:
                    skipped = max(0, start - (done - read.num_rows))
                    yield self._decode(read.slice(skipped), rules, done - read.num_rows + skipped), done
        except (OSError, pa.ArrowInvalid) as error:
            raise SourceError(f"cannot read {self._path} to its end: {error}; get it again") from error

    def _decode(self, read: Any, rules: EventRules, first: int) -> Decoded:
        names, bounds = self._names, rules.times.bounds()
        times = times_of(read[names.ts])
        columns = Columns(
            user=strings_of(read[names.user]),
            item=strings_of(read[names.item]),
            behavior=strings_of(read[names.behavior]),
            ts=times,
            event_id=strings_of(read[self._event_id]) if self._event_id else None,
        )

        def row(at: int) -> Event | Rejected | None:
            values = {name: read[name][at].as_py() for name in read.schema.names}
            answer = self._event_of(values, times, at, rules, bounds)
            if isinstance(answer, Refusal):
                payload = msgspec.json.encode(values, enc_hook=str)
                return rejected(answer, payload, RowOrigin(f"{self._path.name}:{first + at + 1}"))
            return answer

        return decode_columns(
            columns,
            np.arange(read.num_rows),
            count=read.num_rows,
            partition=EMPTY.partition,
            rules=rules,
            bounds=bounds,
            row=row,
        )

    def _event_of(
        self, values: dict[str, Any], times: Any, at: int, rules: EventRules, bounds: TimeBounds
    ) -> Event | Refusal | None:
        ts = values[self._names.ts]
        if ts is not None and not isinstance(times, Strings):
            ts = times[at].item()  # a timestamp as the integer it is stored as
        return rules.event_of(
            user=values[self._names.user],
            item=values[self._names.item],
            behavior=values[self._names.behavior],
            ts=ts,
            event_id=values[self._event_id] if self._event_id else MISSING,
            bounds=bounds,
        )

    def close(self) -> None:
        """May be called twice."""
        self._file.close()


def _is_text(schema: Any, field: str) -> bool:
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_integer(schema: Any, field: str) -> bool:
    return bool(pa.types.is_integer(schema.field(field).type))
