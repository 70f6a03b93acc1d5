"""The product's side of the quality benchmark: replays, their predictions, and a model made anew each window.

    driftgraph replay FILE --predictions P --redis none --json ──► [Replay] ──► the rank of each target
    Lockstep with two fits ──► [retrained] ──► what a full retrain is worth, what it and the next fit cost

First contacts (``explore``) are ranked by one replay, all targets (``repeats``) by a second one with
``publish.repeats``, whose lists may name what the user has touched.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from benchmarks.offline_evaluation.datasets import Dataset
from benchmarks.offline_evaluation.prequential import Stream
from driftgraph.stream.arrays import F64, I64

if TYPE_CHECKING:
    from driftgraph.model.trainer import FitReport  # torch is slow

PARTS = ("recall_at_20", "ndcg_at_20", "mrr_at_20")


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay: its report, its cost, and the events of one set that it ranked, with the ranks.

    ``events`` are places in the stream, ascending; the rank of an item outside of the list is inf.
    """

    report: Mapping[str, Any]
    cpu_s: float
    events: I64
    ranks: F64


def replay(dataset: Dataset, stream: Stream, folder: Path, seed: int, *, repeats: bool = False) -> Replay:
    """Run a replay with the product's defaults, or read what an earlier one left in the folder.

    ``repeats``: every event is a target, and lists may name what the user has touched.

    Raises:
        SystemExit: The replay failed; what it said is above.
    """
    name = f"{dataset.name.replace('/', '_')}-{dataset.fit}-{seed}{'-repeats' * repeats}"
    predictions, told = folder / f"{name}.parquet", folder / f"{name}.json"
    if not told.is_file():
        command = [
            str(Path(sys.executable).with_name("driftgraph")), "replay", str(dataset.path),
            "--redis", "none", "--json",
            "--span", dataset.span, "--seed", str(seed),
            "--predictions", str(predictions), "--data-dir", str(folder / f"{name}-data"),
        ]  # fmt: skip
        if dataset.relations:
            command += ["--relations", ",".join(dataset.relations)]
        if dataset.fit != "auto":
            command += ["--fit-every", dataset.fit]
        environment = {**os.environ, "DRIFTGRAPH__PUBLISH__REPEATS": str(repeats).lower()}
        predictions.unlink(missing_ok=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise SystemExit(
                f"a replay of {dataset.name} failed with exit code {done.returncode}: see its words above"
            )
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        told.write_text(json.dumps({"cpu_s": cpu_s, "report": json.loads(done.stdout)}), encoding="utf-8")
    kept = json.loads(told.read_text(encoding="utf-8"))
    events, ranks = ranked(stream, pq.read_table(predictions), repeats=repeats)
    return Replay(kept["report"], kept["cpu_s"], events, ranks)


def ranked(stream: Stream, table: pa.Table, *, repeats: bool) -> tuple[I64, F64]:
    """The events of the predictions as places in the stream, and the ranks of their items.

    Without ``repeats``, a row is left out if the window had forgotten an earlier contact of user and item.

    Raises:
        SystemExit: A row is of no event of the stream.
    """
    place: dict[tuple[str, str, int], int] = {}
    columns = (stream.user.tolist(), stream.item.tolist(), stream.time_ms.tolist())
    for n, (user, item, time_ms) in enumerate(zip(*columns, strict=True)):
        place.setdefault((stream.user_ids[user], stream.item_ids[item], time_ms), n)
    events, ranks = np.zeros(len(table), np.int64), np.zeros(len(table))
    rows = zip(
        *(table[name].to_pylist() for name in ("user_id", "item_id", "ts_ms", "top_items")), strict=True
    )
    for n, (user_id, item_id, time_ms, top) in enumerate(rows):
        if (user_id, item_id, time_ms) not in place:
            raise SystemExit(
                f"the predictions have an event that the file has not: {user_id}, {item_id}, {time_ms}"
            )
        events[n] = place[user_id, item_id, time_ms]
        ranks[n] = top.index(item_id) + 1 if item_id in top else np.inf
    # events of one user, item and time are one target, as its list is the same
    events, first = np.unique(events, return_index=True)
    ranks = ranks[first]
    kept = np.ones(len(events), np.bool_) if repeats else stream.first_contacts()[events]
    return events[kept], ranks[kept]


def parts_of(
    replays: Sequence[Replay], since_ms: int, end_ms: int | None = None
) -> dict[str, dict[str, float]]:
    """Every scorer that the reports name, as the product measured it in the intervals that end after a time.

    Intervals weigh by their events. Only those with a model count, and all seeds together.
    """
    sums: dict[str, np.ndarray[Any, Any]] = {}
    weight: dict[str, float] = {}
    for one in replays:
        for generation in one.report["generations"]:
            ends_ms, count = generation["watermark_ms"], generation["evaluated_events"]
            if (
                not count
                or generation["metrics"] is None
                or ends_ms <= since_ms
                or (end_ms and ends_ms > end_ms)
            ):
                continue
            for name, values in {"model": generation["metrics"], **generation["baselines"]}.items():
                means = np.array([values[part] for part in PARTS])
                sums[name] = sums.get(name, 0) + means * count
                weight[name] = weight.get(name, 0) + count
    return {
        name: dict(zip(PARTS, (total / weight[name]).tolist(), strict=True)) for name, total in sums.items()
    }


def mean_named(replays: Iterable[Replay], key: str) -> float | None:
    """The mean of the numbers that the reports' generations have under a key, at any depth, or None."""
    found: list[float] = []
    waiting: list[Any] = [one.report["generations"] for one in replays]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            number = value.get(key)
            if isinstance(number, int | float) and not np.isnan(number):
                found.append(float(number))
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return float(np.mean(found)) if found else None


@dataclass(frozen=True, slots=True)
class Retrained:
    """A model that one fit made of everything before a window, on that window; and what fits cost there."""

    begin_ms: int  # behind the newest event that the fit had: in files whose times are days a day later
    end_ms: int
    metrics: Mapping[str, float]  # empty: the gate refused the fit
    targets: int
    cpu_s: float  # of that fit
    next_cpu_s: float  # of the incremental fit on the window's events that follows it; nan if it was refused


def retrained(dataset: Dataset, stream: Stream, window_ms: int, seed: int, folder: Path) -> Retrained:
    """Train a fresh model on the events before a window as ``replay`` does, and evaluate it on the window.

    Both fits are timed alone, without reading and evaluation.
    """
    from driftgraph.app.config.builders import file_options, window_relations  # noqa: PLC0415  # torch is slow
    from driftgraph.app.config.settings import Settings  # noqa: PLC0415
    from driftgraph.app.training.lockstep import Lockstep  # noqa: PLC0415
    from driftgraph.stream.dead_letters.letters import MemoryDeadLetters  # noqa: PLC0415
    from driftgraph.stream.sources.file import FileSource  # noqa: PLC0415
    from driftgraph.stream.time.clock import SystemClock  # noqa: PLC0415

    end_ms = window_ms + dataset.every_ms
    path = folder / "prefix.csv"
    write_events(stream, path, end_ms)
    clock = SystemClock()
    tables = {"seed": seed, "window": {"span": dataset.span}, "fit": {"every": dataset.every}}
    settings = Settings.model_validate(tables).with_relations(stream.behaviors)
    source = FileSource(path, file_options(settings, clock))
    lockstep = Lockstep(
        settings,
        window_relations(settings, source.relations),
        clock,
        dead_letters=MemoryDeadLetters(),
        store=None,
    )
    begin_ms, early_ms = 0, window_ms - dataset.every_ms // 2
    trainer = lockstep.worker.trainer
    options = trainer.options  # nobody waits for this one: it learns from as much as a later one begun anew
    trainer.options = replace(options, first_examples_max=options.anew_examples_max)
    fits_s: list[float] = []
    with mock.patch.object(trainer, "fit", timed(trainer.fit, fits_s)):
        while (decoded := source.next_batch()) is not None:
            for mark in lockstep.take(decoded):
                # a mark is before the event that passes the window's start, so its watermark is earlier
                if not fits_s and not mark.is_early and mark.cut.watermark_ms >= early_ms:
                    begin_ms = mark.cut.watermark_ms + settings.time.out_of_orderness.ms + 1
                    lockstep.cycle()
        source.close()
        made = trainer.model_version > 0
        lockstep.finish()
    evaluation = lockstep.reports[-1].evaluation
    return Retrained(
        begin_ms,
        end_ms,
        evaluation.metrics.get("model", {}),
        evaluation.target_count,
        fits_s[0],
        fits_s[1] if made else float("nan"),
    )


def timed(fit: Callable[..., FitReport], cpu_s: list[float]) -> Callable[..., FitReport]:
    """The fit, which adds the processor seconds of each call, over all threads, to a list."""

    def call(*given: Any, **named: Any) -> FitReport:
        begun = time.process_time()
        report = fit(*given, **named)
        cpu_s.append(time.process_time() - begun)
        return report

    return call


def write_events(stream: Stream, path: Path, end_ms: int) -> None:
    """The events before a time as a canonical CSV file."""
    end = int(np.searchsorted(stream.time_ms, end_ms))
    table = pa.table(
        {
            "user_id": pa.array(stream.user_ids).take(stream.user[:end]),
            "item_id": pa.array(stream.item_ids).take(stream.item[:end]),
            "behavior": pa.array(stream.behaviors).take(stream.behavior[:end]),
            "timestamp": stream.time_ms[:end],
        }
    )
    csv.write_csv(table, path)
