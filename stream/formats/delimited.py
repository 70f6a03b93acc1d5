"""CSV: one record a line, with a header or by position.

    file ──► block of whole lines ──► [Delimited] ──► Decoded

A record is one line: a quoted field may hold commas and doubled quotes, but no line break. So a stray quote
spoils only its own line, and line numbers are exact. The line decoder (``csv``) defines what is right. A
block is read by column with Arrow first, unless Arrow might split it otherwise (``_arrow_may_differ``).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from driftgraph.stream.arrays import I64, Index
from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats import CSV_NAMES, FieldNames
from driftgraph.stream.formats.arrow_columns import strings_of
from driftgraph.stream.formats.event_rules import (
    MISSING,
    Answer,
    EventRules,
    Reason,
    Refusal,
    RowOrigin,
    rejected,
    shown,
)
from driftgraph.stream.formats.rules_by_column import Columns, RowAnswer, decode_columns
from driftgraph.stream.time.clock import TimeBounds

FIELD_CHARACTERS_MAX = 131_072  # the csv module refuses a longer field
# ids that exports of Hive, MySQL and pandas write where there is no value
NO_VALUE = ("\\N", "NULL", "null", "NaN", "nan", "None")
_NEWLINE = 10


# names of columns in the exports of others, in lower case and without _
USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "visitorid", "customerid", "customer", "memberid"),
    "item": ("item", "itemid", "iid", "productid", "product", "sku", "articleid"),
    "behavior": (
        "behavior",
        "behaviour",
        "behaviortype",
        "event",
        "eventtype",
        "eventname",
        "action",
        "type",
    ),
    "ts": (
        "ts",
        "timestamp",
        "time",
        "eventtime",
        "datetime",
        "date",
        "createdat",
        "timestampms",
        "unixtime",
    ),
}


class NoColumnError(ValueError):
    """When a header lacks a column. ``meant``: the columns that are probably meant, by field."""

    def __init__(self, message: str, meant: Mapping[str, str]) -> None:
        super().__init__(message)
        self.meant = meant


@dataclass(frozen=True, slots=True)
class Layout:
    """The index of each value in a record of ``width`` fields, counted from 0."""

    user: int
    item: int
    behavior: int
    ts: int
    width: int
    event_id: int | None = None
    attributes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        places = [
            self.user,
            self.item,
            self.behavior,
            self.ts,
            *([] if self.event_id is None else [self.event_id]),
            *self.attributes,
        ]
        for place in places:
            if not 0 <= place < self.width:
                raise ValueError(
                    f"there is no column {place}: a record has {self.width}, 0 to {self.width - 1}"
                )


PLAIN = Layout(user=0, item=1, behavior=2, ts=3, width=4)
# UserBehavior.csv: user, item, category, behavior, ts
TAOBAO = Layout(user=0, item=1, behavior=3, ts=4, width=5)
CATEGORY = "category"  # what an attribute of that file is called


def layout_of_taobao(attributes: Sequence[str]) -> Layout:
    """The layout of UserBehavior.csv.

    Raises:
        ValueError: If an attribute is asked for that the file does not have.
    """
    for name in attributes:
        if name != CATEGORY:
            raise ValueError(f"there is no attribute {name!r}; the format taobao has: {CATEGORY!r}")
    return replace(TAOBAO, attributes=(2,) * len(attributes))


def layout_of_header(line: bytes, names: FieldNames = CSV_NAMES, separator: str = ",") -> Layout:
    """The layout that a header line gives.

    Raises:
        ValueError: If a column is missing; the message lists the columns of the header.
    """
    header = [name.strip() for name in fields_of(line, separator)]
    places: dict[str, int] = {}
    for field in ("user", "item", "behavior", "ts"):
        name = getattr(names, field)
        place = _place_of(name, header)
        if place is None:
            raise NoColumnError(
                f"there is no column {name!r}; the first line has: {', '.join(map(shown, header))}",
                _meant(names, header),
            )
        places[field] = place
    attributes: list[int] = []
    for name in names.attributes:
        if (place := _place_of(name, header)) is None:
            raise ValueError(
                f"there is no column {name!r} of an attribute; the first line has: "
                f"{', '.join(map(shown, header))}"
            )
        attributes.append(place)
    event_id = _place_of(names.event_id, header)
    return Layout(**places, width=len(header), event_id=event_id, attributes=tuple(attributes))


def _place_of(name: str, header: Sequence[str]) -> int | None:
    """Where a column is: by its name, else by the one that differs in upper and lower case alone."""
    if name in header:
        return header.index(name)
    same = [place for place, other in enumerate(header) if other.casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None


def _meant(names: FieldNames, header: Sequence[str]) -> dict[str, str]:
    """For each column that is not there the one that is usual in its place; empty if one has none or two."""
    meant: dict[str, str] = {}
    for field, usual in USUAL.items():
        if _place_of(getattr(names, field), header) is not None:
            continue
        there = [one for one in header if one.casefold().replace("_", "").replace(" ", "") in usual]
        if len(there) != 1:
            return {}
        meant[field] = there[0]
    return meant


def layout_of_positions(
    line: bytes, columns: Mapping[str, str], separator: str = ",", attributes: Sequence[str] = ()
) -> Layout:
    """The layout of a file without a header, from its first line and column numbers counted from 0.

    Without any numbers: user, item, behavior, ts; or with a category after the item if there are five.

    Raises:
        ValueError: If a column number is not a number, is beyond the line, or is missing.
    """
    width = len(fields_of(line, separator))
    if not columns:
        if width not in (PLAIN.width, TAOBAO.width):
            raise ValueError(
                f"the first line has {width} fields and no header, so nobody knows which they are"
            )
        plain = PLAIN if width == PLAIN.width else TAOBAO
        return replace(plain, attributes=_positions(attributes))
    places: dict[str, int] = {}
    for field in ("user", "item", "behavior", "ts", "event_id"):
        text = columns.get(field)
        if text is None and field == "event_id":
            continue
        if text is None:
            raise ValueError(
                f"without a header the position of {field} is needed too: {field}=N, counted from 0"
            )
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"without a header a column is a number from 0, got {field}={text}")
        places[field] = int(text)
    return Layout(**places, width=width, attributes=_positions(attributes))


def _positions(attributes: Sequence[str]) -> tuple[int, ...]:
    for text in attributes:
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"without a header the column of an attribute is a number from 0, got {text!r}")
    return tuple(map(int, attributes))


def fields_of(line: bytes, separator: str = ",") -> list[str]:
    """The fields of one line without its line break.

    Raises:
        UnicodeDecodeError: If it is not UTF-8.
        csv.Error: If a field is longer than ``FIELD_CHARACTERS_MAX``, or holds a carriage return.
    """
    return next(csv.reader([line.removesuffix(b"\r").decode()], delimiter=separator), [])


class Delimited:
    """Decodes blocks of CSV lines. Keeps nothing from one block to the next."""

    def __init__(self, rules: EventRules, layout: Layout, separator: str = ",") -> None:
        self.rules = rules
        self.layout = layout
        self._separator = separator

    def decode(self, block: bytes, first_line: int, origin_of: Callable[[int], str]) -> Decoded:
        """Decode whole lines; the same result as ``decode_by_line``. Blank lines are no records.

        Args:
            block: Lines as in the file, the last one with or without its line break.
            first_line: The number of the first one, for ``origin_of``.
            origin_of: Line number → the origin that a rejected event tells.
        """
        body, number, line_bytes_max = _records(block, first_line)
        index, columns = (
            (None, None) if _arrow_may_differ(body, line_bytes_max) else self._table(body, number)
        )
        return self._decoded(body, number, index, columns, origin_of)

    def decode_by_line(self, block: bytes, first_line: int, origin_of: Callable[[int], str]) -> Decoded:
        """Decode each line by itself, which defines what is right."""
        body, number, _ = _records(block, first_line)
        return self._decoded(body, number, None, None, origin_of)

    def event_of(self, line: bytes, bounds: TimeBounds) -> Answer:
        """The event in one line, or why there is none, or None if it is ignored."""
        try:
            fields = fields_of(line, self._separator)
        except UnicodeDecodeError as error:
            return Refusal(Reason.BAD_UTF8, f"not UTF-8: {error.reason} at byte {error.start} of the line")
        except csv.Error as error:
            return Refusal(Reason.BAD_ROW, f"{error}: {shown(line)}")
        layout = self.layout
        if len(fields) != layout.width:
            return Refusal(
                Reason.BAD_ROW, f"expected {layout.width} fields, got {len(fields)}: {shown(line)}"
            )
        return self.rules.event_of(
            user=_id(fields[layout.user]),
            item=_id(fields[layout.item]),
            behavior=fields[layout.behavior],
            ts=fields[layout.ts],
            event_id=MISSING if layout.event_id is None else _id(fields[layout.event_id]),
            attributes=tuple(_attribute(fields[place]) for place in layout.attributes),
            bounds=bounds,
        )

    def _table(self, body: bytes, number: I64) -> tuple[Index | None, Columns | None]:
        """The rows that Arrow reads with the right width, and their columns; or None, None.

        Arrow takes at least one line for each record, so as many records as lines means one line each.
        """
        invalid: list[int] = []

        def skip(row: Any) -> str:
            invalid.append(-1 if row.number is None else row.number - 1)
            return "skip"

        layout = self.layout
        five = {layout.user, layout.item, layout.behavior, layout.ts} | _set_of(layout.event_id)
        places = sorted(five.union(layout.attributes))
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(body),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,
                    block_size=len(body) + 1,
                    column_names=[str(place) for place in range(layout.width)],
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self._separator, invalid_row_handler=skip, ignore_empty_lines=False
                ),
                convert_options=arrow_csv.ConvertOptions(
                    check_utf8=False,  # checked before
                    column_types={str(place): pa.string() for place in places},
                    null_values=NO_VALUE,  # empty, so that the definition is asked
                    strings_can_be_null=True,
                    include_columns=[str(place) for place in places],
                ),
            )
        except pa.ArrowInvalid:
            return None, None
        if len(table) + len(invalid) != len(number) or -1 in invalid:
            return None, None
        index = np.delete(np.arange(len(number)), invalid)
        texts = {place: strings_of(table[str(place)]) for place in places}
        columns = Columns(
            texts[layout.user],
            texts[layout.item],
            texts[layout.behavior],
            texts[layout.ts],
            None if layout.event_id is None else texts[layout.event_id],
            tuple(texts[place] for place in layout.attributes),
        )
        return index, columns

    def _decoded(
        self,
        body: bytes,
        number: I64,
        index: Index | None,
        columns: Columns | None,
        origin_of: Callable[[int], str],
    ) -> Decoded:
        if len(number) == 0:
            return Decoded(EMPTY)
        bounds = self.rules.times.bounds()
        lines: list[bytes] = []  # split only if one row is needed

        def row(at: int) -> RowAnswer:
            if not lines:
                lines.extend(body.split(b"\n"))
            answer = self.event_of(lines[at], bounds)
            if isinstance(answer, Refusal):
                return rejected(answer, lines[at], RowOrigin(origin_of(int(number[at]))))
            return answer

        return decode_columns(
            columns,
            np.zeros(0, np.intp) if index is None else index,
            count=len(number),
            partition=EMPTY.partition,
            rules=self.rules,
            bounds=bounds,
            row=row,
        )


def _id(field: str) -> object:
    return MISSING if field in NO_VALUE else field


def _attribute(field: str) -> str:
    return "" if field in NO_VALUE else field


def _set_of(value: int | None) -> set[int]:
    return set() if value is None else {value}


def _records(block: bytes, first_line: int) -> tuple[bytes, I64, int]:
    """The block without blank lines and its last line break, each record's line number, the longest line."""
    body = block.removesuffix(b"\n").removesuffix(b"\r")
    blank = body.startswith((b"\n", b"\r\n")) or body.endswith(b"\n") or not body
    if blank or b"\n\n" in body or b"\n\r\n" in body:
        lines = body.split(b"\n")
        kept = [at for at, line in enumerate(lines) if line not in (b"", b"\r")]
        body = b"\n".join(lines[at] for at in kept)
        number = np.array(kept, np.int64) + first_line
        return body, number, max((len(lines[at]) for at in kept), default=0)
    ends = np.append(np.flatnonzero(np.frombuffer(body, np.uint8) == _NEWLINE), len(body))
    number = np.arange(first_line, first_line + len(ends), dtype=np.int64)
    return body, number, int(np.diff(ends, prepend=-1).max())


def _arrow_may_differ(body: bytes, line_bytes_max: int) -> bool:
    """Whether Arrow might split a block into other records than the line decoder, or accept more."""
    if not body or line_bytes_max > FIELD_CHARACTERS_MAX or body.count(b"\r") != body.count(b"\r\n"):
        return True
    if body.isascii():
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return True
    return False
