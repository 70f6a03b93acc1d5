"""Every real file through Kafka: each event is applied, late, rejected, a duplicate or ignored."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from driftgraph.app.config.builders import watermark_rules, window_relations
from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings, load
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.events import Rejected
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.time.watermark import Watermark
from driftgraph.stream.window.heterograph import Heterograph
from tests.model_worlds import without_marks
from tests.services.conftest import RealKafka
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services

NOW_MS = 1_783_000_000_000
PARTITIONS = 4
SLICE = 90_000  # of each file: all of the raw and the small one, the first of the others


def lines_of(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
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


def columns(user: str, item: str, behavior: str, ts: str) -> dict[str, Any]:
    return {"columns": {"user": user, "item": item, "behavior": behavior, "ts": ts}}


PLAIN = columns("user_id", "item_id", "behavior", "timestamp")
CLICKED = {
    "format": "mapping",
    "mapping": {
        "user": "user_id",
        "item": "video_id",
        "behavior": {"const": "shown"},
        "ts": "time_ms",
        "behaviors": {"shown": [{"relation": "click", "when": "is_click == 1"}]},
    },
}


@dataclass(frozen=True)
class RealFile:
    """How a file is read, what the configuration says of it, and what is odd about it."""

    rows: Callable[[Path], Iterator[tuple[str, bytes]]]
    events: Mapping[str, Any]
    relations: Sequence[str]
    rejected: Mapping[str, int] = field(default_factory=dict)
    disordered: bool = False  # by more than an hour


FILES = {
    "taobao_9d/events.csv.gz": RealFile(rows_with_header, PLAIN, ("buy", "cart", "fav")),
    "kuairand/events.csv.gz": RealFile(
        rows_with_header,
        PLAIN,
        ("click", "long_view", "profile_enter", "like", "comment", "follow", "forward", "hate"),
    ),
    "kuairand/impressions_slim.parquet": RealFile(impressions, CLICKED, ("click",)),
    "tmall2013/events.csv.gz": RealFile(rows_with_header, PLAIN, ("click", "buy", "fav", "cart")),
    "taobao_2h/UserBehavior.csv.gz": RealFile(raw_rows, PLAIN, ("pv", "cart", "fav", "buy")),
    "taobao_815_raw/UserBehavior.csv.gz": RealFile(
        raw_rows, PLAIN, ("pv", "cart", "fav", "buy"), {"missing_field": 1}, disordered=True
    ),
    "retailrocket_9k/events_sample.csv": RealFile(
        rows_with_header,
        columns("visitorid", "itemid", "event", "timestamp"),
        ("view", "addtocart", "transaction"),
        disordered=True,
    ),
}


class AllLetters(MemoryDeadLetters):
    """Keeps every letter."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Rejected] = []

    def put(self, rejected: Rejected) -> None:
        self.all.append(rejected)


def ingested(address: str, topic: str, settings: Settings) -> tuple[Ingest, AllLetters, int]:
    """A topic read to its end as the updater does it; how many messages there were."""
    clock = ManualClock(NOW_MS)
    decoder = topic_decoder(settings, event_rules(settings, clock))
    source = KafkaSource(KafkaOptions((topic,), {"bootstrap.servers": address}), decoder, clock)
    graph = Heterograph.create(None, window_relations(settings), user_rows=1 << 17, item_rows=1 << 17)
    watermark, letters = Watermark(watermark_rules(settings), clock), AllLetters()
    watermark.assign(source.partitions)
    ingest = Ingest(graph, watermark, letters, without_marks())
    end = time.monotonic() + 60
    while not source.caught_up:
        assert time.monotonic() < end, ingest.counts
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert list(ingest.take(decoded)) == []
        source.hold(watermark.align(settings.time.alignment.ms, source.behind))
    message_count = sum(source.position().values())
    source.close()
    return ingest, letters, message_count


def put_on(address: str, topic: str, messages: Iterable[tuple[str, bytes]]) -> int:
    producer, count = Producer({"bootstrap.servers": address, "linger.ms": 20}), 0
    for user, value in messages:
        producer.produce(topic, value, key=user)
        producer.poll(0)
        count += 1
    assert producer.flush(60) == 0
    return count


def the_events(file: RealFile, path: Path) -> Counter[tuple[str, str, str, int]]:
    """What the window should hold, read in the plainest way: (user, item, relation, ms)."""
    found: Counter[tuple[str, str, str, int]] = Counter()
    for _, value in islice(file.rows(path), SLICE):
        row = msgspec.json.decode(value)
        if file.events is CLICKED:
            if row["is_click"] == 1:
                found[str(row["user_id"]), str(row["video_id"]), "click", row["time_ms"]] += 1
            continue
        names = file.events["columns"]
        user, item, behavior, ts = (row.get(names[key]) for key in ("user", "item", "behavior", "ts"))
        if behavior in file.relations and ts is not None:
            time_ms = int(ts) * (1 if len(ts) == 13 else 1_000)
            found[user, item, behavior, time_ms] += 1
    return found


def in_window(ingest: Ingest) -> Counter[tuple[str | None, str | None, str, int]]:
    graph, moment = ingest.graph, ingest.graph.moment()
    events = graph.window.events(moment.cut)
    users, items = graph.names(0, events.user, moment), graph.names(1, events.item, moment)
    names = [graph.window.relations[code].name for code in events.relation.tolist()]
    return Counter(zip(users, items, names, events.time_ms.tolist(), strict=True))


def late_ones(letters: AllLetters) -> Counter[tuple[str | None, str | None, str, int]]:
    rows = (msgspec.json.decode(one.payload) for one in letters.all if one.reason == "late")
    return Counter((row["user_id"], row["item_id"], row["behavior"], row["ts"]) for row in rows)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("lateness", ["1h", "400d"])
def test_every_event_of_a_real_file_is_accounted_for(
    real_kafka: RealKafka, shared_data: Callable[[str], Path], name: str, lateness: str
) -> None:
    """Window and late letters together are the file, event by event; the rest is rejected or ignored.

    A lateness of 400 days takes also what is grouped by user and days out of order.
    """
    file, topic = FILES[name], f"file-{uuid4().hex[:8]}"
    path = shared_data(name)
    make_topic(real_kafka.address, topic, PARTITIONS)
    count = put_on(real_kafka.address, topic, islice(file.rows(path), SLICE))
    settings = load(
        options={
            "events": file.events,
            "relations": {name: {} for name in file.relations},
            "window": {"span": "500d", "capacity": 1 << 18},
            "time": {"lateness": lateness},
        }
    )
    ingest, letters, message_count = ingested(real_kafka.address, topic, settings)
    counts, expected = ingest.counts, the_events(file, path)
    parts = (counts.applied, counts.late, counts.rejected, counts.duplicate, counts.ignored)
    assert counts.read == message_count == count == sum(parts)
    rejected = {reason: n for reason, n in counts.reasons.items() if reason != "late"}
    assert rejected == file.rejected
    assert len(letters.all) == counts.late + counts.rejected
    assert counts.ignored == count - expected.total() - counts.rejected
    assert (counts.late > 0) == (file.disordered and lateness == "1h")
    assert in_window(ingest) + late_ones(letters) == expected
