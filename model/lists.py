"""What is served before the first generation of the model: lists by co-visitation, then by popularity.

    live events at a cut ──► [Lists] ──► a list for each user, and vectors whose dot product is the popularity

They need no training, so a start has them within seconds.
"""

from __future__ import annotations

import numpy as np

from driftgraph.model.co_visitation import HISTORY, CoVisitation, top
from driftgraph.model.embed import Embedding, newest_events
from driftgraph.model.examples import half_lives_ms
from driftgraph.model.negatives import F32, F64, Popularity
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.adjacency import ITEM
from driftgraph.stream.events import U32
from driftgraph.stream.window import Cut, WindowView

MADE_BY = "co-visitation and popularity"  # in the manifest, where a model's generation says "model"
LIST_MAX = 50  # items of a list
POPULARITY_WORTH = 1e-6  # of a popular item's share: it orders what co-visitation leaves equal


class Lists:
    """Scores as of one cut.

    Always true: a list has the ``LIST_MAX`` best of the live items that the user has not touched, or all of
    them, best first.
    """

    def __init__(self, view: WindowView, cut: Cut, options: TrainerOptions) -> None:
        """Index the live events of ``cut``. O(live events · log live events)."""
        events = view.events(cut)
        rows = max(view.rows(ITEM), int(events.item.max(initial=0)) + 1)
        self._now_ms = int(events.time_ms[-1]) + 1 if len(events) else 0
        self._visits = CoVisitation(events, rows)
        popularity = Popularity(half_lives_ms(view.relations, options), rows)
        popularity.advance(events, self._now_ms)
        item_rows, self._item_event_ms = newest_events(events.item, events.time_ms)
        self._user_rows, self._user_event_ms = newest_events(events.user, events.time_ms)
        self._item_rows = item_rows
        self._log_share = popularity.features(item_rows)[:, 0]
        self._worth: F64 = np.zeros(rows)
        self._worth[item_rows] = (
            POPULARITY_WORTH * popularity.count[0, item_rows] / max(1e-12, popularity.count[0].sum())
        )
        self._popular, _ = top(item_rows, self._worth[item_rows], len(item_rows))
        self._dim = options.dim

    def of(self, touched: U32) -> tuple[U32, F64]:
        """The list of a user who touched these item rows, newest first: rows and scores, best first."""
        found, score = self._visits.near(touched[:HISTORY], self._now_ms)
        popular = self._popular[: LIST_MAX + len(touched)]
        rows = np.concatenate([found, popular[~np.isin(popular, found)]])
        score = np.concatenate([score, np.zeros(len(rows) - len(found))]) + self._worth[rows]
        kept = ~np.isin(rows, touched)
        return top(rows[kept], score[kept], LIST_MAX)

    def users(self, count: int) -> F32:
        """[count, D] vectors of users, all the same: the dot product with an item is its popularity."""
        vectors = np.zeros((count, self._dim), np.float32)
        vectors[:, -1] = 1
        return vectors

    def embedding(self) -> Embedding:
        """Every live user and item, with vectors that rank by the log of popularity alone."""
        items = np.zeros((len(self._item_rows), self._dim), np.float32)
        items[:, -1] = self._log_share
        return Embedding(
            self._user_rows,
            self.users(len(self._user_rows)),
            self._user_event_ms,
            self._item_rows,
            items,
            self._item_event_ms,
        )
