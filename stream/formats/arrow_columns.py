"""Arrow columns as columns of events: which types ids, names and times can have.

    schema ──► [why_no_id, why_no_name, why_no_time] ──► arrow_table.ColumnError
    column ──► [strings_of, times_of] ──► rules_by_column.Columns
    scalar ──► [value_of] ──► the row decoder, for rows that look odd in the columns

Writers differ: Impala writes texts as bytes, Oracle and Spark write integers as decimals, and some writers
write ids as UUIDs. A type that cannot be an id, such as a float, is refused once for its column and not for
each row.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from driftgraph.stream.arrays import F64, I64, U8, Instants
from driftgraph.stream.events import Strings

UNREADABLE_ID: Final = (
    " "  # in place of an unreadable value: no id begins with a blank, so the row decoder judges the row
)
_PER_MS: Final = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_SECONDS_MAX: Final = 1 << 52  # fits into int64 in milliseconds, and is later than any accepted time
_UUID_BYTES: Final = 16
_UUID_GROUPS: Final = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))  # 8-4-4-4-12 hexadecimal digits
_HEX: Final = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)


def why_no_id(kind: Any) -> str:
    """The types that a column of ids must have, and what to do; empty if the type fits."""
    plain = _plain(kind)
    whole = types.is_decimal(plain) and plain.scale >= 0
    if types.is_integer(plain) or _is_text(plain) or _is_uuid(plain) or whole:
        return ""
    what = "text or integers"
    if types.is_floating(plain):
        return f"{what}; write whole numbers as integers (in pandas as Int64)"
    if types.is_fixed_size_binary(plain):
        return f"{what}; write these bytes as text, or as Parquet's UUID"
    return f"{what}; name another column, or write its values so" if types.is_nested(plain) else what


def why_no_name(kind: Any) -> str:
    """As ``why_no_id``, for a column of behaviors."""
    return "" if _is_text(_plain(kind)) else "text"


def why_no_time(kind: Any, *, zoned: bool) -> str:
    """As ``why_no_id``, for a column of times. ``zoned``: a zone is configured for times without one."""
    plain = _plain(kind)
    local = types.is_date(plain) or (types.is_timestamp(plain) and plain.tz is None)
    whole = types.is_decimal(plain) and plain.scale >= 0
    number = types.is_integer(plain) or types.is_float64(plain) or whole
    if number or _is_text(plain) or (zoned if local else types.is_timestamp(plain)):
        return ""
    what = "timestamps with a zone, numbers or text"
    if local:
        return f"{what}; or set events.timezone to the zone that its times are in"
    return (
        f"{what}; a float32 is 128 s wide at the times of today: write float64"
        if types.is_floating(plain)
        else what
    )


def strings_of(column: pa.Array | pa.ChunkedArray, *, unreadable: str = "") -> Strings:
    """A column of texts, UTF-8 bytes, integers, whole decimals or UUIDs as ``Strings``; null becomes empty.

    A value that is none of these, such as 1.5 in a column of decimals, becomes ``unreadable``. No copy of the
    bytes if it is one chunk of texts without nulls.
    """
    array = _decoded(column)
    if _is_uuid(array.type):
        return _uuids(array)
    if types.is_decimal(array.type):
        whole = array.cast(pa.decimal256(76, 0), safe=False)
        same = pc.equal(  # pyright: ignore[reportAttributeAccessIssue]
            whole.cast(pa.decimal256(76, array.type.scale), safe=False), array
        )
        array = pc.if_else(  # pyright: ignore[reportAttributeAccessIssue]
            same, whole.cast(pa.large_string()), pa.scalar(unreadable, pa.large_string())
        )
    elif _is_bytes(array.type):
        array = _texts(array, unreadable)
    if not (types.is_string(array.type) or types.is_large_string(array.type)):
        array = array.cast(pa.large_string())
    if array.null_count:
        array = pc.fill_null(array, "")
    if len(array) == 0:
        return Strings.of([])
    width = np.int64 if types.is_large_string(array.type) else np.int32
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, width)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    return Strings(offsets.astype(np.int64, copy=False), data)


def times_of(column: pa.Array | pa.ChunkedArray) -> I64 | F64 | Instants | Strings:
    """A column of event times; null becomes 0, empty or NaT.

    Timestamps with a zone are instants. Timestamps and dates without one become texts, to which the
    configured zone is applied. Decimals become texts, too, which keep each digit.

    Raises:
        pyarrow.ArrowInvalid: If an unsigned integer does not fit into int64.
    """
    array = _decoded(column)
    kind = array.type
    if types.is_timestamp(kind) and kind.tz is not None:  # stored in UTC whatever the zone's name
        raw: I64 = pc.fill_null(array.cast(pa.int64()), 0).to_numpy()
        ms = (
            np.clip(raw, -_SECONDS_MAX, _SECONDS_MAX) * 1_000
            if kind.unit == "s"
            else raw // _PER_MS[kind.unit]
        )
        ms[np.asarray(array.is_null())] = np.datetime64("NaT").astype(np.int64)
        return ms.view("datetime64[ms]")
    if types.is_integer(kind):
        ints: I64 = pc.fill_null(array.cast(pa.int64()), 0).to_numpy()
        return ints
    if types.is_floating(kind):
        floats: F64 = pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy()
        return floats
    if types.is_decimal(kind):
        array = array.cast(pa.large_string())
    return strings_of(array)


def value_of(scalar: Any) -> Any:
    """One value as the row decoder takes it: a text, an integer, or a value that it refuses."""
    kind = scalar.type
    if types.is_timestamp(kind):  # as_py has no nanoseconds
        scalar = scalar.cast(kind if kind.tz is None else pa.timestamp(kind.unit, "UTC")).cast(pa.string())
    value = scalar.as_py()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _plain(kind: Any) -> Any:
    """The type of the values of a dictionary, or the type itself."""
    return kind.value_type if types.is_dictionary(kind) else kind


def _decoded(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, without a dictionary."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if types.is_dictionary(array.type) else array


def _is_text(kind: Any) -> bool:
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(text or _is_bytes(kind))


def _is_bytes(kind: Any) -> bool:
    """Whether it is a type of bytes, as which Impala, Hive and older Sparks write texts."""
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_uuid(kind: Any) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid"


def _texts(array: pa.Array, unreadable: str) -> pa.Array:
    """Bytes as texts, where they are UTF-8."""
    try:
        return array.cast(pa.large_string())
    except pa.ArrowInvalid:
        read = [value_of(scalar) for scalar in array]
        return pa.array(
            [unreadable if isinstance(value, bytes) else value for value in read], pa.large_string()
        )


def _uuids(array: pa.Array) -> Strings:
    """UUIDs in the form that everyone writes, ``6f442125-d9d9-47ad-878c-a07a1c476dee``."""
    storage = array.storage
    there = np.asarray(storage.is_valid())
    raw: U8 = np.frombuffer(b"".join(storage.drop_null().to_pylist()), np.uint8)
    digits = _HEX[raw].reshape(-1, 2 * _UUID_BYTES)
    dash = np.full((len(digits), 1), ord("-"), np.uint8)
    parts: list[U8] = []
    for first, last in _UUID_GROUPS:
        parts += [digits[:, first:last], dash]
    text = np.concatenate(parts[:-1], axis=1)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(there * text.shape[1], out=offsets[1:])
    return Strings(offsets, text.reshape(-1))
