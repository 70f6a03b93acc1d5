"""Times as texts: each form that exporters write is one instant or is refused, by row and by column."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.events import Strings
from driftgraph.stream.time.clock import FLOOR_MS, TimeBounds, time_ms_of, times_ms_of
from driftgraph.stream.time.time_text import FAULTS, TimeFault

AT_MS = 1_783_000_000_000  # 2026-07-02T13:46:40Z
NOW_MS = AT_MS + 123
ANY = TimeBounds()
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


def both(text: str, bounds: TimeBounds = ANY) -> int | TimeFault:
    """What the definition says, which the column says too."""
    answer = time_ms_of(text, bounds)
    ms, fault = times_ms_of(Strings.of([text]), bounds)
    column = FAULTS[fault[0]] if fault[0] else int(ms[0])
    assert column == answer, text
    return answer


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2026-07-02 13:46:40 UTC", AT_MS),  # BigQuery, REES46, Trino
        ("2026-07-02 13:46:40.123 UTC", NOW_MS),
        ("2026-07-02 13:46:40.123456 UTC", NOW_MS),
        ("2026-07-02 13:46:40 utc", AT_MS),
        ("2026-07-02 13:46:40 GMT", AT_MS),
        ("2026-07-02T13:46:40UTC", AT_MS),
        ("2026-07-02 13:46:40 Z", AT_MS),
        ("2026-07-02 13:46:40Z", AT_MS),
        ("2026-07-02t13:46:40z", AT_MS),
        ("2026-07-02 13:46:40+00", AT_MS),  # Postgres
        ("2026-07-02 15:46:40+02", AT_MS),
        ("2026-07-02 08:46:40-05", AT_MS),
        ("2026-07-02 19:16:40+0530", AT_MS),
        ("2026-07-02 19:16:40+05:30", AT_MS),
        ("2026-07-02 13:46:40.123456+00", NOW_MS),
        ("2026-07-02 14:40:08+00:53:28", AT_MS),  # a zone of the time before zones, as Postgres writes it
        ("2026-07-02T13:46:40.123456789Z", NOW_MS),
        ("2026-07-02T15:46:40.123456789+02:00", NOW_MS),
        ("2026-07-02 13:46:40.123000+00:00", NOW_MS),  # pandas
        ("2026-07-02 15:46:40.1230000 +02:00", NOW_MS),  # SQL Server
        ("2026-07-02 15:46:40.123 +0200", NOW_MS),  # Snowflake
        ("2026-07-02 13:46:40 +0000", AT_MS),  # Ruby, git
        ("2026-07-02 13:46:40.123456789 +0000 UTC", NOW_MS),  # Go
        ("2026-07-02 15:46:40 +0200 CEST", AT_MS),
        ("2026-07-02T15:46:40.123+02:00[Europe/Berlin]", NOW_MS),  # Java
        ("2026-07-02T13:46:40Z[UTC]", AT_MS),
        ("2026-07-02T19:16:40+05:30[Asia/Kolkata]", AT_MS),
        ("2026-07-02T19:16:40.123456789+05:30[Asia/Kolkata]", NOW_MS),
        ("2026-07-02T19:16:40+05:30 [Asia/Kolkata]", AT_MS),
        ("2026-07-02T19:16:40+05:30[+05:30]", AT_MS),
        ("2026-07-02T19:16:40+05:30[Asia/Kolkata][u-ca=gregory]", AT_MS),  # RFC 9557
        ("2026-07-02T19:16:40[Asia/Kolkata]", AT_MS),
        ("2026-07-02T19:16:40 [Asia/Kolkata]", AT_MS),
        ("2026-07-02 15:46:40.123 Europe/Berlin", NOW_MS),  # Trino, Athena
        ("2026-07-02 06:46:40 America/Los_Angeles", AT_MS),
        ("2026-07-02T13:46:40,123Z", NOW_MS),  # ISO 8601 allows a comma
        ("2026-07-02T13:46:40.1Z", AT_MS + 100),
        ("20260702T134640Z", AT_MS),  # the basic form
        ("20260702T134640.123Z", NOW_MS),
        ("20260702T154640+0200", AT_MS),
        ("2026-07-02T13:46Z", AT_MS - 40_000),
        ("2026-07-02 15:46+02:00", AT_MS - 40_000),
    ],
)
def test_what_exporters_write_with_a_zone_is_one_instant(text: str, expected_ms: int) -> None:
    """A configured zone is for texts that have none, and changes nothing here."""
    assert both(text) == expected_ms
    assert both(text, TimeBounds(zone=SHANGHAI)) == expected_ms


LOCAL = [
    ("2026-07-02 21:46:40", AT_MS),  # MySQL, ClickHouse, Spark
    ("2026-07-02T21:46:40", AT_MS),
    ("2026-07-02 21:46:40.123456", NOW_MS),
    ("2026-07-02T21:46:40,123", NOW_MS),
    ("2026-07-02 21:46", AT_MS - 40_000),
    ("20260702T214640", AT_MS),
    ("2026-07-02", AT_MS - (21 * 60 + 46) * 60_000 - 40_000),  # the beginning of the day
]


@pytest.mark.parametrize(("text", "expected_ms"), LOCAL)
def test_a_text_without_a_zone_is_refused_or_read_in_the_configured_one(text: str, expected_ms: int) -> None:
    assert both(text) is TimeFault.WITHOUT_ZONE
    assert both(text, TimeBounds(zone=SHANGHAI)) == expected_ms
    assert both(text, TimeBounds(zone=ZoneInfo("UTC"))) == expected_ms + 8 * 3_600_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-02 13:46:40 CST",  # China, Cuba or Chicago
        "2026-07-02 13:46:40 PST",
        "2026-07-02 13:46:40 Nowhere/Else",
        "2026-07-02 13:46:40 ../../etc/passwd",
        "2026-07-02T13:46:40GMT+2",  # east for a browser, west for POSIX
        "2026-07-02 13:46:40 UTC+02:00",
        "2026-07-02T13:46:40+2",
        "2026-07-02T13:46:40+24:00",
        "2026-07-02T13:46:40+02:60",
        "2026-07-02T13:46:40Z+02:00",
        "2026-07-02 01:46:40 PM UTC",
        "2026-07-02 13:46:40.Z",
        "2026-07-02  13:46:40Z",
        "2026-07-02T13:46:40Z ",
        "2026-07-02T13Z",
        "2026-07-02Z",
        "2026-07-02T13:46:4Z",
        "2026-7-2 13:46:40Z",
        "2026-07-02T1346Z",
        "20260702T13:46:40Z",
        "02.07.2026 13:46:40 UTC",
        "07/02/2026 13:46:40 UTC",  # July or February
        "2026-183T13:46:40Z",
        "2026-W27-4T13:46:40Z",
        "2026-07-02T24:00:00Z",
        "2016-12-31T23:59:60Z",  # a leap second has no place in Unix time
        "2026-02-29 00:00:00 UTC",
        "2026-07-02 13:60:00 UTC",
        "Thu, 02 Jul 2026 13:46:40 GMT",
        "Thu Jul 02 2026 13:46:40 GMT+0200 (Central European Summer Time)",
        "02/Jul/2026:13:46:40 +0000",
        "1.783E9",
        "1.783000000123E12",
        "1783000000123L",
        "1,783,000,000",
        "-1783000000",
        "+1783000000",
        "0x6a466ec0",
        "NaN",
        "null",
        "now",
    ],
)
def test_what_could_be_another_instant_or_is_none_is_refused(text: str) -> None:
    assert both(text) is TimeFault.BAD_TIME
    assert both(text, TimeBounds(zone=BERLIN)) is TimeFault.BAD_TIME


def test_an_hour_that_clocks_skip_is_refused_and_of_one_that_comes_twice_the_first_is_taken() -> None:
    berlin = TimeBounds(zone=BERLIN)
    before, after = both("2026-03-29 01:59:59", berlin), both("2026-03-29 03:00:00", berlin)
    assert after == before + 1_000  # type: ignore[operator]
    for text in ("2026-03-29 02:00:00", "2026-03-29 02:30:00.5", "2026-03-29T02:59:59", "2026-03-29 02:30"):
        assert both(text, berlin) is TimeFault.BAD_TIME, text
    assert both("2026-10-25 02:30:00", berlin) == both("2026-10-25 02:30:00+02:00")
    assert both("2026-10-25 02:59:59.999", berlin) == both("2026-10-25 02:59:59.999+02:00")
    assert both("2026-10-25 03:00:00", berlin) == both("2026-10-25 03:00:00+01:00")


ZONES = [
    BERLIN,
    SHANGHAI,
    *map(
        ZoneInfo,
        (
            "UTC",
            "America/New_York",
            "America/St_Johns",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Asia/Kathmandu",
        ),
    ),
]


@example(datetime(2011, 12, 30, 12), ZoneInfo("Pacific/Apia"))  # a day that there was not
@example(
    datetime(2006, 10, 29, 0, 0, 59), ZoneInfo("America/St_Johns")
)  # clocks set back at one past midnight
@example(datetime(2026, 4, 5, 1, 45), ZoneInfo("Australia/Lord_Howe"))  # by half an hour
@given(st.datetimes(datetime(2005, 1, 2), datetime(2060, 1, 1)), st.sampled_from(ZONES))
def test_local_times_agree_with_the_standard_library(naive: datetime, zone: ZoneInfo) -> None:
    when = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    there_is = when.astimezone(zone).replace(tzinfo=None) == naive
    expected = (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    answer = both(naive.isoformat(sep=" "), TimeBounds(zone=zone))
    assert answer == (expected if there_is else TimeFault.BAD_TIME)


DATES = st.sampled_from(
    ["2026-07-02", "2026-03-29", "2026-10-25", "20260702", "1970-01-01", "9999-12-31", "2026-13-02"]
)
CLOCKS = st.sampled_from(["13:46:40", "02:30:00", "02:30", "134640", "24:00:00", "23:59:60", "1346", ""])
FRACTIONS = st.sampled_from(["", ".1", ".123", ",123456", ".123456789", "."])
ENDS = st.sampled_from(
    ["", "Z", "z", " Z", " UTC", "UTC", " utc", " GMT", "+00", "+02", "-05", "+0530", "-05:30", " +0200",
     " +02:00 CEST", "+00:53:28", "+24:00", "[UTC]", "Z[Europe/Berlin]", " Europe/Berlin", " Asia/Shanghai",
     " PST", " ", "-23:59"]
)  # fmt: skip
NAMES = st.text("CGMTUSZ", min_size=1, max_size=3).map(" {}".format)  # GMT, UTC, CST, …
WRITTEN = st.builds(
    "{}{}{}{}{}".format, DATES, st.sampled_from(["T", "t", " ", ""]), CLOCKS, FRACTIONS, ENDS | NAMES
)
BOUNDS = st.builds(
    TimeBounds, st.just(FLOOR_MS), st.sampled_from([None, NOW_MS]), st.sampled_from([None, *ZONES])
)


@example(["2026-07-02 13:46:40 CMT", "2026-07-02 13:46:40GMC", "2026-07-02 13:46:40 UTS"], ANY)
@given(st.lists(WRITTEN | st.text("0123456789-+:.TtZz UTCG", max_size=32), max_size=20), BOUNDS)
def test_a_column_of_texts_says_what_each_one_says(texts: list[str], bounds: TimeBounds) -> None:
    ms, fault = times_ms_of(Strings.of(texts), bounds)
    got = [FAULTS[f] if f else int(m) for m, f in zip(ms, fault, strict=True)]
    assert got == [time_ms_of(text, bounds) for text in texts]


@example([0, 1_000, 10**11 - 1, 10**14, 253_402_300_799_999, 253_402_300_800_000, -1], ANY)
@given(st.lists(st.integers(-(2**62), 2**62), max_size=20), BOUNDS)
def test_what_is_a_timestamp_by_its_type_is_never_scaled(instants: list[int], bounds: TimeBounds) -> None:
    """1971 in milliseconds is a number that would pass for seconds, and 9999 for microseconds."""
    column = np.array(instants, "datetime64[ms]")
    ms, fault = times_ms_of(column, bounds)
    got = [FAULTS[f] if f else int(m) for m, f in zip(ms, fault, strict=True)]
    assert got == [time_ms_of(value, bounds) for value in column]
    ceiling_ms = 253_402_300_799_999 if bounds.ceiling_ms is None else bounds.ceiling_ms
    assert [type(g) is int for g in got] == [FLOOR_MS <= instant <= ceiling_ms for instant in instants]


def test_a_timestamp_that_is_not_there_is_no_time() -> None:
    assert time_ms_of(np.datetime64("NaT"), ANY) is TimeFault.BAD_TIME
    assert times_ms_of(np.array(["NaT"], "datetime64[ms]"), ANY)[1].tolist() == [1]


COMPACT = [20260702134640, 20260702154640, 19730303094640, 22860702134640]


def test_fourteen_digits_are_a_date_and_time_in_the_configured_zone() -> None:
    for value in ("20260702154640", 20260702154640):
        assert time_ms_of(value, TimeBounds(zone=BERLIN)) == AT_MS
        assert time_ms_of(value, ANY) is TimeFault.WITHOUT_ZONE
    assert both("20260702154640", TimeBounds(zone=BERLIN)) == AT_MS
    assert both("20260702154640") is TimeFault.WITHOUT_ZONE


@pytest.mark.parametrize("text", ["20261302134640", "20260702246140", "20260230000000"])
def test_fourteen_digits_that_are_no_date_are_no_time(text: str) -> None:
    assert both(text) is both(text, TimeBounds(zone=BERLIN)) is TimeFault.BAD_TIME


@pytest.mark.parametrize("zone", [None, BERLIN])
def test_a_column_of_numbers_says_of_fourteen_digits_what_each_one_says(zone: ZoneInfo | None) -> None:
    values = [*COMPACT, 19_729_999_999_999, 22_870_000_000_000, AT_MS, 20261302134640]
    bounds = TimeBounds(zone=zone)
    ms, fault = times_ms_of(np.array(values, np.int64), bounds)
    got = [FAULTS[f] if f else int(m) for m, f in zip(ms, fault, strict=True)]
    assert got == [time_ms_of(value, bounds) for value in values]
    assert got == [both(str(value), bounds) for value in values]
