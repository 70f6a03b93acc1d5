"""The trainer's states on disk: the newest, and one for each generation that Redis keeps.

    Worker ──► [KeptStates.write] ──► data_dir/trainer/{n}/ ──► [KeptStates.of] ──► following.py

A state is found by the hash of its model, which the manifest of a generation names, too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from driftgraph.app.training import trainer_state
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.snapshots.generations.keys import StoreError
from driftgraph.snapshots.generations.store import GenerationStore

KEPT_MAX = 16  # models whose states are kept while Redis does not say which generations it has

log = logging.getLogger(__name__)


class KeptStates:
    """The folder of the states, ``data_dir/trainer``.

    Always true after ``write``: it has the newest ``checkpoint.KEEP`` states, and of each model that a kept
    generation was published by, the newest state, if this folder ever had one.
    """

    def __init__(self, root: Path, store: GenerationStore | None) -> None:
        self.root = root
        self._store = store
        self._served: set[str] | None = None  # hashes of the models of all generations, as last seen

    def __bool__(self) -> bool:
        """Whether there is a state."""
        return bool(checkpoint.numbers(self.root))

    def of(self, model_hash: str) -> Checkpoint | None:
        """The newest state of a model that verifies; None if there is none."""
        found, damaged = checkpoint.latest(
            self.root, lambda one: str(one.facts.get("model_hash")) == model_hash
        )
        for damage in damaged:
            log.error("checkpoint %s is damaged (%s)", damage.path, damage.reason)
        return found

    def write(
        self,
        files: Mapping[str, bytes],
        facts: Mapping[str, str | int | float],
        erased: Sequence[str] = (),
    ) -> None:
        """Write the newest state, and remove those that nobody needs.

        With ``erased`` users it becomes the only one of its model, and the states of other models are written
        anew without these users, each under its own number. A crash in between may lose one of those; the
        erasure is then done again, and its generation can be served but not trained on.

        Raises:
            CheckpointError: The disk refuses.
        """
        number = max([0, *checkpoint.numbers(self.root)]) + 1
        kept = self._kept(without=str(facts["model_hash"]))
        if erased:
            for one in kept:
                self._forget(one, erased, {number, *kept})
        keep = 1 if erased else checkpoint.KEEP
        checkpoint.write(self.root, number, files.items(), facts, keep=keep, also=kept)

    def _forget(self, number: int, users: Sequence[str], also: Collection[int]) -> None:
        """Write a state anew without users. One that cannot be read is left to ``checkpoint.write``."""
        try:
            changed = trainer_state.without(checkpoint.opened(self.root / str(number)), users)
        except (OSError, ValueError) as error:
            log.warning(
                "the state %s is removed, since it cannot be read: %s", self.root / str(number), error
            )
            checkpoint.remove(self.root, number)
            return
        if changed is not None:
            files, facts = changed
            checkpoint.write(self.root, number, files.items(), facts, keep=checkpoint.KEEP, also=also)

    def _kept(self, without: str) -> list[int]:
        """The newest number of each model that a generation was published by, but for one model."""
        try:
            if self._store is not None:
                found = self._store.generations()
                self._served = {str(one.manifest.get("model_hash", "")) for one in found}
        except StoreError as error:
            log.info("which generations are kept is as it was: %s", error)
        newest: dict[str, int] = {}
        for number in reversed(checkpoint.numbers(self.root)):
            try:
                one = checkpoint.opened(self.root / str(number))
            except (OSError, ValueError):
                continue
            newest.setdefault(str(one.facts.get("model_hash", "")), number)
        newest.pop(without, None)
        wanted = list(newest)[:KEPT_MAX] if self._served is None else self._served
        return [number for model_hash, number in newest.items() if model_hash in wanted]
