"""The users who asked to be forgotten, each with an event time, by a keyed hash and never by the id.

    request ──► [ErasedUsers.add] ──► (hash, times) ──► the durable list of snapshots/erasures.py
    users ────► [ErasedUsers.reach_ms] ──► up to which event time their events are not applied

The hash is SipHash-2-4 of 128 bits under a secret key. A reader of the list who lacks the key learns no user
from it, and nobody can choose ids that collide. Among a million users, two have one hash with a chance of
1 in 10**26.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftgraph.stream.arrays import I64, U8, U64
from driftgraph.stream.events import Strings
from driftgraph.stream.kernels.compile import helper, kernel

KEY_BYTES = 16
SLOTS_MIN = 64
ASKED, REACH = 0, 1  # of a user's two times
NEVER_MS = 0  # both times of a user who was never erased: before every event time


@helper
def _rotated(v: Any, bits: int) -> Any:  # pragma: no cover - compiled
    return (v << np.uint64(bits)) | (v >> np.uint64(64 - bits))


@helper
def _round(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:  # pragma: no cover - compiled
    v0 += v1
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 += v3
    v3 = _rotated(v3, 16) ^ v2
    v0 += v3
    v3 = _rotated(v3, 21) ^ v0
    v2 += v1
    v1 = _rotated(v1, 17) ^ v2
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@kernel
def siphash(data: U8, start: int, stop: int, k0: Any, k1: Any) -> Any:  # pragma: no cover - compiled
    """SipHash-2-4 with 128 bits of output, as (first, second) half.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012; the longer output is
    that of the authors' reference code.
    """
    v0 = k0 ^ np.uint64(0x736F6D6570736575)
    v1 = k1 ^ np.uint64(0x646F72616E646F6D) ^ np.uint64(0xEE)
    v2 = k0 ^ np.uint64(0x6C7967656E657261)
    v3 = k1 ^ np.uint64(0x7465646279746573)
    words = (stop - start) // 8
    for word in range(words + 1):
        at = start + 8 * word
        m = np.uint64(0)
        for n in range(min(8, stop - at)):
            m |= np.uint64(data[at + n]) << np.uint64(8 * n)
        if word == words:
            m |= np.uint64((stop - start) & 0xFF) << np.uint64(56)
        v3 ^= m
        for _ in range(2):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= m
    v2 ^= np.uint64(0xEE)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    first = v0 ^ v1 ^ v2 ^ v3
    v1 ^= np.uint64(0xDD)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return first, v0 ^ v1 ^ v2 ^ v3


@kernel
def _hash_all(data: U8, bounds: I64, k0: Any, k1: Any, pairs: U64) -> None:  # pragma: no cover - compiled
    for i in range(len(bounds) - 1):
        first, second = siphash(data, bounds[i], bounds[i + 1], k0, k1)
        pairs[2 * i], pairs[2 * i + 1] = first, second | np.uint64(1)  # never the empty pair


@kernel
def _find(table: U64, first: Any, second: Any) -> Any:  # pragma: no cover - compiled
    """The slot of a pair; for a pair that is not there, -(slot + 1) of the empty slot where it would go."""
    slots = len(table) // 2
    at = np.int64(first & np.uint64(slots - 1))
    while table[2 * at + 1]:
        if table[2 * at] == first and table[2 * at + 1] == second:
            return at
        at = (at + 1) & (slots - 1)
    return -(at + 1)


@kernel
def _look_up(pairs: U64, table: U64, times_ms: I64, found: I64) -> None:  # pragma: no cover - compiled
    for i in range(len(found)):
        slot = _find(table, pairs[2 * i], pairs[2 * i + 1])
        for which in range(2):
            found[i, which] = times_ms[slot, which] if slot >= 0 else NEVER_MS


@kernel
def _add(pairs: U64, new_ms: I64, table: U64, times_ms: I64) -> int:  # pragma: no cover - compiled
    """Add users to the table; return how many of them are new in it."""
    added = 0
    for i in range(len(new_ms)):
        slot = _find(table, pairs[2 * i], pairs[2 * i + 1])
        if slot < 0:
            slot = -slot - 1
            table[2 * slot], table[2 * slot + 1] = pairs[2 * i], pairs[2 * i + 1]
            added += 1
        for which in range(2):
            times_ms[slot, which] = max(times_ms[slot, which], new_ms[i, which])
    return added


class ErasedUsers:
    """The users that were erased, each with two times.

    The first time is that of the newest request. The second is the event time up to which the request
    reaches; it is later than the first if the request erased a newer event.

    Always true: a user stays once it is in, and its times do not go back.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key must be {KEY_BYTES} bytes, got {len(key)}")
        self._key = np.frombuffer(key, "<u8").astype(np.uint64)
        self._count = 0
        self._table = np.zeros(2 * SLOTS_MIN, np.uint64)
        self._times_ms = np.zeros((SLOTS_MIN, 2), np.int64)

    def __len__(self) -> int:
        return self._count

    def hashes(self, users: Strings) -> U64:
        """[N, 2] the keyed hash of each id."""
        pairs = np.empty(2 * len(users), np.uint64)
        _hash_all(users.data, users.offsets, self._key[0], self._key[1], pairs)
        return pairs.reshape(-1, 2)

    def times_ms(self, users: Strings) -> I64:
        """[N, 2] the two times of each user; both are ``NEVER_MS`` for a user who was never erased."""
        found = np.empty((len(users), 2), np.int64)
        _look_up(self.hashes(users).reshape(-1), self._table, self._times_ms, found)
        return found

    def reach_ms(self, users: Strings) -> I64:
        """[N] the second of the two times of each user."""
        return self.times_ms(users)[:, REACH]

    def add(self, hashes: U64, times_ms: I64) -> None:
        """Take N users by their [N, 2] hashes, each with its two times [N, 2]."""
        self._make_room(self._count + len(hashes))
        self._count += _add(np.ascontiguousarray(hashes).reshape(-1), times_ms, self._table, self._times_ms)

    def all(self) -> tuple[U64, I64]:
        """All users of the list: [count, 2] hashes and [count, 2] times."""
        used = np.flatnonzero(self._table[1::2])
        return self._table.reshape(-1, 2)[used], self._times_ms[used]

    def _make_room(self, count: int) -> None:
        """Keep the table at most half full."""
        slots = len(self._times_ms)
        if 2 * count <= slots:
            return
        hashes, times_ms = self.all()
        slots = 1 << (4 * count - 1).bit_length()
        self._table, self._times_ms = np.zeros(2 * slots, np.uint64), np.zeros((slots, 2), np.int64)
        self._count = 0
        self.add(hashes, times_ms)
