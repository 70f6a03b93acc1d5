"""Whether the updater of a data_dir does its work: what a container's health check asks.

status files of the data_dir ──► [fault] ──► ``driftgraph status --check``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT_MS = 60_000  # an updater writes its status each second; a disk that is slow may hold it up


def fault(updater: Mapping[str, Any] | None, standby: Mapping[str, Any] | None, *, now_ms: int) -> str | None:
    """What is wrong with the updater, or None. One that waits as a standby does what it should.

    Args:
        updater: What it wrote of itself last, with the state "gone" if its process is; None if it never did.
        standby: The same of the process that waits, if there is one.
        now_ms: Wall time.
    """
    if standby is not None:
        return None
    if updater is None:
        return "no updater has run with this data_dir"
    if updater["state"] not in ("filling", "running"):
        why = updater.get("why")
        return f"the updater is {updater['state']}" + (f": {why}" if why else "")
    silent_ms = now_ms - updater["time_ms"]
    if silent_ms > SILENT_MS:
        return f"the updater has written no status for {silent_ms // 1_000} s"
    return None
