"""How much better each contender ranks alone than the sum of all parts does, over the intervals so far.

    NDCG of an interval's targets, by the sum and by each contender ──► [Gains.add] ──► [best] ──► the scorer

One interval of a small stream has too few targets to tell. So gains are added up over intervals, and those of
older ones are forgotten slowly, as the scorer's weights are.

Shape suffixes: C contenders, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftgraph.stream.arrays import F64

STANDARD_ERRORS = 2.0  # a contender is better if it is so beyond the noise of the mean gain
TARGETS_MIN = 100  # with less weight of targets than this, nobody has shown to be better


class Gains:
    """Weighted sums of gains g; a target of an interval k fits ago has the weight w = forget^k.

    Always true: ``sums_5C`` has Σw, Σw², Σw·g, Σw²·g and Σw²·g² of each contender.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sums_5C: F64 = np.zeros((5, len(names)))  # C is the shape

    def forget(self, share: float) -> None:
        """Let all gains so far count ``share`` of what they did."""
        self.sums_5C *= np.array([share, share**2, share, share**2, share**2])[:, None]

    def add(self, gain_CN: F64) -> None:
        """Add the gains of targets, each with the weight 1."""
        count = np.full(len(self.names), float(gain_CN.shape[1]))
        total_C = gain_CN.sum(axis=1)
        self.sums_5C += np.stack([count, count, total_C, total_C, (gain_CN**2).sum(axis=1)])

    def best(self) -> str:
        """The contender of the highest mean gain among those that gain beyond noise; "" if none does.

        The targets are taken as independent: the variance of the mean is Σ w² (g − mean)² / (Σ w)².
        """
        weight, square, total_C, square_total_C, square_squares_C = self.sums_5C
        if not len(weight) or weight[0] < TARGETS_MIN:
            return ""
        mean_C = total_C / weight
        off_C = square_squares_C - 2 * mean_C * square_total_C + mean_C**2 * square
        error_C = np.sqrt(np.maximum(off_C, 0)) / weight
        better_C = (mean_C > 0) & (mean_C > STANDARD_ERRORS * error_C)
        if not better_C.any():
            return ""
        return self.names[int(np.where(better_C, mean_C, -np.inf).argmax())]
