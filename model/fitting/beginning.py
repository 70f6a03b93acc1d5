"""How a model begins: item rows in closed form, then gentle training that has to prove itself part by part.

    Trainer.fit of a first model ──► [closed_rows] ──► ItemTable ──► [gently] ──► the gate
    Trainer.fit, a full retrain ──► [drawn_rows] ──► ItemTable ──► training ──► the gate
    Trainer.evaluate ──► [anew_vectors] ──► scorer ``started_anew`` ──► [Behind] ──► may the fit begin so?

Linear algebra finds in seconds what training from random rows finds in days of steps. Training at full rates
from that point makes it worse (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from driftgraph.model.examples.examples import Batch, Plan, first_contacts, is_held, plan, take
from driftgraph.model.fitting.closed_form import ClosedForm
from driftgraph.model.fitting.gate import ACCEPTED
from driftgraph.model.fitting.weights import Trained, Weights
from driftgraph.model.network.embed import Encoder, popularity_now
from driftgraph.model.network.item_table import initial_rows
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.arrays import F32, F64, U32
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, Events, WindowView

ANEW = "started_anew"  # the scorer's name in an evaluation
# Where an attempt begins: at the serving weights, at rows drawn towards the closed form, or from nothing.
Begin = Literal["served", "drawn", "anew"]
RATES = (1.0, 0.3, 0.1)  # share of the learning rates: a fit that the gate refuses is tried again, gentler
PARTS = 4  # of the batches of a first fit; after each the holdout says whether it is kept
RATE = 0.3  # of the learning rates of a later fit

ROW_COSINE = 0.985  # mean, of the rows that a full retrain begins with to those of before
HALVINGS = 12  # of the search for how far rows are drawn

LOSSES_MAX = 3  # evaluations in a row in which a model begun anew ranks better than the served vectors
EVENTS_MIN = 100  # an evaluation of fewer events says nothing about it


@dataclass(frozen=True, slots=True)
class Behind:
    """How often in a row a model begun anew has ranked better, after the evaluation up to the cut ``at``."""

    times: int = 0
    at: Cut | None = None

    def after(self, metrics: Mapping[str, Mapping[str, float]], event_count: int, at: Cut) -> Behind:
        """Count an evaluation of so many events by its metrics; the same one counts once."""
        if at == self.at or event_count < EVENTS_MIN or ANEW not in metrics:
            return self
        ours, anews = (
            next(value for name, value in metrics[scorer].items() if name.startswith("ndcg"))
            for scorer in ("vectors", ANEW)
        )
        return Behind(self.times + 1 if anews > ours else 0, at)

    @property
    def too_often(self) -> bool:
        """Whether the next fit should begin anew."""
        return self.times >= LOSSES_MAX


def attempts(behind: Behind, *, is_first: bool, is_full: bool) -> list[tuple[float, Begin]]:
    """The learning rates and the beginning of each attempt of a fit, until the gate accepts one."""
    usual: list[tuple[float, Begin]] = [(rate, "anew" if is_first else "served") for rate in RATES]
    if not is_first and is_full:
        return [(RATES[0], "drawn"), *usual]
    return [(RATES[0], "anew"), *usual] if not is_first and behind.too_often else usual


def is_full_due(cut: Cut, begun_ms: int, options: TrainerOptions) -> bool:
    """Whether a multiple of ``full_every_ms`` lies between the cut and the newest full retrain."""
    every_ms = options.full_every_ms
    return every_ms > 0 and cut.watermark_ms // every_ms > begun_ms // every_ms


def closed_rows(events: Events, rows: int, options: TrainerOptions, before_ID: F32 | None = None) -> F32:
    """[rows, D] to begin with: factors, and 0 as the item's own bias; an initial row where an item has none.

    Pairs of the holdout are left out of ``events``: what judges the model must not be in it. The solution is
    searched from the rows of before, where there are any.
    """
    dim = options.dim
    form = ClosedForm.of(
        _without_held_pairs(events, options),
        rows,
        factors=dim - 1,
        seed=options.seed,
        start_ID=None if before_ID is None else before_ID[:, :-1],
    )
    made = initial_rows(np.arange(rows), dim, options.seed)
    known = form.item_ID.any(axis=1)
    made[known, :-1] = form.item_ID[known]
    return made


def plan_of(
    view: WindowView, since: Cut, cut: Cut, begin: Begin, options: TrainerOptions, rng: np.random.Generator,
    *, is_first: bool, listed: U32 | None = None,
) -> tuple[Plan, bool]:  # fmt: skip
    """What an attempt trains on, and whether that is the whole window: anew, or if nothing else is new."""
    if is_first:
        return plan(view, since, cut, options, rng, listed), True
    if begin != "anew":
        todo = plan(view, since, cut, options, rng, listed)
        if begin == "served" or todo.new_count:
            return todo, False
    whole, options = (
        replace(cut, next=cut.first),
        replace(options, first_examples_max=options.anew_examples_max),
    )
    return plan(view, whole, cut, options, rng, listed), True


def start(weights: Weights, begin: Begin, events: Events, *, is_first: bool) -> None:
    """Put the weights where an attempt begins. Rows in closed form lie near to those of before, if any do."""
    table, options = weights.table, weights.options
    before, first, second, steps = table.kept()
    before_ID = before.cpu().numpy()
    if begin == "anew":
        rows_ID = closed_rows(events, table.rows, options, None if is_first else before_ID)
        weights.start(rows_ID if is_first else aligned(rows_ID, before_ID))
    elif begin == "drawn":
        rows_ID = drawn_rows(events, options, before_ID)
        table.put((torch.from_numpy(rows_ID).to(before.device), first, second, steps))


def drawn_rows(events: Events, options: TrainerOptions, before_ID: F32) -> F32:
    """The rows of before, drawn towards those in closed form until their mean cosine is ``ROW_COSINE``.

    Rows that are still initial ones, or that the window has no pair of, stay, and so does the last channel.
    """
    first_ID = initial_rows(np.arange(len(before_ID)), options.dim, options.seed)
    made_ID = closed_rows(events, len(before_ID), options, before_ID)
    both = (made_ID != first_ID).any(axis=1) & (before_ID != first_ID).any(axis=1)
    to_ID, from_ID = aligned(made_ID, before_ID)[both, :-1], before_ID[both, :-1]
    to_ID *= np.float32(np.sqrt((from_ID**2).sum() / max(float((to_ID**2).sum()), 1e-12)))
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = _mean_cosine(from_ID + np.float32(middle) * (to_ID - from_ID), from_ID) >= ROW_COSINE
        low, high = (middle, high) if near else (low, middle)
    drawn = before_ID.copy()
    drawn[both, :-1] = from_ID + np.float32(low) * (to_ID - from_ID)
    return drawn


def _mean_cosine(one_ND: F64 | F32, other_ND: F32) -> float:
    """1 for no rows."""
    lengths = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    cosine = np.einsum("nd,nd->n", one_ND, other_ND) / np.maximum(lengths, 1e-12)
    return float(cosine.mean()) if len(cosine) else 1.0


def aligned(rows_ID: F32, to_ID: F32) -> F32:
    """``rows_ID`` turned so that they lie as near as possible to ``to_ID``; no dot product changes.

    Rows that either has no numbers for do not say where to turn. The last channel is a bias and stays.

    Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    both = rows_ID[:, :-1].any(axis=1) & to_ID[:, :-1].any(axis=1)
    made_ID, meant_ID = rows_ID[both, :-1].astype(np.float64), to_ID[both, :-1].astype(np.float64)
    left, _, right = np.linalg.svd(made_ID.T @ meant_ID)
    turned = rows_ID.copy()
    turned[:, :-1] = rows_ID[:, :-1] @ (left @ right)
    return turned


def anew_vectors(
    view: WindowView, cut: Cut, events: Events, targets: Events, candidate: U32, options: TrainerOptions
) -> tuple[F32, F32]:
    """Vectors of a model that begins from ``events`` and makes no step of training.

    Args:
        view: The window.
        cut: Users are as strictly before their target, at this cut.
        events: All that the model knows; its items are as right after the newest.
        targets: Whose users [n, D] are wanted.
        candidate: Whose items [C, D] are wanted.
        options: Of the model.
    """
    version, now = view.row_versions(ITEM), int(events.time_ms[-1]) + 1 if len(events) else 0
    weights = Weights([relation.name for relation in view.relations], options)
    weights.table.adopt(version)
    weights.table.start(closed_rows(events, len(version), options))
    encoder = Encoder(weights.network, weights.table, view, cut)
    features = popularity_now(events, view, weights.network).features(candidate)
    items = encoder.items(candidate, np.full(len(candidate), now, np.int64), features)
    return encoder.users(targets.user, targets.time_ms), items


def gently(
    batches: Sequence[Batch],
    train: Callable[[Sequence[Batch]], Trained],
    loss: Callable[[], float],
    keep: Callable[[], Callable[[], None]],
) -> Trained:
    """Train on part after part, as long as the holdout gets better; undo the first part that makes it worse.

    Steps that cannot be made end it with their verdict.

    Args:
        batches: In the order of training.
        train: Trains on some of them.
        loss: On the holdout, by the weights of this moment.
        keep: Remembers the weights of this moment, and returns what brings them back.
    """
    best, bring_back = loss(), keep()
    done = Trained(0, 0, float("nan"), ACCEPTED)
    for part in np.array_split(np.arange(len(batches)), min(PARTS, len(batches))):
        made = train([batches[i] for i in part])
        total = sum(one.loss * one.steps for one in (done, made) if one.steps)
        steps = done.steps + made.steps
        done = Trained(steps, done.skipped + made.skipped, total / max(steps, 1), made.verdict)
        if not made.verdict.accepted:
            break
        now = loss()
        if not now < best:
            bring_back()
            break
        best, bring_back = now, keep()
    return done


def _without_held_pairs(events: Events, options: TrainerOptions) -> Events:
    held = is_held(events, options)
    if options.first_contacts_only:
        held &= first_contacts(events)
    pair = (events.user.astype(np.uint64) << np.uint64(32)) | events.item
    return take(events, ~np.isin(pair, pair[held]))
