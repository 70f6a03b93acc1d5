"""What is answered over HTTP, as values: facts, health, generations and what Redis recommends.

status files, Redis ──► [Answers] ──► routes
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import redis

from driftgraph.app.config.builders import generation_store
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.drift_text import drift_in, is_user
from driftgraph.app.console.troubles import Facts, facts_of, heard_ms, troubles_of
from driftgraph.app.web.reloading import reload
from driftgraph.snapshots.generations.keys import RETRIES, StoreError, connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.retention import Generation
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.time.clock import Clock

LOOK_EVERY_S: Final = 1.0  # at Redis
LIVE_WITHIN_MS: Final = 10_000  # an updater writes its status each second; who is not alive is killed
OWN_FIELDS: Final = ("token", "digest", "epoch", "head", "head_state", "refreshed")  # nobody reads these here

log = logging.getLogger(__name__)


class Answers:
    """Answers from the status files and from Redis.

    Always true: facts never wait for Redis, since a thread of its own looks at it; every other answer that
    asks Redis is made by ``asks``, one after the other, as a reader and a store belong to one thread.
    """

    def __init__(self, settings: Settings, clock: Clock, updater_pid: int) -> None:
        self._settings = settings
        self._clock = clock
        self._updater_pid = updater_pid
        self._served: Generation | None = None
        self._redis_error: str | None = "Redis has not answered yet"
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._look, name="redis", daemon=True)
        self.asks = ThreadPoolExecutor(1, "asks")
        self._client = self._connected()
        self._reader = EmbeddingReader(self._client, namespace=settings.redis.namespace)

    def start(self) -> None:
        """Begin to look at Redis."""
        self._looker.start()

    def close(self) -> None:
        """Stop looking. An answer that waits for Redis is waited for, some seconds at most."""
        self._ended.set()
        self.asks.shutdown(cancel_futures=True)
        self._client.close()

    # --- at once ---------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """What is known now; of Redis as of the last look."""
        served = self._served
        return facts_of(
            self._settings.data_dir,
            now_ms=self._clock.now_ms(),
            generation=0 if served is None else served.number,
            manifest={} if served is None else served.manifest,
            redis_error=self._redis_error,
        )

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether the updater's loop moves, which it also does on an idle topic; without any dependency.

        Before its first status it starts: that takes as long as kernels take to compile.
        """
        facts = self.facts()
        updater = facts.updater
        if updater is None or updater["pid"] != self._updater_pid:
            return True, {"live": True, "at": "starting, or a standby"}
        silent_ms = facts.now_ms - heard_ms(updater)
        is_live = silent_ms <= LIVE_WITHIN_MS
        return is_live, {"live": is_live, "silent_s": silent_ms / 1_000}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether fresh vectors and lists are served, and all that is wrong."""
        found = troubles_of(self.facts())
        is_ready = not any(one.keeps_from_serving for one in found)
        return is_ready, {"ready": is_ready, "troubles": [one.json() for one in found]}

    def status(self) -> dict[str, Any]:
        """What ``driftgraph status --json`` says, and what is wrong."""
        facts = self.facts()
        return {
            "time_ms": facts.now_ms,
            "redis": self._settings.redis.public_url(),
            "namespace": self._settings.redis.namespace,
            "redis_error": facts.redis_error,
            "troubles": [one.json() for one in troubles_of(facts)],
            "generation": facts.generation,
            "manifest": _shown(facts.manifest),
            "updater": facts.updater,
            "standby": facts.standby,
            "worker": facts.worker,
            "start": facts.start,
        }

    def reload(self) -> dict[str, Any]:
        """Let the updater read its configuration again, and wait for what comes of it."""
        return reload(self._settings.data_dir, self._updater_pid)

    # --- from Redis, in the thread of ``asks`` -----------------------------------------------------------

    def generations(self) -> list[dict[str, Any]]:
        """The generations that Redis can serve, with their metrics."""
        found = self._store(self._client).generations()
        return [
            {"generation": one.number, "current": one.current, "manifest": _shown(one.manifest)}
            for one in found
        ]

    def rollback(self) -> dict[str, Any]:
        """Go back to the generation before the served one."""
        return {"generation": self._store(self._client).rollback(by="HTTP")}

    def recommend(self, user: str, top: int) -> dict[str, Any]:
        """The best items of a user."""
        found = self._reader.recommend(user, top)
        return {
            "user": user,
            "generation": found.generation,
            "source": found.source,
            "event_ms": found.event_ms,
            "items": [{"item": item, "score": score} for item, score in found.items],
        }

    def similar(self, item: str, top: int) -> dict[str, Any]:
        """The items most similar to one."""
        found = self._reader.similar(item, top)
        return {
            "item": item,
            "generation": found.generation,
            "source": found.source,
            "items": [{"item": one, "score": score} for one, score in found.items],
        }

    # -----------------------------------------------------------------------------------------------------

    def _connected(self, retries: int = RETRIES) -> redis.Redis:
        return connect(self._settings.redis.address(), retries=retries)

    def _store(self, client: redis.Redis) -> GenerationStore:
        """The store under the current epoch: we act beside the worker and do not replace it."""
        epoch = read_epoch(client, self._settings.redis.namespace)
        return generation_store(self._settings, client, epoch=epoch)

    def _look(self) -> None:
        client = self._connected(retries=1)  # what is silent is said within 10 s
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self._served = self._store(client).served()
                self._redis_error = None
            except StoreError as error:
                self._redis_error = str(error)
            except Exception as error:  # the thread must not end: what it says would stay for ever
                log.exception("looking at Redis")
                self._redis_error = f"unexpected {type(error).__name__} while looking at Redis: {error}"
        client.close()


def _shown(manifest: Mapping[str, str]) -> dict[str, Any]:
    """A manifest for everybody: numbers as numbers, JSON as such, no user and no field of our own."""
    shown = {k: _value(v) for k, v in manifest.items() if k not in OWN_FIELDS and not is_user(k)}
    if (drift := drift_in({k: v for k, v in manifest.items() if not is_user(k)}))["drift"] is not None:
        shown["drift"] = drift["drift"]
    return shown


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
