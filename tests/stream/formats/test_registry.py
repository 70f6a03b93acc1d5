"""Avro, Protobuf and JSON by a schema registry: what is read, and what becomes of what cannot be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftgraph.stream.errors import SourceError
from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, NotNowError, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.formats.registry import client as client_module
from driftgraph.stream.formats.registry.client import RegistryOptions, SchemaRegistry
from driftgraph.stream.formats.registry.decoder import RegisteredReader
from driftgraph.stream.formats.registry.protobuf import ProtoSchema
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain
from tests.registries import AVRO_EVENT, PROTO_EVENTS, FakeRegistry, avro, fake_registry, header, proto_class

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click", "buy"]), REPLAY_TIMES)
CANONICAL = {"user": "user_id", "item": "item_id", "behavior": "behavior", "ts": "ts", "event_id": "event_id"}
GOOD = {"user_id": "u1", "item_id": "i1", "behavior": "buy", "ts": NOW_MS * 1_000 + 456, "event_id": "e"}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as one:
        one.add(1, AVRO_EVENT)
        one.add(2, PROTO_EVENTS, "PROTOBUF")
        one.add(3, {"type": "object"}, "JSON")
        yield one


def decoder_of(registry: FakeRegistry, mapping: dict[str, object] | None = None) -> MappingDecoder:
    reader = RegisteredReader(SchemaRegistry(RegistryOptions(registry.url)))
    return MappingDecoder(RULES, EventMapping.of(mapping or CANONICAL, erase=RULES.erase), reader)


def decode(decoder: MappingDecoder, *payloads: bytes | None) -> Decoded:
    return decoder.decode(Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}", key=b"k")))


def faults(decoded: Decoded) -> list[tuple[str, str]]:
    """Reasons and details, without the fields that a message has: they are in ``test_field_names``."""
    return [(one.reason, one.detail.partition("; its fields are ")[0]) for one in decoded.rejected]


def test_avro_events(registry: FakeRegistry) -> None:
    decoded = decode(
        decoder_of(registry),
        avro(1, GOOD),
        avro(1, {**GOOD, "user_id": 42, "event_id": None, "behavior": "click"}),
        avro(1, {**GOOD, "user_id": None}),
        avro(1, {**GOOD, "behavior": "share"}),
        None,
    )
    assert events_of(decoded.batch) == [("u1", "i1", 1, NOW_MS, 0, "e"), ("42", "i1", 0, NOW_MS, 0, "")]
    assert [reason for reason, _ in faults(decoded)] == ["bad_id", "unknown_behavior"]
    assert (decoded.erased, decoded.ignored, decoded.tombstones) == ((), 1, 1)  # the user is no key


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, NOW_MS, None),
        ({"type": "long", "logicalType": "timestamp-nanos"}, NOW_MS * 1_000_000, None),
        ("long", NOW_MS, None),
        ("double", NOW_MS / 1_000, None),
        ("string", "2026-07-02T15:46:40.123+02:00", None),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, NOW_MS, "time_without_zone"),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, NOW_MS * 1_000, "time_without_zone"),
        ({"type": "int", "logicalType": "date"}, 20_636, "time_without_zone"),
        ({"type": "long", "logicalType": "timestamp-millis"}, 31_536_000_000, "time_too_old"),  # 1971
        ({"type": "long", "logicalType": "timestamp-micros"}, 31_536_000_000_000, "time_too_old"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 31_536_000_000_000_000, "time_too_old"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            NOW_MS * 1_000,
            "bad_time",
        ),  # of the year 58470
        ({"type": "bytes", "logicalType": "decimal", "precision": 20}, NOW_MS.to_bytes(9, "big"), None),
    ],
)
def test_the_times_that_avro_has(
    registry: FakeRegistry, kind: object, value: object, reason: str | None
) -> None:
    """A local timestamp is no instant: read as an integer it would pass for UTC."""
    fields = [*AVRO_EVENT["fields"][:3], {"name": "ts", "type": kind}]
    schema = {**AVRO_EVENT, "fields": fields}
    registry.add(9, schema)
    plain = {"type": "record", "name": "E", "fields": [*fields[:3], {"name": "ts", "type": _bare(kind)}]}
    decoded = decode(decoder_of(registry), avro(9, {**GOOD, "ts": value}, plain))
    assert [r for r, _ in faults(decoded)] == ([] if reason is None else [reason])
    assert decoded.batch.time_ms.tolist() == ([NOW_MS] if reason is None else [])


@pytest.mark.parametrize(
    ("kind", "value", "user"),
    [
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 38},
            (10**37 + 1).to_bytes(16, "big"),
            str(10**37 + 1),
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10},
            (42 * 10**10).to_bytes(16, "big"),
            "42",
        ),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}, b"\x01\xa9", None),  # 42.5
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\xff\xf9", "-7"),
        (
            {"type": "fixed", "name": "D", "size": 4, "logicalType": "decimal", "precision": 8},
            b"\0\0\0*",
            "42",
        ),
        (
            {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
            bytes(range(16)),
            "00010203-0405-0607-0809-0a0b0c0d0e0f",
        ),
        ("bytes", b"u1", None),
    ],
)
def test_the_ids_that_avro_has(registry: FakeRegistry, kind: object, value: object, user: str | None) -> None:
    fields = [{"name": "user_id", "type": kind}, *AVRO_EVENT["fields"][1:]]
    registry.add(9, {**AVRO_EVENT, "fields": fields})
    bare = {key: of for key, of in kind.items() if key != "logicalType"} if isinstance(kind, dict) else kind
    plain = {**AVRO_EVENT, "fields": [{"name": "user_id", "type": bare}, *AVRO_EVENT["fields"][1:]]}
    decoded = decode(decoder_of(registry), avro(9, {**GOOD, "user_id": value}, plain))
    assert [event[0] for event in events_of(decoded.batch)] == ([] if user is None else [user])
    assert [reason for reason, _ in faults(decoded)] == ([] if user else ["bad_id"])


def test_a_null_or_empty_field_of_avro_gives_way_to_the_next(registry: FakeRegistry) -> None:
    mapping: dict[str, object] = {**CANONICAL, "user": ["user_id", "event_id"]}
    decoder = decoder_of(registry, mapping)
    users = [None, "", " ", 7, 0]
    decoded = decode(decoder, *(avro(1, {**GOOD, "user_id": user, "event_id": "device"}) for user in users))
    assert [event[0] for event in events_of(decoded.batch)] == ["device", "device", "device", "7", "0"]


PROTO_VISIT = """
syntax = "proto3";
import "google/protobuf/wrappers.proto";
enum Kind { CLICK = 0; BUY = 1; }
message Visit {
  int64 user_id = 1;
  string device_id = 2;
  string item_id = 3;
  Kind kind = 4;
  double seen_at = 5;
  uint64 sent_at = 6;
  int32 event_id = 7;
  optional int64 member = 8;
  google.protobuf.Int64Value account = 9;
  oneof which { int64 session = 10; string nobody = 11; }
  bool bot = 12;
  fixed32 shard = 13;
  message Line { int32 sku = 1; string name = 2; }
  repeated Line lines = 14;
}
"""
VISIT: dict[str, object] = {
    "user": ["user_id", "device_id"], "item": "item_id", "behavior": "kind", "ts": ["seen_at", "sent_at"],
    "event_id": "event_id", "behaviors": {"CLICK": "click", "BUY": "buy"},
}  # fmt: skip


def visits(registry: FakeRegistry, changed: dict[str, object], *fields: dict[str, object]) -> Decoded:
    registry.add(6, PROTO_VISIT, "PROTOBUF")
    pool = ProtoSchema(PROTO_VISIT, {})._pool
    made = GetMessageClass(pool.FindMessageTypeByName("Visit"))
    base: dict[str, object] = {"device_id": "d", "item_id": "i", "sent_at": NOW_MS}
    payloads = [header(6) + b"\x00" + made(**{**base, **one}).SerializeToString() for one in fields]
    decoder = decoder_of(registry, {**VISIT, **changed})
    decoded = decode(decoder, *payloads)
    by_row = decoder.decode_by_row(Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}", key=b"k")))
    assert plain(decoded) == plain(by_row)
    return decoded


def test_a_number_that_protobuf_did_not_send_is_not_there(registry: FakeRegistry) -> None:
    """proto3 sends no 0: all devices became user 0, all their events one id, and their time was refused."""
    decoded = visits(
        registry, {}, {}, {}, {"user_id": 7, "seen_at": NOW_MS / 1_000 + 1, "event_id": 5, "kind": 1}
    )
    assert events_of(decoded.batch) == [
        ("d", "i", 0, NOW_MS, 0, ""), ("d", "i", 0, NOW_MS, 0, ""), ("7", "i", 1, NOW_MS + 1_000, 0, "5"),
    ]  # fmt: skip


def test_with_nothing_else_what_was_not_sent_is_missing(registry: FakeRegistry) -> None:
    changes: list[tuple[dict[str, object], str]] = [
        ({"user": "user_id"}, "user id"), ({"user": ["user_id", "session", "nobody"]}, "user id"),
        ({"item": "shard"}, "item id"), ({"ts": "seen_at"}, "time"), ({"behavior": "nobody"}, "behavior"),
        ({"item": "lines[*].sku"}, "item id"), ({"user": {"join": ["device_id", "user_id"]}}, "user id"),
    ]  # fmt: skip
    for changed, what in changes:
        line: dict[str, object] = {"lines": [{"name": "x"}]} if "lines" in str(changed) else {}
        [(reason, detail)] = faults(visits(registry, changed, line))
        assert (reason, detail.removeprefix("lines[0]: ")) == ("missing_field", f"the event has no {what}")
    [(reason, detail)] = faults(visits(registry, {"user": "device_id"}, {"device_id": ""}))
    assert (reason, detail) == ("missing_field", "the event has no user id")


def test_a_zero_that_was_sent_is_one(registry: FakeRegistry) -> None:
    """``optional``, a wrapper and a oneof tell whether they were set."""
    for name, zero in (("member", 0), ("account", {"value": 0}), ("session", 0)):
        users = [name, "device_id"]
        got = visits(registry, {"user": users}, {}, {name: zero})
        assert [event[0] for event in events_of(got.batch)] == ["d", "0"], name


def test_in_a_condition_what_was_not_sent_is_zero(registry: FakeRegistry) -> None:
    table = {
        "CLICK": [{"relation": "buy", "when": "shard >= 4"}, {"relation": "click", "when": "shard == 0"}]
    }
    got = visits(registry, {"behaviors": table}, {}, {"shard": 4}, {"shard": 3})
    assert ([event[2] for event in events_of(got.batch)], got.ignored) == ([0, 1], 1)
    for when, kept in (
        ("bot == false", 1), ("shard in [0, 1]", 1), ("seen_at < 1.5", 1), ('device_id == "d"', 1),
        ("shard exists", 0), ("shard missing", 1), ('nobody == ""', 0), ("user_id != 0", 0),
    ):  # fmt: skip
        assert len(visits(registry, {"when": when}, {}).batch) == kept, when
    assert (
        len(visits(registry, {"when": 'item_id == ""', "item": {"const": "x"}}, {"item_id": ""}).batch) == 1
    )


def _bare(kind: object) -> object:
    return kind["type"] if isinstance(kind, dict) else kind


def test_avro_with_references_and_lists(registry: FakeRegistry) -> None:
    line = {
        "type": "record",
        "name": "Line",
        "namespace": "shop",
        "fields": [{"name": "sku", "type": "string"}],
    }
    order = {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [
            {"name": "who", "type": "string"},
            {"name": "at", "type": "long"},
            {"name": "lines", "type": {"type": "array", "items": "shop.Line"}},
        ],
    }
    registry.add(7, order, references=[{"name": "shop.Line", "subject": "a/b line", "version": 3}])
    registry.answers["/subjects/a%2Fb%20line/versions/3"] = {"schema": json.dumps(line)}
    mapping: dict[str, object] = {
        "user": "who", "item": "lines[*].sku", "behavior": {"const": "buy"}, "ts": "at",
    }  # fmt: skip
    whole = json.loads(json.dumps(order).replace('"shop.Line"', json.dumps(line)))
    message = avro(7, {"who": "u", "at": NOW_MS, "lines": [{"sku": "a"}, {"sku": "b"}]}, whole)
    decoded = decode(decoder_of(registry, mapping), message)
    assert [event[:2] for event in events_of(decoded.batch)] == [("u", "a"), ("u", "b")]


def test_protobuf_of_the_first_message_and_of_a_nested_one(registry: FakeRegistry) -> None:
    order = proto_class("shop.Envelope.Order")(customer=42, kind=2, order_id="o1", stars=0)
    order.lines.add(sku="a", quantity=1)
    order.lines.add(sku="b")
    order.at.FromJsonString("2026-07-02T13:46:40.123Z")
    order.counts["x"] = 5
    order.note.value = "hi"
    event = proto_class("shop.Event")(user_id="u1", item_id="i1", behavior="click", ts=NOW_MS)
    mapping: dict[str, object] = {
        "user": "customer",
        "item": "lines[*].sku",
        "behavior": "kind",
        "ts": "at",
        "event_id": "order_id",
        "when": 'counts.x == 5 and note == "hi" and raw missing and stars == 0 and lines[0].quantity == 1',
        "behaviors": {"KIND_BUY": "buy"},
    }
    nested = header(2) + b"\x04\x00\x02" + order.SerializeToString()  # two steps: 0, then 1
    decoded = decode(decoder_of(registry, mapping), nested)
    assert events_of(decoded.batch) == [
        ("42", "a", 1, NOW_MS, 0, "o1#0"), ("42", "b", 1, NOW_MS, 0, "o1#1"),
    ]  # fmt: skip
    second = header(2) + b"\x02\x02" + event.SerializeToString()  # one step: 1
    assert events_of(decode(decoder_of(registry), second).batch) == [("u1", "i1", 0, NOW_MS, 0, "")]
    first = header(2) + b"\x00" + proto_class("shop.Envelope")().SerializeToString()
    assert faults(decode(decoder_of(registry), first)) == [("missing_field", "the event has no behavior")]


def test_a_protobuf_time_of_another_age_is_a_bad_time(registry: FakeRegistry) -> None:
    order = proto_class("shop.Envelope.Order")(customer=42)
    order.lines.add(sku="a")
    order.at.seconds = NOW_MS  # milliseconds where seconds belong
    mapping: dict[str, object] = {
        "user": "customer", "item": "lines[*].sku", "behavior": {"const": "buy"}, "ts": "at",
    }  # fmt: skip
    payload = header(2) + b"\x04\x00\x02" + order.SerializeToString()
    [(reason, detail)] = faults(decode(decoder_of(registry, mapping), payload))
    assert reason == "bad_time"
    assert f"got '{NOW_MS} s and 0 ns'" in detail


def test_protobuf_imports_that_the_registry_refers_to(registry: FakeRegistry) -> None:
    registry.add(
        5,
        'syntax = "proto3"; import "lines.proto"; message E { string user_id = 1; other.Line line = 2; }',
        "PROTOBUF",
        [{"name": "lines.proto", "subject": "lines", "version": 1}],
    )
    registry.answers["/subjects/lines/versions/1"] = {
        "schema": 'syntax = "proto3"; package other; message Line { string item_id = 1; }',
        "schemaType": "PROTOBUF",
    }
    mapping: dict[str, object] = {
        "user": "user_id", "item": "line.item_id", "behavior": {"const": "buy"}, "ts": "$timestamp",
    }  # fmt: skip
    decoder = decoder_of(registry, mapping)
    payload = header(5) + b"\x00" + b"\x0a\x02u1" + b"\x12\x04\x0a\x02i1"
    decoded = decoder.decode(Rows([payload], lambda row: RowOrigin("x", timestamp_ms=NOW_MS)))
    assert events_of(decoded.batch) == [("u1", "i1", 1, NOW_MS, 0, "")]


@pytest.mark.parametrize("endless", ["/* ", '\\"', "\\'", "/*'"])
def test_a_schema_of_comments_or_strings_without_an_end_is_refused_at_once(
    registry: FakeRegistry, endless: str
) -> None:
    """Each beginning was searched to the end of the text for its end: 16 KB took seconds, 1 MB hours."""
    registry.add(5, endless * 300_000, "PROTOBUF")
    [(reason, detail)] = faults(decode(decoder_of(registry), header(5) + b"\x00"))
    assert reason == "unknown_schema"
    assert "a comment or a string does not end" in detail
    assert len(detail) < 700


@pytest.mark.parametrize(
    ("kind", "text"), [("AVRO", '{"type": "%s"}'), ("PROTOBUF", "message E { int32 a %s 1; }")]
)
def test_the_reason_why_a_schema_cannot_be_used_is_short(
    registry: FakeRegistry, kind: str, text: str
) -> None:
    """It is part of a dead letter for each of the schema's messages."""
    registry.add(5, text % ("x" * 100_000), kind)
    [(reason, detail)] = faults(decode(decoder_of(registry), header(5) + b"\x00"))
    assert (reason, len(detail) < 700) == ("unknown_schema", True)


def test_the_references_of_a_schema_are_bounded_together(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SCHEMA_BYTES_MAX", 1 << 20)
    names = [{"name": f"{n}.proto", "subject": f"s{n}", "version": 1} for n in range(3)]
    registry.add(5, 'syntax = "proto3"; message E { string a = 1; }', "PROTOBUF", names)
    for n in range(3):
        registry.answers[f"/subjects/s{n}/versions/1"] = {"schema": " " * 400_000}
    [(reason, detail)] = faults(decode(decoder_of(registry), header(5) + b"\x00"))
    assert (reason, "they are longer than 1 MB" in detail) == ("unknown_schema", True)


def test_json_behind_a_header(registry: FakeRegistry) -> None:
    text = json.dumps({**GOOD, "ts": NOW_MS}).encode()
    decoded = decode(
        decoder_of(registry), header(3) + text, header(3) + b"{", header(3) + b"[" + text + b",7]"
    )
    assert [event[5] for event in events_of(decoded.batch)] == ["e", "e"]
    assert [reason for reason, _ in faults(decoded)] == ["bad_json", "not_object"]


@pytest.mark.parametrize(
    ("payload", "reason", "said"),
    [
        (b"", "bad_encoding", "does not begin with a schema's number"),
        (b'{"user_id":"u1"}', "bad_encoding", "does not begin with a schema's number"),
        (b"\x00\x00\x00", "bad_encoding", "does not begin with a schema's number"),
        (header(99), "unknown_schema", "the registry has no schema 99"),
        (header(1), "bad_encoding", "not what their Avro schema says: EOFError"),
        (avro(1, GOOD)[:-1], "bad_encoding", "not what their Avro schema says"),
        (avro(1, GOOD) + b"x", "bad_encoding", "1 bytes are left over"),
        (header(1) + b"\xff" * 40, "bad_encoding", "not what their Avro schema says"),
        (header(2), "bad_encoding", "the path to the message's type is cut off"),
        (header(2) + b"\x02\x08", "bad_encoding", "the schema has no message [4]"),
        (header(2) + b"\x01", "bad_encoding", "a path of -1 steps"),
        (header(2) + b"\x00\xff", "bad_encoding", "not what their Protobuf schema says"),
        (header(4), "unknown_schema", "schema 4 cannot be used: SchemaParseException"),
        (header(5), "unknown_schema", "it is of the kind THRIFT, and not one of AVRO, PROTOBUF, JSON"),
        (header(6), "unknown_schema", "schema 6 cannot be used: ProtoSyntaxError: expected '='"),
        (header(7), "unknown_schema", "schema 7 cannot be used: TypeError"),
        (header(8), "unknown_schema", "its references cannot be followed: ValueError('the registry has no"),
    ],
)
def test_what_cannot_be_read_is_one_dead_letter(
    registry: FakeRegistry, payload: bytes, reason: str, said: str
) -> None:
    registry.add(4, {"type": "record", "fields": []})
    registry.add(5, "x", "THRIFT")
    registry.add(6, 'syntax = "proto3"; message E { string a; }', "PROTOBUF")
    registry.add(7, 'syntax = "proto3"; message E { Nowhere a = 1; }', "PROTOBUF")
    registry.add(8, AVRO_EVENT, references=[{"name": "n", "subject": "gone", "version": 1}])
    decoded = decode(decoder_of(registry), avro(1, GOOD), payload, avro(1, GOOD))
    assert len(decoded.batch) == 2
    [(told, detail)] = faults(decoded)
    assert told == reason
    assert said in detail
    assert decoded.rejected[0].payload == payload


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.sampled_from([1, 2, 3]), st.binary(max_size=60))
def test_no_bytes_make_it_raise(registry: FakeRegistry, number: int, body: bytes) -> None:
    decoded = decode(decoder_of(registry), header(number) + body)
    assert decoded.read_count >= 1


# The registry itself


def registry_of(registry: FakeRegistry, **login: str) -> SchemaRegistry:
    return SchemaRegistry(RegistryOptions(registry.url + "/", **login))  # type: ignore[arg-type]


def test_a_schema_is_asked_for_once_with_the_login(registry: FakeRegistry) -> None:
    client = registry_of(registry, username="ann", password="s:1")
    assert client.schema(1) is client.schema(1)
    assert registry.asked == [("/schemas/ids/1", "Basic YW5uOnM6MQ==")]


def test_an_unknown_number_is_asked_for_again_after_a_while(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry_of(registry)
    assert client.schema(77) is client.schema(77) is None
    assert len(registry.asked) == 1
    registry.add(77, AVRO_EVENT)
    monkeypatch.setattr(client_module, "UNKNOWN_FOR_S", 0.0)
    assert client.schema(77) is not None


def test_a_registry_that_does_not_answer_keeps_nobody_waiting(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry_of(registry)
    registry.hold.clear()
    for _ in range(2):
        started_s = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(client_module, "WAIT_S", 0.5)
            with pytest.raises(NotNowError, match=r"has not answered within 0\.5 s"):
                client.schema(1)
        assert time.monotonic() - started_s < 20, "the registry holds its answer for thirty"
    registry.hold.set()
    assert client.schema(1) is not None
    assert len(registry.asked) == 1, "one question is enough: its answer came late"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_registry_in_trouble_is_asked_again(registry: FakeRegistry, status: int) -> None:
    client = registry_of(registry)
    registry.status = status
    with pytest.raises(NotNowError, match=f"answers {status}"):
        client.schema(1)
    registry.status = 200
    assert client.schema(1) is not None


def test_a_registry_that_is_not_there(registry: FakeRegistry) -> None:
    nowhere = SchemaRegistry(RegistryOptions("http://127.0.0.1:1"))
    with pytest.raises(NotNowError, match=r"at http://127\.0\.0\.1:1 cannot be reached"):
        nowhere.schema(1)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"{}", "refuses us .401.; check events.registry.username"),
        (403, b"", "refuses us .403."),
        (404, b"<html>Not Found</html>", "does not answer like a schema registry"),
        (404, b'{"error_code": 404}', "does not answer like a schema registry"),
        (400, b"{}", "gave 400"),
    ],
)
def test_a_wrong_address_or_login_is_told_and_no_event_is_thrown_away(
    registry: FakeRegistry, status: int, body: bytes, said: str
) -> None:
    registry.status, registry.body = status, body
    with pytest.raises(SourceError, match=said):
        decode(decoder_of(registry), avro(1, GOOD))


def test_a_page_instead_of_a_schema_is_told(registry: FakeRegistry) -> None:
    registry.answers["/schemas/ids/1"] = {"welcome": "to the proxy"}
    with pytest.raises(SourceError, match="gave no schema"):
        registry_of(registry).schema(1)


def test_what_is_kept_is_bounded(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SCHEMAS_MAX", 3)
    client = registry_of(registry)
    for number in (1, 50, 51, 52, 1):
        client.schema(number)
    assert [path for path, _ in registry.asked].count("/schemas/ids/1") == 2


def test_a_certificate_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no")
    with pytest.raises(SourceError, match=r"events\.registry\.ca_file .*ca\.pem cannot be used"):
        SchemaRegistry(RegistryOptions("https://localhost", ca_file=path))


def test_a_reference_that_refers_to_itself_ends() -> None:
    with fake_registry() as one:
        loop = [{"name": "n", "subject": "s", "version": 1}]
        one.add(1, AVRO_EVENT, references=loop)
        one.answers["/subjects/s/versions/1"] = {"schema": "{}", "references": loop}
        schema = registry_of(one).schema(1)
        assert schema is not None
        assert "there are more than 200" in schema.fault
