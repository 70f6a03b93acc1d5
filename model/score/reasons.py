"""Why items are in a user's list: what each part adds to a score, and the paths that lead to an item.

    Stage and weights of a ScoredLists ──► [reasons_of] ──► user_answers

The parts are those of ``Parts.scores``, and the paths those that ``paths.sums`` adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from driftgraph.model.score.bank import Later
from driftgraph.model.score.ranking import SHAPE, Parts, Reached, Stage
from driftgraph.model.score.scorer import (
    AGE,
    ATTRIBUTE_PATHS,
    BANK,
    KIN,
    OWN,
    PARTS,
    PATHS,
    SIMILAR_USERS,
    TASTE,
)
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.walks import paths
from driftgraph.stream.window.writer import Cut

WAYS_MAX: Final = 3  # of an item, those with the largest shares


class Way(NamedTuple):
    """The paths to an item that lead through one item of the user's own."""

    via: int  # row of the user's own item
    relation: int  # of the user's newest event with it,
    time_ms: int  # and the time of that
    users: int  # how many others lead from the one to the other
    share: float  # of the sum of all paths to the item


class Reason(NamedTuple):
    """What the score of one item is made of, by part; the parts add up to the score."""

    item: int  # row
    parts: Mapping[str, float]
    ways: Sequence[Way]


class OneUser(NamedTuple):
    """Whose list it is."""

    row: U32  # [1]
    vector: F32  # [1, D]
    time_ms: I64  # [1] only events strictly before it count
    cut: Cut


def reasons_of(stage: Stage, weight_F: F64, user: OneUser, items: U32, now_ms: int) -> list[Reason]:
    """The reasons of those of the items that are candidates of the stage, in the order given.

    ``now_ms`` is the time of the stage's popularity.

    Raises:
        StaleCut: Events of the cut were overwritten meanwhile.
    """
    now = np.array([now_ms], np.int64)
    popular = stage.popular(Later(np.zeros(0, np.uint32), now[:0], now), weight_F)
    parts = stage.parts(user.row, user.vector, user.time_ms, user.cut, popular)
    place = stage.place_of(items)
    kept = place >= 0
    by_part = {name: values[0, place[kept]] for name, values in by_part_of(parts, weight_F).items()}
    ways = _ways(stage, user, items[kept])
    return [
        Reason(item, {name: float(values[n]) for name, values in by_part.items()}, ways[n])
        for n, item in enumerate(items[kept].tolist())
    ]


def by_part_of(parts: Parts, weight_F: F64) -> dict[str, F32]:
    """[n, C] for each of ``scorer.PARTS``: together they are ``Parts.scores``."""
    weight, shape = weight_F.astype(np.float32), parts.vectors_nC.shape
    none = np.zeros(shape, np.float32)
    bank_nC = parts.bank_nC if weight[BANK].any() else none

    def spread(reached: Reached, worth_E: F32) -> F32:
        return reached.spread(worth_E, shape)

    taste_nC = through_nC = none
    if parts.tasted is not None:
        taste_nC = weight[TASTE] * parts.tasted.taste_nC + weight[KIN] * parts.tasted.kin_C
        through_nC = weight[ATTRIBUTE_PATHS] * parts.tasted.paths_nC
    made = {
        "vectors": weight[0] * parts.vectors_nC + weight[1] * parts.bias_C,
        "bank": none + bank_nC + weight[AGE] * parts.age_C,
        "paths": spread(parts.paths, weight[PATHS] * parts.paths.feature_E),
        "similar_users": spread(parts.similar_users, weight[SIMILAR_USERS] * parts.similar_users.feature_E),
        "own": spread(parts.own, parts.own.feature_E @ weight[OWN]),
        "taste": taste_nC,
        "attribute_paths": through_nC,
    }
    assert made.keys() == PARTS.keys()
    return made


def _ways(stage: Stage, user: OneUser, items: U32) -> list[list[Way]]:
    """For each item the own items that its paths lead through, the largest share first."""
    found = paths.walk(stage.view, user.row, user.time_ms, user.cut, SHAPE)
    worth, known = np.ones(len(found.via)), found.via < len(stage.worth)  # as ``paths.sums`` weighs them
    worth[known] = stage.worth[found.via[known]]
    weight = stage.tables.place[0][found.place] * stage.tables.lag[0][found.lag + SHAPE.lag] * worth
    made = []
    for item in items.tolist():
        at = np.flatnonzero((found.item == item) & (weight > 0))
        total, ways = weight[at].sum(), list[Way]()
        for via in np.unique(found.via[at]).tolist():
            through = at[found.via[at] == via]
            first = through[0]
            time_ms = int(user.time_ms[0] - found.via_age_ms[first])
            users = len(np.unique(found.visitor[through]))
            share = float(weight[through].sum() / total)
            ways.append(Way(via, int(found.via_relation[first]), time_ms, users, share))
        made.append(sorted(ways, key=lambda way: (-way.share, way.via))[:WAYS_MAX])
    return made
