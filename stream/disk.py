"""Writes files whole or not at all, also on volumes that lack links, locks, renames in place or fsync.

    checkpoints, erasures, dead letters, window, status ──► [written_whole, link_or_copy, lock, …] ──► volume

SMB, Azure Files, NFS, FUSE and FAT lack some of what a local disk has. Where another way has the same result,
the functions here take it; where there is none, as on a full disk, they raise the volume's error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

# errors where a volume lacks an operation; FUSE and SMB return any of them
_MISSING: Final = frozenset(
    {
        errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV,
        errno.EMLINK, errno.ENODEV, errno.ENOTTY, errno.ENOLCK, errno.EBADF, errno.EISDIR,
    }
)  # fmt: skip
_BROKEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})  # another way would fail, too
UNNAMED: Final = ".new"  # suffix of a file that is written and not yet renamed
_ZEROS: Final = bytes(1 << 20)
_LOCK_LOOK_S: Final = 0.02


def remedy(error: OSError, elsewhere: str) -> str:
    """What to do about a folder that cannot be written; ``elsewhere`` is how to name another one."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free some space, or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"let this process's user write there, or {elsewhere}"
    return f"look at the disk, or {elsewhere}"


def link_or_copy(source: Path, target: Path) -> bool:
    """Give a file a second name, or make a copy where the volume has no (more) hard links.

    Returns:
        Whether it is a link. If not, the copy was fsynced.

    Raises:
        OSError: If the volume is full, or the file cannot be read or written.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _BROKEN:
            raise
    else:
        return True
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        sync(file.fileno())
    return False


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder, and replace the one that had the name.

    The rename is atomic where the volume can do that. Where a rename onto an existing file fails, that file
    is removed first. Where folders cannot be renamed, their files are moved one by one, by name and
    ``*.json`` last.

    Raises:
        OSError: If the volume refuses both ways.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in _MISSING | {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        if source.is_dir():
            _move_files(source, target)
        elif target.exists():
            target.unlink()
            source.rename(target)
        else:
            raise


def sync(descriptor: int) -> None:
    """Fsync an open file or folder, if the volume has fsync.

    Raises:
        OSError: The disk is full or broken.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _MISSING:
            raise


def sync_folder(folder: Path) -> None:
    """Fsync the names in a folder, if the volume has fsync.

    Raises:
        OSError: The disk is full or broken, or there is no such folder.
    """
    with _opened(folder) as descriptor:
        if descriptor is not None:
            sync(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and bring it to the disk. It is for a folder that is renamed as a whole."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        sync(file.fileno())


@contextmanager
def written_whole(path: Path, *, mode: int = 0o666, synced: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that gets its name when it is complete; until then the one of before is there.

    The order, which makes a crash at any point leave a whole file, the old or the new one:
      1. the body of ``with`` writes ``{name}.new``;
      2. fsync it;
      3. rename it to ``{name}``;
      4. fsync the folder.
    If one of them fails, ``{name}.new`` is removed, unless it is all that is left: see ``replace``.

    Args:
        path: The file; its folder exists.
        mode: Who may read it, before the umask.
        synced: False leaves out the steps 2 and 4, for what is worth nothing after a crash of the machine.

    Raises:
        OSError: The volume refuses.
    """
    unnamed = path.with_name(f"{path.name}{UNNAMED}")
    complete = False
    try:
        with open(os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            yield file
            file.flush()
            if synced:
                sync(file.fileno())
        complete = True
        replace(unnamed, path)
    except BaseException:
        if not complete or path.exists():
            with suppress(OSError):
                unnamed.unlink(missing_ok=True)
        raise
    if synced:
        sync_folder(path.parent)


def write_whole(path: Path, data: bytes, *, mode: int = 0o666, synced: bool = True) -> None:
    """See ``written_whole``."""
    with written_whole(path, mode=mode, synced=synced) as file:
        file.write(data)


def make_room(descriptor: int, start: int, size: int) -> None:
    """Make sure that ``size`` bytes of a sparse file can be written. They are zeros that no reader uses yet.

    Raises:
        OSError: If the volume is full.
    """
    try:
        os.posix_fallocate(descriptor, start, size)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    else:
        return
    end = start + size
    while start < end:
        start += os.pwrite(descriptor, _ZEROS[: end - start], start)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that the kernel releases when the process ends. ``close`` releases it earlier.

    Always true: while it is held, no other process of this machine gets it; with ``by_volume`` no process of
    any other machine that uses the volume, either.
    """

    by_volume: bool
    socket: socket.socket | None = None

    def close(self) -> None:
        """Release the socket of the lock, if it has one. Closing the file releases a lock of the volume."""
        if self.socket is not None:
            self.socket.close()


def lock(descriptor: int | None, path: Path, *, wait: bool = False) -> Lock:
    """Lock the file or folder at ``path``, which is open.

    Where the volume has no locks, the name of a socket is the lock. Only processes of the same machine (the
    same network namespace) see it, so ``by_volume`` is False.

    Raises:
        BlockingIOError: If another process has it, and ``wait`` is False.
    """
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return Lock(by_volume=True)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    name = f"\0driftgraph {hashlib.sha256(os.path.realpath(path).encode()).hexdigest()}"
    while True:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(name)
        except OSError as error:
            held.close()
            if error.errno != errno.EADDRINUSE:
                raise
            if not wait:
                raise BlockingIOError(errno.EAGAIN, f"{path} is locked by another process") from None
            time.sleep(_LOCK_LOOK_S)
        else:
            return Lock(by_volume=False, socket=held)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder; the others wait."""
    with _opened(folder) as descriptor:
        held = lock(descriptor, folder, wait=True)
        try:
            yield
        finally:
            held.close()


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A folder, open for reading; None where the volume does not open folders."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _move_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda one: (one.suffix == ".json", one.name)):
        path.rename(target / path.name)
    sync_folder(target)
    source.rmdir()
