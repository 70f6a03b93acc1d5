"""Each preset on realistic messages: the golden files say what goes in and what must come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from driftgraph.stream.formats.cloudevents import CloudEventReader
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.formats.presets import PRESETS, merged
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
RELATIONS = ("view", "click", "cart", "favorite", "purchase")
RULES = EventRules(Behaviors(RELATIONS), REPLAY_TIMES)
CASES = [
    pytest.param(name, case, id=f"{name}: {case['title']}")
    for name in PRESETS
    for case in json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["cases"]
]


def decoder_of(name: str) -> MappingDecoder:
    reader = CloudEventReader() if name == "cloudevents" else None
    return MappingDecoder(RULES, EventMapping.of(PRESETS[name], erase=RULES.erase), reader)


def rows_of(case: dict[str, Any]) -> Rows:
    headers = tuple((key, value.encode()) for key, value in case.get("headers", {}).items())
    origin = RowOrigin("t[0]@0", b"k", headers, case.get("timestamp_ms"))
    return Rows([json.dumps(case["message"]).encode()], lambda row: origin)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_preset_reads_its_messages(name: str, case: dict[str, Any]) -> None:
    rows, decoder = rows_of(case), decoder_of(name)
    decoded = decoder.decode(rows)
    found = [[u, i, RELATIONS[r], t, e] for u, i, r, t, _, e in events_of(decoded.batch)]
    assert found == case["events"]
    assert decoded.ignored == case.get("ignored", 0)
    told = [(one.reason, one.detail.partition("; its fields are ")[0]) for one in decoded.rejected]
    wanted = case.get("rejected", [])
    assert [reason for reason, _ in told] == [reason for reason, _ in wanted]
    assert all(detail in (None, said) for (_, said), (_, detail) in zip(told, wanted, strict=True))
    assert {letter.payload for letter in decoded.rejected} <= {rows.payloads[0]}
    assert plain(decoded) == plain(decoder.decode_by_row(rows))


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_that_a_preset_knows_is_in_its_golden_file(name: str) -> None:
    """A name that is misspelt in the preset would be ignored in silence."""
    events = [event for param in CASES if param.values[0] == name for event in param.values[1]["events"]]  # type: ignore[index]
    assert {event[2] for event in events} >= set(PRESETS[name].get("behaviors", {}).values())


def test_a_site_changes_one_part_of_a_preset() -> None:
    own = {"user": "properties.member", "behaviors": {"Product Viewed": "click", "Video Played": "view"}}
    mapping = EventMapping.of(merged(PRESETS["segment"], own))
    assert mapping.values[0].paths[0].text == "properties.member"
    assert mapping.values[1] == EventMapping.of(PRESETS["segment"]).values[1]
    names = {name: choices[0].relation for name, choices in (mapping.behaviors or {}).items()}
    assert (names["Product Viewed"], names["Video Played"], names["Order Completed"]) == (
        "click",
        "view",
        "purchase",
    )


def test_a_request_to_erase_passes_a_preset_that_ignores_other_names() -> None:
    message = {"type": "track", "event": "$erase", "userId": "u-1042", "timestamp": "2026-07-02T13:46:40Z"}
    [erased] = decoder_of("segment").decode(rows_of({"message": message})).erased
    assert (erased.user, erased.place) == ("u-1042", 0)
