"""Arrow IPC messages: whole columns, the types that producers have, and bytes that are no stream."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.events import Decoded
from driftgraph.stream.formats import FieldNames, arrow_stream
from driftgraph.stream.formats.arrow_stream import ArrowStream
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, Others, RowOrigin, Rows
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.decoded import events_of, plain

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click", "buy"], ignore=["impression"]), REPLAY_TIMES)
DECODER = ArrowStream(RULES)


def stream(table: pa.Table, *, rows_a_batch: int = 1 << 20, codec: str | None = None) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return out.getvalue()


def table_of(count: int, **changed: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "user_id": [f"u{n}" for n in range(count)],
        "item_id": [f"i{n % 7}" for n in range(count)],
        "behavior": ["click", "buy"] * (count // 2) + ["click"] * (count % 2),
        "ts": [NOW_MS + n for n in range(count)],
    }
    return pa.table({**columns, **changed})


def decode(*payloads: bytes | None, decoder: ArrowStream = DECODER) -> Decoded:
    rows = Rows(payloads, lambda row: RowOrigin(f"t[0]@{row}"), np.arange(len(payloads), dtype=np.int32))
    decoded = decoder.decode(rows)
    assert plain(decoded) == plain(decoder.decode_by_row(rows))
    return decoded


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_a_stream_of_several_batches_is_all_its_events(codec: str | None) -> None:
    decoded = decode(stream(table_of(1_000), rows_a_batch=300, codec=codec), stream(table_of(3)))
    assert len(decoded.batch) == 1_003
    assert events_of(decoded.batch)[999] == ("u999", "i5", 1, NOW_MS + 999, 0, "")
    assert events_of(decoded.batch)[1_000] == ("u0", "i0", 0, NOW_MS, 1, "")


CLICKS = pa.array(["click", "buy"])
INSTANT = [NOW_MS, NOW_MS + 1]


@pytest.mark.parametrize(
    "changed",
    [
        {"user_id": pa.array([7, 8])},
        {"user_id": pa.array([7, 8], pa.uint64())},
        {"user_id": pa.array(["7", "8"], pa.large_string())},
        {"user_id": pa.array(["7", "8"], pa.string_view())},
        {"user_id": pa.array(["7", "8"]).dictionary_encode()},
        {"behavior": CLICKS.dictionary_encode()},
        {"behavior": CLICKS.cast(pa.string_view())},
        {"ts": pa.array(INSTANT, pa.timestamp("ms", "UTC"))},
        {"ts": pa.array([t * 1_000 for t in INSTANT], pa.timestamp("us", "Europe/Berlin"))},
        {"ts": pa.array([t * 1_000_000 for t in INSTANT])},
        {"ts": pa.array(list(map(str, INSTANT)))},
        {"more": pa.array([[1], []])},
        {"event_id": pa.nulls(2)},
    ],
)
def test_the_types_that_producers_have(changed: dict[str, Any]) -> None:
    decoded = decode(stream(table_of(2, **{"user_id": ["7", "8"], **changed})))
    assert [event[:4] for event in events_of(decoded.batch)] == [
        ("7", "i0", 0, NOW_MS), ("8", "i1", 1, NOW_MS + 1),
    ]  # fmt: skip


def test_event_ids_and_other_names() -> None:
    table = pa.table({"who": ["u"], "sku": [1], "what": ["buy"], "at": [NOW_MS], "id": ["e"]})
    decoder = ArrowStream(RULES, FieldNames("who", "sku", "what", "at", "id"))
    assert events_of(decode(stream(table), decoder=decoder).batch) == [("u", "1", 1, NOW_MS, 0, "e")]


def test_a_bad_row_is_told_by_its_number_with_the_whole_message() -> None:
    payload = stream(table_of(5, user_id=["a", None, " c", "d", ""]), rows_a_batch=2)
    decoded = decode(payload)
    assert [u for u, *_ in events_of(decoded.batch)] == ["a", "d"]
    assert [letter.detail.partition(":")[0] for letter in decoded.rejected] == ["row 1", "row 2", "row 4"]
    assert {(letter.reason, letter.payload) for letter in decoded.rejected} == {("bad_id", payload)}


def test_a_table_without_rows_is_no_event_and_no_fault() -> None:
    decoded = decode(stream(table_of(1).slice(1)), stream(table_of(1)))
    assert (len(decoded.batch), decoded.rejected) == (1, ())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (table_of(1).drop_columns(["ts"]), "has no column 'ts', it has: user_id, item_id, behavior;"),
        (
            table_of(1, user_id=[1.5]),
            "'user_id' of the message is of type double; it must hold text or integers",
        ),
        (table_of(1, behavior=[1]), "'behavior' of the message is of type int64; it must hold text"),
        (table_of(1, ts=pa.array([1], pa.timestamp("ms"))), "it must hold timestamps with a zone"),
        (table_of(1, ts=pa.array([True])), "'ts' of the message is of type bool"),
        (table_of(1).append_column("ts", pa.array([1])), "has 2 columns 'ts'"),
    ],
)
def test_a_wrong_schema_costs_its_message(table: pa.Table, said: str) -> None:
    decoded = decode(stream(table), stream(table_of(2)))
    [letter] = decoded.rejected
    assert (letter.reason, len(decoded.batch)) == ("bad_shape", 2)
    assert said in letter.detail


def test_more_events_than_a_message_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "EVENTS_MAX", 100)
    decoded = decode(stream(table_of(100)), stream(table_of(101), rows_a_batch=60))
    assert (len(decoded.batch), [letter.reason for letter in decoded.rejected]) == (100, ["bad_shape"])


def test_bytes_inside_of_a_column_are_not_trusted() -> None:
    """Ids that are no UTF-8, and offsets that lead out of the message: Arrow itself would read on."""
    payload = stream(table_of(3, user_id=["aaaa", "bbbb", "cccc"]))
    offsets = np.array([0, 4, 8, 12], np.int32).tobytes()
    for damaged in (
        payload.replace(b"bbbb", b"b\xffb\xff"),
        payload.replace(offsets, np.array([0, 4, 1 << 30, 12], np.int32).tobytes()),
        payload.replace(offsets, np.array([0, 4, -8, 12], np.int32).tobytes()),
    ):
        assert damaged != payload
        [letter] = decode(damaged).rejected
        assert letter.reason == "bad_encoding"


WHOLE = stream(table_of(20), rows_a_batch=7)


@example(152, 1, b"\x80")  # in a column's name
@given(st.integers(0, len(WHOLE)), st.integers(0, 3), st.binary(max_size=3))
def test_bytes_that_are_damaged_never_raise(at: int, width: int, patch: bytes) -> None:
    """Cut out, put in or exchange some bytes: whatever comes of it, the message after it is not hurt."""
    damaged = WHOLE[:at] + patch + WHOLE[at + width :]
    rows = Rows([damaged, WHOLE], lambda row: RowOrigin(f"t[0]@{row}"))
    decoded = ArrowStream(EventRules(Behaviors(["click", "buy"], others=Others.IGNORE), REPLAY_TIMES)).decode(
        rows
    )
    assert events_of(decoded.batch)[-20:] == events_of(decode(WHOLE).batch)


@pytest.mark.parametrize("cut", range(0, len(WHOLE) - 8, 37))
def test_a_stream_that_is_cut_off_is_told(cut: int) -> None:
    """At the end of a batch it looks whole: then what came is taken."""
    decoded = decode(WHOLE[:cut])
    assert [letter.reason for letter in decoded.rejected] == ["bad_encoding"] or len(decoded.batch) % 7 == 0


@pytest.mark.parametrize("payload", [b"", b"{}", b"ARROW1\0\0", b"\xff" * 100, b"\x00" * 64])
def test_what_is_no_stream_is_told(payload: bytes) -> None:
    [letter] = decode(payload).rejected
    assert (letter.reason, letter.payload) == ("bad_encoding", payload)


def test_nothing_is_done_in_python_by_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good column never meets the row definition."""
    payload = stream(table_of(10_000))

    def never(*args: object, **named: object) -> Callable[[], None]:
        raise AssertionError("a good event went by row")

    monkeypatch.setattr(EventRules, "event_of", never)
    assert len(DECODER.decode(Rows([payload], lambda row: RowOrigin("x"))).batch) == 10_000
