"""The data that flows: a batch of behavior events as typed columns, and the events that were rejected.

    source ──► [Decoded = EventBatch + Rejected] ──► ids ──► window

An external id is a string; a column of them is one byte buffer with offsets (Arrow's layout), so that
the hot path never touches a Python object per event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from driftgraph.stream.arrays import I32, I64, U8, Index

ID_BYTES_MAX = 512  # a longer user or item id comes from a broken producer
JOINT = "\x1f"  # between the values of a list that are one text; no id contains it
NO_VALUE_OF_ITS_KIND = "\x1e"  # in place of an attribute's value that no kind of attribute has
PAYLOAD_BYTES_KEPT = 65_536  # of a rejected event in memory and in the dead letter file


@dataclass(frozen=True, slots=True)
class Strings:
    """A column of N UTF-8 strings: ``data[offsets[i]:offsets[i + 1]]`` is the i-th."""

    offsets: I64  # [N + 1], ascending
    data: U8

    @classmethod
    def of(cls, values: Iterable[str | bytes]) -> Strings:
        """Build from Python strings; for tests and small columns."""
        encoded = [v.encode() if isinstance(v, str) else v for v in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(v) for v in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def bytes_at(self, index: int) -> bytes:
        """The i-th value, not decoded."""
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def to_list(self) -> list[str]:
        """Every value as a Python string; O(bytes), for reports and tests."""
        raw, ends = self.data.tobytes(), self.offsets.tolist()
        return [raw[a:b].decode() for a, b in pairwise(ends)]

    def slice(self, start: int, stop: int) -> Strings:
        """Rows ``start`` to ``stop``; shares the bytes."""
        return Strings(self.offsets[start : stop + 1], self.data)

    def take(self, index: Index) -> Strings:
        """The rows named by ``index``, in that order; copies their bytes."""
        starts, ends = self.offsets[:-1][index], self.offsets[1:][index]
        lengths = ends - starts
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # index of every byte: the start of its row, plus its distance from that start
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Strings(offsets, self.data[np.repeat(starts, lengths) + within])


@dataclass(frozen=True, slots=True)
class EventBatch:
    """N events in arrival order.

    Always true: the columns agree in length; ``time_ms`` is positive, in UTC milliseconds; ``relation``
    indexes the configured relations; every id is 1 to ``ID_BYTES_MAX`` bytes.
    """

    user: Strings
    item: Strings
    relation: U8
    time_ms: I64
    partition: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # empty: all are from partition 0
    event_id: Strings | None = None  # None or an empty string: the event has no id and is no duplicate
    # a column for each configured attribute, of the item and then of the user; empty text: nothing is said
    attributes: tuple[Strings, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.time_ms)
        lengths = (len(self.user), len(self.item), len(self.relation))
        if any(length != n for length in lengths) or len(self.partition) not in (0, n):
            raise ValueError(f"columns disagree in length: time_ms {n}, user, item, relation {lengths}")
        if any(len(column) != n for column in self.attributes):
            raise ValueError(
                f"columns disagree in length: time_ms {n}, attributes {[*map(len, self.attributes)]}"
            )
        if self.event_id is not None and len(self.event_id) != n:
            raise ValueError(f"columns disagree in length: time_ms {n}, event_id {len(self.event_id)}")

    def __len__(self) -> int:
        return len(self.time_ms)

    def slice(self, start: int, stop: int) -> EventBatch:
        """Events ``start`` to ``stop``; shares memory."""
        return EventBatch(
            self.user.slice(start, stop),
            self.item.slice(start, stop),
            self.relation[start:stop],
            self.time_ms[start:stop],
            self.partition[start:stop],
            None if self.event_id is None else self.event_id.slice(start, stop),
            tuple(column.slice(start, stop) for column in self.attributes),
        )

    def take(self, index: Index) -> EventBatch:
        """The events named by ``index``, in that order; copies."""
        return EventBatch(
            self.user.take(index),
            self.item.take(index),
            self.relation[index],
            self.time_ms[index],
            self.partition[index] if len(self.partition) else self.partition,
            None if self.event_id is None else self.event_id.take(index),
            tuple(column.take(index) for column in self.attributes),
        )


Headers = tuple[tuple[str, bytes | None], ...]  # of a record: a name may come twice, a value may be null


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that could not be applied, with all that is needed to find it and send it again.

    ``reason`` is a stable code (``bad_json``, ``missing_field``, ``bad_id``, ``bad_time``, …) that metrics
    count by; ``detail`` is one sentence with the value. ``origin`` says where it came from
    (``topic[partition]@offset`` or ``file:line``).
    """

    reason: str
    detail: str
    payload: bytes
    origin: str
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None
    behavior: str = ""  # of an unknown behavior: its name; a kept letter has it in the detail alone


@dataclass(frozen=True, slots=True)
class Erasure:
    """A request to erase a user, which came after the first ``place`` events of its batch.

    It erases the user's events up to there, and those that come later with an event time up to ``time_ms``.
    Events of the user with a newer time are kept.
    """

    user: str
    place: int
    time_ms: int | None = (
        None  # of the request; None: not known, so that of the newest event before it counts
    )
    partition: int | None = None  # of the request, as in ``EventBatch.partition``


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of one read of a source: the good events, the bad ones, and the requests to erase."""

    batch: EventBatch
    rejected: tuple[Rejected, ...] = ()
    position: Mapping[str, int] = field(default_factory=dict)  # after the last event of this read
    ignored: int = 0  # events of a behavior that the configuration leaves out
    erased: tuple[Erasure, ...] = ()  # in the order in which they were read
    tombstones: int = 0  # how many of the ignored are records without a value that request nothing

    @property
    def read_count(self) -> int:
        """How many events were read: good, bad, ignored, and requests to erase."""
        return len(self.batch) + len(self.rejected) + self.ignored + len(self.erased)


EMPTY = EventBatch(Strings.of([]), Strings.of([]), np.zeros(0, np.uint8), np.zeros(0, np.int64))
