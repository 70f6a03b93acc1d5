"""The files of erasures: a permanent list of hashes, and pending files that name users.

    Ingest ──► [DurableErasures] ──► [ErasureList] ──► key, list      read again at each start and by replay
                                └──► [PendingErasures] ──► 000000000017.redis, .letters ──► worker

A request is safe when its pending files and its entry in the list are on the disk, in this order, so that the
worker gets each request that is in the list. No position may pass a request that is not safe.

Layout of ``list``, which only grows; each entry is 36 bytes, little-endian:
  1. 16 bytes: SipHash-2-4 of the user id under ``key``;
  2. 16 bytes: two times in ms: of the request, and the event time up to which the erasure reaches;
  3. 4 bytes: CRC-32 of the 32 before.

Only the owner may read the files (0600). An entry that a crash cut off is removed with a warning; a wrong
entry with good ones behind it stops the start.
"""

from __future__ import annotations

import logging
import os
import secrets
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from driftgraph.stream import disk
from driftgraph.stream.arrays import I64, U64
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Strings
from driftgraph.stream.ingest.erased_users import KEY_BYTES, ErasedUsers
from driftgraph.stream.ingest.erasures import MemoryErasures, UsersOf
from driftgraph.stream.safe_queue import SafeQueue

ENTRY: Final = np.dtype([("hash", "<u8", 2), ("times_ms", "<i8", 2), ("crc", "<u4")])
PRIVATE: Final = 0o600  # for the owner alone
REDIS, LETTERS, HELD = ".redis", ".letters", ".held"  # what a pending file is about

WAITING_MAX: Final = 100_000  # requests that wait; then no more events are read

log = logging.getLogger(__name__)


class ErasureError(DriftgraphError):
    """The erasure list cannot be read, or is damaged."""


class ErasureList:
    """The list of one data_dir."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._key_path = folder / "list", folder / "key"

    def load(self) -> ErasedUsers:
        """The users on the list, for the updater. Makes the key, mends the end, keeps a user once.

        Raises:
            ErasureError: If the folder cannot be written, or the list is damaged or without its key.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unnamed = self._path.with_name(f"{self._path.name}{disk.UNNAMED}")
            if unnamed.exists() and not self._path.exists():  # a crash where a rename has two steps
                unnamed.rename(self._path)
            if not self._key_path.exists() and not self._path.exists():
                disk.write_whole(self._key_path, secrets.token_bytes(KEY_BYTES), mode=PRIVATE)
            users, size, count = self._read()
            if size != count * ENTRY.itemsize or count != len(users):
                disk.write_whole(self._path, _entries(*users.all()), mode=PRIVATE)
        except OSError as error:
            raise ErasureError(
                f"the erasure list in {self._folder} cannot be read or written: {error.strerror or error}; "
                "nobody may come back, so nothing starts without it"
            ) from error
        return users

    def read(self) -> ErasedUsers | None:
        """The users on the list, for a process that only reads; None if there is no list.

        Raises:
            ErasureError: As ``load``.
        """
        try:
            return self._read()[0] if self._path.exists() else None
        except OSError as error:
            raise ErasureError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def append(self, hashes: U64, times_ms: I64) -> None:
        """Add N entries and fsync them. No part of them stays if that fails.

        Raises:
            OSError: The disk refuses.
        """
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            size = os.fstat(descriptor).st_size // ENTRY.itemsize * ENTRY.itemsize
            os.ftruncate(descriptor, size)  # removes part of an entry that a failed append has left
            try:
                left = memoryview(_entries(hashes, times_ms))
                while left:
                    left = left[os.write(descriptor, left) :]
                disk.sync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
            if size == 0:
                disk.sync_folder(self._folder)
        finally:
            os.close(descriptor)

    def _read(self) -> tuple[ErasedUsers, int, int]:
        """(users, bytes of the file, good entries)."""
        try:
            users = ErasedUsers(self._key_path.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise ErasureError(
                f"{self._key_path} is missing or damaged, so nobody knows who is on the list beside it; "
                "restore both from a backup"
            ) from error
        data = self._path.read_bytes() if self._path.exists() else b""
        entries = np.frombuffer(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
        good = np.array([_crc(entry.tobytes()) == entry["crc"] for entry in entries], np.bool_)
        count = len(entries) if good.all() else int(np.argmin(good))
        if good[count:].any():
            raise ErasureError(
                f"{self._path} is damaged at byte {count * ENTRY.itemsize}, with good entries behind it; "
                "restore it from a backup"
            )
        if count * ENTRY.itemsize != len(data):
            log.warning("%s: the end, cut off at byte %d, is left out", self._path, count * ENTRY.itemsize)
        users.add(entries["hash"][:count], np.ascontiguousarray(entries["times_ms"][:count]))
        return users, len(data), count


class PendingErasures:
    """Files with the ids of users that are yet to be erased elsewhere: one for each batch and place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 1

    def begin(self) -> None:
        """Begin writing, behind the files that an earlier process has left."""
        for path in self._folder.glob(f"*{disk.UNNAMED}"):
            path.unlink()
        names = [path.stem for path in self._folder.iterdir() if path.stem.isdecimal()]
        self._next = max(map(int, names), default=0) + 1
        for path in self._folder.glob(f"*{HELD}"):
            self.release(path)  # the letters that waited in its memory are gone; their events are read again

    def write(self, users: list[str]) -> Path:
        """Write the two files of a batch. The one about letters is held until ``release``.

        Raises:
            OSError: The disk refuses.
        """
        name = f"{self._next:012}"
        data = msgspec.json.encode(list(dict.fromkeys(users)))
        for kind in (REDIS, HELD):
            disk.write_whole(self._folder / (name + kind), data, mode=PRIVATE)
        self._next += 1
        return self._folder / (name + HELD)

    def drop(self, held: Path) -> None:
        """Remove those files of a batch that exist."""
        for kind in (REDIS, HELD):
            with suppress(OSError):
                held.with_suffix(kind).unlink()

    def release(self, held: Path) -> None:
        """Let the worker have a file about letters: the letters before the request are safe."""
        with suppress(FileNotFoundError):  # it was released before
            disk.replace(held, held.with_suffix(LETTERS))

    def count(self) -> int:
        """How many files are not done."""
        return sum(path.stem.isdecimal() for path in self._folder.iterdir())

    def waiting(self, kind: str) -> list[tuple[Path, list[str]]]:
        """The users that are to be erased from one place, oldest first."""
        found = sorted(self._folder.glob(f"*{kind}")) if self._folder.is_dir() else []
        waiting = []
        for path in found:
            with suppress(FileNotFoundError):  # the file was done or dropped meanwhile
                waiting.append((path, msgspec.json.decode(path.read_bytes(), type=list[str])))
        return waiting


@dataclass(frozen=True, slots=True)
class _Request:
    user: str
    asked_ms: int
    reach_ms: int
    letters: int  # how many letters were put before it


class DurableErasures(MemoryErasures):
    """Requests of a live updater, in files of ``folder``, which the thread of ``queue`` writes.

    Args:
        folder: The folder of the list, its key and the pending files.
        users_of: The users of the event in a letter.
        letters: How many letters were put and how many are safe. The worker searches the letters for an
            erased user once those that were put before the request are safe.

    Raises:
        DriftgraphError: If the list cannot be read or written.
    """

    def __init__(self, folder: Path, users_of: UsersOf, letters: Callable[[], tuple[int, int]]) -> None:
        self._list = ErasureList(folder)
        super().__init__(self._list.load(), users_of)
        self._pending = PendingErasures(folder)
        self._pending.begin()
        self._letters = letters
        self._held: deque[tuple[int, Path]] = deque()  # files about letters, until so many are safe
        self._held_back: str | None = None  # why the last release failed
        self.queue = SafeQueue(
            "requests to erase", self._make_safe, count_max=WAITING_MAX, tend=self._release
        )

    def put(self, user: str, asked_ms: int, reach_ms: int) -> None:
        """Take one request."""
        self.users.add(self.users.hashes(Strings.of([user])), np.array([[asked_ms, reach_ms]]))
        self.queue.put(_Request(user, asked_ms, reach_ms, self._letters()[0]))

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "users": len(self.users),
            "waiting": self.queue.waiting,
            "pending": self._pending.count(),
            "failure": self.queue.failure or self._held_back,
        }

    def close(self) -> None:
        """See ``SafeQueue.close``. The next start releases the files that are held."""
        self.queue.close()

    def _make_safe(self, batch: list[_Request]) -> None:
        """Make a batch safe: 1. its pending files, 2. the list. No part of it stays if that fails."""
        users = [request.user for request in batch]
        held = self._pending.write(users)
        try:
            self._list.append(
                self.users.hashes(Strings.of(users)),
                np.array([(request.asked_ms, request.reach_ms) for request in batch]),
            )
        except Exception:
            self._pending.drop(held)  # the next try writes another
            raise
        self._held.append((batch[-1].letters, held))

    def _release(self) -> bool:
        """Release the files about letters whose earlier letters are all safe.

        Returns:
            Whether files are still held.
        """
        while self._held and self._letters()[1] >= self._held[0][0]:
            try:
                self._pending.release(self._held[0][1])
            except OSError as error:  # the next call tries again: the thread must go on
                self._held_back = str(error)
                return True
            self._held.popleft()
        self._held_back = None
        return bool(self._held)


def _entries(hashes: U64, times_ms: I64) -> bytes:
    entries = np.zeros(len(hashes), ENTRY)
    entries["hash"], entries["times_ms"] = hashes, times_ms
    entries["crc"] = [_crc(entry.tobytes()) for entry in entries]
    return entries.tobytes()


def _crc(entry: bytes) -> int:
    return zlib.crc32(entry[: ENTRY.fields["crc"][1]] if ENTRY.fields else entry)
