"""Reads the JSON value of a message, or says why there is none, for all formats of JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from driftgraph.stream.formats.event_rules import Reason, Refusal, shown

_value: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])


def read_json(payload: bytes, decode: Callable[[str], Any] = _value.decode) -> Any | Refusal:
    """The value that ``decode`` reads from the text, or why it cannot read it."""
    try:
        return decode(payload.decode())
    except UnicodeDecodeError as error:
        return Refusal(Reason.BAD_UTF8, f"not UTF-8: {error.reason} at byte {error.start}")
    except msgspec.ValidationError as error:
        broken = error if payload.lstrip()[:1] == b"{" else _broken_array(payload)
        if broken is None:
            return no_object(payload)
        return Refusal(Reason.BAD_JSON, f"{broken}: {shown(payload)}")  # or a number that is too large
    except msgspec.DecodeError as error:
        return Refusal(Reason.BAD_JSON, f"{error}: {shown(payload)}")
    except RecursionError:
        return Refusal(Reason.BAD_JSON, f"nested too deeply: {shown(payload)}")


def _broken_array(payload: bytes) -> Exception | None:
    """What is wrong with a text that begins like an array; None if nothing is, or it is no array."""
    if payload.lstrip()[:1] == b"[":
        try:
            _elements.decode(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            return error
    return None


def no_object(payload: bytes) -> Refusal:
    """The refusal of a message that is JSON but not an object."""
    return Refusal(Reason.NOT_OBJECT, f"the message must be a JSON object, got {shown(payload)}")


def elements_of(payload: bytes | None) -> list[bytes]:
    """The bytes of each element of a JSON array; empty if the message is no array or an empty one."""
    if payload is None or payload.lstrip()[:1] != b"[":
        return []
    try:
        return [bytes(element) for element in _elements.decode(payload)]
    except (msgspec.DecodeError, RecursionError):  # the row decoder tells what is wrong with the message
        return []
