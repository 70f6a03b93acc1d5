"""Status files: an updater, a standby and a worker write them, and other commands read them.

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
    """The last status of an updater or a standby. Its state is "gone" if its process has ended.

    The state is "unknown" if this user may not read the file.
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
    except PermissionError:  # the file belongs to another user
        pass
    return told


def write_json(path: Path, value: object) -> None:
    """Replace a small file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_whole(path, msgspec.json.encode(value), synced=False)
