"""Test, then train: how well the serving model ranks the events that it is about to be trained on.

    events of [since, cut) ──► [evaluate] by model version n ──► Evaluation ──► manifest, report
                                     └──► Lessons ──► the scorer, in the fit that follows

A target is the first contact of a user and an item, or any event where items may be repeated
(``TrainerOptions.repeats``). It competes with every item that was seen before it, or that was published
without an event, and that the user had not touched. Everything is as of the target's time, from strictly
earlier events, but for the published vectors of items; an item that has come since has a vector from its
users so far. Ties count at their mean rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from driftgraph.model.evaluation.baselines import co_visitation_ranks, popularity_ranks
from driftgraph.model.evaluation.slices import slices_of
from driftgraph.model.evaluation.targets import Past, Targets, cold_of
from driftgraph.model.examples.examples import before, first_contacts, half_lives_ms, is_held, once, take
from driftgraph.model.fitting.beginning import ANEW, anew_vectors
from driftgraph.model.fitting.published import Published
from driftgraph.model.network.embed import Encoder
from driftgraph.model.score.bank import Bank, Later, later_of
from driftgraph.model.score.ranking import NO_ITEM, Parts, Stage, best_of, ranks_of, with_new_items
from driftgraph.model.score.scorer import PARTS, Learned, Lessons, Scorer, alone, joined
from driftgraph.stream.arrays import F32, F64, I64, U8, U32, Mask
from driftgraph.stream.walks.event_index import EventIndexes
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Events, WindowView

CHUNK = 256  # targets ranked at once, against all candidates
CELLS_MAX = 1 << 23  # of a chunk's scores: fewer targets at once in a large catalog
MOMENTS = 64  # of an interval at least where items have attributes: new items have theirs from then on

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Predictions:
    """For each scored event the best items of the serving model, best first, ``NO_ITEM`` behind the last."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64
    top_items: U32  # [n, top]


@dataclass(frozen=True, slots=True)
class Staleness:
    """How vectors that were published some fits ago would rank today's targets, users and items as of then.

    ``vectors`` are those that are served, on the same ``event_count`` targets, with users as of now. A user
    or an item that was not there then is a miss. Ages that are not kept are missing.
    """

    event_count: int
    vectors: Metrics
    fits_ago: dict[int, Metrics]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one interval, by scorer, each ``recall_at_20``, ``ndcg_at_20``, ``mrr_at_20``.

    The scorers: ``model``, the sum that lists are made by; ``vectors``, the dot product of what is published;
    the other parts alone, as ``scorer.PARTS`` names them; ``frozen_first``; ``started_anew``; and the
    baselines ``recent_popularity`` and ``co_visitation``. The model, its vectors, the frozen first and the
    one started anew are there from model version 1 on.

    Always true: every scorer was scored on the same ``event_count`` events; metrics and shares of no event
    are nan. An item that nobody had touched before the event, and that no catalog told of, is a miss for all
    of them, and their share is ``new_item_share``. The frozen first model version answers with the vectors it
    published: a user or item it did not have is a miss. The model started anew answers with vectors in closed
    form of the events before the interval, without training: what a restart today would begin with.
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
    slices: dict[str, dict[str, Metrics]]  # warm and cold users, head and tail items, items since the fit
    counts: dict[str, int]  # events of each behavior and slice
    shares: dict[str, float]  # how much each part moves the scores; sums to 1
    predictions: Predictions | None  # None before model version 1
    lessons: Lessons
    staleness: Staleness | None = None  # of older generations; filled in by the trainer, which has them


@dataclass(frozen=True, slots=True)
class Scored:
    """What was ranked, for whoever ranks it by other vectors: see ``published_ranks``."""

    past: Past
    targets: Targets
    vector_ranks: F64 | None  # by the served vectors; None before model version 1


def evaluate(
    view: WindowView,
    since: Cut,
    cut: Cut,
    *,
    encoder: Encoder,
    scorer: Scorer,
    model_version: int,
    serving: Published | None,
    first: Published | None,
    evaluations_max: int,
) -> tuple[Evaluation, Scored]:
    """Rank the first contacts of [since, cut); see the module for the protocol. Reads only.

    At most ``evaluations_max`` events are scored, drawn by the seed and the cut.
    """
    options = encoder.network.options
    old, new = view.events(before(since, cut)), view.events(cut, since)
    cold = None if serving is None else cold_of(serving, old, view, encoder)
    past = Past.of(_merged(old, new), cold)
    seen_ms = int(old.time_ms[-1]) if len(old) else -1
    asked_of = new if options.repeats else take(new, first_contacts(new, past.events))
    contacts = once(asked_of)
    late = int((contacts.time_ms <= seen_ms).sum())
    competes = len(old) > 0  # else a miss would say nothing of any scorer
    scorable = take(contacts, (contacts.time_ms > seen_ms) & competes)
    rng = np.random.default_rng((options.seed, max(cut.watermark_ms, 0), *since.next))
    chosen = np.arange(len(scorable))
    if len(chosen) > evaluations_max:
        chosen = np.sort(rng.choice(len(scorable), evaluations_max, replace=False))
    targets = past.targets(take(scorable, chosen), repeats=options.repeats)
    ranked = rank(past, targets, encoder=encoder, scorer=scorer, serving=serving)
    ranks = dict(ranked.ranks)
    if first is not None:
        ranks["frozen_first"] = published_ranks(past, targets, view, first)
    if serving is not None:
        user, item = anew_vectors(view, cut, old, targets.events, past.candidate, options)
        ranks[ANEW] = _dot_ranks(past, targets, user, item, np.isin(past.candidate, old.item))
    rows = max(view.rows(ITEM), int(past.events.item.max(initial=0)) + 1)
    asked = (past.events, targets.events, targets.column, past.candidate, targets.excluded)
    half_life_ms = half_lives_ms(view.relations, options)[0]
    ranks["recent_popularity"] = popularity_ranks(*asked, half_life_ms=half_life_ms, rows=rows)
    ranks["co_visitation"] = co_visitation_ranks(*asked, rows=rows)
    behaviors = {r.name: targets.events.relation == n for n, r in enumerate(view.relations)}
    slices = slices_of(targets, past, old, view, serving)
    found = Evaluation(
        model_version=model_version,
        target_count=len(contacts),
        event_count=len(targets.events),
        not_scored_late=late,
        candidate_count=len(past.candidate),
        new_item_share=_share(targets.column < 0),
        cold_user_share=_share(~targets.warm),
        metrics={name: metrics_of(rank, options.top) for name, rank in ranks.items()},
        by_behavior=_split(ranks, behaviors, options.top),
        slices=_split(ranks, slices, options.top),
        counts={name: int(mask.sum()) for name, mask in {**behaviors, **slices}.items()},
        shares=scorer.shares(ranked.lessons),
        predictions=ranked.predictions if serving is not None else None,
        lessons=ranked.lessons,
    )
    return found, Scored(past, targets, ranks.get("vectors"))


def held_out_lessons(
    view: WindowView, cut: Cut, encoder: Encoder, scorer: Scorer, serving: Published
) -> Lessons:
    """What there is to learn of the newest held-out events, for a first model, which nothing was scored with.

    The model has not been trained on these events, but on events around them: it looks better than it is.
    """
    options = encoder.network.options
    past = Past.of(view.events(cut))
    held = once(take(past.events, is_held(past.events, options)))
    if not options.repeats:
        held = take(held, first_contacts(held, past.events))
    newest = take(held, slice(max(len(held) - options.evaluations_max, 0), None))
    targets = past.targets(newest, repeats=options.repeats)
    chunks = _scored(past, targets, encoder=encoder, scorer=scorer, serving=serving)
    return joined([one.lessons() for one in chunks])


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ranks of targets by the sum and by each of its parts, the best items, and what there is to learn."""

    ranks: dict[str, F64]
    predictions: Predictions
    lessons: Lessons


def rank(
    past: Past,
    targets: Targets,
    *,
    encoder: Encoder,
    scorer: Scorer,
    serving: Published | None,
) -> Ranked:
    """Rank targets by the scorer's sum and by each part alone, each as of its own time.

    ``vectors`` are ranked as a service does that reads vectors alone.
    """
    options = encoder.network.options
    has_tastes = encoder.cold.item_attributes is not None
    left_out = {"vectors", *["own"] * (not options.repeats), *["taste", "attribute_paths"] * (not has_tastes)}
    weights = {part: alone(part, scorer.mean_F) for part in sorted(PARTS.keys() - left_out)}
    if serving is not None:
        weights["model"] = scorer.weight_F
    ranks: dict[str, list[F64]] = {name: [] for name in (*weights, *["vectors"] * (serving is not None))}
    tops: list[U32] = []
    lessons: list[Learned] = []
    for one in _scored(past, targets, encoder=encoder, scorer=scorer, serving=serving):
        for name, weight in weights.items():
            ranks[name].append(ranks_of(one.parts.scores(weight), one.column, one.excluded_nC))
        if serving is not None:
            read = np.where(one.is_published_C, one.parts.vectors_nC + one.parts.bias_C, -np.inf)
            ranks["vectors"].append(ranks_of(read, one.column, one.excluded_nC))
        tops.append(best_of(one.scores_nC, one.excluded_nC, one.stage.candidate, options.top)[0])
        lessons.append(one.lessons())
    top, chosen = np.concatenate(tops) if tops else np.zeros((0, options.top), np.uint32), targets.events
    predictions = Predictions(chosen.user, chosen.item, chosen.relation, chosen.time_ms, top)
    joined_ranks = {name: np.concatenate(own) if own else np.zeros(0) for name, own in ranks.items()}
    return Ranked(joined_ranks, predictions, replace(joined(lessons), listed=_listed(top)))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """n targets with the scores of all candidates."""

    stage: Stage
    parts: Parts
    scores_nC: F32  # by the scorer's sum
    excluded_nC: Mask
    column: I64
    later: Later
    is_published_C: Mask

    def lessons(self) -> Learned:
        return self.stage.lessons(self.parts, self.scores_nC, self.excluded_nC, self.column, self.later)


def _scored(
    past: Past, targets: Targets, *, encoder: Encoder, scorer: Scorer, serving: Published | None
) -> Iterator[_Chunk]:
    """The targets in order of time, as many at once as the catalog allows."""
    chosen = targets.events
    moments, has_attributes = _Moments(past, encoder, serving), encoder.cold.item_attributes is not None
    for part in _chunks(chosen.time_ms, _targets_at_once(past), MOMENTS if has_attributes else 1):
        at_ms = chosen.time_ms[part]
        stage = moments.stage(int(at_ms[0]))
        later = later_of(past.events, moments.done, at_ms)
        user = encoder.users(chosen.user[part], at_ms)
        excluded_nC = _excluded(past, targets, part)
        popular = stage.popular(later, scorer.mean_F)
        parts = stage.parts(chosen.user[part], user, at_ms, encoder.cut, popular)
        scores_nC, column = parts.scores(scorer.weight_F), targets.column[part]
        yield _Chunk(stage, parts, scores_nC, excluded_nC, column, later, moments.is_published_C)


def _listed(top_NK: U32) -> U32:
    """The distinct items of lists, ascending."""
    listed: U32 = np.unique(top_NK[top_NK != NO_ITEM])
    return listed


class _Moments:
    """The stages of an evaluation, one after the other in time."""

    def __init__(self, past: Past, encoder: Encoder, serving: Published | None) -> None:
        self._past, self._encoder, self._indexes = past, encoder, EventIndexes(encoder.view)
        self._bank = Bank(encoder.view.rows(ITEM), int(past.events.time_ms[0]) if len(past.events) else 0)
        self.done = 0  # events that are counted
        self._item_CD: F32 = np.zeros((len(past.candidate), encoder.table.dim), np.float32)
        self.is_published_C = np.ones(len(past.candidate), np.bool_)
        if serving is not None:
            self._item_CD, self.is_published_C = serving.items(
                past.candidate, encoder.view.row_versions(ITEM)
            )

    def stage(self, time_ms: int) -> Stage:
        """The stage of a moment; the next one is later."""
        events, stop = self._past.events, int(np.searchsorted(self._past.events.time_ms, time_ms, "left"))
        self._bank.advance(time_ms)
        self._bank.add(events.item[self.done : stop], events.time_ms[self.done : stop])
        self.done = stop
        encoder, candidate = self._encoder, self._past.candidate
        repeats = encoder.network.options.repeats
        own = encoder.cold.item_attributes
        items = self._items(time_ms)
        return Stage(
            encoder.view, self._bank, candidate, items, repeats=repeats, attributes=own, indexes=self._indexes
        )  # fmt: skip

    def _items(self, time_ms: int) -> F32:
        """Vectors of all candidates. One that was published without an event is new with its first."""
        is_touched_C = self._past.first_ms_C < time_ms
        known_C = self.is_published_C & ~(self._past.is_cold_C & is_touched_C)
        new = np.flatnonzero(~known_C & is_touched_C)
        made = self._encoder.new_items(self._past.candidate[new], time_ms)
        return with_new_items(self._item_CD, known_C, made, new)


def _targets_at_once(past: Past) -> int:
    return max(1, min(CHUNK, CELLS_MAX // max(len(past.candidate), 1)))


def _chunks(time_ms: I64, size: int, moments: int) -> Iterator[slice]:
    """Targets, ``size`` at most and none longer after the first than the ``moments``-th part of all time."""
    longest_ms = (time_ms[-1] - time_ms[0]) / moments if len(time_ms) else 0
    start = 0
    while start < len(time_ms):
        stop = int(np.searchsorted(time_ms, time_ms[start] + longest_ms, "right"))
        yield slice(start, start := min(start + size, stop))


def _excluded(past: Past, targets: Targets, part: slice) -> Mask:
    """[n, C] candidates that do not compete."""
    excluded = np.zeros((len(targets.excluded[part]), len(past.candidate)), np.bool_)
    for n, places in enumerate(targets.excluded[part]):
        excluded[n, places] = True
    return excluded


def published_ranks(past: Past, targets: Targets, view: WindowView, first: Published) -> F64:
    """By the dot product of vectors that were published once; a user or an item without one is a miss."""
    item, known = first.items(past.candidate, view.row_versions(ITEM))
    user, user_known = first.users(targets.events.user, view.row_versions(USER))
    return np.where(user_known, _dot_ranks(past, targets, user, item, known), np.inf)


def _dot_ranks(past: Past, targets: Targets, user: F32, item: F32, known: Mask) -> F64:
    """By dot product; a candidate that is not known ranks nowhere."""
    ranks = np.full(len(user), np.inf)
    size = _targets_at_once(past)
    for start in range(0, len(user), size):
        part = slice(start, min(start + size, len(user)))
        scores = user[part] @ item.T
        scores[:, ~known] = -np.inf
        ranks[part] = ranks_of(scores, targets.column[part], _excluded(past, targets, part))
    return ranks


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


def _split(ranks: Mapping[str, F64], masks: Mapping[str, Mask], top: int) -> dict[str, dict[str, Metrics]]:
    return {
        name: {scorer: metrics_of(rank[mask], top) for scorer, rank in ranks.items()}
        for name, mask in masks.items()
        if mask.any()
    }


def _share(chosen: Mask) -> float:
    return float(chosen.mean()) if len(chosen) else float("nan")


def _merged(old: Events, new: Events) -> Events:
    """Both, sorted by time, the older arrivals first where times tie."""
    joined_events = Events(
        np.concatenate([old.user, new.user]),
        np.concatenate([old.item, new.item]),
        np.concatenate([old.relation, new.relation]),
        np.concatenate([old.time_ms, new.time_ms]),
    )
    return take(joined_events, np.argsort(joined_events.time_ms, kind="stable"))
