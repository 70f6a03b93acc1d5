"""What is wrong with a running driftgraph, each with what to do: the same words on every surface.

status files, Redis ──► Facts ──► [troubles_of] ──► /readyz, /metrics, driftgraph status
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

SILENT_MS: Final = 10_000  # an updater writes its status each second
STUCK_MS: Final = 600_000  # a stage of the worker that counts moves each second, and others take minutes

Told = Mapping[str, Any]  # what a process says of itself in its status file


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one time: the status files of a data_dir, and the manifest that Redis serves."""

    now_ms: int
    updater: Told | None
    standby: Told | None
    worker: Told | None
    generation: int  # the served one, 0 for none
    manifest: Mapping[str, str]  # of the served generation
    redis_error: str | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong."""

    code: str  # a name for machines, which stays the same
    said: str
    remedy: str
    keeps_from_serving: bool  # fresh vectors and lists

    def json(self) -> dict[str, Any]:
        """For ``/readyz``."""
        return asdict(self)


CODES: Final = (
    "no_updater", "updater_ended", "updater_silent", "filling", "kafka_away", "worker_failing", "worker_down",
    "worker_trouble", "worker_stuck", "refresh_failing", "redis_away", "no_generation", "checkpoint_overdue",
    "dead_letters_failing", "erasures_failing", "reading_paused", "events_lost",
)  # fmt: skip


def troubles_of(facts: Facts) -> list[Trouble]:
    """Everything that is wrong, what keeps it from serving first."""
    found = [*_of_updater(facts), *_of_worker(facts), *_of_redis(facts)]
    return sorted(found, key=lambda one: not one.keeps_from_serving)


def _of_updater(facts: Facts) -> Iterator[Trouble]:
    told = facts.updater
    if told is None or told["state"] in ("stopped", "failed", "gone"):
        if facts.standby is not None and facts.standby["state"] not in ("gone", "unknown"):
            return  # another updater works, and this one waits
        if told is None:
            yield Trouble("no_updater", "no updater has run with this data_dir", "start driftgraph run", True)
            return
        why = f": {told['why']}" if told.get("why") else ""
        yield Trouble("updater_ended", f"the updater is {told['state']}{why}", "start driftgraph run", True)
        return
    if told["state"] == "unknown":
        said = f"what the updater says of itself cannot be read: {told['why']}"
        yield Trouble("updater_silent", said, "give this user the right to read data_dir/status", True)
        return
    silent_ms = facts.now_ms - told.get("time_ms", facts.now_ms)
    if silent_ms > SILENT_MS:
        said = f"the updater has written no status for {silent_ms // 1_000} s"
        yield Trouble("updater_silent", said, "look whether its process runs and its disk answers", True)
    if told["state"] == "filling":
        lag = sum(told["lag"].values())
        yield Trouble("filling", f"the window is filling, {lag:,} messages are left", "wait", True)
    if told.get("kafka_away"):
        yield Trouble("kafka_away", "Kafka does not answer", "look at the brokers; driftgraph doctor", True)
    yield from _of_kept(told)


def _of_kept(told: Told) -> Iterator[Trouble]:
    """What the disk or the dead letters do not take."""
    if (one := told.get("checkpoint") or {}).get("overdue"):
        said = f"the newest checkpoint is {one['age_ms'] // 1_000} s old: {one['reason']}"
        yield Trouble("checkpoint_overdue", said, "look at the disk of data_dir; driftgraph doctor", False)
    if why := (told.get("dead_letters") or {}).get("failure"):
        yield Trouble("dead_letters_failing", f"dead letters are not kept: {why}", "driftgraph doctor", False)
    if why := (told.get("erasures") or {}).get("failure"):
        yield Trouble("erasures_failing", f"erasures are not done: {why}", "driftgraph doctor", False)
    if told.get("reading_paused"):
        said = "reading is paused until dead letters and requests to erase are kept"
        yield Trouble("reading_paused", said, "look at the disk, or at the topic of dead letters", True)
    if lost := sum((told.get("lost") or {}).values()):
        said = f"{lost:,} messages were deleted by Kafka's retention before they were read"
        yield Trouble("events_lost", said, "raise the topic's retention above the longest stop", False)


def _of_worker(facts: Facts) -> Iterator[Trouble]:
    updater, told = facts.updater, facts.worker
    if updater is None or updater["state"] not in ("running", "degraded"):
        return
    worker = updater.get("worker") or {"state": "unknown"}  # the file of an older updater has none
    if worker["state"] == "failing":
        said = f"the worker has ended {worker['failures']} times in a row: {worker['why']}"
        yield Trouble("worker_failing", said, "remove the reason; it is started again and again", True)
    elif worker["state"] == "failed":
        said = f"the worker has ended and is started again: {worker['why']}"
        yield Trouble("worker_down", said, "wait some seconds", True)
    elif told is not None and told.get("state") == "running" and told.get("pid") == worker.get("pid"):
        if told["trouble"]:
            yield Trouble("worker_trouble", told["trouble"], "driftgraph doctor says more", True)
        if why := (told.get("refresh") or {}).get("trouble"):
            said = f"users are not refreshed: {why}"
            yield Trouble("refresh_failing", said, "it is tried again and again; driftgraph doctor", True)
        still_ms = facts.now_ms - told["moved_ms"]
        if told["stage"] and still_ms > STUCK_MS:
            said = f"the worker has been at “{told['stage']}” for {still_ms // 60_000} min without progress"
            yield Trouble("worker_stuck", said, f"kill process {told['pid']}; a new one goes on", True)


def _of_redis(facts: Facts) -> Iterator[Trouble]:
    if facts.redis_error is not None:
        yield Trouble("redis_away", facts.redis_error, "look at the Redis; driftgraph doctor", True)
    elif not facts.generation:
        said = "Redis serves no generation in this namespace"
        yield Trouble("no_generation", said, "the first one comes soon after the window is full", True)
