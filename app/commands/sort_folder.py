"""The folder for the runs of a file that is being sorted.

data_dir ──► [folder_for_sorting] ──► FileOptions.sort_in
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder_for_sorting(data_dir: Path) -> Path:
    """A writable folder on the disk of ``data_dir``, else the system's folder for temporary files.

    No folder is made: the runs are files without a name, so if ``data_dir`` does not exist yet, the folder
    above it serves as well. If no folder can be written, only a file that must be sorted is refused.
    """
    near = next(folder for folder in (data_dir, *data_dir.absolute().parents) if folder.is_dir())
    if os.access(near, os.W_OK):
        return near
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return near
