"""A real schema registry and a real broker: Avro, Protobuf and JSON from producer to batch, and an outage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.app.live.run import kafka_source
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import RowOrigin, Rows
from driftgraph.stream.kafka.source import KafkaOptions
from driftgraph.stream.kafka.waiting import WaitingSource
from driftgraph.stream.time.clock import ManualClock
from tests.conftest import shared_folder
from tests.decoded import events_of
from tests.kafka_brokers import DECODER, NOW_MS, event, produce
from tests.registries import AVRO_EVENT, PROTO_EVENTS, avro, header, proto_class
from tests.services.conftest import START_TIMEOUT_S, RealKafka, free_port
from tests.services.test_kafka import make_topic

pytestmark = pytest.mark.services
JSON_EVENT = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Event", "type": "object"}
META, OPTION = (
    'import "confluent/meta.proto";',
    '[(confluent.field_meta) = { doc: "who" }]',
)  # not in this one
GOOD = {"user_id": "u1", "item_id": "i1", "behavior": "buy", "ts": NOW_MS * 1_000, "event_id": None}


class RealRegistry:
    """One registry on a port of its own; what it holds ends with it."""

    def __init__(self, command: Path, folder: Path) -> None:
        self._command = command
        self._log = folder / "registry.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", str(self._command), str(self._port)], stdout=log, stderr=log
            )
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/subjects", timeout=1).close()
            except OSError:
                time.sleep(0.2)
                continue
            return
        tail = self._log.read_text(errors="replace")[-2_000:]
        self.stop()
        raise RuntimeError(f"the schema registry did not start:\n{tail}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def register(self, subject: str, schema: str, kind: str) -> int:
        """The number of the schema."""
        request = urllib.request.Request(
            f"{self.url}/subjects/{subject}/versions",
            json.dumps({"schema": schema, "schemaType": kind}).encode(),
            {"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer)["id"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """A real one. Where ``DRIFTGRAPH_SHARED`` is set its absence fails; elsewhere the test is skipped."""
    shared = shared_folder()
    command = None if shared is None else shared / "schema-registry" / "schema-registry"
    if command is None or not command.is_file() or shutil.which("java") is None:
        missing = "no schema registry in the shared folder, or no Java 17 on PATH"
        if os.environ.get("DRIFTGRAPH_SHARED"):
            pytest.fail(f"DRIFTGRAPH_SHARED is set, but there is {missing}")
        pytest.skip(missing)
    one = RealRegistry(command, tmp_path_factory.mktemp("registry"))
    one.start()
    yield one
    one.stop()


def source_of(kafka: RealKafka, topic: str, registry: RealRegistry) -> WaitingSource:
    settings = Settings.model_validate(
        {
            "relations": {"click": {}, "buy": {}},
            "events": {"format": "registry", "registry": {"url": registry.url}},
        }
    )
    clock = ManualClock(NOW_MS)
    options = KafkaOptions(topics=(topic,), client={"bootstrap.servers": kafka.address})
    source = kafka_source(options, topic_decoder(settings, event_rules(settings, clock)), clock)
    assert isinstance(source, WaitingSource)
    return source


def read(source: WaitingSource, count: int, timeout_s: float = 90) -> list[Decoded]:
    """Batches until ``count`` events have come."""
    parts, end_s = list[Decoded](), time.monotonic() + timeout_s
    while sum(part.read_count for part in parts) < count:
        assert time.monotonic() < end_s, f"only {sum(part.read_count for part in parts)} of {count} came"
        decoded = source.next_batch(0.1)
        assert decoded is not None
        parts.append(decoded)
    return parts


def test_avro_protobuf_and_json_of_one_topic(real_kafka: RealKafka, registry: RealRegistry) -> None:
    topic = f"registered-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 1)
    a = registry.register(f"{topic}-avro", json.dumps(AVRO_EVENT), "AVRO")
    p = registry.register(f"{topic}-proto", PROTO_EVENTS.replace(META, "").replace(OPTION, ""), "PROTOBUF")
    j = registry.register(f"{topic}-json", json.dumps(JSON_EVENT), "JSON")
    message = proto_class("shop.Event")(user_id="u2", item_id="i2", behavior="click", ts=NOW_MS)
    values = [
        avro(a, GOOD),
        header(p) + b"\x02\x02" + message.SerializeToString(),
        header(j) + json.dumps({**GOOD, "user_id": 3, "ts": NOW_MS}).encode(),
        header(1_000_000) + b"x",
        avro(a, {**GOOD, "behavior": "share"}),
        None,
    ]
    produce(real_kafka.address, topic, [{"value": value, "key": b"u1"} for value in values])
    source = source_of(real_kafka, topic, registry)
    parts = read(source, len(values))
    events = [one[:3] for part in parts for one in events_of(part.batch)]
    assert events == [("u1", "i1", 1), ("u2", "i2", 0), ("3", "i1", 1)]
    letters = [letter for part in parts for letter in part.rejected]
    assert [letter.reason for letter in letters] == ["unknown_schema", "unknown_behavior"]
    assert [letter.origin for letter in letters] == [f"{topic}[0]@3", f"{topic}[0]@4"]
    assert sum(part.tombstones for part in parts) == 1, "the keys of a topic with a registry may be rows"
    source.close()


def test_a_registry_that_is_away_at_the_start_stops_nothing_and_costs_nothing(
    real_kafka: RealKafka, registry: RealRegistry
) -> None:
    """Killed, and started again with the same schemas: polling goes on, and each event is read once."""
    topic = f"outage-{uuid4().hex[:8]}"
    make_topic(real_kafka.address, topic, 1)
    number = registry.register(f"{topic}-avro", json.dumps(AVRO_EVENT), "AVRO")
    produce(
        real_kafka.address, topic, [{"value": avro(number, {**GOOD, "user_id": f"u{n}"})} for n in range(50)]
    )
    registry.stop()
    DECODER.decode(Rows([event("u")], lambda row: RowOrigin("x")))  # load what is compiled
    source = source_of(real_kafka, topic, registry)
    begin = source.position()
    for _ in range(20):
        decoded = source.next_batch(0.1)
        assert decoded is not None
        assert decoded.read_count == 0
    assert source.away
    assert source.position() == begin
    registry.start()
    for n in range(number):  # it begins empty, and counts from one again
        registry.register(f"again-{n}", json.dumps({**AVRO_EVENT, "doc": f"{topic} {n}"}), "AVRO")
    parts = read(source, 50)
    assert [one[0] for part in parts for one in events_of(part.batch)] == [f"u{n}" for n in range(50)]
    assert source.position() == {f"{topic}[0]": 50}
    assert not source.away
    source.close()
