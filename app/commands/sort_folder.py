"""Where the runs of a file that is being sorted are written.

data_dir ──► [folder_for_sorting] ──► FileOptions.sort_in
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder_for_sorting(data_dir: Path) -> Path:
    """A folder on the disk of ``data_dir`` that can be written, else the system's for temporary files.

    Nothing is made: the runs are files without a name, so where ``data_dir`` is not there yet, the folder
    that it would be in does as well. If none can be written, only a file that must be sorted is refused.
    """
    near = next(folder for folder in (data_dir, *data_dir.absolute().parents) if folder.is_dir())
    if os.access(near, os.W_OK):
        return near
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return near
