"""Decoders of every format against any bytes: none raises, and each message is counted once."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import load
from driftgraph.stream.formats.event_rules import Decoder, RowOrigin, Rows
from driftgraph.stream.time.clock import ManualClock

NOW_MS = 1_783_000_000_000
FORMATS = ("json", "arrow", "segment", "ga4", "ga4-mp", "snowplow", "cloudevents")
GOLDEN = Path(__file__).parents[2] / "golden"
WHOLE = {"user_id": "u1", "item_id": "i1", "behavior": "click", "ts": NOW_MS}
DEEP = [
    b"[" * 100_000, b'{"a":' * 100_000, b'{"user_id":' + b"[" * 50_000, b'{"ts":1e999999999}',
    b'{"ts":' + b"9" * 5_000 + b"}", b'{"user_id":"\\ud800"}', b"\xef\xbb\xbf{}", b"\x00" * 64, b'"' * 4_097,
]  # fmt: skip


@cache
def decoder_of(name: str) -> Decoder:
    tables = {"events": {"format": name, "ignore": ["view"]}, "relations": {"click": {}, "purchase": {}}}
    made = load(None, tables)
    return topic_decoder(made, event_rules(made, ManualClock(NOW_MS)))


def seeds(name: str) -> list[bytes]:
    """Events that are near good ones."""
    found = (
        json.loads((GOLDEN / f"{name}.json").read_bytes()) if (GOLDEN / f"{name}.json").exists() else [WHOLE]
    )
    found = found if isinstance(found, list) else [found]
    return [json.dumps(one).encode() for one in (*found, WHOLE)]


def judged(name: str, payloads: list[bytes | None]) -> None:
    at = RowOrigin("events[0]@1", b"u1", (), NOW_MS)
    found = decoder_of(name).decode(Rows(payloads, lambda _: at))
    if name in ("json", "segment", "snowplow", "cloudevents"):  # of the others one message has many events
        assert found.read_count == len(payloads)
    assert all(one.reason and one.detail for one in found.rejected)
    assert len(found.batch.user.to_list()) == len(found.batch)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_any_bytes_are_judged(name: str, data: st.DataObject) -> None:
    """Random bytes, and events with a few bytes changed, cut out or doubled."""
    payloads: list[bytes | None] = []
    for _ in range(data.draw(st.integers(1, 4))):
        whole = bytearray(data.draw(st.sampled_from(seeds(name)) | st.binary(max_size=80)))
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, max(0, len(whole) - 1)))
            end = data.draw(st.integers(at, min(len(whole), at + 6)))
            whole[at:end] = data.draw(st.binary(max_size=6))
        payloads.append(data.draw(st.sampled_from([bytes(whole)] * 9 + [None])))
    judged(name, payloads)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("payload", DEEP, ids=lambda one: repr(one[:12]))
def test_deep_and_huge_values_are_one_bad_event(name: str, payload: bytes) -> None:
    judged(name, [payload])
    if name == "json":
        judged(name, [json.dumps(WHOLE).encode(), payload, None])
