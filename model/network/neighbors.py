"""From the window to the network: sampled neighborhoods as index tensors.

    WindowView ──► [sample] ──► Nodes ──► [RowNumbers.localize] ──► MBGNN

Everything here looks strictly before the time it is asked for; the window's ``recent`` holds that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.network import neighbor_kernels
from driftgraph.model.network.aggregate import Edges
from driftgraph.model.network.network import Nodes
from driftgraph.stream.arrays import I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.samplers import DistinctUnion, union
from driftgraph.stream.window.writer import Cut, WindowView

AHEAD_MS_MAX = 3_600_000  # how far past the watermark "now" lies: partitions run ahead of the slowest by less


def now_ms(view: WindowView, cut: Cut) -> int:
    """The time that serves for "now" at a cut: past the watermark, so that the newest events are seen.

    A neighborhood asked for at this time loses the oldest of a span by as much, hence the limit.
    """
    return cut.watermark_ms + 1 + min(AHEAD_MS_MAX, min(r.span_ms for r in view.relations) // 20)


def sample(
    view: WindowView,
    cut: Cut,
    *,
    side: int,
    rows: U32,
    times_ms: I64,
    depth: int,
    fanout: Sequence[int],
    pool: int = 0,
) -> Nodes:
    """Neighborhoods of N nodes, ``depth`` layers deep, everything strictly before each node's own time.

    Args:
        view: The window.
        cut: The answer is as of this cut.
        side: ``USER`` or ``ITEM``, of ``rows``.
        rows: [N] rows of that side.
        times_ms: [N].
        depth: Layers; at 0 an item is a leaf and a user still has its items, its own row being their mean.
        fanout: Neighbors by relation: of a user, of an item, of a user at depth 0.
        pool: 0 takes the newest; otherwise they are drawn from so many newest (``WindowView.uniform``).
    """
    own, at = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(times_ms.astype(np.int64))
    if side == ITEM and depth == 0:
        return Nodes(ITEM, own, None, None, at, None)
    k = fanout[side] if depth else fanout[2]
    if pool:
        hood = view.uniform(side, rows, times_ms, k, cut, pool=max(pool, k))
    else:
        hood = view.recent(side, rows, times_ms, k, cut)
    found = union(hood)
    edges = edges_of(found, timed=depth > 0)
    event_ms = torch.from_numpy(found.time_ms_BK[:, : edges.mask_NK.shape[1]])
    if side == USER and depth <= 1:
        return Nodes(USER, own, edges, None, at, event_ms)
    source_rows, source_times_ms = _at_times(edges, times_ms)
    source = sample(
        view, cut, side=1 - side, rows=source_rows, times_ms=source_times_ms, depth=depth - 1,
        fanout=fanout, pool=pool,
    )  # fmt: skip
    return Nodes(side, own, edges, source, at, event_ms)


def edges_of(hood: DistinctUnion, *, timed: bool = True) -> Edges:
    """The neighborhoods as tensors, as narrow as the fullest one. Ages are zero if not ``timed``."""
    shape = len(hood.count_B), int(hood.count_B.max(initial=0))
    source, relation = np.zeros(shape, np.int64), np.zeros(shape, np.uint8)
    mask, age = np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
    behind_s = age if timed else age[:, :0]
    found = (hood.count_B, hood.neighbor_BK, hood.relation_BK, hood.time_ms_BK)
    neighbor_kernels.real_places(*found, source, relation, mask, behind_s)
    if timed:
        age = np.log(age + 1)
    return Edges(*(torch.from_numpy(column) for column in (source, relation, mask, age)))


class RowNumbers:
    """The rows of the item table that a batch reads, numbered from 0 in the order in which it first does."""

    def __init__(self, table_rows: int) -> None:
        self._number_of = np.zeros(table_rows, np.int32)
        self._row_n = np.zeros(table_rows, np.int64)
        self._count = 0

    @property
    def rows_n(self) -> Tensor:
        """int64, distinct: the row of each number."""
        return torch.from_numpy(self._row_n[: self._count].copy())

    def localize(self, nodes: Nodes) -> Nodes:
        """Give each row of the item table in ``nodes`` its number; padding reads none."""
        if nodes.source is not None:
            self.localize(nodes.source)
        elif nodes.edges is not None:
            self._replace(nodes.edges.source_NK.numpy(), nodes.edges.mask_NK.numpy())
        if nodes.side == ITEM:
            own_N1 = nodes.row_N.numpy()[:, np.newaxis]
            self._replace(own_N1, np.ones(own_N1.shape, np.bool_))
        return nodes

    def _replace(self, row_NK: I64, mask_NK: Mask) -> None:
        self._count = neighbor_kernels.row_numbers(row_NK, mask_NK, self._number_of, self._row_n, self._count)


def moved(nodes: Nodes, device: torch.device) -> Nodes:
    """The same on ``device``."""
    edges = None if nodes.edges is None else nodes.edges.to(device)
    source = None if nodes.source is None else moved(nodes.source, device)
    event_ms_NK = None if nodes.event_ms_NK is None else nodes.event_ms_NK.to(device)
    return Nodes(nodes.side, nodes.row_N.to(device), edges, source, nodes.time_ms_N.to(device), event_ms_NK)


def touched(users: Nodes, candidate_C: Tensor, row_count: int) -> Tensor:
    """Places b · C + c of the candidates in each user's sampled history; rows are below ``row_count``."""
    assert users.edges is not None
    candidate_n = np.full(row_count, -1, np.int32)
    candidate_n[candidate_C.numpy()] = np.arange(len(candidate_C), dtype=np.int32)
    source_NK, mask_NK = users.edges.source_NK.numpy(), users.edges.mask_NK.numpy()
    if users.source is not None:
        candidate_n = candidate_n[users.source.row_N.numpy()]
    touched_BC = np.zeros((len(source_NK), len(candidate_C)), np.bool_)
    neighbor_kernels.mark_touched(source_NK, mask_NK, candidate_n, touched_BC)
    return torch.from_numpy(np.flatnonzero(touched_BC))


def _at_times(edges: Edges, times_ms: I64) -> tuple[U32, I64]:
    """Each (neighbor, its target's time) once; ``edges`` are changed to name these by number."""
    source_NK, mask_NK = edges.source_NK.numpy(), edges.mask_NK.numpy()
    rows, times = np.empty(source_NK.size, np.uint32), np.empty(source_NK.size, np.int64)
    table = np.zeros(1 << max(2 * source_NK.size - 1, 1).bit_length(), np.int32)
    count = neighbor_kernels.node_numbers(source_NK, mask_NK, times_ms, table, rows, times)
    return rows[:count], times[:count]
