"""Arrow IPC streams: many events in one message, for producers that send in bulk.

    Rows ──► pyarrow, checked ──► arrow_table.TableColumns ──► [ArrowStream] ──► Decoded

The columns are user_id, item_id, behavior, ts and, optionally, event_id; others are harmless. Python code
runs once for each message and for events that look odd, not for each event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from driftgraph.stream.events import EMPTY, Decoded, Erasure
from driftgraph.stream.formats import JSON_NAMES, FieldNames
from driftgraph.stream.formats.arrow_table import ColumnError, TableColumns
from driftgraph.stream.formats.event_rules import (
    Answer,
    EventRules,
    LeftOut,
    Reason,
    Refusal,
    Rows,
    rejected,
    shown,
)
from driftgraph.stream.formats.message_parts import MessageParts, decode_parts
from driftgraph.stream.formats.rules_by_column import Columns, concat
from driftgraph.stream.formats.tombstones import Tombstones
from driftgraph.stream.time.clock import TimeBounds
from driftgraph.stream.wording import BY_KEY, Wording

EVENTS_MAX: Final = 1 << 21  # of one message: a limit for messages that are compressed


class ArrowStream:
    """Decodes Arrow IPC streams, one or more events a message. Keeps nothing from one batch to the next."""

    def __init__(
        self,
        rules: EventRules,
        names: FieldNames = JSON_NAMES,
        tombstones: Tombstones | None = None,
        wording: Wording = BY_KEY,
    ) -> None:
        self.rules = rules
        self.names = names
        self.tombstones = tombstones or Tombstones(erase=True, fields=(names.user,))
        self._wording = wording

    def decode(self, rows: Rows) -> Decoded:
        """Decode a batch of messages."""
        bounds = self.rules.times.bounds()
        return _joined([self._message(rows, number, bounds, by_row=False) for number in range(len(rows))])

    def decode_by_row(self, rows: Rows) -> Decoded:
        """Decode each event by itself: the definition."""
        bounds = self.rules.times.bounds()
        return _joined([self._message(rows, number, bounds, by_row=True) for number in range(len(rows))])

    def _message(self, rows: Rows, number: int, bounds: TimeBounds, *, by_row: bool) -> Decoded:
        payload = rows.payloads[number]
        read = self._read(payload) if payload is not None else None
        if read is None or isinstance(read, Refusal):
            at = rows.origin_of(number)
            answer = self.tombstones.answer(at) if read is None else read
            if isinstance(answer, LeftOut):
                return Decoded(EMPTY, ignored=1, tombstones=1)
            if isinstance(answer, Refusal):
                return Decoded(EMPTY, (rejected(answer, payload, at),))
            time_ms = answer.at(at.timestamp_ms, bounds).time_ms
            partition = int(rows.partition[number]) if len(rows.partition) else None
            return Decoded(EMPTY, erased=(Erasure(answer.user, 0, time_ms, partition),))
        table, wanted, columns = read

        def event(row: int) -> Answer:
            return wanted.answer(wanted.values(table, row), columns, row, self.rules, bounds)

        return decode_parts(
            rows,
            MessageParts(np.full(table.num_rows, number, np.intp), _RowNames(table.num_rows)),
            columns=None if by_row else columns,
            index=np.arange(0 if by_row else table.num_rows),
            answer=event,
            rules=self.rules,
            bounds=bounds,
        )

    def _read(self, payload: bytes) -> tuple[Any, TableColumns, Columns] | Refusal:
        """The table in a message, checked, since the bytes of a message may be anything."""
        try:
            with pa.ipc.open_stream(payload) as stream:
                wanted = TableColumns.of(
                    stream.schema,
                    self.names,
                    "the message",
                    zoned=self.rules.times.zone is not None,
                    wording=self._wording,
                )
                batches, count = [], 0
                for batch in stream:
                    count += batch.num_rows
                    if count > EVENTS_MAX:
                        return Refusal(Reason.BAD_SHAPE, f"more than {EVENTS_MAX:,} events in one message")
                    batches.append(batch.select(wanted.wanted))
                    batches[-1].validate(full=True)
            table = pa.Table.from_batches(batches, pa.schema([stream.schema.field(n) for n in wanted.wanted]))
            return table, wanted, wanted.columns(table)
        except ColumnError as error:
            return Refusal(Reason.BAD_SHAPE, str(error))
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            KeyError,
        ) as error:  # also for names that are not UTF-8
            why = str(error).partition("\n")[0]
            return Refusal(Reason.BAD_ENCODING, f"no Arrow IPC stream ({why}): {shown(payload)}")


class _RowNames:
    """``row N`` for each row. The text is made only for a message about the row."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> str:
        return f"row {row}"


def _joined(parts: list[Decoded]) -> Decoded:
    """The columns of all messages as one."""
    erased: list[Erasure] = []
    before = 0
    for part in parts:
        erased += [replace(one, place=one.place + before) for one in part.erased]
        before += len(part.batch)
    return Decoded(
        concat([part.batch for part in parts]),
        tuple(one for part in parts for one in part.rejected),
        ignored=sum(part.ignored for part in parts),
        tombstones=sum(part.tombstones for part in parts),
        erased=tuple(erased),
    )
