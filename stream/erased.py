"""Users who asked to be forgotten, without their names: until which event time each of them is erased.

    Ingest ──► [ErasedUsers.reach_ms] ──► events that are dropped: a late click brings nobody back
               [ErasedUsers.mark]     ◄── a request to erase

A name is kept as 128 bits of a keyed hash, so that who has the list and not the key learns nobody's name.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from driftgraph.stream.adjacency import kernel
from driftgraph.stream.events import I64, U8, Strings

KEY_BYTES = 32  # two keys of SipHash, one for each half of a user's hash
SLOTS_MIN = 16


@kernel
def _turned(x: Any, bits: int) -> Any:  # pragma: no cover - compiled
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel
def _round(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:  # pragma: no cover - compiled
    v0 += v1
    v1 = _turned(v1, 13) ^ v0
    v0 = _turned(v0, 32)
    v2 += v3
    v3 = _turned(v3, 16) ^ v2
    v0 += v3
    v3 = _turned(v3, 21) ^ v0
    v2 += v1
    v1 = _turned(v1, 17) ^ v2
    v2 = _turned(v2, 32)
    return v0, v1, v2, v3


@kernel
def _siphash(data: U8, start: int, stop: int, k0: Any, k1: Any) -> Any:  # pragma: no cover - compiled
    """SipHash-2-4 of some bytes.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012, section 2.
    """
    v0 = k0 ^ np.uint64(0x736F6D6570736575)
    v1 = k1 ^ np.uint64(0x646F72616E646F6D)
    v2 = k0 ^ np.uint64(0x6C7967656E657261)
    v3 = k1 ^ np.uint64(0x7465646279746573)
    length = stop - start
    whole = length // 8
    for word in range(whole + 1):
        m = np.uint64(0)
        at = start + 8 * word
        for i in range(8 if word < whole else length - 8 * whole):
            m |= np.uint64(data[at + i]) << np.uint64(8 * i)
        if word == whole:
            m |= np.uint64(length & 0xFF) << np.uint64(56)
        v3 ^= m
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= m
    v2 ^= np.uint64(0xFF)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@kernel
def _find(table: Any, low: Any, high: Any) -> Any:  # pragma: no cover - compiled
    """Where the hash is, or the empty place where it would go as -(place + 1)."""
    mask = len(table) - 1
    at = np.int64(low & np.uint64(mask))
    while table[at, 0] or table[at, 1]:
        if table[at, 0] == low and table[at, 1] == high:
            return at
        at = (at + 1) & mask
    return -(at + 1)


@kernel
def _reach_all(
    data: U8, bounds: I64, key: Any, table: Any, reach_ms: I64, found: I64
) -> None:  # pragma: no cover - compiled
    """Fill ``found``. The second hash is computed for those alone whose first one is in the table."""
    mask = len(table) - 1
    for i in range(len(found)):
        low = _siphash(data, bounds[i], bounds[i + 1], key[0], key[1])
        at = np.int64(low & np.uint64(mask))
        found[i] = 0
        while table[at, 0] or table[at, 1]:
            if table[at, 0] == low:
                high = _siphash(data, bounds[i], bounds[i + 1], key[2], key[3])
                place = _find(table, low, high)
                found[i] = reach_ms[place] if place >= 0 else 0
                break
            at = (at + 1) & mask


class ErasedUsers:
    """Until which event time each user is erased; in memory.

    Always true: a user has at most one entry, that of the newest time; two users share one with a chance of
    2**-128. An entry is 24 bytes and stays for ever: the table is at most half full.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = secrets.token_bytes(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key must be {KEY_BYTES} bytes, got {len(key)}")
        self._key = np.frombuffer(key, "<u8").astype(np.uint64)
        self._table = np.zeros((SLOTS_MIN, 2), np.uint64)
        self._reach_ms = np.zeros(SLOTS_MIN, np.int64)
        self._count = 0

    def __len__(self) -> int:
        """Users that have an entry."""
        return self._count

    def reach_ms(self, users: Strings) -> I64:
        """For each of N users the time until which it is erased, [N]; 0 for one that never was. O(bytes)."""
        found = np.empty(len(users), np.int64)
        _reach_all(users.data, users.offsets, self._key, self._table, self._reach_ms, found)
        return found

    def hash_of(self, user: str) -> tuple[int, int]:
        """The two halves of a user's hash."""
        data = np.frombuffer(user.encode(), np.uint8)
        k = self._key
        return int(_siphash(data, 0, len(data), k[0], k[1])), int(_siphash(data, 0, len(data), k[2], k[3]))

    def mark(self, user: str, reach_ms: int) -> bool:
        """Let a user be erased up to an event time; whether that is news: the first time, or a newer one."""
        return self.put(*self.hash_of(user), reach_ms)

    def put(self, low: int, high: int, reach_ms: int) -> bool:
        """As ``mark``, by the hash."""
        if 2 * (self._count + 1) > len(self._table):
            self._grow()
        place = int(_find(self._table, np.uint64(low), np.uint64(high)))
        if place >= 0:
            is_news = reach_ms > self._reach_ms[place]
            self._reach_ms[place] = max(reach_ms, self._reach_ms[place])
            return bool(is_news)
        self._table[-place - 1] = low, high
        self._reach_ms[-place - 1] = reach_ms
        self._count += 1
        return True

    def keep(self, user: str, reach_ms: int) -> None:
        """Make what was marked outlast this process. Called after the user's events have left the window."""

    def _grow(self) -> None:
        old = np.flatnonzero(self._table.any(axis=1))
        table, reach_ms = self._table[old], self._reach_ms[old]
        self._table = np.zeros((2 * len(self._table), 2), np.uint64)
        self._reach_ms = np.zeros(len(self._table), np.int64)
        for (low, high), time_ms in zip(table, reach_ms, strict=True):
            place = -int(_find(self._table, low, high)) - 1
            self._table[place] = low, high
            self._reach_ms[place] = time_ms
