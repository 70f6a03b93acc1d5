"""Copies of published vectors: all of the first model version, and the items of the served one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.network.embed import Embedding
from driftgraph.stream.arrays import F32, I64, U32, Mask
from driftgraph.stream.window.adjacency import ITEM, USER


@dataclass(frozen=True, slots=True)
class Published:
    """Vectors as they were published, by row; a row that has changed its owner since is unknown.

    ``user_rows`` is empty where only the items are kept. Rows ascend.
    """

    user_rows: I64
    user: F32
    user_version: I64
    item_rows: I64
    item: F32
    item_version: I64

    @classmethod
    def of(cls, embedding: Embedding, versions: tuple[U32, U32]) -> Published:
        """Keep what an embedding publishes, with the owners of the rows at that time (users, items)."""
        return cls(
            embedding.user_rows.astype(np.int64),
            embedding.user,
            versions[USER][embedding.user_rows].astype(np.int64),
            embedding.item_rows.astype(np.int64),
            embedding.item,
            versions[ITEM][embedding.item_rows].astype(np.int64),
        )

    def without_users(self) -> Published:
        """The items alone."""
        return replace(
            self, user_rows=self.user_rows[:0], user=self.user[:0], user_version=self.user_version[:0]
        )

    def users(self, rows: U32, version: U32) -> tuple[F32, Mask]:
        """[n, D] and whether each is known; zeros where not."""
        return _look_up(self.user_rows, self.user, self.user_version, rows, version)

    def items(self, rows: U32, version: U32) -> tuple[F32, Mask]:
        """[n, D] and whether each is known; zeros where not."""
        return _look_up(self.item_rows, self.item, self.item_version, rows, version)

    def state_dict(self) -> dict[str, Tensor]:
        """As tensors."""
        return {name: torch.from_numpy(getattr(self, name)) for name in PUBLISHED_COLUMNS}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Published:
        """From ``state_dict``."""
        return cls(*(state[name].numpy() for name in PUBLISHED_COLUMNS))


PUBLISHED_COLUMNS = ("user_rows", "user", "user_version", "item_rows", "item", "item_version")


def _look_up(rows: I64, vectors: F32, versions: I64, wanted: U32, version_now: U32) -> tuple[F32, Mask]:
    found = np.zeros((len(wanted), vectors.shape[1]), np.float32)
    known = np.zeros(len(wanted), np.bool_)
    if len(rows):
        at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        known = (rows[at] == wanted) & (versions[at] == version_now[wanted])
        found[known] = vectors[at[known]]
    return found, known
