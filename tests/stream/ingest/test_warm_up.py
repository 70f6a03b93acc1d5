"""After the warm-up nothing is compiled while events come in."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import msgspec
import numpy as np
from numba.core.dispatcher import Dispatcher

import driftgraph.stream
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.ingest.warm_up import warm_up
from driftgraph.stream.time.clock import ManualClock, TimeRules
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

NOW_MS = 1_790_000_000_000
RELATIONS = (Relation("click", 3_600_000, 4_096), Relation("buy", 86_400_000, 4_096))
RULES = WatermarkRules()


def kernels() -> dict[str, Any]:
    """Every compiled function of the package, by name."""
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(driftgraph.stream.__path__, "driftgraph.stream."):
        if "faust" not in module.name:
            names = vars(import_module(module.name)).items()
            found |= {f"{module.name}.{name}": k for name, k in names if isinstance(k, Dispatcher)}
    return found


def ingest(clock: ManualClock) -> tuple[CanonicalJson, Ingest]:
    graph = Heterograph.create(None, RELATIONS, user_rows=4_096, item_rows=4_096)
    decoder = CanonicalJson(EventRules(Behaviors(["click", "buy"]), TimeRules(clock)))
    watermark = Watermark(RULES, clock)
    return decoder, Ingest(graph, watermark, MemoryDeadLetters(), FitSchedule(1 << 62))


def test_no_kernel_gets_a_new_signature_from_attributes() -> None:
    clock = ManualClock(NOW_MS)
    decoder, live = ingest(clock)
    own = kernels()
    warm_up(RELATIONS, decoder, RULES, clock)
    before = {name: len(kernel.signatures) for name, kernel in own.items()}
    fields = (
        Field("kind", "category"),
        Field("size", "number"),
        Field("tags", "tags"),
        Field("words", "text"),
    )
    live.attributes = Attributes(None, AttributeFields(item=fields, user=fields[:1]), live.graph)
    paths = ("kind", "size", "tags", "words", "city")
    mapping = EventMapping.of({name: name for name in ("user", "item", "behavior", "ts")}, attributes=paths)
    mapped = MappingDecoder(decoder.rules, mapping)
    for start in range(0, 300, 100):
        events = [
            {"user": f"u{n % 9}", "item": f"i{n}", "behavior": "click", "ts": NOW_MS + n, "kind": n % 7,
             "size": n / 3, "tags": ["a", n], "words": f"word {n}", "city": "x" * (n % 2)}
            for n in range(start, start + 100)
        ]  # fmt: skip
        rows = Rows([msgspec.json.encode(one) for one in events], lambda _: RowOrigin("x"))
        for _ in live.take(mapped.decode(rows)):
            pass
    live.attributes.erase("u1")
    of_attributes = {name for name in own if name.startswith("driftgraph.stream.attributes")}
    assert {name for name in of_attributes if len(own[name].signatures) > before[name]} == set()
    assert sum(before[name] for name in of_attributes) > 3


def test_no_kernel_gets_a_new_signature_from_live_events() -> None:
    clock = ManualClock(NOW_MS)
    decoder, live = ingest(clock)
    own = kernels()
    warm_up(RELATIONS, decoder, RULES, clock)
    before = {name: len(kernel.signatures) for name, kernel in own.items()}
    rng = np.random.default_rng(4)
    for start in range(0, 12_000, 3_000):
        payloads = [
            msgspec.json.encode(
                {
                    "user_id": f"u{rng.integers(800)}",
                    "item_id": f"i{rng.integers(300)}",
                    "behavior": ("click", "buy")[int(rng.integers(2))],
                    "ts": NOW_MS - 3_000_000 + start * 200 + n,
                    "event_id": f"e{start + n}" if n % 2 else None,
                }
            )
            for n in range(3_000)
        ]
        partition = np.zeros(len(payloads), np.int32)
        for _ in live.take(decoder.decode(Rows(payloads, lambda _: RowOrigin("x"), partition))):
            pass
        live.graph.erase(["u1"])
        tombstone = Rows([None], lambda _: RowOrigin("x", key=b"u1", timestamp_ms=NOW_MS), partition[:1])
        for _ in live.take(decoder.decode(tombstone)):
            pass
        bad = Rows([b"{"], lambda _: RowOrigin("x", key=b"u1", timestamp_ms=NOW_MS), partition[:1])
        for _ in live.take(decoder.decode(bad)):
            pass
    live.graph.expire(NOW_MS + 86_400_000)
    assert {name for name, kernel in own.items() if len(kernel.signatures) > before[name]} == set()
    assert sum(before.values()) > 20
