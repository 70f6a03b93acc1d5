"""A Parquet file as batches of events, whichever engine has written it.

    part file ──► pyarrow ──► arrow_table.TableColumns ──► [ParquetRows] ──► columns

INT96 times of Spark and Hive are UTC and those of Impala have no zone; newer Parquet timestamps say which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats import FieldNames
from driftgraph.stream.formats.arrow_table import ColumnError, TableColumns
from driftgraph.stream.formats.event_rules import EventRules, Refusal, RowOrigin, rejected
from driftgraph.stream.formats.rules_by_column import RowAnswer, decode_columns
from driftgraph.stream.sources.line_blocks import BATCH_ROWS_MAX, opened
from driftgraph.stream.sources.part_files import Part
from driftgraph.stream.wording import Wording

_INT96_UNIT: Final = "us"  # in nanoseconds an INT96 of the year 2263 would be one of 1678


class ParquetRows:
    """A Parquet file as events. The types of its columns have been checked.

    A column that the file lacks may be in the names of its folders, such as ``behavior=click``. ``zoned``:
    whether a zone is configured for times without one.
    """

    def __init__(self, part: Part, names: FieldNames, *, zoned: bool, wording: Wording) -> None:
        self._part = part
        path = part.path
        if path.is_dir() or not path.exists():
            opened(path)  # raises the error that says what is wrong with the file
        try:
            self._file = parquet.ParquetFile(path, memory_map=True, coerce_int96_timestamp_unit=_INT96_UNIT)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"cannot read {path} as Parquet: {error}; check the file, or if it is another format "
                f"{wording.format} csv, taobao or json"
            ) from error
        self.row_count: int = self._file.metadata.num_rows
        self.done = 0  # rows that were returned
        try:
            self._schema = self._schema_with_zones()
            self._columns = TableColumns.of(self._schema, names, str(path), zoned=zoned, wording=wording)
        except ColumnError as error:
            raise SourceError(str(error)) from error

    def decoded(self, rules: EventRules, start: int) -> Iterator[tuple[Decoded | None, int]]:
        """Batches, each with the number of rows up to its end; None in place of one before row ``start``."""
        inside = [name for name in self._columns.wanted if name in self._file.schema_arrow.names]
        try:
            for read in self._file.iter_batches(BATCH_ROWS_MAX, columns=inside):
                first, self.done = self.done, self.done + read.num_rows
                skipped = max(0, start - first)
                fresh = self._whole(read).slice(skipped) if skipped < read.num_rows else None
                yield None if fresh is None else self._decode(fresh, rules, first + skipped), self.done
        except pa.ArrowNotImplementedError as error:
            raise SourceError(
                f"cannot read {self._part.path}: {error}; write it with another compression or encoding"
            ) from error
        except (OSError, pa.ArrowInvalid) as error:
            raise SourceError(f"cannot read {self._part.path} to its end: {error}; get it again") from error

    def read_share(self) -> float:
        """The share of the file that has been read, 0 to 1."""
        return self.done / self.row_count if self.row_count else 1.0

    def _schema_with_zones(self) -> Any:
        """The file's schema with the columns in the names of its folders, and with INT96 as instants."""
        schema, stored = self._file.schema_arrow, self._file.schema
        by_impala = str(self._file.metadata.created_by).lower().startswith("impala")
        leaves = (stored.column(number) for number in range(len(stored)))
        int96 = {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}
        fields = [
            one.with_type(pa.timestamp(_INT96_UNIT, "UTC")) if one.name in int96 and not by_impala else one
            for one in schema
        ]
        fields += [pa.field(name, pa.string()) for name in self._part.values if name not in schema.names]
        return pa.schema(fields)

    def _whole(self, read: Any) -> Any:
        """A batch with the types of our schema and the columns in the names of folders."""
        kinds = {name: self._schema.field(name).type for name in self._columns.wanted}
        columns = [
            read.column(name).cast(kind) if name in read.schema.names else self._constant(name, read.num_rows)
            for name, kind in kinds.items()
        ]
        return pa.RecordBatch.from_arrays(columns, names=list(kinds))

    def _constant(self, name: str, count: int) -> Any:
        return pa.repeat(pa.scalar(self._part.values[name], pa.string()), count)

    def _decode(self, read: Any, rules: EventRules, first: int) -> Decoded:
        bounds = rules.times.bounds()
        columns = self._columns.columns(read)

        def row(at: int) -> RowAnswer:
            values = self._columns.values(read, at)
            answer = self._columns.answer(values, columns, at, rules, bounds)
            if isinstance(answer, Refusal):
                payload = msgspec.json.encode(values, enc_hook=str)
                return rejected(answer, payload, RowOrigin(f"{self._part.name}:{first + at + 1}"))
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

    def close(self) -> None:
        """May be called twice."""
        self._file.close()
