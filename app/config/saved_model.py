"""Compares the saved model with the configuration: whether it can go on, and what changes or is lost.

    data_dir/trainer ──► [newest] ──► SavedModel ──► [check] ──► run refuses
                                           └──► doctor, config show

It reads a few kilobytes and needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from safetensors import SafetensorError, safe_open

from driftgraph.app.config.builders import window_relations
from driftgraph.app.config.settings import Settings
from driftgraph.model.options import FORMATS_READ, SIZES
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.fit_schedule import MOST_MS, SHARE
from driftgraph.stream.time.durations import Duration

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000


class OtherModelError(DriftgraphError):
    """The configuration cannot go on with the saved model."""


class _Meta(msgspec.Struct, frozen=True):
    """The part of ``trainer.json`` that is read."""

    format: int
    relations: list[str]
    dim: int
    layers: int
    model_version: int = 0
    generation: int = 0  # what older states call ``model_version``
    heads: int | None = None  # None in older states


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The sizes and relations in a checkpoint of the trainer."""

    folder: Path
    format: int
    relations: tuple[str, ...]
    sizes: Mapping[str, int]
    model_version: int

    @classmethod
    def of(cls, found: Checkpoint) -> SavedModel:
        """Read it.

        Raises:
            OSError: If a file is missing.
            ValueError: If a file is damaged.
        """
        meta = msgspec.json.decode(found.read("trainer.json"), type=_Meta)
        sizes = {"dim": meta.dim, "layers": meta.layers, "heads": meta.heads or _heads_of(found)}
        version = meta.model_version or meta.generation
        return cls(found.folder, meta.format, tuple(meta.relations), sizes, version)

    def refusal(self, settings: Settings) -> str | None:
        """Why the configuration cannot go on with the model, and what is lost without it; None if it can."""
        if self.format not in FORMATS_READ:
            return (
                f"{self.folder}: the saved model has format {self.format}, this version of driftgraph reads "
                f"{_list(map(str, FORMATS_READ))}: run the version that saved it, or remove "
                f"{self.folder.parent}; {self._cost(settings)}"
            )
        own = {name: getattr(settings.model, name) for name in SIZES}
        other = [name for name in SIZES if self.sizes[name] != own[name]]
        if not other:
            return None
        saved = _list(f"{name} {self.sizes[name]}" for name in other)
        back = _list(f"model.{name} = {self.sizes[name]}" for name in other)
        return (
            f"{self.folder}: the saved model has {saved}, this configuration "
            f"{_list(str(own[name]) for name in other)}: set {back} to go on with it, or remove "
            f"{self.folder.parent}; {self._cost(settings)}"
        )

    def changes(self, settings: Settings) -> str:
        """What changes in the model; empty if nothing does."""
        new = [name for name in settings.relations if name not in self.relations]
        gone = [name for name in self.relations if name not in settings.relations]
        parts = [f"{_list(new)} {'is' if len(new) == 1 else 'are'} new and untrained"] if new else []
        parts += [f"{_list(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []
        return ", ".join(parts)

    def _cost(self, settings: Settings) -> str:
        """The time that training a new model takes, which the window bounds: no model learns older events."""
        longest_ms = max((r.span_ms for r in window_relations(settings)), default=settings.window.span.ms)
        every = settings.fit.every
        every_ms = min(longest_ms // SHARE, MOST_MS) if every == "auto" else every.ms  # at a steady rate
        fits = max(1, min(self.model_version, math.ceil(longest_ms / every_ms)))
        return (
            "a new model then starts from nothing with a fit soon after the window is full, Redis serves "
            "what it has until then, and the new model has had as many fits as this one "
            f"({fits} within the longest span) after about {_about(fits * every_ms)}"
        )


def newest(data_dir: Path) -> SavedModel | None:
    """The newest saved model that can be read; None if there is none."""
    root = trainer_folder(data_dir)
    for number in reversed(checkpoint.numbers(root)):
        try:
            return SavedModel.of(checkpoint.opened(root / str(number)))
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # the worker logs a damaged one when it takes the one before
    return None


def check(settings: Settings) -> None:
    """Refuse a configuration that cannot go on with the saved model.

    Raises:
        OtherModelError: If the saved model has other sizes.
    """
    saved = newest(settings.data_dir)
    if saved is not None and (refusal := saved.refusal(settings)) is not None:
        raise OtherModelError(refusal)


def trainer_folder(data_dir: Path) -> Path:
    """The folder of the trainer's checkpoints."""
    return data_dir / "trainer"


def _heads_of(found: Checkpoint) -> int:
    with safe_open(found.folder / "trainer.safetensors", framework="np") as tensors:
        heads: int = tensors.get_slice("network.layers.0.0.attend_target_RHC").get_shape()[1]
    return heads


def _list(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _about(ms: int) -> str:
    """A duration in the nearest usual unit."""
    if ms >= 2 * DAY_MS:
        return f"{round(ms / DAY_MS)} days"
    if ms >= 2 * HOUR_MS:
        return f"{round(ms / HOUR_MS)} hours"
    return str(Duration(ms))
