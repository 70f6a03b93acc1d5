"""What the worker does when an operator has put another generation into service, or holds the served one.

    driftgraph rollback, promote ──► {ns}:emb:current ──► Worker.look ──► [follow] ──► Worker.go_on
                                                              data_dir/trainer ──┘ the state of its model

The worker loads the state that made the generation, and saves it as its newest. So a refresh goes on with
that model, the next fit starts from it, and a start after a crash finds it. A crash before that save leaves
the newest state as it was, which does not follow the act yet, so the start follows it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from driftgraph.app.console.output import time_of
from driftgraph.app.console.status_text import named
from driftgraph.app.training import trainer_state
from driftgraph.app.training.kept_states import KeptStates
from driftgraph.app.training.retraining import Answer
from driftgraph.app.training.trainer_state import Facts
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.snapshots.generations.choice import Choice
from driftgraph.snapshots.generations.keys import HeldError
from driftgraph.snapshots.generations.retention import Generation
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import Cut

log = logging.getLogger(__name__)


class Follower(Protocol):
    """What a ``Worker`` has that an operator's act changes; cycle.py says what each means."""

    graph: HeterographView
    trainer: Trainer
    store: GenerationStore | None
    states: KeptStates | None
    status: WorkerStatus
    published: int
    since: Cut
    seen: Cut
    unsaved: Moment | None
    evaluated: Facts
    trained_to_ms: int
    model_hash: str
    answered: Answer | None
    choice: Choice
    follows: Choice


def load(worker: Follower, found: Checkpoint, moment: Moment) -> None:
    """Continue from a saved state, in a worker that has just started or that follows an operator.

    Events are trained on from where the state was trained up to. If the window does not know that place, as
    one that was filled anew, all that is in it counts as trained on.

    Raises:
        ValueError: The state is of another model than the configured one.
    """
    trainer_state.restore(worker.trainer, found, worker.graph, moment)
    view = worker.graph.window
    worker.since = trainer_state.cut_of(found, view) or moment.cut
    worker.seen = trainer_state.seen_of(found, view) or worker.since
    worker.evaluated = trainer_state.evaluated(found)
    worker.trained_to_ms = int(found.facts["trained_to_ms"])
    worker.model_hash = str(found.facts["model_hash"])
    worker.answered = worker.answered or Answer.read(found.facts.get("answered"))
    worker.follows = choice_in(found.facts)


def is_held(worker: Follower) -> bool:
    """Whether an operator holds what is served, so that no fit is to be made."""
    return max(worker.choice, worker.follows, key=Choice.number).is_held


def adopt(worker: Follower) -> None:
    """Let what a replay publishes follow what an operator did before: a replay is an act of its own.

    Raises:
        HeldError: An operator holds what is served.
        StoreError: Redis does not answer.
    """
    if worker.store is None:
        return
    worker.follows = worker.choice = worker.store.choices.newest()
    if is_held(worker):
        raise HeldError(
            f"{worker.choice.said()} holds generation {worker.choice.served}, so nothing is published: "
            "driftgraph promote ends the hold, or set another redis.namespace"
        )


def choice_in(facts: Mapping[str, str | int | float]) -> Choice:
    """The act that a saved state follows."""
    act_ms, held = int(facts.get("choice_ms", 0)), bool(facts.get("held", 0))
    return Choice(act_ms, str(facts.get("chosen_by", "")), held)


def facts_of(choice: Choice) -> dict[str, str | int]:
    """For ``choice_in``, in the facts of a state."""
    return {"choice_ms": choice.act_ms, "chosen_by": choice.by, "held": int(choice.is_held)}


def follow(worker: Follower, choice: Choice, served: Generation | None, moment: Moment) -> bool:
    """Come to the model of the generation that an operator wants served; whether the worker is there.

    If it is not, the state is missing, as on a machine that never had it: what Redis serves stays as it is,
    nothing is refreshed, and the next fit goes on from the worker's own model.

    The fit after it is at the first mark from now on, and has all events since the state was saved, as far as
    the window still has them. Its evaluation has those from now on.

    Raises:
        StoreError: Redis does not answer.
    """
    if served is not None and served.number != worker.published:
        wanted = str(served.manifest.get("model_hash", ""))
        is_model = served.manifest.get("made_by") == "model"
        if not is_model or wanted != worker.model_hash:
            found = worker.states.of(wanted) if worker.states is not None and is_model else None
            reason = _load(worker, found, moment)
            if reason is not None:
                _tell(worker, choice, served, reason)
                return False
        log.warning(
            "%s has put generation %d into service: refresh and the next fit go on from model version %d",
            choice.said(),
            served.number,
            worker.trainer.model_version,
        )
        worker.published, worker.unsaved = 0, moment
    elif worker.trainer.model_version and worker.states is not None:
        worker.unsaved = worker.unsaved or moment  # with the act that it follows
    worker.follows = choice
    worker.status.chosen(said(choice, None))
    return True


def _load(worker: Follower, found: Checkpoint | None, moment: Moment) -> str | None:
    """Load a state; why it cannot be, None if it is."""
    if found is None:
        return "the state of its model is not in data_dir/trainer"
    try:
        load(worker, found, moment)
    except ValueError as error:
        return f"the state {found.folder} does not fit the configuration ({error})"
    worker.seen = moment.cut
    return None


def _tell(worker: Follower, choice: Choice, served: Generation, reason: str) -> None:
    """Say once that nothing can be done until the next fit."""
    text = said(choice, reason)
    if worker.status.chosen(text):
        name = named(served.number, int(served.manifest.get("model_version", 0)))
        log.warning("an operator rolled back to %s or promoted it: %s", name, text)


def said(choice: Choice, missing: str | None) -> str | None:
    """One sentence about the newest act, for the status; None if there was none.

    ``missing`` says why the worker cannot go on with the generation.
    """
    if not choice.act_ms:
        return None
    parts = [f"{choice.said()} chose generation {choice.served} at {time_of(choice.act_ms)}"]
    if missing is not None:
        until = "a promote without --hold and the next fit" if choice.is_held else "the next fit"
        parts.append(f"{missing}, so nothing is refreshed until {until}")
    if choice.is_held:
        parts.append("no fit is made and nothing else is published until driftgraph promote ends the hold")
    return "; ".join(parts)
