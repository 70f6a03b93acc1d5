"""The ingest loop: poll, apply, let event time pass, write the status.

    source ──► [Updater.run] ──► Ingest ──► graph in shared memory
                    └─ checkpoints, worker, status file

It only polls, decodes and appends: a fit of minutes or a Redis that is away never delays it.
"""

from __future__ import annotations

import threading
from typing import Any

from driftgraph.app.config.saved_model import trainer_folder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.status_text import first_fit_of
from driftgraph.app.live.loop.backpressure import Backpressure
from driftgraph.app.live.loop.checkpoint_timer import CheckpointTimer
from driftgraph.app.live.loop.ingest_log import IngestLog
from driftgraph.app.live.loop.ingestion import Ingestion
from driftgraph.app.live.loop.status_file import StatusFile
from driftgraph.app.live.reload import Reload
from driftgraph.app.live.supervisor import Supervisor
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.lease import Lease
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Decoded
from driftgraph.stream.kafka.ends import EndsAtStart
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

POLL_S = 0.02  # an event waits at most this long for others to share its batch
STATUS_EVERY_MS = 1_000


class Updater:
    """The ingest loop.

    Always true: nothing here waits for a fit, for Redis, for a dead letter or for more than ``POLL_S``;
    memory is bounded by the window, one batch, and the limits of the dead letters and requests to erase that
    wait.
    """

    def __init__(
        self,
        settings: Settings,
        ingestion: Ingestion,
        checkpoints: CheckpointTimer,
        lease: Lease,
        worker: Supervisor,
        reload: Reload,
        *,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._ingestion = ingestion
        self._source, self._ingest, self._feed = ingestion.source, ingestion.ingest, ingestion.feed
        self._checkpoints = checkpoints
        self._lease = lease
        self._worker = worker
        self._reload = reload
        self._clock = clock
        self._progress = progress
        self._backpressure = Backpressure(ingestion.source, ingestion.outgoing)
        self._log = IngestLog(ingestion)
        self._status = StatusFile(settings.data_dir, clock)
        self._ends = EndsAtStart(ingestion.source)
        self._trainer_folder = trainer_folder(settings.data_dir)
        self._has_model = False  # once it is seen on disk
        self._alignment_ms = settings.time.alignment.ms
        self._full = False  # whether all that the topics had at the start is applied
        self._polled_ms = self._started_ms = clock.now_ms()
        self._poll_gap_max_ms = 0  # the longest time between two polls since the status was last written
        self._shown_ms = 0  # when the status was last written
        self._held_count = 0  # partitions that wait for others

    def run(self, stop: threading.Event) -> None:
        """Poll, apply, let time pass; until ``stop``."""
        try:
            self._loop(stop)
        except DriftgraphError as error:
            self._write_status("failed", why=str(error))
            raise
        self._commit(self._checkpoints.finish(self._ingestion.snapshot, self._lease_missing()))
        self._write_status("stopped")
        for warning in self._ingestion.warnings():
            self._progress.note(f"WARNING: {warning}")
        newest = self._checkpoints.status()["number"]
        goes_on = f"goes on from checkpoint {newest}" if newest else "has no checkpoint to go on from"
        self._progress.note(f"stopped; the next start {goes_on}")

    def _loop(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._lease.check()
            if self._feed is not None:
                self._feed.take()
            decoded = self._poll()
            if decoded is None:
                break
            for _ in self._ingest.take(decoded):
                pass  # the newest marks are told below
            self._backpressure.apply()
            self._pass_time()
            self._log.tell()
            if not self._full:
                self._fill(decoded.read_count)
            else:
                self._worker.tell(self._ingest.marks)
            if not stop.is_set():
                self._worker.tend()
            self._housekeeping()

    def _poll(self) -> Decoded | None:
        now_ms = self._clock.now_ms()
        self._poll_gap_max_ms = max(self._poll_gap_max_ms, now_ms - self._polled_ms)
        self._polled_ms = now_ms
        return self._source.next_batch(POLL_S)

    def _pass_time(self) -> None:
        """Hold partitions that are ahead of others, and let event time pass."""
        source, watermark = self._source, self._ingest.watermark
        held = watermark.align(self._alignment_ms, source.behind)
        self._held_count = len(held)
        source.hold(held)
        away = source.away or self._backpressure.paused  # a paused partition is not silent
        self._ingest.pass_time(watermark.tick(away=away, caught_up=source.caught_up, behind=source.behind))

    def _fill(self, read_count: int) -> None:
        """Show the progress of the start. It is over when all events that the topic had then are applied."""
        was_known = self._ends.known is not None
        are_reached = self._ends.are_reached
        if was_known:
            self._progress.advance(read_count)
        elif self._ends.known is not None:
            read = self._ingest.counts.read
            left = sum(self._ends.known.values()) - sum(self._source.position().values())
            self._progress.start("filling the window", total=read + left)
            self._progress.advance(read)
        if are_reached and (self._feed is None or self._feed.is_full):
            self._full = True
            self._progress.close()
            self._progress.note(self._said("the window is full"))
            if waiting := self._first_fit():
                self._progress.note(f"there is no model yet: its first fit is {first_fit_of(waiting)}")

    def _housekeeping(self) -> None:
        self._commit(self._checkpoints.tend(self._ingestion.snapshot, self._lease_missing()))
        reloaded = self._reload.tend()
        now_ms = self._clock.now_ms()
        if reloaded or now_ms - self._shown_ms >= STATUS_EVERY_MS:
            self._shown_ms = now_ms
            trouble = self._worker.trouble
            state = "degraded" if trouble else "running" if self._full else "filling"
            self._write_status(state, trouble)
            self._log.tell_warnings()

    def _lease_missing(self) -> str | None:
        """Why no checkpoint may be begun: the lease is not held. None while it is held."""
        if self._lease.held:
            return None
        return f"the lease in Redis is not confirmed ({self._lease.status().get('failure') or 'it ran out'})"

    def _commit(self, position: Position | None) -> None:
        if position is not None:
            self._ingestion.commit(position)

    def _first_fit(self) -> dict[str, Any] | None:
        """What the first fit waits for, and whether a mark has been passed; None once there is a model."""
        self._has_model = self._has_model or bool(checkpoint.numbers(self._trainer_folder))
        if self._has_model:
            return None
        waits = self._ingest.schedule.first_fit()
        is_marked = self._ingest.marks.newest(has_model=False) is not None
        return {kind: one and one._asdict() for kind, one in waits._asdict().items()} | {"marked": is_marked}

    def _write_status(self, state: str, why: str | None = None) -> None:
        told = {
            **self._ingestion.status(),
            "poll_gap_max_ms": self._poll_gap_max_ms,
            "reading_paused": self._backpressure.paused,
            "held_partitions": self._held_count,
            "lease": self._lease.status(),
            "checkpoint": self._checkpoints.status(),
            "worker": self._worker.status(),
            "first_fit": self._first_fit(),
            "reload": self._reload.status(),
        }
        self._status.write(state, why, told)
        self._poll_gap_max_ms = 0

    def _said(self, what: str) -> str:
        seconds = (self._clock.now_ms() - self._started_ms) / 1000
        counts = self._ingest.counts
        return (
            f"{what}: {counts.applied:,} events applied in {seconds:.1f} s, "
            f"{counts.late:,} late, {counts.rejected:,} rejected"
        )
