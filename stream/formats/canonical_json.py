"""Canonical JSON: one object a message, ``{"event_id"?, "user_id", "item_id", "behavior", "ts"}``.

    Rows ──► [CanonicalJson] ──► Decoded

More fields are harmless; of a field that comes twice the last one counts. A message may also be an array of
such objects, each of which is an event by itself. The row decoder (msgspec) is the
definition. A batch goes through the compiled scan of ``json_kernels`` first, which understands the usual
message and leaves each other one to the row decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from driftgraph.stream.arrays import Index
from driftgraph.stream.events import Decoded, Strings
from driftgraph.stream.formats import JSON_NAMES, FieldNames, json_kernels
from driftgraph.stream.formats.event_rules import (
    MISSING,
    Answer,
    EraseRequest,
    Event,
    EventRules,
    Reason,
    Refusal,
    Rows,
)
from driftgraph.stream.formats.field_names import fields_in
from driftgraph.stream.formats.json_text import elements_of, read_json
from driftgraph.stream.formats.message_parts import MessageParts, decode_parts
from driftgraph.stream.formats.rules_by_column import Columns
from driftgraph.stream.formats.tombstones import Tombstones
from driftgraph.stream.kernels.byte_kernels import gather
from driftgraph.stream.time.clock import TimeBounds

_FIELDS = ("user", "item", "behavior", "ts", "event_id")
_BEHAVIOR = _FIELDS.index("behavior")  # the only field that may not be a number
_TS = _FIELDS.index("ts")  # the only field that may be a number with a fraction


class CanonicalJson:
    """Decodes JSON messages. Keeps nothing from one batch to the next."""

    def __init__(
        self, rules: EventRules, names: FieldNames = JSON_NAMES, tombstones: Tombstones | None = None
    ) -> None:
        self.rules = rules
        self.names = names
        self.tombstones = tombstones or Tombstones(erase=True, fields=(names.user,))
        written = tuple(getattr(names, name) for name in _FIELDS)
        if len(set(written)) < len(written):
            raise ValueError(f"two fields of an event cannot be read from one: {', '.join(written)}")
        shape = msgspec.defstruct(
            "JsonEvent",
            [(name, Any, msgspec.UNSET) for name in _FIELDS],
            rename=dict(zip(_FIELDS, written, strict=True)),
            gc=False,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(shape)
        self._wanted = Strings.of(written)

    def decode(self, rows: Rows) -> Decoded:
        """Decode a batch; the same result as ``decode_by_row``."""
        payloads = [payload or b"" for payload in rows.payloads]
        columns, unread = self._columns(payloads)
        found = ((row, elements_of(rows.payloads[row])) for row in unread.tolist())
        arrays = {row: elements for row, elements in found if elements}
        if not arrays:
            return self._decoded(rows, rows.payloads, MessageParts(np.arange(len(rows))), columns)
        parts, flat = _laid_out(rows, arrays)
        columns, _ = self._columns([payload or b"" for payload in flat])
        return self._decoded(rows, flat, parts, columns)

    def decode_by_row(self, rows: Rows) -> Decoded:
        """Decode each event by itself, which defines what is right."""
        found = enumerate(map(elements_of, rows.payloads))
        parts, flat = _laid_out(rows, {row: elements for row, elements in found if elements})
        return self._decoded(rows, flat, parts, None)

    def event_of(self, payload: bytes, bounds: TimeBounds) -> Event | EraseRequest | Refusal | None:
        """The event in one message, or in one element of an array, or why there is none."""
        read = read_json(payload, self._decoder.decode)
        if isinstance(read, Refusal):
            return read
        user, item, behavior, ts, event_id = (_or_missing(getattr(read, name)) for name in _FIELDS)
        found = self.rules.event_of(
            user=user, item=item, behavior=behavior, ts=ts, event_id=event_id, bounds=bounds
        )
        if isinstance(found, Refusal) and found.reason is Reason.MISSING_FIELD:
            return replace(found, detail=found.detail + fields_in(read_json(payload)))
        return found

    def _columns(self, payloads: list[bytes]) -> tuple[Columns, Index]:
        """The messages by column, and which of them the scan did not understand."""
        joined = b"".join(payloads)
        offsets = np.zeros(len(payloads) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)), out=offsets[1:])
        data = np.frombuffer(joined, np.uint8)
        spans = np.empty((len(payloads), len(_FIELDS), 2), np.int64)
        names, ascii_only = self._wanted, not _is_utf8(joined)
        fields = json_kernels.Fields(names.data, names.offsets[1:], _BEHAVIOR, _TS, ascii_only)
        places = np.empty((len(_FIELDS), 4), np.int64)
        json_kernels.scan(data, offsets, fields, spans, places)
        user, item, behavior, ts, event_id = (
            Strings(*gather(data, spans, field)) for field in range(len(_FIELDS))
        )
        unread = np.flatnonzero(behavior.offsets[1:] == behavior.offsets[:-1])
        return Columns(user, item, behavior, ts, event_id if len(event_id.data) else None), unread

    def _decoded(
        self, rows: Rows, payloads: Sequence[bytes | None], parts: MessageParts, columns: Columns | None
    ) -> Decoded:
        bounds = self.rules.times.bounds()

        def answer(number: int) -> Answer:
            payload = payloads[number]
            if payload is None:
                return self.tombstones.answer(rows.origin_of(int(parts.row[number])))
            return self.event_of(payload, bounds)

        return decode_parts(
            rows,
            parts,
            columns=columns,
            index=np.arange(0 if columns is None else len(parts)),
            answer=answer,
            rules=self.rules,
            bounds=bounds,
        )


def _laid_out(rows: Rows, arrays: Mapping[int, list[bytes]]) -> tuple[MessageParts, list[bytes | None]]:
    """The messages with each array replaced by its elements."""
    row: list[int] = []
    places: list[str] = []
    flat: list[bytes | None] = []
    for number, payload in enumerate(rows.payloads):
        elements = arrays.get(number)
        row += [number] * (len(elements) if elements else 1)
        places += [f"element [{n}]" for n in range(len(elements))] if elements else [""]
        flat += elements or [payload]
    return MessageParts(np.array(row, np.intp), places), flat


def _or_missing(value: object) -> object:
    return MISSING if value is msgspec.UNSET else value


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
