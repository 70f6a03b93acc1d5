"""The dense layers against the article's model in DGL, and the window as a DGL graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("dgl", reason="DGL 1.1.3 has wheels for Python 3.11 and older only")

from driftgraph.model.network.aggregate import Edges
from driftgraph.model.network.dgl_reference import Reference, to_dgl
from driftgraph.model.network.neighbors import sample
from driftgraph.model.network.network import ACTIVATIONS, MBGNN, Attention
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Window
from tests.model_worlds import RELATIONS, START_MS, Row, append, blocks, window_of

NAMES = [r.name for r in RELATIONS]
ALL = 64  # more than any node has: the full neighborhood


@pytest.fixture(autouse=True)
def _same_chance() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


def dense_layers(layers: int, activation: str) -> list[list[Attention]]:
    options = TrainerOptions(
        dim=12, heads=3, layers=layers, time_encoding=False, relation_importance=False, activation=activation
    )
    network = MBGNN(len(RELATIONS), options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.5)
    return [[pair[USER], pair[ITEM]] for pair in network.layers]  # type: ignore[index]


def by_dense(
    window: Window, layers: list[list[Attention]], feature: dict[str, torch.Tensor], activation: str
) -> dict[str, torch.Tensor]:
    """Every layer over all nodes, full neighborhoods."""
    hidden = [feature["user"], feature["item"]]
    for pair in layers:
        found = []
        for side in (USER, ITEM):
            rows = np.arange(window.rows(side), dtype=np.uint32)
            hood = window.recent(side, rows, np.full(len(rows), START_MS + 10**9), ALL, window.cut())
            real = np.arange(ALL) < hood.count_BR[:, :, None]
            source = torch.from_numpy(np.where(real, hood.neighbor_BRK, 0).astype(np.int64)).flatten(1)
            relation = (
                torch.arange(len(RELATIONS), dtype=torch.uint8).repeat_interleave(ALL).expand_as(source)
            )
            edges = Edges(source, relation, torch.from_numpy(real).flatten(1), torch.zeros(source.shape))
            out = pair[side](hidden[side], hidden[1 - side], edges)
            found.append(ACTIVATIONS[activation](out))
        hidden = found
    return {"user": hidden[USER], "item": hidden[ITEM]}


@pytest.mark.parametrize("activation", ["none", "elu"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "rows",
    [blocks(300, seed=4, users=20, items=14), [(5, 3, 0, 1), (5, 3, 0, 2), (0, 1, 0, 3)]],
    ids=["busy", "one relation, repeats and isolated nodes"],
)
def test_dense_layers_equal_dgl(rows: list[Row], layers: int, activation: str) -> None:
    """Same weights, full neighborhoods, both directions, to 1e-5."""
    window = window_of(rows)
    dense = dense_layers(layers, activation)
    reference = Reference(NAMES, dim=12, heads=3, layers=layers, activation=ACTIVATIONS[activation])
    for number, pair in enumerate(dense):
        for side in (USER, ITEM):
            reference.copy_from(pair[side], layer=number, side=side)
    feature = {"user": torch.randn(window.rows(USER), 12), "item": torch.randn(window.rows(ITEM), 12)}
    with torch.no_grad():
        wanted = reference(to_dgl(window, window.cut()), feature)
        got = by_dense(window, dense, feature, activation)
    for name in ("user", "item"):
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-5, atol=1e-5)


def test_both_node_types_come_out_and_isolated_ones_are_finite() -> None:
    """The article's graph points at items only, and its result has no users at all."""
    window = window_of([(2, 3, 0, 1)])
    reference = Reference(NAMES, dim=12, heads=3, layers=2)
    feature = {"user": torch.randn(3, 12), "item": torch.randn(4, 12)}
    out = reference(to_dgl(window, window.cut()), feature)
    assert {name: tuple(value.shape) for name, value in out.items()} == {"user": (3, 12), "item": (4, 12)}
    assert torch.isfinite(out["user"]).all()
    assert (out["item"][0] == 0).all()
    assert (out["user"][2] != 0).any()


def test_the_graph_holds_each_live_event_in_both_directions_with_its_time() -> None:
    """Rows are node ids, also of nodes without edges; no edge without a time; expired events are gone."""
    window = window_of([(5, 3, 0, 1), (5, 3, 0, 2), (0, 1, 1, 3)])
    graph = to_dgl(window, window.cut())
    assert (graph.num_nodes("user"), graph.num_nodes("item")) == (6, 4)
    assert graph.num_edges("click") == graph.num_edges("rev-click") == 2
    assert graph.edges["click"].data["time_ms"].tolist() == [START_MS + 1, START_MS + 2]
    source, target = graph.edges(etype="rev-buy")
    assert (source.tolist(), target.tolist()) == ([1], [0])
    append(window, [(1, 1, 1, RELATIONS[0].span_ms + 2)])
    assert to_dgl(window, window.cut()).num_edges("click") == 1


def test_an_empty_window_is_a_graph_and_a_forward_pass() -> None:
    """No node, no edge, no exception."""
    window = window_of([])
    graph = to_dgl(window, window.cut())
    out = Reference(NAMES, dim=12, heads=3, layers=2)(
        graph, {n: torch.zeros(0, 12) for n in ("user", "item")}
    )
    assert [tuple(out[name].shape) for name in ("user", "item")] == [(0, 12), (0, 12)]


def test_sampling_all_neighbors_is_the_full_neighborhood() -> None:
    """The sampled tree that training uses names the same edges as the graph, where no pair repeats."""
    pairs = {(row[0], row[1]): row for row in blocks(100, seed=8, users=10, items=60)}
    window = window_of(sorted(pairs.values(), key=lambda row: row[3]))
    rows = np.arange(window.rows(USER), dtype=np.uint32)
    times_ms = np.full(len(rows), START_MS + 10**9)
    nodes = sample(
        window, window.cut(), side=USER, rows=rows, times_ms=times_ms, depth=1, fanout=(ALL, ALL, ALL)
    )
    graph = to_dgl(window, window.cut())
    edges = nodes.edges
    assert edges is not None
    target_NK = torch.arange(len(rows)).unsqueeze(1).expand_as(edges.source_NK)
    for r, relation in enumerate(NAMES):
        here = edges.mask_NK & (edges.relation_NK == r)
        got = sorted(zip(target_NK[here].tolist(), edges.source_NK[here].tolist(), strict=True))
        source, target = graph.edges(etype=f"rev-{relation}")
        assert got == sorted(zip(target.tolist(), source.tolist(), strict=True))
