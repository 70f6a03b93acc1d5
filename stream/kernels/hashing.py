"""Hashes without a key: of bytes for tables, and of numbers for draws and digests.

    ids, id_buckets ──► [hash_bytes, other_hash_bytes]
    digest, uniform neighbors ──► [fold]        rows of the item table ──► [splitmix]

Each gives the same in every process and run, and what some of them give is kept: ids in checkpoints, digests,
a new item's first row. None is of use against someone who looks for collisions; ``erased_users`` has one that
is. ``adjacency.level_bit`` stands with the lists that it shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from driftgraph.stream.arrays import U64
from driftgraph.stream.kernels.atomics import load_word
from driftgraph.stream.kernels.compile import helper

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 by the golden ratio: an odd factor that spreads what it gets


@helper
def _hash(data: Any, start: int, stop: int, multiply: Any, shift: Any) -> Any:  # pragma: no cover
    h = np.uint64(0xCBF29CE484222325) ^ (np.uint64(stop - start) * np.uint64(0x9FB21C651E98DF25))
    at = start
    while at + 8 <= stop:
        h = (h ^ load_word(data, at)) * multiply
        h ^= h >> shift
        at += 8
    if at < stop:
        if at > start:
            word = load_word(data, stop - 8)  # with bytes that were taken before: no harm
        else:
            word = np.uint64(0)
            for k in range(stop - start):
                word |= np.uint64(data[start + k]) << np.uint64(8 * k)
        h = (h ^ word) * multiply
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@helper
def hash_bytes(data: Any, start: int, stop: int) -> Any:  # pragma: no cover - compiled
    """64 bits of ``data[start:stop]``: a multiplication a word, then the finalizer of MurmurHash3."""
    return _hash(data, start, stop, np.uint64(0xD6E8FEB86659FD93), np.uint64(32))


@helper
def other_hash_bytes(data: Any, start: int, stop: int) -> Any:  # pragma: no cover - compiled
    """Another 64 bits. Another seed would not do: where two words cancel out what the ids differ in, they do
    so under every seed, and not under another multiplication and shift.
    """
    return _hash(data, start, stop, GOLDEN, np.uint64(29))


def fold(columns: Iterable[npt.NDArray[np.integer]], multiply: np.uint64, into: U64) -> None:
    """Mix the numbers of each column into ``into``, one column after the other. Shapes broadcast."""
    for column in columns:
        into ^= column.astype(np.uint64)
        into *= multiply
        into ^= into >> np.uint64(29)


def splitmix(x: U64) -> U64:
    """The mixer of SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
