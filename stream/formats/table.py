"""Events in an Arrow table, whether it came from a Parquet file or in a message.

schema ──► [TableColumns] ──► columns(table) ──► columns.decode_columns
                              answer(table, row): the definition, for the rows that look odd
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from driftgraph.stream.clock import TimeBounds
from driftgraph.stream.columns import Columns, strings_of, times_of
from driftgraph.stream.decode import MISSING, Answer, EventRules
from driftgraph.stream.events import Strings
from driftgraph.stream.formats import FieldNames


class ColumnError(ValueError):
    """When a table lacks a column, or has one of a type that no event can have."""


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which columns of a schema hold the five values. They are of types that events can have."""

    names: FieldNames
    event_id: str | None  # None: the table has no such column

    @classmethod
    def of(cls, schema: Any, names: FieldNames, where: str) -> TableColumns:
        """Find them in a schema; ``where`` names the table in what is said.

        Raises:
            ColumnError: If one is not there, there twice, or of the wrong type.
        """
        # a column of nothing but nulls, as some libraries write an empty one, is none
        has_id = names.event_id in schema.names and not pa.types.is_null(schema.field(names.event_id).type)
        ids = (names.user, names.item, *([names.event_id] if has_id else []))
        for field in (names.user, names.item, names.behavior, names.ts):
            if field not in schema.names:
                raise ColumnError(
                    f"{where} has no column {field!r}, it has: {', '.join(schema.names)}; "
                    "name the right ones with columns user=…, item=…, behavior=…, ts=…"
                )
        for field in (*ids, names.behavior, names.ts):
            if schema.names.count(field) > 1:
                raise ColumnError(f"{where} has {schema.names.count(field)} columns {field!r}")
            kind = schema.field(field).type
            timed = pa.types.is_timestamp(kind) and kind.tz is not None
            number = pa.types.is_integer(kind)
            if field in ids:
                fits, what = number or _is_text(kind), "text or integers"
            elif field == names.behavior:
                fits, what = _is_text(kind), "text"
            else:
                real = pa.types.is_float32(kind) or pa.types.is_float64(kind)
                fits, what = (
                    timed or number or real or _is_text(kind),
                    "timestamps with a zone, numbers or text",
                )
            if not fits:
                raise ColumnError(f"column {field!r} of {where} is of type {kind}; it must hold {what}")
        return cls(names, names.event_id if has_id else None)

    @property
    def wanted(self) -> list[str]:
        """The columns to read, each once."""
        names = self.names
        every = [
            names.user,
            names.item,
            names.behavior,
            names.ts,
            *([self.event_id] if self.event_id else []),
        ]
        return list(dict.fromkeys(every))

    def columns(self, table: Any) -> Columns:
        """The table's rows, nothing judged.

        Raises:
            pyarrow.ArrowInvalid: If an unsigned time does not fit into int64.
        """
        names = self.names
        return Columns(
            user=strings_of(table[names.user]),
            item=strings_of(table[names.item]),
            behavior=strings_of(table[names.behavior]),
            ts=times_of(table[names.ts]),
            event_id=strings_of(table[self.event_id]) if self.event_id else None,
        )

    def values(self, table: Any, row: int) -> dict[str, Any]:
        """One row, as Python values."""
        return {name: table[name][row].as_py() for name in self.wanted}

    def answer(
        self, values: dict[str, Any], columns: Columns, row: int, rules: EventRules, bounds: TimeBounds
    ) -> Answer:
        """What the definition says of one row."""
        ts = values[self.names.ts]
        if ts is not None and not isinstance(columns.ts, Strings):
            ts = columns.ts[row].item()  # a timestamp as the integer it is stored as
        return rules.event_of(
            user=values[self.names.user],
            item=values[self.names.item],
            behavior=values[self.names.behavior],
            ts=ts,
            event_id=values[self.event_id] if self.event_id else MISSING,
            bounds=bounds,
        )


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
