"""``driftgraph run``: the updater, which follows the topic, and the GPU worker that it supervises.

    Kafka ──► KafkaSource ──► Ingest ──► graph in shared memory ──► worker process ──► Redis

The updater only polls, decodes and appends: a fit of minutes or a Redis that is away never delays it. A
worker that dies is started again with growing pauses. A start goes on from the newest checkpoint; the very
first start begins the longest span ago in the topic. The worker begins when the window has caught up. A
second updater of the same name or data_dir waits as a standby.
"""

from __future__ import annotations

import gc
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from driftgraph.app.config import saved_model
from driftgraph.app.config.attribute_tables import attributes_of, fill_from_files, sides_anew
from driftgraph.app.config.builders import fit_schedule, lease_client, watermark_rules, window_relations
from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.letter_place import letter_place, letters_folder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console import logs
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.stopping import reloading, stopping
from driftgraph.app.live import former_window
from driftgraph.app.live.loop.attribute_feed import AttributeFeed
from driftgraph.app.live.loop.checkpoint_timer import CheckpointTimer
from driftgraph.app.live.loop.delist_feed import DelistFeed
from driftgraph.app.live.loop.ingestion import Ingestion
from driftgraph.app.live.loop.updater import Updater
from driftgraph.app.live.reload import Reload
from driftgraph.app.live.standby import Standby
from driftgraph.app.live.supervisor import Supervisor
from driftgraph.app.live.web_process import WebProcess
from driftgraph.app.training import tracing
from driftgraph.app.training.erase_pending import erasures_folder, users_of
from driftgraph.snapshots.checkpoints import attributes, checkpoint, window
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.snapshots.checkpoints.state import State
from driftgraph.snapshots.checkpoints.window import WindowCheckpoints
from driftgraph.snapshots.erasures import DurableErasures
from driftgraph.snapshots.generations.lease import Lease
from driftgraph.stream.dead_letters.outgoing import KeptLetters, Outbox
from driftgraph.stream.formats.event_rules import Decoder
from driftgraph.stream.formats.mapping_decoder import MappingDecoder
from driftgraph.stream.ingest.breaker import Breaker
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.fit_schedule import Counted
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.ingest.warm_up import warm_up
from driftgraph.stream.kafka.client import look_for
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.kafka.waiting import GIVE_UP_AFTER_S, WaitingSource
from driftgraph.stream.sources.source import Position
from driftgraph.stream.time.clock import Clock, SystemClock
from driftgraph.stream.time.watermark import Watermark
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Relation

OBJECTS_MAX = 100_000  # new objects before a garbage collection: more than a read makes
ANSWERS_WITHIN_MS = 5_000  # a broker answers within this time at the start
FETCH_BACKOFF_MS = 10  # after a full queue; librdkafka's 1 s would cost nine tenths of the rate of a catch-up

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    *,
    progress: Progress,
    read_again: Callable[[], Settings] | None = None,
    clock: Clock | None = None,
) -> list[str]:
    """Follow the topic until SIGTERM or SIGINT; return warnings about the run.

    ``read_again`` reads the configuration anew, which SIGHUP asks for.

    Raises:
        DriftgraphError: If Kafka, the data_dir or the window is not as it should be.
    """
    clock = clock or SystemClock()
    stop = threading.Event()
    reload = Reload(settings, read_again or (lambda: settings), clock)
    with ExitStack() as stack:
        stack.enter_context(stopping(stop))
        stack.enter_context(reloading(reload.asked, stop))
        _check_worker(settings)  # again below: a standby may find another model when it takes over
        settings.data_dir.mkdir(parents=True, exist_ok=True)  # compiled kernels may be kept there
        port = stack.enter_context(WebProcess(settings))
        decoder = topic_decoder(settings, event_rules(settings, clock))
        progress.start("loading the compiled loops, which a first start compiles")
        warm_up(window_relations(settings), decoder, watermark_rules(settings), clock)
        progress.close()
        standby = Standby(settings, stop, progress)  # all preparations that need no lock are done before
        if (
            not stack.enter_context(standby.lock())
            or (lease := standby.lease(lease_client(settings, standby.place))) is None
        ):
            return []
        stack.callback(lease.release)
        _check_worker(settings)
        options, asked_ms = _kafka_options(settings, clock), clock.now_ms()
        topics = (*options.topics, *settings.events.attributes.said_by(), *_delisted_topic(settings))
        if not standby.kafka(partial(look_for, options.client, topics, options.connect_timeout_s), lease):
            return []
        was_away = clock.now_ms() - asked_ms > ANSWERS_WITHIN_MS
        root = settings.data_dir / "checkpoints"
        found, state, damaged = window.latest(root, _stream(settings))
        for damage in damaged:
            log.error("checkpoint %s is damaged (%s); an older one is used", damage.path, damage.reason)
        graph = _graph(settings, state)
        former_window.leave(settings, window_folder(settings), progress)
        watermark = _watermark(settings, clock, state, was_away=was_away)
        ingest, letters, erasures = _ingest(stack, settings, graph, watermark, state)
        events_anew = _restore(settings, found, state, ingest, erasures, progress)
        _tell_changes(settings, state, root, progress)
        start, topic_ids = (None, {}) if state is None else (state.position, state.topic_ids)
        source = kafka_source(options, decoder, clock, start=start, topic_ids=topic_ids)
        stack.callback(source.close)
        feed = _feed(stack, settings, ingest, state, erasures, clock)
        delist_feed = _delist_feed(stack, settings, lease, clock)
        watermark.assign(source.partitions)
        writer = WindowCheckpoints(root, graph, _stream(settings), found, events_anew=events_anew)
        ingestion = Ingestion(source, ingest, letters, erasures, feed, delist_feed)
        checkpoints = CheckpointTimer(writer, ingestion.outgoing, settings.checkpoint.every.ms, clock)
        worker = Supervisor(settings, window_folder(settings), lease.owner, clock)
        stack.callback(worker.stop)
        _collect_less()
        reload.takers += [partial(_take_over, ingest, checkpoints), worker.reload, port.reload]
        updater = Updater(
            settings, ingestion, checkpoints, lease, worker, reload, clock=clock, progress=progress
        )
        updater.run(stop)
        return list(ingestion.warnings())


def _watermark(settings: Settings, clock: Clock, state: State | None, *, was_away: bool) -> Watermark:
    watermark = Watermark(watermark_rules(settings), clock, None if state is None else state.watermark)
    if was_away:  # Kafka was away at the start, so perhaps also during the stop
        watermark.forget_stop()
    return watermark


def _ingest(
    stack: ExitStack, settings: Settings, graph: Heterograph, watermark: Watermark, state: State | None
) -> tuple[Ingest, Outbox, DurableErasures]:
    """The ingestion into the graph, with the dead letters and erasures that ``stack`` closes."""
    letters = Outbox(letter_place(settings), KeptLetters(letters_folder(settings)))
    stack.callback(letters.close)
    erasures = DurableErasures(
        erasures_folder(settings),
        users_of(settings),
        lambda: (letters.queue.put_count, letters.queue.safe_count),
    )
    stack.callback(erasures.close)
    limits = settings.events
    breaker = Breaker(share_max=limits.reject_share_max, window=limits.reject_window)
    # the early marks go on when there is a model: they cost little, and the worker passes them over
    schedule = fit_schedule(
        settings,
        graph.window.relations,
        counted=None if state is None else state.counted or _counted_in(graph),
        watermark_ms=watermark.value_ms,
    )
    own = settings.deduplication
    ids = Deduplicator(horizon_ms=own.horizon.ms, ids_max=own.ids_max, for_checkpoints=True)
    own_attributes = attributes_of(settings, graph, window_folder(settings))
    ingest = Ingest(graph, watermark, letters, schedule, breaker, erasures, ids, own_attributes)
    return ingest, letters, erasures


def _restore(
    settings: Settings,
    found: Checkpoint | None,
    state: State | None,
    ingest: Ingest,
    erasures: DurableErasures,
    progress: Progress,
) -> bool:
    """Take over a checkpoint, if there is one, and files of attributes, and say what of them.

    The result says whether the checkpoint's files of events may not be linked: they have events of users who
    were erased since, or the rows of before.
    """
    graph, own, events_anew = ingest.graph, ingest.attributes, False
    if found is not None and state is not None:
        restored = window.restore(found, state, graph, ingest.dedupe, erasures.users)
        attributes.restore(found, own, erasures.users, sides_anew(settings, state.said_by).values())
        for change in attributes.changes(found, own):
            log.warning("%s", change)
        held = sum(graph.window.live().values())
        progress.note(f"goes on from checkpoint {found.number}, with {held:,} events in the window")
        events_anew = restored.forgotten > 0 or not restored.same_rows
        same_rows = not events_anew and graph.owners().lost == (0, 0)
        ingest.marks = state.marks([one.name for one in graph.window.relations], same_rows=same_rows)
    for said in fill_from_files(settings, own, erasures.users):
        progress.note(said)
    return events_anew


def _feed(
    stack: ExitStack,
    settings: Settings,
    ingest: Ingest,
    state: State | None,
    erasures: DurableErasures,
    clock: Clock,
) -> AttributeFeed | None:
    """What follows the topics of attributes, which ``stack`` closes; None if there is none."""
    if not settings.events.attributes.topics() or ingest.attributes is None:
        return None
    position, topic_ids = ({}, {}) if state is None else (state.position, state.topic_ids)
    anew = sides_anew(settings, {} if state is None else state.said_by)
    start = {part: at for part, at in position.items() if part.rpartition("[")[0] not in anew}
    known = {topic: topic_id for topic, topic_id in topic_ids.items() if topic not in anew}
    feed = AttributeFeed(settings, ingest.attributes, erasures.users, clock, start=start, topic_ids=known)
    stack.callback(feed.close)
    return feed


def _delisted_topic(settings: Settings) -> tuple[str, ...]:
    topic = settings.events.delisted_topic
    return () if topic is None else (topic,)


def _delist_feed(stack: ExitStack, settings: Settings, lease: Lease, clock: Clock) -> DelistFeed | None:
    """The thread that follows the topic of delisted items, which ``stack`` ends; None if there is none."""
    for topic in _delisted_topic(settings):
        feed = DelistFeed(settings, topic, lease, clock)
        stack.callback(feed.stop)
        feed.start()
        return feed
    return None


def _collect_less() -> None:
    """Collect garbage less often. Two million objects of the start stay alive, and the messages of a read are
    freed together. Frequent collections over all of them would cost half of the rate.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_MAX)


def _tell_changes(settings: Settings, state: State | None, root: Path, progress: Progress) -> None:
    """Log what a start does not take over from the checkpoints in the folder."""
    if state is not None:
        for change in _changes(state, window_relations(settings), root):
            log.warning("%s", change)
    elif checkpoint.numbers(root):
        log.warning(
            "no checkpoint in %s is of topic %s, shard %s: the window is filled from the topic, and the "
            "ones there are replaced by its own",
            root,
            settings.kafka.topic,
            settings.kafka.shard,
        )
    else:
        progress.note(f"there is no checkpoint in {root}: the window is filled from the topic")


def _take_over(ingest: Ingest, checkpoints: CheckpointTimer, settings: Settings) -> None:
    """What changes in this process with a reload."""
    checkpoints.change_interval(settings.checkpoint.every.ms)
    if ingest.breaker is not None:
        ingest.breaker.share_max = settings.events.reject_share_max
    logs.set_up(settings, "updater")


def _check_worker(settings: Settings) -> None:
    """Refuse a model or a device with which no start of the worker can succeed.

    Raises:
        OtherModelError: If the saved model has another format, another network or other sizes.
        ConfigError: If the machine has not the configured device, the class of the user, or OpenTelemetry.
    """
    saved_model.check(settings)
    tracing.check(settings)
    if settings.model.device not in ("auto", "cpu"):  # every machine has these
        from driftgraph.app.training.device import device_of  # noqa: PLC0415  # imports torch

        device_of(settings.model.device)
    if settings.model.custom is not None:
        from driftgraph.app.training.device import check_custom  # noqa: PLC0415  # imports torch

        check_custom(settings)


def _counted_in(graph: Heterograph) -> Counted:
    """For a checkpoint that does not say it: all that is in the window, so that its fit is due soon."""
    cut = graph.window.cut()
    events = sum(cut.next) - sum(cut.first)
    return Counted(events, events, events, live=events, live_then=events)


def window_folder(settings: Settings) -> Path:
    """The folder of the window's files."""
    return settings.window.dir or settings.data_dir / "window"


def _stream(settings: Settings) -> str:
    """The name of the stream in checkpoints: a checkpoint of another topic or shard cannot be used."""
    return f"{settings.kafka.topic} {settings.kafka.shard}"


def _graph(settings: Settings, state: State | None) -> Heterograph:
    """An empty graph with the lives of the checkpoint, so that their sequence numbers keep their meaning."""
    relations = window_relations(settings)
    history = () if state is None else state.lives([r.name for r in relations])
    rows = settings.window
    return Heterograph.create(
        window_folder(settings),
        relations,
        user_rows=rows.user_rows,
        item_rows=rows.item_rows,
        history=(*history, Life(secrets.token_hex(8))),
    )


def _changes(state: State, relations: Sequence[Relation], root: Path) -> Iterator[str]:
    """The differences between the configured window and the saved one, as sentences."""
    then = {ring.name: ring for ring in state.relations}
    fill = f"to fill it from the topic, remove {root}"
    for relation in relations:
        ring = then.pop(relation.name, None)
        if ring is None:
            yield f"{relation.name} is new: it has events from now on; {fill}"
            continue
        if 0 < ring.span_ms < relation.span_ms:
            yield f"{relation.name} has a longer span, whose older part fills as time passes; {fill}"
        if (left := ring.next - ring.first - relation.capacity) > 0:
            yield f"{relation.name} has room for {relation.capacity:,} events: the oldest {left:,} are gone"
    for ring in then.values():
        yield (
            f"{ring.name} is no relation now: its {ring.next - ring.first:,} events are gone, and further "
            "ones are rejected unless events.ignore names it"
        )


def kafka_source(
    options: KafkaOptions,
    decoder: Decoder,
    clock: Clock,
    *,
    start: Position | None = None,
    topic_ids: Mapping[str, str] | None = None,
    held_for_s: float = GIVE_UP_AFTER_S,
) -> KafkaSource | WaitingSource:
    """The source that reads a topic; messages wait ``held_for_s`` at most while a schema registry is away."""

    def connect(decoder: Decoder) -> KafkaSource:
        return KafkaSource(options, decoder, clock, start=start, topic_ids=topic_ids)

    if isinstance(decoder, MappingDecoder) and decoder.may_wait:
        return WaitingSource(connect, decoder, give_up_after_s=held_for_s)
    return connect(decoder)


def _kafka_options(settings: Settings, clock: Clock) -> KafkaOptions:
    longest_ms = max(relation.span_ms for relation in window_relations(settings))
    # the start is by record times, and a record may be older than its event, whose clock was ahead
    longest_ms += settings.time.lateness.ms + settings.time.skew.ms
    return KafkaOptions(
        topics=(settings.kafka.topic,),
        client={"fetch.queue.backoff.ms": FETCH_BACKOFF_MS, **settings.kafka.librdkafka()},
        group_id=settings.name,
        shard=settings.kafka.shard_of(),
        out_of_range=settings.kafka.out_of_range,
        start=settings.kafka.start_from(now_ms=clock.now_ms(), longest_span_ms=longest_ms),
    )
