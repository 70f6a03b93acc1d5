"""What a trainer saves, and how it is laid out for the trainer that goes on with it.

    Trainer.state_dict ──► [flat] ──► safetensors
    safetensors ──► [parts_of, placed, placed_moments] ──► Trainer.load_state_dict

Relations are matched by name: in another order they mean the same, a new one starts as in an untrained model,
and one that is gone goes. Everything else has to be as it is now: ``check`` says where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from driftgraph.model.options import SIZES, STATE_FORMAT, TrainerOptions, network_words
from driftgraph.stream.arrays import F64

NEW = -1  # the place of a relation that the saved model does not have

Parts = dict[str, dict[str, Tensor]]  # of a state: tensors by name, by what they belong to


def names_of(meta: Mapping[str, object]) -> list[str]:
    """The relations of the saved model, in its order."""
    names = meta["relations"]
    assert isinstance(names, list)
    return [str(name) for name in names]


def check(meta: Mapping[str, object], options: TrainerOptions, relations: Sequence[str]) -> None:
    """Refuse a saved model that cannot go on under ``options`` and these relations.

    Raises:
        ValueError: It has another format, another network or other sizes; all of them are named. A network
            that is not ours has other relations: only its author knows which parameters belong to which.
    """
    if meta["format"] != STATE_FORMAT:
        raise ValueError(
            f"the saved model has format {meta['format']}, this version of driftgraph reads {STATE_FORMAT} "
            "alone; start with an empty model"
        )
    saved, own = network_of(meta), network_words(options.custom, options.backend)
    if saved != own:
        raise ValueError(
            f"the saved model is of {saved}, this configuration names {own}; change it back or start with an "
            "empty model"
        )
    if options.custom is not None and names_of(meta) != list(relations):
        raise ValueError(
            f"the saved model of {saved} has the relations {names_of(meta)}, this configuration "
            f"{list(relations)}; change them back or start with an empty model"
        )
    other = [name for name in SIZES if meta[name] != getattr(options, name)]
    if other:
        raise ValueError(
            f"the saved model has {' and '.join(f'{name} {meta[name]}' for name in other)}, "
            f"this configuration {' and '.join(str(getattr(options, name)) for name in other)}; "
            "change it back or start with an empty model"
        )


def network_of(meta: Mapping[str, object]) -> str:
    """Which network the saved model is of, in words."""
    custom = meta.get("custom")
    return network_words(None if custom is None else str(custom), str(meta.get("backend", "torch")))


def check_shapes(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], custom: str) -> None:
    """Refuse a saved class of the user's whose parameters are not those of the class of today.

    Raises:
        ValueError: Parameters have other shapes or names.
    """
    then, now = ({name: list(one.shape) for name, one in part.items()} for part in (saved, own))
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"the saved model of {custom} has {name.removeprefix('model.')} of shape "
                f"{then.get(name, 'none')}, the class now {now.get(name, 'none')}; go back to the code that "
                "saved it or start with an empty model"
            )


def check_relations(window: Sequence[str], model: Sequence[str]) -> None:
    """Refuse a window of other relations than the model's.

    Raises:
        ValueError: They differ, or are in another order.
    """
    if list(window) != list(model):
        raise ValueError(
            f"the window has relations {list(window)}, the model {list(model)}; start with an empty model"
        )


def flat(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by one name each, ``part.name``, as safetensors has them."""
    return {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}


def parts_of(tensors: Mapping[str, Tensor]) -> Parts:
    """What ``flat`` was made of; a part without tensors is not there."""
    parts: Parts = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def arrays(parts: Parts, name: str) -> dict[str, F64]:
    """A part that is no tensors of torch in the trainer; empty if the state is from before it."""
    return {key: tensor.numpy() for key, tensor in parts.get(name, {}).items()}


def places(then: Sequence[str], now: Sequence[str]) -> list[int]:
    """Where each relation of ``now`` stands in ``then``; ``NEW`` if it does not."""
    return [then.index(name) if name in then else NEW for name in now]


def placed(
    saved: Mapping[str, Tensor], untrained: Mapping[str, Tensor], place_R: Sequence[int]
) -> dict[str, Tensor]:
    """Weights by parameter, each relation's part from its place in ``saved`` or else from ``untrained``."""
    return {
        name: _stacked(tensor, untrained[name], place_R) if _has_relation_axis(name) else tensor
        for name, tensor in saved.items()
    }


def moments_by_name(saved: Mapping[str, Tensor]) -> Parts:
    """The optimizer's tensors, ``parameter.moment``, by parameter."""
    moments: Parts = {}
    for key, tensor in saved.items():
        name, _, moment = key.rpartition(".")
        moments.setdefault(name, {})[moment] = tensor
    return moments


def placed_moments(saved: Parts, place_R: Sequence[int]) -> Parts:
    """Adam's state by parameter, each relation's part at its new place.

    The first moment of a new relation is 0. Its second moment is the mean of the others: the step count is
    that of the whole parameter, so a second moment of 0 would make the first steps several times too long.
    """
    moments: Parts = {}
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
