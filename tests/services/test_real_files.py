"""Every real file from Kafka into the window: each event is applied, late, rejected, a duplicate or ignored."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from driftgraph.app.config import Settings, load
from driftgraph.app.dead_letters import MemoryDeadLetters
from driftgraph.app.event_formats import event_rules, topic_decoder
from driftgraph.app.ingest import FitSchedule, Ingest
from driftgraph.app.live import watermark_rules
from driftgraph.stream.clock import ManualClock, Watermark
from driftgraph.stream.heterograph import Heterograph
from driftgraph.stream.kafka_source import KafkaOptions, KafkaSource
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services

DAY_MS = 86_400_000
PARTITIONS = 4
SLICE = 60_000  # of each file: the whole of the raw and the small ones, the first of the others


def lines_of(path: Path) -> Iterator[str]:
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        yield from (line.rstrip("\n") for line in file)


def rows_with_header(path: Path) -> Iterator[tuple[str, bytes]]:
    """(user, message): each line as a JSON object of its texts, as a producer with a CSV reader sends it."""
    lines = lines_of(path)
    names = next(lines).split(",")
    for line in lines:
        row = dict(zip(names, line.split(","), strict=False))
        yield row.get("user_id") or row.get("visitorid") or "", msgspec.json.encode(row)


def raw_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """Lines of ``user,item,category,behavior,seconds``; a line that is cut lacks its last fields."""
    names = ("user_id", "item_id", "category", "behavior", "timestamp")
    for line in lines_of(path):
        row = dict(zip(names, line.split(","), strict=False))
        yield row["user_id"], msgspec.json.encode(row)


def impressions(path: Path) -> Iterator[tuple[str, bytes]]:
    """Exposures with a flag for a click: the mapping makes clicks of some and leaves out the others."""
    for batch in pq.ParquetFile(path).iter_batches(10_000):
        for row in batch.to_pylist():
            yield str(row["user_id"]), msgspec.json.encode(row)


def mapped(user: str, item: str, behavior: str, ts: str, **more: Any) -> dict[str, Any]:
    return {"format": "json", "map": {"user": user, "item": item, "behavior": behavior, "ts": ts, **more}}


PLAIN = mapped("user_id", "item_id", "behavior", "timestamp")
FILES: dict[str, tuple[Callable[[Path], Iterator[tuple[str, bytes]]], dict[str, Any], list[str]]] = {
    "taobao_9d/events.csv.gz": (rows_with_header, PLAIN, ["buy", "cart", "fav"]),
    "kuairand/events.csv.gz": (
        rows_with_header,
        PLAIN | {"ignore": ["impression"]},
        "click long_view profile_enter like comment follow forward hate".split(),
    ),
    "tmall2013/events.csv.gz": (rows_with_header, PLAIN, ["click", "buy", "fav", "cart"]),
    "taobao_2h/UserBehavior.csv.gz": (raw_rows, PLAIN, ["pv", "cart", "fav", "buy"]),
    "taobao_815_raw/UserBehavior.csv.gz": (raw_rows, PLAIN, ["pv", "cart", "fav", "buy"]),
    "retailrocket_9k/events_sample.csv": (
        rows_with_header,
        mapped("visitorid", "itemid", "event", "timestamp"),
        ["view", "addtocart", "transaction"],
    ),
}
