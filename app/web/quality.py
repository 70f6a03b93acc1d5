"""The quality of every generation that was served here, also of those that Redis keeps no more.

Generation ──► [QualityHistory] ──► data_dir/status/quality.json ──► GET /api/quality, the page
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from driftgraph.app.console.scorers import measured
from driftgraph.app.console.status_files import write_json
from driftgraph.snapshots.generations.retention import Generation

KEPT: Final = 500  # generations


class QualityHistory:
    """The newest ``KEPT`` generations by number, in a file that a new process goes on with.

    A namespace that starts anew begins with generation 1 again: then later numbers are forgotten.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "status" / "quality.json"
        self._rows = {row["generation"]: row for row in _saved(self._path)}

    def rows(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return [self._rows[number] for number in sorted(self._rows)]

    def saw(self, generations: Iterable[Generation]) -> None:
        """Keep what the manifests say.

        Raises:
            OSError: The file cannot be written; the rows are kept in memory.
        """
        found = {one.number: row_of(one.number, one.manifest) for one in generations}
        if not found or all(self._rows.get(number) == row for number, row in found.items()):
            return
        newest = max(found)
        if any(_is_another(self._rows.get(number), row) for number, row in found.items()):
            self._rows.clear()
        rows = {**{n: row for n, row in self._rows.items() if n <= newest}, **found}
        self._rows = {number: rows[number] for number in sorted(rows)[-KEPT:]}
        write_json(self._path, self.rows())


def row_of(number: int, manifest: Mapping[str, str]) -> dict[str, Any]:
    """One generation: Recall@20 of every scorer that was measured, and the share of each part of a score."""
    metrics = json.loads(manifest.get("metrics", "{}"))
    recall = {scorer: value for scorer in metrics if (value := measured(metrics, scorer)) is not None}
    return {
        "generation": number,
        "model_version": int(manifest.get("model_version", 0)),
        "published_ms": int(manifest.get("published_ms", 0)),
        "evaluated_events": int(manifest.get("evaluated_events", 0)),
        "recall_at_20": recall,
        "shares": json.loads(manifest.get("shares", "{}")),
    }


def _is_another(known: Mapping[str, Any] | None, found: Mapping[str, Any]) -> bool:
    """Whether the number was used before by a generation that was published at another time."""
    return known is not None and known["published_ms"] != found["published_ms"]


def _saved(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # the first start, or a file that was cut off: the page has it from Redis
        return []
    return rows
