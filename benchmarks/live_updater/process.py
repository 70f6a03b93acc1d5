"""The updater as a process of its own: its configuration, its output, and what it says and serves.

[write_configuration] ──► [running] ──► status files, generations in Redis ──► a benchmark looks at them
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from driftgraph.snapshots.generations.keys import Keys

READERS = Path(__file__).with_name("readers.py")
SHARED_MEMORY = Path("/dev/shm")  # the window's place where a rate should not be that of a disk
CODE = "from driftgraph.app.cli.main import main; main()"
NAMESPACE = "benchmark"
KEYS = Keys(NAMESPACE)
READY_WITHIN_S = 900.0  # to the first model that is served
ENDS_WITHIN_S = 60.0


def write_configuration(
    folder: Path,
    *,
    kafka: str,
    topic: str,
    redis_url: str,
    relations: Sequence[str],
    span: str,
    capacity: int,
    more: str = "",
) -> Path:
    """Write ``driftgraph.toml`` into ``folder``; ``more`` is TOML of further tables."""
    path = folder / "driftgraph.toml"
    tables = "\n".join(f"[relations.{name}]" for name in relations)
    path.write_text(
        f"""
        name = "{topic}"
        data_dir = "{folder / "var"}"
        [kafka]
        bootstrap_servers = "{kafka}"
        topic = "{topic}"
        {tables}
        [window]
        span = "{span}"
        capacity = {capacity}
        user_rows = {1 << 17}
        item_rows = {1 << 17}
        [model]
        device = "cpu"
        [redis]
        url = "{redis_url}"
        namespace = "{NAMESPACE}"
        {more}
        """,
        encoding="utf-8",
    )
    return path


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``driftgraph run`` with a configuration; its output goes into ``output.log`` beside it."""
    with (config.parent / "output.log").open("wb") as log:
        command = [sys.executable, "-c", CODE, "run", "-c", str(config)]
        updater = subprocess.Popen(
            command, cwd=config.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield updater
        finally:
            updater.send_signal(signal.SIGTERM)
            updater.wait(ENDS_WITHIN_S)


def worker_status(folder: Path) -> dict[str, Any]:
    """What the worker says of itself; empty before it has."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads((folder / "var" / "status" / "worker.json").read_bytes())
    return found


def stage_of(told: dict[str, Any]) -> str:
    """The first word of what the worker was at: ``training``, ``publishing``, … or ``idle``."""
    return str(told.get("stage") or "idle").split()[0]


def served(client: redis.Redis) -> int:
    """The number of the generation that is served; 0 if there is none."""
    return int(client.hget(KEYS.current, "gen") or 0)


def is_of_model(client: redis.Redis, number: int) -> bool:
    """Whether a trained model made a generation, and not the lists that are served before there is one."""
    return client.hget(KEYS.of(number, "manifest"), "made_by") == b"model"


def no_model(folder: Path) -> str:
    """What to say when no model came: with the end of the updater's output."""
    said = (folder / "output.log").read_text(errors="replace")[-3_000:]
    return f"no model was served within {READY_WITHIN_S:g} s:\n{said}"
