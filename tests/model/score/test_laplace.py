"""The Gaussian posterior: exact for a quadratic loss, and carried on as if all was learned at once."""

from __future__ import annotations

import numpy as np

from driftgraph.model.score.laplace import carried, minimum
from driftgraph.stream.arrays import F64

F = 6
RNG = np.random.default_rng(4)
PRIOR: F64 = RNG.normal(size=F)
PRECISION: F64 = np.diag(RNG.uniform(1, 3, F))


def squares(count: int, seed: int) -> tuple[F64, F64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, F)), rng.normal(size=count)


def learned(x: F64, y: F64, begin: F64, precision: F64) -> tuple[F64, F64]:
    """Least squares, whose posterior is known."""
    return minimum(
        lambda w: 0.5 * float(((x @ w - y) ** 2).sum()),
        lambda w: (x.T @ (x @ w - y), x.T @ x),
        begin,
        precision,
    )


def test_a_quadratic_loss_gives_the_exact_posterior() -> None:
    x, y = squares(40, 1)
    mean, precision = learned(x, y, PRIOR, PRECISION)
    expected = np.linalg.solve(x.T @ x + PRECISION, x.T @ y + PRECISION @ PRIOR)
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    np.testing.assert_allclose(precision, x.T @ x + PRECISION, rtol=1e-12)


def test_two_parts_one_after_the_other_are_as_both_together() -> None:
    """With a weak prior: the mean that is carried on has the prior in it, which so counts a second time."""
    (x, y), (u, v), weak = squares(40, 1), squares(30, 2), 1e-6 * PRECISION
    mean, precision = learned(x, y, PRIOR, weak)
    begin, known = carried(PRIOR, weak, mean, precision - weak)
    mean, _ = learned(u, v, begin, known)
    together, _ = learned(np.concatenate([x, u]), np.concatenate([y, v]), PRIOR, weak)
    np.testing.assert_allclose(mean, together, atol=1e-6)


def test_a_loss_that_overshoots_still_ends_at_its_minimum() -> None:
    """Newton's full step leads far away from the minimum of √(1 + w²), beyond |w| = 1."""
    far: F64 = np.full(1, 30.0)
    mean, _ = minimum(
        lambda w: float(np.sqrt(1 + w @ w)),
        lambda w: (w / np.sqrt(1 + w @ w), np.array([[(1 + w @ w) ** -1.5]])),
        far,
        np.array([[1e-9]]),
    )
    assert abs(float(mean[0])) < 1e-2
