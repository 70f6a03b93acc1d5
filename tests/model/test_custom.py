"""A class of the user's own: what it is given, what is done with it, and what is said when it is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftgraph.model.custom import CustomModelError, Neighborhoods
from driftgraph.model.examples.examples import plan
from driftgraph.model.network.custom_network import neighborhoods, untrained
from driftgraph.model.network.neighbors import RowNumbers, sample
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.window.adjacency import ITEM, USER
from tests.model.custom_models import EXAMPLES, NEEDS_DGL, Sums
from tests.model.test_trainer import block_share, fit_all, same_state
from tests.model_worlds import (
    RELATIONS,
    SMALL,
    START_MS,
    Row,
    append,
    blocks,
    empty_cut,
    trainer_of,
    window_of,
)

MODELS = "tests.model.custom_models"
NAMES = [relation.name for relation in RELATIONS]
FANOUT = (4, 3, 5)
DIM = 6


def custom(name: str, **changes: object) -> Trainer:
    return trainer_of(custom=f"{MODELS}:{name}", **changes)


def given(
    rows: list[Row], side: int, asked: list[tuple[int, int]], *, depth: int
) -> tuple[Neighborhoods, torch.Tensor]:
    """The neighborhoods of (node, time), and the item table, whose row i is i at every place but the last."""
    window = window_of(rows)
    node, time_ms = np.array(asked, np.int64).T
    nodes = sample(
        window, window.cut(), side=side, rows=node.astype(np.uint32), times_ms=time_ms + START_MS,
        depth=depth, fanout=FANOUT,
    )  # fmt: skip
    table = torch.arange(40.0).unsqueeze(1).repeat(1, DIM)
    table[:, -1] = 0.5
    numbers = RowNumbers(40)
    numbers.localize(nodes)
    return neighborhoods(nodes, table[numbers.rows_n], None), table


def plain_neighbors(
    rows: list[Row], side: int, node: int, time_ms: int, fanout: int
) -> list[tuple[int, ...]]:
    """(neighbor, relation, time) of a node: the newest by relation, each neighbor once, newest first."""
    found = []
    for r in range(2):
        own = [
            (t, n)
            for n, row in enumerate(rows)
            if row[2] == r and row[side] == node and (t := row[3]) < time_ms
        ]
        found += [(rows[n][1 - side], r, t) for t, n in sorted(own, reverse=True)[:fanout]]
    newest: dict[int, tuple[int, ...]] = {}
    for one in sorted(found, key=lambda one: (-one[2], one[1])):
        newest.setdefault(one[0], one)
    return list(newest.values())


@pytest.mark.parametrize("side", [USER, ITEM])
def test_a_class_is_given_the_newest_neighbors_before_each_node_s_own_time(side: int) -> None:
    """Random events against the plainest lists: neighbors, behaviors, times, padding and features."""
    rows = blocks(150, seed=3, users=12, items=10)
    asked = [(n, t) for n in range(0, 10, 2) for t in (1_500, 40_000, 90_500, 200_000)]
    got, table = given(rows, side, asked, depth=1)
    for n, (node, time_ms) in enumerate(asked):
        wanted = plain_neighbors(rows, side, node, time_ms, FANOUT[side])
        count = len(wanted)
        assert got.mask_NK[n].tolist() == [True] * count + [False] * (got.mask_NK.shape[1] - count)
        assert got.time_ms_N[n] == START_MS + time_ms
        assert got.relation_NK[n].tolist()[:count] == [one[1] for one in wanted]
        assert got.event_ms_NK[n].tolist() == [START_MS + one[2] for one in wanted] + [0] * int(
            (~got.mask_NK[n]).sum()
        )
        assert got.age_s()[n].tolist() == pytest.approx(
            [(time_ms - one[2]) / 1_000 for one in wanted] + [0] * int((~got.mask_NK[n]).sum())
        )
        features = got.neighbor_features()[n]
        if side == USER:
            assert features[:count, 0].tolist() == [float(one[0]) for one in wanted]
            mean = np.mean([table[one[0]].numpy() for one in wanted], 0) if wanted else np.zeros(DIM)
            assert got.feature_ND[n].numpy() == pytest.approx(mean)
        else:
            assert got.feature_ND[n].tolist() == table[node].tolist()
            histories = [plain_neighbors(rows, USER, one[0], time_ms, FANOUT[2]) for one in wanted]
            means = [
                float(np.mean([past[0] for past in history])) if history else 0.0 for history in histories
            ]
            assert features[:count, 0].tolist() == pytest.approx(means)
        assert (features[count:] == 0).all()
    assert got.mask_NK.sum() > 30


def test_nodes_without_any_neighbor_have_one_place_of_padding() -> None:
    """So that a recurrent network is never given a sequence of no length."""
    for side in (USER, ITEM):
        got, _ = given([(0, 0, 0, 10)], side, [(0, 5), (3, 5)], depth=1)
        assert got.mask_NK.tolist() == [[False], [False]]
        assert got.neighbor_features().shape == (2, 1, DIM)


@NEEDS_DGL
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("side", [USER, ITEM])
def test_dgl_s_blocks_are_the_same_neighborhoods(side: int, layers: int) -> None:
    """Sums over DGL's blocks against a plain recursion; edges with times, both directions in a block."""
    from driftgraph.model.network.dgl_blocks import blocks_of, vectors_of

    rows = blocks(120, seed=4, users=12, items=10)
    nodes, _ = given(rows, side, [(n, t) for n in (0, 3, 8) for t in (30_500, 90_000)], depth=layers)
    got = vectors_of(Sums(NAMES, SMALL), NAMES, layers, nodes)
    assert isinstance(got, torch.Tensor)
    torch.testing.assert_close(got, plain_sums(nodes, layers))
    made, features = blocks_of(nodes, NAMES, layers)
    assert len(made) == layers
    both = [
        ("user", "click", "item"),
        ("item", "rev-click", "user"),
        ("user", "buy", "item"),
        ("item", "rev-buy", "user"),
    ]
    for block in made:
        assert set(block.canonical_etypes or ()) == set(both)
        for source, name, target in both:
            edge = (source, name, target)
            _, to = block.edges(etype=edge)
            assert (block.edges[edge].data["time_ms"] < block.dstnodes[target].data["time_ms"][to]).all()
    for name in ("user", "item"):
        assert made[0].num_src_nodes(name) == len(features[name])
        assert made[-1].num_dst_nodes(name) == (
            len(nodes.feature_ND) if name == ("user", "item")[side] else 0
        )
    edges = sum(made[-1].num_edges(edge) for edge in both)
    assert edges == int(nodes.mask_NK.sum()) > 10
    if layers == 2:
        assert (made[1].num_src_nodes("user"), made[1].num_src_nodes("item")) == (
            made[0].num_dst_nodes("user"), made[0].num_dst_nodes("item"),
        )  # fmt: skip


def plain_sums(nodes: Neighborhoods, level: int) -> torch.Tensor:
    """What ``Sums`` computes, by recursion."""
    if level == 0:
        return nodes.feature_ND
    own = plain_sums(nodes, level - 1)
    source = nodes.source_SD if nodes.source is None else plain_sums(nodes.source, level - 1)
    worth = (1 + nodes.relation_NK) * nodes.mask_NK
    return own + (source[nodes.neighbor_NK] * worth.unsqueeze(2)).sum(1)


@NEEDS_DGL
def test_a_batch_without_an_edge_gives_zeros_where_dgl_gives_nothing() -> None:
    from driftgraph.model.network.dgl_blocks import vectors_of

    nodes, _ = given([(0, 0, 0, 10)], USER, [(0, 5)], depth=1)

    class Nothing(torch.nn.Module):
        def forward(self, *_: object) -> dict[str, torch.Tensor]:
            return {}

    found = vectors_of(Nothing(), NAMES, 1, nodes)
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[0.0] * DIM]


# --- training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", EXAMPLES)
def test_an_example_learns_and_goes_on_bit_for_bit_where_it_was_saved(changes: dict[str, Any]) -> None:
    """The gate lets a first model pass only if it beats popularity; then save, load, and fit again."""
    window = window_of(blocks(900, seed=0))
    trainer, resumed = trainer_of(**changes, learning_rate=0.02), trainer_of(**changes, learning_rate=0.02)
    report = fit_all(trainer, window)
    assert (report.accepted, report.code) == (True, "")
    popular, ours = report.holdout["new"]
    assert ours < popular - 0.3
    embedding = trainer.embed(window, window.cut())
    assert block_share(embedding, users=range(30), own=range(20)) > 0.9
    assert (embedding.user[:, -1] == 1).all()

    resumed.load_state_dict(*trainer.state_dict())
    again = resumed.embed(window, window.cut())
    assert (again.user == embedding.user).all()
    assert (again.item == embedding.item).all()
    since = window.cut()
    cut = append(window, blocks(200, seed=1, first_ms=10**6))
    assert trainer.evaluate(window, since, cut).metrics == resumed.evaluate(window, since, cut).metrics
    assert trainer.fit(window, since, cut) == resumed.fit(window, since, cut)
    assert trainer.model_version == 2
    assert same_state(trainer, resumed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_with_mixed_precision_the_gru_learns_the_same_blocks() -> None:
    window = window_of(blocks(900, seed=0))
    trainer = trainer_of(custom="examples.custom_model:Gru", learning_rate=0.02, device="cuda")
    assert fit_all(trainer, window).accepted
    embedding = trainer.embed(window, window.cut())
    assert block_share(embedding, users=range(30), own=range(20)) > 0.85


def test_a_step_has_chance_of_its_own_and_what_is_served_has_none() -> None:
    """Dropout: the same bits in every run, other bits than without it, and the same vector twice."""
    window = window_of(blocks(300, seed=2))
    trainers = [custom("Dropping"), custom("Dropping"), custom("Mean")]
    for n, trainer in enumerate(trainers):
        torch.manual_seed(n)
        fit_all(trainer, window)
    assert same_state(trainers[0], trainers[1])
    assert not torch.equal(trainers[0].table.weight, trainers[2].table.weight)
    rows = np.arange(20, dtype=np.uint32)
    twice = [trainers[0].embed_users(window, rows, window.cut()) for _ in range(2)]
    assert (twice[0] == twice[1]).all()


def test_a_loss_of_its_own_is_weighted_by_behavior_and_the_gate_judges_by_ours() -> None:
    window = window_of(blocks(300, seed=2))
    trainer = custom("OwnLoss", behavior_weights={"buy": 3.0})
    trainer.table.adopt(window.row_versions(ITEM))
    batch = plan(window, empty_cut(window), window.cut(), trainer.options, np.random.default_rng(0)).batches[
        0
    ]
    first = batch.candidate_C[0]
    weight = np.where(batch.relation == 1, 3.0, 1.0)
    wanted = float(((1.0 + (batch.item == first)) * weight).sum() / weight.sum())
    inputs = trainer._inputs(window, window.cut(), batch)
    ours = trainer.weights.losses([inputs])
    assert trainer._step(inputs, 0, 0.0) == pytest.approx(wanted)
    plain = custom("Mean")
    plain.table.adopt(window.row_versions(ITEM))
    assert ours == pytest.approx(plain.weights.losses([inputs]))


def test_ours_as_a_loss_of_its_own_trains_the_same() -> None:
    """So what a loss is given are the examples, candidates and exclusions that ours has."""
    window = window_of(blocks(300, seed=2))
    losses = [fit_all(custom(name), window).loss for name in ("Mean", "OurLoss")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- what is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fails", r"Fails.encode_users failed with KeyError: 'no such thing' \(custom_models.py, line \d+\)"),
        (
            "Narrow",
            r"Narrow.encode_items returned a tensor of shape \[\d+, 3\] and torch.float32, expected a "
            r"floating point tensor of shape \[\d+, 16\]: a vector of model.dim numbers for each of the",
        ),
        (
            "NoTensor",
            r"NoTensor.encode_users returned NoneType, expected a floating point tensor of shape \[\d+, 16\]",
        ),
        (
            "Whole",
            r"Whole.encode_items returned a tensor of shape \[\d+, 16\] and torch.int64, expected a",
        ),
        (
            "OneLoss",
            r"OneLoss.loss returned a tensor of shape \[\] .* of shape \[\d+\]: one number for each example",
        ),
    ],
)
def test_what_a_class_does_wrong_is_told_with_the_method_and_the_shape(name: str, words: str) -> None:
    """And nothing has moved."""
    window, trainer = window_of(blocks(200, seed=0)), custom(name)
    with pytest.raises(CustomModelError, match=f"^{MODELS}:{words}"):
        fit_all(trainer, window)
    assert trainer.model_version == 0


def test_nan_refuses_the_fit_with_the_method_and_is_never_served() -> None:
    window, trainer = window_of(blocks(300, seed=0)), custom("NotANumber")
    report = fit_all(trainer, window)
    assert (report.accepted, report.code, trainer.model_version) == (False, "skipped_steps", 0)
    assert report.reason.startswith("3 steps in a row had a non-finite loss or gradient: ")
    assert f"{MODELS}:NotANumber.encode_users returned NaN or inf in" in report.reason
    with pytest.raises(
        CustomModelError, match=r"vectors cannot be served: .*encode_users returned NaN or inf in 2 of 2"
    ):
        trainer.embed_users(window, np.array([1, 2], np.uint32), window.cut())


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (
            "no_such_package.models:Gru",
            "there is no module no_such_package on Python's path or in .*; install it",
        ),
        (
            f"{MODELS}.deeper:Gru",
            f"there is no module {MODELS}.deeper on|importing .* failed with ModuleNotFoundError",
        ),
        (f"{MODELS}:Nothing", f"{MODELS} has nothing called Nothing; name the class in it"),
        (f"{MODELS}:NUMBER", "is a int, expected a class that is a torch.nn.Module"),
        (
            f"{MODELS}:NoModule",
            "is the class NoModule, expected a class that is a torch.nn.Module; derive it",
        ),
        (f"{MODELS}:Half", "has no method encode_items, which model.backend = torch calls"),
        (f"{MODELS}:Untrained", "it has no parameter that could be trained"),
    ],
)
def test_a_class_that_cannot_be_used_is_told_before_anything_is_trained(named: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model.custom = {named}.*({words})"):
        untrained(NAMES, replace(SMALL, custom=named))


def test_a_class_that_cannot_be_made_is_told_with_why() -> None:
    with pytest.raises(
        CustomModelError, match=r"Unmade.__init__ failed with TypeError: .*2 positional arguments"
    ):
        custom("Unmade")


def test_a_module_that_cannot_be_imported_is_told_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder is searched, behind everything else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "model_with_fault.py").write_text("import torch\nraise ValueError('on purpose')\n")
    (tmp_path / "model_that_needs.py").write_text("import no_such_thing\n")
    with pytest.raises(
        ConfigError,
        match=r"model_with_fault failed with ValueError: on purpose \(model_with_fault.py, line 2\)",
    ):
        trainer_of(custom="model_with_fault:A")
    with pytest.raises(
        ConfigError,
        match="importing model_that_needs failed with ModuleNotFoundError: No module named 'no_such",
    ):
        trainer_of(custom="model_that_needs:A")
    assert sys.path[-1] == str(tmp_path)


def test_without_dgl_its_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "driftgraph.model.network.dgl_blocks", raising=False)
    monkeypatch.setitem(sys.modules, "dgl.convert", None)
    with pytest.raises(
        ConfigError,
        match=r'model.backend = "dgl" needs the package dgl, whose import failed .*install it \(dgl 1.1.3',
    ):
        trainer_of(custom="examples.dgl_model:HeteroGat", backend="dgl")
    assert trainer_of(custom=f"{MODELS}:Mean").model_version == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"custom": "a.b"}, "custom must be as in \"package.module:Class\", got 'a.b'"),
        ({"custom": "a.b:c d"}, 'custom must be as in "package.module:Class"'),
        ({"backend": "dgl"}, 'backend "dgl" trains a DGL module: name its class in custom'),
        ({"backend": "jax", "custom": "a:B"}, "backend must be torch or dgl, got 'jax'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainerOptions(**changes)


def test_dgl_is_imported_only_where_it_is_asked_for() -> None:
    code = "import sys, driftgraph.app.training.process.loop; sys.exit('dgl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_class_of_readme_passes_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## Bring your own model.*?```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "models_of_readme.py").write_text(f"import torch\n{code}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    report = fit_all(trainer_of(custom="models_of_readme:Mean"), window_of(blocks(900, seed=0)))
    assert (report.accepted, report.refused) == (True, ())


# --- a saved state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "now", "words"),
    [
        (
            "Mean",
            None,
            "the saved model is of .*:Mean, this configuration names driftgraph's own network; change it",
        ),
        (None, "Mean", "the saved model is of driftgraph's own network, this configuration names .*:Mean;"),
        ("Mean", "Dropping", "the saved model is of .*:Mean, this configuration names .*:Dropping;"),
    ],
)
def test_a_state_of_another_class_is_refused(saved: str | None, now: str | None, words: str) -> None:
    one, other = (trainer_of() if name is None else custom(name) for name in (saved, now))
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(*one.state_dict())


def test_a_state_of_a_class_whose_parameters_have_changed_is_refused() -> None:
    one, other = custom("Mean"), custom("Layered")
    tensors, meta = one.state_dict()
    words = r"has scale of shape \[\], the class now \[3\]; go back to the code that saved it or start"
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(tensors, meta | {"custom": f"{MODELS}:Layered"})


def test_a_state_of_a_class_goes_on_with_its_own_relations_only() -> None:
    other = Trainer(["click"], [10**9], replace(SMALL, custom=f"{MODELS}:Mean"))
    words = r"has the relations \['click', 'buy'\], this configuration \['click'\]; change them back or start"
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(*custom("Mean").state_dict())


def test_a_state_from_before_there_were_classes_is_of_our_network() -> None:
    tensors, meta = trainer_of().state_dict()
    del meta["custom"], meta["backend"]
    trainer_of().load_state_dict(tensors, meta)
