"""The page of the demo: the HTTP port of a ``driftgraph run``, over what the demo's own loop says of itself.

Lockstep, KafkaSource ──► [DemoPage] ──► status files ──► app/web, a process of its own ──► browser
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from driftgraph.app.config.settings import Settings
from driftgraph.app.console.status_files import told, write_json
from driftgraph.app.console.worker_socket import answering
from driftgraph.app.live.loop.ingest_status import ingest_status
from driftgraph.app.live.web_process import WebProcess
from driftgraph.app.training.lockstep import Lockstep
from driftgraph.app.training.process.user_answers import UserAnswers
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.time.clock import Clock

RENEW_EVERY_S: Final = 1.0
SERVED_WITHIN_S: Final = 30.0  # a busy machine starts a process in seconds


def page_settings(data_dir: Path, redis_url: str, namespace: str) -> dict[str, Any]:
    """The keys of the configuration that the page needs: a free port, and a token of this demo alone."""
    return {
        "data_dir": str(data_dir),
        "redis": {"url": redis_url, "namespace": namespace},
        "web": {"listen": "127.0.0.1:0", "token": secrets.token_urlsafe(6)},
    }


class DemoPage:
    """Serves the page in the ``with`` block.

    The demo trains in the loop that reads, so for the seconds of a fit that loop says nothing. A thread
    renews the time of what it said last.
    """

    def __init__(self, settings: Settings, lockstep: Lockstep, source: KafkaSource, clock: Clock) -> None:
        self._settings, self._lockstep, self._source, self._clock = settings, lockstep, source, clock
        self._path = settings.data_dir / "status" / "updater.json"
        self._said: dict[str, Any] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="page", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.tell()
        self._thread.start()
        worker = self._lockstep.worker
        if worker.refresher is not None:
            answers = UserAnswers(worker.graph, worker.refresher)
            self._stack.enter_context(answering(self._settings.data_dir, answers.answer))
        self._stack.enter_context(WebProcess(self._settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._stack.close()

    def where(self) -> str:
        """The address and the token, once it is served; else that it is not."""
        end_s = time.monotonic() + SERVED_WITHIN_S
        while time.monotonic() < end_s:
            found = told(self._settings.data_dir, "web") or {}
            if "port" in found:
                token = self._settings.web.token
                assert token is not None
                address = f"http://{found['host']}:{found['port']}/"
                return f"the page: {address} (its token: {token.get_secret_value()})"
            time.sleep(0.05)
        return f"the page is not served: its process has not started within {SERVED_WITHIN_S:g} s"

    def tell(self) -> None:
        """Say how far the loop is, as an updater does."""
        now_ms = self._clock.now_ms()
        self._said = {
            "pid": os.getpid(), "state": "running", "why": None, "kafka_away": False, "poll_gap_max_ms": 0,
            **ingest_status(self._lockstep.ingest, self._source),
            "warnings": [], "reading_paused": False, "held_partitions": 0, "attributes": None,
            "dead_letters": {"kept": 0, "waiting": 0, "failure": None, "forgotten": 0},
            "lease": {"held": True, "epoch": 1, "failure": None},
            "checkpoint": {"number": 0, "time_ms": now_ms, "took_ms": 0, "failure": None, "age_ms": 0,
                           "overdue": False, "reason": None},
            "erasures": {"users": 0, "waiting": 0, "pending": 0, "failure": None},
            "worker": {"state": "running", "pid": os.getpid(), "starts": 1, "failures": 0, "why": None},
            "first_fit": None,
        }  # fmt: skip
        self._write()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_EVERY_S):
            self._write()

    def _write(self) -> None:
        with self._lock:  # one of the two threads writes the file
            write_json(self._path, {**self._said, "time_ms": self._clock.now_ms()})
