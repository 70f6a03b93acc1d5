"""Which fields a message has, where an event lacks one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.field_names import fields_in
from driftgraph.stream.formats.mapping_decoder import JsonReader, MappingDecoder
from driftgraph.stream.time.clock import REPLAY_TIMES

NESTED = {
    "meta": {"when": 1, "v": 3},
    "actor": {"id": 7},
    "lines": [{"sku": "a"}, {"size": 2}],
    "tags": ["x"],
}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"uid": 1, "iid": 2}, "uid, iid"),
        (NESTED, "meta.when, meta.v, actor.id, lines[*].sku, tags"),
        ([NESTED], "meta.when, meta.v, actor.id, lines[*].sku, tags"),
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, "a.b.c.d"),
        ({"a": {}}, "a"),
        ({f"f{n}": n for n in range(14)}, ", ".join(f"f{n}" for n in range(12)) + " and 2 more"),
    ],
)
def test_the_fields_are_paths_as_a_mapping_writes_them(message: Any, said: str) -> None:
    assert fields_in(message) == f"; its fields are {said}"


@pytest.mark.parametrize("message", [{}, [], [[]], 7, None, "text"])
def test_what_has_no_fields_has_none(message: Any) -> None:
    assert fields_in(message) == ""


def test_the_detail_of_an_event_that_lacks_a_field_has_those_it_has() -> None:
    rules = EventRules(Behaviors(["click"]), REPLAY_TIMES)
    rows = Rows([msgspec.json.encode(NESTED)], lambda _: RowOrigin("e"))
    mapping = EventMapping.of({"user": "actor.uid", "item": "sku", "behavior": "verb", "ts": "meta.when"})
    for decoder in (CanonicalJson(rules), MappingDecoder(rules, mapping, JsonReader())):
        [first, *_] = decoder.decode(rows).rejected
        assert first.detail.endswith("; its fields are meta.when, meta.v, actor.id, lines[*].sku, tags")
