"""``driftgraph run`` as its user has it: a process with a configuration, a folder and what it prints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis

from driftgraph.snapshots.generations.keys import Keys
from driftgraph.snapshots.reader import EmbeddingReader

CODE = "from driftgraph.app.cli.main import main; main()"
FAULTY = Path(__file__).with_name("faulty_run.py")
ENDS_WITHIN_S = 60.0
TASTED = 3_000  # clicks by taste that a first fit needs to be accepted, whatever their times


def until(what: str, is_true: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    """Look ten times a second until ``is_true`` says so; what it said."""
    end = time.monotonic() + timeout_s
    while not (said := is_true()):
        assert time.monotonic() < end, f"not in {timeout_s:g} s: {what}"
        time.sleep(0.1)
    return said


def configured(folder: Path, *, kafka: str, topic: str, redis: str, namespace: str = "shop") -> Path:
    """A configuration in which a fit is due after ``TASTED`` events, and no other until so many more came."""
    path = folder / "driftgraph.toml"
    path.write_text(
        f"""
        name = "{topic}"
        data_dir = "{folder / "var"}"
        [kafka]
        bootstrap_servers = "{kafka}"
        topic = "{topic}"
        [relations.click]
        [relations.favorite]
        [relations.purchase]
        [window]
        span = "10d"
        capacity = 65_536
        user_rows = 65_536
        item_rows = 65_536
        [time]
        out_of_orderness = "1s"
        idle_timeout = "1s"
        [fit]
        every = "3650d"
        events = {TASTED}
        [model]
        dim = 16
        device = "cpu"
        [redis]
        url = "{redis}"
        namespace = "{namespace}"
        """,
        encoding="utf-8",
    )
    return path


def two_tastes(count: int, last_ms: int) -> list[tuple[str, str, int]]:
    """Clicks (user, item, time) a millisecond apart, each of them by taste alone; the last is at ``last_ms``.

    For tests that wait for the model: the gate lets the first fit pass whose loss is not worse than
    popularity's, and here popularity knows nothing and a model half of what there is to know. Of clicks
    without a taste the gate refuses one set in twenty, and the next fit is due after minutes of event time.
    """
    rng = np.random.default_rng(0)
    user = rng.integers(0, 300, count)
    item = rng.integers(0, 20, count) * 2 + user % 2
    times = range(last_ms + 1 - count, last_ms + 1)
    return [(f"u{u}", f"i{i}", t) for u, i, t in zip(user.tolist(), item.tolist(), times, strict=True)]


def model_served(client: redis.Redis, namespace: str = "shop") -> int:
    """The number of the generation that is served, if the model made it; 0 before, when lists are served."""
    current = EmbeddingReader(client, namespace=namespace).current()
    made_by = client.hget(Keys(namespace).of(current, "manifest"), "made_by")
    return current if made_by == b"model" else 0


def run_to_its_end(config: Path) -> subprocess.CompletedProcess[str]:
    """Run an updater that is expected to give up."""
    return subprocess.run(
        [sys.executable, "-c", CODE, "run", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDS_WITHIN_S,
        cwd=config.parent,
    )


class RunningUpdater:
    """A process that runs until ``terminate``; killed at the end of the ``with`` block if it still does."""

    def __init__(self, config: Path, *, fault: str | None = None) -> None:
        self.config = config
        program = ["-c", CODE] if fault is None else [str(FAULTY)]
        self._folder = config.parent
        self._log = self._folder / "output.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=os.environ if fault is None else os.environ | {"FAULT": fault},
            )

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def status(self) -> dict[str, Any]:
        """What the status file says of this process; empty before it has written one."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output()}"
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = msgspec.json.decode(
                (self._folder / "var/status/updater.json").read_bytes()
            )
            return found if found["pid"] == self.process.pid else {}
        return {}

    def wait_for(self, what: str, is_true: Callable[[dict[str, Any]], Any], timeout_s: float = 90.0) -> None:
        """Wait until the status satisfies ``is_true``."""
        until(f"{what}; {self.output()}", lambda: (s := self.status()) and is_true(s), timeout_s)

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; the exit status and the seconds that it took."""
        begin = time.monotonic()
        self.process.terminate()
        return self.process.wait(30), time.monotonic() - begin

    def __enter__(self) -> RunningUpdater:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
