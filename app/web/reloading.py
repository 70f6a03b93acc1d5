"""POST /api/reload: the updater reads its configuration again, and the answer says what came of it.

routes ──► Answers ──► [reload] ──► SIGHUP ──► updater ──► status/updater.json ──► the answer
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from driftgraph.app.console.status_files import told
from driftgraph.stream.errors import DriftgraphError

ANSWERS_WITHIN_S: Final = 10.0  # the updater looks for it at each poll, and writes its status then
LOOK_EVERY_S: Final = 0.05


class NotReloadedError(DriftgraphError):
    """The updater did not take the configuration over; the message says why."""


def reload(data_dir: Path, updater_pid: int) -> dict[str, Any]:
    """Ask, and wait for what comes of it.

    Raises:
        NotReloadedError: The updater refused, or does not work yet or any more.
    """
    before = told(data_dir, "updater") or {}
    if before.get("pid") != updater_pid or before["state"] not in ("filling", "running", "degraded"):
        raise NotReloadedError("the updater is starting or waits as a standby; it can be asked once it works")
    known = (before.get("reload") or {}).get("count", 0)
    os.kill(updater_pid, signal.SIGHUP)
    end_s = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < end_s:
        outcome = (told(data_dir, "updater") or {}).get("reload") or {}
        if outcome.get("count", 0) > known:
            if outcome["refused"]:
                raise NotReloadedError(outcome["refused"])
            return {"taken": outcome["taken"]}
        time.sleep(LOOK_EVERY_S)
    raise NotReloadedError(
        f"the updater did not answer within {ANSWERS_WITHIN_S:g} s; driftgraph status says what it is at"
    )
