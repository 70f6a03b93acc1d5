"""Inputs that broke other systems (a clock in 2037, 42 and "42", mixed units, tombstones), in every format.

Each format gets the same events; what comes out must not depend on how they were written down.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.arrow_stream import ArrowStream
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, Decoder, EventRules, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.time.clock import ManualClock, TimeRules
from tests.decoded import events_of

NOW_MS = 1_783_000_000_123
RULES = EventRules(
    Behaviors(["click", "buy"], ignore=["impression"]),
    TimeRules(ManualClock(NOW_MS), future_skew_ms=300_000),
)
NAMES = ("user_id", "item_id", "behavior", "ts", "event_id")
MAPPING = EventMapping.of(
    {
        "user": "user_id",
        "item": "item_id",
        "behavior": "behavior",
        "ts": ["ts", "when"],
        "event_id": "event_id",
    },
    erase="$erase",
)
Writer = Callable[[list[dict[str, Any]]], list[bytes | None]]


def as_messages(events: list[dict[str, Any]]) -> list[bytes | None]:
    return [json.dumps(event).encode() for event in events]


def as_array(events: list[dict[str, Any]]) -> list[bytes | None]:
    return [json.dumps(events).encode()]


def as_arrow(events: list[dict[str, Any]]) -> list[bytes | None]:
    """All in one message; values that no column can mix become texts, as a bulk producer would write them."""
    out = io.BytesIO()
    names = [name for name in NAMES if any(name in event for event in events)]
    columns = {name: [event.get(name) for event in events] for name in names}
    arrays = {n: _column(values) for n, values in columns.items()}
    table = pa.table(arrays)
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return [out.getvalue()]


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values} - {type(None)}
    return pa.array(values if len(kinds) == 1 else [None if v is None else str(v) for v in values])


FORMATS: dict[str, tuple[Decoder, Writer]] = {
    "json": (CanonicalJson(RULES), as_messages),
    "array": (CanonicalJson(RULES), as_array),
    "mapping": (MappingDecoder(RULES, MAPPING, erase_by_key=True), as_messages),
    "mapped array": (MappingDecoder(RULES, MAPPING, erase_by_key=True), as_array),
    "arrow": (ArrowStream(RULES), as_arrow),
}
every_format = pytest.mark.parametrize("name", FORMATS)


def decode(name: str, payloads: list[bytes | None], key: bytes | None = None) -> Decoded:
    return FORMATS[name][0].decode(Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}", key)))


def decoded(name: str, events: list[dict[str, Any]]) -> Decoded:
    return decode(name, FORMATS[name][1](events))


def event(n: int = 0, **changed: Any) -> dict[str, Any]:
    return {"user_id": f"u{n}", "item_id": "i1", "behavior": "click", "ts": NOW_MS, **changed}


@every_format
@pytest.mark.parametrize("place", [0, 50, 100])
def test_a_phone_with_a_clock_in_2037_costs_one_event(name: str, place: int) -> None:
    """PITFALLS A3."""
    events = [event(n, ts=NOW_MS - 1_000 + n) for n in range(100)]
    events.insert(place, event(999, ts=2_114_380_800_000))
    got = decoded(name, events)
    assert [u for u, *_ in events_of(got.batch)] == [f"u{n}" for n in range(100)]
    assert [letter.reason for letter in got.rejected] == ["time_in_future"]
    assert got.batch.time_ms.max() < NOW_MS


@every_format
def test_the_same_instant_in_each_unit_is_one_time_and_a_local_one_is_refused(name: str) -> None:
    """PITFALLS A20."""
    whole_s = NOW_MS // 1_000
    for ts in (whole_s, whole_s * 1_000, whole_s * 10**6, whole_s * 10**9, float(whole_s), str(whole_s)):
        got = decoded(name, [event(ts=ts), event(ts=ts)])
        assert got.batch.time_ms.tolist() == [whole_s * 1_000] * 2, repr(ts)
    for text in (
        "2026-07-02T13:46:40Z", "2026-07-02T15:46:40+02:00", "2026-07-02 13:46:40 UTC",
        "2026-07-02 13:46:40+00", "2026-07-02 15:46:40+02", "2026-07-02 19:16:40+0530",
        "2026-07-02T13:46:40.000999999Z", "20260702T134640Z", "2026-07-02 15:46:40 Europe/Berlin",
    ):  # fmt: skip
        got = decoded(name, [event(ts=text)])
        assert got.batch.time_ms.tolist() == [whole_s * 1_000], text
    got = decoded(name, [event(ts="2026-07-02T13:46:40"), event(ts="2026-07-02T13:46:41Z")])
    assert [letter.reason for letter in got.rejected] == ["time_without_zone"]
    assert got.batch.time_ms.tolist() == [whole_s * 1_000 + 1_000]


@every_format
def test_42_and_text_42_are_one_user_and_no_item(name: str) -> None:
    """PITFALLS A21."""
    for user in (42, "42"):
        assert events_of(decoded(name, [event(user_id=user, item_id=user)]).batch)[0][:2] == ("42", "42")
    got = decoded(name, [event(user_id=None), event(user_id=""), event(user_id=" 42 "), event(user_id="ok")])
    assert [u for u, *_ in events_of(got.batch)] == ["ok"]
    assert [letter.reason for letter in got.rejected] == ["bad_id"] * 3


@pytest.mark.parametrize("name", ["json", "array", "mapping", "mapped array"])
@pytest.mark.parametrize("user", [42.0, True, False, [], {"id": 42}])
def test_what_only_looks_like_an_id_is_refused(name: str, user: object) -> None:
    got = decoded(name, [event(user_id=user), event(1)])
    assert [letter.reason for letter in got.rejected] == ["bad_id"]
    assert len(got.batch) == 1


@every_format
def test_a_bad_event_between_good_ones_costs_itself_with_its_message(name: str) -> None:
    """PITFALLS A7."""
    events = [
        event(0),
        event(1, item_id=None),
        event(2),
        event(3, behavior="share"),
        event(4),
        event(5, ts=0),
    ]
    payloads = FORMATS[name][1](events)
    got = decode(name, payloads)
    assert [u for u, *_ in events_of(got.batch)] == ["u0", "u2", "u4"]
    assert [letter.reason for letter in got.rejected] == ["bad_id", "unknown_behavior", "bad_time"]
    assert {letter.payload for letter in got.rejected} <= set(payloads)
    assert got.read_count == len(events)
    if len(payloads) == 1:  # the detail says which of them
        places = [letter.detail.partition(":")[0] for letter in got.rejected]
        word = "row {}" if name == "arrow" else "element [{}]"
        assert places == [word.format(n) for n in (1, 3, 5)]


@every_format
def test_tombstones_and_empty_values(name: str) -> None:
    """PITFALLS A30: None, b'', a good event, the text null; nothing is skipped and nothing raises."""
    [good] = FORMATS[name][1]([event(1)])
    got = decode(name, [None, b"", good, b"null", None], key=b"u1")
    assert [(one.user, one.place) for one in got.erased] == [("u1", 0), ("u1", 1)]
    assert len(got.batch) == 1
    assert [letter.origin for letter in got.rejected] == ["t[0]@1", "t[0]@3"]
    assert got.read_count == 5


@every_format
@pytest.mark.parametrize("key", [None, b"", b" u1", b"\xff\xfe", b"\x00\x00\x00\x00\x07\x04u1", b"x" * 600])
def test_a_tombstone_without_a_user_as_its_key_is_a_dead_letter(name: str, key: bytes | None) -> None:
    got = decode(name, [None], key=key)
    assert got.erased == ()
    assert [(letter.reason, letter.payload, letter.key) for letter in got.rejected] == [
        ("tombstone", b"", key)
    ]


@every_format
def test_a_request_to_erase_stands_between_the_events_around_it(name: str) -> None:
    erase = {"user_id": "u1", "item_id": None, "behavior": "$erase", "ts": None}
    bare = erase if name == "arrow" else {"user_id": 7, "behavior": "$erase"}
    events = [event(1), event(2, behavior="impression"), erase, event(1), event(1, ts=0), event(1), bare]
    got = decoded(name, events)
    assert [(one.user, one.place) for one in got.erased] == [("u1", 1), ("u1" if name == "arrow" else "7", 3)]
    assert (len(got.batch), got.ignored, len(got.rejected), got.read_count) == (3, 1, 1, 7)


@every_format
def test_a_request_to_erase_nobody_is_a_dead_letter(name: str) -> None:
    got = decoded(name, [{"user_id": None, "item_id": "i", "behavior": "$erase", "ts": NOW_MS}, event(1)])
    assert ([letter.reason for letter in got.rejected], got.erased, len(got.batch)) == (["bad_id"], (), 1)
