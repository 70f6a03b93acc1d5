"""JSON and CSV: the bad inputs that were really seen, and that the fast path says what the slow one says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from driftgraph.stream.events import Decoded, Strings
from driftgraph.stream.formats import FieldNames, json_kernels
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.delimited import (
    NO_VALUE,
    PLAIN,
    TAOBAO,
    Delimited,
    Layout,
    layout_of_header,
    layout_of_positions,
)
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, Others, RowOrigin, Rows
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click", "buy"], ignore=["impression"]), REPLAY_TIMES)
IGNORING = EventRules(Behaviors(["click", "buy"], others=Others.IGNORE), REPLAY_TIMES)
JSON = CanonicalJson(RULES)
GOOD = b'{"user_id":"u1","item_id":"i1","behavior":"click","ts":%d}' % NOW_MS
EVENT = ("u1", "i1", 0, NOW_MS, 0, "")


def rows_of(payloads: list[bytes | None]) -> Rows:
    return Rows(
        payloads,
        lambda row: RowOrigin(f"t[0]@{row}", key=b"k%d" % row, headers=(("h", b"v"),), timestamp_ms=row),
    )


def reasons(decoded: Decoded) -> list[tuple[str, str]]:
    return [(letter.origin, letter.reason) for letter in decoded.rejected]


# JSON

BAD: list[tuple[bytes | None, str]] = [
    (None, "tombstone"),
    (b"", "bad_json"),
    (b"{", "bad_json"),
    (b"[]", "not_object"),
    (b"null", "not_object"),
    (b'"x"', "not_object"),
    (b"7", "not_object"),
    (b"\xff\xfe", "bad_utf8"),
    (GOOD[:-1] + b',"note":"\xff"}', "bad_utf8"),
    (GOOD + GOOD, "bad_json"),
    (GOOD + b"x", "bad_json"),
    (GOOD[:-1] + b',"x":NaN}', "bad_json"),
    (GOOD[:-1] + b',"x":01}', "bad_json"),
    (GOOD[:-1] + b',"x":"a\nb"}', "bad_json"),
    (GOOD.replace(b"u1", b"u\x001"), "bad_json"),
    (GOOD[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_json"),
    (b"{}", "missing_field"),
    (GOOD.replace(b'"user_id":"u1",', b""), "missing_field"),
    (GOOD.replace(b'"i1"', b"null"), "bad_id"),
    (GOOD.replace(b'"u1"', b"42.0"), "bad_id"),
    (GOOD.replace(b'"u1"', b"true"), "bad_id"),
    (GOOD.replace(b'"u1"', b'""'), "bad_id"),
    (GOOD.replace(b'"u1"', b'" 42 "'), "bad_id"),
    (GOOD.replace(b'"u1"', b'"' + b"x" * 5_000_000 + b'"'), "bad_id"),
    (GOOD.replace(b'"u1"', b'{"a":1}'), "bad_id"),
    (GOOD.replace(b"click", b"share"), "unknown_behavior"),
    (GOOD.replace(b'"click"', b"3"), "bad_behavior"),
    (GOOD.replace(b"%d" % NOW_MS, b"0"), "bad_time"),
    (GOOD.replace(b"%d" % NOW_MS, b"true"), "bad_time"),
    (GOOD.replace(b"%d" % NOW_MS, b'"2026-07-02T13:46:40"'), "time_without_zone"),
]


def test_each_bad_message_costs_itself_only() -> None:
    """Between good ones; each comes back once, with its payload, headers, time and place."""
    payloads: list[bytes | None] = [GOOD]
    for payload, _ in BAD:
        payloads += [payload, GOOD]
    rows = Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}", headers=(("h", b"v"),), timestamp_ms=row))
    decoded = JSON.decode(rows)
    assert events_of(decoded.batch) == [EVENT] * (len(BAD) + 1)
    assert reasons(decoded) == [(f"t[0]@{2 * n + 1}", reason) for n, (_, reason) in enumerate(BAD)]
    for letter, (payload, _) in zip(decoded.rejected, BAD, strict=True):
        row = int(letter.origin.partition("@")[2])
        assert letter.payload == (payload or b"")
        assert (letter.key, letter.headers, letter.timestamp_ms) == (None, (("h", b"v"),), row)
        assert len(letter.detail) < 1_000
    assert decoded.read_count == len(payloads)


@pytest.mark.parametrize(
    "payload",
    [
        GOOD.replace(b'"u1"', b'"\\u0075\\u0031"'),
        GOOD.replace(b'"user_id"', b'"user\\u005fid"'),
        GOOD.replace(b'"user_id":', b'"user_id":"other","user_id" : '),
        b" \n" + GOOD.replace(b",", b" ,\n\t") + b"\r\n",
        GOOD[:-1] + b',"cart":[{"sku":"a\\"]}","n":[1,-2.5,0,[]]},{}],"ok":true,"no":null}',
        GOOD[:-1] + b',"event_id":null}',
        GOOD[:-1] + b',"event_id":""}',
        GOOD.replace(b"%d" % NOW_MS, b'"2026-07-02T15:46:40.123+02:00"'),
        GOOD.replace(b"%d" % NOW_MS, b"1783000000.123"),
        GOOD.replace(b"%d" % NOW_MS, b"1.783000000123e9"),
        GOOD.replace(b"%d" % NOW_MS, b'"%d"' % NOW_MS),
        GOOD[:-1] + ',"name":"Zoë 日本"}'.encode(),
    ],
)
def test_other_ways_to_write_the_same_event(payload: bytes) -> None:
    assert plain(JSON.decode(rows_of([payload]))) == ([EVENT], [], 0, [])


def test_messages_that_take_the_slow_way_keep_their_place() -> None:
    fast = b'{"user_id":"u%d","item_id":"i1","behavior":"click","ts":1783000000}'
    slow = fast.replace(b"u%d", b"\\u0075%d")
    payloads: list[bytes | None] = [(slow if n % 3 == 0 else fast) % n for n in range(9)]
    rows = Rows(payloads, lambda row: RowOrigin("x"), np.arange(9, dtype=np.int32))
    assert [(e[0], e[4]) for e in events_of(JSON.decode(rows).batch)] == [(f"u{n}", n) for n in range(9)]


def test_ids_may_be_integers_event_ids_too() -> None:
    payload = b'{"event_id":7,"user_id":42,"item_id":-1,"behavior":"buy","ts":1783000000}'
    assert plain(JSON.decode(rows_of([payload]))) == ([("42", "-1", 1, 1_783_000_000_000, 0, "7")], [], 0, [])


def test_ignored_behaviors_are_counted_and_leave_nothing() -> None:
    impression = GOOD.replace(b"click", b"impression")
    decoded = JSON.decode(rows_of([impression, GOOD, impression]))
    assert (decoded.ignored, len(decoded.batch), decoded.rejected) == (2, 1, ())


def test_partitions_stay_with_their_events() -> None:
    rows = Rows([b"{", GOOD, GOOD], lambda row: RowOrigin("x"), np.array([3, 4, 5], np.int32))
    assert [event[4] for event in events_of(JSON.decode(rows).batch)] == [4, 5]


def test_fields_may_have_other_names() -> None:
    decoder = CanonicalJson(RULES, FieldNames("visitor", "sku", "what", "when", "id"))
    payload = b'{"visitor":"u1","sku":"i1","what":"click","when":%d,"id":"e","user_id":null}' % NOW_MS
    assert plain(decoder.decode(rows_of([payload]))) == ([(*EVENT[:5], "e")], [], 0, [])
    with pytest.raises(ValueError, match="two fields"):
        CanonicalJson(RULES, FieldNames(user="id", item="id"))


def test_an_empty_batch_is_no_event() -> None:
    assert plain(JSON.decode(rows_of([]))) == ([], [], 0, [])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=6)
    | st.sampled_from(["u1", "42", " 42", "click", "buy", "impression", "2026-07-02T13:46:40Z"])
    | st.sampled_from([42, 0, -0.0, 1.5, NOW_MS, NOW_MS / 1000, "x" * 513])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
OBJECTS = st.dictionaries(
    st.sampled_from(["event_id", "user_id", "item_id", "behavior", "ts", "x", "USER_ID", "user_id "]), VALUES
) | st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u1", 42, "é"]) | SCALARS,
        "item_id": st.sampled_from(["i1", 7]) | SCALARS,
        "behavior": st.sampled_from(["click", "buy", "impression", "$erase"]) | SCALARS,
        "ts": st.sampled_from([NOW_MS, str(NOW_MS), NOW_MS / 1000, "2026-07-02T13:46:40Z"]) | SCALARS,
    },
    optional={"event_id": SCALARS, "more": VALUES},
)


@st.composite
def messages(draw: st.DrawFn) -> bytes | None:
    """Objects, other JSON, nothing, and objects with some bytes cut out, put in or exchanged."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return None
    if kind == 1:
        return draw(st.binary(max_size=20))
    written = json.dumps(
        draw(VALUES if kind == 2 else st.lists(OBJECTS | VALUES, max_size=3) if kind == 3 else OBJECTS),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), ("\n,", ":\t")])),
    ).encode("utf-8", "surrogatepass")
    if kind < 7:
        return written
    at, width = draw(st.integers(0, len(written))), draw(st.integers(0, 3))
    patch = draw(
        st.sampled_from(
            [b"", b'"', b"\\", b"{", b"}", b",", b":", b"0", b"-", b"\n", b"\xff", b"\x00", b"1e9"]
        )
    )
    return written[:at] + patch + written[at + width :]


@settings(max_examples=400)
@example([b'{"user_id":"u1\xc3', b'\xa9","item_id":"i","behavior":"buy","ts":1783000000}'])
@example([b'{"user_id":-0,"item_id":"i","behavior":"buy","ts":1783000000}'])
@example([GOOD[:-1] + b',"x":"\\ud800"}', GOOD[:-1] + b',"x":"\\ud83d\\ude00"}', GOOD[:-1] + b',"x":1e999}'])
@example([GOOD.replace(b'"click"', b"0")])
@given(st.lists(messages(), max_size=8))
def test_a_batch_of_json_is_decoded_like_each_message(payloads: list[bytes | None]) -> None:
    rows = rows_of(payloads)
    for decoder in (JSON, CanonicalJson(IGNORING)):
        assert plain(decoder.decode(rows)) == plain(decoder.decode_by_row(rows))


def test_an_array_is_as_many_events_as_it_has_elements() -> None:
    """With its partition, in place, and each element judged by itself, down to its bytes."""
    bad_utf8 = GOOD[:-1] + b',"note":"\xff"}'
    array = b" [" + b", ".join([GOOD, b"[]", bad_utf8, GOOD.replace(b"u1", b"u2"), b"7"]) + b"]\n"
    rows = Rows([GOOD, array, GOOD], lambda row: RowOrigin(f"t[{row}]@9"), np.array([3, 4, 5], np.int32))
    decoded = JSON.decode(rows)
    assert [(e[0], e[4]) for e in events_of(decoded.batch)] == [("u1", 3), ("u1", 4), ("u2", 4), ("u1", 5)]
    assert [(letter.reason, letter.detail.partition(":")[0]) for letter in decoded.rejected] == [
        ("not_object", "element [1]"), ("bad_utf8", "element [2]"), ("not_object", "element [4]"),
    ]  # fmt: skip
    assert {(letter.payload, letter.origin) for letter in decoded.rejected} == {(array, "t[1]@9")}


def test_an_array_that_is_broken_is_one_bad_message() -> None:
    for payload in (b"[" + GOOD, b"[" + GOOD + b",]", b"[" + GOOD + b"] x", b"[" * 100_000):
        decoded = JSON.decode(rows_of([payload, GOOD]))
        assert (reasons(decoded), len(decoded.batch)) == ([("t[0]@0", "bad_json")], 1)


RAW = st.sampled_from(
    [
        b'"u1"', b'""', b"42", b"-0", b"-7", b"01", b"1e3", b"1.5", b"null", b"true", b"[]", b"{}",
        b'"\\u00e9"', b'"a\\"b"', b'"\xff"', b'"\xc3\xa9"', b'"\x01"', b'"unclosed', b'click"', b"",
        b'"click"', b'"impression"', b'" u"', b"1783000000000", b"1783000000000.5", b'"1783000000"',
        b"9" * 41, b'"x","user_id":"other"',
    ]
)  # fmt: skip
LAYOUTS = [
    b'{"user_id":%b,"item_id":%b,"behavior":%b,"ts":%b}',
    b'{"event_id":"e","user_id":%b,"item_id":%b,"behavior":%b,"ts":%b,"x":[1,{"user_id":"no"}]}',
    b' { "ts" : %b , "user_id":null, "behavior":%b,"item_id":%b,"user_id":%b } ',
    b'{"user_id":%b,"item_id":%b,"behavior":"click","ts":%b,"event_id":%b}',
]


@st.composite
def alike(draw: st.DrawFn) -> list[bytes | None]:
    """Messages of one layout, mostly good; some are cut, have a tail or a value of another kind."""
    layout = draw(st.sampled_from(LAYOUTS))
    good = [b"1783000000000", b'"buy"', b'"i1"', b'"u1"'] if layout.startswith(b" ") else None
    good = good or [b'"u1"', b'"i1"', b'"buy"', b"1783000000000"]
    if b'"click"' in layout:
        good = [b'"u1"', b'"i1"', b"1783000000000", b'"e9"']
    found: list[bytes | None] = []
    for _ in range(draw(st.integers(1, 8))):
        values = [draw(RAW) if draw(st.integers(0, 3)) == 0 else value for value in good]
        written = layout % tuple(values)
        damage = draw(st.integers(0, 19))
        if damage == 0:
            written = written[: draw(st.integers(0, len(written)))]
        elif damage == 1:
            written += draw(st.sampled_from([b" ", b"}", b"{}", b",", b"x", b"\n"]))
        found.append(written)
    return found


@settings(max_examples=600)
@given(alike())
def test_messages_of_one_layout_are_decoded_like_each_message(payloads: list[bytes | None]) -> None:
    """A message that follows one of its kind goes a shorter way, which must see what the longer one sees."""
    rows = rows_of(payloads)
    assert plain(JSON.decode(rows)) == plain(JSON.decode_by_row(rows))


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_a_message_with_other_values_goes_the_shorter_way(layout: bytes) -> None:
    """Also where the fields come in another order than ours; a value of another kind does not."""
    order = [b"ts", b"behavior", b"item_id", b"user_id"]
    turned = b"{" + b",".join(b'"%b":%%b' % name for name in order) + b"}"
    for form, one, other in (
        (layout, [b'"u1"', b'"i1"', b'"buy"', b"17"], [b'"u22"', b'""', b'"click"', b"1"]),
        (turned, [b"17", b'"buy"', b'"i1"', b'"u1"'], [b"1", b'"click"', b'"i333"', b'"u22"']),
    ):
        first, second, odd = form % tuple(one), form % tuple(other), form % (*one[:3], b"null")
        assert [_goes_short(first, message) for message in (second, odd, second + b" ")] == [
            True,
            False,
            False,
        ]


def _goes_short(like: bytes, message: bytes) -> bool:
    data = np.frombuffer(like + message, np.uint8)
    names = Strings.of(["user_id", "item_id", "behavior", "ts", "event_id"])
    spans, places = np.zeros((2, len(names), 2), np.int64), np.zeros((len(names), 4), np.int64)
    size = len(like)
    fields = json_kernels.Fields(names.data, names.offsets[1:], 2, 3, True)
    assert json_kernels._message(data, 0, size, fields, spans, 0)
    model = json_kernels._Model(0, size, places, json_kernels._places(data, spans, 0, places))
    return bool(json_kernels._like(data, size, len(data), model, fields, spans, 1))


# CSV


def line(number: int) -> str:
    return f"f:{number}"


def test_lines_give_events_and_each_bad_one_its_line_number() -> None:
    block = (
        b"u1,i1,click,1783000000123\n"
        b"\n"
        b"u1,i1,click\n"
        b"u1,i1,click,1783000000123,more\r\n"
        b'"u1","i1","click","1783000000123"\r\n'
        b",i1,click,1783000000123\n"
        b"u1,i1,click,yesterday\n"
        b'"u1,i1,click,1783000000123\n'
        b"u1,i1,share,1783000000123\n"
        b"u1,i\xff,click,1783000000123\n"
        b"u1,i1,impression,1783000000123\n"
        b"   \n"
        b"u1,i1,click,1783000000123"
    )
    decoded = Delimited(RULES, PLAIN).decode(block, 10, line)
    assert events_of(decoded.batch) == [EVENT] * 3
    assert decoded.ignored == 1
    assert reasons(decoded) == [
        ("f:12", "bad_row"), ("f:13", "bad_row"), ("f:15", "bad_id"), ("f:16", "bad_time"),
        ("f:17", "bad_row"), ("f:18", "unknown_behavior"), ("f:19", "bad_utf8"), ("f:21", "bad_row"),
    ]  # fmt: skip
    assert decoded.rejected[0].payload == b"u1,i1,click"


def test_a_stray_quote_swallows_no_other_line() -> None:
    block = b'u1,i1,click,1783000000123\n"u1,i1,click,1\n' + b"u1,i1,click,1783000000123\n" * 3
    decoded = Delimited(RULES, PLAIN).decode(block, 1, line)
    assert (len(decoded.batch), reasons(decoded)) == (4, [("f:2", "bad_row")])


def test_ids_of_a_csv_keep_their_zeros() -> None:
    decoded = Delimited(RULES, PLAIN).decode(b"007,1.50,click,1783000000\n", 1, line)
    assert [event[:2] for event in events_of(decoded.batch)] == [("007", "1.50")]


@pytest.mark.parametrize("word", NO_VALUE)
@pytest.mark.parametrize("quote", ["", '"'])
def test_what_exports_write_for_no_value_is_no_id_in_a_csv(word: str, quote: str) -> None:
    written = f"{quote}{word}{quote}"
    block = (
        f"e1,{written},i1,click,1783000000\ne2,u1,{written},click,1783000000\n"
        f"{written},u1,i1,click,1783000000\ne3,{word}x,{word.swapcase()}1,click,1783000000\n"
    ).encode()
    layout = Layout(user=1, item=2, behavior=3, ts=4, width=5, event_id=0)
    for decode in (Delimited(RULES, layout).decode, Delimited(RULES, layout).decode_by_line):
        decoded = decode(block, 1, line)
        assert [(one.reason, one.detail) for one in decoded.rejected] == [
            ("missing_field", "the event has no user id"), ("missing_field", "the event has no item id"),
        ]  # fmt: skip
        found = [(event[0], event[1], event[-1]) for event in events_of(decoded.batch)]
        assert found == [("u1", "i1", ""), (f"{word}x", f"{word.swapcase()}1", "e3")]


def test_such_a_word_is_an_id_in_json_and_a_behavior_in_a_csv() -> None:
    payload = b'{"user_id":"null","item_id":"None","behavior":"buy","ts":1783000000}'
    assert events_of(JSON.decode(rows_of([payload])).batch)[0][:2] == ("null", "None")
    rules = EventRules(Behaviors(["nan"]))
    decoded = Delimited(rules, PLAIN).decode(b"u1,i1,nan,1783000000\n", 1, line)
    assert len(decoded.batch) == 1


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0"])
def test_a_blank_event_id_is_none_in_every_way_of_reading(blank: str) -> None:
    layout = Layout(user=1, item=2, behavior=3, ts=4, width=5, event_id=0)
    block = f"{blank},u1,i1,click,1783000000\ne2,u1,i1,click,1783000000\n".encode()
    delimited = Delimited(RULES, layout)
    for decoded in (delimited.decode(block, 1, line), delimited.decode_by_line(block, 1, line)):
        assert [event[-1] for event in events_of(decoded.batch)] == ["", "e2"]
    message = {"user_id": "u1", "item_id": "i1", "behavior": "buy", "ts": 1783000000, "event_id": blank}
    rows = rows_of([json.dumps(message).encode()])
    for decoded in (JSON.decode(rows), JSON.decode_by_row(rows)):
        assert [event[-1] for event in events_of(decoded.batch)] == [""]


def test_the_taobao_layout_skips_the_category() -> None:
    decoded = Delimited(RULES, TAOBAO).decode(b"1,2268318,2520377,click,1511544070\n", 1, line)
    assert events_of(decoded.batch) == [("1", "2268318", 0, 1_511_544_070_000, 0, "")]


def test_a_header_says_where_the_columns_are() -> None:
    assert layout_of_header(b"timestamp, item_id,more,user_id,behavior\r") == Layout(
        user=3, item=1, behavior=4, ts=0, width=5
    )
    assert layout_of_header(b"event_id,user_id,item_id,behavior,timestamp").event_id == 0


def test_a_missing_column_names_what_the_header_has() -> None:
    with pytest.raises(ValueError, match=r"no column 'item_id'; the first line has: 'user_id', 'sku'"):
        layout_of_header(b"user_id,sku,behavior,timestamp")


def test_without_a_header_columns_are_positions() -> None:
    columns = {"user": "3", "item": "0", "behavior": "1", "ts": "2"}
    assert layout_of_positions(b"a,b,c,d", columns) == Layout(user=3, item=0, behavior=1, ts=2, width=4)
    assert layout_of_positions(b"a,b,c,d", {}) == PLAIN
    assert layout_of_positions(b"a,b,c,d,e", {}) == TAOBAO
    for line_, wrong, said in (
        (b"a,b,c,d,e,f", {}, "has 6 fields and no header"),
        (b"a,b,c,d", {**columns, "user": "4"}, "no column 4: a record has 4, 0 to 3"),
        (b"a,b,c,d", {**columns, "user": "name"}, "is a number from 0, got user=name"),
        (b"a,b,c,d", {"user": "0"}, "the position of item is needed"),
    ):
        with pytest.raises(ValueError, match=said):
            layout_of_positions(line_, wrong)


FIELDS = st.sampled_from(
    ["u1", "click", "buy", "x", "", "NULL", "\\N", '"nan"', "1783000000", " a", '"q"', '"a,b"', '"a""b"',
     'a"b', '"a"b', '"open', "é", "a\rb"]
) | st.text(max_size=4)  # fmt: skip
RECORDS = st.lists(FIELDS, min_size=3, max_size=5).map(",".join) | st.tuples(
    FIELDS, FIELDS, st.sampled_from(["click", "buy", "$erase"]), st.just("1783000000")
).map(",".join)


@settings(max_examples=400)
@example([("u,i,click,1783000000", "\n"), ('"u\n",i,buy,1783000000', "\n"), ("a\rb,c,d,e", "\n")], b"")
@example([('a"b,i,click,1783000000', "\n"), ('u,i,buy,"1783000000', "")], b"")
@given(
    st.lists(st.tuples(RECORDS, st.sampled_from(["\n", "\n", "\r\n", "\n\n", "\r\r\n", ""])), max_size=8),
    st.binary(max_size=2),
)
def test_a_block_of_lines_is_decoded_like_each_line(records: list[tuple[str, str]], tail: bytes) -> None:
    block = "".join(a + b for a, b in records).encode("utf-8", "surrogatepass") + tail
    for rules in (RULES, IGNORING):
        for layout in (PLAIN, Layout(user=0, item=1, behavior=2, ts=3, width=4, event_id=0)):
            decoder = Delimited(rules, layout)
            assert plain(decoder.decode(block, 1, line)) == plain(decoder.decode_by_line(block, 1, line))
