"""What an evaluation ranks, and among which items: everything as of the time of each target.

events of an interval and before ──► [Past.targets] ──► Targets ──► evaluate
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftgraph.model.fitting.published import Published
from driftgraph.model.network.embed import Encoder
from driftgraph.model.score.co_visitation import Histories
from driftgraph.stream.arrays import I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Events, WindowView


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be ranked, in order of time, among the candidates of ``question``."""

    events: Events
    column: I64  # place of each target's item among the candidates; −1 if it was not seen before
    excluded: list[I64]  # places that do not compete: its user had touched them, or nobody had yet
    warm: Mask
    touched: Mask  # whether somebody had touched the item before


@dataclass(frozen=True, slots=True)
class Past:
    """The events of an interval and of all before it that live, sorted by time, and every item in them."""

    events: Events
    candidate: U32
    first_ms_C: I64  # the time of the first event; beyond every time where there is none
    is_cold_C: Mask  # competes from the begin on, though it had no event then
    histories: Histories

    @classmethod
    def of(cls, events: Events, cold: U32 | None = None) -> Past:
        """``cold`` are items that were published without an event. O(events · log events)."""
        cold = np.zeros(0, np.uint32) if cold is None else cold
        item, first = np.unique(events.item, return_index=True)
        candidate = np.union1d(item, cold)
        first_ms = np.full(len(candidate), np.iinfo(np.int64).max)
        first_ms[np.searchsorted(candidate, item)] = events.time_ms[first]
        return cls(events, candidate, first_ms, np.isin(candidate, cold), Histories.of(events))

    def targets(self, chosen: Events, *, repeats: bool) -> Targets:
        """The chosen events as targets; ``repeats``: what a user has touched competes."""
        rows = max(int(self.candidate.max(initial=0)), int(chosen.item.max(initial=0))) + 1
        place = np.full(rows, -1, np.int64)
        place[self.candidate] = np.arange(len(self.candidate))
        column = place[chosen.item] if len(chosen) else np.zeros(0, np.int64)
        seen = np.zeros(len(chosen), np.bool_)
        known = column[column >= 0]
        seen[column >= 0] = self.first_ms_C[known] < chosen.time_ms[column >= 0]
        competes = seen.copy()
        competes[column >= 0] |= self.is_cold_C[known]
        touched, warm = _touched(self.histories, chosen, place)
        earliest_ms = chosen.time_ms.min(initial=np.iinfo(np.int64).max)
        new = np.flatnonzero((self.first_ms_C >= earliest_ms) & ~self.is_cold_C)
        if repeats:
            touched = [one[:0] for one in touched]
        unseen = [new[self.first_ms_C[new] >= time_ms] for time_ms in chosen.time_ms]
        excluded = [np.concatenate(pair) for pair in zip(touched, unseen, strict=True)]
        return Targets(chosen, np.where(competes, column, -1), excluded, warm, seen)


def cold_of(serving: Published, old: Events, view: WindowView, encoder: Encoder) -> U32:
    """The items that were published without an event, and had none before the interval."""
    versions = view.row_versions(ITEM)
    rows = serving.item_rows[serving.item_rows < len(versions)].astype(np.uint32)
    rows = np.setdiff1d(rows[serving.items(rows, versions)[1]], old.item)
    before_ms = int(old.time_ms[-1]) + 1 if len(old) else 0
    return rows[encoder.cold.is_in_catalog(rows, before_ms)]


def _touched(histories: Histories, targets: Events, place: I64) -> tuple[list[I64], Mask]:
    """For each target the candidates its user touched strictly before, and whether it had any event."""
    touched: list[I64] = []
    warm = np.zeros(len(targets), np.bool_)
    for n, (user, time_ms) in enumerate(zip(targets.user.tolist(), targets.time_ms.tolist(), strict=True)):
        begin, end = histories.begin(user), histories.end_before(user, time_ms)
        at = place[np.unique(histories.item[begin:end])]
        touched.append(at[at >= 0])
        warm[n] = end > begin
    return touched, warm
