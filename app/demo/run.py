"""The demo: a shop whose customers change their taste, streamed through Kafka, and a model that follows.

Shop (or a file) ──► producer thread ──► embedded Kafka ──► KafkaSource ──► Lockstep ──► embedded Redis
                                                                                └──► screen, DemoReport
"""

from __future__ import annotations

import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from driftgraph.app.commands.embedded import TOPIC_PARTITIONS, EmbeddedKafka, EmbeddedRedis
from driftgraph.app.commands.produce import canonical_json
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.console.progress import NoProgress, Progress
from driftgraph.app.demo.page import DemoPage, page_settings
from driftgraph.app.demo.report import DemoReport, UserStory, story_of
from driftgraph.app.demo.shop import BEHAVIORS, Shop, ShopOptions, open_shop
from driftgraph.app.demo.view import DemoView, Frame, view_for
from driftgraph.app.training.lockstep import Lockstep
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules
from driftgraph.stream.kafka.producer import EventProducer
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.time.clock import REPLAY_TIMES, Clock, SystemClock, TimeRules
from driftgraph.stream.window.writer import Relation
from driftgraph.stream.wording import BY_RENAMING

TOPIC = "events"
NAMESPACE = "demo"
SHOP_EVENTS = 60_000  # in 14 days; two cores ingest, train on and publish them in about a minute
HISTORY = 0.25  # this share of the events is on the topic before the demo begins, as at a real start
FIT_EVERY = "12h"
FILE_FITS = 20  # the time of a file is divided into so many fits
FILE_SPAN_MS_MIN = 60_000
POLL_S = 0.05
SHOW_EVERY_MS = 250
SEND_EVERY_S = 0.1  # the producer sends due events ten times a second


@dataclass(frozen=True, slots=True)
class Feed:
    """The stream: (key, canonical JSON, event time) in time order, and facts about it."""

    name: str
    event_count: int
    relations: tuple[str, ...]
    span_ms: int
    fit_every: str
    first_fit_ms: int  # event time up to which the first fit learns: the history
    shop: Shop | None
    path: Path | None
    partitions: tuple[int, ...]  # those that have an event

    def events(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Every event; a file is read anew."""
        if self.shop is not None:
            for (key, value), time_ms in zip(self.shop.payloads(), self.shop.time_ms.tolist(), strict=True):
                yield key, value, time_ms
            return
        assert self.path is not None
        source = _file_in_order(self.path)
        while (decoded := source.next_batch()) is not None:
            keys, values = canonical_json(decoded.batch, self.relations)
            yield from zip(keys, values, decoded.batch.time_ms.tolist(), strict=True)


def _file_in_order(path: Path, say: Callable[[str], None] = lambda _: None) -> FileSource:
    """A user's file, in order of time like a stream."""
    options = FileOptions(
        times=TimeRules(),
        span_ms=Settings().window.span.ms,
        sort_in=Path(tempfile.gettempdir()),
        wording=BY_RENAMING,
    )
    return FileSource(path, options, say=say)


def demo(
    *,
    data: Path | None,
    keep: bool,
    seconds: float,
    seed: int,
    progress: Progress,
    as_json: bool,
    show: Callable[[DemoReport], None] = lambda _: None,
    clock: Clock | None = None,
) -> DemoReport:
    """Run the demo to its end.

    Args:
        data: A file to stream instead of the shop.
        keep: Keep Kafka, Redis and the page running afterwards until Ctrl-C, and print their addresses.
        seconds: How long events flow; training may make the demo longer on a slow machine.
        seed: Of the shop and of the model.
        progress: For lines when stderr is no terminal.
        as_json: Show no moving picture.
        show: Told the report as soon as it is there, before the wait of ``keep``.
        clock: Wall time, for rates.

    Raises:
        DriftgraphError: If Redis does not start or the file cannot be read.
    """
    clock = clock or SystemClock()
    with ExitStack() as stack:
        progress.note("opening the shop" if data is None else f"reading {data}")
        feed = _shop_feed(seed) if data is None else _file_feed(data, progress.note)
        kafka = stack.enter_context(EmbeddedKafka())
        redis = stack.enter_context(EmbeddedRedis())
        kafka.create_topic(TOPIC)
        client = connect(redis.url)
        stack.callback(client.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftgraph-demo-")))
        settings = _settings(feed, seed, page_settings(folder, redis.url, NAMESPACE))
        relations = tuple(Relation(name, feed.span_ms, 1 << 22) for name in feed.relations)
        store = GenerationStore(client, namespace=NAMESPACE, epoch=1)
        status = WorkerStatus(folder / "status" / "worker.json", clock, NoProgress())
        lockstep = Lockstep(
            settings, relations, clock, dead_letters=MemoryDeadLetters(), store=store, status=status
        )
        lockstep.ingest.watermark.assign(feed.partitions)
        source = _source(kafka, feed, clock)
        stack.callback(source.close)
        stack.enter_context(status.beating())  # also at the end, when nothing is trained any more
        page = stack.enter_context(DemoPage(settings, lockstep, source, clock))
        progress.note(where := page.where())
        view = stack.enter_context(view_for(progress, as_json=as_json))
        producer = _Feeder(feed, kafka.bootstrap_servers, seconds)
        stack.callback(producer.stop)
        reader = EmbeddingReader(client, namespace=NAMESPACE)
        report = _Runner(feed, source, lockstep, store, reader, producer, view, page, clock).run()
        view.close()
        show(report)
        if keep:
            progress.note(f"try: driftgraph generations --redis {redis.url} --namespace {NAMESPACE}")
            what = f"Kafka {kafka.bootstrap_servers} topic {TOPIC}, Redis {redis.url} namespace {NAMESPACE}"
            progress.note(f"still up: {what}; Ctrl-C ends them")
            progress.note(where)
            _wait_for_interrupt()
        return report


class _Runner:
    """The demo's loop: poll, apply, train, show."""

    def __init__(
        self,
        feed: Feed,
        source: KafkaSource,
        lockstep: Lockstep,
        store: GenerationStore,
        reader: EmbeddingReader,
        producer: _Feeder,
        view: DemoView,
        page: DemoPage,
        clock: Clock,
    ) -> None:
        self.page = page
        self.feed = feed
        self.source = source
        self.lockstep = lockstep
        self.store = store
        self.reader = reader
        self.producer = producer
        self.view = view
        self.clock = clock
        self._shown_ms = 0
        self._told = 0  # how many cycles were shown
        self._rate_from = (clock.now_ms(), 0)
        self._rate = 0.0
        self._before: UserStory | None = None
        self._star = "" if feed.shop is None else _star(feed.shop)

    def run(self) -> DemoReport:
        """Until every event that was produced is applied and trained on."""
        started_ms = self.clock.now_ms()
        self.producer.start()
        while not self._is_over():
            decoded = self.source.next_batch(POLL_S)
            if decoded is None:
                break
            for mark in self.lockstep.take(decoded):
                if mark.cut.watermark_ms < self.feed.first_fit_ms:
                    continue
                self._note_story(mark.cut.watermark_ms)
                self.lockstep.cycle()
                self._tell()
            self._show()
        self.lockstep.finish()
        self._tell()
        self._show(at_once=True)
        return self._report(started_ms)

    def _is_over(self) -> bool:
        if self.producer.failure is not None:
            raise DriftgraphError(f"the events could not be produced: {self.producer.failure}")
        return self.producer.done and self.lockstep.ingest.counts.read >= self.producer.acknowledged

    def _report(self, started_ms: int) -> DemoReport:
        graph, cut, shop = self.lockstep.graph, self.lockstep.graph.moment().cut, self.feed.shop
        return DemoReport(
            source=self.feed.name,
            seconds=(self.clock.now_ms() - started_ms) / 1000,
            counts=self.lockstep.ingest.counts,
            window=graph.window.live_counts(cut),
            digest=graph.digest(cut),
            generations=tuple(self.lockstep.reports),
            drift_ms=None if shop is None else shop.options.drift_ms,
            drifters=frozenset() if shop is None else shop.drifters(),
            before=self._before,
            after=None if shop is None else story_of(self.reader, shop, self._star, cut.watermark_ms),
            redis=self.store.count_keys(),
        )

    def _note_story(self, watermark_ms: int) -> None:
        """Note the recommendations for the star by the last generation before its taste changes."""
        shop = self.feed.shop
        if shop is None or self._before is not None:
            return
        if watermark_ms >= shop.options.drift_ms - 1_000:
            self._before = story_of(self.reader, shop, self._star, shop.options.drift_ms - 1)

    def _tell(self) -> None:
        """Show the cycles that were not shown yet."""
        shop = self.feed.shop
        for report in self.lockstep.reports[self._told :]:
            drifted = None if shop is None else report.watermark_ms > shop.options.drift_ms
            self.view.generation(report, drifted=drifted)
            self._shown_ms = 0
        self._told = len(self.lockstep.reports)

    def _show(self, *, at_once: bool = False) -> None:
        now_ms = self.clock.now_ms()
        if not at_once and now_ms - self._shown_ms < SHOW_EVERY_MS:
            return
        self._shown_ms = now_ms
        self.page.tell()
        applied = self.lockstep.ingest.counts.applied
        then_ms, then = self._rate_from
        if now_ms - then_ms >= 1_000:
            self._rate = (applied - then) * 1000 / (now_ms - then_ms)
            self._rate_from = (now_ms, applied)
        cut = self.lockstep.graph.window.cut()
        relations = self.lockstep.graph.window.relations
        self.view.show(
            Frame(
                watermark_ms=cut.watermark_ms,
                applied=applied,
                total=self.feed.event_count,
                events_per_second=self._rate,
                window={r.name: n - f for r, f, n in zip(relations, cut.first, cut.next, strict=True)},
                generation=self.lockstep.worker.published,
                model_version=self.lockstep.worker.trainer.model_version,
            )
        )


class _Feeder(threading.Thread):
    """Produces the feed at a steady rate, until its end or ``stop``."""

    def __init__(self, feed: Feed, bootstrap_servers: str, seconds: float) -> None:
        super().__init__(name="demo-producer", daemon=True)
        self.done = False  # all events are produced and acknowledged
        self.acknowledged = 0
        self.failure: str | None = None
        self._feed = feed
        # the broker ends before this client does
        self._producer = EventProducer({"bootstrap.servers": bootstrap_servers, "log_level": 0}, TOPIC)
        self._history = round(feed.event_count * HISTORY)
        self._per_tick = max(1, round((feed.event_count - self._history) * SEND_EVERY_S / seconds))

    def run(self) -> None:
        """Send the history at once, then the due events ten times a second."""
        try:
            for number, (key, value, time_ms) in enumerate(self._feed.events(), start=1):
                self._producer.send(key=key, value=value, timestamp_ms=time_ms, partition=_partition_of(key))
                if (
                    number % self._per_tick == 0
                    and number > self._history
                    and self._producer.stopped.wait(SEND_EVERY_S)
                ):
                    return
            self._producer.finish()
            self.acknowledged = self._producer.sent
        except Exception as error:  # the loop shows an error of this thread
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self.done = True

    def stop(self) -> None:
        """Tell the thread to end."""
        self._producer.stopped.set()
        if self.is_alive():
            self.join()


def _partition_of(key: bytes) -> int:
    """The partition of a user, so that a user's events stay in order and the partitions are known before."""
    return zlib.crc32(key) % TOPIC_PARTITIONS


def _settings(feed: Feed, seed: int, page: Mapping[str, Any]) -> Settings:
    """The settings of the demo: small and quick. No configuration file is read."""
    return load(
        None,
        {
            **page,
            "seed": seed,
            "window": {"user_rows": 1 << 20, "item_rows": 1 << 20},
            "fit": {"every": feed.fit_every, "evaluations_max": 1_000},
        },
    )


def _source(kafka: EmbeddedKafka, feed: Feed, clock: Clock) -> KafkaSource:
    options = KafkaOptions(
        topics=(TOPIC,), client={"bootstrap.servers": kafka.bootstrap_servers}, group_id="driftgraph-demo"
    )
    decoder = CanonicalJson(EventRules(Behaviors(feed.relations), REPLAY_TIMES))
    return KafkaSource(options, decoder, clock)


def _shop_feed(seed: int) -> Feed:
    shop = open_shop(ShopOptions(event_count=SHOP_EVENTS, seed=seed))
    users = np.unique(shop.user).tolist()
    return Feed(
        name="the shop",
        event_count=len(shop),
        relations=BEHAVIORS,
        span_ms=2 * shop.options.span_ms,
        fit_every=FIT_EVERY,
        first_fit_ms=int(shop.time_ms[round(len(shop) * HISTORY)]),
        shop=shop,
        path=None,
        partitions=_partitions(shop.user_ids[user].encode() for user in users),
    )


def _file_feed(path: Path, say: Callable[[str], None]) -> Feed:
    """Read the file once to find its relations and times."""
    source = _file_in_order(path, say)
    first_ms, last_ms, count = 0, 0, 0
    keys: set[bytes] = set()
    while (decoded := source.next_batch()) is not None:
        batch = decoded.batch
        if len(batch):
            low, high = int(batch.time_ms.min()), int(batch.time_ms.max())
            first_ms, last_ms = min(first_ms or low, low), max(last_ms, high)
            count += len(batch)
            keys.update(batch.user.bytes_at(n) for n in range(len(batch)))
    span_ms = max(last_ms - first_ms, FILE_SPAN_MS_MIN)
    return Feed(
        name=path.name,
        event_count=count,
        relations=source.relations,
        span_ms=2 * span_ms,
        fit_every=f"{span_ms // FILE_FITS}ms",
        first_fit_ms=first_ms + round(span_ms * HISTORY),
        shop=None,
        path=path,
        partitions=_partitions(keys),
    )


def _partitions(keys: Iterable[bytes]) -> tuple[int, ...]:
    return tuple(sorted({_partition_of(key) for key in keys}))


def _star(shop: Shop) -> str:
    """The user of the story: the busiest one whose taste changes."""
    events = np.bincount(shop.user, minlength=len(shop.user_ids))
    return shop.user_ids[int(np.argmax(np.where(shop.user_drifts, events, -1)))]


def _wait_for_interrupt() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
