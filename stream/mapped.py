"""Flat arrays that several processes share: sparse files mapped into memory, and what they hold.

A folder is opened by one writer, which makes it, and by any number of readers. Files are sparse, so that
capacity costs nothing until it is used.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from driftgraph.stream.errors import DriftgraphError

FORMAT = 2  # of the files; a reader refuses another
DESCRIPTION = "window.json"
LOCK = "writer.lock"


class WindowError(DriftgraphError):
    """A window that cannot be opened or written: says which, and what to do."""


class RelationDescription(msgspec.Struct, frozen=True):
    """A relation as written to disk."""

    name: str
    span_ms: int
    capacity: int


class Description(msgspec.Struct, frozen=True):
    """What a reader must know before it can map the files."""

    format: int
    relations: list[RelationDescription]
    rows: tuple[int, int]


class WindowInUseError(WindowError):
    """Another process writes this window."""


def claim(directory: Path) -> int:
    """Make this process the one writer of a folder, until what is returned is closed or the process ends.

    Raises:
        WindowInUseError: Another process is; says which.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WindowError(f"cannot write to {directory}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it with the process
    except BlockingIOError as error:
        owner = os.read(descriptor, 32).decode().strip() or "unknown"
        os.close(descriptor)
        raise WindowInUseError(
            f"the window in {directory} is written by the process with pid {owner}; "
            "stop it, or give this one another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the arrays lie; without a path, in memory that only this process sees."""

    path: Path | None
    writable: bool = False

    def array(self, name: str, length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Make (all zeros) or open one flat array.

        Raises:
            WindowError: The file cannot be made, or is not there or not as long as it has to be.
        """
        if self.path is None:
            return np.zeros(length, dtype)
        path, size = self.path / name, length * np.dtype(dtype).itemsize
        try:
            if self.writable:
                self.path.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a reader of the window before keeps its own file
                with path.open("wb") as file:
                    file.truncate(size)
                return np.asarray(np.memmap(path, dtype, "r+", shape=(length,)))
            found = path.stat().st_size
            if found != size:
                raise WindowError(f"{path} has {found} bytes, expected {size}; remove the folder and restart")
            return np.asarray(np.memmap(path, dtype, "r"))
        except OSError as error:
            raise WindowError(f"cannot map {path} ({size} bytes): {error.strerror or error}") from error


def write_description(directory: Path, description: Description) -> None:
    """Write it whole under a temporary name, then rename."""
    partial = directory / f"{DESCRIPTION}.new"
    partial.write_bytes(msgspec.json.encode(description))
    partial.rename(directory / DESCRIPTION)


def read_description(directory: Path) -> Description:
    """Read what the writer published.

    Raises:
        WindowError: There is no window, or it is not one of this version.
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
