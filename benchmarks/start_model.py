"""How soon a start serves a model on a full window, and whether that first model is worth serving.

    event file moved to now ──► Kafka ──► ``driftgraph run``, empty data_dir ──► seconds to each generation
    the same file up to a moment ──► Trainer.fit ──► the next 12 h of events ──► beside iALS and item-kNN

    python benchmarks/start_model.py [DATASET] [--json] [--quick]

Kafka is ``DRIFTGRAPH_TEST_KAFKA``, or an Apache Kafka started from ``KAFKA_HOME``; Redis is started here. The
seconds count from the command on, with kernels that a run before has compiled. They are wall time, so the
bound is one for an idle machine of two cores. The peers have the best of six settings on the very targets
that count, which favors them. ``--quick`` takes the newest tenth of the events.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np
import redis
from confluent_kafka import Producer

from benchmarks.live_updater import process
from benchmarks.live_updater.broker import broker, flush, put, topics
from benchmarks.live_updater.process import running, stage_of, worker_status
from benchmarks.offline_evaluation.datasets import Dataset, find_dataset
from benchmarks.offline_evaluation.peers.recommenders import PEERS, Prepared
from benchmarks.offline_evaluation.prequential import Judge, Stream, draw_targets, metrics_of
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.generations.keys import connect
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.time.durations import Duration
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Cut, Relation

MODEL_WITHIN_S = 30.0
LEARNED_SHARE = 0.6  # of the span, before the interval that is foretold
DAY_MS = 24 * 3_600_000
INTERVAL_MS = 12 * 3_600_000
LOOK_S = 0.05
APPEND = 40_000  # events of a batch, as a read of Kafka has them


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="How soon a start serves a model, and how good that is.")
    parser.add_argument("dataset", nargs="?", default="taobao_9d")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the newest tenth of the events")
    given = parser.parse_args()
    dataset = find_dataset(given.dataset)
    stream = dataset.read()
    if given.quick:
        stream = newest(stream, len(stream) // 10)
    figures: Figures = {"machine": machine(), "dataset": dataset.name, "events": len(stream)}
    figures["start"] = started(dataset, stream)
    figures["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    figures["next_interval"] = foretold(dataset, stream)
    finish(figures, required_of(figures), as_json=given.json)


def required_of(figures: Figures) -> list[Required]:
    """Soon, and no worse than what anybody computes from the same events."""
    recall = {name: one["recall_at_20"] for name, one in figures["next_interval"]["metrics"].items()}
    return [
        at_most(
            "s from a full window to a model that is served",
            figures["start"]["model_s"] - figures["start"]["full_s"],
            MODEL_WITHIN_S,
        ),
        at_least("Recall@20, dot product / iALS", recall["vectors"] / recall["ials"], 1.0),
        at_least("Recall@20, list / item-kNN", recall["model"] / recall["item_knn"], 1.0),
    ]


def newest(stream: Stream, count: int) -> Stream:
    """The newest events; ids keep their numbers."""
    part = slice(len(stream) - count, None)
    return replace(
        stream,
        user=stream.user[part],
        item=stream.item[part],
        behavior=stream.behavior[part],
        time_ms=stream.time_ms[part],
    )


def started(dataset: Dataset, stream: Stream) -> Figures:
    """Seconds from the command to the first generation and to the first of a model, and seconds by stage."""
    topic = f"benchmark-start-{os.getpid()}"
    with (
        TemporaryDirectory() as folder,
        broker(Path(folder) / "kafka") as address,
        topics(address, topic),
        EmbeddedRedis() as server,
        closing(connect(server.url)) as client,
    ):
        produce(stream, address, topic)
        config = process.write_configuration(
            Path(folder),
            kafka=address,
            topic=topic,
            redis_url=server.url,
            relations=stream.behaviors,
            span=f"{Duration.parse(dataset.span).ms // DAY_MS + 3}d",  # the whole file is in the window
            capacity=1 << 20,
        )
        begun_s = time.monotonic()
        with running(config) as updater:
            return waited(client, updater, Path(folder), begun_s)


def produce(stream: Stream, address: str, topic: str) -> None:
    """Every event, moved so that the newest is of now."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 50, "log_level": 0})
    moved_ms = time.time_ns() // 1_000_000 - int(stream.time_ms[-1])
    columns = zip(
        stream.user.tolist(), stream.item.tolist(), stream.behavior.tolist(), stream.time_ms.tolist(),
        strict=True,
    )  # fmt: skip
    for user, item, behavior, time_ms in columns:
        name, at_ms = stream.behaviors[behavior], time_ms + moved_ms
        value = f'{{"user_id":"u{user}","item_id":"i{item}","behavior":"{name}","ts":{at_ms}}}'
        put(producer, topic, value.encode(), str(user).encode())
    flush(producer)


def waited(client: redis.Redis, updater: subprocess.Popen[bytes], folder: Path, begun_s: float) -> Figures:
    """Look until a model is served."""
    full_s, first_s, by_stage, at_s = None, None, dict[str, float](), begun_s
    while time.monotonic() - begun_s < process.READY_WITHIN_S and updater.poll() is None:
        number = process.served(client)
        now_s = time.monotonic()
        stage = stage_of(worker_status(folder))
        by_stage[stage], at_s = by_stage.get(stage, 0.0) + now_s - at_s, now_s
        if full_s is None and b"the window is full" in (folder / "output.log").read_bytes():
            full_s = now_s - begun_s
        if number and first_s is None:
            first_s = now_s - begun_s
        if number and process.is_of_model(client, number):
            return {
                "full_s": round(full_s or 0.0, 1),
                "first_lists_s": round(first_s or 0.0, 1),
                "model_s": round(now_s - begun_s, 1),
                "by_stage_s": {name: round(seconds, 1) for name, seconds in by_stage.items()},
            }
        time.sleep(LOOK_S)
    sys.exit(process.no_model(folder))


def foretold(dataset: Dataset, stream: Stream) -> Figures:
    """A first fit and the peers on all before a moment: their ranks of the next first contacts."""
    first_ms, last_ms = int(stream.time_ms[0]), int(stream.time_ms[-1])
    begin_ms = first_ms + round(LEARNED_SHARE * (last_ms - first_ms))
    end_ms = begin_ms + INTERVAL_MS
    span_ms = Duration.parse(dataset.span).ms
    relations = [Relation(name, span_ms, 1 << 20) for name in stream.behaviors]
    graph = Heterograph.create(None, relations, user_rows=1 << 17, item_rows=1 << 17)
    trainer = Trainer(stream.behaviors, [span_ms] * len(relations), TrainerOptions())
    append(graph, stream, first_ms, begin_ms)
    learned, none = graph.moment().cut, (0,) * len(relations)
    begun_s = time.process_time()
    fit = trainer.fit(graph.edges, Cut(0, none, none), learned)
    fit_s = time.process_time() - begun_s
    if not fit.accepted:
        sys.exit(f"the gate refused the first fit: {fit.reason}")
    append(graph, stream, begin_ms, end_ms)
    found = trainer.evaluate(graph.edges, learned, graph.moment().cut, evaluations_max=len(stream))
    metrics = {name: found.metrics[name] for name in ("vectors", "model")}
    targets = draw_targets(stream, begin_ms, end_ms, every_ms=INTERVAL_MS, most=len(stream), seed=0)
    targets = targets.take(targets.explore).in_one_window(begin_ms)
    judge, data = Judge(stream, targets), Prepared(stream)
    for peer in ("ials", "item_knn"):
        best: dict[str, float] = {}
        for settings in PEERS[peer].settings:
            ranks = judge.no_ranks(("explore",))
            scorer = PEERS[peer].make(data, settings, {})
            judge.rank(scorer, begin_ms, slice(0, len(targets)), ranks, ("event",))
            best = max(
                best, metrics_of(ranks["event"]["explore"]), key=lambda one: one.get("recall_at_20", -1)
            )
        metrics[peer] = best
    return {
        "targets": found.event_count,
        "peer_targets": len(targets),
        "fit_cpu_s": round(fit_s, 1),
        "metrics": {
            peer: {name: round(value, 4) for name, value in one.items()} for peer, one in metrics.items()
        },
    }


def append(graph: Heterograph, stream: Stream, since_ms: int, before_ms: int) -> None:
    """The events of [since, before), and let event time pass to the last of them."""
    a, b = np.searchsorted(stream.time_ms, (since_ms, before_ms)).tolist()
    for start in range(a, b, APPEND):
        part = slice(start, min(start + APPEND, b))
        user, item = stream.user[part].tolist(), stream.item[part].tolist()
        names = Strings.of([f"u{n}" for n in user]), Strings.of([f"i{n}" for n in item])
        graph.apply(EventBatch(*names, stream.behavior[part].astype(np.uint8), stream.time_ms[part]))
        graph.expire(int(stream.time_ms[part][-1]))


if __name__ == "__main__":
    main()
