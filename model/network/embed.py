"""Vectors of all live nodes at a cut: what is published, and what the gate looks at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.attributes.cold_start import ColdStart
from driftgraph.model.examples.examples import half_lives_ms
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.network.item_table import ItemRows
from driftgraph.model.network.neighbors import RowNumbers, moved, now_ms, sample
from driftgraph.model.network.network import POPULARITY_FEATURES, Network
from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Events, WindowView

NEVER = np.iinfo(np.int64).min  # before every time
CHUNK = 4_096  # nodes encoded at once: bounds memory to about a hundred MB at the default sizes


@dataclass(frozen=True, slots=True)
class Embedding:
    """Every live user and item, rows ascending; ``user @ item`` is the score.

    ``*_event_ms`` is the time of the newest live event of each.
    """

    user_rows: U32
    user: F32
    user_event_ms: I64
    item_rows: U32
    item: F32
    item_event_ms: I64

    def __len__(self) -> int:
        return len(self.user_rows) + len(self.item_rows)


class Encoder:
    """The network over the table, without gradients, at one cut. Cheap to make."""

    def __init__(
        self, network: Network, table: ItemRows, view: WindowView, cut: Cut, cold: ColdStart | None = None
    ) -> None:
        self.network, self.table, self.view, self.cut = network, table, view, cut
        self.cold = cold or ColdStart()

    def users(self, rows: U32, times_ms: I64) -> F32:
        """[n, D] of users as they were strictly before ``times_ms``."""
        parts = [self._encode(USER, rows[s], times_ms[s], None) for s in _chunks(len(rows))]
        return self.cold.users(self._joined(parts), self.view, self.cut, rows, times_ms)

    def items(self, rows: U32, times_ms: I64, popularity_NF: F32) -> F32:
        """[n, D] of items as they were strictly before ``times_ms``."""
        parts = [self._encode(ITEM, rows[s], times_ms[s], popularity_NF[s]) for s in _chunks(len(rows))]
        return self._joined(parts)

    def new_items(self, rows: U32, time_ms: int) -> F32:
        """[n, D] of items as they were strictly before a time. Their last channel means nothing."""
        times_ms = np.full(len(rows), time_ms, np.int64)
        made = self.items(rows, times_ms, np.zeros((len(rows), POPULARITY_FEATURES), np.float32))
        return self.cold.items(made, self.view, self.cut, rows, times_ms)

    @torch.no_grad()
    def _encode(self, side: int, rows: U32, times_ms: I64, popularity_NF: F32 | None) -> Tensor:
        options = self.network.options
        nodes = sample(
            self.view, self.cut, side=side, rows=rows, times_ms=times_ms, depth=options.layers,
            fanout=options.fanout, pool=options.uniform_pool,
        )  # fmt: skip
        numbers, device = RowNumbers(self.table.rows), self.table.device
        nodes = moved(numbers.localize(nodes), device)
        rows_nD = self.table.weight.index_select(0, numbers.rows_n.to(device))
        if popularity_NF is None:
            return self.network.users(nodes, rows_nD)
        return self.network.items(nodes, rows_nD, torch.from_numpy(popularity_NF).to(device))

    def _joined(self, parts: list[Tensor]) -> F32:
        if not parts:
            return np.zeros((0, self.table.dim), np.float32)
        joined: F32 = torch.cat(parts).cpu().numpy()
        return joined


def embed(encoder: Encoder) -> Embedding:
    """Encode every node that has a live event. O(live events + nodes)."""
    view, cut = encoder.view, encoder.cut
    events = view.events(cut)
    now = now_ms(view, cut)
    user_rows, user_event_ms = newest_events(events.user, events.time_ms)
    item_rows, item_event_ms = newest_events(events.item, events.time_ms)
    features = popularity_now(events, view, encoder.network).features(item_rows)
    return Embedding(
        user_rows,
        encoder.users(user_rows, np.full(len(user_rows), now)),
        user_event_ms,
        item_rows,
        encoder.items(item_rows, np.full(len(item_rows), now), features),
        item_event_ms,
    )


def popularity_now(events: Events, view: WindowView, network: Network) -> Popularity:
    """Popularity right after the newest of ``events``."""
    popularity = Popularity(half_lives_ms(view.relations, network.options), view.rows(ITEM))
    popularity.advance(events, int(events.time_ms[-1]) + 1 if len(events) else 0)
    return popularity


def newest_events(rows: U32, time_ms: I64) -> tuple[U32, I64]:
    """Distinct rows ascending with the largest time of each; ``time_ms`` ascends."""
    newest_ms = np.full(int(rows.max(initial=0)) + 1, NEVER)
    newest_ms[rows] = time_ms  # of a row that comes again, the last
    there = np.flatnonzero(newest_ms > NEVER)
    return there.astype(np.uint32), newest_ms[there]


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
