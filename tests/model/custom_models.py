"""Classes of a user's own that are right, and classes that are wrong in one thing each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from driftgraph.model.custom import Neighborhoods, Targets
from driftgraph.model.options import TrainerOptions

NUMBER = 7
NEEDS_DGL = pytest.mark.skipif(
    find_spec("dgl") is None, reason="DGL 1.1.3 has wheels for Python 3.11 and older only"
)
EXAMPLES = [
    pytest.param({"custom": "examples.custom_model:Gru"}, id="gru"),
    pytest.param({"custom": "examples.dgl_model:HeteroGat", "backend": "dgl"}, id="dgl", marks=NEEDS_DGL),
]


class Mean(nn.Module):
    """A user is the mean of its items, turned; an item is its row."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__()
        self.relations, self.options = list(relations), options
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.popularity_F = nn.Parameter(torch.tensor([0.7, 0.3]))

    def encode_users(self, users: Neighborhoods) -> Tensor:
        return self.scale * users.feature_ND

    def encode_items(self, items: Neighborhoods) -> Tensor:
        assert items.popularity_NF is not None
        bias_N = items.feature_ND[:, -1] + items.popularity_NF @ self.popularity_F
        return torch.cat([items.feature_ND[:, :-1], bias_N.unsqueeze(1)], 1)


class Dropping(Mean):
    """With dropout: a step has chance of its own, and a vector that is served has none."""

    def encode_users(self, users: Neighborhoods) -> Tensor:
        return self.scale * nn.functional.dropout(users.feature_ND, 0.3, self.training)


class OwnLoss(Mean):
    """Loses 2, times a parameter, for each example of candidate 0, and 1 for the others."""

    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        assert targets.excluded_BC.shape == (len(user_BD), len(item_CD))
        assert targets.log_q_C.shape == (len(item_CD),)
        return (1 + (targets.positive_B == 0).float()) * self.scale / 4


class OurLoss(Mean):
    """Loses what driftgraph's own loss is, written out."""

    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        score_BC = (user_BD @ item_CD.T - targets.log_q_C).masked_fill(targets.excluded_BC, -torch.inf)
        return nn.functional.cross_entropy(score_BC, targets.positive_B, reduction="none")


class Layered(Mean):
    """Has another parameter than ``Mean``."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__(relations, options)
        self.scale = nn.Parameter(torch.ones(3))


class Fails(Mean):
    def encode_users(self, users: Neighborhoods) -> Tensor:
        raise KeyError("no such thing")


class Narrow(Mean):
    def encode_items(self, items: Neighborhoods) -> Tensor:
        return items.feature_ND[:, :3]


class NoTensor(Mean):
    def encode_users(self, users: Neighborhoods) -> Tensor:
        return None  # type: ignore[return-value]


class Whole(Mean):
    def encode_items(self, items: Neighborhoods) -> Tensor:
        return items.feature_ND.long()


class OneLoss(Mean):
    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        return user_BD.sum()


class NotANumber(Mean):
    def encode_users(self, users: Neighborhoods) -> Tensor:
        return super().encode_users(users) * torch.where(users.time_ms_N == 0, 1.0, torch.nan).unsqueeze(1)


class Unmade(Mean):
    def __init__(self, relations: Sequence[str]) -> None:
        raise AssertionError("never called so")


class Untrained(nn.Module):
    """Has nothing to train."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__()

    def encode_users(self, users: Neighborhoods) -> Tensor:
        return users.feature_ND

    def encode_items(self, items: Neighborhoods) -> Tensor:
        return items.feature_ND


class Half(nn.Module):
    """Has one method of two."""

    def encode_users(self, users: Neighborhoods) -> Tensor:
        return users.feature_ND


class NoModule:
    """Is no torch.nn.Module."""


class Sums(nn.Module):
    """DGL: each layer adds to a node the vectors of its neighbors, times 1 + the number of the behavior."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__()
        self.names = list(relations)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, blocks: Sequence, features: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[type-arg]
        import dgl.function as fn

        hidden = features
        for block in blocks:
            new = {name: hidden[name][: block.num_dst_nodes(name)] * self.scale for name in block.dsttypes}
            for source, edge_type, target in block.canonical_etypes:
                with block.local_scope():
                    block.srcnodes[source].data["h"] = hidden[source]
                    messages = fn.copy_u("h", "m"), fn.sum("m", "h")  # pyright: ignore[reportAttributeAccessIssue]
                    block.update_all(*messages, etype=(source, edge_type, target))
                    worth = 1 + self.names.index(edge_type.removeprefix("rev-"))
                    new[target] = new[target] + worth * block.dstnodes[target].data["h"]
            hidden = new
        return hidden


class Hanging(Mean):
    """Stands still in a step of training once it is told to; what is served does not."""

    hangs, goes_on = threading.Event(), threading.Event()

    def encode_users(self, users: Neighborhoods) -> Tensor:
        if torch.is_grad_enabled() and self.hangs.is_set():
            self.goes_on.wait(60)
        return super().encode_users(users)
