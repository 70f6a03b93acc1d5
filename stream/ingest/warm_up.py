"""Compile the kernels of ingestion before the first message comes.

numba compiles a kernel at its first call, which takes up to some seconds, or loads its kept machine code,
which takes some milliseconds. Either would stall the poll loop in the middle of a live batch.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import KINDS, Field
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.events import EventBatch, Rejected, Strings
from driftgraph.stream.formats.event_rules import Decoder, RowOrigin, Rows
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

ROWS = 64  # of a graph that is thrown away


def warm_up(relations: tuple[Relation, ...], decoder: Decoder, rules: WatermarkRules, clock: Clock) -> None:
    """Take two good events and a bad one through all of ingestion, into a graph of its own."""
    small = [replace(relation, capacity=2) for relation in relations]
    graph = Heterograph.create(None, small, user_rows=ROWS, item_rows=ROWS)
    watermark = Watermark(rules, clock)
    fields = tuple(Field(kind, kind) for kind in KINDS)
    attributes = Attributes(None, AttributeFields(fields, fields), graph)
    ingest = Ingest(graph, watermark, MemoryDeadLetters(), FitSchedule(1 << 62))
    now_ms = clock.now_ms()
    message = {"user_id": "u", "item_id": "i", "behavior": relations[0].name, "ts": now_ms, "event_id": "e"}
    payloads = (msgspec.json.encode(message), b"{}", msgspec.json.encode(message))
    partition = np.zeros(len(payloads), np.int32)
    decoded = decoder.decode(Rows(payloads, lambda _: RowOrigin("warm-up"), partition))
    for _ in ingest.take(decoded):
        pass
    names = Strings.of(["u", "v", "u"])  # the same columns for every format, and a ring that wraps
    times = now_ms - np.array([2, 1, 3], np.int64)
    ingest.erasures.put("u", 1, 1)
    ingest.erasures.reach(decoded.batch)
    ingest.erasures.cover(Rejected("", "", b"", "warm-up", key=b"u"))
    values = (Strings.of(["1", "2", "1"]),) * (2 * len(fields))
    batch = EventBatch(names, names, np.zeros(3, np.uint8), times, attributes=values)
    graph.apply(batch)
    attributes.apply(batch)
    attributes.erase("u")
    graph.erase(["u"])
    graph.expire(now_ms + max(relation.span_ms for relation in relations))
