"""Puts the reader's files of driftgraph into the wheel of driftgraph-reader, under another name.

    snapshots/reader.py and what it imports ──► [ReaderFiles] ──► driftgraph_reader/ in the wheel

Two distributions must not own the same files, so the package is called driftgraph_reader, and imports of
``driftgraph`` become imports of it.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "snapshots/__init__.py", "snapshots/answers.py", "snapshots/head_scores.py", "snapshots/reader.py",
    "snapshots/reading/*.py", "snapshots/generations/__init__.py", "snapshots/generations/keys.py",
    "snapshots/generations/servers/*.py",
    "snapshots/generations/vector_forms.py", "snapshots/generations/wire.py", "stream/__init__.py",
    "stream/addresses.py", "stream/arrays.py", "stream/errors.py",
)  # fmt: skip


class ReaderFiles(BuildHookInterface):
    """Called by hatchling before it writes the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files under their other name, and name them for the wheel."""
        self.folder = tempfile.TemporaryDirectory()
        package = Path(self.folder.name) / "driftgraph_reader"
        for pattern in FILES:
            for path in sorted(ROOT.glob(pattern)):
                self._write(path, package / path.relative_to(ROOT))
        self._write(ROOT / "snapshots/__init__.py", package / "__init__.py")
        (package / "py.typed").touch()
        (package / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())
        build_data["force_include"][str(package)] = "driftgraph_reader"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written."""
        self.folder.cleanup()

    def _write(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"\bdriftgraph\.(?=snapshots|stream)", "driftgraph_reader.", source.read_text("utf-8"))
        target.write_text(text, "utf-8")
