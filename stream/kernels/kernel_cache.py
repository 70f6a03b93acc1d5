"""The folder in which compiled kernels are kept, so that only the first start of an installation compiles.

    compile: the first call of a kernel ──► [folder] ──► a folder that can be written, or None

A kept kernel is machine code that a later start runs. Beside the source it is as safe as the source. Every
other folder must belong to the user of this process, and nobody else may write it. Its parent may be shared,
as the temporary folder is.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
NAMED = "NUMBA_CACHE_DIR"  # numba's own variable, for a user who wants another folder

log = logging.getLogger(__name__)


class _Told:
    """The settings that a command gives before the first call of a kernel."""

    data_dir: Path | None = None
    is_child = False


def prefer(data_dir: Path, *, is_child: bool = False) -> None:
    """Name the data_dir of this process before the first call of a kernel. A later call changes nothing.

    Args:
        data_dir: Used if it exists; it is not made for this.
        is_child: The parent process has already said where kernels are kept, or that they are not.
    """
    _Told.data_dir, _Told.is_child = data_dir, is_child


@functools.cache
def folder() -> Path | None:
    """The folder that this process writes to; None if there is none, which is logged once.

    The path leads through an open file, so it stays the folder that was checked, whatever is renamed later.
    """
    tried = []
    for candidate in _candidates():
        own = candidate.parent == PACKAGE
        if (found := _writable(candidate) if own else _private(candidate)) is not None:
            log.debug("compiled kernels are kept in %s", candidate)
            return found
        tried.append(str(candidate))
    log.log(
        logging.DEBUG if _Told.is_child else logging.WARNING,
        "compiled kernels can be kept in none of %s, so every start compiles them again: "
        "give data_dir, or a folder named by %s, to uid %d, for writing by nobody else",
        ", ".join(tried),
        NAMED,
        os.geteuid(),
    )
    return None


def _candidates() -> Iterator[Path]:
    """The candidates, the best first. All but the package's own have the user's number in their name."""
    own = f"driftgraph-kernels-{os.geteuid()}"
    if named := os.environ.get(NAMED):
        yield Path(named) / own
    yield PACKAGE / "__pycache__"
    if (caches := _caches_of_user()) is not None:
        yield caches / own
    if _Told.data_dir is not None and _Told.data_dir.is_dir():
        yield _Told.data_dir.absolute() / own
    try:
        yield Path(tempfile.gettempdir()) / own
    except OSError:  # no temporary folder can be written
        return


def _caches_of_user() -> Path | None:
    """The cache folder by freedesktop.org's rules; None if the home is missing or another user's."""
    if os.path.isabs(named := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(named)
    home = os.path.expanduser("~")  # "~" itself for a user who has none
    try:
        is_ours = os.path.isabs(home) and os.stat(home).st_uid == os.geteuid()
    except OSError:
        return None
    return Path(home, ".cache") if is_ours else None


def _writable(folder: Path) -> Path | None:
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def _private(folder: Path) -> Path | None:
    """The folder through an open file of it, if no other user can write it. A missing folder is made."""
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    status = os.fstat(opened)
    shared = status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    found = None if shared else _writable(Path(f"/proc/self/fd/{opened}"))
    if found is None:
        os.close(opened)
    return found
