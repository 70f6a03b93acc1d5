"""Where ``replay --predictions`` may write: checked before anything is read, by ``validate`` too.

--predictions FILE ──► [check_predictions] ──► one sentence, or nothing
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftgraph.stream.addresses import looks_like_address
from driftgraph.stream.errors import DriftgraphError


def check_predictions(path: Path | None) -> None:
    """Refuse a place where no file could be made, without making one.

    Raises:
        DriftgraphError: It is a folder, or its folder is not there or cannot be written.
    """
    if path is None:
        return
    with predictions_told(path):
        if looks_like_address(str(path)):
            raise OSError(errno.EINVAL, "it is an address and no file of this machine")
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.parent
        if not folder.is_dir():
            code = errno.ENOTDIR if folder.exists() else errno.ENOENT
            raise OSError(code, os.strerror(code))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def predictions_told(path: Path) -> Iterator[None]:
    """Tell an error of the system in one sentence, without an address that may hold a secret."""
    try:
        yield
    except OSError as error:
        why, shown = error.strerror or error, "the place" if looks_like_address(str(path)) else path
        raise DriftgraphError(f"cannot write predictions to {shown}: {why}; name another place") from error
