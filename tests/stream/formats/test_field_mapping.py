"""Mappings: one message as several events, conditions, and that the columns say what each event says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.stream.events import Decoded
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, Others, RowOrigin, Rows
from driftgraph.stream.formats.field_mapping import EventMapping, MappingError
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain
from tests.stream.formats.test_formats import BAD

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click", "buy", "like"], ignore=["impression"]), REPLAY_TIMES)
FLAT = {"user": "u", "item": "i", "behavior": "b", "ts": "t"}
ORDER = {
    "user": "customer.id",
    "item": "lines[*].sku",
    "behavior": {"const": "buy"},
    "ts": ["lines[*].at", "at"],
    "event_id": "order",
}


def decoded_by(written: dict[str, Any], *messages: object, raw: list[bytes | None] | None = None) -> Decoded:
    decoder = MappingDecoder(RULES, EventMapping.of(written, erase=RULES.erase))
    payloads = raw if raw is not None else [json.dumps(message).encode() for message in messages]
    rows = Rows(
        payloads, lambda row: RowOrigin(f"t[0]@{row}", b"k%d" % row, (("h", b"v%d" % row),), NOW_MS + row)
    )
    decoded = decoder.decode(rows)
    assert plain(decoded) == plain(decoder.decode_by_row(rows))
    return decoded


def events(decoded: Decoded) -> list[tuple[str, str, int, int, str]]:
    return [(u, i, r, t, e) for u, i, r, t, _, e in events_of(decoded.batch)]


def faults(decoded: Decoded) -> list[tuple[str, str]]:
    """Reasons and details, without the fields that a message has: they are in ``test_field_names``."""
    return [(one.reason, one.detail.partition("; its fields are ")[0]) for one in decoded.rejected]


def test_an_order_is_as_many_events_as_it_has_lines_each_with_an_id_of_its_own() -> None:
    lines = [{"sku": "a"}, {"sku": 7, "at": NOW_MS + 1}, {"sku": "a"}]
    decoded = decoded_by(ORDER, {"customer": {"id": "u1"}, "order": 55, "at": NOW_MS, "lines": lines})
    assert events(decoded) == [
        ("u1", "a", 1, NOW_MS, "55#0"),
        ("u1", "7", 1, NOW_MS + 1, "55#1"),
        ("u1", "a", 1, NOW_MS, "55#2"),
    ]


def test_a_bad_line_costs_itself_and_is_told_with_its_place_and_the_whole_message() -> None:
    message = {
        "customer": {"id": "u1"},
        "at": NOW_MS,
        "lines": [{"sku": "a"}, {"sku": None}, {"sku": "c"}, 5],
    }
    decoded = decoded_by(ORDER, message)
    assert [event[1] for event in events(decoded)] == ["a", "c"]
    assert faults(decoded) == [
        ("bad_id", "lines[1]: item id must be a text or an integer, got None"),
        ("missing_field", "lines[3]: the event has no item id"),
    ]
    assert {(letter.payload, letter.origin, letter.key) for letter in decoded.rejected} == {
        (json.dumps(message).encode(), "t[0]@0", b"k0")
    }


@pytest.mark.parametrize("lines", [[], None, "missing"])
def test_without_lines_the_message_is_one_event(lines: object) -> None:
    message = {"customer": {"id": "u1"}, "at": NOW_MS, "sku": "x", "lines": lines}
    if lines == "missing":
        del message["lines"]
    assert faults(decoded_by(ORDER, message)) == [("missing_field", "the event has no item id")]
    decoded = decoded_by({**ORDER, "item": ["lines[*].sku", "sku"]}, message)
    assert [event[1] for event in events(decoded)] == ["x"]


@pytest.mark.parametrize("lines", ["abc", 3, {"sku": "a"}, True])
def test_lines_that_are_no_list_are_told(lines: object) -> None:
    [(reason, detail)] = faults(decoded_by(ORDER, {"customer": {"id": "u1"}, "at": NOW_MS, "lines": lines}))
    assert (reason, detail.partition(",")[0]) == ("bad_shape", "lines must be a list")


def test_a_list_in_a_list() -> None:
    written = {
        "user": "who",
        "item": "visits[*].seen[*].id",
        "behavior": "visits[*].what",
        "ts": "visits[*].at",
        "event_id": "visits[*].key",
    }
    visits = [
        {"what": "click", "at": NOW_MS, "key": "k", "seen": [{"id": "a"}, {"id": "b"}]},
        {"what": "buy", "at": NOW_MS, "key": "l", "seen": [{"id": "c"}]},
        {"what": "impression", "at": NOW_MS, "key": "m"},
    ]
    decoded = decoded_by(written, {"who": "u", "visits": visits})
    assert events(decoded) == [
        ("u", "a", 0, NOW_MS, "k#0"),
        ("u", "b", 0, NOW_MS, "k#1"),
        ("u", "c", 1, NOW_MS, "l#0"),
    ]
    assert decoded.ignored == 1


def test_an_event_id_inside_of_the_loop_is_taken_as_it_is() -> None:
    written = {**ORDER, "event_id": "lines[*].id"}
    message = {
        "customer": {"id": "u1"},
        "at": NOW_MS,
        "lines": [{"sku": "a", "id": "x"}, {"sku": "b", "id": 2}],
    }
    assert [event[4] for event in events(decoded_by(written, message))] == ["x", "2"]


@pytest.mark.parametrize(
    ("digits", "as_user", "as_time"),
    [
        (20, [], ["bad_time"]),
        (600, ["bad_id"], ["bad_time"]),
        (4_000, ["bad_id"], ["bad_time"]),
        (5_000, ["bad_json"], ["bad_json"]),
    ],
)
def test_numbers_that_are_too_long(digits: int, as_user: list[str], as_time: list[str]) -> None:
    number = b"1" * digits
    for payload, wanted in (
        (b'{"u":%s,"i":7,"b":"buy","t":%d}' % (number, NOW_MS), as_user),
        (b'{"u":7,"i":7,"b":"buy","t":%s}' % number, as_time),
    ):
        assert [reason for reason, _ in faults(decoded_by(FLAT, raw=[payload]))] == wanted


def test_values_that_are_joined_never_meet() -> None:
    written = {**FLAT, "event_id": {"join": ["x", "y"]}}
    base = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS}
    messages = [
        {**base, "x": "a", "y": "b/c"},
        {**base, "x": "a/b", "y": "c"},
        {**base, "x": "a"},
        {**base, "x": 1, "y": 2},
    ]
    ids = [event[4] for event in events(decoded_by(written, *messages))]
    assert ids == ["a\x1fb/c", "a/b\x1fc", "", "1\x1f2"]


RATED = {
    **FLAT,
    "behavior": {"const": "rate"},
    "behaviors": {
        "rate": [{"relation": "like", "when": "stars >= 4"}, {"relation": "click", "when": "stars == 3"}]
    },
}


def test_a_condition_makes_a_rating_a_relation_or_nothing() -> None:
    messages = [{"u": "u", "i": n, "t": NOW_MS, "stars": n} for n in (5, 4, 3, 2)]
    decoded = decoded_by(RATED, *messages, {"u": "u", "i": 9, "t": NOW_MS, "stars": "5"}, {"u": "u"})
    assert [(event[1], event[2]) for event in events(decoded)] == [("5", 2), ("4", 2), ("3", 0)]
    assert decoded.ignored == 1
    assert faults(decoded) == [("bad_shape", "stars must be a number to be >= 4")] * 2


def test_a_condition_may_be_about_the_element() -> None:
    written = {
        **ORDER,
        "behaviors": {"buy": [{"relation": "buy", "when": "lines[*].qty > 0"}]},
    }
    message = {
        "customer": {"id": "u"},
        "at": NOW_MS,
        "lines": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 0}],
    }
    decoded = decoded_by(written, message)
    assert ([event[1] for event in events(decoded)], decoded.ignored) == (["a"], 1)


def test_other_names_are_kept_or_ignored() -> None:
    messages = [
        {"u": "u", "i": "i", "b": name, "t": NOW_MS} for name in ("Bought", "click", "Scrolled", "impression")
    ]
    table = {"Bought": "buy"}
    kept = decoded_by({**FLAT, "behaviors": table}, *messages)
    assert [event[2] for event in events(kept)] == [1, 0]
    assert (kept.ignored, [reason for reason, _ in faults(kept)]) == (1, ["unknown_behavior"])
    left = decoded_by({**FLAT, "behaviors": table, "others": "ignore"}, *messages)
    assert ([event[2] for event in events(left)], left.ignored, left.rejected) == ([1], 3, ())


def test_texts_that_mean_nothing() -> None:
    written = {**FLAT, "user": ["u", "device"], "none": ["undefined", ""]}
    base = {"i": "i", "b": "buy", "t": NOW_MS}
    messages = [{**base, "u": "undefined", "device": "d"}, {**base, "u": "", "device": "undefined"}]
    decoded = decoded_by(written, *messages)
    assert [event[0] for event in events(decoded)] == ["d"]
    assert faults(decoded) == [("missing_field", "the event has no user id")]


@pytest.mark.parametrize("empty", ["", " ", "\t\n", "\u00a0", None])
def test_what_is_empty_gives_way_to_the_next_path(empty: object) -> None:
    """``"userId": ""`` beside an anonymous id; with none and without, for each value that an event has."""
    two = {name: [name, f"{name}2"] for name in ("u", "i", "b", "t", "e")}
    written = {"user": two["u"], "item": two["i"], "behavior": two["b"], "ts": two["t"], "event_id": two["e"]}
    good = {"u2": "u", "i2": 7, "b2": "buy", "t2": NOW_MS, "e2": "x"}
    for none in ([], ["undefined"]):
        decoded = decoded_by({**written, "none": none}, {**dict.fromkeys("uibte", empty), **good})
        assert events(decoded) == [("u", "7", 1, NOW_MS, "x")]
    [(reason, _)] = faults(decoded_by({**FLAT, "user": ["u", "v"]}, {"u": empty, "b": "buy", "v": empty}))
    assert reason == "missing_field"
    [(reason, _)] = faults(decoded_by(FLAT, {"u": empty, "i": "i", "b": "buy", "t": NOW_MS}))
    assert reason == "bad_id"  # a single one is told as what it is, and not as a field that is not there


@pytest.mark.parametrize("blank", ["", " ", "\t", None])
def test_a_blank_event_id_means_none_with_a_loop_and_without(blank: object) -> None:
    flat = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS, "e": blank}
    assert events(decoded_by({**FLAT, "event_id": "e"}, flat)) == [("u", "i", 1, NOW_MS, "")]
    message = {"customer": {"id": "u1"}, "order": blank, "at": NOW_MS, "lines": [{"sku": "a"}, {"sku": "b"}]}
    decoded = decoded_by(ORDER, message)
    assert (len(decoded.batch), faults(decoded)) == (2, [])


def test_an_empty_part_makes_no_joined_value() -> None:
    written = {**FLAT, "event_id": {"join": ["source", "id"]}}
    base = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS, "id": 5}
    messages = [{**base, "source": s} for s in ("", " ", None, "web")]
    assert [event[4] for event in events(decoded_by(written, *messages))] == ["", "", "", "web\x1f5"]


def test_what_is_empty_does_not_exist() -> None:
    for value, exists in (
        ("", False),
        (" ", False),
        (None, False),
        ("x", True),
        (0, True),
        (False, True),
        ([], True),
    ):
        message = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS, "v": value}
        assert len(decoded_by({**FLAT, "when": "v exists"}, message).batch) == exists, value
        assert len(decoded_by({**FLAT, "when": "v missing"}, message).batch) == (not exists), value


def test_a_body_of_messages_is_as_many_messages() -> None:
    written = {
        "messages": "body.events", "user": "who", "item": "lines[*].sku", "behavior": "b",
        "ts": ["t", "sent"], "event_id": "id", "when": 'kind == "track"',
    }  # fmt: skip
    one = {
        "kind": "track",
        "who": "u",
        "b": "buy",
        "id": "e",
        "lines": [{"sku": "a"}, {"sku": None}, {"sku": "b"}],
    }
    body = {
        "sent": NOW_MS,
        "id": "of the body",
        "body": {"events": [one, {"kind": "page"}, {**one, "id": None}, []]},
    }
    decoded = decoded_by(
        written, body, [body, one | {"t": NOW_MS}], {"body": {"events": 5}}, {"body": {"events": None}}
    )
    lines = [("u", "a", 1, NOW_MS, "e#0"), ("u", "b", 1, NOW_MS, "e#2")]
    without_id = [("u", "a", 1, NOW_MS, ""), ("u", "b", 1, NOW_MS, "")]
    assert events(decoded) == [*lines, *without_id, *lines, *without_id, *lines]
    assert decoded.ignored == 3
    places = [detail.partition(":")[0] for _, detail in faults(decoded)]
    assert places == [
        "body.events[0].lines[1]", "body.events[2].lines[1]", "body.events[3]",
        "element [0].body.events[0].lines[1]", "element [0].body.events[2].lines[1]",
        "element [0].body.events[3]", "element [1].lines[1]", "body.events must be a list, got int",
    ]  # fmt: skip


def test_values_from_beside_the_message() -> None:
    written = {
        "user": "$key",
        "item": "i",
        "behavior": "$header.h",
        "ts": "$timestamp",
        "behaviors": {"v1": "buy"},
    }
    decoded = decoded_by({**written, "others": "ignore"}, {"i": "a"}, {"i": "b"})
    assert (events(decoded), decoded.ignored) == ([("k1", "b", 1, NOW_MS + 1, "")], 1)


def test_a_message_may_be_an_array_of_messages() -> None:
    good = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS}
    decoded = decoded_by(FLAT, [good, 7, {**good, "u": None}], good, [])
    assert len(decoded.batch) == 2
    assert [(reason, detail[:14]) for reason, detail in faults(decoded)] == [
        ("not_object", "element [1]: t"),
        ("bad_id", "element [2]: u"),
        ("not_object", "the message mu"),
    ]


def test_erasing_by_name_and_by_table_and_a_tombstone_that_is_left_out() -> None:
    good = {"u": "u", "i": "i", "b": "buy", "t": NOW_MS}
    raw: list[bytes | None] = [
        json.dumps(m).encode() for m in (good, {"u": "x", "b": "$erase"}, good, {"u": 7, "b": "Gone"})
    ]
    decoded = decoded_by({**FLAT, "behaviors": {"Gone": "$erase"}, "others": "keep"}, raw=[*raw, None, b""])
    assert [(one.user, one.place) for one in decoded.erased] == [("x", 1), ("7", 2)]
    assert (decoded.ignored, decoded.tombstones) == (1, 1)
    assert [reason for reason, _ in faults(decoded)] == ["bad_json"]
    assert decoded.read_count == 6


def test_each_message_that_was_bad_for_canonical_json_is_bad_here() -> None:
    """PITFALLS A7, A20, A21, A30: the same reasons, whichever way JSON is read."""
    written = {
        "user": "user_id",
        "item": "item_id",
        "behavior": "behavior",
        "ts": "ts",
        "event_id": "event_id",
    }
    for payload, reason in BAD:
        if payload is not None:
            assert [told for told, _ in faults(decoded_by(written, raw=[payload]))] == [reason], payload[:80]


TEXTS = ["", "u", " u", "buy", "click", "$erase", "2026-07-02T13:46:40Z", "2026-07-02", str(NOW_MS)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["sku", "at", "id", "lines"]), inner, max_size=3)
    ),
    max_leaves=6,
)
LINE = st.fixed_dictionaries({}, optional={"sku": st.just("s") | VALUES, "at": VALUES})
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "customer": st.fixed_dictionaries({"id": VALUES}) | VALUES,
        "kind": st.sampled_from(["buy", "click", "$erase", "rate"]) | VALUES,
        "at": st.just(NOW_MS) | VALUES,
        "order": VALUES,
        "stars": st.integers(0, 5) | VALUES,
        "lines": st.lists(LINE, max_size=3) | VALUES,
    },
)


@given(st.lists(MESSAGES, max_size=4), st.sampled_from([Others.REJECT, Others.IGNORE]), st.booleans())
def test_columns_say_what_each_event_says(messages: list[Any], others: Others, array: bool) -> None:
    rules = EventRules(Behaviors(["click", "buy", "like"], others=others), REPLAY_TIMES)
    written = {
        **ORDER,
        "behavior": "kind",
        "behaviors": {"rate": [{"relation": "like", "when": "stars >= 4"}]},
    }
    decoder = MappingDecoder(rules, EventMapping.of(written, erase=rules.erase))
    raw = [json.dumps(messages).encode()] if array else [json.dumps(m).encode() for m in messages]
    rows = Rows(raw, lambda row: RowOrigin(f"t[0]@{row}"))
    assert plain(decoder.decode(rows)) == plain(decoder.decode_by_row(rows))


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        ({"user": None}, "user", "is missing"),
        ({"usr": "x"}, "usr", "is no key of a mapping"),
        ({"item": 5}, "item", "should be a path"),
        ({"item": []}, "item", "should be a path"),
        ({"item": {"const": 5}}, "item", "should be a path"),
        ({"item": {"const": "x", "join": ["a"]}}, "item", "should be a path"),
        ({"item": "a..b"}, "item", "no name at character 3"),
        ({"when": "x"}, "when", "a condition reads like"),
        ({"when": "a[*].b == 1"}, "when", "asked once a message"),
        ({"others": "drop"}, "others", "is one of keep, ignore"),
        ({"messages": "a[*]"}, "messages", r"a path in the message without \[\*\]"),
        ({"messages": "$key"}, "messages", "a path in the message"),
        ({"behaviors": {"a": ""}}, "behaviors.a", "should be a relation"),
        ({"behaviors": {"a": []}}, "behaviors.a", "should be a relation"),
        ({"behaviors": {"a": [{"when": "x == 1"}]}}, "behaviors.a", "each of the list"),
        ({"behaviors": {"a": [{"relation": "b", "if": "x == 1"}]}}, "behaviors.a", "each of the list"),
        ({"behaviors": {"a": [{"relation": "b", "when": "x"}]}}, "behaviors.a", "a condition reads like"),
        ({"item": "a[*].i", "ts": "b[*].t"}, "ts", "loop over different lists"),
        ({"item": "a[*].b[*].i", "ts": "a[*].c[*].t"}, "ts", "loop over different lists"),
        (
            {"item": "a[*].i", "behaviors": {"n": [{"relation": "r", "when": "z[*].q == 1"}]}},
            "behaviors.n",
            "loop over",
        ),
    ],
)
def test_what_is_wrong_with_a_mapping_is_told_with_its_key(
    changed: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(MappingError, match=said) as caught:
        EventMapping.of({**FLAT, **changed})
    assert caught.value.key == key
