"""Avro, Protobuf and JSON messages whose schema is in a registry, as objects.

    0, number (4 bytes), [Protobuf: which message], data ──► [RegisteredReader] ──► object ──► MappingDecoder

Wire format: docs.confluent.io, "Formats, Serializers, and Deserializers", Wire format. JSON is not checked
against its schema: the producer has done that, and the rules of events judge the values.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

import msgspec

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.formats.event_rules import Reason, Refusal, RowOrigin, shown
from driftgraph.stream.formats.json_text import read_json
from driftgraph.stream.formats.mapping_decoder import Origin
from driftgraph.stream.formats.paths import UnsetNumber, UnsetText
from driftgraph.stream.formats.registry.client import SCHEMAS_MAX, Schema, SchemaRegistry

_HEADER_BYTES: Final = 5
_WHY_MAX: Final = 500  # characters of a library's message, which may hold the whole schema
_Read = Callable[[bytes], "object | Refusal"]  # the bytes after the header → the object


class RegisteredReader:
    """Reads messages with the schema whose number is in their first bytes."""

    may_wait = True

    def __init__(self, registry: SchemaRegistry) -> None:
        for name in ("fastavro", "google.protobuf"):
            try:
                import_module(name)
            except ImportError as error:
                raise DriftgraphError(
                    f'events.format = "registry" needs {name}; install it with: '
                    'pip install "driftgraph[registry]"'
                ) from error
        self._registry = registry
        self._reads: dict[int, _Read] = {}

    def read(self, payload: bytes, origin: Origin) -> object | Refusal:  # noqa: ARG002  as in the protocol
        """The object, or why there is none.

        Raises:
            NotNowError: If the schema is not known yet and the registry is away.
            SourceError: If the registry refuses us.
        """
        if len(payload) < _HEADER_BYTES or payload[0] != 0:
            return Refusal(
                Reason.BAD_ENCODING,
                f"the message does not begin with a schema's number (0 and 4 bytes): {shown(payload)}",
            )
        number = int.from_bytes(payload[1:_HEADER_BYTES], "big")
        read = self._reads.get(number)
        if read is None:
            schema = self._registry.schema(number)
            if schema is None:
                return Refusal(Reason.UNKNOWN_SCHEMA, f"the registry has no schema {number}")
            read = _reader_of(number, schema)
            while len(self._reads) >= SCHEMAS_MAX:
                del self._reads[next(iter(self._reads))]
            self._reads[number] = read
        return read(payload[_HEADER_BYTES:])

    def key(self, raw: bytes) -> bytes:
        """The key as JSON if it names its schema, else unchanged.

        Raises:
            NotNowError: If the schema is not known yet and the registry is away.
            SourceError: If the registry refuses us.
        """
        if len(raw) < _HEADER_BYTES or raw[0] != 0:
            return raw
        value = self.read(raw, _no_origin)
        if isinstance(value, Refusal | bytes):
            return raw if isinstance(value, Refusal) else value
        if isinstance(value, dict):  # a field that Protobuf did not send names no user
            value = {n: one for n, one in value.items() if not isinstance(one, UnsetNumber | UnsetText)}
        return msgspec.json.encode(value, enc_hook=str)


def _no_origin() -> RowOrigin:
    return RowOrigin("")


def _reader_of(number: int, schema: Schema) -> _Read:
    """A function that reads messages of the schema; if the schema cannot be used, one that refuses all."""
    makers: dict[str, Callable[[Schema], _Read]] = {"AVRO": _avro, "PROTOBUF": _protobuf, "JSON": _json}
    maker, why = makers.get(schema.kind), schema.fault
    if maker is None:
        why = f"it is of the kind {schema.kind}, and not one of {', '.join(makers)}"
    elif not why:
        try:
            return maker(schema)
        except Exception as error:  # any error of the libraries: the schema comes from outside
            why = f"{type(error).__name__}: {error}"[:_WHY_MAX]
    refusal = Refusal(Reason.UNKNOWN_SCHEMA, f"schema {number} cannot be used: {why}")
    return lambda _: refusal


def _json(_schema: Schema) -> _Read:
    return read_json


def _avro(schema: Schema) -> _Read:
    from driftgraph.stream.formats.registry.avro import AvroMisfitError, AvroSchema  # noqa: PLC0415  an extra

    compiled = AvroSchema(schema.text, schema.references)

    def read(data: bytes) -> object | Refusal:
        try:
            return compiled.read(data)
        except AvroMisfitError as error:
            return _misfit("Avro", str(error))

    return read


def _protobuf(schema: Schema) -> _Read:
    from google.protobuf.message import DecodeError  # noqa: PLC0415  an extra

    from driftgraph.stream.formats.registry.protobuf import ProtoSchema, ProtoWireError  # noqa: PLC0415

    compiled = ProtoSchema(schema.text, schema.references)

    def read(data: bytes) -> object | Refusal:
        try:
            return compiled.read(data)
        except (DecodeError, ProtoWireError) as error:
            return _misfit("Protobuf", str(error))

    return read


def _misfit(kind: str, why: str) -> Refusal:
    return Refusal(Reason.BAD_ENCODING, f"the bytes are not what their {kind} schema says: {why}")
