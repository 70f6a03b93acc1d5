"""The status of a process that starts, until it works as an updater, and the reason if the start fails.

driftgraph run ──► [starting] ──► data_dir/status/start.json ──► troubles ──► /readyz, status

The file is there from the first line of ``run`` until the updater writes its own status.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from driftgraph.app.console.status_files import told, write_json
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.time.clock import Clock


@contextmanager
def starting(data_dir: Path, clock: Clock) -> Iterator[None]:
    """Say that this process starts, and why it could not if it raises an error that is meant to be read."""
    _tell(data_dir, clock, "starting", None)
    try:
        yield
    except (DriftgraphError, OSError) as error:
        if _is_ours(data_dir):
            _tell(data_dir, clock, "failed", " ".join(str(error).split()))
        raise
    finally:
        if _is_ours(data_dir, "starting"):  # it was stopped, or a fault of ours has a file for its traceback
            over(data_dir)


def over(data_dir: Path) -> None:
    """The updater works, and says so itself."""
    _path(data_dir).unlink(missing_ok=True)


def _is_ours(data_dir: Path, *states: str) -> bool:
    """Whether the file is of this process; another start may have written its own since."""
    told_ = told(data_dir, "start")
    return told_ is not None and told_["pid"] == os.getpid() and (not states or told_["state"] in states)


def _path(data_dir: Path) -> Path:
    return data_dir / "status" / "start.json"


def _tell(data_dir: Path, clock: Clock, state: str, why: str | None) -> None:
    with suppress(OSError):  # the error that follows says what is wrong with the folder
        write_json(
            _path(data_dir), {"pid": os.getpid(), "state": state, "why": why, "time_ms": clock.now_ms()}
        )
