"""The key of a Kafka record as a value: plain text, or what it is as JSON.

    key ──► [sole_value] ──► $key of a mapping
        └─► [key_value]  ──► tombstones

This module is light, since ``mapping`` is.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_CONNECT: Final = {"schema", "payload"}  # the envelope of Kafka Connect's JSON converter
_STRUCT: Final = re.compile(r"Struct\{([^{}]*)\}")  # an object by Kafka Connect's converter to texts


def text_of(raw: bytes) -> str | bytes:
    """The text, or the bytes as they are if they are none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def key_value(raw: bytes) -> object:
    """Text as it is; a JSON text, object, list or null as what it says; bytes if they are no text."""
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
    return value["payload"] if isinstance(value, dict) and value.keys() == _CONNECT else value


def sole_value(raw: bytes) -> object:
    """The key as one value: of an object with one field that field, any other object as its own text."""
    value = key_value(raw)
    if not isinstance(value, dict):
        return value
    return next(iter(value.values())) if len(value) == 1 else raw.decode()
