"""Compiled loops under ``clock``: event times by column, and the watermark over a batch.

Each loop takes the common forms only and marks the rest ``ASK``; ``clock.time_ms_of`` then decides. All
release the GIL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import I32, I64, Mask
from driftgraph.stream.kernels.compile import plain_kernel

SECONDS_BELOW = 100_000_000_000  # in seconds the year 5138, in milliseconds 1973
MILLISECONDS_BELOW = 100_000_000_000_000
MICROSECONDS_BELOW = 100_000_000_000_000_000
NUMBER_BELOW = 9_000_000_000_000_000_000  # nanoseconds of the year 2255; int64 ends soon after

BAD, WITHOUT_ZONE, TOO_OLD, IN_FUTURE = 1, 2, 3, 4  # indexes into time_text.FAULTS
LOCAL = 254  # not a fault yet: a time without a zone, its own milliseconds
COMPACT_FROM = 19_730_000_000_000  # 20260702134640 is a date and time; as milliseconds the year 2612
COMPACT_BELOW = 22_870_000_000_000
ASK = 255

_DIGITS_MAX = 18  # more could overflow int64
_NO_ZONE = -10_000
_ZERO, _NINE = 48, 57
_PLUS, _DASH, _DOT, _COLON, _BLANK = 43, 45, 46, 58, 32
_DATED_MIN, _DATED_MAX = 19, 40  # 2017-11-25T01:02:03 … with a long fraction and a zone


@plain_kernel
def _scaled(value: int) -> int:
    """A positive number of unknown unit as milliseconds."""
    if value < SECONDS_BELOW:
        return value * 1_000
    if value < MILLISECONDS_BELOW:
        return value
    if value < MICROSECONDS_BELOW:
        return value // 1_000
    return value // 1_000_000


@plain_kernel
def scale_ints(values: Any, ms: Any, fault: Any) -> None:
    """int64[N] of unknown unit → ms[N]."""
    for i in range(len(values)):
        if COMPACT_FROM <= values[i] < COMPACT_BELOW:
            fault[i] = ASK
        elif 0 < values[i] < NUMBER_BELOW:
            ms[i] = _scaled(values[i])
        else:
            fault[i] = BAD


@plain_kernel
def scale_floats(values: Any, ms: Any, fault: Any) -> None:
    """float64[N] of unknown unit → ms[N]; half to even where a fraction of a millisecond can be held."""
    for i in range(len(values)):
        value = values[i]
        if not (0.0 < value < NUMBER_BELOW):  # NaN fails both
            fault[i] = BAD
        elif value < SECONDS_BELOW:
            ms[i] = np.int64(np.rint(value * 1_000.0))
        elif value < MILLISECONDS_BELOW:
            ms[i] = np.int64(np.rint(value))
        else:
            ms[i] = _scaled(int(value))


@plain_kernel
def _number(data: Any, start: int, stop: int) -> int:
    """Digits as a number, -1 if one of them is none."""
    value = 0
    for at in range(start, stop):
        if data[at] < _ZERO or data[at] > _NINE:
            return -1
        value = value * 10 + (data[at] - _ZERO)
    return value


@plain_kernel
def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 of a Gregorian date (H. Hinnant, days_from_civil)."""
    y = year - 1 if month <= 2 else year
    era = y // 400
    year_of_era = y - era * 400
    shifted = month - 3 if month > 2 else month + 9
    day_of_year = (153 * shifted + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


@plain_kernel
def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@plain_kernel
def _zone_minutes(data: Any, at: int, stop: int) -> int:  # noqa: PLR0911  one for each form
    """Minutes ahead of UTC by ``Z``, ``UTC``, ``GMT``, ``±hh``, ``±hhmm`` or ``±hh:mm``, maybe after a blank.

    ``_NO_ZONE`` for anything else.
    """
    if at < stop and data[at] == _BLANK:
        at += 1
    length = stop - at
    if length == 1 and (data[at] == 90 or data[at] == 122):
        return 0
    if length == 3 and (data[at] == 85 and data[at + 1] == 84 and data[at + 2] == 67):  # UTC
        return 0
    if length == 3 and (data[at] == 71 and data[at + 1] == 77 and data[at + 2] == 84):  # GMT
        return 0
    if length not in (3, 5, 6) or (data[at] != _PLUS and data[at] != _DASH):
        return _NO_ZONE
    hours = _number(data, at + 1, at + 3)
    if length == 3:
        minutes: Any = np.int64(0)
    elif length == 5:
        minutes = _number(data, at + 3, at + 5)
    elif data[at + 3] == _COLON:
        minutes = _number(data, at + 4, at + 6)
    else:
        return _NO_ZONE
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return _NO_ZONE
    ahead: int = hours * 60 + minutes
    return -ahead if data[at] == _DASH else ahead


@plain_kernel
def _dated_ms(data: Any, start: int, stop: int) -> tuple[int, bool]:  # noqa: PLR0911  one for each fault
    """``YYYY-MM-DDThh:mm:ss[.f]`` and a zone as milliseconds; without a zone its own ones, and True.

    (-1, False) for anything else, also a fault.
    """
    if data[start + 4] != _DASH or data[start + 7] != _DASH:
        return -1, False
    if data[start + 13] != _COLON or data[start + 16] != _COLON or data[start + 10] not in (84, 116, _BLANK):
        return -1, False
    year, month = _number(data, start, start + 4), _number(data, start + 5, start + 7)
    day, hour = _number(data, start + 8, start + 10), _number(data, start + 11, start + 13)
    minute, second = _number(data, start + 14, start + 16), _number(data, start + 17, start + 19)
    if year < 1970 or month < 1 or month > 12 or day < 1 or day > _month_days(year, month):
        return -1, False
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1, False
    at, fraction_ms, weight = start + 19, 0, 100
    if at < stop and data[at] == _DOT:
        at += 1
        first = at
        while at < stop and _ZERO <= data[at] <= _NINE:
            fraction_ms += (data[at] - _ZERO) * weight
            weight //= 10
            at += 1
        if at == first:
            return -1, False
    ahead = _zone_minutes(data, at, stop) if at < stop else 0
    if ahead == _NO_ZONE:
        return -1, False
    minutes = (_days(year, month, day) * 24 + hour) * 60 + minute - ahead
    return (minutes * 60 + second) * 1_000 + fraction_ms, at == stop


@plain_kernel
def parse_texts(offsets: Any, data: Any, ms: Any, fault: Any) -> None:
    """N texts → ms[N]: digits and the usual dates. Those without a zone are ``LOCAL``, all others ``ASK``."""
    for i in range(len(ms)):
        start, stop = offsets[i], offsets[i + 1]
        length = stop - start
        value: Any = np.int64(-1)
        local = False
        if 0 < length <= _DIGITS_MAX:
            value = _number(data, start, stop)
            if COMPACT_FROM <= value < COMPACT_BELOW:
                value = -1
            elif value > 0:
                value = _scaled(value)
        elif _DATED_MIN <= length <= _DATED_MAX:
            value, local = _dated_ms(data, start, stop)
        if value > 0:
            ms[i] = value
            fault[i] = LOCAL if local else 0
        else:
            fault[i] = ASK


@plain_kernel
def bound_times(ms: Any, fault: Any, floor_ms: int, ceiling_ms: int, last_ms: int) -> None:
    """Mark what lies outside the bounds, and what is later than the last time that there is."""
    for i in range(len(ms)):
        if fault[i] == 0:
            if ms[i] < floor_ms:
                fault[i] = TOO_OLD
            elif ms[i] > last_ms:
                fault[i] = ASK
            elif ms[i] > ceiling_ms:
                fault[i] = IN_FUTURE


class Partitions(NamedTuple):
    """The highest time of each partition, and whether it counts."""

    high_ms: I64
    active: Mask


class Arrivals(NamedTuple):
    """N events: the index of each one's partition, and its time."""

    slot: I32
    time_ms: I64


class Limits(NamedTuple):
    """How far events may come out of order, how late they are accepted, and the latest watermark there is."""

    bound_ms: int
    lateness_ms: int
    ceiling_ms: int


class Judged(NamedTuple):
    """Of N events: which are late, and the watermark after each."""

    late: Mask
    after_ms: I64


@plain_kernel
def _lowest(partitions: Partitions) -> int:
    low_ms = np.iinfo(np.int64).max
    for slot in range(len(partitions.high_ms)):
        if partitions.active[slot] and partitions.high_ms[slot] < low_ms:
            low_ms = partitions.high_ms[slot]
    return low_ms


@plain_kernel
def advance_watermark(
    partitions: Partitions, events: Arrivals, value_ms: int, limits: Limits, judged: Judged
) -> None:
    """Run a watermark over N events; fill ``judged``, and move ``partitions``.

    The minimum over partitions is taken anew only when the partition that holds it moves: O(N + moves · P).
    """
    high_ms, active = partitions
    low_ms = _lowest(partitions)
    for i in range(len(events.time_ms)):
        slot, t = events.slot[i], events.time_ms[i]
        judged.late[i] = t < value_ms - limits.lateness_ms
        held = active[slot] and high_ms[slot] == low_ms
        if not active[slot]:
            active[slot] = True
            low_ms = min(low_ms, high_ms[slot])
            held = high_ms[slot] == low_ms
        if high_ms[slot] < t <= limits.ceiling_ms:
            high_ms[slot] = t
            if held:
                low_ms = _lowest(partitions)
        value_ms = max(value_ms, min(low_ms - limits.bound_ms, limits.ceiling_ms))
        judged.after_ms[i] = value_ms
