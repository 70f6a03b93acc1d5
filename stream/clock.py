"""Time: the one wall clock, what an event's time may look like, and how far event time has come.

    decode ──► time_ms_of / times_ms_of ──► EventBatch.time_ms ──► [Watermark] ──► window.expire

Event time is int64 milliseconds, UTC. Nothing else in driftgraph reads a wall clock; who needs one is
given a ``Clock``.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from driftgraph.stream import _time_kernels as kernels
from driftgraph.stream.events import I32, I64, U8, Strings
from driftgraph.stream.time_text import FAULTS, NO_SUCH_MINUTE, TIME_MS_MAX, TimeFault, ms_of_text, shift_ms

F64 = npt.NDArray[np.float64]
Instants = npt.NDArray[np.datetime64]  # in milliseconds, UTC
Mask = npt.NDArray[np.bool_]

FLOOR_MS = 1_104_537_600_000  # 2005-01-01: an older behavior event is a broken clock
FLOOR_MS_MIN = kernels.SECONDS_BELOW  # 1973: below it seconds and milliseconds cannot be told apart
_TEXT_MAX = 64  # characters; nanoseconds with the name of a zone take 60

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Clock(Protocol):
    """Wall time. Injected, so that a test or a replay decides what time it is."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """What it was last set to."""
        return self._now_ms

    def advance(self, duration_ms: int) -> None:
        """Let ``duration_ms`` pass."""
        self._now_ms += duration_ms


def duration_ms_of(text: str) -> int:
    """``90s``, ``15m``, ``6h``, ``1.5d``, ``2w``, ``250ms`` as milliseconds.

    Raises:
        ValueError: If it is none of these; the message says what is.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and a unit: 90s, 15m, 6h, 30d")
    return round(float(match[1]) * _UNIT_MS[match[2]])


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """The event times accepted right now, both ends included. ``ceiling_ms`` None: any.

    ``zone`` is that of times which are written without one; None: they are refused.
    """

    floor_ms: int = FLOOR_MS
    ceiling_ms: int | None = None
    zone: ZoneInfo | None = None
    beyond: str = "the time is further ahead of the clock than accepted"  # said of a time above the ceiling

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
    zone: ZoneInfo | None = None  # of times that are written without one
    fixed: TimeBounds | None = None  # of a file: one judgement for all of it, however long it is read

    def bounds(self) -> TimeBounds:
        """The bounds as of now; read once a batch, so that all its rows are judged alike."""
        if self.fixed is not None:
            return self.fixed
        ahead = self.future_skew_ms
        return TimeBounds(self.floor_ms, None if ahead is None else self.clock.now_ms() + ahead, self.zone)


REPLAY_TIMES = TimeRules(future_skew_ms=None)  # no ceiling: who reads has judged the times already


def time_ms_of(value: object, bounds: TimeBounds) -> int | TimeFault:
    """One event time as UTC milliseconds, or why not. This function defines what is right.

    Numbers are seconds, milliseconds, microseconds or nanoseconds by range (limits: ``_time_kernels``);
    a fraction of a millisecond is rounded half to even in float seconds and milliseconds and cut off in
    finer units and in text. Text is digits, digits with a fraction, or a date and time (``time_text``). No
    exponents: ``1.5E+09`` is a time that a spreadsheet destroyed. A ``numpy.datetime64`` is what it says.
    """
    if isinstance(value, str):
        parsed = _ms_of_text(value, bounds.zone)
    elif isinstance(value, bool):
        parsed = TimeFault.BAD_TIME
    elif isinstance(value, int):
        parsed = _ms_of_int(value)
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


def _ms_of_int(value: int) -> int | TimeFault:
    if not 0 < value < kernels.NUMBER_BELOW:
        return TimeFault.BAD_TIME
    if value < kernels.SECONDS_BELOW:
        return value * 1_000
    if value < kernels.MILLISECONDS_BELOW:
        return value
    return value // 1_000 if value < kernels.MICROSECONDS_BELOW else value // 1_000_000


def _ms_of_float(value: float) -> int | TimeFault:
    if not (math.isfinite(value) and 0 < value < kernels.NUMBER_BELOW):
        return TimeFault.BAD_TIME
    if value < kernels.SECONDS_BELOW:
        return round(value * 1_000)
    return round(value) if value < kernels.MILLISECONDS_BELOW else _ms_of_int(int(value))


def _ms_of_instant(value: np.datetime64) -> int | TimeFault:
    ms = int(value.astype("datetime64[ms]").astype(np.int64))
    return TimeFault.BAD_TIME if np.isnat(value) or ms > TIME_MS_MAX else ms


def _ms_of_text(text: str, zone: ZoneInfo | None) -> int | TimeFault:
    if len(text) > _TEXT_MAX:
        return TimeFault.BAD_TIME
    number = _NUMBER.fullmatch(text)
    if number is None:
        return ms_of_text(text, zone)
    return _ms_of_float(float(text)) if number[1] else _ms_of_int(int(text))


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
        kernels.parse_texts(column.offsets, column.data, ms, fault)
        _local_to_utc(ms, fault, bounds.zone)
    elif column.dtype == np.float64:
        kernels.scale_floats(column, ms, fault)
    elif column.dtype == np.int64:
        kernels.scale_ints(column, ms, fault)
    else:
        ms, fault = column.astype(np.int64), np.isnat(column).astype(np.uint8) * np.uint8(kernels.BAD)
    kernels.bound_times(ms, fault, bounds.floor_ms, ceiling_ms, TIME_MS_MAX)
    for row in np.flatnonzero(fault == kernels.ASK).tolist():
        try:
            value = column.bytes_at(row).decode() if isinstance(column, Strings) else column[row]
            answer = time_ms_of(value, bounds)
        except UnicodeDecodeError:
            answer = TimeFault.BAD_TIME
        known = isinstance(answer, TimeFault)
        ms[row], fault[row] = (0, FAULTS.index(answer)) if known else (answer, 0)
    return ms, fault


def _local_to_utc(ms: I64, fault: U8, zone: ZoneInfo | None) -> None:
    """Move the times that have no zone of their own from the configured one to UTC."""
    rows = np.flatnonzero(fault == kernels.LOCAL)
    if len(rows) == 0:
        return
    if zone is None:
        fault[rows] = kernels.WITHOUT_ZONE
        return
    minutes, which = np.unique(ms[rows] // 60_000, return_inverse=True)
    shifts = np.array([shift_ms(zone, minute) for minute in minutes.tolist()], np.int64)[which]
    there_is = shifts != NO_SUCH_MINUTE
    ms[rows] += np.where(there_is, shifts, 0)
    fault[rows] = np.where(there_is, 0, kernels.BAD)


@dataclass(frozen=True, slots=True)
class WatermarkRules:
    """How event time advances. Each default suits events sent by phones and browsers as they happen."""

    out_of_orderness_ms: int = 60_000  # disorder that is waited for; one minute covers a batching client
    allowed_lateness_ms: int = 3_600_000  # behind the watermark by more than this, an event is late
    idle_timeout_ms: int | None = 60_000  # a partition silent for longer does not hold time; None: never idle
    future_skew_ms: int | None = 300_000  # never ahead of the wall clock by more; None: no ceiling (replay)


@dataclass(frozen=True, slots=True)
class WatermarkState:
    """What a checkpoint keeps of a ``Watermark``."""

    value_ms: int = 0
    high_ms: Mapping[int, int] = field(default_factory=dict)  # partition → its highest event time


class Watermark:
    """The event time up to which the stream is considered complete.

    Always true:
      * ``value_ms`` has not gone back; 0 means that no event was seen yet;
      * it is at most (highest event time − out-of-orderness) of every partition that is not idle, at the
        moment it moved, and at most the wall clock + skew;
      * an event ahead of the wall clock + skew moves nothing;
      * between ``tick(away=True)`` and the next ``tick(away=False)`` no partition becomes idle and quiet time
        does not count: an outage of the source is not silence.

    Each event is judged by the watermark that the events before it made, so how the stream was cut into
    batches changes nothing (DESIGN section 6).
    """

    def __init__(self, rules: WatermarkRules, clock: Clock, state: WatermarkState | None = None) -> None:
        self.rules = rules
        self._clock = clock
        self.value_ms = state.value_ms if state else 0
        self._slot_of: dict[int, int] = {}  # partition → index into the arrays below
        self._high_ms: I64 = np.zeros(0, np.int64)  # highest event time; 0 before the first event
        self._seen_ms: I64 = np.zeros(0, np.int64)  # wall time of the last event
        self._active: Mask = np.zeros(0, np.bool_)
        self._held: Mask = np.zeros(0, np.bool_)  # by the last ``align``
        self._away_since_ms: int | None = None
        for partition, high_ms in (state.high_ms if state else {}).items():
            slot = self._slot(partition, active=True)
            self._high_ms[slot] = high_ms

    def assign(self, partitions: Sequence[int]) -> None:
        """Make partitions hold time back from now on, until their first event or until they are idle."""
        for partition in partitions:
            self._slot(partition, active=True)

    def state(self) -> WatermarkState:
        """A copy for a checkpoint."""
        high_ms = {partition: int(self._high_ms[slot]) for partition, slot in self._slot_of.items()}
        return WatermarkState(self.value_ms, high_ms)

    def observe(self, partition: I32, time_ms: I64) -> tuple[Mask, I64]:
        """Take in N events in arrival order.

        ``partition`` may be empty: all from partition 0. A late event never moves the watermark.

        Returns:
            (which of them are late [N], the watermark after each of them [N]).
        """
        late, after_ms = np.zeros(len(time_ms), np.bool_), np.zeros(len(time_ms), np.int64)
        if len(time_ms) == 0:
            return late, after_ms
        slots = self._slots(partition, len(time_ms))
        self._seen_ms[np.unique(slots)] = self._clock.now_ms()
        kernels.advance_watermark(
            self._high_ms,
            self._active,
            slots,
            time_ms,
            self.value_ms,
            self.rules.out_of_orderness_ms,
            self.rules.allowed_lateness_ms,
            self._ceiling_ms(),
            late,
            after_ms,
        )
        self.value_ms = int(after_ms[-1])
        return late, after_ms

    def late(self, time_ms: I64) -> Mask:
        """Which of these times would be late now."""
        return time_ms < self.value_ms - self.rules.allowed_lateness_ms

    def align(self, by_ms: int, behind: Collection[int]) -> frozenset[int]:
        """Which partitions to read no further now, as they are ahead of the slowest by more than ``by_ms``.

        The slowest is that of ``behind``, partitions with events to come, whose highest event time is lowest;
        one that has shown no event yet is slower than any. An idle one does not count, so that nobody waits
        for what does not come. One that is held stays so until it is ahead by half of that: each pause costs
        another fetch. What is held is not silent and does not become idle.
        """
        slow = self._active & np.fromiter((p in behind for p in self._slot_of), np.bool_, len(self._slot_of))
        if slow.any():
            ahead_ms = self._high_ms - self._high_ms[slow].min()
            self._held = ahead_ms > np.where(self._held, by_ms // 2, by_ms)
        else:
            self._held[:] = False
        return frozenset(p for p, slot in self._slot_of.items() if self._held[slot])

    def tick(self, *, away: bool = False, caught_up: bool = False) -> int:
        """Let wall time pass; return the watermark. To be called also when no event comes.

        Args:
            away: The source cannot be reached. Time stands still.
            caught_up: The source answers and has nothing more. Once all partitions are idle, event time
                then passes as the wall clock does, so that a quiet but healthy topic expires.
        """
        now_ms = self._clock.now_ms()
        if away:
            self._away_since_ms = now_ms if self._away_since_ms is None else self._away_since_ms
            return self.value_ms
        if self._away_since_ms is not None:
            self._seen_ms += now_ms - self._away_since_ms
            self._away_since_ms = None
        self._seen_ms[self._held] = now_ms
        timeout_ms = self.rules.idle_timeout_ms
        if timeout_ms is None or len(self._seen_ms) == 0:
            return self.value_ms
        self._active &= now_ms - self._seen_ms < timeout_ms
        bound_ms = self.rules.out_of_orderness_ms
        if self._active.any():
            self._raise_to(int(self._high_ms[self._active].min()) - bound_ms)
        else:
            high_ms = int(self._high_ms.max())
            self._raise_to(high_ms - bound_ms)
            quiet_ms = now_ms - int(self._seen_ms.max()) - timeout_ms
            if caught_up and high_ms > 0:
                self._raise_to(high_ms - bound_ms + quiet_ms)
        return self.value_ms

    def _raise_to(self, value_ms: int) -> None:
        self.value_ms = max(self.value_ms, min(value_ms, self._ceiling_ms()))

    def _ceiling_ms(self) -> int:
        skew_ms = self.rules.future_skew_ms
        return TIME_MS_MAX if skew_ms is None else self._clock.now_ms() + skew_ms

    def _slot(self, partition: int, *, active: bool) -> int:
        """Its place in the arrays. A new one that is not active holds time from its first event on."""
        slot = self._slot_of.get(partition)
        if slot is None:
            slot = self._slot_of[partition] = len(self._slot_of)
            self._high_ms = np.append(self._high_ms, 0)
            self._seen_ms = np.append(self._seen_ms, self._clock.now_ms())
            self._active = np.append(self._active, active)
            self._held = np.append(self._held, np.False_)
        return slot

    def _slots(self, partition: I32, count: int) -> I32:
        if len(partition) == 0:
            return np.full(count, self._slot(0, active=False), np.int32)
        distinct, index = np.unique(partition, return_inverse=True)
        slots = [self._slot(p, active=False) for p in distinct.tolist()]
        return np.array(slots, np.int32)[index]
