"""Bring your own model: the protocol of a class that is trained and served in the place of our network.

    model.custom = "package.module:Class"
    window ──► Neighborhoods ──► [your class] ──► vectors ──► fit, gate, checkpoint, evaluation, Redis, lists

A class of your own is a ``torch.nn.Module`` with the methods of ``CustomModel``. driftgraph samples the
neighborhoods, keeps a trained row for each item, chooses examples and negatives, makes the steps of the
optimizer, and does all else that it does with its own network. A class has no table of items or users: both
come and go with the window. ``examples/custom_model.py`` is a whole one.

With ``model.backend = "dgl"`` the class is any DGL module instead, whose ``forward(blocks, features)`` takes
DGL blocks of the same neighborhoods (see ``dgl_blocks``). ``examples/dgl_model.py`` is a whole one.

Rules that hold for every batch:
  * **As of t.** Each node is seen as of a time of its own, ``time_ms_N``, and no event of its neighborhood is
    at or after that time. In training that is the time of the example's event for a user, and the time of the
    batch's first event for an item.
  * **Units.** Times are integers, milliseconds of UTC since 1970. Vectors and features are float32, on the
    device of ``model.device``.
  * **A score is a dot product** of a user's and an item's vector of ``model.dim`` numbers. The last number of
    a user's vector is replaced by 1, so that the last number of an item's vector is added to its scores.
  * **Chance.** torch's own chance (dropout) is seeded for each step; ``train()`` and ``eval()`` are called.
  * A batch is never empty. The vector of a node must not depend on the other nodes of the batch.

Shape suffixes: N nodes, K neighbors, S source nodes, D = ``model.dim`` numbers, F popularities, B examples,
C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from driftgraph.model.options import TrainerOptions
from driftgraph.stream.errors import DriftgraphError


class CustomModelError(DriftgraphError):
    """The user's class failed, or gave something else than the protocol says."""


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """N users or N items, each with its newest neighbors, which are of the other side.

    Always true: a neighbor is there once, in the relation of its newest event before ``time_ms_N``; the
    newest neighbor is at place 0; real neighbors come before padding; K is at least 1.
    """

    side: int  # 0: users with the items that they touched; 1: items with the users who touched them
    feature_ND: Tensor  # an item's trained row; the mean of the rows of a user's newest items, 0 without any
    time_ms_N: Tensor  # int64, as of when
    source_SD: Tensor  # the features of the S nodes that neighbors are among; S is at least 1
    neighbor_NK: Tensor  # int64, which of the S; 0 where the mask says no
    mask_NK: Tensor  # bool, whether there is a neighbor at this place
    relation_NK: Tensor  # int64, the behavior: its place in the ``relations`` that the class was made with
    event_ms_NK: Tensor  # int64, the time of the newest event with the neighbor; 0 where the mask says no
    popularity_NF: Tensor | None  # log of an item's recent popularity, over a day or so and over a week or so
    source: Neighborhoods | None  # the S nodes with their own neighborhoods, where ``model.layers`` looks on

    def neighbor_features(self) -> Tensor:
        """[N, K, D] features of the neighbors, newest first; 0 where there is none."""
        found_NKD = torch.nn.functional.embedding(self.neighbor_NK, self.source_SD)
        return found_NKD * self.mask_NK.unsqueeze(2)

    def age_s(self) -> Tensor:
        """[N, K] float32 seconds from the event to ``time_ms_N``, above 0; 0 where there is no neighbor."""
        age_ms_NK = self.time_ms_N.unsqueeze(1) - self.event_ms_NK
        return torch.where(self.mask_NK, age_ms_NK, 0).float() / 1_000


@dataclass(frozen=True, slots=True)
class Targets:
    """What a loss compares: B examples, each a user who touched an item, and C candidates that they share."""

    positive_B: Tensor  # int64, the candidate that is the example's item
    excluded_BC: Tensor  # bool, candidates that the user has touched: no negatives; never the positive
    log_q_C: Tensor  # log of the probability that the candidate is in the batch


class CustomModel(Protocol):
    """The methods of a class of your own, which is a ``torch.nn.Module`` beside.

    What a method raises, and a result of another shape, ends the fit with the method's name and the shape
    that was expected; ``driftgraph status`` shows it. NaN or inf in a step skips the step, and the gate
    refuses a fit of three such steps in a row.
    """

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        """Make it, with every parameter that it will ever have.

        Args:
            relations: The behaviors, in the order of ``relation_NK``.
            options: ``options.dim``, ``heads`` and ``layers`` are those of the configuration.
        """

    def encode_users(self, users: Neighborhoods) -> Tensor:
        """[N, D] vectors of users; the last number of each is replaced by 1."""
        ...

    def encode_items(self, items: Neighborhoods) -> Tensor:
        """[N, D] vectors of items; the last number of each is added to its scores."""
        ...

    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        """[B] the loss of each example, which training minimizes the weighted mean of.

        It may be left out: then it is the cross entropy of the example's item among the candidates, corrected
        for how these were drawn (``loss.sampled_softmax``). The gate judges by that one always, so scores
        should be log-probabilities but for a constant.
        """
        ...
