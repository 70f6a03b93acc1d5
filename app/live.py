"""Live: the updater, which follows the topic, and the GPU worker that it starts and watches over.

    Kafka ──► KafkaSource ──► Ingest ──► graph in shared memory ──► worker process ──► Redis

The updater only polls, decodes and appends: a fit of minutes or a Redis that is away never touches it. A
worker that dies is started again with growing pauses. A start reads the topic from the longest span ago, so
that the window is full at once, and the worker begins when it is.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from driftgraph.app import worker_process
from driftgraph.app.breaker import Breaker
from driftgraph.app.config import Settings
from driftgraph.app.errors import DriftgraphError
from driftgraph.app.event_formats import event_rules, topic_decoder
from driftgraph.app.ingest import FitSchedule, Ingest
from driftgraph.app.letter_gate import LetterGate
from driftgraph.app.letter_places import letter_place, letters_folder
from driftgraph.app.outbox import KeptLetters, Outbox
from driftgraph.app.progress import Progress
from driftgraph.app.stopping import stopping
from driftgraph.app.warm_up import warm_up
from driftgraph.stream.clock import Clock, SystemClock, Watermark, WatermarkRules
from driftgraph.stream.decode import Decoder
from driftgraph.stream.formats.mapped import Mapped
from driftgraph.stream.held_source import GIVE_UP_AFTER_S, HeldSource
from driftgraph.stream.heterograph import Heterograph
from driftgraph.stream.kafka_source import KafkaOptions, KafkaSource
from driftgraph.stream.source import Position

POLL_S = 0.1  # an event waits at most this long for others to share its batch
STATUS_EVERY_MS = 1_000
WORKER_STOPS_WITHIN_S = 6.0  # then it is killed; a publish survives that, a fit is lost
RESTART_PAUSES_MS = (0, 1_000, 5_000, 15_000, 60_000)  # before the n-th start of a worker that keeps dying
STEADY_MS = 120_000  # a worker that lived so long starts without a pause again
COMMIT_EVERY_MS = 1_000

log = logging.getLogger(__name__)


class AlreadyRunningError(DriftgraphError):
    """Another updater uses this data_dir."""


def run(settings: Settings, *, progress: Progress, clock: Clock | None = None) -> None:
    """Follow the topic until SIGTERM or SIGINT.

    Raises:
        DriftgraphError: Kafka, the data_dir or the window is not as it should be.
    """
    clock = clock or SystemClock()
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(stopping(stop))
        stack.enter_context(_without_librdkafka())
        stack.enter_context(_locked(settings.data_dir))
        decoder = topic_decoder(settings, event_rules(settings, clock))
        warm_up(settings.window_relations(), decoder, watermark_rules(settings), clock)
        source = kafka_source(_kafka_options(settings, clock), decoder, clock)
        stack.callback(source.close)
        rows = settings.window
        folder = settings.window.dir or settings.data_dir / "window"
        graph = Heterograph.create(
            folder, settings.window_relations(), user_rows=rows.user_rows, item_rows=rows.item_rows
        )
        watermark = Watermark(watermark_rules(settings), clock)
        watermark.assign(source.partitions)
        letters = Outbox(letter_place(settings), KeptLetters(letters_folder(settings)))
        stack.callback(letters.close)
        limits = settings.events
        breaker = Breaker(share_max=limits.reject_share_max, window=limits.reject_window)
        # When a fit is due is the worker's to see: here the stream is never cut.
        ingest = Ingest(graph, watermark, letters, FitSchedule(1 << 62), breaker)
        worker = WorkerProcess(settings, folder, clock)
        stack.callback(worker.stop)
        Updater(settings, source, ingest, letters, worker, clock, progress).run(stop)


class Updater:
    """The ingest loop.

    Always true: nothing here waits for a fit, for Redis, for a dead letter or for more than ``POLL_S``;
    memory is that of the window, of one batch and of the dead letters that wait, which have a limit.
    """

    def __init__(
        self,
        settings: Settings,
        source: KafkaSource | HeldSource,
        ingest: Ingest,
        letters: Outbox,
        worker: WorkerProcess,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self.source = source
        self.ingest = ingest
        self.gate = LetterGate(source, letters)
        self.worker = worker
        self.clock = clock
        self.progress = progress
        self._status_path = settings.data_dir / "status" / "updater.json"
        self._started_ms = clock.now_ms()
        self._ends: dict[str, int] | None = None  # where the topic ended at the start, once it is known
        self._full = False
        self._was_away = False
        self._shown_ms = 0
        self._committed_ms = 0

    def run(self, stop: threading.Event) -> None:
        """Poll, apply, let time pass; until ``stop``."""
        try:
            self._loop(stop)
        except DriftgraphError as error:
            self._write_status("failed", why=str(error))
            raise
        self._write_status("stopped")

    def _loop(self, stop: threading.Event) -> None:
        while not stop.is_set():
            decoded = self.source.next_batch(POLL_S)
            if decoded is None:
                break
            for _ in self.ingest.take(decoded):
                pass
            self.gate.hold_back()
            away = self.source.away or self.gate.closed  # what we do not read is not silent
            self.ingest.graph.expire(self.ingest.watermark.tick(away=away, caught_up=self.source.caught_up))
            self._tell_away()
            if not self._full:
                self._fill(decoded.read_count)
            elif not stop.is_set():
                self.worker.tend()
            self._housekeeping()

    def _fill(self, read_count: int) -> None:
        """Say how far the start is; it is over when all that was in the topic then has been applied."""
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
        if self.source.caught_up or all(position[part] >= end for part, end in self._ends.items()):
            self._full = True
            self.progress.note(self._said("the window is full"))
            self.progress.close()

    def _tell_away(self) -> None:
        """Log it once when Kafka goes away, and once when it is back."""
        if self.source.away != self._was_away:
            self._was_away = self.source.away
            log.warning("Kafka is away: event time stands still" if self._was_away else "Kafka is back")

    def _housekeeping(self) -> None:
        now_ms = self.clock.now_ms()
        if now_ms - self._committed_ms >= COMMIT_EVERY_MS:
            self._committed_ms = now_ms
            self.gate.commit(self.ingest.position)
        if now_ms - self._shown_ms >= STATUS_EVERY_MS:
            self._shown_ms = now_ms
            self._write_status("running" if self._full else "filling")

    def _write_status(self, state: str, why: str | None = None) -> None:
        counts = self.ingest.counts
        cut = self.ingest.graph.window.cut()
        status: dict[str, Any] = {
            "pid": os.getpid(),
            "state": state,
            "why": why,
            "kafka_away": self.source.away,
            "time_ms": self.clock.now_ms(),
            "watermark_ms": self.ingest.watermark.value_ms,
            "lag": dict(self.source.lag()),
            "position": dict(self.source.position()),
            "events": {
                "read": counts.read,
                "applied": counts.applied,
                "late": counts.late,
                "rejected": counts.rejected,
                "duplicate": counts.duplicate,
                "ignored": counts.ignored,
                "erased": counts.erased,
            },
            "reasons": dict(counts.reasons),
            "dead_letters": self.gate.status(),
            "window": {
                r.name: n - f
                for r, f, n in zip(self.ingest.graph.window.relations, cut.first, cut.next, strict=True)
            },
            **self.ingest.graph.window.counted(),
            "ids": self.ingest.graph.id_counts,
            "worker": {"state": self.worker.state, "pid": self.worker.pid, "starts": self.worker.starts},
        }
        write_json(self._status_path, status)

    def _said(self, what: str) -> str:
        seconds = (self.clock.now_ms() - self._started_ms) / 1000
        counts = self.ingest.counts
        return (
            f"{what}: {counts.applied:,} events applied in {seconds:.1f} s, "
            f"{counts.late:,} late, {counts.rejected:,} rejected"
        )


class WorkerProcess:
    """The GPU worker's process as its parent sees it.

    The worker holds the other end of a pipe and ends when ours is closed, by us or by our death. (An event
    that both wait for would block us for ever once a worker is killed while it waits.)
    """

    def __init__(self, settings: Settings, window_dir: Path, clock: Clock) -> None:
        self._settings = settings
        self._window_dir = window_dir
        self._clock = clock
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._changed_ms = 0  # when it was started, or seen to have ended
        self._failures = 0  # in a row
        self.starts = 0
        self.state = "not started"

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None or self.state != "running" else self._process.pid

    def tend(self) -> None:
        """Start it if it does not run and its pause is over."""
        now_ms = self._clock.now_ms()
        if self._process is not None and self._process.is_alive():
            if now_ms - self._changed_ms > STEADY_MS:
                self._failures = 0
            return
        if self._process is not None and self.state == "running":
            self.state = f"ended with {self._process.exitcode}"
            log.error("the worker %s; it is started again", self.state)
            self._changed_ms = now_ms
            self._failures += 1
        pause_ms = RESTART_PAUSES_MS[min(self._failures, len(RESTART_PAUSES_MS) - 1)]
        if now_ms - self._changed_ms >= pause_ms:
            self._start()
            self._changed_ms = now_ms

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is None:
            return
        self._process.join(WORKER_STOPS_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.state = "stopped"

    def _start(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        theirs, self._pipe = self._context.Pipe(duplex=False)
        with theirs:
            self._process = self._context.Process(
                target=worker_process.main,
                args=(self._settings, self._window_dir, theirs),
                name="driftgraph-worker",
            )
            self._process.start()
        self.starts += 1
        self.state = "running"


def kafka_source(
    options: KafkaOptions,
    decoder: Decoder,
    clock: Clock,
    *,
    start: Position | None = None,
    held_for_s: float = GIVE_UP_AFTER_S,
) -> KafkaSource | HeldSource:
    """What reads a topic. A decoder that asks a schema registry may keep messages waiting ``held_for_s``."""

    def connect(decoder: Decoder) -> KafkaSource:
        return KafkaSource(options, decoder, clock, start=start)

    if isinstance(decoder, Mapped) and decoder.may_wait:
        return HeldSource(connect, decoder, give_up_after_s=held_for_s)
    return connect(decoder)


def watermark_rules(settings: Settings) -> WatermarkRules:
    """How event time advances on a live topic."""
    return WatermarkRules(
        out_of_orderness_ms=settings.time.out_of_orderness.ms,
        allowed_lateness_ms=settings.time.lateness.ms,
        idle_timeout_ms=settings.time.idle_timeout.ms,
        future_skew_ms=settings.time.skew.ms,
    )


def write_json(path: Path, value: object) -> None:
    """Replace a small file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.new")
    partial.write_bytes(msgspec.json.encode(value))
    partial.rename(path)


def _kafka_options(settings: Settings, clock: Clock) -> KafkaOptions:
    longest_ms = max(relation.span_ms for relation in settings.window_relations())
    return KafkaOptions(
        topics=(settings.kafka.topic,),
        client=settings.kafka.librdkafka(),
        group_id=settings.name,
        shard=settings.kafka.shard_of(),
        start=settings.kafka.start_from(now_ms=clock.now_ms(), longest_span_ms=longest_ms),
    )


@contextmanager
def _without_librdkafka() -> Iterator[None]:
    """Keep librdkafka's own lines from the log: while a broker is away they come ten a second.

    What they tell is in the sentence with which a start fails, and in ``_tell_away``.
    """

    def is_ours(record: logging.LogRecord) -> bool:
        return "rdkafka#" not in record.getMessage()

    kafka = logging.getLogger("driftgraph.kafka")
    kafka.addFilter(is_ours)
    try:
        yield
    finally:
        kafka.removeFilter(is_ours)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One updater a data_dir: the kernel lets go of the lock with the process, however it ends."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise AlreadyRunningError(
                f"{data_dir} is in use by the updater with pid {file.read().strip() or 'unknown'}; "
                "stop it, or give this one another data_dir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
