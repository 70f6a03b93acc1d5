"""A file of attributes, one row an id: what is known of items or users before the first event.

items.csv, items.parquet ──► [read_attributes] ──► Attributes.say, as of before every event
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from driftgraph.stream.arrays import I64
from driftgraph.stream.attributes.attributes import ALWAYS_MS, Attributes
from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import ID_BYTES_MAX, Strings
from driftgraph.stream.formats.arrow_columns import strings_of, why_no_id
from driftgraph.stream.formats.attribute_values import attribute_texts
from driftgraph.stream.formats.delimited import NO_VALUE

BLOCK_BYTES = 4 << 20  # of a CSV that is read at once
ROWS_AT_ONCE = 65_536  # of Parquet
_PARQUET = (".parquet", ".pq", ".parq")


def read_attributes(
    path: Path,
    attributes: Attributes,
    side: int,
    *,
    key: str,
    columns: Sequence[str],
    reach_ms: Callable[[Strings], I64] | None = None,
) -> tuple[int, int]:
    """Take what a file says of ids; return how many rows were taken, and how many have no usable id.

    Args:
        path: CSV with a header (also gzip or zstd, by its name), or Parquet.
        attributes: Where they go.
        side: Whose they are.
        key: The column of the id.
        columns: The column of each of the side's fields.
        reach_ms: Up to when each id is erased; an erased one is left out. None: nobody is.

    Raises:
        SourceError: The file cannot be read, or lacks a column.
        WindowError: The disk is full.
    """
    taken = bad = 0
    for table in _tables(path, [key, *columns]):
        _check_key(path, key, table)
        ids = strings_of(table[key])
        length = np.diff(ids.offsets)
        kept = (length > 0) & (length <= ID_BYTES_MAX)
        bad += int((~kept).sum())
        if reach_ms is not None:
            kept &= reach_ms(ids) < ALWAYS_MS
        places = np.flatnonzero(kept)
        values = [attribute_texts(table[name]).take(places) for name in columns]
        attributes.say(side, ids.take(places), values, np.full(len(places), ALWAYS_MS, np.int64))
        taken += len(places)
    return taken, bad


def check_attributes(path: Path, *, key: str, columns: Sequence[str]) -> None:
    """Look at the first part of a file.

    Raises:
        SourceError: The file cannot be read, or lacks a column.
    """
    for table in _tables(path, [key, *columns]):
        _check_key(path, key, table)
        return


def _check_key(path: Path, key: str, table: Any) -> None:
    if why := why_no_id(table.schema.field(key).type):
        raise SourceError(f"column {key!r} of {path} must hold {why}")


def _tables(path: Path, wanted: list[str]) -> Iterator[Any]:
    """The wanted columns of the file, part after part."""
    wanted = list(dict.fromkeys(wanted))
    try:
        if path.suffix.lower() in _PARQUET:
            with parquet.ParquetFile(path) as file:
                _check(path, wanted, file.schema_arrow.names)
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
                    yield pa.Table.from_batches([batch])
            return
        options = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()), null_values=NO_VALUE, strings_can_be_null=True
        )
        read = arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
        with (
            pa.input_stream(str(path)) as stream,
            arrow_csv.open_csv(stream, read, convert_options=options) as reader,
        ):
            _check(path, wanted, reader.schema.names)
            for batch in reader:
                yield pa.Table.from_batches([batch]).select(wanted)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; name the file of attributes that is there") from error
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"cannot read the attributes in {path}: {error}; mend the file") from error


def _check(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise SourceError(f"{path} has no column {name!r}, it has: {', '.join(there)}")
