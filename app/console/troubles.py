"""What is wrong with a running driftgraph, each with what to do: the same words on every surface.

status files, Redis ──► Facts ──► [troubles_of] ──► /readyz, /metrics, driftgraph status

``kept_from_serving`` alone decides what /readyz answers and how ``status --check`` exits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from driftgraph.app.console.status_files import told

SILENT_MS: Final = 8_000  # updater and worker write their status each second
DELISTED_BEHIND_MS: Final = 30_000  # what a topic delists is out of every answer within a second
STUCK_MS: Final = 600_000  # a stage of the worker that counts moves each second, and others take minutes
DISK_FREE_BYTES_MIN: Final = 16 << 20  # a status file needs 8 KB, and a checkpoint of a small window some MB
MORE: Final = "run driftgraph doctor, which says more"
BROKERS: Final = "look at the brokers; driftgraph doctor tries them"
DISK: Final = "look at the disk of data_dir; driftgraph doctor tries it"
AGAIN: Final = "it is tried again and again; driftgraph doctor tries Redis"

Told = Mapping[str, Any]  # what a process says of itself in its status file


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one time: the status files of a data_dir, its disk, and what Redis serves."""

    now_ms: int
    updater: Told | None
    standby: Told | None
    worker: Told | None
    generation: int  # the served one, 0 for none
    manifest: Mapping[str, str]  # of the served generation
    redis_error: str | None
    start: Told | None = None  # the newest start of an updater that has not become one yet, or could not
    disk_free_bytes: int | None = None  # of data_dir; None if the volume does not say


def facts_of(
    data_dir: Path, *, now_ms: int, generation: int, manifest: Mapping[str, str], redis_error: str | None
) -> Facts:
    """The facts of a data_dir, with what Redis has said."""
    try:
        free_bytes = shutil.disk_usage(data_dir).free
    except OSError:  # there is no such folder yet, or the volume is away
        free_bytes = None
    updater, standby, worker, start = (
        told(data_dir, who) for who in ("updater", "standby", "worker", "start")
    )
    return Facts(now_ms, updater, standby, worker, generation, manifest, redis_error, start, free_bytes)


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
    "no_updater", "updater_ended", "updater_silent", "starting", "filling", "kafka_away", "worker_failing",
    "worker_down", "worker_silent", "worker_trouble", "worker_stuck", "refresh_failing", "redis_away",
    "no_generation", "disk_full", "checkpoint_failing", "checkpoint_overdue", "dead_letters_failing",
    "erasures_failing", "delisting_failing", "reading_paused", "events_lost",
)  # fmt: skip


def troubles_of(facts: Facts) -> list[Trouble]:
    """Everything that is wrong, what keeps it from serving first."""
    found = [*_of_updater(facts), *_of_worker(facts), *_of_redis(facts), *_of_disk(facts)]
    return sorted(found, key=lambda one: not one.keeps_from_serving)


def kept_from_serving(troubles: Iterable[Trouble]) -> str | None:
    """What keeps fresh vectors and lists from being served, in one sentence; None if nothing does."""
    return "; ".join(one.said for one in troubles if one.keeps_from_serving) or None


def _of_updater(facts: Facts) -> Iterator[Trouble]:
    told = facts.updater
    if told is None or told["state"] in ("stopped", "failed", "gone"):
        yield from _of_no_updater(facts)
        return
    if told["state"] == "unknown":
        said = f"what the updater says of itself cannot be read: {told['why']}"
        yield Trouble("updater_silent", said, "give this user the right to read data_dir/status", True)
        return
    silent_ms = facts.now_ms - heard_ms(told) if "time_ms" in told else 0  # an older updater has not said
    if silent_ms > SILENT_MS:
        said = f"the updater has written no status for {silent_ms // 1_000} s"
        yield Trouble("updater_silent", said, "look whether its process runs and its disk answers", True)
    if told["state"] == "filling":
        lag = sum(told["lag"].values())
        yield Trouble("filling", f"the window is filling, {lag:,} messages are left", "wait", True)
    if told.get("kafka_away"):
        yield Trouble("kafka_away", "Kafka does not answer", BROKERS, True)
    yield from _of_kept(told)
    yield from _of_delisted(told)


def heard_ms(told: Told) -> int:
    """When its process last said something; on a full disk only the time of its file moves on."""
    return max(int(told.get("time_ms", 0)), int(told.get("written_ms", 0)))


def _of_no_updater(facts: Facts) -> Iterator[Trouble]:
    """What a process says that waits or starts, or why none is there."""
    told, standby, start = facts.updater, facts.standby, facts.start
    if standby is not None and standby["state"] not in ("gone", "unknown"):
        if standby.get("about") == "kafka":
            yield Trouble("kafka_away", standby["why"], BROKERS, True)
        return  # another updater works, and this one waits; for a Redis that is away there is redis_away
    if start is not None and heard_ms(start) >= (1 if told is None else heard_ms(told)):
        if start["state"] == "starting":
            said = f"the updater starts, for {(facts.now_ms - start['time_ms']) // 1_000} s now"
            yield Trouble("starting", said, "wait; a first start compiles for a minute", True)
            return
        why = start["why"] or "its process was ended before it could work"
        yield Trouble(
            "updater_ended", f"the newest start failed: {why}", "remove the reason and start again", True
        )
        return
    if told is None:
        yield Trouble("no_updater", "no updater has run with this data_dir", "start driftgraph run", True)
        return
    why = f": {told['why']}" if told.get("why") else ""
    yield Trouble("updater_ended", f"the updater is {told['state']}{why}", "start driftgraph run", True)


def _of_disk(facts: Facts) -> Iterator[Trouble]:
    free_bytes = facts.disk_free_bytes
    if free_bytes is not None and free_bytes < DISK_FREE_BYTES_MIN:
        said = f"the disk of data_dir has {free_bytes / 1e6:.1f} MB left"
        yield Trouble("disk_full", said, "free some space, or give the volume more", False)


def _of_kept(told: Told) -> Iterator[Trouble]:
    """What the disk or the dead letters do not take."""
    if (one := told.get("checkpoint") or {}).get("overdue"):
        said = f"the newest checkpoint is {one['age_ms'] // 1_000} s old: {one['reason']}"
        yield Trouble("checkpoint_overdue", said, DISK, False)
    elif why := one.get("failure"):
        said = f"no checkpoint could be written: {why}"
        yield Trouble("checkpoint_failing", said, "look at the disk of data_dir; it is tried again", False)
    if why := (told.get("dead_letters") or {}).get("failure"):
        yield Trouble("dead_letters_failing", f"dead letters are not kept: {why}", MORE, False)
    if why := (told.get("erasures") or {}).get("failure"):
        yield Trouble("erasures_failing", f"erasures are not done: {why}", MORE, False)
    if told.get("reading_paused"):
        said = "reading is paused until dead letters and requests to erase are kept"
        yield Trouble("reading_paused", said, "look at the disk, or at the topic of dead letters", True)
    if lost := sum((told.get("lost") or {}).values()):
        said = f"{lost:,} messages were deleted by Kafka's retention before they were read"
        yield Trouble("events_lost", said, "raise the topic's retention above the longest stop", False)


def _of_delisted(told: Told) -> Iterator[Trouble]:
    """Why items that a topic delists may be in answers."""
    delisted = told.get("delisted")
    if not delisted:
        return
    topic, behind_ms = delisted["topic"], delisted.get("behind_ms", 0)
    if why := delisted["failure"]:
        said = f"what the topic {topic} delists may be served: {why}"
        yield Trouble("delisting_failing", said, MORE, False)
    elif behind_ms > DELISTED_BEHIND_MS and not told.get("kafka_away"):
        lag = sum(delisted["lag"].values())
        said = (
            f"what the topic {topic} delists has not reached Redis for {behind_ms // 1_000} s, "
            f"and {lag:,} records are to be read"
        )
        yield Trouble("delisting_failing", said, "look at the brokers and the lease; " + MORE, False)
    if left_over := delisted["left_over"]:
        said = f"{left_over:,} items that the topic {topic} delists are too many, and may be served"
        remedy = "write records without a value for items that are gone for good"
        yield Trouble("delisting_failing", said, remedy, False)


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
    elif worker["state"] != "running":
        return
    elif told is None or told.get("state") != "running" or told.get("pid") != worker["pid"]:
        yield Trouble("worker_down", "the worker starts, and is not at work yet", "wait some seconds", True)
    else:
        silent_ms = facts.now_ms - heard_ms(told)
        if silent_ms > SILENT_MS:
            said = f"the worker has written no status for {silent_ms // 1_000} s"
            remedy = f"look whether process {told['pid']} stands still, and kill it; a new one goes on"
            yield Trouble("worker_silent", said, remedy, True)
        if told["trouble"]:
            yield Trouble("worker_trouble", told["trouble"], MORE, True)
        if why := (told.get("refresh") or {}).get("trouble"):
            said = f"users are not refreshed: {why}"
            yield Trouble("refresh_failing", said, AGAIN, True)
        if why := told.get("delisting"):
            said = f"delisted items may still be in lists: {why}"
            yield Trouble("delisting_failing", said, AGAIN, False)
        still_ms = facts.now_ms - told["moved_ms"]
        if told["stage"] and still_ms > STUCK_MS:
            said = f"the worker has been at “{told['stage']}” for {still_ms // 60_000} min without progress"
            yield Trouble("worker_stuck", said, f"kill process {told['pid']}; a new one goes on", True)


def _of_redis(facts: Facts) -> Iterator[Trouble]:
    if facts.redis_error is not None:
        yield Trouble("redis_away", facts.redis_error, "look at the Redis; driftgraph doctor tries it", True)
    elif not facts.generation:
        said = "Redis serves no generation in this namespace"
        yield Trouble("no_generation", said, _next_generation(facts), True)


def _next_generation(facts: Facts) -> str:
    """What there is to wait for, where Redis serves nothing."""
    if (facts.worker or {}).get("serves"):
        return "wait: the worker publishes again what Redis has lost, after the fit that it may be at"
    if (
        facts.updater is not None
        and facts.updater["state"] == "running"
        and not facts.updater["watermark_ms"]
    ):
        return "wait: the first one comes soon after the first events"
    return "wait: the first one comes soon after the window is full"
