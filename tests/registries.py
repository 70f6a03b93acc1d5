"""A schema registry in this process, that does what a test tells it; and how messages of one are written."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import fastavro
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from driftgraph.stream.formats.registry import client
from driftgraph.stream.formats.registry.protobuf import ProtoSchema

PATIENCE_S = 60.0  # with a registry that shares a busy machine with its test

AVRO_EVENT = {
    "type": "record",
    "name": "Event",
    "namespace": "shop",
    "fields": [
        {"name": "user_id", "type": ["null", "string", "long"]},
        {"name": "item_id", "type": "string"},
        {"name": "behavior", "type": {"type": "enum", "name": "Kind", "symbols": ["click", "buy", "share"]}},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "event_id", "type": ["null", {"type": "string", "logicalType": "uuid"}], "default": None},
    ],
}
PROTO_EVENTS = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "confluent/meta.proto";
enum Kind { KIND_UNKNOWN = 0; KIND_CLICK = 1; KIND_BUY = 2; }
message Envelope {
  message Line { string sku = 1; int32 quantity = 2; }
  message Order {
    int64 customer = 1 [(confluent.field_meta) = { doc: "who" }];
    repeated Line lines = 2;
    google.protobuf.Timestamp at = 3;
    Kind kind = 4;
    map<string, int64> counts = 5;
    google.protobuf.StringValue note = 6;
    oneof key { string order_id = 7; bytes raw = 8; }
    optional int32 stars = 9;
  }
}
message Event { string user_id = 1; string item_id = 2; string behavior = 3; int64 ts = 4; }
"""


class FakeRegistry:
    """By path. A ``status`` other than 200 goes to all; nobody is answered while ``hold`` is clear."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status = 200
        self.body = b'{"error_code": 50001, "message": "no"}'
        self.hold = threading.Event()
        self.hold.set()
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def add(self, number: int, schema: object, kind: str = "AVRO", references: object = ()) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        answer = {"schema": text, "schemaType": kind, "references": list(references)}  # type: ignore[call-overload]
        if kind == "AVRO":
            del answer["schemaType"]  # as Confluent's own does
        self.answers[f"/schemas/ids/{number}"] = answer


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.asked.append((self.path, self.headers.get("Authorization")))
            registry.hold.wait(30)
            found = registry.answers.get(self.path)
            status, body = registry.status, registry.body
            if status == 200 and found is None:
                status, body = 404, b'{"error_code": 40403, "message": "Schema not found"}'
            elif status == 200:
                body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with mock.patch.object(client, "WAIT_S", PATIENCE_S):
            yield registry
    finally:
        registry.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def header(number: int) -> bytes:
    return b"\x00" + number.to_bytes(4, "big")


def avro(number: int, record: object, schema: object = AVRO_EVENT) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)  # type: ignore[arg-type]
    return header(number) + out.getvalue()


def proto_class(name: str) -> Any:
    """A class of ``PROTO_EVENTS`` to write messages with."""
    pool: DescriptorPool = ProtoSchema(PROTO_EVENTS, {})._pool
    return GetMessageClass(pool.FindMessageTypeByName(name))
