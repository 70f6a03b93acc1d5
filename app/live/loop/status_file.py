"""The status file of a running updater: written each second, also where the disk is full.

Updater ──► [StatusFile.write] ──► data_dir/status/updater.json ──► driftgraph status, /readyz, /metrics
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from driftgraph.app.console.status_files import beat, write_json
from driftgraph.app.live import start_status
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.time.clock import Clock

log = logging.getLogger(__name__)


class StatusFile:
    """What an updater says of itself; the first time it takes the place of what the start said."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._data_dir, self._clock = data_dir, clock
        self._path = data_dir / "status" / "updater.json"
        self._is_new = True
        self._disk = OutageLog(log.warning)

    def write(self, state: str, why: str | None, told: Mapping[str, Any]) -> None:
        """Write a status. A disk that refuses is logged: only the time of the file moves on then."""
        now_ms = self._clock.now_ms()
        status = {"pid": os.getpid(), "state": state, "why": why, "time_ms": now_ms, **told}
        try:
            write_json(self._path, status)
        except OSError as error:  # the disk is full: ingestion goes on, and /livez sees it by the time
            self._disk.missing(f"{self._path} cannot be written: {error.strerror or error}")
            beat(self._path, now_ms)
            return
        self._disk.over("the status is written again")
        if self._is_new:
            start_status.over(self._data_dir)
            self._is_new = False
