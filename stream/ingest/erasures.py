"""Requests to erase a user, as ingestion takes and keeps them: the erasure beyond the window.

    Ingest ──► [Erasures.reach] ──► events from before a request are not applied
       └─────► [Erasures.put]   ──► snapshots/erasures.py: the durable list and the pending files

An erasure has four steps, in this order:
  1. the window forgets the user (``Heterograph.erase``);
  2. the request becomes safe: its pending files, then its entry in the list (``DurableErasures``);
  3. the position may pass the request;
  4. the worker removes the user from Redis, checkpoints and dead letters, then the pending file
     (app/training/erase_pending.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np

from driftgraph.stream.arrays import Mask
from driftgraph.stream.events import EventBatch, Rejected, Strings
from driftgraph.stream.formats.record_keys import sole_value
from driftgraph.stream.ingest.erased_users import ASKED, KEY_BYTES, ErasedUsers

UsersOf = Callable[[Rejected], Collection[str]]  # the users that a dead letter may belong to


class Erasures(Protocol):
    """The questions of ingestion about requests to erase, and the place for new ones."""

    def reach(self, batch: EventBatch) -> Mask:
        """[N] which events belong to an erased user and are from before the request. They are not applied."""
        ...

    def knows(self, user: str, time_ms: int) -> bool:
        """Whether this request, or a later one of the user, was taken before."""
        ...

    def cover(self, rejected: Rejected) -> bool:
        """Whether this letter belongs to an erased user and is from before the request, so it is not kept."""
        ...

    def put(self, user: str, asked_ms: int, reach_ms: int) -> None:
        """Take a new request, after the window has forgotten the user."""
        ...


def key_users(rejected: Rejected) -> Collection[str]:
    """The users that a record's key may name: the key as text, and its value if it is JSON."""
    if not rejected.key:
        return []
    value = sole_value(rejected.key)
    return {rejected.key.decode(errors="replace"), *([str(value)] if isinstance(value, str | int) else [])}


class MemoryErasures:
    """Requests in memory, beside those of a list: for replays, and for runs that leave nothing behind."""

    def __init__(self, users: ErasedUsers | None = None, users_of: UsersOf = key_users) -> None:
        self.users = ErasedUsers(secrets.token_bytes(KEY_BYTES)) if users is None else users
        self._users_of = users_of
        self._asked: list[str] = []

    def reach(self, batch: EventBatch) -> Mask:
        """See the protocol. It costs nothing while no user was ever erased."""
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
