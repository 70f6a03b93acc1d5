"""Compares the saved model with the configuration: whether it can go on, and what changes or is lost.

    data_dir/trainer ──► [newest] ──► SavedModel ──► [check] ──► run refuses
                                           └──► doctor, config show

It reads a few kilobytes and needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from driftgraph.app.config.settings import Settings
from driftgraph.model.options import SIZES, STATE_FORMAT, network_words
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.fit_schedule import FIRST_AGAIN_MS
from driftgraph.stream.time.durations import Duration


class OtherModelError(DriftgraphError):
    """The configuration cannot go on with the saved model."""


class _Format(msgspec.Struct, frozen=True):
    """The part of ``trainer.json`` that every format has."""

    format: int


class _Meta(_Format, frozen=True):
    """The part that is read of our own format."""

    relations: list[str]
    dim: int
    layers: int
    heads: int
    model_version: int
    custom: str | None = None
    backend: str = "torch"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The sizes and relations in a checkpoint of the trainer; of another format, that format alone."""

    folder: Path
    format: int
    relations: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    model_version: int = 0
    custom: str | None = None
    backend: str = "torch"

    @classmethod
    def of(cls, found: Checkpoint) -> SavedModel:
        """Read it.

        Raises:
            OSError: If a file is missing.
            ValueError: If a file is damaged.
        """
        said = found.read("trainer.json")
        if (number := msgspec.json.decode(said, type=_Format).format) != STATE_FORMAT:
            return cls(found.folder, number)
        meta = msgspec.json.decode(said, type=_Meta)
        sizes = {name: getattr(meta, name) for name in SIZES}
        relations, own = tuple(meta.relations), (meta.custom, meta.backend)
        return cls(found.folder, number, relations, sizes, meta.model_version, *own)

    def refusal(self, settings: Settings) -> str | None:
        """Why the configuration cannot go on with the model, and what comes without it; None if it can."""
        anew = (
            f"remove {self.folder.parent}; a new model then starts from the window within "
            f"{Duration(FIRST_AGAIN_MS)} of event time, and Redis serves what it has until then"
        )
        if self.format != STATE_FORMAT:
            return (
                f"{self.folder}: the saved model has format {self.format}, this version of driftgraph reads "
                f"{STATE_FORMAT} alone: run the version that saved it, or {anew}"
            )
        if (refusal := self._other_network(settings)) is not None:
            return f"{self.folder}: {refusal}, or {anew}"
        own = {name: getattr(settings.model, name) for name in SIZES}
        other = [name for name in SIZES if self.sizes[name] != own[name]]
        if not other:
            return None
        saved = _list(f"{name} {self.sizes[name]}" for name in other)
        back = _list(f"model.{name} = {self.sizes[name]}" for name in other)
        return (
            f"{self.folder}: the saved model has {saved}, this configuration "
            f"{_list(str(own[name]) for name in other)}: set {back} to go on with it, or {anew}"
        )

    def _other_network(self, settings: Settings) -> str | None:
        """What keeps the configured network from going on, and the way back; None if nothing does."""
        saved = network_words(self.custom, self.backend)
        own = network_words(settings.model.custom, settings.model.backend)
        if saved != own:
            back = f'set model.custom = "{self.custom}" and model.backend = "{self.backend}"'
            back = "remove model.custom and model.backend" if self.custom is None else back
            return f"the saved model is of {saved}, this configuration names {own}: {back} to go on with it"
        if self.custom is not None and self.relations != tuple(settings.relations):
            then, now = _list(self.relations), _list(settings.relations or ("none",))
            return (
                f"the saved model of {saved} has the relations {then}, this configuration {now}: only a "
                "network of driftgraph's own goes on with others; change them back to go on with it"
            )
        return None

    def changes(self, settings: Settings) -> str:
        """What changes in the model; empty if nothing does."""
        new = [name for name in settings.relations if name not in self.relations]
        gone = [name for name in self.relations if name not in settings.relations]
        parts = [f"{_list(new)} {'is' if len(new) == 1 else 'are'} new and untrained"] if new else []
        parts += [f"{_list(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []
        return ", ".join(parts)


def newest(data_dir: Path) -> SavedModel | None:
    """The newest saved model that can be read; None if there is none."""
    root = trainer_folder(data_dir)
    for number in reversed(checkpoint.numbers(root)):
        try:
            return SavedModel.of(checkpoint.opened(root / str(number)))
        except (OSError, ValueError):
            continue  # the worker logs a damaged one when it takes the one before
    return None


def check(settings: Settings) -> None:
    """Refuse a configuration that cannot go on with the saved model.

    Raises:
        OtherModelError: If the saved model has another format, another network or other sizes.
    """
    saved = newest(settings.data_dir)
    if saved is not None and (refusal := saved.refusal(settings)) is not None:
        raise OtherModelError(refusal)


def trainer_folder(data_dir: Path) -> Path:
    """The folder of the trainer's checkpoints."""
    return data_dir / "trainer"


def _list(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
