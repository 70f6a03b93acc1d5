"""The scorer: how much each part of a score counts, learned from what users did after they were scored.

    parts of a score (``ranking``) ──► [Scorer] ──► one score ──► evaluation, lists
                                          ▲ learn, on the targets of an interval that no fit has seen yet

    s(u, i, t) = w_v · u·i + w_b · bias_i                                       vectors
               + Σ_h w_h · log(1 + 10 n_h(i, t)) + w_a · log(1 + age of i)      bank
               + w_p · log(1 + P(u, i, t) / ε)                                  paths
               + w_s · log(1 + S(u, i, t) / ε)                                  similar users
               + Σ_h w_o,h · log(1 + 10 n_h(u, i, t)) + w_o · [n(u, i, t) > 0]  own (with repeats)
               + w_t · taste(u, i, t) + w_k · kin(i, t)                         taste (with attributes)
               + w_c · attribute_paths(u, i, t)                                 likewise

The weights are those of a multinomial logit over candidates, learned with a Gaussian prior. In each fit the
targets of the interval move them, the more the more there are, and what was learned before is forgotten
slowly. Streams differ so much in what they live on that no fixed weights win everywhere.

The parts stand beside each other, since each alone is a recommender, and so is popularity. A sum that has
ranked worse than one of them, over the intervals so far, is not served: the scorer falls back to that one.

Shape suffixes: P pairs of a target and a candidate, F features, N targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from driftgraph.model.score.bank import NAMES as BANK_NAMES
from driftgraph.model.score.gains import Gains
from driftgraph.model.score.laplace import carried, minimum
from driftgraph.stream.arrays import F32, F64, I64, U32

FEATURES = (
    "vectors",
    "item_bias",
    *(f"popularity_{name}" for name in BANK_NAMES),
    "age",
    "paths",
    "similar_users",
    "own_1d",
    "own_14d",
    "own_ever",
    "taste",
    "kin",
    "attribute_paths",
)
ITEM_BIAS = 1
BANK = slice(2, 2 + len(BANK_NAMES))
AGE, PATHS, SIMILAR_USERS = BANK.stop, BANK.stop + 1, BANK.stop + 2
OWN = slice(SIMILAR_USERS + 1, SIMILAR_USERS + 4)
TASTE, KIN, ATTRIBUTE_PATHS = OWN.stop, OWN.stop + 1, OWN.stop + 2
ATTRIBUTES = slice(TASTE, ATTRIBUTE_PATHS + 1)
PARTS: Mapping[str, tuple[int, ...]] = {  # of the score, by the features that belong to each
    "vectors": (0, 1),
    "bank": tuple(range(BANK.start, AGE + 1)),
    "paths": (PATHS,),
    "similar_users": (SIMILAR_USERS,),
    "own": tuple(range(OWN.start, OWN.stop)),
    "taste": (TASTE, KIN),
    "attribute_paths": (ATTRIBUTE_PATHS,),
}
POPULARITY = "popularity"  # alone, beside the parts: what users would have without a model
CONTENDERS = (*PARTS, POPULARITY)  # that the sum is held against
ALONE: Mapping[str, Mapping[str, float]] = {  # the weights of each contender; those of the bank are learned
    "vectors": {"vectors": 1.0, "item_bias": 1.0},  # as a service does that reads vectors
    "paths": {"paths": 1.0},
    "similar_users": {"similar_users": 1.0},
    "own": {"own_14d": 1.0},
    "taste": {"taste": 1.0},
    "attribute_paths": {"attribute_paths": 1.0},
    POPULARITY: {"popularity_1d": 1.0},
}
PRIOR: Mapping[str, float] = {  # for tiny streams, which cannot learn them: see docs/LOG.md
    "vectors": 0.3,
    "item_bias": 0.3,
    "popularity_1d": 0.8,
    "popularity_7d": 0.3,
    "paths": 0.5,
    "similar_users": 1.0,
    "own_14d": 1.0,
    "taste": 0.1,
    "attribute_paths": 0.5,
}
PRIOR_F: F64 = np.array([PRIOR.get(name, 0.0) for name in FEATURES])
PRIOR_PRECISION = 10.0  # of each weight: as much as some tens of targets say
FORGET = 0.8  # what was learned counts so much after another fit
TOP = 20
TYING = ("paths", "similar_users", "own", "taste", "attribute_paths")
TIES = 1e-4  # of the items' biases, beside parts that say nothing of most items, which tie


@dataclass(frozen=True, slots=True)
class Lessons:
    """Targets with their hardest candidates: the best of each part, whatever they were.

    Those of target n are at ``bounds_N1[n]`` to ``bounds_N1[n + 1]``; ``target_N`` is the place of the
    target's own item among them, −1 if no part found it. Targets are in order of time. ``listed`` are the
    items of the lists that the targets' users would have read, ascending: hard negatives for a fit.
    """

    feature_PF: F32
    bounds_N1: I64
    target_N: I64
    listed: U32 = field(default_factory=lambda: np.zeros(0, np.uint32))


Learned = tuple[F32, I64, I64]  # features of candidates, how many each target has, and which is the target


def joined(parts: list[Learned]) -> Lessons:
    """The lessons of all chunks as one."""
    if not parts:
        return Lessons(np.zeros((0, len(FEATURES)), np.float32), np.zeros(1, np.int64), np.zeros(0, np.int64))
    features, counts, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Lessons(features, np.concatenate([[0], np.cumsum(counts)]), targets)


class Scorer:
    """The weights of the parts, and how sure of them the learning is.

    Always true: ``information_FF`` is positive semi-definite; without lessons the weights are the prior's.
    """

    def __init__(self) -> None:
        self.mean_F: F64 = PRIOR_F.copy()
        self.information_FF: F64 = np.zeros((len(FEATURES), len(FEATURES)))
        self.gains = Gains(CONTENDERS)  # over the sum
        self.fallback = ""  # the contender that is served alone; "": the sum

    @property
    def weight_F(self) -> F64:  # noqa: N802  # F is the shape
        """The weights that are served."""
        if not self.fallback:
            return self.mean_F
        served = alone(self.fallback, self.mean_F)
        served[ITEM_BIAS] += TIES if self.fallback in TYING else 0.0
        return served

    def learn(self, lessons: Lessons) -> None:
        """Move the weights by an interval's lessons; a target that no part found teaches nothing.

        Deterministic. The weights before are held against the contenders on the same targets first.
        """
        self.gains.forget(FORGET)
        self.gains.add(_gains(self.mean_F, lessons))
        self.fallback = self.gains.best()
        self.mean_F, learned_FF = self._posterior(lessons)
        self.information_FF = FORGET * learned_FF

    def shares(self, lessons: Lessons) -> dict[str, float]:
        """How much each part moves the scores of a target's candidates, as shares of 1."""
        spread = {}
        for part, features in PARTS.items():
            score_P = lessons.feature_PF[:, features] @ self.weight_F[list(features)]
            spread[part] = float(np.sqrt(_within(score_P, lessons.bounds_N1))) if len(score_P) else 0.0
        total = sum(spread.values())
        return {part: value / total if total > 0 else 0.0 for part, value in spread.items()}

    def readable(self) -> dict[str, float]:
        """The served weights by feature."""
        return dict(zip(FEATURES, self.weight_F.tolist(), strict=True))

    def state_dict(self) -> dict[str, F64]:
        """As arrays; ``fallback`` is beside them."""
        return {
            "mean": self.mean_F.copy(),
            "information": self.information_FF.copy(),
            "gains": self.gains.sums_5C.copy(),
        }

    def load_state_dict(self, state: Mapping[str, F64], fallback: str) -> None:
        """Go on from a saved state; one of other features begins anew from the prior."""
        if state["mean"].shape == self.mean_F.shape:
            self.mean_F, self.information_FF = state["mean"].copy(), state["information"].copy()
            self.fallback = fallback if fallback in CONTENDERS else ""
            gains = state.get("gains")  # None: an older state
            if gains is not None and gains.shape == self.gains.sums_5C.shape:
                self.gains.sums_5C = gains.copy()

    def _posterior(self, lessons: Lessons) -> tuple[F64, F64]:
        """The weights after the lessons, and the information that lessons so far and these have given."""
        prior_FF = PRIOR_PRECISION * np.eye(len(FEATURES))
        begin_F, known_FF = carried(PRIOR_F, prior_FF, self.mean_F, self.information_FF)
        mean_F, curvature_FF = _newton(_covered(lessons), begin_F, known_FF)
        return mean_F, curvature_FF - prior_FF


def alone(contender: str, weight_F: F64) -> F64:
    """Weights under which a contender ranks alone: the bank as learned, the others as ``ALONE`` says."""
    if contender == "bank":
        chosen = list(PARTS["bank"])
        made: F64 = np.zeros(len(FEATURES))
        made[chosen] = weight_F[chosen]
        return made
    return np.array([ALONE[contender].get(name, 0.0) for name in FEATURES])


def ndcg(score_P: F64, lessons: Lessons) -> F64:
    """[N]: NDCG@20 of each target among its candidates, ties at their mean rank; 0 for one not among them."""
    found = lessons.target_N >= 0
    bounds = lessons.bounds_N1
    own_N = np.full(len(found), np.nan)
    own_N[found] = score_P[bounds[:-1][found] + lessons.target_N[found]]
    own_P = np.repeat(own_N, np.diff(bounds))
    better = _sums((score_P > own_P).astype(np.float64), bounds)
    equal = _sums((score_P == own_P).astype(np.float64), bounds)
    rank = better + (equal - 1) / 2 + 1
    gained: F64 = np.where(found & (rank <= TOP), 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)
    return gained


def _gains(weight_F: F64, lessons: Lessons) -> F64:
    """[C, N]: how much higher the NDCG@20 of each target is by each contender alone than by the sum."""
    feature_PF = lessons.feature_PF.astype(np.float64)
    whole_N = ndcg(feature_PF @ weight_F, lessons)
    return np.stack([ndcg(feature_PF @ alone(name, weight_F), lessons) - whole_N for name in CONTENDERS])


def _newton(lessons: Lessons, begin_F: F64, precision_FF: F64) -> tuple[F64, F64]:
    """The minimum of cross entropy + ½ (w − begin)ᵀ precision (w − begin), and the Hessian there."""
    return minimum(partial(_value, lessons), partial(_slope, lessons), begin_F, precision_FF)


def _value(lessons: Lessons, weight_F: F64) -> float:
    """The cross entropy."""
    if not len(lessons.target_N):
        return 0.0
    score_P = lessons.feature_PF @ weight_F
    total_N, _ = _softmax(score_P, lessons.bounds_N1)
    return float((total_N - score_P[lessons.bounds_N1[:-1] + lessons.target_N]).sum())


def _slope(lessons: Lessons, weight_F: F64) -> tuple[F64, F64]:
    """Gradient and Hessian of ``_value``."""
    gradient_F: F64 = np.zeros(len(weight_F))
    hessian_FF: F64 = np.zeros((len(weight_F), len(weight_F)))
    if len(lessons.target_N):
        feature_PF, bounds = lessons.feature_PF, lessons.bounds_N1
        _, share_P = _softmax(feature_PF @ weight_F, bounds)
        weighted_PF = feature_PF * share_P[:, None]
        mean_NF = np.add.reduceat(weighted_PF, bounds[:-1], axis=0)
        gradient_F += mean_NF.sum(0) - feature_PF[bounds[:-1] + lessons.target_N].sum(0)
        hessian_FF += weighted_PF.T @ feature_PF - mean_NF.T @ mean_NF
    return gradient_F, hessian_FF


def _softmax(score_P: F64, bounds_N1: I64) -> tuple[F64, F64]:
    """The log of the sum of exponentials of each target's candidates, and each candidate's share."""
    lengths = np.diff(bounds_N1)
    highest_N = np.maximum.reduceat(score_P, bounds_N1[:-1])
    power_P = np.exp(score_P - np.repeat(highest_N, lengths))
    total_N = np.add.reduceat(power_P, bounds_N1[:-1])
    return highest_N + np.log(total_N), power_P / np.repeat(total_N, lengths)


def _covered(lessons: Lessons) -> Lessons:
    """The targets that some part found, in double precision."""
    found, lengths = lessons.target_N >= 0, np.diff(lessons.bounds_N1)
    bounds = np.concatenate([[0], np.cumsum(lengths[found])])
    kept = lessons.feature_PF[np.repeat(found, lengths)].astype(np.float64)
    return Lessons(kept, bounds, lessons.target_N[found])  # type: ignore[arg-type]


def _sums(value_P: F64, bounds_N1: I64) -> F64:
    """Sums over each target's candidates; a target has at least one or none."""
    total: F64 = np.concatenate([[0.0], np.cumsum(value_P)])
    return total[bounds_N1[1:]] - total[bounds_N1[:-1]]


def _within(score_P: F64, bounds_N1: I64) -> float:
    """The mean over targets of the variance of their candidates' scores."""
    lengths = np.maximum(np.diff(bounds_N1), 1)
    mean_N = _sums(score_P, bounds_N1) / lengths
    squares_N = _sums(score_P**2, bounds_N1) / lengths
    return float(np.maximum(squares_N - mean_N**2, 0).mean())
