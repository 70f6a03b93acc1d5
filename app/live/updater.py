"""The ingest loop: poll, apply, let event time pass, write the status.

    source ──► [Updater.run] ──► Ingest ──► graph in shared memory
                    └─ checkpoints, worker, status file

It only polls, decodes and appends: a fit of minutes or a Redis that is away never delays it.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from driftgraph.app.config.saved_model import trainer_folder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.status_files import beat, write_json
from driftgraph.app.console.status_text import deduplication_of, first_fit_of
from driftgraph.app.live import start_status
from driftgraph.app.live.attribute_feed import AttributeFeed
from driftgraph.app.live.backpressure import Backpressure
from driftgraph.app.live.checkpoint_timer import CheckpointTimer
from driftgraph.app.live.ingest_status import ingest_status
from driftgraph.app.live.reload import Reload
from driftgraph.app.live.supervisor import Supervisor
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.window import Snapshot
from driftgraph.snapshots.erasures import DurableErasures
from driftgraph.snapshots.generations.lease import Lease
from driftgraph.stream.dead_letters.outgoing import Outbox
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.events import Decoded
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.ingest.lateness import warnings_of
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.waiting import WaitingSource
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock

POLL_S = 0.02  # an event waits at most this long for others to share its batch
STATUS_EVERY_MS = 1_000
WARN_EVENTS_MIN = 1_000  # before a warning in the log, which cannot be taken back as in the status

log = logging.getLogger(__name__)


class Updater:
    """The ingest loop.

    Always true: nothing here waits for a fit, for Redis, for a dead letter or for more than ``POLL_S``;
    memory is bounded by the window, one batch, and the limits of the dead letters and requests to erase that
    wait.
    """

    def __init__(
        self,
        settings: Settings,
        source: KafkaSource | WaitingSource,
        ingest: Ingest,
        letters: Outbox,
        erasures: DurableErasures,
        checkpoints: CheckpointTimer,
        lease: Lease,
        worker: Supervisor,
        clock: Clock,
        progress: Progress,
        feed: AttributeFeed | None = None,
        reload: Reload | None = None,
    ) -> None:
        self.source = source
        self.feed = feed
        self._reload = reload
        self.ingest = ingest
        self.letters = letters
        self.erasures = erasures
        self.backpressure = Backpressure(source, [letters.queue, erasures.queue])
        self.checkpoints = checkpoints
        self.lease = lease
        self.worker = worker
        self.clock = clock
        self.progress = progress
        self._data_dir = settings.data_dir
        self._is_new = True  # until its first status is written
        self._status_path = settings.data_dir / "status" / "updater.json"
        self._trainer_folder = trainer_folder(settings.data_dir)
        self._has_model = False  # once it is seen on disk
        self._alignment_ms = settings.time.alignment.ms
        self._polled_ms = self._started_ms = clock.now_ms()
        self._poll_gap_max_ms = 0  # the longest time between two polls since the status was last written
        self._ends: dict[str, int] | None = None  # where the topic ended at the start, once it is known
        self._full = False
        self._told_tombstones = False
        self._outage = OutageLog(log.warning)
        self._disk = OutageLog(log.warning)
        self._was_short = False
        self._shown_ms = 0
        self._held_count = 0  # partitions that wait for others
        self._warned = False

    def warnings(self) -> list[str]:
        """Warnings about the run so far."""
        return [*warnings_of(self.ingest), *([] if self.feed is None else self.feed.warnings())]

    def run(self, stop: threading.Event) -> None:
        """Poll, apply, let time pass; until ``stop``."""
        try:
            self._loop(stop)
        except DriftgraphError as error:
            self._write_status("failed", why=str(error))
            raise
        self._commit(self.checkpoints.finish(self._snapshot, self._lease_missing()))
        self._write_status("stopped")
        for warning in self.warnings():
            self.progress.note(f"WARNING: {warning}")

    def _loop(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.lease.check()
            if self.feed is not None:
                self.feed.take()
            decoded = self._poll()
            if decoded is None:
                break
            for _ in self.ingest.take(decoded):
                pass  # the newest marks are told below
            self.backpressure.apply()
            held = self.ingest.watermark.align(self._alignment_ms, self.source.behind)
            self._held_count = len(held)
            self.source.hold(held)
            away = self.source.away or self.backpressure.paused  # a paused partition is not silent
            self.ingest.pass_time(
                self.ingest.watermark.tick(
                    away=away, caught_up=self.source.caught_up, behind=self.source.behind
                )
            )
            self._tell_away()
            self._tell_tombstones()
            if not self._full:
                self._fill(decoded.read_count)
            elif not stop.is_set():
                self.worker.tell(self.ingest.marks)
                self.worker.tend()
            self._housekeeping()

    def _poll(self) -> Decoded | None:
        now_ms = self.clock.now_ms()
        self._poll_gap_max_ms = max(self._poll_gap_max_ms, now_ms - self._polled_ms)
        self._polled_ms = now_ms
        return self.source.next_batch(POLL_S)

    def _fill(self, read_count: int) -> None:
        """Show the progress of the start. It is over when all events that the topic had then are applied."""
        position = self.source.position()
        if self._ends is None:
            lag = self.source.lag()
            if len(lag) < len(position) and not self.source.caught_up:
                return  # the broker tells an end with its first answer for a partition
            self._ends = {part: offset + lag.get(part, 0) for part, offset in position.items()}
            read = self.ingest.counts.read
            self.progress.start("filling the window", total=read + sum(lag.values()))
            self.progress.advance(read)
        else:
            self.progress.advance(read_count)
        if self.feed is not None and not self.feed.is_full:
            return
        if self.source.caught_up or all(position.get(part, end) >= end for part, end in self._ends.items()):
            self._full = True
            self.progress.note(self._said("the window is full"))
            if waiting := self._first_fit():
                self.progress.note(f"there is no model yet: its first fit is {first_fit_of(waiting)}")
            self.progress.close()

    def _tell_away(self) -> None:
        """Log when Kafka goes away, each minute while it is away, and when it is back."""
        if self._kafka_away:
            self._outage.missing(f"Kafka is away: event time stands still ({self.source.why_away})")
        else:
            self._outage.over("Kafka is back")

    @property
    def _kafka_away(self) -> bool:
        """Whether Kafka is away; a ``WaitingSource`` is also away while a schema registry is."""
        return self.source.kafka_away if isinstance(self.source, WaitingSource) else self.source.away

    def _tell_tombstones(self) -> None:
        """Log once that records without a value are left out."""
        if self.ingest.counts.tombstones and not self._told_tombstones:
            self._told_tombstones = True
            log.warning(
                "records without a value are ignored, since the keys of the topic are not known to be users; "
                'if they are, set events.tombstones = "erase"'
            )

    def _tell_short(self) -> None:
        """Log once when event ids are forgotten too early, and once when that is over."""
        status = self.ingest.dedupe.status()
        if status["short"] != self._was_short:
            self._was_short = bool(status["short"])
            log.warning(
                "%s", deduplication_of(status) if self._was_short else "event ids are remembered as promised"
            )

    def _housekeeping(self) -> None:
        self._commit(self.checkpoints.tend(self._snapshot, self._lease_missing()))
        reloaded = self._reload is not None and self._reload.tend()
        now_ms = self.clock.now_ms()
        if reloaded or now_ms - self._shown_ms >= STATUS_EVERY_MS:
            self._shown_ms = now_ms
            self._tell_short()
            trouble = self.worker.trouble
            state = "degraded" if trouble else "running" if self._full else "filling"
            self._write_status(state, trouble)
            self._warn()

    def _warn(self) -> None:
        """Log a warning once, when there are enough events for it."""
        if not self._warned and self.ingest.counts.read >= WARN_EVENTS_MIN:
            for warning in self.warnings():
                self._warned = True
                log.warning("%s", warning)

    def _lease_missing(self) -> str | None:
        """Why no checkpoint may be begun: the lease is not held. None while it is held."""
        if self.lease.held:
            return None
        return f"the lease in Redis is not confirmed ({self.lease.status().get('failure') or 'it ran out'})"

    def _commit(self, position: Position | None) -> None:
        """Commit the position of a checkpoint for lag tools. driftgraph never reads it."""
        if position is not None:
            self.source.commit(position)
            if self.feed is not None:
                self.feed.commit(position)

    def _first_fit(self) -> dict[str, Any] | None:
        """What the first fit waits for, and whether a mark has been passed; None once there is a model."""
        self._has_model = self._has_model or bool(checkpoint.numbers(self._trainer_folder))
        if self._has_model:
            return None
        waits = self.ingest.schedule.first_fit()
        is_marked = self.ingest.marks.newest(has_model=False) is not None
        return {kind: one and one._asdict() for kind, one in waits._asdict().items()} | {"marked": is_marked}

    def _snapshot(self) -> Snapshot:
        position, topic_ids, said_by = (
            self.ingest.position or self.source.position(),
            self.source.topic_ids,
            {},
        )
        if self.feed is not None:
            position = {**position, **self.feed.position}
            topic_ids, said_by = {**topic_ids, **self.feed.topic_ids}, self.feed.said_by
        return Snapshot(
            self.ingest.graph.moment(),
            position,
            self.ingest.watermark.state(),
            self.ingest.dedupe.sets(),
            topic_ids,
            self.ingest.schedule.counted,
            self.ingest.marks,
            None if self.ingest.attributes is None else self.ingest.attributes.kept(),
            said_by,
            self.ingest.graph.kept_rows(),
        )

    def _write_status(self, state: str, why: str | None = None) -> None:
        status: dict[str, Any] = {
            "pid": os.getpid(),
            "state": state,
            "why": why,
            "kafka_away": self._kafka_away,
            "time_ms": self.clock.now_ms(),
            "poll_gap_max_ms": self._poll_gap_max_ms,
            **ingest_status(self.ingest, self.source),
            "warnings": self.warnings(),
            "dead_letters": self.letters.status(),
            "reading_paused": self.backpressure.paused,
            "held_partitions": self._held_count,
            "lease": self.lease.status(),
            "checkpoint": self.checkpoints.status(),
            "erasures": self.erasures.status(),
            "worker": self.worker.status(),
            "first_fit": self._first_fit(),
            "attributes": None if self.feed is None else self.feed.status(),
            "reload": None if self._reload is None else self._reload.status(),
        }
        try:
            write_json(self._status_path, status)
        except OSError as error:  # the disk is full: ingestion goes on, and /livez sees it by the time
            self._disk.missing(f"{self._status_path} cannot be written: {error.strerror or error}")
            beat(self._status_path, self.clock.now_ms())
        else:
            self._disk.over("the status is written again")
            if self._is_new:
                start_status.over(self._data_dir)
                self._is_new = False
        self._poll_gap_max_ms = 0

    def _said(self, what: str) -> str:
        seconds = (self.clock.now_ms() - self._started_ms) / 1000
        counts = self.ingest.counts
        return (
            f"{what}: {counts.applied:,} events applied in {seconds:.1f} s, "
            f"{counts.late:,} late, {counts.rejected:,} rejected"
        )
