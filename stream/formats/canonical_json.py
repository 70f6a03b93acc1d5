"""Canonical JSON: one object a message, ``{"event_id"?, "user_id", "item_id", "behavior", "ts"}``.

    Rows ──► [CanonicalJson] ──► Decoded

More fields are harmless; of a field that comes twice the last one counts. The row decoder (msgspec) is the
definition. A batch goes through the compiled scan of ``_json_scan`` first, which understands the usual
message and leaves each other one to the row decoder.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from driftgraph.stream.clock import TimeBounds
from driftgraph.stream.columns import Columns, decode_columns
from driftgraph.stream.decode import MISSING, Event, EventRules, Reason, Refusal, Rows, rejected, shown
from driftgraph.stream.events import Decoded, Rejected, Strings
from driftgraph.stream.formats import JSON_NAMES, FieldNames
from driftgraph.stream.formats import _json_scan as kernels

_FIELDS = ("user", "item", "behavior", "ts", "event_id")
_TS = _FIELDS.index("ts")  # the one that may be a number with a fraction


class CanonicalJson:
    """Decodes JSON messages. Keeps nothing from one batch to the next."""

    def __init__(self, rules: EventRules, names: FieldNames = JSON_NAMES) -> None:
        self.rules = rules
        self.names = names
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
        bounds = self.rules.times.bounds()
        columns = self._columns([payload or b"" for payload in rows.payloads])
        return self._decoded(rows, columns, np.arange(len(rows)), bounds)

    def decode_by_row(self, rows: Rows) -> Decoded:
        """Decode each message by itself: the definition."""
        return self._decoded(rows, None, np.arange(0), self.rules.times.bounds())

    def event_of(  # noqa: PLR0911  one for each fault
        self, payload: bytes | None, bounds: TimeBounds
    ) -> Event | Refusal | None:
        """The event in one message, or why there is none, or None if it is ignored."""
        if payload is None:
            return Refusal(Reason.TOMBSTONE, "a record without a value")
        try:
            read = self._decoder.decode(payload.decode())
        except UnicodeDecodeError as error:
            return Refusal(Reason.BAD_UTF8, f"not UTF-8: {error.reason} at byte {error.start}")
        except msgspec.ValidationError as error:
            if payload.lstrip()[:1] == b"{":  # a number that nothing can hold
                return Refusal(Reason.BAD_JSON, f"{error}: {shown(payload)}")
            return Refusal(Reason.NOT_OBJECT, f"the message must be a JSON object, got {shown(payload)}")
        except msgspec.DecodeError as error:
            return Refusal(Reason.BAD_JSON, f"{error}: {shown(payload)}")
        except RecursionError:
            return Refusal(Reason.BAD_JSON, f"nested too deeply: {shown(payload)}")
        values = {name: _or_missing(getattr(read, name)) for name in _FIELDS}
        return self.rules.event_of(**values, bounds=bounds)

    def _columns(self, payloads: list[bytes]) -> Columns:
        joined = b"".join(payloads)
        offsets = np.zeros(len(payloads) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)), out=offsets[1:])
        data = np.frombuffer(joined, np.uint8)
        spans = np.empty((len(payloads), len(_FIELDS), 2), np.int64)
        name_ends = self._wanted.offsets[1:]
        kernels.scan(data, offsets, self._wanted.data, name_ends, _TS, not _is_utf8(joined), spans)
        user, item, behavior, ts, event_id = (
            Strings(*kernels.gather(data, spans, field)) for field in range(len(_FIELDS))
        )
        return Columns(user, item, behavior, ts, event_id if len(event_id.data) else None)

    def _decoded(self, rows: Rows, columns: Columns | None, index: Any, bounds: TimeBounds) -> Decoded:
        def row(number: int) -> Event | Rejected | None:
            payload = rows.payloads[number]
            answer = self.event_of(payload, bounds)
            if isinstance(answer, Refusal):
                return rejected(answer, payload, rows.origin_of(number))
            return answer

        return decode_columns(
            columns,
            index,
            count=len(rows),
            partition=rows.partition,
            rules=self.rules,
            bounds=bounds,
            row=row,
        )


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
