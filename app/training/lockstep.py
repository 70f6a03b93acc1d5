"""Ingestion and training in one process, taking turns: what a replay and the demo are made of.

    source ──► [Lockstep.take] ──► Ingest ──► a mark ──► Worker.cycle ──► on with the next event

A fit sees exactly the events before the one that made it due, so the same events give the same window and,
on a CPU, the same model bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from driftgraph.app.config.attribute_tables import attributes_of, fill_from_files
from driftgraph.app.config.builders import fit_schedule, list_lengths, trainer_options
from driftgraph.app.config.settings import Settings
from driftgraph.app.training import following
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.device import device_of, use_threads
from driftgraph.app.training.generation_report import GenerationReport
from driftgraph.app.training.prediction_rows import PredictionRows
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.dead_letters.letters import DeadLetters
from driftgraph.stream.events import Decoded
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erasures import MemoryErasures
from driftgraph.stream.ingest.fit_schedule import Mark
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

OnCycle = Callable[[GenerationReport, PredictionRows | None], None]


class Lockstep:
    """One graph, one trainer, one store.

    Always true between calls: every event taken is in the graph or counted with the reason why not;
    ``reports`` has one entry for each fit that was due.
    """

    def __init__(
        self,
        settings: Settings,
        relations: tuple[Relation, ...],
        clock: Clock,
        *,
        dead_letters: DeadLetters,
        store: GenerationStore | None,
        window_dir: Path | None = None,
        on_cycle: OnCycle | None = None,
        erasures: MemoryErasures | None = None,
        status: WorkerStatus | None = None,
    ) -> None:
        use_threads()
        rows = settings.window
        self.graph = Heterograph.create(
            window_dir, relations, user_rows=rows.user_rows, item_rows=rows.item_rows
        )
        # Event time comes from the events alone: no wall clock, so no idleness and no ceiling.
        watermark = Watermark(
            WatermarkRules(
                out_of_orderness_ms=settings.time.out_of_orderness.ms,
                allowed_lateness_ms=settings.time.lateness.ms,
                idle_timeout_ms=None,
                future_skew_ms=None,
            ),
            clock,
        )
        schedule = fit_schedule(settings, relations)
        self.erasures = erasures or MemoryErasures()
        own = settings.deduplication
        ids = Deduplicator(horizon_ms=own.horizon.ms, ids_max=own.ids_max)
        attributes = attributes_of(settings, self.graph, window_dir)
        self.said = fill_from_files(settings, attributes, self.erasures.users)
        self.ingest = Ingest(
            self.graph,
            watermark,
            dead_letters,
            schedule,
            erasures=self.erasures,
            dedupe=ids,
            attributes=attributes,
        )
        edges = self.graph.edges.relations
        trainer = Trainer(
            [r.name for r in edges],
            [r.span_ms for r in edges],
            trainer_options(settings, device=device_of(settings.model.device)),
            attributes,
        )
        self.worker = Worker(
            self.graph, trainer, store, checkpoints=None, lengths=list_lengths(settings), status=status
        )
        following.adopt(self.worker)
        self.reports: list[GenerationReport] = []
        self._on_cycle = on_cycle

    def take(self, decoded: Decoded) -> Iterator[Mark]:
        """Apply one read of a source; yield where a fit is due, for the caller to call ``cycle``.

        The caller must exhaust the iterator: what is behind a yield is applied when it asks for more.
        """
        for mark in self.ingest.take(decoded):
            if self.worker.wants(mark):
                yield mark
            if self.worker.trainer.model_version:
                self.ingest.schedule.first_is_made()

    def finish(self) -> None:
        """Train on what came since the last fit, so that the last generation knows every event."""
        self._erase()
        if self.graph.window.cut().next != self.worker.seen.next:
            self.cycle()
        self.ingest.dead_letters.close()

    def cycle(self) -> None:
        """Evaluate, fit and publish now."""
        self._erase()  # before it, or a user who is back would go, too
        following.adopt(self.worker)
        report, predictions = self.worker.cycle(self.graph.moment())
        self.reports.append(report)
        if self._on_cycle is not None:
            self._on_cycle(report, predictions)

    def _erase(self) -> None:
        """Users who asked since go from all generations."""
        if self.worker.store is not None and (users := self.erasures.take()):
            self.worker.store.erase(users)
