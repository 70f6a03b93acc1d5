"""Events in an Arrow table, whether it came from a Parquet file or in a message.

schema ──► [TableColumns] ──► columns(table) ──► rules_by_column.decode_columns
                              answer(table, row): the row decoder, for the rows that look odd
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from driftgraph.stream.events import Strings
from driftgraph.stream.formats import FieldNames
from driftgraph.stream.formats.arrow_columns import (
    UNREADABLE_ID,
    strings_of,
    times_of,
    value_of,
    why_no_id,
    why_no_name,
    why_no_time,
)
from driftgraph.stream.formats.attribute_values import attribute_text, attribute_texts
from driftgraph.stream.formats.event_rules import MISSING, Answer, EventRules
from driftgraph.stream.formats.rules_by_column import Columns
from driftgraph.stream.time.clock import TimeBounds
from driftgraph.stream.wording import BY_KEY, Wording


class ColumnError(ValueError):
    """A table lacks a column, or has one of a type that no event can have."""


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which columns of a schema hold the five values. Their types have been checked."""

    names: FieldNames
    event_id: str | None  # None: the table has no such column

    @classmethod
    def of(
        cls, schema: Any, names: FieldNames, where: str, *, zoned: bool, wording: Wording = BY_KEY
    ) -> TableColumns:
        """Find the columns in a schema; ``where`` names the table in error messages.

        ``zoned``: whether a zone is configured for times without one.

        Raises:
            ColumnError: If a column is missing, is there twice, or has the wrong type.
        """
        # a column of the type null, as some libraries write an empty column, counts as missing
        has_id = names.event_id in schema.names and not pa.types.is_null(schema.field(names.event_id).type)
        ids = (names.user, names.item, *([names.event_id] if has_id else []))
        for field in (names.user, names.item, names.behavior, names.ts):
            if field not in schema.names:
                raise ColumnError(
                    f"{where} has no column {field!r}, it has: {', '.join(schema.names)}; {wording.columns}"
                )
        for field in names.attributes:
            if field not in schema.names:
                raise ColumnError(
                    f"{where} has no column {field!r} of an attribute, it has: {', '.join(schema.names)}"
                )
        for field in (*ids, names.behavior, names.ts):
            if schema.names.count(field) > 1:
                raise ColumnError(f"{where} has {schema.names.count(field)} columns {field!r}")
            kind = schema.field(field).type
            if field in ids:
                what = why_no_id(kind)
            else:
                what = why_no_name(kind) if field == names.behavior else why_no_time(kind, zoned=zoned)
            if what:
                way = f"; or {wording.columns}" if pa.types.is_nested(kind) else ""
                raise ColumnError(f"column {field!r} of {where} is of type {kind}; it must hold {what}{way}")
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
            *names.attributes,
        ]
        return list(dict.fromkeys(every))

    def columns(self, table: Any) -> Columns:
        """The rows of a table as columns of events, before any rule is applied.

        Raises:
            pyarrow.ArrowInvalid: If an unsigned time does not fit into int64.
        """
        names = self.names
        return Columns(
            user=strings_of(table[names.user], unreadable=UNREADABLE_ID),
            item=strings_of(table[names.item], unreadable=UNREADABLE_ID),
            behavior=strings_of(table[names.behavior]),
            ts=times_of(table[names.ts]),
            event_id=strings_of(table[self.event_id], unreadable=UNREADABLE_ID) if self.event_id else None,
            attributes=tuple(attribute_texts(table[name]) for name in names.attributes),
        )

    def values(self, table: Any, row: int) -> dict[str, Any]:
        """One row, as plain values."""
        return {name: value_of(table[name][row]) for name in self.wanted}

    def answer(
        self, values: dict[str, Any], columns: Columns, row: int, rules: EventRules, bounds: TimeBounds
    ) -> Answer:
        """The row decoder's answer for one row."""
        ts = values[self.names.ts]
        if isinstance(ts, str) and isinstance(columns.ts, np.ndarray):
            ts = columns.ts[row]  # a timestamp as the instant that it is
        elif ts is not None and isinstance(columns.ts, Strings) and len(text := columns.ts.bytes_at(row)):
            ts = text.decode()  # a date, a decimal, or a timestamp without a zone
        return rules.event_of(
            user=values[self.names.user],
            item=values[self.names.item],
            behavior=values[self.names.behavior],
            ts=ts,
            event_id=values[self.event_id] if self.event_id else MISSING,
            attributes=tuple(attribute_text(values[name]) for name in self.names.attributes),
            bounds=bounds,
        )
