"""What is served before the first model version: lists by co-visitation, then by popularity.

    live events at a cut ──► [Lists] ──► a list for each user, and vectors whose dot product is the popularity

They need no training, so a start has them within seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftgraph.model.co_visitation import CoVisitation
from driftgraph.model.embed import Embedding, newest_events
from driftgraph.model.examples import half_lives_ms
from driftgraph.model.options import TrainerOptions
from driftgraph.model.popularity import Popularity
from driftgraph.stream.arrays import F32, F64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, WindowView

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
        self._view, self._versions = view, view.row_versions(ITEM).copy()
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
        self._popular = item_rows[np.argsort(-self._worth[item_rows], kind="stable")]
        self._dim = options.dim

    def of(self, touched: Sequence[U32]) -> list[tuple[U32, F64]]:
        """The lists of N users who touched these item rows, newest first: rows and scores, best first."""
        bounds = np.concatenate([[0], np.cumsum([len(rows) for rows in touched])]).astype(np.int64)
        joined = np.concatenate(touched) if len(touched) else np.zeros(0, np.uint32)
        owned = self._still_owned()
        known = joined < len(owned)  # an item that came after the cut has no place here
        known[known] = owned[joined[known]]
        bounds = np.concatenate([[0], np.cumsum(known)])[bounds]
        rows, score, lengths = self._visits.best(
            joined[known], bounds, self._now_ms, self._popular, self._worth, LIST_MAX
        )
        made = []
        for n, length in enumerate(lengths.tolist()):
            kept = owned[rows[n, :length]]
            made.append((rows[n, :length][kept], score[n, :length][kept]))
        return made

    def _still_owned(self) -> Mask:
        """[rows] whether the item of a row is that of the cut: a row may have changed hands since."""
        now = self._view.row_versions(ITEM)
        owned = np.zeros(len(self._worth), np.bool_)
        known = min(len(owned), len(now), len(self._versions))
        owned[:known] = self._versions[:known] == now[:known]
        return owned

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
