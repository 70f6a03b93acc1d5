"""``driftgraph run`` with a fault built in: a script, so that the worker's process, too, is made of it.

FAULT=… python faulty_run.py run -c CONFIG

FAULT, in the environment so that the worker's process has it too, is ``no-worker`` (it trains nothing and
publishes nothing), ``long-fit`` (a fit takes 30 s), ``stuck-fit`` (the next fit makes no progress, once, and
a stage counts as stuck after 5 s), ``slow-disk`` (an fsync takes 5 s) or ``killed-before-publish`` (SIGKILL,
once, between the save of a first fit and its publish).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from driftgraph.app.config.settings import Settings
from driftgraph.app.live import supervisor
from driftgraph.snapshots.generations.lease import LeaseOwner

FAULT = os.environ["FAULT"]
FIT_S, FSYNC_S = 30.0, 5.0
KILLED, STUCK = Path("killed"), Path("stuck")
STUCK_MS = 5_000


def no_worker(settings: Settings, window_dir: Path, owner: LeaseOwner, updater: Connection) -> None:
    with suppress(EOFError, OSError):  # the updater has closed its end
        while True:
            updater.recv_bytes()  # marks


def long_fit(*_: Any, **__: Any) -> None:
    print("the fit begins", file=sys.stderr, flush=True)
    time.sleep(FIT_S)
    raise SystemExit("the fit was to be still going on")


def stuck_fit(trainer: Any, *args: Any, **named: Any) -> Any:
    if not STUCK.exists():
        STUCK.touch()
        args[3](1, 1, 9)  # the first of nine steps, and no other
        time.sleep(3_600)
    return fit(trainer, *args, **named)


def killed_publish(*args: Any, **named: Any) -> None:
    if args[4]["made_by"] == "model" and not KILLED.exists():
        KILLED.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    publish(*args, **named)


def slow_fsync(descriptor: int) -> None:
    print("an fsync begins", file=sys.stderr, flush=True)
    time.sleep(FSYNC_S)
    fsync(descriptor)


fsync = os.fsync
if FAULT == "no-worker":
    supervisor.work = no_worker
elif FAULT == "long-fit":
    from driftgraph.model.trainer import Trainer

    Trainer.fit = long_fit  # type: ignore[assignment]
elif FAULT == "stuck-fit":
    from driftgraph.app.console import troubles
    from driftgraph.model.trainer import Trainer

    fit, Trainer.fit = Trainer.fit, stuck_fit  # type: ignore[assignment]
    troubles.STUCK_MS = STUCK_MS  # type: ignore[misc]
elif FAULT == "killed-before-publish":
    from driftgraph.snapshots.generations.store import GenerationStore

    publish = GenerationStore.publish
    GenerationStore.publish = killed_publish  # type: ignore[method-assign]
elif FAULT == "slow-disk":
    supervisor.work = no_worker
    os.fsync = slow_fsync  # type: ignore[assignment]

if __name__ == "__main__":
    from driftgraph.app.cli.main import main

    main()
