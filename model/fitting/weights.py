"""The weights that training moves, of network and item table, with the optimizer: one step, and its undoing.

Inputs of a batch ──► [Weights.step] ──► the loss; None, and no weight has moved, if it is not finite
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.fitting.gate import ACCEPTED, Verdict
from driftgraph.model.fitting.saved_state import Parts, check_shapes, moments_by_name, placed, placed_moments
from driftgraph.model.network.custom_network import untrained
from driftgraph.model.network.inputs import Inputs, batch_loss, contrast, drawn_negatives
from driftgraph.model.network.item_table import ItemTable
from driftgraph.model.network.network import Network
from driftgraph.model.options import NEGATIVES_OTHERS, TrainerOptions
from driftgraph.stream.arrays import F32, F64

SCALE_FIRST = (
    1_024.0  # of the loss in half precision; torch's 65,536 overflows, and overflows count as skipped
)


@dataclass(frozen=True, slots=True)
class Trained:
    """What some steps did: how many, their mean loss (nan for none), and why they ended if they had to."""

    steps: int
    skipped: int
    loss: float
    verdict: Verdict


def trained(
    values: Iterable[float | None], total: int, in_a_row_max: int, on_step: Callable[[int, int], None]
) -> Trained:
    """Take one step for each of ``values``, None being a skipped one; stop at too many of these in a row."""
    steps, skipped, in_a_row, loss = 0, 0, 0, 0.0
    for number, value in enumerate(values):
        on_step(number + 1, total)
        if value is None:
            skipped, in_a_row = skipped + 1, in_a_row + 1
            if in_a_row >= in_a_row_max:
                reason = f"{in_a_row} steps in a row had a non-finite loss or gradient"
                return Trained(steps, skipped, loss / max(steps, 1), Verdict(False, "skipped_steps", reason))
            continue
        steps, in_a_row, loss = steps + 1, 0, loss + value
    if steps == 0:
        reason = f"all {skipped} steps had a non-finite loss or gradient"
        return Trained(0, skipped, math.nan, Verdict(False, "skipped_steps", reason))
    return Trained(steps, skipped, loss / steps, ACCEPTED)


class Weights:
    """The weights of a model with their optimizer.

    Always true: after ``rollback`` everything is, bit for bit, as at the ``begin`` before it.
    """

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        self.relations, self.options, self.device = relations, options, torch.device(options.device)
        self.network = untrained(relations, options).to(self.device)
        self.table = ItemTable(options.dim, options.seed, self.device)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=options.network_learning_rate)
        mixed = options.mixed_precision and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=SCALE_FIRST, enabled=mixed)
        own = options.negatives
        self._negatives_R = (
            None
            if isinstance(own, str)
            else torch.tensor([own.get(r, NEGATIVES_OTHERS) for r in relations], device=self.device)
        )
        self._before: tuple[dict[str, Any], ...] = ()

    def start(self, rows_ID: F32) -> None:
        """Begin anew with these item rows, an untrained network and no moments."""
        self.network.load_state_dict(untrained(self.relations, self.options).state_dict())
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {}})
        self.table.start(rows_ID)

    def network_copied(self) -> Network:
        """Another network with the weights of this moment; made as a start makes it from a saved state."""
        found = untrained(self.relations, self.options).to(self.device)
        found.load_state_dict(self.network.state_dict())
        return found.requires_grad_(False).eval()

    def state_dict(self) -> Parts:
        """Copies of network, item table and optimizer; the optimizer's tensors as ``parameter.moment``."""
        names, moments = self._trained_names(), self.optimizer.state_dict()["state"]
        optimizer = {f"{names[i]}.{k}": v for i, own in moments.items() for k, v in own.items()}
        return {
            "network": _copied(self.network.state_dict()),
            "table": self.table.state_dict(),
            "optimizer": _copied(optimizer),
        }

    def load_state_dict(self, parts: Parts, place_R: Sequence[int]) -> None:
        """Go on from a saved state, in which our relation r is at ``place_R[r]``.

        Raises:
            ValueError: The state is of a class whose parameters were others.
        """
        network, moments = parts["network"], moments_by_name(parts.get("optimizer", {}))
        if self.options.custom is None:
            network = placed(network, untrained(self.relations, self.options).state_dict(), place_R)
            moments = placed_moments(moments, place_R)
        else:
            check_shapes(network, self.network.state_dict(), self.options.custom)
        self.network.load_state_dict(network)
        self.table.load_state_dict(parts["table"])
        by_place = {i: moments[name] for i, name in enumerate(self._trained_names()) if name in moments}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": by_place})

    def begin(self) -> None:
        """Remember from here on what ``rollback`` brings back."""
        self._before = self._shared()
        self.table.begin()

    def commit(self) -> int:
        """Forget what was remembered; return how many item rows moved."""
        self._before = ()
        return self.table.commit()

    def rollback(self) -> None:
        """Bring back what ``begin`` remembered."""
        self.table.rollback()
        self._load_shared(self._before)
        self._before = ()

    def keep(self) -> Callable[[], None]:
        """Remember this moment; calling the result brings it back, and ``rollback`` still works after it."""
        rows, shared = self.table.kept(), self._shared()

        def bring_back() -> None:
            self.table.put(rows)
            self._load_shared(shared)

        return bring_back

    def _seed(self, seed: int) -> None:
        """For dropout in a class of the user's; ``torch.manual_seed`` would ask each kind of device."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def step(
        self, inputs: Inputs, *, learning_rate: float, network_learning_rate: float, chance: torch.Generator
    ) -> float | None:
        """Forward, backward, step; the loss, or None if it was skipped, and then nothing has moved."""
        for group in self.optimizer.param_groups:
            group["lr"] = network_learning_rate
        rows_nD = self.table.weight.index_select(0, inputs.rows_n).requires_grad_()
        counts_R = self._negatives_R
        negative_BK = None if counts_R is None else drawn_negatives(inputs, counts_R, chance)
        self.optimizer.zero_grad(set_to_none=True)
        with (
            torch.random.fork_rng(devices=[]),
            torch.autocast(self.device.type, torch.float16, enabled=self.scaler.is_enabled()),
        ):
            self._seed(chance.initial_seed())
            loss = batch_loss(self.network, inputs, rows_nD, negative_BK=negative_BK)
            if self.options.contrastive_weight > 0:
                loss = loss + self.options.contrastive_weight * contrast(
                    self.network, inputs, rows_nD, chance
                )
        if not torch.isfinite(loss):
            return None
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimizer)
        row_gradient_nD = torch.zeros_like(rows_nD) if rows_nD.grad is None else rows_nD.grad
        if self.scaler.is_enabled():
            row_gradient_nD.div_(self.scaler.get_scale())
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g.float()) for g in (row_gradient_nD, *gradients)])
        )
        if not torch.isfinite(norm):  # clipping would make all of them NaN: it goes by the joint norm
            if self.scaler.is_enabled():
                self.scaler.update(self.scaler.get_scale() / 2)
            return None
        factor = min(1.0, self.options.clip_norm / max(float(norm), 1e-12))
        for gradient in (row_gradient_nD, *gradients):
            gradient.mul_(factor)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.table.step(inputs.rows_n, row_gradient_nD, learning_rate)
        return float(loss.detach())

    @torch.no_grad()
    def losses(self, held: Iterable[Inputs]) -> F64:
        """Loss of each example of some batches, by the weights of this moment."""
        parts = [
            batch_loss(self.network, inputs, self.table.weight[inputs.rows_n], reduced=False)
            .double()
            .cpu()
            .numpy()
            for inputs in held
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _trained_names(self) -> list[str]:
        """The parameters that the optimizer has, in its order."""
        return [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]

    def _shared(self) -> tuple[dict[str, Any], ...]:
        """Copies of all but the item table."""
        return tuple(copy.deepcopy(part.state_dict()) for part in (self.network, self.optimizer, self.scaler))

    def _load_shared(self, states: tuple[dict[str, Any], ...]) -> None:
        network, optimizer, scaler = states
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)
        self.scaler.load_state_dict(scaler)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
