"""The slices of an evaluation: targets of users and items of a kind, whose metrics are told by themselves.

targets of an interval ──► [slices_of] ──► warm, cold, head, tail, new_items, untouched_items
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from driftgraph.model.fitting.published import Published
from driftgraph.stream.arrays import I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Events, WindowView

HEAD_SHARE = 0.5  # the head are the items that made this share of the events before


class Asked(Protocol):
    """The targets; see ``evaluate.Targets``."""

    @property
    def events(self) -> Events:
        """In order of time."""
        ...

    @property
    def column(self) -> I64:
        """The place of each item among the candidates; −1 for none."""
        ...

    @property
    def warm(self) -> Mask:
        """Whether each user had an event before."""
        ...

    @property
    def touched(self) -> Mask:
        """Whether each item had an event before."""
        ...


class Candidates(Protocol):
    """What competes; see ``evaluate.Past``."""

    @property
    def candidate(self) -> U32:
        """[C] item rows."""
        ...

    @property
    def is_cold_C(self) -> Mask:  # noqa: N802  # C is the shape
        """[C] whether each was published without an event."""
        ...


def slices_of(
    targets: Asked, candidates: Candidates, old: Events, view: WindowView, serving: Published | None
) -> dict[str, Mask]:
    """Which targets are of warm and cold users, of head and tail items, of new and of untouched items.

    A new item had its first event after the fit that ``serving`` published, and before the target. An
    untouched one has it with the target: it is a miss, unless a catalog told of it.
    """
    head = np.isin(targets.events.item, _head(old))
    slices = {"warm": targets.warm, "cold": ~targets.warm, "head": head, "tail": ~head}
    if serving is not None:
        _, published_C = serving.items(candidates.candidate, view.row_versions(ITEM))
        new_C = ~published_C | candidates.is_cold_C
        slices["new_items"] = targets.touched & new_C[targets.column]
        slices["untouched_items"] = ~targets.touched
    return slices


def _head(old: Events) -> U32:
    """The fewest items that made half of the events."""
    if len(old) == 0:
        return old.item
    count = np.bincount(old.item)
    order = np.argsort(-count, kind="stable")
    needed = int(np.searchsorted(np.cumsum(count[order]), HEAD_SHARE * len(old))) + 1
    return order[:needed].astype(np.uint32)
