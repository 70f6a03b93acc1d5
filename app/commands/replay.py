"""Replay: runs a file of past events through the same code as the live stream, and reports.

FileSource ──► Lockstep ──► Redis (a URL, an embedded server, or none)
                  └──► ReplayReport, predictions as Parquet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.commands.prediction_place import check_predictions, predictions_told
from driftgraph.app.commands.sort_folder import folder_for_sorting
from driftgraph.app.config.builders import (
    file_options,
    generation_store,
    lease_client,
    watermark_rules,
    window_relations,
)
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.head_text import heads_together
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.scorers import gain_of
from driftgraph.app.training.erase_pending import erasures_folder, users_of
from driftgraph.app.training.generation_report import GenerationReport, describe
from driftgraph.app.training.lockstep import Lockstep
from driftgraph.app.training.prediction_rows import PredictionRows
from driftgraph.snapshots.erasures import ErasureList
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.lease import raise_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.dead_letters.files import FileDeadLetters
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules
from driftgraph.stream.ingest.erasures import MemoryErasures
from driftgraph.stream.ingest.ingest import Counts
from driftgraph.stream.ingest.lateness import warnings_of
from driftgraph.stream.ingest.warm_up import warm_up
from driftgraph.stream.sources.event_sort import Sorting
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.time.clock import REPLAY_TIMES, Clock, SystemClock
from driftgraph.stream.window.writer import Relation

PREDICTION_SCHEMA = pa.schema(
    [
        ("ts_ms", pa.int64()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("behavior", pa.string()),
        ("generation", pa.int32()),
        ("top_items", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The report of a replay. ``elapsed_s`` is its whole time: reading, training and publishing."""

    source: str
    counts: Counts
    elapsed_s: float
    ingest_s: float  # the part of it without training and publishing
    window: Mapping[str, int]
    digest: str
    watermark_ms: int
    generations: tuple[GenerationReport, ...]
    redis: Mapping[str, int]
    truncated: Mapping[str, int]
    capped: Mapping[str, int]
    sorting: Sorting | None  # None: the file is in order of time
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        counts = self.counts
        return {
            "source": self.source,
            "events_read": counts.read,
            "events_applied": counts.applied,
            "events_late": counts.late,
            "events_rejected": counts.rejected,
            "events_duplicate": counts.duplicate,
            "events_ignored": counts.ignored,
            "events_erased": counts.erased,
            "events_forgotten": counts.forgotten,
            "events_per_second": counts.read / max(self.ingest_s, 1e-9),
            "reasons": dict(counts.reasons),
            "sorted": None if self.sorting is None else asdict(self.sorting),
            "warnings": list(self.warnings),
            "elapsed_s": self.elapsed_s,
            "watermark_ms": self.watermark_ms,
            "window": dict(self.window),
            "truncated": dict(self.truncated),
            "capped": dict(self.capped),
            "digest": self.digest,
            "overall": overall(self.generations),
            "generations": [report.to_json() for report in self.generations],
            "redis": dict(self.redis),
        }


def overall(reports: tuple[GenerationReport, ...]) -> dict[str, Any]:
    """Every scorer's metrics, and the parts' shares, over all intervals in which a model was serving.

    Each interval counts by its events.
    """
    scored = [r.evaluation for r in reports if r.evaluation.event_count and "model" in r.evaluation.metrics]
    total = sum(evaluation.event_count for evaluation in scored)
    metrics: dict[str, dict[str, float]] = {}
    shares: dict[str, float] = {}
    for evaluation in scored:
        for part, share in evaluation.shares.items():
            shares[part] = shares.get(part, 0.0) + share * evaluation.event_count / total
        for scorer, values in evaluation.metrics.items():
            sums = metrics.setdefault(scorer, dict.fromkeys(values, 0.0))
            for name, value in values.items():
                sums[name] += value * evaluation.event_count / total
    return {
        "evaluated_events": total,
        "metrics": metrics,
        "gain": gain_of(metrics, total),
        "shares": shares,
        "staleness": _staleness(reports),
        "heads": heads_together(None if r.heads is None else asdict(r.heads) for r in reports),
    }


def _staleness(reports: tuple[GenerationReport, ...]) -> dict[str, dict[str, Any]]:
    """By how many fits ago: the metrics of the vectors of then, and beside them those of the served ones."""
    found: dict[str, dict[str, Any]] = {}
    for curve in (report.evaluation.staleness for report in reports):
        if curve is None or not curve.event_count:
            continue
        for age, metrics in curve.fits_ago.items():
            own = found.setdefault(str(age), {"events": 0, "metrics": {}, "vectors": {}})
            count = own["events"]
            own["events"] = whole = count + curve.event_count
            for kind, values in (("metrics", metrics), ("vectors", curve.vectors)):
                for name, value in values.items():
                    own[kind][name] = (own[kind].get(name, 0.0) * count + value * curve.event_count) / whole
    return found


def replay(
    settings: Settings,
    source: Path,
    *,
    redis: str,
    predictions: Path | None,
    progress: Progress,
    clock: Clock | None = None,
) -> ReplayReport:
    """Run a file through ingestion, training and publishing, in lockstep.

    Args:
        settings: Without configured relations, those in the file are taken.
        source: CSV, JSONL or Parquet, plain, gzip or zstd.
        redis: An address, ``embedded`` (a server that ends with the replay) or ``none``.
        predictions: The file for the best items of each scored event.
        progress: Shows each 65,536 lines and each generation.
        clock: For the rates, and to know which times are in the future.

    Raises:
        DriftgraphError: If the file, Redis or the disk is not as it should be.
    """
    clock = clock or SystemClock()
    with ExitStack() as stack:
        options = replace(file_options(settings, clock), sort_in=folder_for_sorting(settings.data_dir))
        file = FileSource(source, options, say=progress.note)
        stack.callback(file.close)
        store = stack.enter_context(_store(redis, settings))
        written = stack.enter_context(_prediction_file(predictions))

        def on_cycle(report: GenerationReport, rows: PredictionRows | None) -> None:
            progress.note(describe(report))
            if rows is not None:
                written.write(rows)

        letters = FileDeadLetters(settings.data_dir / "dead_letters")
        stack.callback(letters.close)
        relations = window_relations(settings, file.relations)
        erasures = MemoryErasures(ErasureList(erasures_folder(settings)).read(), users_of(settings))
        lockstep = Lockstep(
            settings,
            relations,
            clock,
            dead_letters=letters,
            store=store,
            on_cycle=on_cycle,
            erasures=erasures,
        )
        for said in lockstep.said:
            progress.note(said)
        _compile(relations, settings, clock, progress)
        started_ms = clock.now_ms()
        ingest_ms = _run(file, lockstep, clock, progress)
        graph, cut = lockstep.graph, lockstep.graph.moment().cut
        counted = graph.window.counted()
        return ReplayReport(
            source=source.name,
            counts=lockstep.ingest.counts,
            elapsed_s=(clock.now_ms() - started_ms) / 1000,
            ingest_s=ingest_ms / 1000,
            window=graph.window.live_counts(cut),
            digest=graph.digest(cut),
            watermark_ms=cut.watermark_ms,
            generations=tuple(lockstep.reports),
            redis={} if store is None else store.count_keys(),
            sorting=file.sorting,
            warnings=(*file.warnings, *_topics_left_out(settings), *warnings_of(lockstep.ingest)),
            truncated=counted["truncated"],
            capped=counted["capped"],
        )


def _topics_left_out(settings: Settings) -> list[str]:
    """A warning if attributes are in topics, which a replay of a file does not read."""
    topics = [one.topic for one in settings.events.attributes.topics()]
    if not topics:
        return []
    return [
        f"a replay does not read the topics of attributes ({', '.join(topics)}), so it goes without them; "
        "set events.attributes.item_file or user_file for a replay with attributes"
    ]


def _compile(relations: tuple[Relation, ...], settings: Settings, clock: Clock, progress: Progress) -> None:
    """Compile the loops of ingestion, so that the events a second are those of a second start, too."""
    progress.start("loading the compiled loops, which a first start compiles")
    rules = EventRules(Behaviors([relation.name for relation in relations]), REPLAY_TIMES)
    warm_up(relations, CanonicalJson(rules), watermark_rules(settings), clock)


def _run(file: FileSource, lockstep: Lockstep, clock: Clock, progress: Progress) -> int:
    """Read the whole file; return the milliseconds without training and publishing."""
    started_ms, trained_ms, shown = clock.now_ms(), 0, 0
    progress.start("replay", total=100)
    while (decoded := file.next_batch()) is not None:
        begin, end = shown, round(100 * file.read_share())
        appended = sum(lockstep.graph.window.cut().next)
        for mark in lockstep.take(decoded):
            part = (sum(mark.cut.next) - appended) / len(decoded.batch)
            share = begin + round(part * (end - begin))
            progress.advance(share - shown)
            shown = share
            cycle_ms = clock.now_ms()
            lockstep.cycle()
            trained_ms += clock.now_ms() - cycle_ms
        progress.advance(end - shown)
        shown = end
    ingest_ms = clock.now_ms() - started_ms - trained_ms
    lockstep.finish()
    progress.close()
    return ingest_ms


@contextmanager
def _store(redis: str, settings: Settings) -> Iterator[GenerationStore | None]:
    if redis == "none":
        yield None
        return
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedRedis()).url if redis == "embedded" else redis
        client = connect(url)
        stack.callback(client.close)
        lease = lease_client(settings, name=f"{settings.name} (replay)", url=url).take_alone()
        stack.callback(lease.release)
        epoch = raise_epoch(client, settings.redis.namespace, lease.owner)
        store = generation_store(settings, client, epoch=epoch)
        store.clean_up()
        yield store


class _Predictions:
    """Writes row groups to a Parquet file under a temporary name, or nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        if path is None:
            return
        check_predictions(path)
        self._partial = path.with_name(f"{path.name}.partial")
        with predictions_told(path):
            try:
                self._writer = pq.ParquetWriter(self._partial, PREDICTION_SCHEMA)
            except OSError:
                with suppress(OSError):
                    self._partial.unlink()
                raise

    def write(self, rows: PredictionRows) -> None:
        """Append one generation's rows."""
        if self._path is None or self._writer is None:
            return
        columns = {
            "ts_ms": rows.ts_ms,
            "user_id": rows.user_id,
            "item_id": rows.item_id,
            "behavior": rows.behavior,
            "generation": np.full(len(rows.ts_ms), rows.generation, np.int32),
            "top_items": rows.top_items,
        }
        with predictions_told(self._path):
            self._writer.write_table(pa.table(columns, schema=PREDICTION_SCHEMA))

    def finish(self) -> None:
        """Give the file its name."""
        if self._path is not None and self._writer is not None:
            with predictions_told(self._path):
                self._writer.close()
                self._partial.rename(self._path)

    def abandon(self) -> None:
        """Remove the file, unless it is finished."""
        if self._writer is not None:
            with suppress(OSError):  # the disk is full, as an earlier error said
                self._writer.close()
            self._partial.unlink(missing_ok=True)


@contextmanager
def _prediction_file(path: Path | None) -> Iterator[_Predictions]:
    """A file that gets its name at the end, whole, or is removed."""
    written = _Predictions(path)
    try:
        yield written
        written.finish()
    finally:
        written.abandon()
