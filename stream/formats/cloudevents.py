"""CloudEvents 1.0 on Kafka: one object of both content modes.

    structured: the value is the envelope as JSON, with ``data`` in it ─┐
    binary:     the value is the data, the envelope is in ce_* headers ─┴► [CloudEventReader] ──► EventMapping

Specification: CloudEvents 1.0.2, its JSON event format, and its Kafka protocol binding, section 3.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from driftgraph.stream.formats.event_rules import Reason, Refusal, RowOrigin, shown
from driftgraph.stream.formats.json_text import read_json
from driftgraph.stream.formats.mapping_decoder import Origin

_HEADER: Final = "ce_"
_STRUCTURED: Final = b"application/cloudevents"  # +json, or -batch+json for a list of them
_VERSION: Final = "1.0"


class CloudEventReader:
    """Reads an envelope into one object: the attributes, and ``data`` as JSON, in both content modes."""

    may_wait = False

    def read(self, payload: bytes, origin: Origin) -> object | Refusal:
        """One envelope, or a list of them (the batched format)."""
        record = origin()
        headers = {name: value for name, value in record.headers if value is not None}
        if f"{_HEADER}specversion" in headers and not _content_type(record).startswith(_STRUCTURED):
            return _binary(payload, headers)
        message = read_json(payload)
        if isinstance(message, list) and message:
            return [_envelope(one) for one in message]
        return message if isinstance(message, Refusal) else _envelope(message)

    def key(self, raw: bytes) -> bytes:
        """The key unchanged."""
        return raw


def _content_type(record: RowOrigin) -> bytes:
    named = (value for name, value in record.headers if name.lower() == "content-type" and value is not None)
    return next(named, b"").lower()


def _binary(payload: bytes, headers: dict[str, bytes]) -> object | Refusal:
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith(_HEADER):
            try:
                attributes[name.removeprefix(_HEADER)] = value.decode()
            except UnicodeDecodeError:
                return Refusal(Reason.BAD_UTF8, f"the header {name} is not UTF-8: {shown(value)}")
    data = read_json(payload)
    return data if isinstance(data, Refusal) else _checked({**attributes, "data": data})


def _envelope(message: object) -> object | Refusal:
    """A structured event; ``data_base64`` becomes ``data``."""
    if not isinstance(message, dict):
        return message  # the decoder rejects it, since it is not an object
    encoded = message.get("data_base64")
    if encoded is not None and "data" not in message:
        try:
            data = read_json(base64.b64decode(encoded, validate=True))
        except (binascii.Error, TypeError, ValueError):
            return Refusal(Reason.BAD_SHAPE, f"data_base64 is no base64: {shown(encoded)}")
        if isinstance(data, Refusal):
            return data
        message = {**message, "data": data}
    return _checked(message)


def _checked(event: dict[str, Any]) -> object | Refusal:
    version = event.get("specversion")
    if version != _VERSION:
        return Refusal(
            Reason.BAD_SHAPE, f"no CloudEvent of version {_VERSION}: its specversion is {shown(version)}"
        )
    return event
