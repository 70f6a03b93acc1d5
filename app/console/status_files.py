"""What an updater, or one that waits, said of itself last: read by the commands that run beside it.

Updater, Standby, worker ──► [write_json] ──► data_dir/status/{who}.json ──► [told] ──► status, doctor
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from driftgraph.stream import disk


def told(data_dir: Path, who: str) -> dict[str, Any] | None:
    """What the updater, or one that waits, said of itself last; its state is "gone" if the process is.

    Its state is "unknown" if this user may not read what it said.
    """
    path = data_dir / "status" / f"{who}.json"
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except PermissionError as error:
        return {"state": "unknown", "pid": None, "why": f"{path}: {error.strerror}"}
    except (OSError, ValueError):
        return None
    try:
        os.kill(told["pid"], 0)
    except ProcessLookupError:
        told["state"] = told["state"] if told["state"] in ("stopped", "failed") else "gone"
    except PermissionError:  # it is there, and another user's
        pass
    return told


def write_json(path: Path, value: object) -> None:
    """Replace a small file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_whole(path, msgspec.json.encode(value), synced=False)
