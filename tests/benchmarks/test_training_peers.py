"""The peers of ``benchmarks/train.py`` compute what the model computes, on as many neighbors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("dgl", reason="DGL 1.1.3 has wheels for Python 3.11 and older only")

from benchmarks.graph_libraries.network import Library, Peer, difference
from benchmarks.graph_libraries.with_dgl import Dgl
from driftgraph.model.examples.examples import plan
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Window
from tests.model_worlds import blocks, empty_cut, trainer_of, window_of

CHANGES = {"time_encoding": False, "relation_importance": False, "user_fanout": 5, "item_fanout": 3}


@pytest.fixture
def window() -> Window:
    return window_of(blocks(600, seed=1))


@pytest.fixture
def trainer(window: Window) -> Trainer:
    made = trainer_of(**CHANGES)
    made.table.adopt(window.row_versions(ITEM))
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=chance))
    return made


def library(name: str, window: Window, trainer: Trainer) -> Library:
    if name == "dgl":
        return Dgl(window, window.cut())
    pytest.importorskip("torch_geometric", reason="the extra bench brings PyG; the benchmark holds it, too")
    from benchmarks.graph_libraries.with_pyg import Pyg

    return Pyg(window, window.cut(), trainer.options.fanout)


@pytest.mark.parametrize("name", ["dgl", "pyg"])
def test_given_the_same_neighborhoods_a_peer_has_the_same_loss_and_gradient(
    name: str, window: Window, trainer: Trainer
) -> None:
    cut = window.cut()
    todo = plan(window, empty_cut(window), cut, trainer.options, np.random.default_rng(1))
    peer = Peer(library(name, window, trainer), trainer.network, trainer.table)
    for batch in todo.batches[:4]:
        inputs = trainer._inputs(window, cut, batch)
        assert difference(trainer, peer, inputs) < 1e-5
        other = replace(inputs, log_q_C=inputs.log_q_C + torch.arange(len(inputs.log_q_C)))
        blocks_of_other = peer.given(other)
        rows_nD = trainer.table.weight[inputs.rows_n]
        assert peer.loss(blocks_of_other, rows_nD) != peer.loss(peer.given(inputs), rows_nD)


@pytest.mark.parametrize("name", ["dgl", "pyg"])
def test_a_step_of_a_peer_moves_the_rows_as_a_step_of_the_model_does(
    name: str, window: Window, trainer: Trainer
) -> None:
    cut = window.cut()
    todo = plan(window, empty_cut(window), cut, trainer.options, np.random.default_rng(1))
    peer = Peer(library(name, window, trainer), trainer.network, trainer.table)
    for number, batch in enumerate(todo.batches[:3]):
        inputs = trainer._inputs(window, cut, batch)
        theirs = peer.step(peer.given(inputs))
        assert trainer._step(inputs, number, 1.0) == pytest.approx(theirs, rel=1e-4)
    rows = trainer.table.rows
    assert trainer.table.weight[:rows].numpy() == pytest.approx(peer.table.weight[:rows].numpy(), abs=1e-3)


@pytest.mark.parametrize("name", ["dgl", "pyg"])
def test_a_peer_samples_the_fanout_of_each_relation_or_all_there_is(
    name: str, window: Window, trainer: Trainer
) -> None:
    events = window.events(window.cut())
    own = library(name, window, trainer)
    for side, column, other, fanout in (
        (USER, events.user, events.item, trainer.options.user_fanout),
        (ITEM, events.item, events.user, trainer.options.item_fanout),
    ):
        nodes = np.unique(column)[::2]
        graph, source_rows = own.hop(side, torch.from_numpy(nodes.astype(np.int64)), fanout)
        for r, (source_E, target_E) in enumerate(own.edges(graph)):
            of_r = events.relation == r
            degree_N = [int(np.count_nonzero(of_r & (column == node))) for node in nodes]
            found_N = np.bincount(target_E.numpy(), minlength=len(nodes))
            assert found_N.tolist() == [min(fanout, degree) for degree in degree_N]
            there = set(zip(column[of_r].tolist(), other[of_r].tolist(), strict=True))
            found = zip(nodes[target_E.numpy()].tolist(), source_rows[source_E].tolist(), strict=True)
            assert set(found) <= there
