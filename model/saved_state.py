"""What a trainer saved, laid out for the trainer that goes on with it.

    tensors and meta of state_dict ──► [check_sizes, placed, placed_moments] ──► Trainer.load_state_dict

Relations are matched by name: in another order they mean the same, a new one starts as in an untrained model,
and one that is gone goes. Everything else has to have the sizes that are configured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from driftgraph.model.options import FORMATS_READ, SIZES, TrainerOptions

NEW = -1  # the place of a relation that the saved model does not have
RENAMED = {"cold_gate": "cold_share"}  # parameters: name in older states → name now

Moments = dict[str, dict[str, Tensor]]  # the optimizer's state, by parameter


def names_of(meta: Mapping[str, object]) -> list[str]:
    """The relations of the saved model, in its order."""
    names = meta["relations"]
    assert isinstance(names, list)
    return [str(name) for name in names]


def check_sizes(meta: Mapping[str, object], network: Mapping[str, Tensor], options: TrainerOptions) -> None:
    """Refuse a saved model whose weights cannot go on under ``options``.

    Raises:
        ValueError: It has another format or other sizes; all of them are named.
    """
    if meta.get("format") not in FORMATS_READ:
        raise ValueError(
            f"the saved model has format {meta.get('format')}, this version of driftgraph reads "
            f"{' and '.join(map(str, FORMATS_READ))}; start with an empty model"
        )
    heads = network["layers.0.0.attend_target_RHC"].shape[1]  # older states do not say it
    saved = {"heads": heads} | {name: meta[name] for name in SIZES if name in meta}
    other = [name for name in SIZES if saved.get(name) != getattr(options, name)]
    if other:
        raise ValueError(
            f"the saved model has {' and '.join(f'{name} {saved.get(name)}' for name in other)}, "
            f"this configuration {' and '.join(str(getattr(options, name)) for name in other)}; "
            "change it back or start with an empty model"
        )


def by_current_name(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that their parameters have now."""
    return {RENAMED.get(name, name): tensor for name, tensor in saved.items()}


def moments_by_name(saved: Mapping[str, Tensor], trained: Sequence[str]) -> Moments:
    """The optimizer's tensors by parameter; older states name a parameter by its place in ``trained``."""
    moments: Moments = {}
    for key, tensor in saved.items():
        name, _, moment = key.rpartition(".")
        name = trained[int(name)] if name.isdecimal() else RENAMED.get(name, name)
        moments.setdefault(name, {})[moment] = tensor
    return moments


def places(then: Sequence[str], now: Sequence[str]) -> list[int]:
    """Where each relation of ``now`` stands in ``then``; ``NEW`` if it does not."""
    return [then.index(name) if name in then else NEW for name in now]


def placed(
    saved: Mapping[str, Tensor], untrained: Mapping[str, Tensor], place_R: Sequence[int]
) -> dict[str, Tensor]:
    """Weights by parameter, each relation's part from its place in ``saved`` or else from ``untrained``."""
    weights = dict(saved)
    for name in filter(_has_relation_axis, untrained):
        if name in saved:
            weights[name] = _stacked(saved[name], untrained[name].cpu(), place_R)
    return weights


def placed_moments(saved: Moments, place_R: Sequence[int]) -> Moments:
    """Adam's state by parameter, each relation's part at its new place.

    The first moment of a new relation is 0. Its second moment is the mean of the others: the step count is
    that of the whole parameter, so a second moment of 0 would make the first steps several times too long.
    """
    moments: Moments = {}
    for name, state in saved.items():
        moments[name] = dict(state)
        if _has_relation_axis(name):
            first, second = state["exp_avg"], state["exp_avg_sq"]
            new = second.mean(0, keepdim=True).expand(len(place_R), *second.shape[1:])
            moments[name]["exp_avg"] = _stacked(first, torch.zeros_like(new), place_R)
            moments[name]["exp_avg_sq"] = _stacked(second, new, place_R)
    return moments


def _has_relation_axis(name: str) -> bool:
    """Whether a parameter has one part for each relation: its shape suffix begins with R (weight_RDHC)."""
    return name.rpartition("_")[2].startswith("R")


def _stacked(saved: Tensor, new: Tensor, place_R: Sequence[int]) -> Tensor:
    """[R, …]: relation r from its place in ``saved``, a new one from ``new[r]``."""
    return torch.stack([new[r] if place == NEW else saved[place] for r, place in enumerate(place_R)])


def integer(meta: Mapping[str, object], name: str) -> int:
    """A number of the state."""
    value = meta[name]
    if not isinstance(value, int):
        raise ValueError(f"the saved model has {name} {value!r}, expected a number")  # noqa: TRY004
    return value
