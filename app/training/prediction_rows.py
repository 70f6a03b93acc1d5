"""The scored events of an interval by external id, as a replay writes them to a file.

Predictions of an evaluation ──► [predictions_by_id] ──► PredictionRows ──► the file of a replay
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftgraph.model.evaluation.evaluate import Predictions
from driftgraph.model.score.ranking import NO_ITEM
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment


@dataclass(frozen=True, slots=True)
class PredictionRows:
    """Scored events by external id, with the best items, best first, of ``generation``'s model."""

    ts_ms: list[int]
    user_id: list[str]
    item_id: list[str]
    behavior: list[str]
    generation: int
    top_items: list[list[str]]


def predictions_by_id(
    graph: HeterographView,
    found: Predictions | None,
    generation: int,
    moment: Moment,
    former_names: Sequence[str | None],
) -> PredictionRows | None:
    """The scored events of an interval that ended at ``moment``, with the best items of a generation's model.

    ``former_names`` are those of the item rows at the interval's begin, for items that have left the window
    since. An item that came and went in between has an empty name.
    """
    if found is None:
        return None
    relations = [relation.name for relation in graph.edges.relations]
    ranked = np.unique(found.top_items[found.top_items != NO_ITEM])
    former = np.array([*former_names, *[None] * (int(ranked.max(initial=0)) + 1)], object)[ranked]
    now = graph.names(ITEM, ranked, moment)
    names = {row: new or old or "" for row, new, old in zip(ranked.tolist(), now, former, strict=True)}
    return PredictionRows(
        ts_ms=found.time_ms.tolist(),
        user_id=[name or "" for name in graph.names(USER, found.user, moment)],
        item_id=[name or "" for name in graph.names(ITEM, found.item, moment)],
        behavior=[relations[r] for r in found.relation.tolist()],
        generation=generation,
        top_items=[[names[row] for row in rows if row != NO_ITEM] for rows in found.top_items.tolist()],
    )
