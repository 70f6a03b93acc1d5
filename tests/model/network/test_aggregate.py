"""The loops over neighborhoods against the same sums as tensor operations, and their gradients."""

from __future__ import annotations

import pytest
import torch

from driftgraph.model.network.aggregate import Edges, Logits, attend, attend_by_tensors, mean, mean_by_tensors

TARGETS, SOURCES, WIDTH, RELATIONS, HEADS, DIM = 9, 7, 6, 3, 2, 5


def world(*, seed: int, double: bool = False) -> tuple[torch.Tensor, Logits, Edges]:
    """Random vectors, weights and neighbors; the first target has none, and some places are left out."""
    chance = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance, dtype=dtype).requires_grad_()

    mask_NK = torch.rand(TARGETS, WIDTH, generator=chance) < 0.7
    mask_NK[0] = False
    source_NK = torch.randint(SOURCES, (TARGETS, WIDTH), generator=chance).where(mask_NK, 0)
    relation_NK = torch.randint(RELATIONS, (TARGETS, WIDTH), generator=chance).to(torch.uint8)
    edges = Edges(source_NK, relation_NK, mask_NK, torch.rand(TARGETS, WIDTH, generator=chance))
    logits = Logits(
        normal(TARGETS, RELATIONS, HEADS),
        normal(RELATIONS, DIM, HEADS),
        normal(TARGETS, WIDTH, 2).detach(),
        normal(RELATIONS, 2, HEADS),
        normal(4, HEADS),  # fewer places than neighbors: later ones have the last
        normal(RELATIONS),
    )
    return normal(SOURCES, DIM), logits, edges


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_attention_and_its_gradients_are_those_of_tensor_operations(
    joint: bool, timed: bool, seed: int
) -> None:
    source_SD, logits, edges = world(seed=seed)
    if not timed:
        logits = logits._replace(feature_NKF=None)
    inputs = [source_SD, *(part for part in logits if part is not None and part.requires_grad)]
    found = []
    for way in (attend, attend_by_tensors):
        pooled_HNRD = way(source_SD, logits, edges, joint=joint, negative=0.2)
        weight = torch.arange(pooled_HNRD.numel()).view(pooled_HNRD.shape).cos()
        slopes = torch.autograd.grad((pooled_HNRD * weight).sum(), inputs, allow_unused=True)
        found.append((pooled_HNRD, *slopes))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-4, atol=1e-5
        )
    assert (found[0][0][:, 0] == 0).all()


@pytest.mark.parametrize("joint", [True, False])
def test_logits_beyond_the_range_of_the_exponential_are_no_matter(joint: bool) -> None:
    """Softmax is the same after its largest logit is taken off; exp(200) is no float."""
    source_SD, logits, edges = world(seed=3)
    logits = logits._replace(query_NRH=(200 * logits.query_NRH).detach())
    ours, theirs = (
        way(source_SD, logits, edges, joint=joint, negative=0.2) for way in (attend, attend_by_tensors)
    )
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_gradients_of_the_loops_agree_with_finite_differences(joint: bool) -> None:
    source_SD, logits, edges = world(seed=5, double=True)
    feature_NKF = logits.feature_NKF
    assert feature_NKF is not None

    def pooled(
        source_SD: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        return attend(source_SD, Logits(query, key, feature_NKF, *rest), edges, joint=joint, negative=0.2)

    trained = (part for part in logits if part is not None and part.requires_grad)
    assert torch.autograd.gradcheck(pooled, (source_SD, *trained))


def test_the_mean_and_its_gradient_are_those_of_tensor_operations() -> None:
    source_SD, _, edges = world(seed=6)
    found = []
    for way in (mean, mean_by_tensors):
        mean_ND = way(source_SD, edges)
        weight = torch.arange(mean_ND.numel()).view(mean_ND.shape).cos()
        found.append((mean_ND, *torch.autograd.grad((mean_ND * weight).sum(), [source_SD])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (found[0][0][0] == 0).all()


def test_nobody_and_no_neighbor_are_no_error() -> None:
    source_SD, logits, edges = world(seed=7)
    nobody = Edges(*(getattr(edges, name)[:0] for name in Edges.__slots__))
    alone = Edges(*(getattr(edges, name)[:, :0] for name in Edges.__slots__))
    of_nobody = logits._replace(query_NRH=logits.query_NRH[:0], feature_NKF=None)
    of_alone = logits._replace(feature_NKF=None)
    for way in (attend, attend_by_tensors):
        assert way(source_SD, of_nobody, nobody, joint=True, negative=0.2).shape == (HEADS, 0, RELATIONS, DIM)
        for joint in (True, False):
            assert (way(source_SD, of_alone, alone, joint=joint, negative=0.2) == 0).all()
