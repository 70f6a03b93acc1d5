"""What is served beside the live nodes: users and items without an event, by their attributes.

Embedding of the live nodes ──► [with_cold] ──► Embedding ──► Trainer.serving, publish
"""

from __future__ import annotations

import numpy as np

from driftgraph.model.network.embed import Embedding, Encoder, embed
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.score.ranking import with_new_items
from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.window.adjacency import ITEM, USER


def with_cold(encoder: Encoder, live: Embedding | None = None) -> Embedding:
    """The live nodes and those that have a row for their attributes alone; their newest event is at 0.

    ``live`` is what ``embed`` makes, where the caller has it.
    """
    live = embed(encoder) if live is None else live
    now, cold, view = now_ms(encoder.view, encoder.cut), encoder.cold, encoder.view
    user = cold.without_events(USER, view.row_versions(USER), live.user_rows, now)
    item = cold.without_events(ITEM, encoder.table.version, live.item_rows, now)
    if not len(user) and not len(item):
        return live
    users = encoder.users(user, np.full(len(user), now, np.int64))
    made = encoder.new_items(item, now)
    known = np.arange(len(live.item_rows) + len(item)) < len(live.item_rows)
    items = with_new_items(np.concatenate([live.item, made]), known, made)[len(live.item_rows) :]
    return Embedding(
        *_joined(live.user_rows, live.user, live.user_event_ms, user, users),
        *_joined(live.item_rows, live.item, live.item_event_ms, item, items),
    )


def _joined(rows: U32, vectors: F32, event_ms: I64, more: U32, made: F32) -> tuple[U32, F32, I64]:
    joined = np.concatenate([rows, more])
    order = np.argsort(joined)
    times_ms = np.concatenate([event_ms, np.zeros(len(more), np.int64)])
    return joined[order], np.concatenate([vectors, made])[order], times_ms[order]
