"""Test, then train: how well the serving model ranks the events that it is about to be trained on.

    events of [since, cut) ──► [evaluate] by model version n ──► Evaluation ──► manifest, report

A target is the first contact of a user and an item. It competes with every item that was live at ``since``
and that the user had not touched. Users are as of their event, from strictly earlier events; items are as
published, because that is what readers rank. Ties count at their mean rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.baselines import co_visitation_ranks, popularity_ranks
from driftgraph.model.co_visitation import Histories
from driftgraph.model.embed import Embedding, Encoder
from driftgraph.model.examples import before, first_contacts, half_lives_ms, identity, take
from driftgraph.stream.arrays import F32, F64, I64, U8, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Events, WindowView

NO_ITEM = np.uint32(0xFFFF_FFFF)  # in predictions, where fewer items compete than places
SCORE_CHUNK = 256  # users ranked at once, against all candidates
HEAD_SHARE = 0.5  # the head are the items that made this share of the events before

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Published:
    """Vectors as they were published, by row; a row that has changed its owner since is unknown.

    ``user_rows`` is empty where only the items are kept. Rows ascend.
    """

    user_rows: I64
    user: F32
    user_version: I64
    item_rows: I64
    item: F32
    item_version: I64

    @classmethod
    def of(cls, embedding: Embedding, versions: tuple[U32, U32], *, with_users: bool) -> Published:
        """Keep what an embedding publishes, with the owners of the rows at that time (users, items)."""
        users = slice(None) if with_users else slice(0)
        return cls(
            embedding.user_rows[users].astype(np.int64),
            embedding.user[users],
            versions[USER][embedding.user_rows[users]].astype(np.int64),
            embedding.item_rows.astype(np.int64),
            embedding.item,
            versions[ITEM][embedding.item_rows].astype(np.int64),
        )

    def users(self, rows: U32, version: U32) -> tuple[F32, Mask]:
        """[n, D] and whether each is known; zeros where not."""
        return _look_up(self.user_rows, self.user, self.user_version, rows, version)

    def items(self, rows: U32, version: U32) -> tuple[F32, Mask]:
        """[n, D] and whether each is known; zeros where not."""
        return _look_up(self.item_rows, self.item, self.item_version, rows, version)

    def state_dict(self) -> dict[str, Tensor]:
        """As tensors."""
        return {name: torch.from_numpy(getattr(self, name)) for name in PUBLISHED_COLUMNS}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Published:
        """From ``state_dict``."""
        return cls(*(state[name].numpy() for name in PUBLISHED_COLUMNS))


PUBLISHED_COLUMNS = ("user_rows", "user", "user_version", "item_rows", "item", "item_version")


@dataclass(frozen=True, slots=True)
class Predictions:
    """For each scored event the best items of the serving model, best first, ``NO_ITEM`` behind the last."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64
    top_items: U32  # [n, top]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one interval, by scorer: ``model`` and ``frozen_first`` (from model version 1 on),
    ``recent_popularity``, ``co_visitation``; each ``recall_at_20``, ``ndcg_at_20``, ``mrr_at_20``.

    Always true: every scorer was scored on the same ``event_count`` events; metrics and shares of no event
    are nan. An item that was not live at ``since`` is a miss for all of them, and their share is
    ``new_item_share``. The frozen first model version answers with the vectors it published: a user or item
    it did not have is a miss.
    """

    model_version: int  # that was evaluated; 0 before the first
    target_count: int  # first contacts in the interval
    event_count: int  # of them scored
    not_scored_late: int  # at or before the newest event that the serving items may have seen
    candidate_count: int
    new_item_share: float
    cold_user_share: float  # without an earlier event
    metrics: dict[str, Metrics]
    by_behavior: dict[str, dict[str, Metrics]]
    slices: dict[str, dict[str, Metrics]]  # warm and cold users, head and tail items
    counts: dict[str, int]  # events of each behavior and slice
    predictions: Predictions | None  # None before model version 1


def evaluate(
    view: WindowView,
    since: Cut,
    cut: Cut,
    *,
    encoder: Encoder,
    model_version: int,
    serving: Published | None,
    first: Published | None,
    evaluations_max: int,
) -> Evaluation:
    """Rank the first contacts of [since, cut); see the module for the protocol. Reads only.

    At most ``evaluations_max`` events are scored, drawn by the seed and the cut.
    """
    options = encoder.network.options
    old, new = view.events(before(since, cut)), view.events(cut, since)
    events = _merged(old, new)
    seen_ms = int(old.time_ms[-1]) if len(old) else -1
    contacts = take(new, np.isin(identity(new), first_contacts(events)))
    scorable = take(contacts, contacts.time_ms > seen_ms)
    late = len(contacts) - len(scorable)
    if len(old) == 0:  # nothing competes: a miss would say nothing of any scorer
        scorable = take(scorable, slice(0, 0))
    rng = np.random.default_rng((options.seed, max(cut.watermark_ms, 0), *since.next))
    chosen = np.arange(len(scorable))
    if len(chosen) > evaluations_max:
        chosen = np.sort(rng.choice(len(scorable), evaluations_max, replace=False))
    targets = take(scorable, chosen)

    candidate = np.unique(old.item)
    rows = max(view.rows(ITEM), int(events.item.max(initial=0)) + 1)
    place = np.full(rows, -1, np.int64)
    place[candidate] = np.arange(len(candidate))
    column = place[targets.item] if len(targets) else np.zeros(0, np.int64)
    histories = Histories.of(events)
    touched, warm = _touched(histories, targets, place)

    ranks = {
        "recent_popularity": popularity_ranks(
            events,
            targets,
            column,
            candidate,
            touched,
            half_life_ms=half_lives_ms(view.relations, options)[0],
            rows=rows,
        ),
        "co_visitation": co_visitation_ranks(events, targets, column, candidate, touched, rows=rows),
    }
    predictions = None
    if serving is not None:
        item, known = serving.items(candidate, view.row_versions(ITEM))
        user = encoder.users(targets.user, targets.time_ms)
        ranks["model"], top = dot_product_ranks(user, item, known, column, touched, candidate, options.top)
        predictions = Predictions(targets.user, targets.item, targets.relation, targets.time_ms, top)
    if first is not None:
        item, known = first.items(candidate, view.row_versions(ITEM))
        user, user_known = first.users(targets.user, view.row_versions(USER))
        frozen, _ = dot_product_ranks(user, item, known, column, touched, candidate, options.top)
        ranks["frozen_first"] = np.where(user_known, frozen, np.inf)
    return _summary(view, targets, old, ranks, column, warm, options.top, model_version, predictions,
                    len(contacts), late, len(candidate))  # fmt: skip


def metrics_of(ranks: F64, top: int) -> Metrics:
    """Recall, NDCG and MRR at ``top`` of one relevant item each; nan without events."""
    if len(ranks) == 0:
        return {f"{name}_at_{top}": float("nan") for name in ("recall", "ndcg", "mrr")}
    hit = ranks <= top
    kept = np.where(hit, ranks, 1.0)
    return {
        f"recall_at_{top}": float(hit.mean()),
        f"ndcg_at_{top}": float((hit / np.log2(kept + 1)).mean()),
        f"mrr_at_{top}": float((hit / kept).mean()),
    }


def _summary(
    view: WindowView,
    targets: Events,
    old: Events,
    ranks: dict[str, F64],
    column: I64,
    warm: Mask,
    top: int,
    model_version: int,
    predictions: Predictions | None,
    target_count: int,
    late: int,
    candidate_count: int,
) -> Evaluation:
    head = np.isin(targets.item, _head(old))
    parts = {"warm": warm, "cold": ~warm, "head": head, "tail": ~head}
    behaviors = {r.name: targets.relation == n for n, r in enumerate(view.relations)}

    def split(masks: Mapping[str, Mask]) -> dict[str, dict[str, Metrics]]:
        return {
            name: {scorer: metrics_of(rank[mask], top) for scorer, rank in ranks.items()}
            for name, mask in masks.items()
            if mask.any()
        }

    return Evaluation(
        model_version=model_version,
        target_count=target_count,
        event_count=len(targets),
        not_scored_late=late,
        candidate_count=candidate_count,
        new_item_share=_share(column < 0),
        cold_user_share=_share(~warm),
        metrics={scorer: metrics_of(rank, top) for scorer, rank in ranks.items()},
        by_behavior=split(behaviors),
        slices=split(parts),
        counts={name: int(mask.sum()) for name, mask in {**behaviors, **parts}.items()},
        predictions=predictions,
    )


def _share(chosen: Mask) -> float:
    return float(chosen.mean()) if len(chosen) else float("nan")


def dot_product_ranks(
    user_ND: F32,
    item_ID: F32,
    known_I: Mask,
    column: I64,
    touched: list[I64],
    candidate: U32,
    top: int,
) -> tuple[F64, U32]:
    """Rank of each target by dot product (inf where it is no known candidate), and the best rows."""
    ranks, best = np.full(len(user_ND), np.inf), np.full((len(user_ND), top), NO_ITEM, np.uint32)
    if len(candidate) == 0:
        return ranks, best
    item_T = torch.from_numpy(item_ID).T
    unknown = torch.from_numpy(~known_I)
    width = min(top, len(candidate))
    for start in range(0, len(user_ND), SCORE_CHUNK):
        part = range(start, min(start + SCORE_CHUNK, len(user_ND)))
        score = torch.from_numpy(user_ND[part.start : part.stop]) @ item_T
        score[:, unknown] = -torch.inf
        row = np.repeat(np.arange(len(part)), [len(touched[n]) for n in part])
        score[
            torch.from_numpy(row), torch.from_numpy(np.concatenate([touched[n] for n in part]))
        ] = -torch.inf
        at = torch.from_numpy(np.maximum(column[part.start : part.stop], 0)).unsqueeze(1)
        own = score.gather(1, at)
        better, equal = (score > own).sum(1), (score == own).sum(1)
        rank = (better + (equal - 1) / 2 + 1).double().numpy()
        valid = (column[part.start : part.stop] >= 0) & (own.squeeze(1) > -torch.inf).numpy()
        ranks[part.start : part.stop] = np.where(valid, rank, np.inf)
        value, index = torch.topk(score, width, dim=1)
        best[part.start : part.stop, :width] = np.where(
            (value > -torch.inf).numpy(), candidate[index.numpy()], NO_ITEM
        )
    return ranks, best


def _touched(histories: Histories, targets: Events, place: I64) -> tuple[list[I64], Mask]:
    """For each target the candidates its user touched strictly before, and whether it had any event."""
    touched: list[I64] = []
    warm = np.zeros(len(targets), np.bool_)
    for n, (user, time_ms) in enumerate(zip(targets.user.tolist(), targets.time_ms.tolist(), strict=True)):
        begin, end = histories.begin(user), histories.end_before(user, time_ms)
        at = place[np.unique(histories.item[begin:end])]
        touched.append(at[at >= 0])
        warm[n] = end > begin
    return touched, warm


def _head(old: Events) -> U32:
    """The fewest items that made half of the events."""
    if len(old) == 0:
        return old.item
    count = np.bincount(old.item)
    order = np.argsort(-count, kind="stable")
    needed = int(np.searchsorted(np.cumsum(count[order]), HEAD_SHARE * len(old))) + 1
    return order[:needed].astype(np.uint32)


def _merged(old: Events, new: Events) -> Events:
    """Both, sorted by time, the older arrivals first where times tie."""
    joined = Events(
        np.concatenate([old.user, new.user]),
        np.concatenate([old.item, new.item]),
        np.concatenate([old.relation, new.relation]),
        np.concatenate([old.time_ms, new.time_ms]),
    )
    return take(joined, np.argsort(joined.time_ms, kind="stable"))


def _look_up(rows: I64, vectors: F32, versions: I64, wanted: U32, version_now: U32) -> tuple[F32, Mask]:
    found = np.zeros((len(wanted), vectors.shape[1]), np.float32)
    known = np.zeros(len(wanted), np.bool_)
    if len(rows):
        at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        known = (rows[at] == wanted) & (versions[at] == version_now[wanted])
        found[known] = vectors[at[known]]
    return found, known
