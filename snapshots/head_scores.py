"""How probable each behavior is when items are shown to a user, from what a generation holds.

    hashes of a user and of items, the manifest's ``head`` ──► [chances_of] ──► Chances (questions.py)

The logit of a behavior is a sum: the base of the generation, a number of the user, one of the item, and a
weight times the dot product of the vectors without their last channels. A user or an item that the generation
does not have adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from driftgraph.stream.arrays import F32, F64

HEAD = "head"  # the field of a manifest; and of a user's and an item's hash: float32, one for each behavior


class PublishedHead(msgspec.Struct, frozen=True):
    """What the manifest says of B heads."""

    relations: tuple[str, ...]
    base: tuple[float, ...]
    dot: tuple[float, ...]


def chances_of(head: bytes, vectors: F32, heads: Sequence[bytes | None]) -> dict[str, F64]:
    """The probabilities [N] by behavior. ``vectors`` [1 + N, dim] and ``heads`` have the user first.

    A vector that is not there is zero.
    """
    published = msgspec.json.decode(head, type=PublishedHead)
    own_MB = np.array([_own(one, len(published.relations)) for one in heads])
    with np.errstate(over="ignore", invalid="ignore"):
        user, *items = vectors[:, :-1].astype(np.float64)
        dot_N = np.array([item @ user for item in items])
    logit_NB = np.array(published.base) + own_MB[0] + own_MB[1:] + dot_N[:, None] * np.array(published.dot)
    chance_NB = np.exp(-np.logaddexp(0.0, -logit_NB))
    return {name: chance_NB[:, b] for b, name in enumerate(published.relations)}


def _own(blob: bytes | None, count: int) -> F64:
    """The numbers of a user or an item, [B]; zeros where there are none."""
    found: F64 = np.frombuffer(blob or b"", "<f4").astype(np.float64)
    return found if len(found) == count else np.zeros(count)
