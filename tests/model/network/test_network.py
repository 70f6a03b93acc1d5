"""MBGNN: gradients, what is missing from a neighborhood, and what a vector may depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from driftgraph.model.fitting.closed_form import HISTORY, ClosedForm
from driftgraph.model.network.aggregate import Edges
from driftgraph.model.network.neighbors import RowNumbers, sample
from driftgraph.model.network.network import DECAY, MBGNN, Attention, Nodes
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Neighborhood
from tests.model_worlds import RELATIONS, START_MS, Row, blocks, events_of, noise, window_of

OPTIONS = TrainerOptions(dim=8, heads=2)
FANOUT = (5, 5, 5)


def network_of(options: TrainerOptions, *, seed: int = 0) -> MBGNN:
    """A network whose parameters are all away from their start, so that every one matters."""
    torch.manual_seed(seed)
    network = MBGNN(len(RELATIONS), options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def nodes_of(rows: list[Row], side: int, nodes: list[int], *, depth: int, time_ms: int = 10**9) -> Nodes:
    window = window_of(rows)
    return sample(
        window,
        window.cut(),
        side=side,
        rows=np.array(nodes, np.uint32),
        times_ms=np.full(len(nodes), START_MS + time_ms),
        depth=depth,
        fanout=FANOUT,
    )


def attention_by_hand(
    layer: Attention, target_D: torch.Tensor, neighbors: list[list[torch.Tensor]]
) -> torch.Tensor:
    """The formula, literally: one node, a loop over relations, heads and neighbors."""
    out = []
    for h in range(OPTIONS.heads):
        total = torch.zeros(OPTIONS.dim // OPTIONS.heads)
        for r, found in enumerate(neighbors):
            weight_CD = layer.weight_RDHC[r, :, h, :].T
            a = torch.cat([layer.attend_target_RHC[r, h], layer.attend_source_RHC[r, h]])
            logits = [
                torch.nn.functional.leaky_relu(a @ torch.cat([weight_CD @ target_D, weight_CD @ u_D]), 0.2)
                for u_D in found
            ]
            if found:
                shares = torch.softmax(torch.stack(logits), 0)
                for share, u_D in zip(shares, found, strict=True):
                    total = total + share * (weight_CD @ u_D)
        out.append(total)
    return torch.cat(out)


def test_a_layer_is_the_formula_of_the_paper() -> None:
    """Two nodes, one without the second relation, against the formula in plain loops."""
    torch.manual_seed(3)
    layer = Attention(2, replace(OPTIONS, time_encoding=False, relation_importance=False))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    source_SD, target_ND = torch.randn(6, 8), torch.randn(2, 8)
    edges = Edges(
        torch.tensor([[3, 4, 0, 0], [5, 2, 1, 2]]),
        torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.uint8),
        torch.tensor([[True, True, False, False], [True, True, True, True]]),
        torch.zeros(2, 4),
    )
    got = layer(target_ND, source_SD, edges)
    wanted = [
        attention_by_hand(layer, target_ND[0], [[source_SD[3], source_SD[4]], []]),
        attention_by_hand(layer, target_ND[1], [[source_SD[5], source_SD[1], source_SD[2]], [source_SD[2]]]),
    ]
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "elu", "leaky_relu"])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_agree_with_finite_differences(layers: int, activation: str) -> None:
    """Double precision, users and items, every parameter and the rows of the table."""
    network = network_of(replace(OPTIONS, layers=layers, activation=activation)).double()
    rows = blocks(30, seed=1, users=8, items=6)
    users = as_double(nodes_of(rows, USER, [0, 1, 5], depth=layers))
    items = as_double(nodes_of(rows, ITEM, [0, 4], depth=layers))
    torch.manual_seed(5)
    table = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    popularity = torch.randn(2, 2, dtype=torch.float64)
    names = [name for name, _ in network.named_parameters()]

    def score(table_SD: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        def call(module_users: bool) -> torch.Tensor:
            values = dict(zip(names, parameters, strict=True))
            arguments = (users, table_SD) if module_users else (items, table_SD, popularity)
            wrapped = Both(network, "users" if module_users else "items")
            named = {f"network.{k}": v for k, v in values.items()}
            result: torch.Tensor = torch.func.functional_call(wrapped, named, arguments)
            return result

        return call(True) @ call(False).T

    assert torch.autograd.gradcheck(score, (table, *network.parameters()), fast_mode=True)


class Both(torch.nn.Module):
    """Lets ``functional_call`` reach a method that is not ``forward``."""

    def __init__(self, network: MBGNN, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, *arguments: object) -> torch.Tensor:
        result: torch.Tensor = getattr(self.network, self.method)(*arguments)
        return result


def as_double(nodes: Nodes) -> Nodes:
    edges = None if nodes.edges is None else replace(nodes.edges, age_NK=nodes.edges.age_NK.double())
    return replace(nodes, edges=edges, source=None if nodes.source is None else as_double(nodes.source))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "rows", [[], [(0, 0, 0, 1)], [(2, 3, 1, 1), (2, 4, 1, 2)]], ids=["empty", "click", "buys"]
)
def test_whatever_is_missing_vectors_and_gradients_are_finite(rows: list[Row], layers: int) -> None:
    """An empty window, an empty relation, users and items without an edge: forward and backward."""
    network = network_of(replace(OPTIONS, layers=layers))
    torch.manual_seed(1)
    table = torch.randn(5, 8, requires_grad=True)
    user = network.users(nodes_of(rows, USER, [0, 1, 2], depth=layers), table)
    item = network.items(nodes_of(rows, ITEM, [0, 3, 4], depth=layers), table, torch.zeros(3, 2))
    assert user.shape == item.shape == (3, 8)
    assert torch.isfinite(user).all()
    assert torch.isfinite(item).all()
    torch.autograd.backward((user @ item.T).sum())
    assert table.grad is not None
    assert torch.isfinite(table.grad).all()


def test_rows_are_numbered_as_they_are_read_and_padding_reads_none() -> None:
    """Row 0 is what masked places point at; two calls number on, and a row keeps its number."""
    rows = [(1, 3, 0, 1), (1, 4, 0, 2), (2, 3, 0, 3)]
    numbers = RowNumbers(5)
    users = numbers.localize(nodes_of(rows, USER, [1, 2], depth=1))
    items = numbers.localize(nodes_of(rows, ITEM, [1, 3], depth=0))
    assert users.edges is not None
    assert users.edges.source_NK.tolist() == [[0, 1], [1, 0]]
    assert users.edges.mask_NK.tolist() == [[True, True], [True, False]]
    assert items.row_N.tolist() == [2, 1]
    assert numbers.rows_n.tolist() == [4, 3, 1]


@pytest.mark.parametrize("layers", [1, 2])
def test_the_order_and_company_of_nodes_do_not_matter(layers: int) -> None:
    """A node's vector is the same alone, in another order and beside a twin."""
    network = network_of(replace(OPTIONS, layers=layers))
    rows, table = blocks(80, seed=2, users=8, items=6), torch.randn(6, 8)
    together = network.users(nodes_of(rows, USER, [3, 0, 3, 5], depth=layers), table)
    torch.testing.assert_close(together[0], together[2])
    for place, row in enumerate([3, 0, 3, 5]):
        alone = network.users(nodes_of(rows, USER, [row], depth=layers), table)
        torch.testing.assert_close(together[place], alone[0], rtol=1e-4, atol=1e-5)


def test_a_later_event_changes_nothing() -> None:
    """Neighborhoods end strictly before the time asked for, two layers deep."""
    network = network_of(replace(OPTIONS, layers=2))
    early, table = blocks(50, seed=3, users=8, items=6), torch.randn(6, 8)
    late = [*early, (0, 0, 0, 50_000), (1, 1, 1, 50_001), (2, 5, 0, 60_000)]
    popularity = torch.zeros(6, 2)
    for side in (USER, ITEM):
        found = []
        for rows in (early[:-1], [*early[:-1], *late[50:]]):
            nodes = nodes_of(rows, side, [0, 1, 2, 3, 4, 5], depth=2, time_ms=50_000)
            by_item = side == ITEM
            found.append(network.items(nodes, table, popularity) if by_item else network.users(nodes, table))
        assert torch.equal(found[0], found[1])


def test_new_items_with_different_clickers_differ_at_once() -> None:
    """Two items with equal rows: what their users touched before tells them apart; without users they tie."""
    network = network_of(OPTIONS)
    table = torch.randn(6, 8)
    table[4] = table[5] = table[3]
    rows = [(0, 0, 0, 1), (1, 1, 0, 2), (0, 4, 0, 3), (1, 5, 0, 4)]
    item = network.items(nodes_of(rows, ITEM, [3, 4, 5], depth=1), table, torch.zeros(3, 2))
    assert not torch.allclose(item[1], item[2], atol=1e-3)
    assert not torch.allclose(item[0], item[1], atol=1e-3)


def test_a_user_has_a_vector_after_its_first_event() -> None:
    """Before it has the common one."""
    network = network_of(OPTIONS)
    table = torch.randn(6, 8)
    user = network.users(nodes_of([(0, 2, 0, 1)], USER, [0, 1, 2], depth=1), table)
    assert torch.equal(user[1], user[2])
    assert not torch.allclose(user[0], user[1], atol=1e-3)


def test_importance_and_place_share_a_user_out_over_all_its_items() -> None:
    """With W the identity: one softmax over the items of both relations, by hand."""
    network = MBGNN(len(RELATIONS), replace(OPTIONS, skip=False))
    with torch.no_grad():
        network.layers[0][USER].importance_R.copy_(torch.tensor([0.3, 1.5]))  # type: ignore[index]
        network.scale.fill_(1.0)
    table = torch.randn(6, 8)
    rows = [(0, 2, 0, 1), (0, 3, 1, 2), (0, 4, 0, 3), (1, 2, 1, 3)]
    user = network.users(nodes_of(rows, USER, [0, 1], depth=1), table)
    worth = torch.tensor([DECAY**2, DECAY, 1.0]) * torch.tensor([0.3, 1.5, 0.3]).exp()
    torch.testing.assert_close(user[0, :-1], ((worth / worth.sum()) @ table[2:5])[:-1])
    torch.testing.assert_close(user[1, :-1], table[2, :-1])


def test_an_untrained_user_is_the_closed_form_s_up_to_its_length() -> None:
    rows = blocks(200, seed=4, users=8, items=30)
    form = ClosedForm.of(events_of(rows), 30, factors=7, seed=0)
    table = functional.pad(torch.from_numpy(form.item_ID), (0, 1))
    users, window = np.arange(8, dtype=np.uint32), window_of(rows)
    times_ms = np.full(8, START_MS + 10**9)
    nodes = sample(
        window, window.cut(), side=USER, rows=users, times_ms=times_ms, depth=1, fanout=(HISTORY,) * 3
    )
    network = MBGNN(len(RELATIONS), OPTIONS)
    got = network.users(nodes, table)[:, :-1].detach().numpy()
    wanted = form.users(window, users, times_ms, window.cut())
    length = np.linalg.norm(got, axis=1, keepdims=True) / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(got, wanted * length, atol=1e-5)


def plainly_distinct(hood: Neighborhood, b: int) -> list[tuple[int, int, int]]:
    """(neighbor, relation, time) of one node, newest first, by a loop; of one time the later relation."""
    newest: dict[int, tuple[int, int]] = {}
    for r in range(hood.count_BR.shape[1]):
        for k in range(hood.count_BR[b, r]):
            neighbor, time_ms = int(hood.neighbor_BRK[b, r, k]), int(hood.time_ms_BRK[b, r, k])
            newest[neighbor] = max(newest.get(neighbor, (-1, 0)), (time_ms, r))
    order = sorted(newest, key=lambda neighbor: newest[neighbor], reverse=True)
    return [(neighbor, newest[neighbor][1], newest[neighbor][0]) for neighbor in order]


def test_distinct_neighbors_are_those_of_a_loop() -> None:
    rows = noise(2_000, seed=6, users=50, items=25)
    window = window_of(rows)
    users = np.arange(60, dtype=np.uint32)
    times_ms = START_MS + 1_000 * np.arange(1_000, 1_060)
    nodes = sample(window, window.cut(), side=USER, rows=users, times_ms=times_ms, depth=1, fanout=(7, 5, 4))
    plain = window.recent(USER, users, times_ms, 7, window.cut())
    assert nodes.edges is not None
    edges, dropped = nodes.edges, 0
    for b in range(60):
        wanted = plainly_distinct(plain, b)
        mask_K = edges.mask_NK[b]
        found = zip(edges.source_NK[b][mask_K].tolist(), edges.relation_NK[b][mask_K].tolist(), strict=True)
        assert list(found) == [(neighbor, relation) for neighbor, relation, _ in wanted]
        assert mask_K.tolist() == sorted(mask_K.tolist(), reverse=True)
        behind_s = [(wanted[0][2] - time_ms) / 1_000 for _, _, time_ms in wanted]
        assert edges.age_NK[b][mask_K].numpy() == pytest.approx(np.log1p(behind_s), rel=1e-5)
        dropped += int(plain.count_BR[b].sum()) - len(wanted)
    assert dropped > 100


def test_sources_two_steps_away_are_each_node_at_its_target_s_time_once() -> None:
    """Items one layer deep, at different times: the users behind them, against a loop."""
    rows = noise(1_500, seed=7, users=30, items=20)
    window = window_of(rows)
    items, times_ms = np.arange(600, dtype=np.uint32) % 20, START_MS + 1_000 * np.arange(700, 1_300)
    nodes = sample(window, window.cut(), side=ITEM, rows=items, times_ms=times_ms, depth=1, fanout=FANOUT)
    plain = window.recent(ITEM, items, times_ms, 5, window.cut())
    assert nodes.edges is not None
    assert nodes.source is not None
    source_N = nodes.source.row_N
    pairs = set()
    for b in range(600):
        place_K = nodes.edges.source_NK[b][nodes.edges.mask_NK[b]]
        assert source_N[place_K].tolist() == [user for user, _, _ in plainly_distinct(plain, b)]
        pairs |= {(int(place), int(source_N[place]), int(times_ms[b])) for place in place_K}
    assert len(pairs) == len(source_N) == len({pair[1:] for pair in pairs})
