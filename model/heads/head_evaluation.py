"""Test-then-train metrics of the heads: their probabilities beside the answers of users to impressions.

    impressions of [since, cut) ──► [sample_of] ──► Sample ──► [judged] ──► HeadMetrics ──► report, manifest
                                                       └──► Heads.learn, after the fit

An impression is looked at once its attribution has passed at the cut, and only if it came after every event
that the served vectors may have been trained on. Rates and users are as of strictly before the impression.
The vectors of items are as published, since readers compute with those; an item that has none has a dot
product of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from driftgraph.model.examples.examples import before
from driftgraph.model.fitting.published import Published
from driftgraph.model.heads.heads import BASE, USER_PART, Head, Heads, Parts, Sample, losses, probability
from driftgraph.model.heads.impressions import NEVER, Asked, Impressions, Rates, answered
from driftgraph.model.network.embed import Encoder
from driftgraph.stream.arrays import F32, F64, I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

IMPRESSIONS_MAX = 20_000  # of an interval, drawn by the seed
BINS = 20  # of the calibration error, of equally many impressions each

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class HeadMetrics:
    """How well the answers by one relation were foreseen.

    The metrics of each scorer: ``auc``, ``user_auc``, ``log_loss`` and ``ece``. The scorers are the head,
    also while it is not served, and the ``running_rates`` of user and item.
    """

    answered: int
    is_served: bool  # the head; else the running rates are
    metrics: dict[str, Metrics]


@dataclass(frozen=True, slots=True)
class HeadEvaluation:
    """All heads on the same impressions, of which ``late`` came too soon after what was trained on."""

    impressions: int
    late: int
    heads: dict[str, HeadMetrics]


def evaluate_heads(
    heads: Heads, window: WindowView, since: Cut, cut: Cut, *, encoder: Encoder, serving: Published
) -> tuple[HeadEvaluation, Sample]:
    """Judge the heads by the impressions of an interval; what they can learn of these afterwards."""
    sample, drawn, late = sample_of(window, since, cut, encoder=encoder, serving=serving)
    return judged(heads, sample, drawn.user, late=late), sample


def sample_of(
    window: WindowView, since: Cut, cut: Cut, *, encoder: Encoder, serving: Published
) -> tuple[Sample, Impressions, int]:
    """What the heads see of an interval's impressions, these, and how many were left out as late.

    ``window`` has the impressions, ``encoder.view`` the relations alone. At most ``IMPRESSIONS_MAX``
    impressions are drawn, by the seed and the cut. O(window).

    Raises:
        StaleCut: The window overwrote events of the cut meanwhile.
    """
    edges, attribution_ms = len(encoder.view.relations), encoder.network.options.attribution_ms
    shown = answered(window.events(cut), edges, attribution_ms)
    old = encoder.view.events(before(since, cut))
    seen_ms = int(old.time_ms[-1]) if len(old) else -1
    ripe_ms = shown.time_ms + attribution_ms  # when all answers have come
    is_ripe, is_behind = ripe_ms <= cut.watermark_ms, shown.time_ms > seen_ms
    chosen = np.flatnonzero(is_ripe & is_behind)
    late = int((is_ripe & ~is_behind & (ripe_ms > since.watermark_ms)).sum())
    if len(chosen) > IMPRESSIONS_MAX:
        rng = np.random.default_rng((encoder.network.options.seed, max(cut.watermark_ms, 0)))
        chosen = np.sort(rng.choice(chosen, IMPRESSIONS_MAX, replace=False))
    asked = Asked(shown.user[chosen], shown.item[chosen], shown.time_ms[chosen])
    rows = tuple(_rows(window, side, own) for side, own in ((USER, shown.user), (ITEM, shown.item)))
    counts = Rates(shown, (rows[0], rows[1])).before(asked)
    user = encoder.users(asked.user, asked.time_ms)
    item, _ = serving.items(asked.item, window.row_versions(ITEM))
    parts = Parts(dots(user, item), item[:, -1])
    answer_ms_NB = shown.answer_ms_NB[chosen]
    drawn = Impressions(*asked, answer_ms_NB)
    return Sample(counts, parts, answer_ms_NB != NEVER), drawn, late


def _rows(window: WindowView, side: int, rows: U32) -> int:
    return max(window.rows(side), int(rows.max(initial=0)) + 1)


def dots(user_ND: F32, item_ND: F32) -> F32:
    """[N]: the dot product of each pair, without the last channels; 0 where it is not finite.

    A model of one's own may give any vector to a user of another time than the gate has looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product: F32 = np.einsum("nd,nd->n", user_ND[:, :-1], item_ND[:, :-1])
    return np.where(np.isfinite(product), product, np.float32(0))


def judged(heads: Heads, sample: Sample, users: U32, *, late: int) -> HeadEvaluation:
    """The metrics of every head and of the running rates, before anything is learned."""
    found = {}
    for relation, (name, head) in enumerate(heads.heads.items()):
        feature_NF = heads.features(sample.counts, sample.parts, relation)
        answered_N = sample.answered_NB[:, relation]
        scorers: Mapping[str, F64] = {"head": head.mean_F, "running_rates": head.layout.prior_F}
        metrics = {
            scorer: metrics_of(head, feature_NF, weight_F, answered_N, users)
            for scorer, weight_F in scorers.items()
        }
        found[name] = HeadMetrics(int(answered_N.sum()), head.is_served, metrics)
    return HeadEvaluation(len(sample), late, found)


def metrics_of(head: Head, feature_NF: F64, weight_F: F64, answered_N: Mask, users: U32) -> Metrics:
    """AUC over all impressions, the mean AUC of users, log loss in nats, and the calibration error.

    The AUC of a user ranks by what differs between items: the user's own rates are left out, since they are
    the same for all items that are ranked together. (They move between impressions, and fall with each one
    that is not answered. Left in, they rank a user's answered impressions behind the others: a fault of the
    measure that hides what all scorers know of items.)

    A metric that the impressions do not define is nan: an AUC needs an answered one and one that is not.
    """
    chance_N = probability(feature_NF, weight_F)
    of_items_F = weight_F.copy()
    of_items_F[[*head.layout.columns(BASE), *head.layout.columns(USER_PART)]] = 0
    everybody = np.zeros(len(users), np.uint32)
    loss_N = losses(feature_NF, weight_F, answered_N)
    return {
        "auc": auc(chance_N, answered_N, everybody),
        "user_auc": auc(feature_NF @ of_items_F, answered_N, users),
        "log_loss": float(loss_N.mean()) if len(loss_N) else float("nan"),
        "ece": calibration_error(chance_N, answered_N),
    }


def auc(score_N: F64, answered_N: Mask, group_N: U32) -> float:
    """The mean AUC of groups that have both an answered impression and another, each by its impressions."""
    if not len(score_N):
        return float("nan")
    order = np.lexsort((score_N, group_N))
    group, score, hit = group_N[order], score_N[order], answered_N[order]
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    lengths = np.diff(np.append(starts, len(group)))
    place = np.arange(len(group)) - np.repeat(starts, lengths)
    rank = _tied(place.astype(np.float64), group, score)
    hits = np.add.reduceat(hit.astype(np.int64), starts)
    ranks = np.add.reduceat(np.where(hit, rank, 0.0), starts)
    both = (hits > 0) & (hits < lengths)
    if not both.any():
        return float("nan")
    hits, lengths, ranks = hits[both], lengths[both], ranks[both]
    own = (ranks - hits * (hits - 1) / 2) / (hits * (lengths - hits))
    return float((own * lengths).sum() / lengths.sum())


def _tied(place: F64, group: U32, score: F64) -> F64:
    """Places from 0, the mean of those that tie."""
    is_other = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    starts: I64 = np.flatnonzero(np.concatenate([[True], is_other])).astype(np.int64)
    lengths = np.diff(np.append(starts, len(place)))
    mean: F64 = np.repeat(place[starts] + (lengths - 1) / 2, lengths)
    return mean


def calibration_error(chance_N: F64, answered_N: Mask) -> float:
    """The mean over bins of equally many impressions of |mean probability − share answered|.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2; bins of equal size
    instead of equal width, since probabilities of a rare behavior all lie in one bin of that kind.
    """
    if not len(chance_N):
        return float("nan")
    order = np.argsort(chance_N, kind="stable")
    off = [
        abs(float(chance_N[part].sum()) - float(answered_N[part].sum()))
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    return sum(off) / len(order)
