"""What the worker tells of a user: its newest events, and why its list has the items that it has.

worker_socket ──► [UserAnswers.answer] ──► the window, the refresh ──► worker_socket
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from driftgraph.app.console.scorers import PARTS
from driftgraph.app.console.worker_socket import NoAnswerError
from driftgraph.app.publishing.refresher import GenerationRefresh, Refresher
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.score.ranking import SHAPE
from driftgraph.model.score.reasons import OneUser, Reason
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.stream.arrays import U32
from driftgraph.stream.walks import paths
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import StaleCut

TOP_MAX: Final = 1_000
TRIES: Final = 3  # a ring may move on while it is read
BY_PART: Final = {
    "vectors": "because the model's vectors of you and of this item are close",
    "bank": "because many choose this item now",
    "similar_users": "because users who share items with you chose this item",
    "own": "because you chose this item before",
    "taste": "because this item is like those that you choose",
    "attribute_paths": "because many choose this item now among those that are like your newest",
}


class UserAnswers:
    """Answers questions of other threads. The refresher's thread goes on between two answers."""

    def __init__(self, graph: HeterographView, refresher: Refresher) -> None:
        self._graph, self._refresher = graph, refresher
        self._relations = [relation.name for relation in graph.edges.relations]

    def warm_up(self) -> None:
        """Compile what only answers use, so that no round of the refresh waits for that at a question."""
        view = self._graph.edges
        with suppress(StaleCut):
            paths.walk(view, np.zeros(1, np.uint32), np.zeros(1, np.int64), view.cut(), SHAPE)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to ``{"ask": "recent" or "why", "user": …}``.

        Raises:
            NoAnswerError: It cannot be told.
        """
        for _ in range(TRIES):
            try:
                if question["ask"] == "recent":
                    return {"events": self._recent(question["user"], question["top"])}
                return {"items": self._why(question["generation"], question["user"], question["items"])}
            except StaleCut:
                continue
        raise NoAnswerError(
            "events leave their ring while they are read: raise window.capacity, and ask again later"
        )

    def _recent(self, user: str, top: int) -> list[dict[str, Any]] | None:
        """The newest events of a user, newest first; None if the window has none."""
        graph, moment = self._graph, self._graph.moment()
        [row] = graph.rows_of(USER, [user], moment)
        if row is None:
            return None
        view, top = graph.edges, min(top, TOP_MAX)
        before_ms = max(view.newest_ms(row) + 1, now_ms(view, moment.cut))
        near = view.recent(USER, np.array([row], np.uint32), np.array([before_ms]), top, moment.cut)
        real = np.arange(top) < near.count_BR[0][:, None]
        relation, time_ms, item = real.nonzero()[0], near.time_ms_BRK[0][real], near.neighbor_BRK[0][real]
        order = np.argsort(-time_ms, kind="stable")[:top]
        names = graph.names(ITEM, item[order], moment)
        events = [
            {"item": name, "behavior": self._relations[r], "event_ms": at_ms}
            for name, r, at_ms in zip(names, relation[order].tolist(), time_ms[order].tolist(), strict=True)
            if name is not None
        ]
        return events or None

    def _why(self, generation: int, user: str, items: Sequence[str]) -> list[dict[str, Any] | None]:
        """For each item what its score is made of; None for one that is no candidate now."""
        graph, moment = self._graph, self._graph.moment()
        [row] = graph.rows_of(USER, [user], moment)
        if row is None:
            raise NoAnswerError(f"the window has no event of user {user!r} any more")
        rows = graph.rows_of(ITEM, items, moment)
        known = np.array([one for one in rows if one is not None], np.uint32)
        with self._refresher.between_rounds(generation) as refresh:
            found = _reasons(refresh, self._graph, row, known, moment)
        vias = sorted({way.via for reason in found for way in reason.ways})
        names = dict(zip(vias, graph.names(ITEM, np.array(vias, np.uint32), moment), strict=True))
        told = {reason.item: self._told(reason, names) for reason in found}
        return [None if one is None else told.get(one) for one in rows]

    def _told(self, reason: Reason, names: Mapping[int, str | None]) -> dict[str, Any]:
        because = [
            {
                "item": names[way.via],
                "behavior": self._relations[way.relation],
                "event_ms": way.time_ms,
                "users": way.users,
                "share": way.share,
            }
            for way in reason.ways
            if names[way.via] is not None
        ]
        parts = {"popularity" if name == "bank" else name: value for name, value in reason.parts.items()}
        return {"parts": parts, "because": because, "says": says_of(reason.parts, because)}


def _reasons(
    refresh: GenerationRefresh, graph: HeterographView, row: int, items: U32, moment: Moment
) -> list[Reason]:
    """What the scores of these items are made of, for the user of a row, as its next list will be.

    Raises:
        NoAnswerError: The lists of the generation are not made of learned parts.
        StaleCut: Events of the moment were overwritten meanwhile.
    """
    serving, view, cut = refresh.serving, graph.edges, moment.cut
    maker = refresh.list_maker(moment)
    if serving.model is None or not isinstance(maker, ScoredLists):
        raise NoAnswerError(
            f"generation {serving.number} has no lists by a trained model: the parts of a score are known "
            "after the first fit"
        )
    rows = np.array([row], np.uint32)
    times_ms = np.array([max(view.newest_ms(row) + 1, now_ms(view, cut))], np.int64)
    vector = serving.model.users(view, rows, cut, times_ms)
    return maker.why(OneUser(rows, vector, times_ms, cut), moment, items)


def says_of(parts: Mapping[str, float], because: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: the strongest path, or the part that adds most where no path leads to the item."""
    if because and parts["paths"] > 0:
        first = because[0]
        others = "1 other user" if first["users"] == 1 else f"{first['users']:,} other users"
        return (
            f"because of your {first['behavior']} of {first['item']}: {others} with it chose this item, too"
        )
    return BY_PART[max((name for name in PARTS if name in BY_PART), key=lambda name: parts[name])]
