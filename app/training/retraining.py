"""A fit that somebody asks for: ``driftgraph retrain`` asks the worker of a running updater through files.

    retrain ──► [Requests.ask] ──► data_dir/retrain/request.json ──► the worker's loop ──► a cycle
       └──────◄── [Requests.answered] ◄── answer.json ◄── [Requests.answer] ◄──┘

The answer is in the trainer's saved state, too: a worker that dies between the save and the publish publishes
what was saved when it starts again, and answers without a second fit.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from driftgraph.model.fitting.fit_report import FitReport
from driftgraph.snapshots.checkpoints.checkpoint import CheckpointError
from driftgraph.stream import disk
from driftgraph.stream.errors import DriftgraphError

FOLDER: Final = "retrain"  # in data_dir


class RetrainError(DriftgraphError):
    """A fit cannot be asked for. The message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which fit is wanted: a full one draws the items towards the closed form first."""

    id: str
    full: bool

    @classmethod
    def new(cls, *, full: bool) -> Self:
        """One that no other is equal to."""
        return cls(secrets.token_hex(8), full)


@dataclass(frozen=True, slots=True)
class Answer:
    """How the fit of a request ended; what is served after it, 0 for no model and no generation."""

    id: str
    outcome: Literal["published", "rejected", "nothing new", "held"]
    reason: str  # of the gate, or who holds what is served; empty for the others
    new_examples: int
    model_version: int = 0
    generation: int = 0

    @classmethod
    def of(cls, asked: Request, fit: FitReport) -> Self:
        """Of a fit that was made. What it published comes later."""
        if fit.code == "no_events":
            return cls.nothing(asked)
        return cls(asked.id, "published" if fit.accepted else "rejected", fit.reason, fit.new_examples)

    @classmethod
    def nothing(cls, asked: Request) -> Self:
        """No event has come since the last fit."""
        return cls(asked.id, "nothing new", "", 0)

    @classmethod
    def held(cls, asked: Request, by: str, model_version: int) -> Self:
        """Publishing is held, so no fit is made."""
        return cls(
            asked.id, "held", f"{by} holds what is served: driftgraph promote ends the hold", 0, model_version
        )

    def json(self) -> str:
        """For ``read``."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: object) -> Self | None:
        """What ``json`` wrote; None of anything else."""
        try:
            return msgspec.json.decode(str(text), type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None


class Requests:
    """The request that waits in a data_dir, and its answer. There is one at a time: see ``ask``."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._request, self._answer = self._folder / "request.json", self._folder / "answer.json"

    def waiting(self) -> Request | None:
        """The request that a worker should answer."""
        try:
            return msgspec.json.decode(self._request.read_bytes(), type=Request)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:  # nobody can have meant it
            self._request.unlink(missing_ok=True)
            return None

    def answer(self, answer: Answer) -> None:
        """Write it, and only then remove the request.

        Raises:
            CheckpointError: The disk does not take it. The worker tries again, and makes no second fit.
        """
        try:
            disk.write_whole(self._answer, answer.json().encode(), synced=False)
            self._request.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot write {self._answer}: {error.strerror or error}") from error

    @contextmanager
    def ask(self, request: Request) -> Iterator[None]:
        """Let the request stand until the end of the ``with`` block.

        Raises:
            RetrainError: Another process asks already.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a+") as file:
            try:
                held = disk.lock(file.fileno(), self._folder / "lock")
            except BlockingIOError:
                raise RetrainError(
                    f"another retrain is at work in {self._folder.parent}: wait until it has ended"
                ) from None
            try:
                self._answer.unlink(missing_ok=True)
                disk.write_whole(self._request, msgspec.json.encode(request), synced=False)
                yield
            finally:
                with suppress(FileNotFoundError):
                    if (standing := self.waiting()) is not None and standing.id == request.id:
                        self._request.unlink()
                self._answer.unlink(missing_ok=True)
                held.close()

    def answered(self, request: Request) -> Answer | None:
        """The answer to a request, once it is there."""
        with suppress(FileNotFoundError):
            found = Answer.read(self._answer.read_text())
            if found is not None and found.id == request.id:
                return found
        return None
