"""The folders for compiled kernels and temporary files of a process and its children.

a command, the worker ──► [settle] ──► kernel_cache, tempfile
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from driftgraph.stream.kernels import kernel_cache


def settle(data_dir: Path, *, is_child: bool = False) -> None:
    """Fall back on the data_dir, if it exists: with a read-only root there may be no other writable folder.

    Importing torch already makes a temporary folder.
    """
    kernel_cache.prefer(data_dir, is_child=is_child)
    try:
        tempfile.gettempdir()
    except OSError:
        folder = data_dir.absolute() / "tmp"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return  # the part that needs a folder raises the error
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
