"""The item table: one trained row for each item row of the window, with its own optimizer state.

A row moves only in a step that reads it (lazy Adam), the table grows without losing moments, and a row that
the window has given to a new owner starts afresh.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.kernels.hashing import GOLDEN, splitmix

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's usual
INITIAL_STD = 0.05  # of an id row: small beside a trained one, so that a new item is what its users say


class ItemRows:
    """Rows [capacity, dim], of which ``rows`` are in use; what lies behind them is never read.

    Always true: a row that no training moved for its owner holds ``initial_rows`` of its number, whenever it
    was made.
    """

    def __init__(self, dim: int, seed: int, device: torch.device) -> None:
        self.dim, self.seed, self.device = dim, seed, device
        self.rows = 0
        self.version = np.zeros(0, np.uint32)
        self.weight = torch.zeros(0, dim, device=device)

    def copied(self) -> ItemRows:
        """The weights of this moment, which no training moves. O(rows)."""
        found = ItemRows(self.dim, self.seed, self.device)
        found.rows, found.version, found.weight = self.rows, self.version, self.weight[: self.rows].clone()
        return found

    def adopt(self, version: U32) -> None:
        """Follow the window: add rows it has added, start afresh those with another owner. O(rows)."""
        known = min(self.rows, len(version))
        renewed = np.flatnonzero(version[:known] != self.version[:known])
        self._make_room(len(version))
        fresh = np.concatenate([renewed, np.arange(known, len(version))])
        if len(fresh):
            index = torch.from_numpy(fresh).to(self.device)
            made = initial_rows(fresh, self.dim, self.seed)
            self._start_afresh(index, torch.from_numpy(made).to(self.device))
        self.rows = len(version)
        self.version = version.copy()

    def _start_afresh(self, index: Tensor, made_nD: Tensor) -> None:
        self.weight[index] = made_nD

    def _make_room(self, rows: int) -> None:
        if rows > len(self.weight):
            more = max(rows, 2 * len(self.weight)) - len(self.weight)
            self.weight = torch.cat([self.weight, self.weight.new_zeros(more, self.dim)])


class ItemTable(ItemRows):
    """``ItemRows`` that are trained, with first and second moment and a step count for each row.

    Source of the update: Kingma and Ba, "Adam", ICLR 2015, algorithm 1, the step count being that of the
    row: a row read for the first time gets the first step's bias correction.
    """

    def __init__(self, dim: int, seed: int, device: torch.device) -> None:
        super().__init__(dim, seed, device)
        self.moment1 = torch.zeros(0, dim, device=device)
        self.moment2 = torch.zeros(0, dim, device=device)
        self.steps = torch.zeros(0, dtype=torch.int64, device=device)
        self._before: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._touched: Tensor | None = None

    def _start_afresh(self, index: Tensor, made_nD: Tensor) -> None:
        super()._start_afresh(index, made_nD)
        self.moment1[index] = 0
        self.moment2[index] = 0
        self.steps[index] = 0

    def step(self, rows_n: Tensor, gradient_nD: Tensor, learning_rate: float) -> None:
        """One Adam step of distinct rows; no other row changes by a bit. No rows is no step."""
        if len(rows_n) == 0:
            return
        self._keep(rows_n)
        if self.device.type != "cpu":
            self._step_by_tensors(rows_n, gradient_nD, learning_rate)
            return
        state = (self.weight, self.moment1, self.moment2, self.steps)
        rows, gradient = rows_n.numpy(), gradient_nD.contiguous().numpy()
        _adam(rows, gradient, learning_rate, *(part.numpy() for part in state))

    def _step_by_tensors(self, rows_n: Tensor, gradient_nD: Tensor, learning_rate: float) -> None:
        count_n1 = (self.steps[rows_n] + 1).unsqueeze(1).double()
        first_nD = self.moment1.index_select(0, rows_n).lerp_(gradient_nD, 1 - BETA1)
        second_nD = self.moment2.index_select(0, rows_n).mul_(BETA2)
        second_nD.addcmul_(gradient_nD, gradient_nD, value=1 - BETA2)
        size_nD = (second_nD / (1 - BETA2**count_n1).float()).sqrt_().add_(EPSILON)
        change_nD = (first_nD / (1 - BETA1**count_n1).float()).div_(size_nD).mul_(-learning_rate)
        self.weight.index_add_(0, rows_n, change_nD)
        self.moment1.index_copy_(0, rows_n, first_nD)
        self.moment2.index_copy_(0, rows_n, second_nD)
        self.steps[rows_n] += 1

    def kept(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copies of all rows in use, for ``put``: weights, both moments, steps."""
        n = self.rows
        weight, first, second = (part[:n].clone() for part in (self.weight, self.moment1, self.moment2))
        return weight, first, second, self.steps[:n].clone()

    def put(self, kept: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Replace all rows in use; ``rollback`` still brings back those of ``begin``."""
        self._keep(torch.arange(self.rows, device=self.device))
        n = self.rows
        for own, other in zip((self.weight, self.moment1, self.moment2, self.steps), kept, strict=True):
            own[:n] = other

    def start(self, weight: F32) -> None:
        """Begin all rows in use with these weights, as if no step had been made."""
        fresh, steps = torch.from_numpy(weight).to(self.device), torch.zeros_like(self.steps[: self.rows])
        self.put((fresh, torch.zeros_like(fresh), torch.zeros_like(fresh), steps))

    def begin(self) -> None:
        """Remember from here on what a row was before its first step, for ``rollback``."""
        self._before = []
        self._touched = torch.zeros(self.rows, dtype=torch.bool, device=self.device)

    def commit(self) -> int:
        """Forget what was remembered; return how many rows moved."""
        moved = 0 if self._touched is None else int(self._touched.sum())
        self._before, self._touched = [], None
        return moved

    def rollback(self) -> None:
        """Give every row that moved since ``begin`` its weights and moments back, bit for bit."""
        for rows_n, weight_nD, first_nD, second_nD, steps_n in self._before:
            self.weight[rows_n] = weight_nD
            self.moment1[rows_n] = first_nD
            self.moment2[rows_n] = second_nD
            self.steps[rows_n] = steps_n
        self._before, self._touched = [], None

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the rows in use; the version as int64, which safetensors knows everywhere."""
        n = self.rows
        return {
            "weight": self.weight[:n].cpu().clone(),
            "moment1": self.moment1[:n].cpu().clone(),
            "moment2": self.moment2[:n].cpu().clone(),
            "steps": self.steps[:n].cpu().clone(),
            "version": torch.from_numpy(self.version.astype(np.int64)),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace everything by a saved state.

        Raises:
            ValueError: The state has rows of another size.
        """
        count, dim = state["weight"].shape
        if dim != self.dim:
            raise ValueError(
                f"the saved item table has rows of {dim}, the options say dim {self.dim}; "
                "set dim to the saved value or start with an empty model"
            )
        self.rows = 0
        self._make_room(count)
        self.weight[:count] = state["weight"].to(self.device)
        self.moment1[:count] = state["moment1"].to(self.device)
        self.moment2[:count] = state["moment2"].to(self.device)
        self.steps[:count] = state["steps"].to(self.device)
        self.rows = count
        self.version = state["version"].numpy().astype(np.uint32)
        self._before, self._touched = [], None

    def _keep(self, rows_n: Tensor) -> None:
        if self._touched is None:
            return
        new_n = rows_n[~self._touched[rows_n]]
        self._touched[new_n] = True
        saved = (self.weight[new_n], self.moment1[new_n], self.moment2[new_n], self.steps[new_n])
        self._before.append((new_n, *saved))

    def _make_room(self, rows: int) -> None:
        super()._make_room(rows)
        more = len(self.weight) - len(self.steps)
        if more:
            self.moment1 = torch.cat([self.moment1, self.moment1.new_zeros(more, self.dim)])
            self.moment2 = torch.cat([self.moment2, self.moment2.new_zeros(more, self.dim)])
            self.steps = torch.cat([self.steps, self.steps.new_zeros(more)])


@kernel
def _adam(
    rows: I64,
    gradient_nD: F32,
    learning_rate: float,
    weight_RD: F32,
    first_RD: F32,
    second_RD: F32,
    steps_R: I64,
) -> None:  # pragma: no cover - compiled
    """One step of these rows, in place."""
    beta1, beta2, epsilon = np.float32(BETA1), np.float32(BETA2), np.float32(EPSILON)
    new1, new2 = np.float32(1 - BETA1), np.float32(1 - BETA2)
    for n in range(len(rows)):
        row = rows[n]
        steps_R[row] += 1
        rate = np.float32(-learning_rate / (1 - BETA1 ** steps_R[row]))
        scale = np.float32(1 / (1 - BETA2 ** steps_R[row]))
        for d in range(gradient_nD.shape[1]):
            gradient = gradient_nD[n, d]
            first = beta1 * first_RD[row, d] + new1 * gradient
            second = beta2 * second_RD[row, d] + new2 * gradient * gradient
            first_RD[row, d], second_RD[row, d] = first, second
            weight_RD[row, d] += rate * first / (np.sqrt(second * scale) + epsilon)


def initial_rows(rows: npt.NDArray[np.integer], dim: int, seed: int) -> F32:
    """What a row of this number starts with, whoever owns it: float32 [n, dim], the last channel 0.

    A function of (seed, row, channel) alone, so that it does not matter when or beside whom a row was made,
    or in which process: SplitMix64 (Steele et al., OOPSLA 2014) to uniform numbers with the wanted deviation.
    """
    with np.errstate(over="ignore"):
        key = rows.astype(np.uint64) * GOLDEN
        key = splitmix(key + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03))
        mixed = splitmix(key[:, None] + np.arange(1, dim + 1, dtype=np.uint64) * GOLDEN)
    uniform = (mixed >> np.uint64(40)).astype(np.float64) / (1 << 24) - 0.5
    made: F32 = (uniform * (INITIAL_STD * math.sqrt(12))).astype(np.float32)
    made[:, -1] = 0  # the item's own bias
    return made
