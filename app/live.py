"""Live: the updater, which follows the topic, and the GPU worker that it starts and watches over.

    Kafka ──► KafkaSource ──► Ingest ──► graph in shared memory ──► worker process ──► Redis

The updater only polls, decodes and appends: a fit of minutes or a Redis that is away never touches it. A
worker that dies is started again with growing pauses. A start reads the topic from the longest span ago, so
that the window is full at once, and the worker begins when it is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from driftgraph.app.breaker import Breaker
from driftgraph.app.config import Settings
from driftgraph.app.erased_letters import erasures_folder, users_of
from driftgraph.app.erasures import DurableErasures
from driftgraph.app.errors import DriftgraphError
from driftgraph.app.event_formats import event_rules, topic_decoder
from driftgraph.app.ingest import FitSchedule, Ingest
from driftgraph.app.letter_places import letter_place, letters_folder
from driftgraph.app.outbox import KeptLetters, Outbox
from driftgraph.app.progress import Progress
from driftgraph.app.stopping import stopping
from driftgraph.app.updater import Updater
from driftgraph.app.warm_up import warm_up
from driftgraph.app.worker_watch import WorkerProcess
from driftgraph.stream.clock import Clock, SystemClock, Watermark, WatermarkRules
from driftgraph.stream.decode import Decoder
from driftgraph.stream.formats.mapped import Mapped
from driftgraph.stream.held_source import GIVE_UP_AFTER_S, HeldSource
from driftgraph.stream.heterograph import Heterograph
from driftgraph.stream.kafka_source import KafkaOptions, KafkaSource
from driftgraph.stream.source import Position

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
        erasures = DurableErasures(
            erasures_folder(settings), users_of(settings), lambda: (letters.put_count, letters.safe_count)
        )
        stack.callback(erasures.close)
        ingest = Ingest(graph, watermark, letters, FitSchedule(1 << 62), breaker, erasures)
        worker = WorkerProcess(settings, folder, clock)
        stack.callback(worker.stop)
        Updater(settings, source, ingest, letters, worker, clock, progress, erasures).run(stop)


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
