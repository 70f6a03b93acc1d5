"""Several events in one message: laid out flat and decoded together; a bad one is told with its place.

    Rows ──► a format ──► [MessageParts] + columns ──► [decode_parts] ──► Decoded

Offsets count messages, so the good events of a message are applied although others are bad. Each bad event
becomes a dead letter with the whole message, and its detail says which event it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from driftgraph.stream.arrays import Index
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Answer, EraseRequest, EventRules, Refusal, Rows, rejected
from driftgraph.stream.formats.rules_by_column import Columns, RowAnswer, decode_columns
from driftgraph.stream.time.clock import TimeBounds


class Places(Protocol):
    """A list of texts, or an object that makes each text when it is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True, slots=True)
class MessageParts:
    """N events of some messages: the row of each event's message, and its place in that message.

    The place is empty if the event is the whole message. ``place`` is None if all events are.
    """

    row: Index
    place: Places | None = None

    def __len__(self) -> int:
        return len(self.row)


def decode_parts(
    rows: Rows,
    parts: MessageParts,
    *,
    columns: Columns | None,
    index: Index,
    answer: Callable[[int], Answer],
    rules: EventRules,
    bounds: TimeBounds,
) -> Decoded:
    """Decode events like ``rules_by_column.decode_columns``; ``answer`` is the row decoder of one event."""

    def part(number: int) -> RowAnswer:
        got = answer(number)
        if isinstance(got, EraseRequest) and got.time_ms is None:
            return got.at(rows.origin_of(int(parts.row[number])).timestamp_ms, bounds)
        if not isinstance(got, Refusal):
            return got
        row, place = int(parts.row[number]), parts.place[number] if parts.place else ""
        told = replace(got, detail=f"{place}: {got.detail}") if place else got
        return rejected(told, rows.payloads[row], rows.origin_of(row))

    return decode_columns(
        columns,
        index,
        count=len(parts),
        partition=rows.partition[parts.row] if parts.place and len(rows.partition) else rows.partition,
        rules=rules,
        bounds=bounds,
        row=part,
    )
