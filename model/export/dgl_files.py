"""The window of a cut as a file of DGL, and its METIS parts.

ExportedGraph ──► [save] ──► graph.bin, which dgl.load_graphs reads
             └──► [metis] ──► the part of each node
"""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import torch

from driftgraph.model.export.exported import ExportedGraph, Parts
from driftgraph.model.network.dgl_reference import heterograph_of
from driftgraph.stream.arrays import I64

os.environ.setdefault("DGLBACKEND", "pytorch")  # or DGL writes a file into the home folder and prints

import dgl


def save(graph: ExportedGraph, parts: Parts | None, path: Path) -> None:
    """Write a heterograph of both directions in CSC, as ``to_dgl`` names its edge types and times.

    Edge ids are in order of time. ``ndata["part"]`` has the parts.
    """
    columns = {
        name: tuple(torch.from_numpy(one) for one in (edges.user, edges.item, edges.time_ms))
        for name, edges in graph.edges.items()
    }
    made = heterograph_of(columns, graph.node_counts)  # type: ignore[arg-type]
    if parts is not None:
        for kind, part in zip(("user", "item"), parts, strict=True):
            made.nodes[kind].data["part"] = torch.from_numpy(part.astype(np.int64))
    dgl.save_graphs(str(path), [made], formats="csc")


def metis(graph: ExportedGraph, count: int) -> Parts:
    """The part, 0 to ``count`` - 1, of each node: parts of about as many nodes, few pairs between them.

    Each distinct pair of a user and an item is one edge, whatever its relations. The same graph has the same
    parts.

    Source: Karypis and Kumar, "A Fast and High Quality Multilevel Scheme for Partitioning Irregular Graphs",
    SIAM J. Sci. Comput. 1998; parts as batches: Chiang et al., "Cluster-GCN", KDD 2019.
    """
    users, items = graph.node_counts
    user, item = _distinct_pairs(graph)
    ends = (
        torch.from_numpy(np.concatenate([user, item + users])),
        torch.from_numpy(np.concatenate([item + users, user])),
    )
    with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        warnings.simplefilter("ignore", ResourceWarning)  # DGL leaves /proc/self/status open, and prints
        part = dgl.metis_partition_assignment(dgl.graph(ends, num_nodes=users + items), count)
    assert part is not None  # it is for no part alone
    made = part.numpy().astype(np.int32)
    return made[:users], made[users:]


def _distinct_pairs(graph: ExportedGraph) -> tuple[I64, I64]:
    pairs = [(edges.user << 32) | edges.item for edges in graph.edges.values()]
    key = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, np.int64)
    return key >> 32, key & 0xFFFF_FFFF
