"""The loops that make a batch's index tensors of sampled neighborhoods.

    neighbors ──► [real_places, node_numbers, row_numbers, mark_touched]

Shape suffixes as in ``neighbors``; T entries of a table, n rows in the order in which they are first read.
"""

from __future__ import annotations

import numpy as np

from driftgraph.stream.arrays import F32, I32, I64, U8, U32, Mask
from driftgraph.stream.kernels.compile import kernel

MIX_ROW, MIX_TIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@kernel
def real_places(
    count_N: I32,
    neighbor_NK: U32,
    found_relation_NK: U8,
    time_ms_NK: I64,
    source_NK: I64,
    relation_NK: U8,
    mask_NK: Mask,
    behind_s_NK: F32,
) -> None:  # pragma: no cover - compiled
    """Copy the ``count_N`` real places of each neighborhood into the last four, which are zero and narrower.

    ``behind_s_NK`` are the seconds behind the newest, which is the first; it may be empty.
    """
    timed = behind_s_NK.shape[1] > 0
    for n in range(len(count_N)):
        for k in range(count_N[n]):
            source_NK[n, k] = neighbor_NK[n, k]
            relation_NK[n, k] = found_relation_NK[n, k]
            mask_NK[n, k] = True
            if timed:
                behind_s_NK[n, k] = np.float32((time_ms_NK[n, 0] - time_ms_NK[n, k]) / 1_000)


@kernel
def node_numbers(
    row_NK: I64, mask_NK: Mask, time_ms_N: I64, table_T: I32, row_S: U32, time_ms_S: I64
) -> int:  # pragma: no cover - compiled
    """Replace each row by the number of (row, its target's time), in the order of first appearance.

    Fills ``row_S`` and ``time_ms_S``; the result is how many there are. ``table_T`` is zero, its length a
    power of two and at least twice the number of places.
    """
    count, last = 0, np.uint64(len(table_T) - 1)
    for n in range(row_NK.shape[0]):
        time_ms = time_ms_N[n]
        for k in range(row_NK.shape[1]):
            if not mask_NK[n, k]:
                continue
            row = row_NK[n, k]
            mixed = (np.uint64(row) * MIX_ROW) ^ (np.uint64(time_ms) * MIX_TIME)
            at = (mixed ^ (mixed >> np.uint64(29))) * MIX_ROW >> np.uint64(20) & last
            while True:
                number = table_T[at] - 1
                if number < 0:
                    number = count
                    row_S[count], time_ms_S[count] = row, time_ms
                    count += 1
                    table_T[at] = count
                    break
                if row_S[number] == row and time_ms_S[number] == time_ms:
                    break
                at = (at + np.uint64(1)) & last
            row_NK[n, k] = number
    return count


@kernel
def row_numbers(
    row_NK: I64, mask_NK: Mask, number_of: I32, row_n: I64, count: int
) -> int:  # pragma: no cover - compiled
    """Replace each row by its number, in the order of first appearance over several calls.

    ``number_of`` is by row: 0, or the number + 1. ``row_n`` gets the row of each number; ``count`` are given
    already, and the result is how many are now.
    """
    for n in range(row_NK.shape[0]):
        for k in range(row_NK.shape[1]):
            if mask_NK[n, k]:
                row = row_NK[n, k]
                if number_of[row] == 0:
                    row_n[count] = row
                    count += 1
                    number_of[row] = count
                row_NK[n, k] = number_of[row] - 1
    return count


@kernel
def mark_touched(
    row_NK: I64, mask_NK: Mask, candidate_n: I32, touched_NC: Mask
) -> None:  # pragma: no cover - compiled
    """Mark the candidates among each target's neighbors. ``candidate_n`` says which one a row is, or -1."""
    for n in range(row_NK.shape[0]):
        for k in range(row_NK.shape[1]):
            if mask_NK[n, k]:
                c = candidate_n[row_NK[n, k]]
                if c >= 0:
                    touched_NC[n, c] = True
