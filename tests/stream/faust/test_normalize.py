"""Normalize: what a function gives is judged, and what it does to its process costs its record alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from driftgraph.stream.faust import normalize as module
from driftgraph.stream.faust.normalize import (
    Answer,
    CanonicalMessage,
    NormalizeError,
    NormalizeProcess,
    Normalizer,
    SiteRecord,
    function_of,
)
from driftgraph.stream.formats import JSON_NAMES
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, Reason, Refusal
from driftgraph.stream.time.clock import REPLAY_TIMES
from tests.site_events import event, normalize

RULES = EventRules(Behaviors(["click", "buy"], ignore=["impression"]), REPLAY_TIMES)
NAME = "tests.site_events:normalize"


def record(value: object, offset: int = 7) -> SiteRecord:
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return SiteRecord(raw, b"k", (), 1_783_000_000_000, f"site[0]@{offset}")


def answer(value: object) -> Answer:
    return Normalizer(RULES, JSON_NAMES, normalize).answer(record(value))


def events_of(answer: Answer) -> list[dict[str, Any]]:
    assert not isinstance(answer, Refusal), answer
    return [msgspec.json.decode(one.value or b"") for one in answer]


@pytest.fixture
def process() -> Iterator[NormalizeProcess]:
    found = NormalizeProcess(NAME, RULES, JSON_NAMES)
    yield found
    found.stop()


def test_an_event_without_an_id_gets_one_of_its_place_and_one_with_keeps_it() -> None:
    assert answer(event(42, "i1")) == (
        CanonicalMessage(b"42", msgspec.json.encode(event(42, "i1", event_id="site[0]@7"))),
    )
    assert events_of(answer(event("u1", "i1", event_id="e1", more=[1])))[0]["event_id"] == "e1"
    several = events_of(answer([event("u1", "i1"), event("u1", "i2")]))
    assert [one["event_id"] for one in several] == ["site[0]@7#0", "site[0]@7#1"]


def test_none_leaves_a_record_out_and_an_ignored_behavior_passes() -> None:
    assert answer(None) == ()
    assert answer([]) == ()
    [passed] = events_of(answer(event("u1", "i1", behavior="impression")))
    assert passed["behavior"] == "impression"


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (b"raise", Reason.NORMALIZE_FAILED, "ValueError: no such field"),
        (b"5", Reason.NORMALIZE_FAILED, "not iterable"),
        (b'["x"]', Reason.NORMALIZE_FAILED, "must be a mapping"),
        (event("u1", "i1", behavior="dance"), Reason.UNKNOWN_BEHAVIOR, "dance"),
        (event(1.5, "i1"), Reason.BAD_ID, "1.5"),
        (event("u1", "i1", ts="2026-01-01T00:00:00"), Reason.TIME_WITHOUT_ZONE, "zone"),
        ({"user_id": "u1"}, Reason.MISSING_FIELD, "behavior"),
        ([event("u1", "i1"), event("u1", None)], Reason.BAD_ID, "None"),
        ([event("u1", "i1")] * 10_001, Reason.NORMALIZE_FAILED, "10001 events"),
    ],
)
def test_what_is_not_right_is_refused_whole_with_its_reason(value: object, reason: Reason, said: str) -> None:
    refusal = answer(value)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert said in refusal.detail


def test_without_a_function_the_decoder_judges() -> None:
    plain = Normalizer(RULES, JSON_NAMES)
    assert events_of(plain.answer(record(event("u1", "i1", extra=None))))[0]["extra"] is None
    for value, reason in ((b"", Reason.BAD_JSON), (b"[]", Reason.NOT_OBJECT), (b"\xff", Reason.BAD_UTF8)):
        refusal = plain.answer(record(value))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is reason


def test_a_record_that_kills_the_process_costs_itself(process: NormalizeProcess) -> None:
    values: list[object] = [event("u1", "i1"), b"die", event("u1", "i2"), b"die", b"raise", event("u1", "i3")]
    answers = process.answers([record(value, n) for n, value in enumerate(values)])
    refused = [a.detail if isinstance(a, Refusal) else None for a in answers]
    ended, raised = "the function ended its process", "the function raised ValueError: no such field"
    assert refused == [None, ended, None, ended, raised, None]
    passed = [events_of(answers[n])[0] for n in (0, 2, 5)]
    assert [(one["item_id"], one["event_id"]) for one in passed] == [
        ("i1", "site[0]@0"), ("i2", "site[0]@2"), ("i3", "site[0]@5")
    ]  # fmt: skip


def test_a_record_that_does_not_end_is_given_up(
    process: NormalizeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = process.answers([record(b"pid")])
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.3)
    refusal, _ = process.answers([record(b"hang"), record(b"raise")])
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "the function gave no answer in 0.3 s"
    [second] = process.answers([record(b"pid")])
    assert events_of(first)[0]["item_id"] != events_of(second)[0]["item_id"], (
        "the hanging process is still used"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mysite", "should be module:function"),
        ("no.such.module:normalize", "cannot be imported"),
        ("tests.site_events:nothing", "cannot be imported"),
        ("tests.site_events:NOT_A_FUNCTION", "is a int, not a function"),
    ],
)
def test_a_function_that_is_not_there_is_told_in_a_sentence(name: str, said: str) -> None:
    with pytest.raises(NormalizeError, match=said):
        function_of(name)


def test_a_process_that_cannot_start_is_an_error_and_no_dead_letter() -> None:
    """Else one missing module would turn a whole topic into dead letters."""
    process = NormalizeProcess("no.such.module:normalize", RULES, JSON_NAMES)
    with pytest.raises(NormalizeError, match="did not start"):
        process.answers([record(event("u1", "i1"))])
