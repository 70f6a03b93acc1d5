"""Records of a topic of delisted items: which items are out after them."""

from __future__ import annotations

import numpy as np
import pytest

from driftgraph.stream.formats import delisted_records
from driftgraph.stream.formats.delisted_records import DelistedRecords
from driftgraph.stream.formats.event_rules import RowOrigin, Rows

Record = tuple[bytes | None, bytes | None]


def decoded(records: DelistedRecords, some: list[Record]) -> None:
    rows = Rows([value for _, value in some], lambda n: RowOrigin(f"gone[0]@{n}", some[n][0], (), 1))
    assert len(records.decode(rows).batch) == 0


def test_the_last_record_of_a_key_says_whether_it_is_out_however_they_are_read() -> None:
    rng = np.random.default_rng(2)
    values = [None, b"", b"0", b'{"sold": "out"}', b'{"schema": null, "payload": null}', b"null", b"\xff"]
    out, said = set[str](), list[Record]()
    for _ in range(500):
        item, value = f"i{rng.integers(20)}", values[rng.integers(len(values))]
        said.append((item.encode(), value))
        if value is None or value == values[4]:
            out.discard(item)
        elif value not in (b"", b"null"):
            out.add(item)
    whole, parts = DelistedRecords("gone"), DelistedRecords("gone")
    decoded(whole, said)
    at = 0
    while at < len(said):
        size = int(rng.integers(1, 9))
        decoded(parts, said[at : at + size])
        at += size
    for records in (whole, parts):
        assert records.items == out
        assert records.read == 500
        assert records.refused.total() == sum(value in (b"", b"null") for _, value in said)
    decoded(whole, said)
    assert whole.items == out, "a topic that is read again says the same"


def test_keys_are_ids_as_in_events_and_bad_records_change_nothing_but_their_count() -> None:
    records = DelistedRecords("gone")
    decoded(records, [(b'{"id": "i1"}', b"x"), (b"i2", b"x"), (b'"i3"', b"x"), (b"7", b"x")])
    assert records.items == {"i1", "i2", "i3", "7"}
    decoded(records, [(None, b"x"), (b" i2", None), (b"", b"x"), (b"i2", b"null")])
    assert records.items == {"i1", "i2", "i3", "7"}
    assert records.refused == {"missing_field": 1, "bad_id": 2, "bad_shape": 1}
    assert [text.partition(", such as ")[2] for text in records.warnings()] == [
        "gone[0]@1: key has white space at an end: ' i2'",
        "gone[0]@3: the value is b'null'; a record without a value lists an item again",
        "gone[0]@0: the event has no key",
    ]


def test_a_topic_of_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delisted_records, "ITEMS_MAX", 2)
    records = DelistedRecords("gone")
    decoded(records, [(b"a", b"x"), (b"b", b"x"), (b"c", b"x"), (b"a", b"x"), (b"a", None), (b"d", b"x")])
    assert records.items == {"b", "d"}
    assert records.refused.total() == 1
