"""The HTTP port of a data_dir whose status a test writes, on a free port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.status_files import beat, told, write_json
from driftgraph.app.live.web_process import WebProcess
from driftgraph.stream.time.clock import SystemClock
from tests.waits import until

TOKEN = "a long secret"


@dataclass(frozen=True)
class Port:
    """Where it is served."""

    address: str

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        token: str | None = None,
        body: object = None,
        kind: str = "application/json",
    ) -> tuple[int, Any]:
        """The status and the answer: JSON as a value, all else as a text. Bytes are sent as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, method=method, data=data)
        if data is not None:
            request.add_header("Content-Type", kind)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            status, said, said_as = _told(request)
        except urllib.error.URLError as error:
            # the port refused the body while it was sent, and urllib does not read what it said
            if not isinstance(error.reason, BrokenPipeError):
                raise
            status, said, said_as = _told(request)
        return status, json.loads(said) if "json" in said_as else said.decode()


def _told(request: urllib.request.Request) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Type"]


def settings_of(folder: Path, redis_url: str, **web: str) -> Settings:
    """A configuration of one relation; ``web`` has the keys of its table."""
    return load(
        None,
        {
            "data_dir": str(folder),
            "relations": {"click": {}},
            "redis": {"url": redis_url, "namespace": "shop"},
            "web": {"listen": "127.0.0.1:0", **web},
        },
    )


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[Port]:
    """The port, from when it answers."""
    with WebProcess(settings):
        until(lambda: (told(settings.data_dir, "web") or {}).get("port"))
        found = told(settings.data_dir, "web")
        assert found is not None
        yield Port(f"http://{found['host']}:{found['port']}")


def updater_says(folder: Path, **changed: Any) -> None:
    """Write the status of an updater that runs and is well, but for what is changed; its worker is well."""
    told = updater_status(**changed)
    path = folder / "status" / "updater.json"
    write_json(path, told)
    beat(path, told["time_ms"])
    worker = {
        "pid": told["worker"].get("pid") or os.getpid(),
        "state": "running",
        "stage": None,
        "trouble": None,
    }
    worker |= dict.fromkeys(("fit", "serves", "operator", "refresh", "total", "left_s")) | {"done": 0}
    path = folder / "status" / "worker.json"
    worker |= json.loads(path.read_bytes()) if path.exists() else {"moved_ms": told["time_ms"]}
    write_json(path, {**worker, "time_ms": told["time_ms"]})


def updater_status(**changed: Any) -> Mapping[str, Any]:
    """The status of an updater that runs and is well, but for what is changed."""
    now_ms = SystemClock().now_ms()
    return {
        "pid": os.getpid(), "state": "running", "why": None, "kafka_away": False, "time_ms": now_ms,
        "watermark_ms": now_ms - 1_500, "lag": {"events[0]": 3, "events[1]": 4}, "lost": {},
        "poll_gap_max_ms": 52, "position": {"events[0]": 10, "events[1]": 20},
        "events": {
            "read": 30, "applied": 21, "late": 1, "rejected": 2, "duplicate": 3, "ignored": 1, "erased": 1,
            "forgotten": 1,
        },
        "ignored_tombstones": 0, "reasons": {"json": 2, "late": 1}, "warnings": [],
        "dead_letters": {"kept": 3, "waiting": 0, "failure": None, "forgotten": 0},
        "reading_paused": False, "lease": {"held": True, "epoch": 7, "failure": None},
        "checkpoint": {
            "number": 84, "time_ms": now_ms - 7_000, "took_ms": 248, "bytes": 77, "copied_bytes": 0,
            "failure": None, "age_ms": 7_000, "overdue": False, "reason": None,
        },
        "erasures": {"users": 0, "waiting": 0, "pending": 0, "failure": None},
        "deduplication": {"ids": 5, "bytes": 64, "horizon_ms": 86_400_000, "reach_ms": 1_000, "short": False},
        "window": {"click": 21}, "truncated": {"click": 0}, "capped": {"click": 0}, "expired": {"click": 9},
        "window_bytes": 4_096, "held_partitions": 1,
        "ids": {"user": 4, "item": 6},
        "worker": {"state": "running", "pid": 1, "starts": 1, "failures": 0, "why": None},
        "first_fit": None,
        "attributes": {"read": 9, "left_out": 0, "lag": {"items[0]": 5}, "position": {"items[0]": 9}},
        "delisted": {
            "topic": "gone", "items": 2, "left_over": 0, "read": 3, "left_out": 1, "lag": {"gone[0]": 0},
            "behind_ms": 90, "failure": None,
        },
        **changed,
    }  # fmt: skip
