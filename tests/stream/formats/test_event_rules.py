"""What is right and what is not, one event at a time; and that the column judge says the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftgraph.stream.events import EMPTY, ID_BYTES_MAX, Rejected, Strings
from driftgraph.stream.formats.event_rules import (
    MISSING,
    Answer,
    Behaviors,
    EraseRequest,
    Event,
    EventRules,
    Others,
    Reason,
    Refusal,
    RowOrigin,
    TooManyBehaviorsError,
    id_of,
    rejected,
)
from driftgraph.stream.formats.rules_by_column import Columns, batch_of, concat, decode_columns
from driftgraph.stream.time.clock import FLOOR_MS, REPLAY_TIMES, ManualClock, TimeBounds, TimeRules
from driftgraph.stream.time.time_text import TimeFault
from tests.decoded import events_of, plain

NOW_MS = 1_783_000_000_123
RULES = EventRules(Behaviors(["click", "buy"], ignore=["impression"]), REPLAY_TIMES)
GOOD: dict[str, object] = {"user": "u1", "item": "i1", "behavior": "buy", "ts": NOW_MS}


def answer(**changed: object) -> Answer:
    values = {**GOOD, **changed}
    return RULES.event_of(
        user=values["user"],
        item=values["item"],
        behavior=values["behavior"],
        ts=values["ts"],
        event_id=values.get("event_id", MISSING),
        bounds=TimeBounds(),
    )


def reason(**changed: object) -> Reason | None:
    got = answer(**changed)
    return got.reason if isinstance(got, Refusal) else None


def test_a_good_event_is_taken_as_it_is() -> None:
    assert answer() == Event("u1", "i1", 1, NOW_MS)
    assert answer(event_id="e1") == Event("u1", "i1", 1, NOW_MS, "e1")
    assert answer(event_id=None) == answer(event_id="") == Event("u1", "i1", 1, NOW_MS)


def test_user_42_and_item_42_as_number_and_text_are_one_form_in_two_places() -> None:
    assert answer(user=42, item="42") == answer(user="42", item=42) == Event("42", "42", 1, NOW_MS)
    assert answer(user=-7) == Event("-7", "i1", 1, NOW_MS)


@pytest.mark.parametrize("field", ["user", "item"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        42.0,
        True,
        False,
        "",
        " 42",
        "42 ",
        "42\n",
        "\t42",
        "42\u00a0",
        "\u300042",
        [],
        {},
        "x" * 513,
        "é" * 257,
    ],
)
def test_what_is_no_id_is_refused(field: str, value: object) -> None:
    assert reason(**{field: value}) is Reason.BAD_ID


def test_a_number_too_long_to_write_is_refused_everywhere() -> None:
    assert reason(user=10**600) is reason(user=10**5_000) is Reason.BAD_ID
    assert reason(ts=10**5_000) is Reason.BAD_TIME
    assert reason(behavior=[10**5_000]) is Reason.BAD_BEHAVIOR


@pytest.mark.parametrize("blank", ["", " ", "\t", " \n ", "\u00a0", None])
def test_a_blank_event_id_means_none(blank: object) -> None:
    assert answer(event_id=blank) == Event("u1", "i1", 1, NOW_MS)
    assert reason(event_id=" x") is Reason.BAD_ID


def test_an_id_is_measured_in_bytes_and_the_longest_is_taken() -> None:
    assert ID_BYTES_MAX == 512
    assert isinstance(answer(user="é" * 256), Event)
    assert isinstance(answer(user="x" * 512), Event)


def test_white_space_inside_an_id_belongs_to_it() -> None:
    assert answer(user="a b") == Event("a b", "i1", 1, NOW_MS)


@pytest.mark.parametrize("field", ["user", "item", "behavior", "ts"])
def test_a_missing_field_is_not_a_null_one(field: str) -> None:
    assert reason(**{field: MISSING}) is Reason.MISSING_FIELD
    assert reason(**{field: None}) is not Reason.MISSING_FIELD


@pytest.mark.parametrize("value", [None, 3, True, "", ["buy"]])
def test_a_behavior_is_a_text(value: object) -> None:
    assert reason(behavior=value) is Reason.BAD_BEHAVIOR


def test_an_unknown_behavior_says_which_there_are() -> None:
    got = answer(behavior="share")
    assert isinstance(got, Refusal)
    assert got.reason is Reason.UNKNOWN_BEHAVIOR
    assert "'share'" in got.detail
    assert "click, buy" in got.detail


def test_of_an_ignored_behavior_nothing_else_matters() -> None:
    assert answer(behavior="impression") is None
    assert answer(behavior="impression", user=None, ts="never") is None


def test_each_time_fault_is_a_reason() -> None:
    assert {f.value for f in TimeFault} <= {r.value for r in Reason}
    assert reason(ts=0) is Reason.BAD_TIME
    assert reason(ts="2026-07-02T13:46:40") is Reason.TIME_WITHOUT_ZONE
    assert reason(ts=1) is Reason.TIME_TOO_OLD


def test_a_time_ahead_of_the_clock_is_refused_when_there_is_a_ceiling() -> None:
    live = EventRules(RULES.behaviors, TimeRules(ManualClock(NOW_MS), future_skew_ms=300_000))
    bounds = live.times.bounds()
    late = live.event_of(user="u", item="i", behavior="buy", ts="2037-01-01T00:00:00Z", bounds=bounds)
    assert isinstance(late, Refusal)
    assert late.reason is Reason.TIME_IN_FUTURE


def test_a_refusal_never_carries_the_whole_value() -> None:
    refusal = id_of("x" * 5_000_000, "user id")
    assert isinstance(refusal, Refusal)
    assert len(refusal.detail) < 400


def test_the_reasons_are_a_closed_set() -> None:
    """Metrics and dead letters are counted by these: a new one is a change that people see."""
    assert sorted(Reason) == [
        "bad_behavior", "bad_encoding", "bad_id", "bad_json", "bad_row", "bad_shape", "bad_time", "bad_utf8",
        "late", "missing_field", "normalize_failed", "not_object", "time_in_future", "time_too_old",
        "time_without_zone", "tombstone", "unknown_behavior", "unknown_schema",
    ]  # fmt: skip


def test_a_request_to_erase_needs_a_user_and_nothing_else() -> None:
    assert answer(behavior="$erase") == EraseRequest("u1", NOW_MS)
    assert answer(behavior="$erase", user=42, item=MISSING, ts="never") == EraseRequest("42")
    assert reason(behavior="$erase", user=None) is Reason.BAD_ID
    assert reason(behavior="$erase", user=MISSING) is Reason.MISSING_FIELD
    named = EventRules(Behaviors(others=Others.LEARN), REPLAY_TIMES, erase="gdpr.forget")
    assert named.code("gdpr.forget") == Behaviors.ERASE
    assert named.code("$erase") == 0
    assert named.behaviors.names == ("$erase",)


# Behaviors


def test_a_named_relation_is_never_ignored() -> None:
    behaviors = Behaviors(["impression"], ignore=["impression"])
    assert behaviors.code("impression") == 0


def test_others_are_rejected_ignored_or_learned() -> None:
    assert Behaviors(["buy"]).code("x") == Behaviors.UNKNOWN
    assert Behaviors(["buy"], others=Others.IGNORE).code("x") == Behaviors.IGNORED
    learning = Behaviors(["buy"], ignore=["impression"], others=Others.LEARN)
    assert [learning.code(name) for name in ("x", "impression", "y", "x")] == [1, Behaviors.IGNORED, 2, 1]
    assert learning.names == ("buy", "x", "y")


def test_a_33rd_behavior_is_not_learned() -> None:
    learning = Behaviors(others=Others.LEARN)
    for number in range(32):
        learning.code(f"b{number}")
    with pytest.raises(TooManyBehaviorsError, match=r"more than 32 different behaviors.*'b32'"):
        learning.code("b32")


# The column judge

IDS = st.text(max_size=4) | st.sampled_from(
    ["42", " 42", "42 ", "x" * 512, "x" * 513, "é" * 256, "é" * 257, "\u00a042", "日本", "\u3000", "\x7f",
     "\x1f42"]
)  # fmt: skip
BEHAVIORS = st.sampled_from(["click", "buy", "impression", "share", "$erase", ""])
TIMES = st.sampled_from(
    [str(NOW_MS), str(NOW_MS // 1000), "2026-07-02T13:46:40Z", "2026-07-02", "0", "", "x"]
)


@given(
    st.lists(st.tuples(IDS, IDS, BEHAVIORS, TIMES, IDS), max_size=12),
    st.sampled_from([Others.REJECT, Others.IGNORE]),
    st.data(),
)
def test_columns_are_judged_like_each_row(
    rows: list[tuple[str, str, str, str, str]], others: Others, data: st.DataObject
) -> None:
    """All rows by column, some by column, and none: the same events, rejects and order."""
    rules = EventRules(Behaviors(["click", "buy"], ignore=["impression"], others=others), REPLAY_TIMES)
    bounds = rules.times.bounds()
    partition = np.arange(len(rows), dtype=np.int32)

    def row(number: int) -> Event | EraseRequest | Rejected | None:
        user, item, behavior, ts, event_id = rows[number]
        got = rules.event_of(user=user, item=item, behavior=behavior, ts=ts, event_id=event_id, bounds=bounds)
        if isinstance(got, Refusal):
            return rejected(got, str(number).encode(), RowOrigin(f"row:{number}"))
        return got

    def decode(index: list[int]) -> tuple[object, ...]:
        taken = [rows[i] for i in index]
        user, item, behavior, ts, event_id = (Strings.of([r[f] for r in taken]) for f in range(5))
        columns = Columns(user, item, behavior, ts, event_id)
        return plain(
            decode_columns(
                columns,
                np.array(index, np.intp),
                count=len(rows),
                partition=partition,
                rules=rules,
                bounds=bounds,
                row=row,
            )
        )

    everything = list(range(len(rows)))
    some = data.draw(st.lists(st.sampled_from(everything), unique=True).map(sorted)) if rows else []
    assert decode(everything) == decode([]) == decode(some)


def test_concat_keeps_order_and_fills_missing_event_ids() -> None:
    none = np.zeros(0, np.int32)
    first = batch_of([Event("a", "x", 0, FLOOR_MS)], none)
    second = batch_of([Event("b", "y", 1, FLOOR_MS, "e"), Event("", "", 0, FLOOR_MS)], none)
    both = concat([first, EMPTY, second.slice(0, 1), second.slice(1, 2)])
    assert events_of(both) == [
        ("a", "x", 0, FLOOR_MS, 0, ""), ("b", "y", 1, FLOOR_MS, 0, "e"), ("", "", 0, FLOOR_MS, 0, ""),
    ]  # fmt: skip
