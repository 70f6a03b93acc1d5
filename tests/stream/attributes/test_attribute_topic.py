"""Records of topics of attributes: what the tables hold of them beside the plainest implementation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftgraph.app.config.settings import Settings
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field, tokens_of
from driftgraph.stream.attributes.topic import CatalogTopic, TopicAttributes
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.formats.event_rules import RowOrigin, Rows
from driftgraph.stream.kafka.partition import TOPIC_STRIDE
from driftgraph.stream.kafka.retention import catalog_fault
from driftgraph.stream.kafka.topics import TopicRules
from driftgraph.stream.time.clock import REPLAY_TIMES
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

NAMES = ["a", "b", "c", "d"]
SORT, SIZE = Field("sort", "category"), Field("size", "category")
TOPICS = (CatalogTopic("users", USER, (("sort",),)), CatalogTopic("items", ITEM, (("sort",), ("size",))))
Record = tuple[str | None, bytes | None, int]  # key, value, time


def world(*, cold_max: int = 100, rows: int = 64) -> tuple[Heterograph, Attributes]:
    graph = Heterograph.create(None, [Relation("click", 10**9, 64)], user_rows=rows, item_rows=rows)
    fields = AttributeFields((SORT,), (SORT, SIZE), cold_max=cold_max, in_topics=(True, True))
    return graph, Attributes(None, fields, graph)


def read(topics: TopicAttributes, records: list[Record], topic: int = 1) -> None:
    """One read of a topic, by its place in ``TOPICS``."""
    topics.decode(
        Rows(
            [value for _, value, _ in records],
            lambda n: _origin(n, *records[n]),
            np.full(len(records), topic * TOPIC_STRIDE, np.int32),
        )
    )


def _origin(place: int, key: str | None, _: bytes | None, time_ms: int) -> RowOrigin:
    own = None if key is None else key.encode()
    return RowOrigin(f"t[0]@{place}", own, timestamp_ms=time_ms)


def value(**said: object) -> bytes:
    return json.dumps(said).encode()


def token(text: str) -> int:
    return int(tokens_of("category", Strings.of([text]))[0][0, 0]) if text else 0


def tokens(graph: Heterograph, table: Attributes, side: int, name: str, before_ms: int) -> list[int] | None:
    """What is said of an id; None if it has no row."""
    row, view = graph.find(side, Strings.of([name])), table[side]
    assert view is not None
    return None if row[0] < 0 else view.tokens(row.astype(np.uint32), before_ms)[0].tolist()


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(
            [
                None,
                b"no json",
                value(sort="x"),
                value(sort="y", size="s"),
                value(size="t"),
                value(),
            ]
        ),
        st.integers(1, 9),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 12))
def test_a_record_says_all_of_its_id_and_a_tombstone_takes_it_out(records: list[Record], size: int) -> None:
    graph, table = world()
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES)
    for first in range(0, len(records), size):
        read(topics, records[first : first + size])
    plain: dict[str, tuple[str, str]] = {}
    for name, payload, _ in records:
        assert name is not None
        if payload is None:
            plain.pop(name, None)
        elif payload != b"no json":
            said = json.loads(payload)
            plain[name] = said.get("sort", ""), said.get("size", "")
    for name in NAMES:
        own = plain.get(name)
        expected = None if own is None else [token(own[0]), token(own[1])]
        assert tokens(graph, table, ITEM, name, 10) == expected, name
    assert topics.read == len(records)
    assert topics.refused.total() == sum(payload == b"no json" for _, payload, _ in records)


def test_a_value_holds_from_the_time_of_its_record_on() -> None:
    graph, table = world()
    read(
        TopicAttributes(TOPICS, table, REPLAY_TIMES), [("a", value(sort="x"), 50), ("a", value(sort="y"), 70)]
    )
    at = [tokens(graph, table, ITEM, "a", before_ms) for before_ms in (50, 51, 70, 71)]
    assert at == [[0, 0], [token("x"), 0], [token("x"), 0], [token("y"), 0]]


@pytest.mark.parametrize(
    ("key", "payload", "reason"),
    [
        (None, value(sort="x"), "missing"),
        ("a", b"[1]", "object"),
        ("a", b'"x"', "object"),
        ("a", b"{", "truncated"),
    ],
)
def test_a_bad_record_is_counted_and_said_and_changes_nothing(
    key: str | None, payload: bytes, reason: str
) -> None:
    graph, table = world()
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES)
    read(topics, [("a", value(sort="x"), 5), (key, payload, 6), ("b", value(sort="y"), 7)])
    assert tokens(graph, table, ITEM, "a", 10) == [token("x"), 0]
    assert tokens(graph, table, ITEM, "b", 10) == [token("y"), 0]
    [said] = topics.warnings()
    assert said.startswith("the topic items: 1 records say no attributes")
    assert "t[0]@1: " in said
    assert reason in said


def test_the_envelope_of_kafka_connect_is_opened() -> None:
    graph, table = world()
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES)
    read(topics, [("a", value(schema={}, payload={"sort": "x"}), 5), ("b", value(sort="y"), 5)])
    assert tokens(graph, table, ITEM, "a", 10) == [token("x"), 0]
    read(topics, [("b", value(schema=None, payload=None), 6)])
    assert tokens(graph, table, ITEM, "b", 10) is None


def test_a_user_who_was_erased_comes_back_with_newer_records_alone() -> None:
    graph, table = world()
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES, lambda ids: np.full(len(ids), 50, np.int64))
    read(topics, [("a", value(sort="x"), 50), ("b", value(sort="x"), 51)], topic=0)
    assert tokens(graph, table, USER, "a", 100) is None
    assert tokens(graph, table, USER, "b", 100) == [token("x")]


def test_no_more_ids_without_events_have_rows_than_cold_max() -> None:
    graph, table = world(cold_max=3)
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES)
    for n in range(6):
        read(topics, [(f"i{n}", value(sort="x"), n + 1)])
    view = table[ITEM]
    assert view is not None
    cold = view.cold(graph.window.row_versions(ITEM))
    assert sorted(graph.strings(ITEM, cold).to_list()) == ["i3", "i4", "i5"]
    table.hold()
    cold = view.cold(graph.window.row_versions(ITEM))
    assert sorted(graph.strings(ITEM, cold).to_list()) == ["i3", "i4", "i5"], "the next step agrees"


def test_a_tombstone_leaves_the_events_of_an_item() -> None:
    graph, table = world()
    topics = TopicAttributes(TOPICS, table, REPLAY_TIMES)
    read(topics, [("a", value(sort="x"), 1)])
    batch = EventBatch(Strings.of(["u"]), Strings.of(["a"]), np.zeros(1, np.uint8), np.array([5], np.int64))
    graph.apply(batch, table.apply)
    assert tokens(graph, table, ITEM, "a", 10) == [token("x"), 0]
    read(topics, [("a", None, 6)])
    assert tokens(graph, table, ITEM, "a", 10) == [0, 0]
    assert sum(graph.window.live().values()) == 1


def test_attributes_are_there_before_a_reader_sees_their_events() -> None:
    graph, table = world()
    read(TopicAttributes(TOPICS, table, REPLAY_TIMES), [("a", value(sort="x"), 1)])
    seen = []

    def before(batch: EventBatch) -> None:
        seen.append((sum(graph.window.live().values()), bool(graph.find(ITEM, batch.item)[0] >= 0)))

    batch = EventBatch(Strings.of(["u"]), Strings.of(["new"]), np.zeros(1, np.uint8), np.array([5], np.int64))
    graph.apply(batch, before)
    assert seen == [(0, True)]
    assert sum(graph.window.live().values()) == 1


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"item_topic": "items"}, "item_topic is set, but no attribute"),
        (
            {"item_topic": "items", "item_file": "items.csv", "item": {"sort": "category"}},
            "item_file and item_topic are both set",
        ),
        (
            {
                "item_topic": "one",
                "user_topic": "one",
                "item": {"sort": "category"},
                "user": {"sort": "category"},
            },
            "items and users need a topic each",
        ),
        (
            {"item_topic": "items", "item": {"sort": {"kind": "category", "field": "a[*].b"}}},
            "item has the field",
        ),
    ],
)
def test_a_contradicting_configuration_is_refused(own: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings.model_validate({"relations": {"click": {}}, "events": {"attributes": own}})


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (TopicRules(1, compacted=True), None),
        (TopicRules(1), "it is not compacted"),
        (TopicRules(1, retention_ms=86_400_000, compacted=True), "its records go after"),
        (TopicRules(1, retention_bytes=10_000), "go beyond 10,000 bytes"),
    ],
)
def test_a_topic_that_loses_records_or_keeps_all_of_them_is_told(rules: TopicRules, says: str | None) -> None:
    fault = catalog_fault(rules)
    assert (fault is None) == (says is None)
    assert says is None or (says in str(fault) and str(fault).endswith("set cleanup.policy=compact"))
