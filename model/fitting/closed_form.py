"""Item vectors in closed form: factors of the window's (user, item) pairs, and users from their items.

    events of the window ──► [ClosedForm.of] ──► the start of a model, a scorer beside it

Seconds of linear algebra instead of days of small steps. It knows nothing of popularity; the score adds that.

Shape suffixes: I item rows, U user rows, D factors, N rows of the side that is solved for, M rows of the
other, n rows asked for, P items of a history, G parts of a sum.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from driftgraph.model.network.item_table import initial_rows
from driftgraph.model.network.network import DECAY
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.kernels.compile import kernel, vector_kernel
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.samplers import union
from driftgraph.stream.window.writer import Cut, Events, WindowView

HISTORY = 20  # newest distinct items of a user; with DECAY the 21st would weigh a hundredth of the first
CONFIDENCE = 20.0  # how much more a pair that happened weighs than one that did not
RIDGE = 10.0  # λ; below 1 + CONFIDENCE, at which a single pair would be shrunk to nothing
SWEEPS = 10  # over users and items; more change nothing that a ranking shows
STEPS = 3  # of conjugate gradients, from where the sweep before ended
MEAN_SQUARE = (
    0.25  # of an item vector's length: then the dot product is a logit of the right size (docs/LOG.md)
)
CONVERGED = np.float32(1e-12)  # squared length of what an equation leaves over
BLOCK = 1_024  # rows that a thread solves at once
GRAM_PARTS = 8  # sums in this fixed number of parts are the same bits on every number of threads


class _Pairs(NamedTuple):
    """Distinct pairs by one side: the others of row r are ``other[start[r] : start[r + 1]]``."""

    start: I64
    other: U32


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """Vectors of items and users whose dot product is a logit without popularity.

        item i:  e_i,   user at t:  Σ_p DECAY^p e_(p-th newest distinct item before t)

    Always true: an item row without an event in the window has a vector of zeros.

    Source: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008,
    solved by conjugate gradients as in Takács, Pilászy, Tikk, "Applications of the Conjugate Gradient Method
    for Implicit Feedback Collaborative Filtering", RecSys 2011. A user whose pairs all weigh 1 has the vector
    (FᵀF + λI)⁻¹ Σ f_j of the item factors F: with (FᵀF + λI) = LLᵀ and e = L⁻¹ f, the matrix is in the item
    vectors, and a user is a plain sum of them.
    """

    item_ID: F32

    @classmethod
    def of(
        cls, events: Events, rows: int, *, factors: int, seed: int, start_ID: F32 | None = None
    ) -> ClosedForm:
        """Factors of ``events``, whose item rows are below ``rows``. O(events · factors + rows · factors²).

        The sweeps begin at random factors, or at ``start_ID``. The result depends on the set of pairs, the
        sizes and where it begins alone, not on order and threads.
        """
        by_user, by_item = _pairs(events, rows)
        drawn = initial_rows(np.arange(rows), factors + 1, seed)
        item_ID = np.ascontiguousarray(drawn[:, :-1])  # the last channel is no chance
        if start_ID is not None:
            item_ID[: len(start_ID)] = start_ID
        user_UD = np.zeros((len(by_user.start) - 1, factors), np.float32)
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="factors") as pool:
            for _ in range(SWEEPS):
                _solve(pool, user_UD, by_user, item_ID)
                _solve(pool, item_ID, by_item, user_UD)
            _whiten(pool, item_ID)
        return cls(item_ID)

    def items(self, rows: U32) -> F32:
        """[n, D] of these item rows; zeros for rows that the window did not have."""
        made = np.zeros((len(rows), self.item_ID.shape[1]), np.float32)
        known = rows < len(self.item_ID)
        made[known] = self.item_ID[rows[known]]
        return made

    def users(self, view: WindowView, rows: U32, times_ms: I64, cut: Cut) -> F32:
        """[n, D] of users as they were strictly before ``times_ms``; zeros for one without an event.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        hood = union(view.recent(USER, rows, times_ms, HISTORY, cut))
        place_P = np.arange(HISTORY)
        weight_nP = np.where(place_P < hood.count_B[:, np.newaxis], DECAY**place_P, 0)
        item_nP = hood.neighbor_BK[:, :HISTORY].astype(np.int64)
        known_nP = item_nP < len(self.item_ID)
        summed_nD = functional.embedding_bag(
            torch.from_numpy(np.where(known_nP, item_nP, 0)),
            torch.from_numpy(self.item_ID),
            per_sample_weights=torch.from_numpy(np.where(known_nP, weight_nP, 0).astype(np.float32)),
            mode="sum",
        )
        made: F32 = summed_nD.numpy()
        return made


def _pairs(events: Events, rows: int) -> tuple[_Pairs, _Pairs]:
    """The distinct pairs of ``events``, by user and by item."""
    key = np.unique((events.user.astype(np.uint64) << np.uint64(32)) | events.item)
    user, item = (key >> np.uint64(32)).astype(np.uint32), key.astype(np.uint32)
    by_item = np.argsort(item, kind="stable")
    return (
        _Pairs(_starts(user, int(user.max(initial=0)) + 1), item),
        _Pairs(_starts(item, rows), user[by_item]),
    )


def _starts(rows: U32, count: int) -> I64:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])


def _solve(pool: ThreadPoolExecutor, own_ND: F32, pairs: _Pairs, other_MD: F32) -> None:
    """Give each row of ``own_ND`` the factors that fit the others' best; zeros where it has no pair."""
    gram_DD = _gram(pool, other_MD).astype(np.float32)
    own_ND[np.diff(pairs.start) == 0] = 0

    def part(first: int) -> None:
        scratch_3D = np.empty((3, own_ND.shape[1]), np.float32)
        stop = min(first + BLOCK, len(own_ND))
        _conjugate_gradients(own_ND, first, stop, pairs, other_MD, gram_DD, scratch_3D)

    list(pool.map(part, range(0, len(own_ND), BLOCK)))


def _whiten(pool: ThreadPoolExecutor, item_ID: F32) -> None:
    """Make each row f of factors L⁻¹ f, all times the number that gives them ``MEAN_SQUARE``."""
    rows, dim = item_ID.shape
    lower_DD = np.zeros((dim, dim))
    _cholesky(_gram(pool, item_ID), lower_DD)
    lower = lower_DD.astype(np.float32)
    list(pool.map(lambda at: _forward(item_ID, at, min(at + BLOCK, rows), lower), range(0, rows, BLOCK)))
    length_I = np.einsum("id,id->i", item_ID, item_ID, dtype=np.float64)
    known = length_I > 0
    if known.any():
        item_ID *= np.float32(np.sqrt(MEAN_SQUARE / length_I[known].mean()))


def _gram(pool: ThreadPoolExecutor, rows_ND: F32) -> F64:
    """[D, D] in double precision: Σ of the rows' outer products."""
    gram_GDD = np.zeros((GRAM_PARTS, rows_ND.shape[1], rows_ND.shape[1]))
    edges = [len(rows_ND) * g // GRAM_PARTS for g in range(GRAM_PARTS + 1)]
    list(pool.map(lambda g: _add_outer(rows_ND, edges[g], edges[g + 1], gram_GDD[g]), range(GRAM_PARTS)))
    upper_DD = np.triu(gram_GDD.sum(axis=0))
    whole_DD: F64 = upper_DD + np.triu(upper_DD, 1).T
    return whole_DD


@kernel
def _add_outer(rows_ND: F32, first: int, stop: int, gram_DD: F64) -> None:  # pragma: no cover - compiled
    for n in range(first, stop):
        for k in range(rows_ND.shape[1]):
            own = np.float64(rows_ND[n, k])
            for d in range(k, rows_ND.shape[1]):
                gram_DD[k, d] += own * rows_ND[n, d]


@kernel
def _cholesky(gram_DD: F64, lower_DD: F64) -> None:  # pragma: no cover - compiled
    """Fill ``lower_DD``: L of LLᵀ = G + λI."""
    for k in range(gram_DD.shape[0]):
        for d in range(k + 1):
            left = gram_DD[k, d]
            for c in range(d):
                left -= lower_DD[k, c] * lower_DD[d, c]
            if d == k:
                lower_DD[k, k] = np.sqrt(left + RIDGE)
            else:
                lower_DD[k, d] = left / lower_DD[d, d]


@kernel
def _forward(rows_ND: F32, first: int, stop: int, lower_DD: F32) -> None:  # pragma: no cover - compiled
    """Each row r becomes L⁻¹ r."""
    for n in range(first, stop):
        for k in range(rows_ND.shape[1]):
            left = rows_ND[n, k]
            for d in range(k):
                left -= lower_DD[k, d] * rows_ND[n, d]
            rows_ND[n, k] = left / lower_DD[k, k]


@vector_kernel
def _conjugate_gradients(
    own_ND: F32, first: int, stop: int, pairs: _Pairs, other_MD: F32, gram_DD: F32, scratch_3D: F32
) -> None:  # pragma: no cover - compiled
    """Solve (G + λI + Σ c y yᵀ) x = Σ (1 + c) y for each row, from what it holds; y: its others."""
    dim = own_ND.shape[1]
    for n in range(first, stop):
        begin, end = pairs.start[n], pairs.start[n + 1]
        if begin == end:
            continue
        for d in range(dim):
            scratch_3D[0, d] = own_ND[n, d]
        _apply(scratch_3D, pairs, begin, end, other_MD, gram_DD)
        left = np.float32(0.0)
        for d in range(dim):
            scratch_3D[1, d] = -scratch_3D[2, d]
        for at in range(begin, end):
            j = pairs.other[at]
            for d in range(dim):
                scratch_3D[1, d] += np.float32(1.0 + CONFIDENCE) * other_MD[j, d]
        for d in range(dim):
            scratch_3D[0, d] = scratch_3D[1, d]
            left += scratch_3D[1, d] * scratch_3D[1, d]
        for _ in range(STEPS):
            if left < CONVERGED:
                break
            _apply(scratch_3D, pairs, begin, end, other_MD, gram_DD)
            along = np.float32(0.0)
            for d in range(dim):
                along += scratch_3D[0, d] * scratch_3D[2, d]
            rate = left / along
            before, left = left, np.float32(0.0)
            for d in range(dim):
                own_ND[n, d] += rate * scratch_3D[0, d]
                scratch_3D[1, d] -= rate * scratch_3D[2, d]
                left += scratch_3D[1, d] * scratch_3D[1, d]
            turn = left / before
            for d in range(dim):
                scratch_3D[0, d] = scratch_3D[1, d] + turn * scratch_3D[0, d]


@vector_kernel
def _apply(
    scratch_3D: F32, pairs: _Pairs, begin: int, end: int, other_MD: F32, gram_DD: F32
) -> None:  # pragma: no cover - compiled
    """Row 2 of the scratch becomes the matrix of the equation times row 0."""
    dim = gram_DD.shape[0]
    for d in range(dim):
        scratch_3D[2, d] = np.float32(RIDGE) * scratch_3D[0, d]
    in_fours = (
        dim - dim % 4
    )  # rows of the matrix taken together: the sum is read and written a fourth as often
    for k in range(0, in_fours, 4):
        first, second, third, fourth = (
            scratch_3D[0, k],
            scratch_3D[0, k + 1],
            scratch_3D[0, k + 2],
            scratch_3D[0, k + 3],
        )
        for d in range(dim):
            one, two = first * gram_DD[k, d], second * gram_DD[k + 1, d]
            three, four = third * gram_DD[k + 2, d], fourth * gram_DD[k + 3, d]
            scratch_3D[2, d] += (one + two) + (three + four)
    for k in range(in_fours, dim):
        own = scratch_3D[0, k]
        for d in range(dim):
            scratch_3D[2, d] += own * gram_DD[k, d]
    for at in range(begin, end):
        j = pairs.other[at]
        own = np.float32(0.0)
        for d in range(dim):
            own += other_MD[j, d] * scratch_3D[0, d]
        own *= np.float32(CONFIDENCE)
        for d in range(dim):
            scratch_3D[2, d] += own * other_MD[j, d]
