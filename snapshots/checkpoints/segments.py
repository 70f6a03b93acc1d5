"""Segments: a stretch of one relation's events, by external id in order of arrival, as an Arrow IPC file.

    Heterograph.arrivals ──► [encode] ──► bytes of a checkpoint's file ──► [decode] ──► Heterograph.restore

The file has one record batch of three columns: ``user`` and ``item`` (dictionaries of strings; null for an
event of which only the sequence number is left) and ``time_ms`` (int64). Any Arrow reader opens it. The
metadata of its schema have the row of each entry of the dictionaries, as bytes of uint32.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from driftgraph.stream.arrays import U8, U32, Mask
from driftgraph.stream.events import Strings
from driftgraph.stream.window.named_events import NamedEvents

OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
SCHEMA = pa.schema(
    [
        ("user", pa.dictionary(pa.int32(), pa.string())),
        ("item", pa.dictionary(pa.int32(), pa.string())),
        ("time_ms", pa.int64()),
    ]
)
ROWS = (b"user_rows", b"item_rows")


def encode(events: NamedEvents) -> bytes:
    """The bytes of the file."""
    columns = [
        _column(events.users, events.user, events.lost),
        _column(events.items, events.item, events.lost),
        pa.array(events.time_ms),
    ]
    rows = zip(ROWS, (events.user_rows, events.item_rows), strict=True)
    schema = SCHEMA.with_metadata({name: own.tobytes() for name, own in rows if own is not None})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=OPTIONS) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def decode(data: bytes) -> NamedEvents:
    """The events.

    Raises:
        ValueError: If the bytes are no such file.
    """
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        if reader.schema != SCHEMA:
            raise ValueError(f"a segment has the columns {SCHEMA.names}, this one has {reader.schema}")
        batch, metadata = reader.get_batch(0), reader.schema.metadata or {}
    user, item, time_ms = batch.columns
    return NamedEvents(
        _strings(user.dictionary),
        _strings(item.dictionary),
        _places(user),
        _places(item),
        time_ms.to_numpy(),
        user.is_null().to_numpy(zero_copy_only=False),
        *(np.frombuffer(metadata[name], np.uint32) if name in metadata else None for name in ROWS),
    )


def _column(names: Strings, place: U32, lost: Mask) -> pa.DictionaryArray:
    offsets = pa.py_buffer((names.offsets - names.offsets[0]).astype(np.int32))
    data = pa.py_buffer(names.data[names.offsets[0] : names.offsets[-1]])
    dictionary = pa.StringArray.from_buffers(len(names), offsets, data)
    return pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32), mask=lost), dictionary)


def _strings(column: pa.StringArray) -> Strings:
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4).astype(np.int64)
    bytes_: U8 = np.frombuffer(data or b"", np.uint8)
    return Strings(ends, bytes_)


def _places(column: pa.DictionaryArray) -> U32:
    places: U32 = column.indices.fill_null(0).to_numpy().astype(np.uint32)
    return places
