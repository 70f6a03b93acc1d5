"""The heads: how probable each behavior is when an item is shown to a user.

    impressions, their rates and vectors ──► [features] ──► [Head] ──► a calibrated probability
                                                              ▲ learn, on impressions of an interval

    logit p(u, i, t) = Σ w · ( 1, the base rate's logit, how the user's and the item's running rates differ
                       from it, how much both were shown, the dot product of the vectors, the item's bias )

Each relation that makes an edge has a head: a logistic regression with a Gaussian prior, which is carried on
from fit to fit (``laplace``). It sees its own relation's rates over each half-life, and the rates of the
other relations over the longest. The prior is the running rates of user and item alone. A head that was worse
than these on the newest impressions, before it learned from them, is not served: the running rates are.

Every feature belongs to the base, to the user, to the item, or is the dot product. So a score is a sum of one
number of each, and these are published (``head_parts``).

Shape suffixes: N impressions, B relations, H half-lives, C counts, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from driftgraph.model.heads.impressions import HALF_LIVES_MS, HOUR_MS, Counts
from driftgraph.model.score.laplace import carried, minimum
from driftgraph.stream.arrays import F32, F64, Mask

LIVES: Final = tuple(f"{round(ms / HOUR_MS)}h" for ms in HALF_LIVES_MS)
BASE, USER_PART, ITEM_PART, DOT = range(4)  # what a feature belongs to
PRIOR_PRECISION = 10.0  # of each weight: as much as some tens of impressions say
FORGET = 0.9  # what was learned counts so much after another fit
SMOOTH_ALL, SMOOTH_USER, SMOOTH_ITEM = 5.0, 5.0, 10.0  # impressions at the base rate that each begins with
RATE_MIN = 1e-5
STANDARD_ERRORS = 2.0  # a head is worse if it is so beyond the noise of the difference
SHOWN_MIN = 100  # with fewer impressions the verdict before stands


@dataclass(frozen=True, slots=True)
class Layout:
    """The features of one relation's head: their names, and what each belongs to."""

    names: tuple[str, ...]
    part_F: tuple[int, ...]
    prior_F: F64

    @classmethod
    def of(cls, relation: str, relations: Sequence[str]) -> Layout:
        """The others come in order of their names, so that the order of the relations does not matter."""
        pairs = [("bias", BASE), ("base", BASE)]
        pairs += [(f"base_{life}", BASE) for life in LIVES[:-1]]
        for side, part in (("user", USER_PART), ("item", ITEM_PART)):
            pairs += [(f"{side}_{life}", part) for life in LIVES]
            pairs += [(f"{side}_shown_{life}", part) for life in LIVES]
            pairs += [(f"{side}_{other}", part) for other in sorted(set(relations) - {relation})]
        pairs += [("item_bias", ITEM_PART), ("dot", DOT)]
        names, parts = zip(*pairs, strict=True)
        own = ("base", f"user_{LIVES[-1]}", f"item_{LIVES[-1]}")
        prior_F: F64 = np.zeros(len(names))
        prior_F[[names.index(name) for name in own]] = 1.0  # the first: a relation may be called 168h, too
        return cls(names, parts, prior_F)

    def columns(self, part: int) -> list[int]:
        """The features that belong to a part."""
        return [n for n, own in enumerate(self.part_F) if own == part]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a head sees of N impressions beside the counts."""

    dot_N: F32  # of the vectors without their last channel
    item_bias_N: F32  # the last channel of the item's vector


def features(counts: Counts, parts: Parts, relation: int, relations: Sequence[str]) -> F64:
    """[N, F] of one relation, as ``Layout`` names them."""
    base_NBH = _logit(_rate(counts.all, SMOOTH_ALL, np.float64(0.5)))
    longest_NB1 = base_NBH[:, :, -1:]
    others = [n for n, _ in sorted(enumerate(relations), key=lambda one: one[1]) if n != relation]
    usual_NB1 = 1 / (1 + np.exp(-longest_NB1))
    columns = [
        np.ones((len(base_NBH), 1)),
        longest_NB1[:, relation],
        base_NBH[:, relation, :-1] - longest_NB1[:, relation],
    ]
    for count_NHC, smooth in ((counts.user, SMOOTH_USER), (counts.item, SMOOTH_ITEM)):
        off_NBH = _logit(_rate(count_NHC, smooth, usual_NB1)) - longest_NB1
        columns += [off_NBH[:, relation], np.log1p(count_NHC[:, :, 0]), off_NBH[:, others, -1]]
    columns += [own_N[:, None].astype(np.float64) for own_N in (parts.item_bias_N, parts.dot_N)]
    return np.concatenate(columns, axis=1)


def _rate(count_NHC: F64, smooth: float, usual: F64 | np.float64) -> F64:
    """[N, B, H]: the share of impressions that were answered, begun with ``smooth`` at the usual rate."""
    answered_NBH, shown_N1H = count_NHC[:, :, 1:].transpose(0, 2, 1), count_NHC[:, None, :, 0]
    share: F64 = (answered_NBH + smooth * usual) / (shown_N1H + smooth)
    return share


def _logit(rate: F64) -> F64:
    kept = np.clip(rate, RATE_MIN, 1 - RATE_MIN)
    odds: F64 = np.log(kept) - np.log1p(-kept)
    return odds


def probability(feature_NF: F64, weight_F: F64) -> F64:
    """[N]: by these weights."""
    chance: F64 = np.exp(-np.logaddexp(0.0, -feature_NF @ weight_F))
    return chance


def losses(feature_NF: F64, weight_F: F64, answered_N: Mask) -> F64:
    """[N]: log loss of each impression, in nats."""
    logit_N = feature_NF @ weight_F
    loss: F64 = np.logaddexp(0.0, np.where(answered_N, -logit_N, logit_N))
    return loss


class Head:
    """The weights of one relation, and how sure of them the learning is.

    Always true: ``information_FF`` is positive semi-definite; before any impression the weights are the
    prior's.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.mean_F: F64 = layout.prior_F.copy()
        self.information_FF: F64 = np.zeros((len(layout.names), len(layout.names)))
        self.is_served = True  # False: the running rates are

    @property
    def weight_F(self) -> F64:  # noqa: N802  # F is the shape
        """The weights that are served."""
        return self.mean_F if self.is_served else self.layout.prior_F

    def learn(self, feature_NF: F64, answered_N: Mask) -> None:
        """Judge the head by impressions that it has not learned from, then learn from them. Deterministic."""
        prior_F = self.layout.prior_F
        if len(answered_N) >= SHOWN_MIN:
            worse_N = losses(feature_NF, self.mean_F, answered_N) - losses(feature_NF, prior_F, answered_N)
            error = float(worse_N.std(ddof=1) / np.sqrt(len(worse_N)))
            self.is_served = not worse_N.mean() > STANDARD_ERRORS * error
        precision_FF = PRIOR_PRECISION * np.eye(len(prior_F))
        begin_F, known_FF = carried(prior_F, precision_FF, self.mean_F, self.information_FF)

        def value(weight_F: F64) -> float:
            return float(losses(feature_NF, weight_F, answered_N).sum())

        def slope(weight_F: F64) -> tuple[F64, F64]:
            chance_N = probability(feature_NF, weight_F)
            spread_N1 = (chance_N * (1 - chance_N))[:, None]
            return feature_NF.T @ (chance_N - answered_N), feature_NF.T @ (spread_N1 * feature_NF)

        self.mean_F, hessian_FF = minimum(value, slope, begin_F, known_FF)
        self.information_FF = FORGET * (hessian_FF - precision_FF)


@dataclass(frozen=True, slots=True)
class Sample:
    """N impressions with what their heads see, and whether each relation answered them."""

    counts: Counts
    parts: Parts
    answered_NB: Mask

    def __len__(self) -> int:
        return len(self.answered_NB)


class Heads:
    """A head for each relation."""

    def __init__(self, relations: Sequence[str]) -> None:
        self.relations = tuple(relations)
        self.heads = {name: Head(Layout.of(name, relations)) for name in relations}

    def features(self, counts: Counts, parts: Parts, relation: int) -> F64:
        """[N, F] of one relation."""
        return features(counts, parts, relation, self.relations)

    def learn(self, sample: Sample) -> None:
        """Let each head learn from the same impressions."""
        for relation, head in enumerate(self.heads.values()):
            feature_NF = self.features(sample.counts, sample.parts, relation)
            head.learn(feature_NF, sample.answered_NB[:, relation])

    def state_dict(self) -> tuple[dict[str, F64], dict[str, object]]:
        """As arrays by relation, and what they mean: the features, and whether the head is served."""
        arrays: dict[str, F64] = {}
        for name, head in self.heads.items():
            arrays |= {f"mean.{name}": head.mean_F.copy(), f"information.{name}": head.information_FF.copy()}
        known: dict[str, object] = {
            name: {"features": list(head.layout.names), "is_served": head.is_served}
            for name, head in self.heads.items()
        }
        return arrays, known

    def load_state_dict(self, arrays: Mapping[str, F64], known: object) -> None:
        """Go on from a saved state; a head that is new, or has other features now, begins anew."""
        saved = known if isinstance(known, dict) else {}
        for name, head in self.heads.items():
            if name in saved and saved[name]["features"] == list(head.layout.names):
                head.mean_F, head.information_FF = (
                    arrays[f"mean.{name}"].copy(),
                    arrays[f"information.{name}"].copy(),
                )
                head.is_served = bool(saved[name]["is_served"])
