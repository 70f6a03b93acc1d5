"""How probable each behavior is when items are shown to a user, from what a generation holds.

    hashes of a user and of items, the manifest's ``head`` ──► [chances_of] ──► Chances ──► a ranking service

The logit of a behavior is a sum: the base of the generation, a number of the user, one of the item, and a
weight times the dot product of the vectors without their last channels. A user or an item that the generation
does not have adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from driftgraph.snapshots.answers import Chances
from driftgraph.stream.arrays import F32, F64

HEAD = "head"  # the field of a manifest; and of a user's and an item's hash: float32, one for each behavior
Row = Sequence[bytes | None]  # of a hash: embedding, head


class PublishedHead(msgspec.Struct, frozen=True):
    """What the manifest says of B heads."""

    relations: tuple[str, ...]
    base: tuple[float, ...]
    dot: tuple[float, ...]


def chances_of(generation: int, head: bytes, user: Row, items: Sequence[Row]) -> Chances:
    """The probabilities by behavior."""
    published = msgspec.json.decode(head, type=PublishedHead)
    count = len(published.relations)
    vector, own_B = _floats(user[0]), _own(user[1], count)
    dot_N, item_NB = np.zeros(len(items)), np.zeros((len(items), count))
    for n, (embedding, own) in enumerate(items):
        item = _floats(embedding)
        if len(item) == len(vector):
            with np.errstate(over="ignore", invalid="ignore"):
                dot_N[n] = item[:-1].astype(np.float64) @ vector[:-1].astype(np.float64)
        item_NB[n] = _own(own, count)
    logit_NB = np.array(published.base) + own_B + item_NB + dot_N[:, None] * np.array(published.dot)
    chance_NB = np.exp(-np.logaddexp(0.0, -logit_NB))
    by_behavior = {name: chance_NB[:, b] for b, name in enumerate(published.relations)}
    found = np.array([embedding is not None for embedding, _ in items], np.bool_)
    return Chances(generation, "heads", by_behavior, user[0] is not None, found)


def _floats(blob: bytes | None) -> F32:
    return np.frombuffer(blob or b"", "<f4")


def _own(blob: bytes | None, count: int) -> F64:
    """The numbers of a user or an item, [B]; zeros where there are none."""
    found: F64 = _floats(blob).astype(np.float64)
    return found if len(found) == count else np.zeros(count)
