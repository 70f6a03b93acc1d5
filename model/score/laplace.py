"""A Gaussian posterior by Laplace's method: the minimum of a convex loss and a quadratic prior.

    prior, what was learned before, a loss ──► [carried, minimum] ──► mean, information

What was learned is carried on as the next prior, and is forgotten slowly by whoever keeps it.

Source: Spiegelhalter and Lauritzen, "Sequential updating of conditional probabilities", Networks 1990.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from driftgraph.stream.arrays import F64

STEPS_MAX = 20  # of Newton's method
TOLERANCE = 1e-6

Value = Callable[[F64], float]  # of the loss at some weights
Slope = Callable[[F64], tuple[F64, F64]]  # its gradient and its Hessian


def carried(prior_F: F64, precision_FF: F64, mean_F: F64, information_FF: F64) -> tuple[F64, F64]:
    """Mean and precision of a prior and of what was learned beside it."""
    known_FF = precision_FF + information_FF
    pull_F = precision_FF @ prior_F + information_FF @ mean_F
    return np.linalg.solve(known_FF, pull_F).astype(np.float64), known_FF


def minimum(value: Value, slope: Slope, begin_F: F64, precision_FF: F64) -> tuple[F64, F64]:
    """The minimum of loss + ½ (w − begin)ᵀ precision (w − begin), and the Hessian there.

    By Newton's method with halved steps.
    """

    def whole(weight_F: F64) -> float:
        off_F = weight_F - begin_F
        return value(weight_F) + 0.5 * float(off_F @ precision_FF @ off_F)

    weight_F, hessian_FF = begin_F.copy(), precision_FF
    reached = whole(weight_F)
    for _ in range(STEPS_MAX):
        gradient_F, own_FF = slope(weight_F)
        gradient_F, hessian_FF = gradient_F + precision_FF @ (weight_F - begin_F), own_FF + precision_FF
        step_F, length = np.linalg.solve(hessian_FF, gradient_F), 1.0
        while length > 1e-4:
            tried = whole(weight_F - length * step_F)
            if tried <= reached:
                break
            length /= 2
        else:
            break
        weight_F = weight_F - length * step_F
        if reached - tried <= TOLERANCE * abs(reached):
            break
        reached = tried
    return weight_F, hessian_FF
