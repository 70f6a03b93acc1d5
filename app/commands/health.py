"""Whether the updater of a data_dir works: for the health check of a container.

status files of the data_dir ──► [fault] ──► ``driftgraph status --check``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT_MS = 60_000  # an updater writes its status each second; a slow disk may delay that


def fault(updater: Mapping[str, Any] | None, standby: Mapping[str, Any] | None, *, now_ms: int) -> str | None:
    """What is wrong with the updater, or None. A standby that waits is healthy.

    Args:
        updater: Its last status, with the state "gone" if its process has ended; None without a status.
        standby: The last status of the standby, if there is one.
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
