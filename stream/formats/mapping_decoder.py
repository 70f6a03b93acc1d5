"""Decodes messages that a mapping describes: reads them as objects and looks up each path.

    Rows ──► Reader (JSON, CloudEvents, registry) ──► object ──► EventMapping ──► [MappingDecoder] ──► Decoded

``decode_by_row`` defines what is right: each event by itself through ``EventRules.event_of``. ``decode``
looks up the values in the same way, and then judges those that are plain texts and integers by column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from driftgraph.stream.arrays import Index
from driftgraph.stream.events import Decoded, Strings
from driftgraph.stream.formats.attribute_values import attribute_text
from driftgraph.stream.formats.event_rules import (
    MISSING,
    Answer,
    EraseRequest,
    EventRules,
    LeftOut,
    Reason,
    Refusal,
    RowOrigin,
    Rows,
)
from driftgraph.stream.formats.field_mapping import EventMapping, Misfit, Values
from driftgraph.stream.formats.field_names import fields_in
from driftgraph.stream.formats.json_text import no_object, read_json
from driftgraph.stream.formats.message_parts import MessageParts, decode_parts
from driftgraph.stream.formats.paths import ABSENT
from driftgraph.stream.formats.rules_by_column import Columns
from driftgraph.stream.formats.tombstones import Tombstones
from driftgraph.stream.time.clock import TimeBounds

Origin = Callable[[], RowOrigin]  # called only where it is needed: it costs more than reading the message
_INT64: Final = 1 << 63
_Part = Values | Refusal | EraseRequest | LeftOut | None  # the result of a message, or of one event of it


class Reader(Protocol):
    """Turns the bytes of a message into an object as JSON has them: dict, list, text, number, …"""

    may_wait: bool  # whether ``read`` and ``key`` may raise NotNowError

    def read(self, payload: bytes, origin: Origin) -> object | Refusal:
        """The object, or why there is none.

        Raises:
            NotNowError: If a service that it needs is away.
        """
        ...

    def key(self, raw: bytes) -> bytes:
        """A record's key as text or JSON.

        Raises:
            NotNowError: If a service that it needs is away.
        """
        ...


class JsonReader:
    """JSON in UTF-8."""

    may_wait = False

    def read(self, payload: bytes, origin: Origin) -> object | Refusal:  # noqa: ARG002  as in the protocol
        """The JSON value."""
        return read_json(payload)

    def key(self, raw: bytes) -> bytes:
        """The key unchanged."""
        return raw


class MappingDecoder:
    """Decodes messages by a mapping. Keeps nothing from one batch to the next."""

    def __init__(
        self,
        rules: EventRules,
        mapping: EventMapping,
        reader: Reader | None = None,
        *,
        erase_by_key: bool | None = None,
    ) -> None:
        """``erase_by_key``: whether a record without a value erases its key; None: if the key is the user."""
        self.rules = rules
        self.mapping = mapping
        self._reader = reader or JsonReader()
        self._needs_record = mapping.needs_record
        self._needs_key = mapping.needs_key
        self.tombstones = Tombstones(
            erase=mapping.user_is_key if erase_by_key is None else erase_by_key,
            fields=None if mapping.user_is_key else mapping.user_fields,
            plain=self._reader.key,
        )

    @property
    def may_wait(self) -> bool:
        """Whether decoding may raise ``NotNowError``."""
        return self._reader.may_wait

    def decode(self, rows: Rows) -> Decoded:
        """Decode a batch; the same result as ``decode_by_row``."""
        parts, found = self._parts(rows)
        columns, index = _columns(found)
        return self._decoded(rows, parts, found, columns, index)

    def decode_by_row(self, rows: Rows) -> Decoded:
        """Decode each event by itself, which defines what is right."""
        parts, found = self._parts(rows)
        return self._decoded(rows, parts, found, None, np.zeros(0, np.intp))

    def _parts(self, rows: Rows) -> tuple[MessageParts, list[_Part]]:
        """The events of all messages, in order."""
        row: list[int] = []
        places: list[str] = []
        found: list[_Part] = []
        for number, payload in enumerate(rows.payloads):
            for place, part in self._of_message(rows, number, payload):
                row.append(number)
                places.append(place)
                found.append(part)
        return MessageParts(np.array(row, np.intp), places), found

    def _of_message(self, rows: Rows, number: int, payload: bytes | None) -> list[tuple[str, _Part]]:
        def origin() -> RowOrigin:
            return rows.origin_of(number)

        if payload is None:
            return [("", self.tombstones.answer(origin()))]
        message = self._reader.read(payload, origin)
        if isinstance(message, Refusal):
            return [("", message)]
        record = origin() if self._needs_record else None
        if self._needs_key and record is not None and record.key is not None:
            record = replace(record, key=self._reader.key(record.key))
        if isinstance(message, list) and message:
            return [
                (f"element [{n}].{place}" if place else f"element [{n}]", part)
                for n, one in enumerate(message)
                for place, part in self._of_object(one, record, payload)
            ]
        return self._of_object(message, record, payload)

    def _of_object(
        self, message: object, record: RowOrigin | None, payload: bytes
    ) -> list[tuple[str, _Part]]:
        if isinstance(message, Refusal):  # an element of a list that the reader has refused
            return [("", message)]
        if not isinstance(message, dict):
            return [("", no_object(payload))]
        return [
            (place, Refusal(Reason.BAD_SHAPE, part.detail) if isinstance(part, Misfit) else part)
            for place, part in self.mapping.events(message, record)
        ]

    def _decoded(
        self, rows: Rows, parts: MessageParts, found: list[_Part], columns: Columns | None, index: Index
    ) -> Decoded:
        bounds = self.rules.times.bounds()

        def answer(number: int) -> Answer:
            got, row = self._answer(found[number], bounds), int(parts.row[number])
            is_whole = not (parts.place and parts.place[number])  # and not a line of an order
            if is_whole and isinstance(got, Refusal) and got.reason is Reason.MISSING_FIELD:
                message = self._reader.read(rows.payloads[row] or b"", lambda: rows.origin_of(row))
                return replace(got, detail=got.detail + fields_in(message))
            return got

        return decode_parts(
            rows,
            parts,
            columns=columns,
            index=index,
            answer=answer,
            rules=self.rules,
            bounds=bounds,
        )

    def _answer(self, part: _Part, bounds: TimeBounds) -> Answer:
        if not isinstance(part, Values):
            return part
        user, item, behavior, ts, event_id = (MISSING if value is ABSENT else value for value in part[:5])
        return self.rules.event_of(
            user=user,
            item=item,
            behavior=behavior,
            ts=ts,
            event_id=event_id,
            attributes=tuple(map(_said, part.attributes)),
            bounds=bounds,
        )


def _columns(found: list[_Part]) -> tuple[Columns, Index]:
    """The columns of those events whose values are all plain texts or integers, and their indexes."""
    index: list[int] = []
    columns: tuple[list[str], list[str], list[str], list[str], list[str]] = ([], [], [], [], [])
    users, items, behaviors, times, event_ids = columns
    attributes: list[tuple[str, ...]] = []
    for number, part in enumerate(found):
        if not isinstance(part, Values):
            continue
        user, item, behavior, ts, event_id, said = part
        if event_id is ABSENT or event_id is None:
            event_id = ""
        if (
            type(behavior) is str
            and (type(user) is str or _is_plain(user))
            and (type(item) is str or _is_plain(item))
            and (type(ts) is str or _is_plain(ts))
            and (type(event_id) is str or _is_plain(event_id))
        ):
            index.append(number)
            users.append(str(user))
            items.append(str(item))
            behaviors.append(behavior)
            times.append(str(ts))
            event_ids.append(str(event_id))
            attributes.append(tuple(map(_said, said)))
    user, item, behavior, ts, event_id = (Strings.of(column) for column in columns)
    of_attributes = tuple(map(Strings.of, zip(*attributes, strict=True)))
    return Columns(user, item, behavior, ts, event_id, of_attributes), np.array(index, np.intp)


def _said(value: object) -> str:
    return "" if value is ABSENT else attribute_text(value)


def _is_plain(value: object) -> bool:
    return type(value) is int and -_INT64 <= value < _INT64
