"""The report of a fit, and the progress that it tells while it runs.

Trainer.fit ──► [OnStep] ──► whoever waits
            └─► [FitReport] ──► report of the cycle, status, log
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from driftgraph.stream.arrays import F64

OnStep = Callable[[int, int, int], None]  # attempt from 1 on, steps done, steps of the attempt


@dataclass(frozen=True, slots=True)
class Stability:
    """What an accepted fit left as it was, beside the generation before; nan where nothing compares."""

    item_cosine: float  # mean over the items of both, without the popularity in the last channel
    overlap: float  # share of a user's best items by the new items that are its best by the old ones, too
    forgetting: (
        float  # by how much the loss of held-out events from before the interval grew; -.01 is 1 % less
    )


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did. ``model_version`` is the serving one after it, grown by one if it was accepted.

    The numbers are those of the last attempt; ``refused`` has the reason of each one that the gate refused.
    """

    model_version: int
    accepted: bool
    code: str  # "" if accepted; no_events, skipped_steps, not_finite, norm, holdout, popularity, moved
    reason: str
    steps: int  # taken
    skipped: int  # steps with a non-finite loss or gradient
    loss: float  # mean over the steps taken; nan if none was
    new_examples: int
    replayed_examples: int
    rows_moved: int
    holdout: Mapping[str, tuple[float, float]]  # name -> mean loss of (the gate's rival, candidate)
    refused: tuple[str, ...] = ()
    stability: Stability | None = None  # None for a first model and a fit that was refused


def no_fit(model_version: int) -> FitReport:
    """The report where nothing is there to train on."""
    why = "no new event to train on"
    return FitReport(model_version, False, "no_events", why, 0, 0, math.nan, 0, 0, 0, {})


def steps_of(on_step: OnStep | None, attempt: int) -> Callable[[int, int], None]:
    """``on_step`` of one attempt; one that does nothing if nobody waits."""

    def told(done: int, total: int) -> None:
        if on_step is not None:
            on_step(attempt, done, total)

    return told


def mean_of(values: F64) -> float:
    """The mean of some losses; nan of none."""
    return float(values.mean()) if len(values) else math.nan
