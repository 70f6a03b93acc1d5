"""The heads beside online logistic regression on the same features, on real impressions.

    python benchmarks/heads.py kuairand    prints JSON: each scorer's metrics by behavior

A replay makes its fits as usual, and judges the heads before each. On the same impressions, in order of
time, an online logistic regression learns after each one, by stochastic gradient descent at several rates,
plain and with AdaGrad's scaling of each feature. An impression that no head has learned from yet, because no
fit came before it, counts for nobody. Intervals count by their impressions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np

from benchmarks.offline_evaluation.datasets import find_dataset
from driftgraph.app.commands.replay import replay
from driftgraph.app.config.settings import load
from driftgraph.app.console.head_text import heads_together
from driftgraph.app.console.progress import NoProgress
from driftgraph.model.heads import head_evaluation
from driftgraph.model.heads.head_evaluation import HeadEvaluation, auc, calibration_error
from driftgraph.model.heads.heads import BASE, USER_PART, Head, Heads, Sample
from driftgraph.stream.arrays import F64, U32, Mask

RATES = (0.001, 0.003, 0.01, 0.03)
START = 1e-8  # of AdaGrad's sum of squared gradients


class OnlineRegression:
    """One relation's logistic regression by stochastic gradient descent, one step after each impression."""

    def __init__(self, head: Head, rate: float, *, is_scaled: bool) -> None:
        self.head, self.rate, self.is_scaled = head, rate, is_scaled
        self.weight_F: F64 = np.zeros(len(head.layout.names))
        self.squared_F: F64 = np.full(len(head.layout.names), START)

    def judge(self, feature_NF: F64, answered_N: Mask, users: U32) -> dict[str, float]:
        """Foresee each impression, then learn from it."""
        shared = [*self.head.layout.columns(BASE), *self.head.layout.columns(USER_PART)]
        logit_N, of_item_N = np.zeros(len(answered_N)), np.zeros(len(answered_N))
        for n, answered in enumerate(answered_N.tolist()):
            feature_F = feature_NF[n]
            logit_N[n] = feature_F @ self.weight_F
            of_item_N[n] = logit_N[n] - feature_F[shared] @ self.weight_F[shared]
            gradient_F = (1 / (1 + np.exp(-logit_N[n])) - answered) * feature_F
            self.squared_F += gradient_F**2
            scale_F = 1 / np.sqrt(self.squared_F) if self.is_scaled else 1.0
            self.weight_F = self.weight_F - self.rate * scale_F * gradient_F
        chance_N = 1 / (1 + np.exp(-logit_N))
        return {
            "auc": auc(logit_N, answered_N, np.zeros(len(users), np.uint32)),
            "user_auc": auc(of_item_N, answered_N, users),
            "user_auc_moving": auc(logit_N, answered_N, users),
            "log_loss": float(np.logaddexp(0, np.where(answered_N, -logit_N, logit_N)).mean()),
            "ece": calibration_error(chance_N, answered_N),
        }


class Beside:
    """What judges the heads and, on the same impressions, everything beside them."""

    def __init__(self) -> None:
        self.intervals: list[dict[str, Any]] = []
        self._peers: dict[str, dict[str, OnlineRegression]] = {}
        self._judged = head_evaluation.judged

    def judged(self, heads: Heads, sample: Sample, users: U32, *, late: int) -> HeadEvaluation:
        """As ``head_evaluation.judged``; it keeps the metrics of all."""
        found = self._judged(heads, sample, users, late=late)
        row: dict[str, Any] = {"impressions": found.impressions, "late": late, "heads": {}}
        for relation, (name, head) in enumerate(heads.heads.items()):
            feature_NF = heads.features(sample.counts, sample.parts, relation)
            answered_N = sample.answered_NB[:, relation]
            metrics = {scorer: dict(own) for scorer, own in found.heads[name].metrics.items()}
            for scorer, weight_F in (("head", head.mean_F), ("running_rates", head.layout.prior_F)):
                metrics[scorer]["user_auc_moving"] = auc(feature_NF @ weight_F, answered_N, users)
            for title, peer in self._of(name, head).items():
                metrics[title] = peer.judge(feature_NF, answered_N, users)
            row["heads"][name] = {
                "answered": found.heads[name].answered,
                "is_served": head.is_served,
                "metrics": metrics,
            }
        self.intervals.append(row)
        return found

    def _of(self, name: str, head: Head) -> Mapping[str, OnlineRegression]:
        if name not in self._peers:
            self._peers[name] = {
                f"online_{'adagrad' if is_scaled else 'sgd'}_{rate:g}": OnlineRegression(
                    head, rate * (10 if is_scaled else 1), is_scaled=is_scaled
                )
                for is_scaled in (False, True)
                for rate in RATES
            }
        return self._peers[name]


def main() -> None:
    """Replay a data set with its impressions, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--impression", default="impression", help="the behavior that says what was shown")
    parser.add_argument("--fit-every", default="24h")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    dataset, beside = find_dataset(asked.data), Beside()
    with TemporaryDirectory() as folder, mock.patch.object(head_evaluation, "judged", beside.judged):
        (Path(folder) / "none.toml").touch()
        options = {
            "data_dir": folder,
            "seed": asked.seed,
            "events": {"impressions": [asked.impression]},
            "window": {"span": dataset.span},
            "fit": {"every": asked.fit_every},
        }
        settings = load(Path(folder) / "none.toml", options)
        if dataset.relations:
            settings = settings.with_relations(dataset.relations)
        replay(settings, dataset.path, redis="none", predictions=None, progress=NoProgress())
    found = heads_together(beside.intervals[1:])
    print(
        json.dumps(
            {"data": asked.data, "fit_every": asked.fit_every, "seed": asked.seed, **(found or {})}, indent=2
        )
    )


if __name__ == "__main__":
    main()
