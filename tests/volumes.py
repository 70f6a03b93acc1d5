"""Volumes that lack what a local disk has: the calls say what SMB, Azure Files, NFS, FUSE or FAT say."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NO_LINKS = (
    errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EROFS, errno.EACCES,
)  # fmt: skip


def refusing(code: int) -> Callable[..., Any]:
    """A call that fails so."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def without_links(patch: pytest.MonkeyPatch, code: int = errno.EPERM) -> None:
    patch.setattr(os, "link", refusing(code))


def without_folder_fsync(patch: pytest.MonkeyPatch, code: int = errno.EINVAL) -> None:
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    patch.setattr(os, "fsync", of_files)


def without_open_folders(patch: pytest.MonkeyPatch) -> None:
    """A folder cannot be opened to be synced."""
    opened = os.open

    def of_files(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if os.path.isdir(path) and not flags & os.O_DIRECTORY:
            raise OSError(errno.EACCES, "Permission denied")
        return opened(path, flags, *args, **more)

    patch.setattr(os, "open", of_files)


def without_replacing(patch: pytest.MonkeyPatch, code: int = errno.EEXIST) -> None:
    """A rename onto what is there fails, for files and folders."""
    rename = Path.rename

    def onto_nothing(self: Path, target: Path) -> Path:
        if Path(target).exists():
            raise OSError(code, os.strerror(code))
        return rename(self, target)

    patch.setattr(Path, "rename", onto_nothing)


def without_folder_renames(patch: pytest.MonkeyPatch, code: int = errno.EXDEV) -> None:
    rename = Path.rename

    def of_files(self: Path, target: Path) -> Path:
        if self.is_dir():
            raise OSError(code, os.strerror(code))
        return rename(self, target)

    patch.setattr(Path, "rename", of_files)


def without_locks(patch: pytest.MonkeyPatch, code: int = errno.ENOLCK) -> None:
    patch.setattr(fcntl, "flock", refusing(code))


def without_room(patch: pytest.MonkeyPatch, code: int = errno.EOPNOTSUPP) -> None:
    patch.setattr(os, "posix_fallocate", refusing(code))


def without_modes(patch: pytest.MonkeyPatch) -> None:
    for name in ("chmod", "fchmod", "chown"):
        patch.setattr(os, name, refusing(errno.EPERM))


def without_mapping(patch: pytest.MonkeyPatch, code: int = errno.ENODEV) -> None:
    patch.setattr(mmap, "mmap", refusing(code))


def poor(patch: pytest.MonkeyPatch) -> None:
    """All of it at once, but for mapping."""
    for lack in (
        without_links, without_folder_fsync, without_replacing, without_folder_renames, without_locks,
        without_room, without_modes,
    ):  # fmt: skip
        lack(patch)
