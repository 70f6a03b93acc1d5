"""Hashes whose values are kept: digests, draws and first rows of items stay the same in every release."""

from __future__ import annotations

import numpy as np

from driftgraph.stream.arrays import U8
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.kernels.hashing import GOLDEN, fold, hash_bytes, other_hash_bytes, splitmix


@kernel  # type: ignore[untyped-decorator]
def _both(data: U8, stop: int) -> tuple[int, int]:
    return hash_bytes(data, 0, stop), other_hash_bytes(data, 0, stop)


def test_splitmix_gives_the_numbers_of_its_authors() -> None:
    """The first outputs of the reference code for seed 1234567. Each state is GOLDEN further on."""
    states = np.arange(1, 4, dtype=np.uint64) * GOLDEN + np.uint64(1234567)
    assert splitmix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_folding_columns_is_the_same_step_by_hand() -> None:
    mixed = np.full(2, 5, np.uint64)
    fold((np.array([1, 2]), np.array([3], np.uint32)), GOLDEN, into=mixed)
    expected = []
    for first in (1, 2):
        state = 5
        for number in (first, 3):
            state = (state ^ number) * int(GOLDEN) % 2**64
            state ^= state >> 29
        expected.append(state)
    assert mixed.tolist() == expected


def test_the_hashes_of_an_id_stay_what_checkpoints_hold() -> None:
    text = np.frombuffer(b"user-0123456789", np.uint8)
    assert _both(text, len(text)) == (11545696888619399629, 2596331733711112650)
