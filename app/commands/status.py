"""What ``driftgraph status`` knows: the status files of a data_dir, what Redis serves, and what is wrong.

status files, Redis ──► [status_of] ──► value ──► ``status``, ``status --json``, ``status --watch``

What is wrong, and what to do, is said by ``troubles_of``, as on every other surface.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from driftgraph.app.config.settings import Settings
from driftgraph.app.console.drift_text import FIELDS, is_user
from driftgraph.app.console.troubles import facts_of, troubles_of
from driftgraph.snapshots.generations.keys import StoreError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.time.clock import Clock

NUMBER: Final = re.compile(r"-?\d{1,18}(\.\d+)?")
ASK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """What Redis serves, or why that is not known."""

    number: int = 0
    manifest: Mapping[str, str] = field(default_factory=dict)
    choice: dict[str, Any] | None = None  # of an operator
    keys: Mapping[str, int] = field(default_factory=dict)
    error: StoreError | None = None


def ask(store_of: Callable[[], GenerationStore], *, with_keys: bool) -> Served:
    """Ask Redis. To count its keys it goes through all of them, which nobody wants each second."""
    try:
        store = store_of()
        served, choice = store.served(), store.choices.newest()
        return Served(
            number=served.number if served else 0,
            manifest=served.manifest if served else {},
            choice=choice.to_json() if choice.act_ms else None,
            keys=store.count_keys() if with_keys else {},
        )
    except StoreError as error:
        return Served(error=error)


class Asker:
    """Asks Redis each second from a thread of its own, since one that is away is waited for."""

    def __init__(self, store_of: Callable[[], GenerationStore]) -> None:
        self._store_of = store_of
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)
        self._newest = Served(error=StoreError("Redis has not answered yet"))

    def newest(self) -> Served:
        """The newest answer; the first one is waited for, some tenths of a second."""
        self._answered.wait(0.5)
        return self._newest

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._newest = ask(self._store_of, with_keys=False)
            except DriftgraphError as error:  # an address that redis-py cannot use
                self._newest = Served(error=StoreError(str(error)))
            self._answered.set()
            self._ended.wait(ASK_EVERY_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # a question under way is not waited for


def status_of(settings: Settings, served: Served, clock: Clock) -> dict[str, Any]:
    """Everything as JSON values, with what is wrong, the worst first."""
    now_ms, error = clock.now_ms(), None if served.error is None else str(served.error)
    facts = facts_of(
        settings.data_dir,
        now_ms=now_ms,
        generation=served.number,
        manifest=served.manifest,
        redis_error=error,
    )
    standby, worker = facts.standby, facts.worker
    if standby is not None and standby["state"] in ("gone", "unknown"):
        standby = None
    if worker is not None and worker["state"] == "unknown":  # the updater's line says why
        worker = None
    return {
        "time_ms": now_ms,
        "troubles": [one.json() for one in troubles_of(facts)],
        "redis": settings.redis.public_url(),
        "namespace": settings.redis.namespace,
        "redis_error": error,
        "generation": None if error is not None else served.number,
        "choice": served.choice,
        "manifest": manifest_of(served.manifest),
        "keys": dict(served.keys),
        "updater": facts.updater,
        "standby": standby,
        "worker": worker,
        "start": facts.start,
    }


def manifest_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a manifest without drift, with numbers as numbers."""
    number = {True: float, False: int}
    named = {
        "model_version" if k == "model_generation" else k: v for k, v in fields.items()
    }  # its former name
    return {
        k: number["." in v](v) if NUMBER.fullmatch(v) else v
        for k, v in named.items()
        if k not in FIELDS and not is_user(k)
    }
