"""Avro messages as objects, by a schema that is only known as text.

    text and references ──► fastavro ──► [AvroSchema.read] ──► dict, list, text, number

The logical types that matter for an event keep their meaning: a timestamp is the instant that its unit tells,
a whole decimal is an integer, a UUID in bytes is its text, and dates and local timestamps have no zone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import fastavro
import numpy as np
from fastavro.read import LOGICAL_READERS

from driftgraph.stream.time import time_kernels

_LOCAL: Final = "local-timestamp"  # the logical types -millis, -micros and -nanos
_OURS: Final = "driftgraph-"  # prefix of the logical types that the readers below read
_SCALE_MAX: Final = 76  # digits after the point of a decimal; databases have up to 38
# unit: (how many are a millisecond, the range of numbers that alone tell their unit)
_UNITS: Final = {
    "millis": (1, time_kernels.SECONDS_BELOW, time_kernels.MILLISECONDS_BELOW),
    "micros": (1_000, time_kernels.MILLISECONDS_BELOW, time_kernels.MICROSECONDS_BELOW),
    "nanos": (1_000_000, time_kernels.MICROSECONDS_BELOW, time_kernels.NUMBER_BELOW),
}


class AvroMisfitError(ValueError):
    """The bytes are no message of the schema."""


class AvroSchema:
    """Reads the messages of one schema.

    Raises:
        Exception: Any error of fastavro, if the schema or one of its references is invalid.
    """

    def __init__(self, text: str, references: Mapping[str, str]) -> None:
        named: dict[str, Any] = {}
        for referred in references.values():
            fastavro.parse_schema(_readable(json.loads(referred)), named_schemas=named)
        self._parsed = fastavro.parse_schema(_readable(json.loads(text)), named_schemas=named)
        self._has_local = any(_LOCAL in one for one in (text, *references.values()))

    def read(self, data: bytes) -> object:
        """The message as an object.

        Raises:
            AvroMisfitError: If the bytes are not exactly one such message.
        """
        stream = io.BytesIO(data)
        try:
            value = fastavro.schemaless_reader(stream, self._parsed, None)
        except Exception as error:  # wrong bytes may raise any error
            raise AvroMisfitError(f"{type(error).__name__}: {error}") from error
        left = len(data) - stream.tell()
        if left:
            raise AvroMisfitError(f"{left} bytes are left over")
        return _written(value) if self._has_local else value


def _readable(schema: Any) -> Any:
    """The schema with our readers for the logical types that matter, and without the other ones.

    A local timestamp has no zone, and its integer would pass for UTC. So it becomes a text without a zone.
    """
    if isinstance(schema, list):
        return [_readable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    logical = str(schema.get("logicalType", ""))
    found = {
        key: _readable(value) if key in ("type", "items", "values", "fields") else value
        for key, value in schema.items()
        if key != "logicalType" or logical.startswith(_LOCAL)
    }
    if f"{schema.get('type')}-{_OURS}{logical}" in LOGICAL_READERS:
        found["logicalType"] = f"{_OURS}{logical}"
    return found


def _written(value: Any) -> Any:
    """A reader that gives local timestamps as texts."""
    if isinstance(value, dict):
        return {key: _written(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_written(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _timestamp(unit: str) -> Callable[..., object]:
    per_ms, first, last = _UNITS[unit]

    def read(data: int, *_: object) -> object:
        """The number if it tells its unit, else the instant: milliseconds of 1971 would pass for seconds."""
        return data if first <= data < last else np.datetime64(data // per_ms, "ms")

    return read


def _decimal(data: bytes, schema: Mapping[str, Any], *_: object) -> object:
    """A decimal; an integer if it is whole, as Oracle and JDBC write ids."""
    scale = int(schema.get("scale", 0))
    if not 0 <= scale <= _SCALE_MAX:
        raise ValueError(f"a decimal with a scale of {scale}, and at most {_SCALE_MAX} can be read")
    unscaled = int.from_bytes(data, "big", signed=True)
    whole, rest = divmod(unscaled, 10**scale)
    return float(Decimal(unscaled).scaleb(-scale)) if rest else whole


def _uuid(data: bytes, *_: object) -> object:
    return str(UUID(bytes=data))


def _date(data: int, *_: object) -> object:
    return str(np.datetime64(data, "D"))


_OWN_READERS: dict[str, Any] = (
    {f"long-{_OURS}timestamp-{unit}": _timestamp(unit) for unit in _UNITS}
    | {f"{kind}-{_OURS}decimal": _decimal for kind in ("bytes", "fixed")}
    | {f"fixed-{_OURS}uuid": _uuid, f"int-{_OURS}date": _date}
)
LOGICAL_READERS.update(_OWN_READERS)  # pyright: ignore[reportCallIssue, reportArgumentType]
