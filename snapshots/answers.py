"""What a reader answers: vectors, items recommended to a user, probabilities, items similar to an item.

EmbeddingReader (reader.py) ──► [Batch, Recommendation, Chances, SimilarItems] ──► a ranking service
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from driftgraph.stream.arrays import F32, F64, Mask


@dataclass(frozen=True, slots=True)
class Batch:
    """Vectors of some users and some items, all of one generation.

    A row whose ``found`` is False is zero. ``generation`` is 0 if nothing was published yet; then no row is
    found and the vectors have no columns.
    """

    generation: int
    users: F32
    users_found: Mask
    items: F32
    items_found: Mask


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Items to show a user, best first; equal scores by id.

    ``source`` says how they were found: ``list`` (by the worker, when it wrote the user's vector),
    ``embedding`` (here; scores are dot products), ``trending`` (for an unknown user; scores are those of the
    trend lists) or ``none``.
    """

    generation: int
    source: Literal["list", "embedding", "trending", "none"]
    items: list[tuple[str, float]]
    event_ms: int | None = None  # time of the newest event that is in the user's vector


@dataclass(frozen=True, slots=True)
class Chances:
    """How probable each behavior is when each of N items is shown to a user, calibrated.

    ``source`` is ``heads``; or it says why there are no probabilities: ``off`` (the generation has no heads:
    no impressions are named, or no model has been trained yet), ``none`` (there is no generation). A user or
    an item that the generation does not have is judged without what is known of it.
    """

    generation: int
    source: Literal["heads", "off", "none"]
    by_behavior: dict[str, F64]  # [N] each
    user_found: bool
    items_found: Mask


@dataclass(frozen=True, slots=True)
class SimilarItems:
    """Items that are similar to one, best first; equal scores by id.

    ``source`` is ``list``, also for an item that has no similar one yet; or it says why there is none:
    ``unknown`` (the generation does not have the item), ``off`` (the generation was published with
    ``publish.similar = 0``, or before there were such lists), ``none`` (there is no generation).
    """

    generation: int
    source: Literal["list", "unknown", "off", "none"]
    items: list[tuple[str, float]]
