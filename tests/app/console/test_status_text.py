"""What status says of an updater: as JSON and as text, the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.cli.status import updater_pairs
from driftgraph.app.console.status_files import told, write_json
from driftgraph.app.console.status_text import manifest_pairs, span_of

HOUR_MS = 3_600_000
STATUS: dict[str, Any] = {
    "pid": os.getpid(),
    "state": "running",
    "watermark_ms": 1,
    "lag": {},
    "events": {},
    "window": {"click": 3},
    "checkpoint": {"number": 7, "age_ms": 9_000, "overdue": False, "reason": None, "failure": None},
    "deduplication": {
        "ids": 5_000,
        "bytes": 32e6,
        "horizon_ms": 24 * HOUR_MS,
        "reach_ms": HOUR_MS,
        "short": False,
    },
}


def text(**more: Any) -> dict[str, object]:
    return dict(updater_pairs({**STATUS, **more}))


def test_the_newest_checkpoint_and_the_event_ids_are_told() -> None:
    assert text()["checkpoint"] == "number 7, 9 s old"
    assert text()["event ids"] == "5,000 event ids in 32 MB"
    assert text()["window, click"] == 3
    assert "checkpoint" not in text(checkpoint=None), "an older updater wrote the file"


AT_MS = 1_783_000_800_000


def waits(early: int, regular: int, count: int | None = None, at_ms: int | None = AT_MS) -> dict[str, object]:
    """So many events of 10,000, of 100 and of 5,000; the quarter of an hour is ``at_ms``."""
    hour_ms = None if at_ms is None else at_ms + HOUR_MS
    return {
        "early": {"events": early, "needed": 10_000, "at_ms": at_ms},
        "regular": {"events": regular, "needed": 100, "at_ms": hour_ms},
        "by_count": None if count is None else {"events": count, "needed": 5_000, "at_ms": None},
    }


@pytest.mark.parametrize(
    ("first_fit", "said"),
    [
        (waits(0, 0, at_ms=None), "due once there are events"),
        (
            waits(4_213, 4_213),
            "due once 10,000 events are applied (4,213 so far) and event time passes the next quarter of an "
            "hour, or when event time passes 2026-07-02 15:00:00+00:00",
        ),
        (
            waits(37, 37, 37),
            "due once 10,000 events are applied (37 so far) and event time passes the next quarter of an "
            "hour, or once 5,000 events are applied (37 so far), "
            "or when event time passes 2026-07-02 15:00:00+00:00 and 100 are applied",
        ),
        (waits(10_000, 10_000), "due when event time passes 2026-07-02 14:00:00+00:00"),
    ],
)
def test_what_the_first_fit_waits_for_is_said_while_the_updater_runs(
    first_fit: dict[str, object], said: str
) -> None:
    assert text(first_fit=first_fit)["first fit"] == said
    assert "first fit" not in text(first_fit=None), "there is a model"
    assert "first fit" not in text(first_fit=first_fit, state="stopped")


def test_a_first_fit_whose_mark_has_been_passed_is_due_now_until_the_gate_refuses_it() -> None:
    marked = {**waits(10_000, 10_000), "marked": True}
    assert text(first_fit=marked)["first fit"] == "due now: the history of the topic is enough for it"
    refused = dict(updater_pairs({**STATUS, "first_fit": marked}, fit={"accepted": False}))
    assert refused["first fit"] == "due when event time passes 2026-07-02 14:00:00+00:00"


def test_an_overdue_checkpoint_says_for_how_long_and_why() -> None:
    one = {**STATUS["checkpoint"], "age_ms": 3 * HOUR_MS, "overdue": True, "reason": "Redis is away"}
    assert text(checkpoint=one)["checkpoint"] == "overdue, the newest, number 7, is 3.0 h old: Redis is away"
    assert text(checkpoint={**one, "number": 0})["checkpoint"] == "overdue, none for 3.0 h: Redis is away"


def test_a_checkpoint_that_failed_once_says_so_before_it_is_overdue() -> None:
    one = {**STATUS["checkpoint"], "failure": "No space left on device"}
    assert text(checkpoint=one)["checkpoint"] == "number 7, 9 s old; No space left on device"


def test_topics_of_attributes_say_what_is_read_and_what_was_bad() -> None:
    own = {"read": 1_200, "left_out": 0, "lag": {"items[0]": 3, "items[1]": 4}, "position": {}}
    pairs = text(attributes=own)
    assert pairs["attributes"] == "1,200 records read of their topics, 7 to read"
    pairs = text(attributes=own | {"left_out": 2})
    assert pairs["attributes"] == "1,200 records read of their topics, 7 to read; 2 say no attributes"
    assert "attributes" not in text(attributes=None)


def test_the_topic_of_delisted_items_says_how_many_and_what_is_in_the_way() -> None:
    own = {
        "topic": "gone",
        "items": 1_200,
        "left_out": 0,
        "left_over": 0,
        "lag": {"gone[0]": 3},
        "failure": None,
    }
    assert text(delisted=own)["delisted"] == "1,200 items by gone, 3 records to read"
    pairs = text(delisted=own | {"left_out": 2, "left_over": 4, "failure": "Redis is away"})
    assert pairs["delisted"] == (
        "1,200 items by gone, 3 records to read; 2 delist no item; 4 are too many and not delisted; "
        "not told to Redis: Redis is away"
    )
    assert "delisted" not in text(delisted=None)


def test_a_memory_of_ids_that_is_too_short_says_how_far_it_reaches_and_what_to_do() -> None:
    said = str(text(deduplication={**STATUS["deduplication"], "short": True})["event ids"])
    assert "reach back 60 min of 24.0 h" in said
    assert "set deduplication.ids_max higher" in said


@pytest.mark.parametrize(
    ("ms", "said"),
    [(0, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (2 * HOUR_MS, "2.0 h"), (48 * HOUR_MS, "2.0 d")],
)
def test_spans_are_said_in_the_largest_unit_of_which_there_are_two(ms: int, said: str) -> None:
    assert span_of(ms) == said


def test_who_does_not_run_any_more_is_gone(tmp_path: Path) -> None:
    assert told(tmp_path, "updater") is None
    write_json(tmp_path / "status" / "updater.json", {**STATUS, "pid": (1 << 22) + 1})
    found = told(tmp_path, "updater")
    assert found is not None
    assert found["state"] == "gone"


def test_what_a_manifest_has_as_json_is_said_in_words() -> None:
    manifest = {
        "generation": 7,
        "published_ms": 1_700_000_000_000,
        "metrics": '{"model": {"recall_at_20": 0.387}, "co_visitation": {"recall_at_20": 0.36}}',
        "shares": '{"vectors": 0.2, "bank": 0.1, "paths": 0.7}',
        "weights": '{"vectors": 0.19747, "age": -0.48}',
        "cut": '{"click": 44288, "buy": 3}',
        "dim": 64,
        "token": "1:f00", "digest": "d", "model_hash": "h", "configuration": "c", "head_state": "{}",
    }  # fmt: skip
    assert manifest_pairs(manifest) == [
        ("published", "2023-11-14 22:13:20+00:00"),
        ("Recall@20", "model 0.3870, best baseline co-visitation 0.3600"),
        ("shares", "paths 70 %, vectors 20 %, popularity 10 %"),
        ("dim", 64),
        ("cut", "click 44,288, buy 3"),
        ("weights", "vectors 0.197, age -0.480"),
    ]
    assert manifest_pairs(dict(reversed(manifest.items()))) == manifest_pairs(manifest), "in the same order"


def test_a_manifest_is_in_words_and_what_is_empty_is_left_out() -> None:
    head = '{"relations": ["click", "like"], "base": [-0.1, -4.0], "dot": [0.0, 0.0]}'
    pairs = manifest_pairs({"generation": 2, "head": head, "parent": "", "trained_to_ms": 0, "dim": 64})
    assert pairs == [("dim", 64), ("head", "click, like")]


@pytest.mark.parametrize(
    ("pid", "now"), [(None, "it is being started again"), (4711, "it runs again, pid 4711")]
)
def test_a_worker_that_was_killed_is_being_started_again(pid: int | None, now: str) -> None:
    worker = {"state": "failed", "pid": pid, "starts": 1, "failures": 1, "why": "ended by signal 9 (SIGKILL)"}
    assert text(worker=worker)["worker"] == f"failed: ended by signal 9 (SIGKILL); {now}"
    assert "worker" not in text(worker=worker | {"failures": 0})
    assert "worker" not in text(worker=worker, state="gone"), "nobody starts it"
