"""Status files: an updater, a standby and a worker write them, and other commands read them.

Updater, Standby, worker ──► [write_json] ──► data_dir/status/{who}.json ──► [told] ──► status, doctor, HTTP
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from driftgraph.stream import disk


def told(data_dir: Path, who: str) -> dict[str, Any] | None:
    """The last status of updater, worker, standby or start. Its state is "gone" if its process ended.

    The state is "unknown" if this user may not read the file. ``written_ms`` is the time of the file, which
    moves on with ``beat`` also where the disk is full.
    """
    path = data_dir / "status" / f"{who}.json"
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        told["written_ms"] = path.stat().st_mtime_ns // 1_000_000
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


def beat(path: Path, now_ms: int) -> None:
    """Say that the process of a status file lives, where the disk has no room for a new file."""
    with suppress(OSError):
        os.utime(path, ns=(now_ms * 1_000_000, now_ms * 1_000_000))
