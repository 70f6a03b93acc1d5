"""Times that are written as texts: which forms mean one instant, and why other forms are refused.

    clock.time_ms_of ──► [ms_of_text] ──► UTC milliseconds, or a TimeFault
    clock.times_ms_of ─► time_kernels, which reads the usual forms ──► [shift_ms] for those without a zone

A text is read only if it has one meaning. A time without a zone is read in the configured zone
(``events.timezone``), and is refused if none is configured.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

TIME_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of the year 9999, where RFC 3339 ends
NO_SUCH_MINUTE: Final = -(1 << 62)  # in place of a shift: clocks were set forward over that minute
_EPOCH: Final = datetime(1970, 1, 1)
_MINUTE_MS: Final = 60_000
_SHIFTS_MAX: Final = 1 << 16  # minutes that are remembered: 45 days

_TIME: Final = re.compile(
    r"(?:(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?"  # 2026-07-02 13:46:40.123
    r"|(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)(\d\d)(?:[.,](\d+))?)"  # 20260702T134640, the basic form
    r"(.*)",
    re.ASCII,
)
_BRACKETS: Final = r"(?: ?\[!?[\w/+:=-]+\])*"  # [Asia/Kolkata], as Java, Go and RFC 9557 write it
_UTC: Final = re.compile(rf" ?(?:[Zz]|[Uu][Tt][Cc]|[Gg][Mm][Tt]){_BRACKETS}", re.ASCII)
# an offset; the name of the zone after it, as Go and Java write it, adds nothing
_OFFSET: Final = re.compile(
    rf" ?([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?(?: [A-Z]{{3,5}})?{_BRACKETS}", re.ASCII
)
_REGION: Final = re.compile(
    r" ([A-Za-z_]+(?:/[A-Za-z0-9_+-]+){1,2})| ?\[([A-Za-z_]+(?:/[A-Za-z0-9_+-]+){0,2})\]", re.ASCII
)


class TimeFault(StrEnum):
    """Why a value is no usable event time. The codes are stable, since metrics count by them."""

    BAD_TIME = "bad_time"  # not a time in any known form; NaN, zero, negative, null
    WITHOUT_ZONE = "time_without_zone"
    TOO_OLD = "time_too_old"  # before the floor
    IN_FUTURE = "time_in_future"  # after the ceiling


FAULTS: Final = (None, *TimeFault)  # indexed by the numbers of ``time_kernels``


def ms_of_text(text: str, zone: ZoneInfo | None) -> int | TimeFault:
    """A date and time as UTC milliseconds, digits beyond them cut off; this function defines what is right.

    A zone is ``Z``, ``UTC``, ``GMT``, an offset (``+02``, ``+0200``, ``+02:00``, also with a blank before it)
    or the name of a region (``Europe/Berlin``). An abbreviation alone is none: ``CST`` is four zones. A leap
    second and 24:00 are refused, since Unix time has no place for them. A date alone is the beginning of its
    day, and a time without seconds that of its minute.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return TimeFault.BAD_TIME
    parts, rest = found.groups()[:7] if found[1] else found.groups()[7:14], found[15]
    if parts[3] is None and rest:
        return TimeFault.BAD_TIME  # a day with a zone is no instant
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in parts[:6])
        local = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return TimeFault.BAD_TIME
    whole_ms = (local - _EPOCH) // timedelta(milliseconds=1)
    shift = _shift_of(rest, whole_ms, zone)
    if isinstance(shift, TimeFault):
        return shift
    utc_ms = whole_ms + shift + int(f"{parts[6] or ''}000"[:3])
    return utc_ms if utc_ms <= TIME_MS_MAX else TimeFault.BAD_TIME


def _shift_of(written: str, local_ms: int, zone: ZoneInfo | None) -> int | TimeFault:
    """The shift from local time to UTC, by the zone that is written after it."""
    if _UTC.fullmatch(written):
        return 0
    offset = _OFFSET.fullmatch(written)
    if offset is not None:
        hours, minutes, seconds = (int(part or 0) for part in offset.groups()[1:])
        if hours > 23 or minutes > 59 or seconds > 59:
            return TimeFault.BAD_TIME
        ahead_ms = ((hours * 60 + minutes) * 60 + seconds) * 1_000
        return ahead_ms if offset[1] == "-" else -ahead_ms
    region = _REGION.fullmatch(written)
    if region is not None:
        zone = zone_named(region[1] or region[2])
    elif written:
        return TimeFault.BAD_TIME
    elif zone is None:
        return TimeFault.WITHOUT_ZONE
    shift = NO_SUCH_MINUTE if zone is None else shift_ms(zone, local_ms // _MINUTE_MS)
    return TimeFault.BAD_TIME if shift == NO_SUCH_MINUTE else shift


@lru_cache(_SHIFTS_MAX)
def shift_ms(zone: ZoneInfo, minute: int) -> int:
    """UTC minus a local time within that minute since 1970; ``NO_SUCH_MINUTE`` where clocks skip it.

    A minute that comes twice, since clocks are set back, means the first of the two. Every offset since
    1973, where event times begin, is a whole number of minutes.
    """
    try:
        local = _EPOCH + timedelta(minutes=minute)
        utc = local.replace(tzinfo=zone).astimezone(UTC)
        if utc.astimezone(zone).replace(tzinfo=None) != local:
            return NO_SUCH_MINUTE
    except OverflowError:  # at an end of the years that Python's datetime has
        return NO_SUCH_MINUTE
    return (utc.replace(tzinfo=None) - local) // timedelta(milliseconds=1)


@lru_cache(1_024)
def zone_named(name: str) -> ZoneInfo | None:
    """The zone of the IANA database with that name, or None."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no name, a folder of names, or none that is known
        return None
