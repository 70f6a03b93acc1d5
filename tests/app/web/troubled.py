"""What is known of a driftgraph where all is well, and what changes it for each trouble."""

from __future__ import annotations

from typing import Any

from driftgraph.app.console.troubles import Facts
from driftgraph.stream.time.clock import SystemClock
from tests.app.web.serving import updater_status


def facts(**changed: Any) -> Facts:
    """Everything is well, but for what is changed; ``updater`` changes fields of its status."""
    own = changed.pop("updater", {})
    updater = None if own is None else updater_status(**own)
    now_ms = SystemClock().now_ms()
    worker = {
        "pid": 1,
        "state": "running",
        "time_ms": now_ms,
        "moved_ms": now_ms,
        "stage": None,
        "trouble": None,
    }
    worker |= changed.pop("worker", {})
    rest: dict[str, Any] = {"standby": None, "generation": 4, "manifest": {}, "redis_error": None, **changed}
    return Facts(now_ms=now_ms, updater=updater, worker=worker, **rest)


DELISTED = updater_status()["delisted"]
BROKEN: dict[str, dict[str, Any]] = {
    "no_updater": {"updater": None},
    "updater_ended": {"updater": {"state": "failed", "why": "the topic is gone"}},
    "updater_silent": {"updater": {"time_ms": 0}},
    "starting": {"updater": None, "start": {"state": "starting", "time_ms": 5, "pid": 1, "why": None}},
    "filling": {"updater": {"state": "filling"}},
    "kafka_away": {"updater": {"kafka_away": True}},
    "worker_failing": {"updater": {"state": "degraded", "worker": {
        "state": "failing", "pid": None, "starts": 3, "failures": 3, "why": "ended by signal 9",
    }}},
    "worker_down": {"updater": {"worker": {
        "state": "failed", "pid": None, "starts": 1, "failures": 1, "why": "ended by signal 9",
    }}},
    "worker_silent": {"worker": {"time_ms": 0}},
    "worker_trouble": {"worker": {"trouble": "the disk is full"}},
    "worker_stuck": {"worker": {"stage": "training model version 3", "moved_ms": 0}},
    "refresh_failing": {"worker": {"refresh": {"trouble": "Redis is full"}}},
    "redis_away": {"redis_error": "connection refused"},
    "no_generation": {"generation": 0},
    "disk_full": {"disk_free_bytes": 4_096},
    "checkpoint_failing": {"updater": {"checkpoint": {"overdue": False, "failure": "no space"}}},
    "checkpoint_overdue": {"updater": {"checkpoint": {"overdue": True, "age_ms": 99_000, "reason": "slow"}}},
    "dead_letters_failing": {"updater": {"dead_letters": {"failure": "no such topic"}}},
    "erasures_failing": {"updater": {"erasures": {"failure": "no space"}}},
    "delisting_failing": {"updater": {"delisted": DELISTED | {"failure": "Kafka has no topic 'gone'"}}},
    "reading_paused": {"updater": {"reading_paused": True}},
    "events_lost": {"updater": {"lost": {"events[0]": 7}}},
}  # fmt: skip
