"""From the window to the network: sampled neighborhoods as index tensors.

    WindowView ──► [sample] ──► Nodes ──► localize ──► MBGNN

Everything here looks strictly before the time it is asked for; the window's ``recent`` holds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.network import Bag, Edges, Nodes
from driftgraph.stream.arrays import I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Neighborhood, WindowView

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
    own = torch.from_numpy(rows.astype(np.int64))
    if side == ITEM and depth == 0:
        return Nodes(ITEM, own, (), None)
    k = fanout[side] if depth else fanout[2]
    if pool:
        hood = view.uniform(side, rows, times_ms, k, cut, pool=max(pool, k))
    else:
        hood = view.recent(side, rows, times_ms, k, cut)
    hood, place_BRK = distinct(hood)
    if side == USER and depth <= 1:
        index = hood.neighbor_BRK.astype(np.int64)
        edges = edges_of(hood, index, place_BRK) if depth else ()
        return Nodes(USER, own, edges, None, bag_of(hood, index))
    real = _real(hood)
    owner = np.broadcast_to(np.arange(len(rows))[:, None, None], real.shape)[real]
    source_rows, source_times_ms, which = _at_times(hood.neighbor_BRK[real], times_ms[owner])
    index = np.zeros(real.shape, np.int64)
    index[real] = which
    source = sample(
        view, cut, side=1 - side, rows=source_rows, times_ms=source_times_ms, depth=depth - 1,
        fanout=fanout, pool=pool,
    )  # fmt: skip
    bag = bag_of(hood, index) if side == USER else None
    return Nodes(side, own, edges_of(hood, index, place_BRK), source, bag)


def distinct(hood: Neighborhood) -> tuple[Neighborhood, I64]:
    """Each neighbor once, in the relation of its newest event, and its place [B, R, K] over all relations.

    Place 0 is the newest neighbor of a node; of one time the first relation comes first.
    """
    real = _real(hood)
    shape, flat = real.shape, (len(real), real.shape[1] * real.shape[2])
    age = np.where(real, -hood.time_ms_BRK, np.iinfo(np.int64).max).reshape(flat)
    newest = np.argsort(age, axis=1, kind="stable")
    neighbor = np.where(real, hood.neighbor_BRK.astype(np.int64), -1).reshape(flat)
    sorted_ = np.take_along_axis(neighbor, newest, 1)
    alike = np.argsort(sorted_, axis=1, kind="stable")  # of each neighbor the newest first
    found = np.take_along_axis(sorted_, alike, 1)
    first = np.ones_like(found, np.bool_)
    first[:, 1:] = found[:, 1:] != found[:, :-1]
    first &= found >= 0
    kept, place = np.empty_like(first), np.empty_like(found)
    np.put_along_axis(kept, alike, first, 1)
    np.put_along_axis(place, newest, np.cumsum(kept, 1) - 1, 1)
    kept_here = np.empty_like(kept)
    np.put_along_axis(kept_here, newest, kept, 1)
    kept_BRK = kept_here.reshape(shape)
    front = np.argsort(~kept_BRK, axis=2, kind="stable")
    count = kept_BRK.sum(axis=2, dtype=np.int32)
    behind = np.arange(shape[2]) >= count[:, :, None]
    columns = [
        np.take_along_axis(column, front, 2)
        for column in (hood.neighbor_BRK, hood.time_ms_BRK, place.reshape(shape))
    ]
    for column in columns:
        column[behind] = 0
    return Neighborhood(columns[0], columns[1], count), columns[2]


def edges_of(hood: Neighborhood, index_BRK: I64, place_BRK: I64) -> tuple[Edges, ...]:
    """One ``Edges`` for each relation, as narrow as its fullest neighborhood."""
    newest_B = hood.time_ms_BRK.max(axis=(1, 2), initial=0)
    edges = []
    for r in range(hood.count_BR.shape[1]):
        target = np.flatnonzero(hood.count_BR[:, r])
        count = hood.count_BR[target, r]
        width = int(count.max(initial=0))
        behind_ms = newest_B[target, None] - hood.time_ms_BRK[target, r, :width]
        mask = np.arange(width) < count[:, None]
        age = np.log1p(np.where(mask, behind_ms, 0) / 1_000).astype(np.float32)
        edges.append(
            Edges(
                torch.from_numpy(target),
                torch.from_numpy(index_BRK[target, r, :width]),
                torch.from_numpy(mask),
                torch.from_numpy(age),
                torch.from_numpy(place_BRK[target, r, :width]),
            )
        )
    return tuple(edges)


def bag_of(hood: Neighborhood, index_BRK: I64) -> Bag:
    """The neighbors of all relations together."""
    offset = np.cumsum(hood.count_BR.sum(axis=1), dtype=np.int64)
    offset = np.concatenate([np.zeros(1, np.int64), offset])[: len(hood.count_BR)]
    return Bag(torch.from_numpy(index_BRK[_real(hood)]), torch.from_numpy(offset))


def item_rows(nodes: Nodes) -> list[Tensor]:
    """Every row of the item table that ``nodes`` reads, with repeats; padding is not among them."""
    rows = [nodes.row_N] if nodes.side == ITEM else []
    if nodes.source is not None:
        return rows + item_rows(nodes.source)
    return rows if nodes.bag is None else [*rows, nodes.bag.source_E]


def localize(nodes: Nodes, place: Tensor, device: torch.device) -> Nodes:
    """Replace rows of the item table by ``place[row]`` and move to ``device``."""
    source = None if nodes.source is None else localize(nodes.source, place, device)
    edges = []
    for edge in nodes.edges:
        index = edge.source_nK
        if source is None:
            index = torch.where(edge.mask_nK, place[index], 0)
        edges.append(
            Edges(
                edge.target_n.to(device),
                index.to(device),
                edge.mask_nK.to(device),
                edge.age_nK.to(device),
                edge.place_nK.to(device),
            )
        )
    own = place[nodes.row_N] if nodes.side == ITEM else nodes.row_N
    bag = None
    if nodes.bag is not None:
        index = place[nodes.bag.source_E] if source is None else nodes.bag.source_E
        bag = Bag(index.to(device), nodes.bag.offset_N.to(device))
    return replace(nodes, row_N=own.to(device), edges=tuple(edges), source=source, bag=bag)


def _real(hood: Neighborhood) -> Mask:
    """[B, R, K], which places hold a neighbor."""
    real: Mask = np.arange(hood.neighbor_BRK.shape[2]) < hood.count_BR[:, :, None]
    return real


def _at_times(rows: U32, times_ms: I64) -> tuple[U32, I64, I64]:
    """Each (row, time) once, and where each given pair went."""
    times, which = np.unique(times_ms, return_inverse=True)
    key = rows.astype(np.int64) * max(len(times), 1) + which
    kept, place = np.unique(key, return_inverse=True)
    return (kept // max(len(times), 1)).astype(np.uint32), times[kept % max(len(times), 1)], place
