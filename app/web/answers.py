"""What is answered over HTTP, as values: facts, health, generations, users and rejected events.

status files, Redis, the worker, dead letters ──► [Answers] ──► routes
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import redis

from driftgraph.app.config.builders import generation_store
from driftgraph.app.config.letter_place import letter_box, sent_back
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.drift_text import drift_in, is_user
from driftgraph.app.console.reasons import reasoned, recommended
from driftgraph.app.console.status_files import told
from driftgraph.app.console.status_text import first_fit_of
from driftgraph.app.console.troubles import Facts, facts_of, heard_ms, kept_from_serving, troubles_of
from driftgraph.app.console.worker_socket import ask
from driftgraph.app.web.quality import QualityHistory
from driftgraph.app.web.reloading import reload
from driftgraph.snapshots.generations.choice import Choice
from driftgraph.snapshots.generations.keys import RETRIES, StoreError, connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.retention import Generation
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.snapshots.reading.where import Wanted
from driftgraph.stream.dead_letters.letters import Letter, origin_of, partition_of
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.time.clock import Clock

LOOK_EVERY_S: Final = 1.0  # at Redis
LIVE_WITHIN_MS: Final = 10_000  # an updater writes its status each second; who is not alive is killed
BY: Final = "HTTP"  # who has chosen, as far as is known
EXAMPLES_MAX: Final = 20
EXAMPLE_CHARACTERS_MAX: Final = 2_000
RETRIED_MAX: Final = 10_000  # by one request, which waits for Kafka meanwhile
OWN_FIELDS: Final = ("token", "digest", "epoch", "head", "head_state", "refreshed")  # nobody reads these here

log = logging.getLogger(__name__)


class Answers:
    """Answers from the status files and from Redis.

    Always true: facts never wait for Redis, since a thread of its own looks at it. Of the other answers one
    thread makes those from Redis, as a reader and a store belong to one; and one those from dead letters.
    """

    def __init__(self, settings: Settings, clock: Clock, updater_pid: int) -> None:
        self._settings = settings
        self._clock = clock
        self._updater_pid = updater_pid
        self._served: Generation | None = None
        self._choice = Choice()
        self._quality = QualityHistory(settings.data_dir)
        self._redis_error: str | None = "Redis has not answered yet"
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._look, name="redis", daemon=True)
        self._client = self._connected()
        self._reader = EmbeddingReader(self._client, namespace=settings.redis.namespace)

    def start(self) -> None:
        """Begin to look at Redis."""
        self._looker.start()

    def close(self) -> None:
        """Stop looking. The threads that ask for answers have ended before."""
        self._ended.set()
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
        is_ready = kept_from_serving(found) is None
        return is_ready, {"ready": is_ready, "troubles": [one.json() for one in found]}

    def status(self) -> dict[str, Any]:
        """What ``driftgraph status --json`` says, and what is wrong."""
        facts = self.facts()
        return {**self.now(facts), "manifest": _shown(facts.manifest)}

    def now(self, facts: Facts) -> dict[str, Any]:
        """The status without the manifest: what changes from second to second."""
        waits = (facts.updater or {}).get("first_fit")
        return {
            "time_ms": facts.now_ms,
            "redis": self._settings.redis.public_url(),
            "namespace": self._settings.redis.namespace,
            "redis_error": facts.redis_error,
            "troubles": [one.json() for one in troubles_of(facts)],
            "generation": facts.generation,
            "choice": self._choice.to_json() if self._choice.act_ms else None,
            "first_fit": None if waits is None else first_fit_of(waits, (facts.worker or {}).get("fit")),
            "updater": facts.updater,
            "standby": facts.standby,
            "worker": facts.worker,
            "start": facts.start,
        }

    def reload(self) -> dict[str, Any]:
        """Let the updater read its configuration again, and wait for what comes of it."""
        return reload(self._settings.data_dir, self._updater_pid)

    def quality(self) -> list[dict[str, Any]]:
        """The quality of every generation that was served, oldest first."""
        return self._quality.rows()

    # --- from Redis, in one thread -----------------------------------------------------------------------

    def generations(self) -> list[dict[str, Any]]:
        """The generations that Redis can serve, with their metrics."""
        found = self._store(self._client).generations()
        return [
            {"generation": one.number, "current": one.current, "manifest": _shown(one.manifest)}
            for one in found
        ]

    def drift(self) -> dict[str, Any]:
        """Who and what moved by the fit of the served generation, with the users' ids."""
        found = self._store(self._client).served()
        drift = None if found is None else drift_in(found.manifest)["drift"]
        return {"generation": 0 if found is None else found.number, "drift": drift}

    def rollback(self, *, hold: bool) -> dict[str, Any]:
        """Go back to the generation before the served one."""
        store = self._store(self._client)
        was = store.choices.newest().served
        number = store.rollback(hold=hold, by=BY)
        return _chosen(number, was, store.choices.newest())

    def promote(self, *, number: int | None, hold: bool) -> dict[str, Any]:
        """Serve a generation that is kept, None: the newest."""
        store = self._store(self._client)
        was = store.choices.newest().served
        number = store.promote(number, hold=hold, by=BY)
        return _chosen(number, was, store.choices.newest())

    def recommend(self, user: str, top: int, where: Mapping[str, Wanted]) -> dict[str, Any]:
        """The best items of a user, of those whose attributes fit."""
        return recommended(user, self._reader.recommend(user, top, where=where))

    def similar(self, item: str, top: int) -> dict[str, Any]:
        """The items most similar to one."""
        found = self._reader.similar(item, top)
        return {
            "item": item,
            "generation": found.generation,
            "source": found.source,
            "items": [{"item": one, "score": score} for one, score in found.items],
        }

    def trending(self, top: int) -> dict[str, Any]:
        """The items that rise most, over all behaviors."""
        found = self._reader.trending(None, top)
        served = self._store(self._client).served()
        items = [{"item": item, "score": score} for item, score in found]
        return {"items": items, "generation": 0 if served is None else served.number}

    # --- from the worker ---------------------------------------------------------------------------------

    def with_reasons(self, found: dict[str, Any]) -> dict[str, Any]:
        """A recommendation, and why each item is in it: see ``reasoned``."""
        return reasoned(self._settings.data_dir, found)

    def recent(self, user: str, top: int) -> dict[str, Any] | None:
        """The newest events of a user; None if the window has none.

        Raises:
            NoAnswerError: The worker does not answer.
        """
        events = ask(self._settings.data_dir, {"ask": "recent", "user": user, "top": top})["events"]
        return None if events is None else {"user": user, "events": events}

    # --- from dead letters, in one thread ----------------------------------------------------------------

    def rejected(self) -> dict[str, Any]:
        """What the updater has rejected since its start, by reason, and the newest dead letters."""
        updater = told(self._settings.data_dir, "updater") or {}
        reasons = {name: count for name, count in updater.get("reasons", {}).items() if count}
        said: dict[str, Any] = {"total": sum(reasons.values()), "reasons": reasons, "examples": []}
        try:
            letters = letter_box(self._settings).newest(EXAMPLES_MAX)
        except DriftgraphError as error:
            return said | {"examples_why_not": str(error)}
        if not letters:
            return said | {"examples_why_not": "no dead letter is open"}
        return said | {"examples": [_example(one) for one in letters]}

    def retry(self, reason: str | None) -> dict[str, Any]:
        """Send open dead letters back, ``RETRIED_MAX`` at most, as ``dlq retry`` does."""
        report = sent_back(self._settings, reason=reason, limit=RETRIED_MAX, say=log.warning)
        return {"retried": report.sent, **report.to_json()}

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
                store = self._store(client)
                served, self._choice = store.served(), store.choices.newest()
                if served is not None and (self._served is None or served.number != self._served.number):
                    self._keep_quality(store.generations())
                self._served, self._redis_error = served, None
            except StoreError as error:
                self._redis_error = str(error)
            except Exception as error:  # the thread must not end: what it says would stay for ever
                log.exception("looking at Redis")
                self._redis_error = f"unexpected {type(error).__name__} while looking at Redis: {error}"
        client.close()

    def _keep_quality(self, generations: Sequence[Generation]) -> None:
        try:
            self._quality.saw(generations)
        except OSError as error:  # a full disk: the page has what this process has seen
            log.warning("the quality of generations is not kept: %s", error)


def _chosen(number: int, was: int, choice: Choice) -> dict[str, Any]:
    """What an act has done; by ``at_ms`` a page knows that the feed still tells of the time before."""
    return {"generation": number, "was": was, "held": choice.is_held, "at_ms": choice.act_ms}


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


def _example(letter: Letter) -> dict[str, Any]:
    rejected = letter.rejected
    topic, _, offset = origin_of(rejected) or (None, None, None)
    text = rejected.payload[: 4 * EXAMPLE_CHARACTERS_MAX].decode(errors="backslashreplace")
    return {
        "reason": rejected.reason,
        "detail": rejected.detail,
        "event": text[:EXAMPLE_CHARACTERS_MAX],
        "topic": topic,
        "partition": partition_of(rejected),
        "offset": offset,
        "at_ms": letter.kept_ms,
    }
