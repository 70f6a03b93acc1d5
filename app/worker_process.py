"""The GPU worker's own process: wait until a fit is due, run a cycle, refresh in between.

graph in shared memory ──► [main] ──► Worker.cycle, Worker.refresh ──► Redis
"""

from __future__ import annotations

import logging
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

from driftgraph.app import trainer_state
from driftgraph.app.config import Settings
from driftgraph.app.errors import DriftgraphError
from driftgraph.app.publish import GenerationStore, read_epoch
from driftgraph.app.redis_schema import NotCurrentError, StaleWorkerError, StoreError, connect
from driftgraph.app.worker import Worker, device_of
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots import checkpoint
from driftgraph.stream.heterograph import HeterographView, Moment
from driftgraph.stream.window import StaleCut

LOOK_EVERY_S = 0.2  # an event waits at most this long for its refresh to begin
PUBLISH_PAUSES_S = (1, 2, 5, 10, 30)  # before the n-th try while Redis does not take a generation

log = logging.getLogger(__name__)


def main(settings: Settings, window_dir: Path, stop: Event, parent: int) -> None:
    """Train and publish until ``stop`` is set or the updater is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the updater tells us
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker: %(message)s")
    try:
        worker = _worker(settings, window_dir)
        _Loop(settings, worker).run(stop, parent)
    except DriftgraphError as error:
        log.error("%s", error)
        raise SystemExit(1) from None


class _Loop:
    """When to do what.

    Always true: a fit is due when event time has passed a multiple of ``fit.every`` since the last one, or
    ``fit.events`` events have come; a generation that Redis did not take is tried again until it does.
    """

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        self.worker = worker
        self._failures = 0
        self._wait_s = 0.0

    def run(self, stop: Event, parent: int) -> None:
        """Look around every ``LOOK_EVERY_S``."""
        while not stop.wait(LOOK_EVERY_S) and os.getppid() == parent:
            moment = self.worker.graph.moment()
            try:
                self._step(moment)
            except StaleCut:
                continue  # the ring moved on while we worked; the next moment is a newer one
            except StaleWorkerError:
                raise
            except StoreError as error:
                pause_s = PUBLISH_PAUSES_S[min(self._failures, len(PUBLISH_PAUSES_S) - 1)]
                self._failures += 1
                log.warning("%s; trying again in %d s", error, pause_s)
                stop.wait(pause_s)

    def _step(self, moment: Moment) -> None:
        worker = self.worker
        if self._is_due(moment):
            report, _ = worker.cycle(moment)
            log.info("generation %d, Recall@20 %s", report.number, report.evaluation.metrics.get("model"))
        elif worker.trainer.generation and not worker.published:
            worker.publish(moment)
        else:
            try:
                worker.refresh(moment)
            except NotCurrentError:  # somebody rolled back: what is served is not ours to refresh
                worker.published = 0 if worker.trainer.generation == 0 else worker.published
                return
        self._failures = 0

    def _is_due(self, moment: Moment) -> bool:
        now, then, fit = moment.cut, self.worker.since, self.settings.fit
        new = sum(now.next) - sum(then.next)
        if new == 0 or now.watermark_ms == 0:
            return False
        if fit.events is not None and new >= fit.events:
            return True
        return now.watermark_ms // fit.every.ms > then.watermark_ms // fit.every.ms


def _worker(settings: Settings, window_dir: Path) -> Worker:
    """The worker as its last checkpoint left it."""
    graph = HeterographView.attach(window_dir)
    relations = graph.window.relations
    trainer = Trainer(
        [r.name for r in relations],
        [r.span_ms for r in relations],
        settings.trainer_options(device=device_of(settings.model.device)),
    )
    client = connect(settings.redis.address())
    namespace = settings.redis.namespace
    store = GenerationStore(
        client,
        namespace=namespace,
        epoch=read_epoch(client, namespace) + 1,
        keep=settings.redis.keep,
        ttl_s=settings.redis.ttl.ms // 1000,
    )
    store.clean_up()
    root = settings.data_dir / "trainer"
    worker = Worker(graph, trainer, store, checkpoints=root)
    found, damaged = checkpoint.latest(root)
    for damage in damaged:
        log.error("checkpoint %s is damaged (%s); an older one is used", damage.path, damage.reason)
    if found is not None:
        moment = graph.moment()
        trainer_state.restore(trainer, found, graph, moment)
        worker.since = moment.cut
        log.info("generation %d goes on", trainer.generation)
    return worker
