"""A model version as it is served: copies of its weights, which no fit changes, and their vectors.

Trainer ──► [ServedModel] ──► vectors of users and items between two publishes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftgraph.model.attributes.cold_start import ColdStart
from driftgraph.model.examples.examples import half_lives_ms
from driftgraph.model.examples.popularity import Popularity
from driftgraph.model.network.embed import Encoder
from driftgraph.model.network.item_table import ItemRows
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.network.network import Network
from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, WindowView


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The weights, and what was learned of attributes. One thread uses it: the rows follow the window.

    The methods raise StaleCut, and CustomModelError where a network that is not ours makes NaN or inf.
    """

    network: Network
    table: ItemRows
    cold: ColdStart

    def encoder(self, view: WindowView, cut: Cut) -> Encoder:
        """The network at a cut, over rows that are those of the window's items of now."""
        self.table.adopt(view.row_versions(ITEM))
        return Encoder(self.network, self.table, view, cut, self.cold)

    def users(self, view: WindowView, rows: U32, cut: Cut, times_ms: I64 | None = None) -> F32:
        """[n, D] of these users at the cut, each strictly before its time; None: at the cut's now."""
        if times_ms is None:
            times_ms = np.full(len(rows), now_ms(view, cut), np.int64)
        return self.network.sound(self.encoder(view, cut).users(rows, times_ms))

    def new_items(self, view: WindowView, rows: U32, cut: Cut, time_ms: int) -> F32:
        """[n, D] of items that no fit has had, as of a time; see ``Encoder.new_items``."""
        return self.network.sound(self.encoder(view, cut).new_items(rows, time_ms))

    def items(self, view: WindowView, rows: U32, cut: Cut, time_ms: int, popularity: Popularity) -> F32:
        """[n, D] of items that were published with events, as of a time."""
        times_ms = np.full(len(rows), time_ms, np.int64)
        return self.network.sound(self.encoder(view, cut).items(rows, times_ms, popularity.features(rows)))

    def popularity(self, view: WindowView) -> Popularity:
        """A count of events by item, with the half-lives of the model; it has none yet."""
        return Popularity(half_lives_ms(view.relations, self.network.options), view.rows(ITEM))
