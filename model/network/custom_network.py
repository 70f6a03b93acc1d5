"""A class of the user as the network that is trained and served, and the choice between it and ours.

    options ──► [untrained] ──► MBGNN or CustomNetwork ──► Weights, Encoder
    Nodes, rows ──► [neighborhoods] ──► the user's class ──► checked vectors

What a user has to know is in ``custom``. Whatever goes wrong in the user's class is told with its name.

Shape suffixes as in ``custom``.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftgraph.model.custom import CustomModelError, Neighborhoods, Targets
from driftgraph.model.network.aggregate import mean
from driftgraph.model.network.network import MBGNN, Network, Nodes
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.errors import ConfigError, DriftgraphError
from driftgraph.stream.window.adjacency import ITEM

METHODS = {"torch": ("encode_users", "encode_items"), "dgl": ("forward",)}  # that a class must have


class CustomNetwork(Network):
    """The user's class between our samples and our training.

    Always true: vectors are float32 [N, dim], and the last channel of a user is 1.
    """

    def __init__(self, relations: Sequence[str], options: TrainerOptions) -> None:
        super().__init__(len(relations), options)
        assert options.custom is not None
        self.name = options.custom
        vectors_of = dgl_vectors_of() if options.backend == "dgl" else None
        self.model: nn.Module = self._called("__init__", class_of(options), list(relations), options)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ConfigError(f"model.custom = {self.name}: it has no parameter that could be trained")
        self.has_loss = callable(getattr(self.model, "loss", None))
        self._encode: dict[str, Callable[[Neighborhoods], object]] = {}
        self._method: dict[str, str] = {}
        for side in ("users", "items"):
            if vectors_of is None:
                self._encode[side], self._method[side] = (
                    getattr(self.model, f"encode_{side}"),
                    f"encode_{side}",
                )
            else:
                self._encode[side] = partial(vectors_of, self.model, relations, options.layers)
                self._method[side] = f"forward (for {side})"

    def users(self, nodes: Nodes, rows_SD: Tensor) -> Tensor:
        """See ``Network.users``."""
        vector_ND = self._vectors("users", neighborhoods(nodes, rows_SD, None))
        return torch.cat([vector_ND[:, :-1], vector_ND.new_ones(len(vector_ND), 1)], 1)

    def items(self, nodes: Nodes, rows_SD: Tensor, popularity_NF: Tensor) -> Tensor:
        """See ``Network.items``."""
        return self._vectors("items", neighborhoods(nodes, rows_SD, popularity_NF))

    def loss(self, user_BD: Tensor, item_CD: Tensor, targets: Targets) -> Tensor:
        """See ``Network.loss``."""
        loss: Callable[..., object] = getattr(self.model, "loss")  # noqa: B009  # a method, not a parameter
        found = self._called("loss", loss, user_BD, item_CD, targets)
        return self._checked("loss", found, (len(user_BD),), "one number for each example")

    def _vectors(self, side: str, nodes: Neighborhoods) -> Tensor:
        self.model.train(torch.is_grad_enabled())
        method, shape = self._method[side], (len(nodes.feature_ND), self.options.dim)
        found = self._called(method, self._encode[side], nodes)
        return self._checked(method, found, shape, f"a vector of model.dim numbers for each of the {side}")

    def _called(self, method: str, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except DriftgraphError:
            raise
        except Exception as error:
            raise CustomModelError(f"{self.name}.{method} {_failed(error)}") from error

    def _checked(self, method: str, found: object, shape: tuple[int, ...], words: str) -> Tensor:
        """The result as single precision; remembers in ``not_finite`` one that has NaN or inf."""
        wanted = f"expected a floating point tensor of shape {list(shape)}: {words}"
        if not isinstance(found, Tensor):
            raise CustomModelError(f"{self.name}.{method} returned {type(found).__name__}, {wanted}")
        if tuple(found.shape) != shape or not found.is_floating_point():
            got = f"a tensor of shape {list(found.shape)} and {found.dtype}"
            raise CustomModelError(f"{self.name}.{method} returned {got}, {wanted}")
        found = found.float()
        if not bool(torch.isfinite(found.detach()).all()):
            rows = int((~torch.isfinite(found.detach()).reshape(len(found), -1)).any(1).sum())
            self.not_finite = f"{self.name}.{method} returned NaN or inf in {rows} of {len(found)} rows"
        return found


def class_of(options: TrainerOptions) -> type[nn.Module]:
    """The class that ``options.custom`` names. The current folder is searched behind Python's path.

    Raises:
        ConfigError: It cannot be imported, or is no module with the methods of the protocol.
    """
    assert options.custom is not None
    said, (module_name, _, class_name) = f"model.custom = {options.custom}", options.custom.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ModuleNotFoundError as error:
        if error.name is None or f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{said}: there is no module {error.name} on Python's path or in {folder}; install it, or "
                "start driftgraph in the folder that it is in"
            ) from error
        raise ConfigError(f"{said}: importing {module_name} {_failed(error)}") from error
    except Exception as error:
        raise ConfigError(f"{said}: importing {module_name} {_failed(error)}") from error
    if found is None:
        raise ConfigError(f"{said}: {module_name} has nothing called {class_name}; name the class in it")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        what = f"the class {class_name}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigError(
            f"{said} is {what}, expected a class that is a torch.nn.Module; derive it from that"
        )
    missing = [name for name in METHODS[options.backend] if name not in vars_of(found)]
    if missing:
        raise ConfigError(
            f"{said} has no method {' and '.join(missing)}, which model.backend = {options.backend} calls "
            "(driftgraph.model.custom describes them)"
        )
    return found


def dgl_vectors_of() -> Callable[..., object]:
    """``dgl_blocks.vectors_of``; DGL is imported only where it is asked for.

    Raises:
        ConfigError: DGL cannot be imported.
    """
    try:
        from driftgraph.model.network.dgl_blocks import vectors_of  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise ConfigError(
            f'model.backend = "dgl" needs the package dgl, whose import {_failed(error)}; install it '
            '(dgl 1.1.3 is for Python up to 3.11), or set model.backend = "torch"'
        ) from error
    return vectors_of


def vars_of(found: type[nn.Module]) -> set[str]:
    """What a class or one above it defines below ``nn.Module``, whose own ``forward`` only raises."""
    bases = found.__mro__[: found.__mro__.index(nn.Module)]
    return {name for base in bases for name in vars(base)}


def neighborhoods(nodes: Nodes, rows_SD: Tensor, popularity_NF: Tensor | None) -> Neighborhoods:
    """Sampled nodes as the user's class takes them."""
    source = None if nodes.source is None else neighborhoods(nodes.source, rows_SD, None)
    source_SD = rows_SD if source is None else source.feature_ND
    if len(source_SD) == 0:  # an index of padding has to point at something
        source_SD = rows_SD.new_zeros(1, rows_SD.shape[1])
    mask_NK = torch.zeros(len(nodes.row_N), 0, dtype=torch.bool, device=rows_SD.device)
    columns = [nodes.row_N.new_zeros(mask_NK.shape)] * 3
    if nodes.edges is not None and nodes.event_ms_NK is not None:
        mask_NK = nodes.edges.mask_NK
        columns = [nodes.edges.source_NK, nodes.edges.relation_NK.long(), nodes.event_ms_NK]
    if mask_NK.shape[1] == 0:
        mask_NK, *columns = (functional.pad(column, (0, 1)) for column in (mask_NK, *columns))
    if nodes.side == ITEM:
        feature_ND = rows_SD.index_select(0, nodes.row_N)
    else:
        assert nodes.edges is not None
        feature_ND = mean(source_SD, nodes.edges)
    neighbor_NK, relation_NK, event_ms_NK = columns
    return Neighborhoods(
        nodes.side, feature_ND, nodes.time_ms_N, source_SD, neighbor_NK, mask_NK, relation_NK, event_ms_NK,
        popularity_NF, source,
    )  # fmt: skip


def untrained(relations: Sequence[str], options: TrainerOptions) -> Network:
    """The network that training begins with: by the seed alone, whatever else draws from torch.

    Raises:
        ConfigError: ``options.custom`` names no class that can be used.
        CustomModelError: The class cannot be made.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return MBGNN(len(relations), options) if options.custom is None else CustomNetwork(relations, options)


def _failed(error: Exception) -> str:
    """``failed with KeyError: 'x' (models.py, line 31)``, the line being the innermost that is the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    others = ("site-packages", "importlib", __file__)
    theirs = [one for one in frames if not any(name in one.filename for name in others)]
    place = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"failed with {type(error).__name__}: {' '.join(str(error).split())}{place}"
