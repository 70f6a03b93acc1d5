"""Erasure beyond the window: what ingestion is told of requests, and what it tells of them.

    Ingest ──► [Erasures.reach] ──► events of before a request are not applied
       └─────► [Erasures.put]   ──► durable list, pending files ──► worker: Redis, checkpoints, dead letters

A request is safe when its pending files and its entry in the list are on the disk, in this order: a request
that the list knows was handed on. No position may pass one that is not safe.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from driftgraph.snapshots.erasures import ErasureList, PendingErasures
from driftgraph.stream.events import EventBatch, Rejected, Strings
from driftgraph.stream.formats.record_keys import sole_value
from driftgraph.stream.ingest.erased_users import ASKED, KEY_BYTES, ErasedUsers

Mask = npt.NDArray[np.bool_]
UsersOf = Callable[[Rejected], Collection[str]]  # whose event a dead letter is, as far as it can be read

WAITING_MAX: Final = 100_000  # requests that are not safe; then no more events are read
RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0)  # pauses while the disk refuses; the last one repeats
LETTERS_LOOK_S: Final = 0.05  # how often the letters of before a request are looked for
CLOSE_WITHIN_S: Final = 3.0

log = logging.getLogger(__name__)


class Erasures(Protocol):
    """What ingestion needs to know of requests to erase."""

    def reach(self, batch: EventBatch) -> Mask:
        """[N] which events are of an erased user and of before the request, so that they are not applied."""
        ...

    def knows(self, user: str, time_ms: int) -> bool:
        """Whether this request was taken, or a later one."""
        ...

    def cover(self, rejected: Rejected) -> bool:
        """Whether this letter is of an erased user and of before the request, so that it is not kept."""
        ...

    def put(self, user: str, asked_ms: int, reach_ms: int) -> None:
        """Take a request that was not known, once the window has done it."""
        ...


def key_users(rejected: Rejected) -> Collection[str]:
    """The record's key, as the user that it names: as it stands there, and as what it says in JSON."""
    if not rejected.key:
        return []
    value = sole_value(rejected.key)
    return {rejected.key.decode(errors="replace"), *([str(value)] if isinstance(value, str | int) else [])}


class MemoryErasures:
    """Requests of this process alone, beside those of a list: for replays, and where nothing is to stay."""

    def __init__(self, users: ErasedUsers | None = None, users_of: UsersOf = key_users) -> None:
        self.users = ErasedUsers(secrets.token_bytes(KEY_BYTES)) if users is None else users
        self._users_of = users_of
        self._asked: list[str] = []

    def reach(self, batch: EventBatch) -> Mask:
        """See the protocol. Free while nobody was ever erased."""
        if not len(self.users):
            return np.zeros(len(batch), np.bool_)
        return batch.time_ms <= self.users.reach_ms(batch.user)

    def knows(self, user: str, time_ms: int) -> bool:
        """See the protocol."""
        return bool(self.users.times_ms(Strings.of([user]))[0, ASKED] >= time_ms)

    def cover(self, rejected: Rejected) -> bool:
        """See the protocol."""
        if not len(self.users):
            return False
        reach_ms = self.users.reach_ms(Strings.of(self._users_of(rejected)))
        return bool((reach_ms >= (rejected.timestamp_ms or 1)).any())

    def put(self, user: str, asked_ms: int, reach_ms: int) -> None:
        """See the protocol."""
        self.users.add(self.users.hashes(Strings.of([user])), np.array([[asked_ms, reach_ms]]))
        self._asked.append(user)

    def take(self) -> list[str]:
        """The users who asked since the last call, each once."""
        asked, self._asked = list(dict.fromkeys(self._asked)), []
        return asked


@dataclass(frozen=True, slots=True)
class _Request:
    user: str
    asked_ms: int
    reach_ms: int
    letters: int  # that were put before it


class DurableErasures(MemoryErasures):
    """Requests of a live updater, in files of ``folder``. ``put`` returns at once; a thread writes.

    Always true: requests become safe in the order in which they were put; a request whose files the disk
    refuses waits and is tried again.

    Args:
        folder: Of the list, its key and the pending files.
        users_of: Whose event a letter is.
        letters: (put, safe) letters so far: those of before a request are looked for once they are safe.

    Raises:
        DriftgraphError: The list cannot be read or written.
    """

    def __init__(self, folder: Path, users_of: UsersOf, letters: Callable[[], tuple[int, int]]) -> None:
        self._list = ErasureList(folder)
        super().__init__(self._list.load(), users_of)
        self._pending = PendingErasures(folder)
        self._pending.begin()
        self._letters = letters
        self._queue: deque[_Request] = deque()
        self._held: deque[tuple[int, Path]] = deque()  # files about letters, until so many are safe
        self._change = threading.Condition()
        self._closing = False
        self.failure: str | None = None  # why the disk does not take them
        self._held_back: str | None = None  # why it does not let their letters be looked for
        self.put_count = 0
        self.safe_count = 0
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether nothing more should be read."""
        return self.put_count - self.safe_count >= WAITING_MAX

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after it was full."""
        return 2 * (self.put_count - self.safe_count) <= WAITING_MAX

    @property
    def told(self) -> str:
        """What waits, and why, as a sentence for the log."""
        waiting = self.put_count - self.safe_count
        return f"{waiting} requests to erase are not noted ({self.failure or 'the disk is slow'})"

    def put(self, user: str, asked_ms: int, reach_ms: int) -> None:
        """Take one request."""
        self.users.add(self.users.hashes(Strings.of([user])), np.array([[asked_ms, reach_ms]]))
        with self._change:
            self._queue.append(_Request(user, asked_ms, reach_ms, self._letters()[0]))
            self.put_count += 1
            self._change.notify_all()

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "users": len(self.users),
            "waiting": self.put_count - self.safe_count,
            "pending": self._pending.count(),
            "failure": self.failure or self._held_back,
        }

    def close(self) -> None:
        """Give the disk some seconds more; a request that is not safe then is read again."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        tries = 0
        batch: list[_Request] = []
        while True:
            with self._change:
                pause_s = RETRY_S[min(tries, len(RETRY_S) - 1)] if batch else LETTERS_LOOK_S
                if batch or self._held:
                    self._change.wait_for(lambda: self._closing, pause_s)
                else:
                    self._change.wait_for(lambda: self._queue or self._closing)
                if not batch:
                    batch = list(self._queue)
                    self._queue.clear()
            written = self._written(batch)
            self._release()
            if written:
                batch, tries = [], 0
            tries += not written
            if self._closing and not (written and self._queue):  # what is held is released by the next start
                return

    def _written(self, batch: list[_Request]) -> bool:
        """Make a batch safe: 1. its pending files, 2. the list."""
        if not batch:
            return True
        users = [request.user for request in batch]
        held: Path | None = None
        try:
            held = self._pending.write(users)
            self._list.append(
                self.users.hashes(Strings.of(users)),
                np.array([(request.asked_ms, request.reach_ms) for request in batch]),
            )
        except Exception as error:  # whatever it is: the thread must go on, or all would wait for ever
            if self.failure is None:
                log.error("requests to erase users cannot be noted: %s", error)  # noqa: TRY400  a sentence
            self.failure = str(error)
            if held is not None:
                self._pending.drop(held)  # the next try writes another
            return False
        if self.failure is not None:
            log.warning("requests to erase users are noted again")
        self.failure = None
        self._held.append((batch[-1].letters, held))
        with self._change:
            self.safe_count += len(batch)
        return True

    def _release(self) -> None:
        """Let the worker look for letters, where those of before the request are in their place."""
        while self._held and self._letters()[1] >= self._held[0][0]:
            try:
                self._pending.release(self._held[0][1])
            except OSError as error:  # tried again soon: the thread must go on
                self._held_back = str(error)
                return
            self._held.popleft()
        self._held_back = None
