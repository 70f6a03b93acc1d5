"""The key, timestamp and headers of a Kafka record, as values; a key is plain text or JSON.

    record ──► [beside] ──► $key, $timestamp and $header.NAME of a mapping
    key ─────► [key_value] ──► tombstones

This module imports little, since ``field_mapping`` does.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

import msgspec

from driftgraph.stream.formats.paths import ABSENT

CONNECT: Final = {"schema", "payload"}  # the envelope of Kafka Connect's JSON converter
_STRUCT: Final = re.compile(r"Struct\{([^{}]*)\}")  # an object by Kafka Connect's converter to texts


class Record(Protocol):
    """The part of a Kafka record beside its value; ``event_rules.RowOrigin`` is one."""

    @property
    def key(self) -> bytes | None:
        """The key of the Kafka record."""
        ...

    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """The headers of the Kafka record."""
        ...

    @property
    def timestamp_ms(self) -> int | None:
        """The timestamp of the record."""
        ...


def text_of(raw: bytes) -> str | bytes:
    """The text, or the bytes unchanged if they are no text."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def key_value(raw: bytes) -> object:
    """Plain text unchanged; a JSON text, object, list or null as its value; bytes if they are no text."""
    text = text_of(raw)
    if not isinstance(text, str) or not (text.startswith(('"', "{", "[", "Struct{")) or text == "null"):
        return text
    struct = _STRUCT.fullmatch(text)
    if struct is not None:
        fields = [field.partition("=") for field in struct[1].split(",")]
        return {name: value for name, _, value in fields}
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value["payload"] if isinstance(value, dict) and value.keys() == CONNECT else value


def sole_value(raw: bytes) -> object:
    """The key as one value: the value of an object with one field, any other object as its JSON text."""
    value = key_value(raw)
    if not isinstance(value, dict):
        return value
    return next(iter(value.values())) if len(value) == 1 else raw.decode()


def beside(what: str, record: Record | None) -> object:
    """The key, timestamp or a header of the record; bytes if they are no text."""
    if record is None:
        return ABSENT
    if what == "timestamp":
        return ABSENT if record.timestamp_ms is None else record.timestamp_ms
    if what == "key":
        return ABSENT if record.key is None else sole_value(record.key)
    name = what.removeprefix("header.")
    raw = next((value for key, value in record.headers if key == name), None)
    return ABSENT if raw is None else text_of(raw)
