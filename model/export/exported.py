"""The window of a cut as plain columns, for whoever takes it elsewhere.

WindowView at a cut ──► [ExportedGraph] ──► Parquet (app/commands/export.py)
                                        ├─► PyG ([save_pyg])
                                        └─► DGL, METIS parts (dgl_files.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from driftgraph.stream.arrays import I32, I64, U32
from driftgraph.stream.window.heterograph import KINDS
from driftgraph.stream.window.writer import Cut, WindowView

Parts = tuple[I32, I32]  # by side: the part of each node


@dataclass(frozen=True, slots=True)
class Edges:
    """The live events of one relation as nodes and times, sorted by (time, arrival)."""

    user: I64
    item: I64
    time_ms: I64

    def __len__(self) -> int:
        return len(self.time_ms)


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """The live events of a cut. A node is a user or an item with a live event, numbered from 0 by row."""

    rows: tuple[U32, U32]  # by side: the window's row of each node, ascending
    edges: Mapping[str, Edges]  # every relation, also one without events

    @classmethod
    def of(cls, view: WindowView, cut: Cut) -> ExportedGraph:
        """O(live events · log).

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        events = view.events(cut)
        users, user = np.unique(events.user, return_inverse=True)
        items, item = np.unique(events.item, return_inverse=True)
        edges = {}
        for r, relation in enumerate(view.relations):
            own = np.flatnonzero(events.relation == r)
            edges[relation.name] = Edges(user[own], item[own], events.time_ms[own])
        return cls((users, items), edges)

    @property
    def node_counts(self) -> tuple[int, int]:
        """Users and items."""
        return len(self.rows[0]), len(self.rows[1])


def save_pyg(graph: ExportedGraph, parts: Parts | None, path: Path) -> None:
    """Write what ``HeteroData.from_dict(torch.load(path))`` reads. PyG itself is not needed for that.

    ``edge_index`` of each edge type is sorted by target and then by time, which is CSC order: a
    ``NeighborLoader`` takes it with ``is_sorted=True`` and ``time_attr="time"``. ``time`` is in ms.
    """
    data: dict[str | tuple[str, str, str], dict[str, Any]] = {}
    for side, kind in enumerate(KINDS):
        data[kind] = {"num_nodes": graph.node_counts[side]}
        if parts is not None:
            data[kind]["part"] = torch.from_numpy(parts[side].astype(np.int64))
    for name, edges in graph.edges.items():
        for (source, target), ends in zip((KINDS, KINDS[::-1]), _both(edges), strict=True):
            edge_index, time = _by_target(*ends, edges.time_ms)
            relation = name if source == KINDS[0] else f"rev-{name}"
            data[source, relation, target] = {"edge_index": edge_index, "time": time}
    torch.save(data, path)


def _both(edges: Edges) -> tuple[tuple[I64, I64], tuple[I64, I64]]:
    return (edges.user, edges.item), (edges.item, edges.user)


def _by_target(source: I64, target: I64, time_ms: I64) -> tuple[Tensor, Tensor]:
    order = np.argsort(target, kind="stable")  # the edges are in order of time
    edge_index = torch.from_numpy(np.stack([source[order], target[order]]))
    return edge_index, torch.from_numpy(time_ms[order])
