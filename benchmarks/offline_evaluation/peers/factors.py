"""Peers that are retrained at each window's start: EASE, and iALS by the library implicit.

A user's row is folded in at the time of the event: only what is known of items is as old as the window.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from benchmarks.offline_evaluation.peers.sequences import newest_distinct
from benchmarks.offline_evaluation.prequential import Index, Stream
from driftgraph.stream.arrays import F32, F64, I64, Mask

ITEMS_MAX = 6_000  # of a dense item-item matrix: the items with the most users
HISTORY = 200  # newest distinct items of a user that are folded in
ITERATIONS = 10  # of iALS
REGULARIZATION = 0.1


class Matrix:
    """Who has touched what, once a pair, as of a time: users × items."""

    def __init__(self, stream: Stream) -> None:
        first = stream.first_contacts()
        self._user, self._item, self._time_ms = stream.user[first], stream.item[first], stream.time_ms[first]
        self._shape = (len(stream.user_ids), len(stream.item_ids))

    def before(self, until_ms: int) -> Any:
        """CSR, float32, of the pairs strictly before a time."""
        end = int(np.searchsorted(self._time_ms, until_ms))
        pairs = (self._user[:end], self._item[:end])
        return scipy.sparse.csr_matrix((np.ones(end, np.float32), pairs), shape=self._shape)

    def between(self, since_ms: int, until_ms: int) -> tuple[I64, I64]:
        """Users and items of the pairs that came in [since, until)."""
        begin, end = np.searchsorted(self._time_ms, (since_ms, until_ms))
        return np.unique(self._user[begin:end]), np.unique(self._item[begin:end])


class Ease:
    """EASE: the linear item-item model in closed form, B = I − P / diag(P), P = (XᵀX + λI)⁻¹.

    Where there are more than ``ITEMS_MAX`` items and no fewer users, only the items with the most users have
    a row; the others cannot be told. With few users P is applied through their matrix instead:
    P = (I − Xᵀ (XXᵀ + λI)⁻¹ X) / λ, which is the same for all items.

    Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, eq. 8.
    """

    def __init__(self, stream: Stream, index: Index, ridge: float, *, items_max: int = ITEMS_MAX) -> None:
        self._matrix, self._index, self._ridge, self._items_max = Matrix(stream), index, ridge, items_max
        self._recent = np.zeros(HISTORY, np.int64)
        self._solve: Any = None
        self._until_ms = -1
        self.item_share = 1.0  # of the users' pairs that the items with a row hold

    def retrain(self, until_ms: int) -> None:
        """Invert anew, unless it is of this time."""
        if until_ms == self._until_ms:
            return
        self._until_ms = until_ms
        matrix = self._matrix.before(until_ms)
        degree = np.asarray(matrix.sum(0)).ravel()
        users = np.flatnonzero(np.diff(matrix.indptr))
        if len(users) <= min(self._items_max, int((degree > 0).sum())):
            self._solve = _ByUsers(matrix[users], self._ridge)
        else:
            chosen = np.sort(
                np.argsort(-degree, kind="stable")[: min(self._items_max, int((degree > 0).sum()))]
            )
            self.item_share = float(degree[chosen].sum() / max(degree.sum(), 1))
            self._solve = _ByItems(matrix[:, chosen], chosen, self._ridge)

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """x B for the user's row x as it is at the time."""
        count = newest_distinct(self._index, user, before_ms, self._recent)
        self._solve.score(self._recent[:count], out)


class _ByItems:
    """P itself, of the chosen items."""

    def __init__(self, matrix: Any, chosen: I64, ridge: float) -> None:
        self._chosen, self._inverse = chosen, _inverse((matrix.T @ matrix).toarray(order="F"), ridge)
        self._diagonal = self._inverse.diagonal().astype(np.float64)

    def score(self, history: I64, out: F64) -> None:
        place = np.minimum(np.searchsorted(self._chosen, history), max(len(self._chosen) - 1, 0))
        place = place[self._chosen[place] == history] if len(self._chosen) else place[:0]
        score = -self._inverse[place].sum(0, dtype=np.float64) / self._diagonal
        score[place] += 1
        out[:] = -np.inf
        out[self._chosen] = score


class _ByUsers:
    """P through the inverse of the users' matrix."""

    def __init__(self, matrix: Any, ridge: float) -> None:
        self._matrix, self._items = matrix, matrix.T.tocsr()
        self._inverse = _inverse((matrix @ matrix.T).toarray(order="F").astype(np.float64), ridge)
        # diag(Xᵀ K X), an item after the other
        applied = self._items @ self._inverse
        self._diagonal = (1 - np.asarray(self._items.multiply(applied).sum(1)).ravel()) / ridge
        self._ridge = ridge

    def score(self, history: I64, out: F64) -> None:
        users = np.asarray(self._items[history].sum(0)).ravel()
        out[:] = self._matrix.T @ (self._inverse @ users) / self._ridge
        out[history] -= 1 / self._ridge
        out /= self._diagonal
        out[history] += 1


def _inverse(gram: npt.NDArray[Any], ridge: float) -> npt.NDArray[Any]:
    """(gram + ridge I)⁻¹ of a symmetric matrix, in place, whole."""
    gram[np.diag_indices_from(gram)] += ridge
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (gram,))
    lower, failed = potrf(gram, lower=True, overwrite_a=True, clean=True)
    inverse, failed_too = potri(lower, lower=True, overwrite_c=True)
    if failed or failed_too:
        raise ArithmeticError(f"a ridge of {ridge:g} leaves the matrix of EASE singular: take a larger one")
    inverse += np.tril(inverse, -1).T
    whole: npt.NDArray[Any] = inverse
    return whole


class Ials:
    """iALS of implicit, retrained at each window's start, or begun once and updated by ``partial_fit``.

    A user's vector is solved at the time of the event from his newest distinct items, each with a confidence
    of ``alpha`` times ``decay`` to the power of its place.

    Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, eq. 4.
    """

    def __init__(
        self,
        stream: Stream,
        index: Index,
        *,
        factors: int,
        alpha: float,
        decay: float,
        seed: int,
        is_partial: bool,
    ) -> None:
        self._matrix, self._index, self._alpha, self._is_partial = Matrix(stream), index, alpha, is_partial
        self._model: Any = None
        self._factors, self._seed, self._until_ms = factors, seed, 0
        self._recent, self._weight = np.zeros(HISTORY, np.int64), decay ** np.arange(HISTORY)
        self._item: F32 = np.zeros((0, factors), np.float32)
        self._gram: F64 = np.zeros((0, 0))
        self._known: Mask = np.zeros(0, np.bool_)

    def retrain(self, until_ms: int) -> None:
        """Fit anew, or solve the rows of the users and items that have something new."""
        matrix = self._matrix.before(until_ms)
        if self._model is None or not self._is_partial:
            self._model = importlib.import_module("implicit.cpu.als").AlternatingLeastSquares(
                factors=self._factors, regularization=REGULARIZATION, alpha=1 + self._alpha,
                iterations=ITERATIONS, num_threads=1, random_state=self._seed,
            )  # fmt: skip
            self._model.fit(matrix, show_progress=False)
        else:
            users, items = self._matrix.between(self._until_ms, until_ms)
            if len(users):
                self._model.partial_fit_users(users, matrix[users])
                self._model.partial_fit_items(items, matrix.T.tocsr()[items])
        self._until_ms = until_ms
        self.take(self._model.item_factors, np.asarray(matrix.sum(0)).ravel() > 0)

    def take(self, item: F32, known: Mask) -> None:
        """Rank by these vectors of items [I, F]; those that are not known cannot be told."""
        self._item, self._known = item, known
        self._gram = item.T.astype(np.float64) @ item + REGULARIZATION * np.eye(self._factors)

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """The dot product with the user's solution; items without a vector cannot be told."""
        recent = self._recent[: newest_distinct(self._index, user, before_ms, self._recent)]
        known = self._known[recent]
        item, weight = self._item[recent[known]].astype(np.float64), self._weight[: len(recent)][known]
        gram = self._gram + (item.T * (self._alpha * weight)) @ item
        vector = scipy.linalg.solve(
            gram, ((1 + self._alpha) * weight) @ item, assume_a="pos", check_finite=False
        )
        out[:] = self._item @ vector.astype(np.float32)
        out[~self._known] = -np.inf
