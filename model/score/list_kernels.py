"""The loops of ``ranking.Stage.best``: each user's best candidates by the scorer's sum.

    Reached parts and dot products of n users ──► [best] ──► ScoredLists

A user's scores are added up in a row that stays in the processor's cache. They are those of ``Parts.scores``,
added in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.kernels.atomics import load
from driftgraph.stream.kernels.compile import helper, kernel


class Added(NamedTuple):
    """What a part adds to scores: of user n the pairs ``bounds_N1[n]`` to ``bounds_N1[n + 1]``."""

    bounds_N1: I64
    place_E: I64
    worth_E: F32


class Sums(NamedTuple):
    """n users and C candidates. ``taste_nC`` is flat and weighted; it is empty where there are no tastes."""

    vectors_nC: F32  # flat, weighted by ``vectors``
    vectors: F32  # [1]
    bank_C: F32
    common_C: F32  # of bias and age
    paths: Added
    similar_users: Added
    own: Added
    taste_nC: F32
    gone_C: Mask  # candidates that are in no list
    first: int  # the number that user 0 has in the bounds
    touched_N1: I64  # places that user n may not have
    touched: I64


class Lists(NamedTuple):
    """The best ``width`` places and scores of each user, flat, and how many there are."""

    place: U32
    score: F64
    count_n: I64
    width: int


@helper
def _add(row_C: F32, part: Added, user: int) -> None:  # pragma: no cover - compiled
    for at in range(load(part.bounds_N1, user), load(part.bounds_N1, user + 1)):
        row_C[load(part.place_E, at)] += load(part.worth_E, at)


@helper
def _is_worse(out: Lists, one: int, other: int) -> Any:  # pragma: no cover - compiled
    """Whether the entry ``one`` is behind ``other``: of equal scores the later candidate is."""
    mine, theirs = load(out.score, one), load(out.score, other)
    return mine < theirs or (mine == theirs and load(out.place, one) > load(out.place, other))


@helper
def _swap(out: Lists, one: int, other: int) -> None:  # pragma: no cover - compiled
    place, score = load(out.place, one), load(out.score, one)
    out.place[one], out.score[one] = load(out.place, other), load(out.score, other)
    out.place[other], out.score[other] = place, score


@helper
def _sink(out: Lists, begin: int, at: int, count: int) -> None:  # pragma: no cover - compiled
    """Restore the heap of ``count`` entries from ``begin`` on, the worst first, below the entry ``at``."""
    while 2 * at + 1 < count:
        worst = 2 * at + 1
        if worst + 1 < count and _is_worse(out, begin + worst + 1, begin + worst):
            worst += 1
        if not _is_worse(out, begin + worst, begin + at):
            break
        _swap(out, begin + worst, begin + at)
        at = worst


@helper
def _choose(row_C: F32, gone_C: Mask, out: Lists, first: int) -> int:  # pragma: no cover - compiled
    """Write the best of a row into ``out`` from ``first`` on; return how many they are."""
    kept = 0
    least = np.float32(-np.inf)
    for c in range(len(row_C)):
        score = load(row_C, c)
        if not score > least or gone_C[c]:
            continue
        if kept < out.width:
            out.place[first + kept], out.score[first + kept] = c, score
            kept += 1
            if kept < out.width:
                continue
            for at in range(kept // 2 - 1, -1, -1):
                _sink(out, first, at, kept)
        else:
            out.place[first], out.score[first] = c, score
            _sink(out, first, 0, kept)
        least = np.float32(load(out.score, first))
    if kept < out.width:
        for at in range(kept // 2 - 1, -1, -1):
            _sink(out, first, at, kept)
    for last in range(kept - 1, 0, -1):
        _swap(out, first, first + last)
        _sink(out, first, 0, last)
    return kept


@kernel
def best(sums: Sums, begin: int, end: int, row_C: F32, out: Lists) -> None:  # pragma: no cover - compiled
    """Fill in the lists of the users ``begin`` to ``end``: best first, of equals the earlier candidate.

    ``row_C`` is memory to work in.
    """
    count_C, vectors = len(row_C), sums.vectors[0]
    for n in range(begin, end):
        user = sums.first + n
        for c in range(count_C):
            dot = load(sums.vectors_nC, n * count_C + c) * vectors
            row_C[c] = (dot + load(sums.bank_C, c)) + load(sums.common_C, c)
        _add(row_C, sums.paths, user)
        _add(row_C, sums.similar_users, user)
        _add(row_C, sums.own, user)
        if len(sums.taste_nC):
            for c in range(count_C):
                row_C[c] += load(sums.taste_nC, n * count_C + c)
        for at in range(load(sums.touched_N1, user), load(sums.touched_N1, user + 1)):
            row_C[load(sums.touched, at)] = -np.inf
        out.count_n[n] = _choose(row_C, sums.gone_C, out, n * out.width)
