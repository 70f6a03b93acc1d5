"""The fast version of ``event_rules.EventRules``: judges a batch of events by column, in compiled code.

    formats: bytes ──► Arrow columns ──► [judge] ──► good rows as EventBatch
                                              └────► odd rows ──► the row definition, one by one ──► merged

``judge`` never refuses a row by itself. It marks a row odd if ``EventRules`` might refuse it. ``EventRules``
then judges that row, so that all reasons come from one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from driftgraph.stream.arrays import F64, I32, I64, U8, Index, Instants, Mask
from driftgraph.stream.events import EMPTY, ID_BYTES_MAX, Decoded, Erasure, EventBatch, Rejected, Strings
from driftgraph.stream.formats.event_rules import (
    LEFT_OUT,
    Behaviors,
    EraseRequest,
    Event,
    EventRules,
    LeftOut,
)
from driftgraph.stream.kernels.compile import plain_kernel
from driftgraph.stream.time.clock import TimeBounds, times_ms_of


@dataclass(frozen=True, slots=True)
class Columns:
    """N rows as a format has read them, not judged. A null or missing value is an empty text, 0 or NaT."""

    user: Strings
    item: Strings
    behavior: Strings
    ts: I64 | F64 | Instants | Strings
    event_id: Strings | None = None
    attributes: tuple[Strings, ...] = ()


@plain_kernel
def _odd_ids(offsets: Any, data: Any, bytes_max: int, empty_is_fine: bool, odd: Any) -> None:
    """Mark ids that are empty, too long, or do not begin and end with a plain visible character."""
    for i in range(len(odd)):
        start, stop = offsets[i], offsets[i + 1]
        if start == stop:
            odd[i] |= not empty_is_fine
        elif stop - start > bytes_max:
            odd[i] = True
        else:
            odd[i] |= data[start] <= 32 or data[stop - 1] <= 32


@plain_kernel
def _wide_ends(offsets: Any, data: Any, wide: Any) -> None:
    """Mark ids that begin or end with a character beyond ASCII: some of those are white space."""
    for i in range(len(wide)):
        start, stop = offsets[i], offsets[i + 1]
        if start < stop:
            wide[i] = data[start] >= 128 or data[stop - 1] >= 128


def _mark_odd_ids(ids: Strings, odd: Mask, *, empty_is_fine: bool = False) -> None:
    _odd_ids(ids.offsets, ids.data, ID_BYTES_MAX, empty_is_fine, odd)
    wide = np.zeros(len(odd), np.bool_)
    _wide_ends(ids.offsets, ids.data, wide)
    for row in np.flatnonzero(wide & ~odd).tolist():
        text = ids.bytes_at(row).decode()
        odd[row] = text[0].isspace() or text[-1].isspace()


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgement of N rows. A row is good if it is neither odd nor ignored."""

    relation: U8
    time_ms: I64
    ignored: Mask
    odd: Mask


def judge(columns: Columns, rules: EventRules, bounds: TimeBounds) -> Judged:
    """Judge N rows like ``EventRules.event_of``, without reasons. O(bytes), no Python code for each row."""
    code = _relation_codes(columns.behavior, rules)
    ignored = code == Behaviors.IGNORED
    time_ms, fault = times_ms_of(columns.ts, bounds)
    odd = (code < Behaviors.IGNORED) | (fault != 0)
    _mark_odd_ids(columns.user, odd)
    _mark_odd_ids(columns.item, odd)
    if columns.event_id is not None:
        _mark_odd_ids(columns.event_id, odd, empty_is_fine=True)
    return Judged(np.maximum(code, 0).astype(np.uint8), time_ms, ignored, odd & ~ignored)


def _relation_codes(behavior: Strings, rules: EventRules) -> I64:
    if len(behavior) == 0:
        return np.zeros(0, np.int64)
    buffers = [None, pa.py_buffer(behavior.offsets), pa.py_buffer(behavior.data)]
    encoded = pa.Array.from_buffers(pa.large_binary(), len(behavior), buffers).dictionary_encode()
    names = [name.decode() for name in encoded.dictionary.to_pylist()]
    codes = np.array([rules.code(name) if name else Behaviors.UNKNOWN for name in names], np.int64)
    taken: I64 = codes[encoded.indices.to_numpy()]
    return taken


def concat_strings(parts: Sequence[Strings]) -> Strings:
    """Join several columns; copies the bytes in use."""
    spans = [(part.offsets[0], part.offsets[-1]) for part in parts]
    data = np.concatenate([part.data[a:b] for part, (a, b) in zip(parts, spans, strict=True)])
    offsets = np.zeros(1 + sum(len(part) for part in parts), np.int64)
    row, shift = 0, 0
    for part, (a, b) in zip(parts, spans, strict=True):
        offsets[row + 1 : row + 1 + len(part)] = part.offsets[1:] - a + shift
        row, shift = row + len(part), shift + int(b - a)
    return Strings(offsets, data)


def concat(batches: Sequence[EventBatch]) -> EventBatch:
    """Join several batches, in order. All of them have partitions, or none has."""
    parts = [batch for batch in batches if len(batch)]
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    with_ids = any(part.event_id is not None for part in parts)
    event_ids = [
        part.event_id or Strings(np.zeros(len(part) + 1, np.int64), EMPTY.user.data) for part in parts
    ]
    return EventBatch(
        concat_strings([part.user for part in parts]),
        concat_strings([part.item for part in parts]),
        np.concatenate([part.relation for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        np.concatenate([part.partition for part in parts]),
        concat_strings(event_ids) if with_ids else None,
        tuple(map(concat_strings, zip(*(part.attributes for part in parts), strict=True))),
    )


def batch_of(events: Sequence[Event], partition: I32) -> EventBatch:
    """A batch of single events, for rows that the columns cannot hold."""
    with_ids = any(event.event_id for event in events)
    return EventBatch(
        Strings.of([event.user for event in events]),
        Strings.of([event.item for event in events]),
        np.array([event.relation for event in events], np.uint8),
        np.array([event.time_ms for event in events], np.int64),
        partition,
        Strings.of([event.event_id for event in events]) if with_ids else None,
        tuple(map(Strings.of, zip(*(event.attributes for event in events), strict=True))),
    )


RowAnswer = Event | EraseRequest | Rejected | LeftOut | None
RowDecoder = Callable[[int], RowAnswer]  # row number → the answer of ``EventRules``


def decode_columns(
    columns: Columns | None,
    index: Index,
    *,
    count: int,
    partition: I32,
    rules: EventRules,
    bounds: TimeBounds,
    row: RowDecoder,
) -> Decoded:
    """Decode ``count`` rows: ``columns`` holds those in ``index``, and ``row`` decodes the others.

    Args:
        columns: The rows that a format could read by column, or None.
        index: Row numbers of those in ``columns``, ascending.
        count: N, the number of all rows of the read.
        partition: The partition of each of the N rows, or empty.
        rules: The rules of a good event.
        bounds: The accepted times, the same that ``row`` uses.
        row: Decodes one row, for rows that are not in ``columns`` or look odd there.

    Returns:
        Events and rejects in the order of the rows, without a position.
    """
    batch, kept, ignored, tombstones = EMPTY, np.zeros(0, np.intp), 0, 0
    by_row = np.ones(count, np.bool_)
    if columns is not None and len(index):
        judged = judge(columns, rules, bounds)
        by_row[index[~judged.odd]] = False
        ignored = int(judged.ignored.sum())
        good = np.flatnonzero(~(judged.odd | judged.ignored))
        kept = index[good]
        part = partition[index] if len(partition) else partition
        ids, rest = (columns.user, columns.item), (columns.event_id, columns.attributes)
        batch = EventBatch(*ids, judged.relation, judged.time_ms, part, *rest)
        batch = batch if len(good) == len(index) else batch.take(good)
    events: list[Event] = []
    rows_of_events: list[int] = []
    rejects: list[Rejected] = []
    erasures: list[tuple[int, EraseRequest]] = []
    for number in np.flatnonzero(by_row).tolist():
        answer = row(number)
        if answer is None or answer is LEFT_OUT:
            ignored += 1
            tombstones += answer is LEFT_OUT
        elif isinstance(answer, Rejected):
            rejects.append(answer)
        elif isinstance(answer, EraseRequest):
            erasures.append((number, answer))
        else:
            events.append(answer)
            rows_of_events.append(number)
    if events:
        at = np.array(rows_of_events, np.intp)
        singles = batch_of(events, partition[at] if len(partition) else partition)
        order = np.argsort(np.concatenate([kept, at]), kind="stable")
        batch = concat([batch, singles]) if len(kept) else singles
        batch = batch.take(order) if len(kept) else batch
    before = [int(np.searchsorted(kept, row) + np.searchsorted(rows_of_events, row)) for row, _ in erasures]
    erased = tuple(
        Erasure(one.user, at, one.time_ms, int(partition[number]) if len(partition) else None)
        for at, (number, one) in zip(before, erasures, strict=True)
    )
    return Decoded(batch, tuple(rejects), ignored=ignored, erased=erased, tombstones=tombstones)
