"""A worker's process that starts, publishes, trains, and dies by SIGKILL at a named point of its cycle."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from driftgraph.app.commands import retrain
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.training import cycle, trainer_state
from driftgraph.app.training.process import loop, worker_start
from driftgraph.model import trainer
from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.trending import TrendingLists
from driftgraph.stream import disk
from driftgraph.stream.ingest.fit_schedule import Mark, Marks
from driftgraph.stream.window.heterograph import HeterographView, Moment

Patch = Callable[[Any, str, Callable[..., Any]], None]


class _Death:
    """Kills this process before or after the n-th call of a function that ``counts``, while ``armed``."""

    def __init__(
        self,
        owner: Any,
        name: str,
        nth: int = 1,
        *,
        after: bool = False,
        counts: Callable[[tuple[Any, ...]], bool] = lambda _: True,
    ) -> None:
        self.armed = False
        function, left = getattr(owner, name), nth

        def mortal(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= self.armed and counts(args)
            if not left and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*args, **named)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, mortal)


def _is_saved(args: tuple[Any, ...]) -> bool:
    """Whether a file or folder is of the trainer's state: the status file is written in the same way."""
    return "trainer" in args[0].parts


def _is_switch(args: tuple[Any, ...]) -> bool:
    """Whether a script is the one that makes a generation the served one."""
    return args[1] is scripts.SWITCH


def _is_trend(args: tuple[Any, ...]) -> bool:
    """Whether a script is the one that writes a list of rising items."""
    return args[1] is scripts.TRENDING


# In the order of Worker.cycle: what was done last | what comes next.
POINTS: Final[dict[str, Callable[[], _Death]]] = {
    "evaluate | fit": lambda: _Death(trainer.Trainer, "fit"),
    "fit | gate": lambda: _Death(trainer, "judge"),
    "gate | save": lambda: _Death(trainer_state, "save"),
    "save: two files | the third": lambda: _Death(disk, "write_synced", 3, counts=_is_saved),
    "save: rename | fsync of the folder": lambda: _Death(disk, "replace", after=True, counts=_is_saved),
    "save | publish": lambda: _Death(GenerationStore, "publish"),
    "publish: users | items": lambda: _Death(GenerationStore, "_write", after=True),
    "publish: verify | switch": lambda: _Death(Scripts, "run_or_refuse", counts=_is_switch),
    "publish: switch | tidy": lambda: _Death(Scripts, "run_or_refuse", after=True, counts=_is_switch),
    "publish | trends": lambda: _Death(TrendingLists, "replace"),
    "trends: the first | the second": lambda: _Death(Scripts, "run", after=True, counts=_is_trend),
    "trends | the next look": lambda: _Death(cycle.Worker, "cycle", after=True),
}


def worker_started(settings: Settings, window_dir: Path, epoch: int) -> cycle.Worker:
    """As the loop starts one, on one thread so that the same fit gives the same bits."""
    torch.set_num_threads(1)
    store = GenerationStore(
        connect(settings.redis.address()), namespace=settings.redis.namespace, epoch=epoch
    )
    store.clean_up()
    return worker_start.attached(settings, window_dir, store)


def marked(graph: HeterographView) -> Marks:
    """A mark where the graph is now."""
    return Marks(regular=Mark(graph.window.cut(), graph.owners(), is_early=False))


def steps(settings: Settings, worker: cycle.Worker, count: int) -> None:
    """Look around so many times."""
    for _ in range(count):
        loop._Loop(settings, worker, lambda: marked(worker.graph))._step(worker.graph.moment())


def run(settings: Settings, window_dir: Path, point: str) -> None:
    """Start, publish what was saved, then make a cycle and die in it at ``point``."""
    death = POINTS[point]()
    worker = worker_started(settings, window_dir, epoch=1)
    if not worker.is_rolled_back:
        steps(settings, worker, 1)
    death.armed = True
    steps(settings, worker, 1)


def retrain_and_die(settings: Settings, point: str) -> None:
    """``driftgraph retrain`` without an updater, which dies in the cycle at ``point``."""
    torch.set_num_threads(1)
    death = POINTS[point]()
    publish = loop._Loop._publish

    def armed_then(own: loop._Loop, moment: Moment) -> bool:
        found = publish(own, moment)
        death.armed = True
        return found

    loop._Loop._publish = armed_then  # type: ignore[assignment, method-assign]
    retrain.retrain(settings, full=False, progress=NoProgress())
