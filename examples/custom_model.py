"""A model of one's own: a GRU reads the newest items of a user's history, from the oldest to the newest.

    driftgraph.toml:  [model]
                      custom = "examples.custom_model:Gru"

driftgraph trains, judges, saves and serves it like its own network; ``driftgraph.model.custom`` has the
protocol. What an untrained model gives is a good recommender already: a user is the mean of the newest items,
an item is its row with its popularity. Training adds what the GRU finds.

Shape suffixes: N nodes, K neighbors, D numbers of a vector, R relations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from driftgraph.model.custom import Neighborhoods
from driftgraph.model.options import TrainerOptions

SCALE = 4.0  # of a user before training: rows begin near unit length, and scores should be log-probabilities


class Gru(nn.Module):
    """User: mean of the history + what a GRU makes of its order. Item: its row, or its users while new."""

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__()
        self.behavior = nn.Embedding(len(relations), options.dim)
        self.gru = nn.GRU(options.dim, options.dim, batch_first=True)
        self.out = nn.Linear(options.dim, options.dim)
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.popularity_F = nn.Parameter(torch.tensor([0.7, 0.3]))
        for zero in (self.behavior.weight, self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    def encode_users(self, users: Neighborhoods) -> Tensor:
        """[N, D]."""
        count_N = users.mask_NK.sum(1)
        place_K = torch.arange(users.mask_NK.shape[1], device=count_N.device)
        turned_NK = (count_N.unsqueeze(1) - 1 - place_K).clamp(min=0)  # neighbors come newest first
        event_NKD = users.neighbor_features() + self.behavior(users.relation_NK)
        state_NKD, _ = self.gru(event_NKD.gather(1, turned_NK.unsqueeze(2).expand_as(event_NKD)))
        every_N = torch.arange(len(count_N), device=count_N.device)
        newest_ND = state_NKD[every_N, (count_N - 1).clamp(min=0)]  # padding is behind it
        out_ND: Tensor = self.out(newest_ND)
        return self.scale * (users.feature_ND + out_ND)

    def encode_items(self, items: Neighborhoods) -> Tensor:
        """[N, D]; the last number is the item's bias."""
        assert items.popularity_NF is not None
        count_N1 = items.mask_NK.sum(1, keepdim=True)
        mean_ND = items.neighbor_features().sum(1) / count_N1.clamp(min=1)
        item_ND = items.feature_ND + mean_ND / (1 + count_N1)
        bias_N = items.feature_ND[:, -1] + items.popularity_NF @ self.popularity_F
        return torch.cat([item_ND[:, :-1], bias_N.unsqueeze(1)], 1)
