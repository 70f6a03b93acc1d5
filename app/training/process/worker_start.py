"""The worker as its last checkpoint left it: how a worker's process begins, and a fit without an updater.

data_dir/trainer, the window, Redis ──► [attached, worker_of] ──► Worker ──► loop
"""

from __future__ import annotations

import logging
from pathlib import Path

from driftgraph.app.config.attribute_tables import attributes_view
from driftgraph.app.config.builders import delisted_file, list_lengths, trainer_options
from driftgraph.app.config.saved_model import OtherModelError, SavedModel, trainer_folder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.training import following, trainer_state
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.device import device_of
from driftgraph.app.training.tracing import tracing_of
from driftgraph.app.training.worker_status import WorkerStatus, progress_of_worker
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.heterograph import HeterographView

log = logging.getLogger(__name__)


def attached(settings: Settings, window_dir: Path, store: GenerationStore) -> Worker:
    """The worker beside the updater that writes this window."""
    graph = HeterographView.attach(window_dir)
    return worker_of(settings, graph, attributes_view(settings, graph, window_dir), store)


def worker_of(
    settings: Settings,
    graph: HeterographView,
    attributes: AttributesView | None,
    store: GenerationStore,
    progress: Progress | None = None,
) -> Worker:
    """The worker as its last checkpoint left it that the window has come to.

    After a crash of the whole machine the window may be behind the newest one, which then is of a future that
    will be another: the one before is used. A window that was filled anew has come to none: the newest one is
    used, and all that is in the window counts as trained on.

    Raises:
        OtherModelError: The checkpoint does not fit the configuration.
    """
    relations = graph.edges.relations
    trainer = Trainer(
        [r.name for r in relations],
        [r.span_ms for r in relations],
        trainer_options(settings, device=device_of(settings.model.device)),
        attributes,
    )
    root = trainer_folder(settings.data_dir)
    clock = SystemClock()
    shown = progress or progress_of_worker(clock, is_json=settings.log.format == "json")
    path = settings.data_dir / "status" / "worker.json"
    status = WorkerStatus(path, clock, shown, tracing_of(settings))
    worker = Worker(graph, trainer, store, checkpoints=root, status=status, lengths=list_lengths(settings))
    worker.topic = settings.kafka.topic
    if store is not None:
        store.delisting.keep_in(delisted_file(settings))
    view = graph.window
    found, damaged = checkpoint.latest(root, lambda one: trainer_state.cut_of(one, view) is not None)
    if found is None:
        found, damaged = checkpoint.latest(root)
    for damage in damaged:
        log.error("checkpoint %s is damaged (%s); an older one is used", damage.path, damage.reason)
    if found is not None:
        saved = SavedModel.of(found)
        if (refusal := saved.refusal(settings)) is not None:
            raise OtherModelError(refusal)
        moment = graph.moment()
        try:
            following.load(worker, found, moment)
        except ValueError as error:
            raise OtherModelError(f"{root / str(found.number)}: {error}; to do so, remove {root}") from error
        changes = saved.changes(settings)
        log.info("model version %d goes on%s", trainer.model_version, f": {changes}" if changes else "")
    worker.go_on()
    return worker
