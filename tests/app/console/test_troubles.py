"""Troubles: each is told with what to do, and none where all is well."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driftgraph.app.console.status_files import beat
from driftgraph.app.console.troubles import CODES, facts_of, troubles_of
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import updater_says
from tests.app.web.troubled import BROKEN, DELISTED, facts


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"worker": {"serves": {"generation": 3}}}, "wait: the worker publishes again what Redis has lost"),
        ({"updater": {"watermark_ms": None}, "worker": {"serves": None}}, "soon after the first events"),
        ({"worker": {"serves": None}}, "soon after the window is full"),
    ],
)
def test_where_redis_serves_nothing_it_is_said_what_to_wait_for(changed: dict[str, Any], remedy: str) -> None:
    [found] = troubles_of(facts(**changed, generation=0))
    assert (found.code, remedy in found.remedy) == ("no_generation", True), found


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert troubles_of(facts()) == []
    stopped = {"state": "stopped"}
    assert troubles_of(facts(updater=stopped, standby={"state": "waiting", "pid": 1})) == []


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (
            {"standby": {"state": "standby", "about": "kafka", "why": "waits for Kafka"}},
            "kafka_away",
            "waits",
        ),
        ({"start": {"state": "starting", "time_ms": 1 << 50, "why": None}}, "starting", "the updater starts"),
        ({"start": {"state": "failed", "time_ms": 1 << 50, "why": "no topic"}}, "updater_ended", "no topic"),
        ({"start": {"state": "gone", "time_ms": 1 << 50, "why": None}}, "updater_ended", "was ended"),
        ({"start": {"state": "failed", "time_ms": 0, "why": "old"}}, "updater_ended", "updater is stopped"),
    ],
)
def test_who_waits_or_could_not_start_says_why(changed: dict[str, Any], code: str, said: str) -> None:
    [found] = troubles_of(facts(updater={"state": "stopped"}, **changed))
    assert found.code == code
    assert said in found.said


@pytest.mark.parametrize("worker", [{"pid": 2}, {"state": "gone"}])
def test_a_worker_that_starts_is_not_at_work_yet(worker: dict[str, Any]) -> None:
    [found] = troubles_of(facts(worker=worker))
    assert (found.code, found.keeps_from_serving) == ("worker_down", True)


def test_on_a_full_disk_the_time_of_a_status_file_says_that_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago_ms = SystemClock().now_ms() - 60_000
    updater_says(tmp_path, time_ms=long_ago_ms)
    facts = partial(facts_of, tmp_path, generation=1, manifest={}, redis_error=None)
    assert "updater_silent" in {one.code for one in troubles_of(facts(now_ms=long_ago_ms + 60_000))}
    beat(tmp_path / "status" / "updater.json", long_ago_ms + 59_000)
    beat(tmp_path / "status" / "worker.json", long_ago_ms + 59_000)
    assert troubles_of(facts(now_ms=long_ago_ms + 60_000)) == []


@pytest.mark.parametrize("code", CODES)
def test_each_trouble_is_said_with_its_remedy(code: str) -> None:
    found = troubles_of(facts(**BROKEN[code]))
    assert [one.code for one in found] == [code]
    assert found[0].said
    assert found[0].remedy


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        (
            {"updater": {"delisted": DELISTED | {"behind_ms": 31_000, "lag": {"gone[0]": 1_200}}}},
            "gone delists has not reached Redis for 31 s, and 1,200 records are to be read",
            "look at the brokers and the lease",
        ),
        (
            {"updater": {"delisted": DELISTED | {"left_over": 3}}},
            "3 items that the topic gone",
            "without a value",
        ),
        ({"worker": {"delisting": "out of memory"}}, "may still be in lists: out of memory", "tries Redis"),
    ],
    ids=["the feed stands still", "there are too many", "the worker mends no lists"],
)
def test_each_way_in_which_a_delisted_item_stays_is_told(
    changed: dict[str, Any], said: str, remedy: str
) -> None:
    [found] = troubles_of(facts(**changed))
    assert found.code == "delisting_failing"
    assert said in found.said
    assert remedy in found.remedy


def test_delistings_that_wait_for_kafka_alone_are_no_trouble_of_their_own() -> None:
    told = {"kafka_away": True, "delisted": DELISTED | {"behind_ms": 99_000}}
    assert [one.code for one in troubles_of(facts(updater=told))] == ["kafka_away"]
