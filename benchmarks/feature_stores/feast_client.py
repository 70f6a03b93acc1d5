"""Asks Feast, which runs in a process and an environment of its own.

tests/snapshots/test_feast.py, publish_reads.py ──► [FeastClient] ──► feast_process.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from driftgraph.stream.addresses import public_url

PYTHON: Final = Path(sys.prefix) / "feast" / "bin" / "python"
PROCESS: Final = Path(__file__).with_name("feast_process.py")
MISSING: Final = f"no {PYTHON}: make bench installs it, from benchmarks/feast.txt"


class FeastError(RuntimeError):
    """Feast ended."""


class FeastClient:
    """A running Feast that reads a project from the Redis at ``url``; its start takes seconds."""

    def __init__(self, url: str, project: str) -> None:
        address = public_url(url).removeprefix("redis://").partition("/")[0]
        self._process = subprocess.Popen(
            [str(PYTHON), str(PROCESS), address, project],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        """The answer to a request of feast_process.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise FeastError(f"Feast ended with {self._process.wait()}; stderr says why")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
