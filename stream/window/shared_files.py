"""Flat arrays that several processes share: sparse files mapped into memory, and their description.

One writer makes a folder, and any number of readers open it. The files are sparse, so capacity costs nothing
until it is used. The system kills a process, reader or writer, that touches a page for which the disk has no
room (SIGBUS). So the writer asks for disk space before it uses it (``Room``), and readers read only memory
that is in use.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from driftgraph.stream import disk
from driftgraph.stream.errors import DriftgraphError

FORMAT = 3  # of the files; a reader refuses another
DESCRIPTION = "window.json"
LOCK = "writer.lock"
ANEW = -1  # in a life: none of the numbers that it gave a relation is the window's
ROOM_STEP_MIN, ROOM_STEP_MAX = 1 << 16, 4 << 20  # bytes of a file asked for at once: a millisecond at most


class WindowError(DriftgraphError):
    """A window cannot be opened or written. The message says which one, and what to do."""


class RelationDescription(msgspec.Struct, frozen=True):
    """A relation as written to disk."""

    name: str
    span_ms: int
    capacity: int
    is_edge: bool = True


class Life(msgspec.Struct, frozen=True):
    """A process that wrote a window before another one continued it from a checkpoint.

    Below ``until``, one number for each relation, its sequence numbers are those of this window. ``ANEW``
    says that the relation's numbers began again since. None says that the process still writes the window.
    """

    id: str
    until: tuple[int, ...] | None = None


class Description(msgspec.Struct, frozen=True):
    """What a reader must know before it can map the files."""

    format: int
    relations: list[RelationDescription]
    rows: tuple[int, int]
    history: tuple[Life, ...] = ()  # oldest first; empty: nobody keeps this window


class WindowInUseError(WindowError):
    """Another process writes this window."""


def claim(directory: Path) -> Callable[[], None]:
    """Make this process the one writer of a folder, until it ends or calls the returned function.

    Raises:
        WindowInUseError: Another process is the writer; the message says which.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WindowError(f"cannot write to {directory}: {error.strerror or error}") from error
    try:
        held = disk.lock(descriptor, directory / LOCK)
    except BlockingIOError as error:
        owner = os.read(descriptor, 32).decode().strip() or "unknown"
        os.close(descriptor)
        raise WindowInUseError(
            f"the window in {directory} is written by the process with pid {owner}; "
            "stop it, or give this one another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())

    def let_go() -> None:
        held.close()
        os.close(descriptor)

    return let_go


class Room:
    """Disk space for a part of a sparse file. The writer gets it in steps, before it writes.

    Always true: the first ``size`` bytes from ``start`` on can be written.
    """

    def __init__(self, path: Path | None, start: int, limit: int) -> None:
        self.size = 0
        self._path = path  # None: private memory, for which the system provides
        self._start, self._limit = start, limit

    def provide(self, size: int) -> None:
        """Make sure that the first ``size`` bytes can be written. O(1) if they can already.

        Raises:
            WindowError: The disk is full; nothing has changed.
        """
        if size <= self.size:
            return
        if self._path is not None:
            ahead = min(max(self.size // 8, ROOM_STEP_MIN), ROOM_STEP_MAX)
            step = min(max(size, self.size + ahead), self._limit) - self.size
            try:
                with self._path.open("r+b") as file:
                    disk.make_room(file.fileno(), self._start + self.size, step)
            except OSError as error:
                raise WindowError(
                    f"no room for {step} more bytes of {self._path} ({error.strerror or error}): "
                    "free some, or set window.dir to a larger disk"
                ) from error
            self.size += step
        else:
            self.size = self._limit


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of the arrays. Without a path they are in memory that only this process sees."""

    path: Path | None
    writable: bool = False

    def array(self, name: str, length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Make (all zeros) or open one flat array.

        Raises:
            WindowError: The file cannot be made, is missing, or has another length.
        """
        if self.path is None:
            return np.zeros(length, dtype)
        path, size = self.path / name, length * np.dtype(dtype).itemsize
        try:
            if self.writable:
                self.path.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a reader of the previous window keeps its own file
                with path.open("wb") as file:
                    file.truncate(size)
                return np.asarray(np.memmap(path, dtype, "r+", shape=(length,)))
            found = path.stat().st_size
            if found != size:
                raise WindowError(f"{path} has {found} bytes, expected {size}; remove the folder and restart")
            return np.asarray(np.memmap(path, dtype, "r"))
        except (
            OSError,
            ValueError,
        ) as error:  # mmap of a file that a volume has made shorter is a ValueError
            raise WindowError(
                f"cannot map {path} ({size} bytes) into memory: {_reason(error)}; "
                "set window.dir to a folder of a local disk, or of memory such as /dev/shm/driftgraph"
            ) from error

    def allocated_bytes(self) -> int:
        """What its files take of the volume, which is less than their length; 0 in private memory."""
        if self.path is None:
            return 0
        return sum(512 * one.stat().st_blocks for one in os.scandir(self.path) if one.is_file())

    def room(self, name: str, start: int, limit: int) -> Room:
        """Disk space for ``limit`` bytes of an array that was made here, from byte ``start`` on."""
        return Room(None if self.path is None else self.path / name, start, limit)


def _reason(error: OSError | ValueError) -> str:
    """Why a file cannot be mapped. The errors of a volume that does not allow it do not name that cause."""
    if isinstance(error, OSError) and error.errno in (errno.ENODEV, errno.EINVAL, errno.ENOSYS):
        return f"its volume does not allow it ({error.strerror})"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def write_description(directory: Path, description: Description) -> None:
    """Write the description whole. A crash of the machine may cost it: a start makes the window anew."""
    disk.write_whole(directory / DESCRIPTION, msgspec.json.encode(description), synced=False)


def read_description(directory: Path) -> Description:
    """Read the description that the writer published.

    Raises:
        WindowError: There is no window, or another version wrote it.
    """
    path = directory / DESCRIPTION
    try:
        description = msgspec.json.decode(path.read_bytes(), type=Description)
    except FileNotFoundError as error:
        raise WindowError(f"no window in {directory}: is the updater running with this data_dir?") from error
    except (OSError, msgspec.DecodeError) as error:
        raise WindowError(
            f"{path} is not a window description ({error}); remove the folder and restart"
        ) from error
    if description.format != FORMAT:
        raise WindowError(f"{path} has format {description.format}, this version reads {FORMAT}")
    return description
