"""Where a process and its children write what is no data: compiled kernels and temporary files.

a command, the worker ──► [settle] ──► kernel_cache, tempfile
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from driftgraph.stream.kernels import kernel_cache


def settle(data_dir: Path, *, is_child: bool = False) -> None:
    """Fall back on the data_dir, if it is there: a read-only root file system may have no other folder.

    torch makes a temporary folder when it is imported.
    """
    kernel_cache.prefer(data_dir, is_child=is_child)
    try:
        tempfile.gettempdir()
    except OSError:
        folder = data_dir.absolute() / "tmp"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return  # whoever needs one says so
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
