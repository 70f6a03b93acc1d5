"""Time: the one wall clock, and the forms in which an event's time may be written.

    decode ──► [time_ms_of, times_ms_of] ──► EventBatch.time_ms ──► Watermark ──► window.expire

Event time is int64 milliseconds, UTC. Nothing else in driftgraph reads a wall clock; code that needs one
is given a ``Clock``.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np

from driftgraph.stream.arrays import F64, I64, U8, Instants
from driftgraph.stream.events import Strings
from driftgraph.stream.time import time_kernels
from driftgraph.stream.time.time_text import (
    FAULTS,
    NO_SUCH_MINUTE,
    TIME_MS_MAX,
    TimeFault,
    ms_of_text,
    shift_ms,
)

FLOOR_MS = 1_104_537_600_000  # 2005-01-01: an older behavior event comes from a broken clock
FLOOR_MS_MIN = time_kernels.SECONDS_BELOW  # 1973: below it seconds and milliseconds cannot be told apart
_TEXT_MAX = 64  # characters; nanoseconds with the name of a zone take 60

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Clock(Protocol):
    """Wall time. It is injected, so that a test or a replay decides what time it is."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when a caller moves it."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """The time that was set last."""
        return self._now_ms

    def advance(self, duration_ms: int) -> None:
        """Let ``duration_ms`` pass."""
        self._now_ms += duration_ms


def duration_ms_of(text: str) -> int:
    """``90s``, ``15m``, ``6h``, ``1.5d``, ``2w``, ``250ms`` as milliseconds.

    Raises:
        ValueError: If it is none of these; the message lists the forms.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and a unit: 90s, 15m, 6h, 30d")
    return round(float(match[1]) * _UNIT_MS[match[2]])


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """The event times accepted right now, both ends included. Without ``ceiling_ms`` there is no upper end.

    ``zone`` is the zone of times that are written without one; without it they are refused.
    """

    floor_ms: int = FLOOR_MS
    ceiling_ms: int | None = None
    zone: ZoneInfo | None = None
    beyond: str = (
        "the time is further ahead of the clock than accepted"  # the message about a time above the ceiling
    )

    def __post_init__(self) -> None:
        if self.floor_ms < FLOOR_MS_MIN:
            raise ValueError(
                f"the floor of event times must be {FLOOR_MS_MIN} ms (1973) or later, got {self.floor_ms}"
            )


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Which event times are accepted: from ``floor_ms`` to ``future_skew_ms`` ahead of the wall clock."""

    clock: Clock = field(default_factory=SystemClock)
    floor_ms: int = FLOOR_MS
    future_skew_ms: int | None = 300_000  # 5 min of clock error is common, 2037 is one broken phone
    zone: ZoneInfo | None = None  # for times that are written without one
    fixed: TimeBounds | None = None  # for a file: the same bounds for all of it, however long reading takes

    def bounds(self) -> TimeBounds:
        """The bounds as of now; taken once a batch, so that all its rows are judged alike."""
        if self.fixed is not None:
            return self.fixed
        ahead = self.future_skew_ms
        return TimeBounds(self.floor_ms, None if ahead is None else self.clock.now_ms() + ahead, self.zone)


REPLAY_TIMES = TimeRules(future_skew_ms=None)  # no ceiling: the reader of the file has judged the times


def time_ms_of(value: object, bounds: TimeBounds) -> int | TimeFault:
    """One event time as UTC milliseconds, or why not. This function defines what is right.

    Numbers are seconds, milliseconds, microseconds or nanoseconds by range (limits: ``time_kernels``);
    a fraction of a millisecond is rounded half to even in float seconds and milliseconds and cut off in
    finer units and in text. Text is digits, digits with a fraction, or a date and time (``time_text``). No
    exponents: ``1.5E+09`` is a time that a spreadsheet destroyed. Fourteen digits that begin with a year from
    1973 to 2286 are a date and time, ``20260702134640``; as milliseconds they would be of the year 2600. A
    ``numpy.datetime64`` is taken as it is.
    """
    if isinstance(value, str):
        parsed = _ms_of_text(value, bounds.zone)
    elif isinstance(value, bool):
        parsed = TimeFault.BAD_TIME
    elif isinstance(value, int):
        parsed = _ms_of_int(value, bounds.zone)
    elif isinstance(value, float):
        parsed = _ms_of_float(value)
    elif isinstance(value, np.datetime64):
        parsed = _ms_of_instant(value)
    else:
        parsed = TimeFault.BAD_TIME
    if isinstance(parsed, TimeFault):
        return parsed
    if parsed < bounds.floor_ms:
        return TimeFault.TOO_OLD
    if bounds.ceiling_ms is not None and parsed > bounds.ceiling_ms:
        return TimeFault.IN_FUTURE
    return parsed


def _ms_of_int(value: int, zone: ZoneInfo | None) -> int | TimeFault:
    if time_kernels.COMPACT_FROM <= value < time_kernels.COMPACT_BELOW:
        return ms_of_text(f"{value // 1_000_000}T{value % 1_000_000:06}", zone)
    if not 0 < value < time_kernels.NUMBER_BELOW:
        return TimeFault.BAD_TIME
    if value < time_kernels.SECONDS_BELOW:
        return value * 1_000
    if value < time_kernels.MILLISECONDS_BELOW:
        return value
    return value // 1_000 if value < time_kernels.MICROSECONDS_BELOW else value // 1_000_000


def _ms_of_float(value: float) -> int | TimeFault:
    if not (math.isfinite(value) and 0 < value < time_kernels.NUMBER_BELOW):
        return TimeFault.BAD_TIME
    if value < time_kernels.SECONDS_BELOW:
        return round(value * 1_000)
    return round(value) if value < time_kernels.MILLISECONDS_BELOW else _ms_of_int(int(value), None)


def _ms_of_instant(value: np.datetime64) -> int | TimeFault:
    ms = int(value.astype("datetime64[ms]").astype(np.int64))
    return TimeFault.BAD_TIME if np.isnat(value) or ms > TIME_MS_MAX else ms


def _ms_of_text(text: str, zone: ZoneInfo | None) -> int | TimeFault:
    if len(text) > _TEXT_MAX:
        return TimeFault.BAD_TIME
    number = _NUMBER.fullmatch(text)
    if number is None:
        return ms_of_text(text, zone)
    return _ms_of_float(float(text)) if number[1] else _ms_of_int(int(text), zone)


def times_ms_of(column: I64 | F64 | Instants | Strings, bounds: TimeBounds) -> tuple[I64, U8]:
    """A column of event times as UTC milliseconds, and each one's fault: an index into ``FAULTS``, 0 if good.

    Equal to ``time_ms_of`` row by row. Where the fault is not 0 the time means nothing. O(N) in compiled
    code; text that is neither plain digits nor one of the usual dates costs a Python call each, and so does
    each minute of times without a zone that is seen for the first time.
    """
    count = len(column)
    ms, fault = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    ceiling_ms = TIME_MS_MAX if bounds.ceiling_ms is None else bounds.ceiling_ms
    if isinstance(column, Strings):
        time_kernels.parse_texts(column.offsets, column.data, ms, fault)
        _local_to_utc(ms, fault, bounds.zone)
    elif column.dtype == np.float64:
        time_kernels.scale_floats(column, ms, fault)
    elif column.dtype == np.int64:
        time_kernels.scale_ints(column, ms, fault)
    else:
        ms, fault = column.astype(np.int64), np.isnat(column).astype(np.uint8) * np.uint8(time_kernels.BAD)
    time_kernels.bound_times(ms, fault, bounds.floor_ms, ceiling_ms, TIME_MS_MAX)
    for row in np.flatnonzero(fault == time_kernels.ASK).tolist():
        try:
            value = column.bytes_at(row).decode() if isinstance(column, Strings) else column[row]
            value = int(value) if isinstance(value, np.integer) else value
            answer = time_ms_of(value, bounds)
        except UnicodeDecodeError:
            answer = TimeFault.BAD_TIME
        known = isinstance(answer, TimeFault)
        ms[row], fault[row] = (0, FAULTS.index(answer)) if known else (answer, 0)
    return ms, fault


def _local_to_utc(ms: I64, fault: U8, zone: ZoneInfo | None) -> None:
    """Move the times that have no zone of their own from the configured one to UTC."""
    rows = np.flatnonzero(fault == time_kernels.LOCAL)
    if len(rows) == 0:
        return
    if zone is None:
        fault[rows] = time_kernels.WITHOUT_ZONE
        return
    minutes, which = np.unique(ms[rows] // 60_000, return_inverse=True)
    shifts = np.array([shift_ms(zone, minute) for minute in minutes.tolist()], np.int64)[which]
    there_is = shifts != NO_SUCH_MINUTE
    ms[rows] += np.where(there_is, shifts, 0)
    fault[rows] = np.where(there_is, 0, time_kernels.BAD)
