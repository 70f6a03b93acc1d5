"""What the model must beat, scored on the same events: recent popularity and co-visitation.

Both are as of each event, from strictly earlier events of the window; they need no fit and keep no state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.score.co_visitation import CoVisitation
from driftgraph.stream.arrays import F64, I64, U32
from driftgraph.stream.window.writer import Events


def popularity_ranks(
    events: Events,
    targets: Events,
    column: I64,
    candidate: U32,
    excluded: list[I64],
    *,
    half_life_ms: float,
    rows: int,
) -> F64:
    """Rank of each target's item by decayed popularity at the event's time; inf where it is no candidate.

    Args:
        events: All events, sorted by time; those at or after a target are not looked at.
        targets: What to rank, sorted by time.
        column: Place of each target's item in ``candidate``, −1 if it is not there.
        candidate: Rows that compete.
        excluded: For each target the places in ``candidate`` that do not compete.
        half_life_ms: Of the popularity.
        rows: Item rows in use.
    """
    popularity = Popularity([half_life_ms], rows)
    ranks = np.full(len(targets), np.inf)
    for n in range(len(targets)):
        if column[n] < 0:
            continue
        popularity.advance(events, int(targets.time_ms[n]))
        ranks[n] = rank_of(popularity.count[0, candidate], int(column[n]), excluded[n])
    return ranks


def rank_of(score: npt.NDArray[np.floating], column: int, excluded: I64) -> float:
    """1 for the best, ties at their mean rank; excluded places do not compete; −inf and NaN rank nowhere."""
    own = score[column]
    if not own > -np.inf:
        return np.inf
    better = int((score > own).sum()) - int((score[excluded] > own).sum())
    equal = int((score == own).sum()) - int((score[excluded] == own).sum())
    return better + (equal - 1) / 2 + 1


def co_visitation_ranks(
    events: Events, targets: Events, column: I64, candidate: U32, excluded: list[I64], *, rows: int
) -> F64:
    """Rank of each target's item among what was visited near the user's newest items; inf as above.

    The score is that of ``CoVisitation.near``; an item that is not near has none.
    """
    ranks = np.full(len(targets), np.inf)
    visits = CoVisitation(events, rows)
    score = np.zeros(rows)
    for n in np.flatnonzero(column >= 0).tolist():
        time_ms = int(targets.time_ms[n])
        found, near = visits.near(visits.histories.newest(int(targets.user[n]), time_ms), time_ms)
        score[found] = near
        ranks[n] = rank_of(score[candidate], int(column[n]), excluded[n])
        score[found] = 0
    return ranks
