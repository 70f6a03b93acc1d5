"""Records without a value: they forget a user only where their key is one, and never another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from driftgraph.app.config.formats import topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.stream.events import Decoded, Headers
from driftgraph.stream.formats.event_rules import Behaviors, Decoder, EventRules, NotNowError, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.formats.registry.client import RegistryOptions, SchemaRegistry
from driftgraph.stream.formats.registry.decoder import RegisteredReader
from driftgraph.stream.formats.tombstones import ERASE_HEADER
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain
from tests.registries import AVRO_EVENT, FakeRegistry, avro, fake_registry, header

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click"]), REPLAY_TIMES)
EVENT = {"item_id": "i", "behavior": "click", "ts": NOW_MS}
CHANGES = {  # of a table of favorites, as Debezium tells them
    "user": ["after.user_id", "before.user_id"], "item": ["after.item_id", "before.item_id"],
    "behavior": "op", "ts": "ts_ms", "behaviors": {"c": "click"}, "others": "ignore",
}  # fmt: skip


def configured(**events: Any) -> Decoder:
    settings = Settings.model_validate({"relations": {"click": {}}, "events": events})
    return topic_decoder(settings, RULES)


def decode(decoder: Decoder, key: bytes | None, *payloads: bytes | None, headers: Headers = ()) -> Decoded:
    rows = Rows(payloads or [None], lambda row: RowOrigin(f"t[0]@{row}", key, headers, NOW_MS))
    decoded = decoder.decode(rows)
    assert plain(decoded) == plain(decoder.decode_by_row(rows))  # type: ignore[attr-defined]
    assert decoded.read_count == len(rows)
    return decoded


def erased(decoded: Decoded) -> list[str]:
    assert all(one.time_ms == NOW_MS for one in decoded.erased)
    return [one.user for one in decoded.erased]


PLAIN = {
    b"u1": "u1",
    b"42": "42",
    b'"u1"': "u1",
    b'{"user_id": "u1"}': "u1",
    b'{"user_id": 42}': "42",
    b'{"schema": {"type": "string"}, "payload": "u1"}': "u1",
    b'{"schema": {"type": "struct"}, "payload": {"user_id": 42}}': "42",
    b"Struct{user_id=u1}": "u1",
    b"{u1}": "{u1}",
    "jos\u00e9".encode(): "jos\u00e9",
}
NOBODY = [
    None, b"", b" u1", b"\xff\xfe", b"\x00\x00\x00\x00\x07\x04u1", b"x" * 600, b"A\x00\x00A", b"u\x7f1",
    b"null", b'{"id": 7}', b'{"user_id": "u1", "item_id": "i1"}', b'{"user_id": null}', b'{"user_id": 4.5}',
    b"{}", b'""', b'{"user_id": {"id": 1}}', b'["u1"]', b'{"schema": null, "payload": null}', b"Struct{id=7}",
    b"Struct{user_id=u1,item_id=i1}",
]  # fmt: skip


@pytest.mark.parametrize("format_", [None, "json", "arrow"])
@pytest.mark.parametrize("key", PLAIN)
def test_canonical_events_are_keyed_by_their_user(format_: str | None, key: bytes) -> None:
    assert erased(decode(configured(format=format_), key)) == [PLAIN[key]]


@pytest.mark.parametrize("format_", ["json", "arrow", "mapping"])
@pytest.mark.parametrize("key", NOBODY)
def test_a_key_that_is_not_one_user_erases_nobody_and_is_told(format_: str, key: bytes | None) -> None:
    mapping = (
        {"mapping": {**CHANGES, "user": "user_id"}, "tombstones": "erase"} if format_ == "mapping" else {}
    )
    decoded = decode(configured(format=format_, **mapping), key)
    assert (decoded.erased, decoded.ignored) == ((), 0)
    assert [(letter.reason, letter.key, letter.payload) for letter in decoded.rejected] == [
        ("tombstone", key, b"")
    ]


def test_a_key_of_a_row_is_no_user_in_a_topic_of_changes() -> None:
    """Debezium writes one behind each deleted row: the row of order 7 is not user 7."""
    decoder = configured(format="mapping", mapping=CHANGES)
    change = {"op": "c", "ts_ms": NOW_MS, "before": None, "after": {"id": 7, "user_id": 3, "item_id": 4}}
    deleted = {"op": "d", "ts_ms": NOW_MS, "before": {"id": 7, "user_id": 3, "item_id": 4}, "after": None}
    payloads = [json.dumps(change).encode(), json.dumps(deleted).encode(), None]
    for key in (b'{"id": 7}', b"7", b'{"user_id": 3}', None):
        decoded = decode(decoder, key, *payloads)
        assert [event[:2] for event in events_of(decoded.batch)] == [("3", "4")]
        assert (decoded.erased, decoded.rejected, decoded.ignored, decoded.tombstones) == ((), (), 2, 1)


@pytest.mark.parametrize("format_", ["segment", "ga4", "ga4-mp", "snowplow", "cloudevents"])
def test_no_preset_takes_the_key_for_the_user_unless_it_is_told(format_: str) -> None:
    assert decode(configured(format=format_), b"u1").tombstones == 1
    assert erased(decode(configured(format=format_, tombstones="erase"), b"u1")) == ["u1"]
    keyed = configured(format=format_, mapping={"user": "$key"})
    assert erased(decode(keyed, b"u1")) == ["u1"]


def test_a_deleted_row_of_users_erases_if_the_configuration_says_so() -> None:
    users = {**CHANGES, "behaviors": {"c": "click", "d": "$erase"}}
    deleted = {"op": "d", "ts_ms": NOW_MS, "before": {"user_id": 3}, "after": None}
    decoded = decode(
        configured(format="mapping", mapping=users), b'{"id": 3}', json.dumps(deleted).encode(), None
    )
    assert (erased(decoded), decoded.tombstones) == (["3"], 1)
    by_key = configured(format="mapping", mapping=CHANGES, tombstones="erase")
    assert erased(decode(by_key, b'{"user_id": 3}')) == ["3"]
    assert decode(by_key, b'{"id": 3}').rejected[0].reason == "tombstone"


@pytest.mark.parametrize("format_", ["json", "arrow"])
def test_canonical_topics_may_be_keyed_by_something_else(format_: str) -> None:
    decoded = decode(configured(format=format_, tombstones="ignore"), b"i7", None, None)
    assert (decoded.erased, decoded.rejected, decoded.ignored, decoded.tombstones) == ((), (), 2, 2)


KEYS = [b"u1", b'"u1"', b'{"id": "u1"}', b'{"schema": {}, "payload": {"id": "u1"}}', b"Struct{id=u1}"]


@pytest.mark.parametrize("key", [*KEYS, b'{"id": 1, "shop": 2}', b"42", b'{"id": 42}'])
def test_where_the_user_is_the_key_events_and_tombstones_agree_on_it(key: bytes) -> None:
    mapping = {"user": ["$key", "user_id"], "item": "item_id", "behavior": "behavior", "ts": "ts"}
    decoder = configured(format="mapping", mapping=mapping)
    decoded = decode(decoder, key, json.dumps(EVENT).encode(), None)
    assert erased(decoded) == [events_of(decoded.batch)[0][0]]
    if key in KEYS:
        assert erased(decoded) == ["u1"]


@pytest.mark.parametrize("events", [{}, {"tombstones": "ignore"}, {"format": "mapping", "mapping": CHANGES}])
def test_what_driftgraph_erase_writes_asks_in_every_topic(events: dict[str, Any]) -> None:
    for user in ("u1", "a\x1fb", '"quoted"', '{"user_id": "x"}'):
        headers = (("trace", b"x"), (ERASE_HEADER, user.encode()))
        assert erased(decode(configured(**events), b"another", headers=headers)) == [user]
    [letter] = decode(configured(**events), b"k", headers=((ERASE_HEADER, b"\xff"),)).rejected
    assert letter.reason == "tombstone"


# Keys of a schema registry

USER_KEY = {
    "type": "record",
    "name": "Key",
    "fields": [{"name": "user_id", "type": ["null", "long", "string"]}],
}
ROW_KEY = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]}
PAIR_KEY = {
    "type": "record", "name": "Pair",
    "fields": [{"name": "user_id", "type": "string"}, {"name": "item_id", "type": "string"}],
}  # fmt: skip
PROTO_KEY = 'syntax = "proto3"; message Key { int64 user_id = 1; }'


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as one:
        one.add(1, AVRO_EVENT)
        for number, schema in enumerate((USER_KEY, ROW_KEY, PAIR_KEY, "string", "long", "bytes"), start=2):
            one.add(number, json.dumps(schema))
        one.add(8, PROTO_KEY, "PROTOBUF")
        yield one


def registered(registry: FakeRegistry, user: object, *, erase_by_key: bool | None = None) -> MappingDecoder:
    mapping = EventMapping.of({"user": user, "item": "item_id", "behavior": "behavior", "ts": "ts"})
    reader = RegisteredReader(SchemaRegistry(RegistryOptions(registry.url)))
    return MappingDecoder(RULES, mapping, reader, erase_by_key=erase_by_key)


def test_a_key_of_the_registry_is_decoded_before_it_erases(registry: FakeRegistry) -> None:
    decoder = registered(registry, "user_id", erase_by_key=True)
    good = {
        avro(2, {"user_id": 42}, USER_KEY): "42",
        avro(2, {"user_id": "u1"}, USER_KEY): "u1",
        avro(5, "u1", "string"): "u1",
        avro(5, '{"u1"', "string"): '{"u1"',
        avro(6, 42, "long"): "42",
        avro(7, b"u1", "bytes"): "u1",
        header(8) + b"\x00" + b"\x08\x2a": "42",
        b"u1": "u1",
    }
    for key, user in good.items():
        assert erased(decode(decoder, key)) == [user], key
    bad = [
        avro(2, {"user_id": None}, USER_KEY),
        avro(3, {"id": 7}, ROW_KEY),
        avro(4, {"user_id": "u1", "item_id": "i1"}, PAIR_KEY),
        header(8) + b"\x00",  # a user that was not sent is not user 0
        header(99) + b"u1",
        avro(5, "u1", "string") + b"more",
    ]
    for key in bad:
        decoded = decode(decoder, key)
        assert (decoded.erased, [letter.reason for letter in decoded.rejected]) == ((), ["tombstone"]), key


def test_a_topic_of_the_registry_ignores_them_by_itself_and_asks_nobody(registry: FakeRegistry) -> None:
    assert decode(registered(registry, "user_id"), avro(2, {"user_id": 42}, USER_KEY)).tombstones == 1
    assert registry.asked == []


def test_where_the_user_is_a_key_of_the_registry_events_and_tombstones_agree(registry: FakeRegistry) -> None:
    decoder = registered(registry, "$key")
    event = avro(1, {**EVENT, "user_id": None, "ts": NOW_MS * 1_000, "event_id": None})
    for key, user in ((avro(3, {"id": 7}, ROW_KEY), "7"), (avro(5, "u1", "string"), "u1"), (b"u2", "u2")):
        decoded = decode(decoder, key, event, None)
        assert [events_of(decoded.batch)[0][0], *erased(decoded)] == [user, user]


def test_while_the_registry_is_away_a_key_waits(registry: FakeRegistry) -> None:
    registry.status = 503
    rows = Rows([None], lambda _: RowOrigin("t[0]@0", avro(2, {"user_id": 42}, USER_KEY)))
    with pytest.raises(NotNowError):
        registered(registry, "user_id", erase_by_key=True).decode(rows)
