"""What the status files and the manifest say, as Prometheus metrics.

Facts ──► [families] ──► GET /metrics

Counters are of one process: they begin again at 0 when it does, as Prometheus expects. Labels have names of
relations, reasons and scorers, never an id.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from driftgraph.app.console.troubles import CODES, Facts, heard_ms, troubles_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
UPDATER_STATES: Final = ("filling", "running", "degraded", "stopped", "failed", "gone", "unknown")
OUTCOMES: Final = ("applied", "late", "rejected", "duplicate", "ignored", "erased", "forgotten")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def exposition(facts: Facts, version: str) -> bytes:
    """The text that a Prometheus server reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(families(facts, version)))
    return generate_latest(registry)


class _Once:
    """A collector of families that are there already."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._found


def families(facts: Facts, version: str) -> Iterator[Metric]:
    """All metrics of one time; those of a process that has never run are left out."""
    build = GaugeMetricFamily(
        "driftgraph_build_info", "Version of driftgraph and Python.", labels=["version", "python"]
    )
    build.add_metric([version, platform.python_version()], 1)
    yield build
    trouble = GaugeMetricFamily("driftgraph_trouble", "1 while something is wrong.", labels=["code"])
    wrong = {one.code for one in troubles_of(facts)}
    for code in CODES:
        trouble.add_metric([code], code in wrong)
    yield trouble
    if facts.updater is not None and facts.updater["state"] != "unknown":
        yield from _of_updater(facts.updater, facts.now_ms)
        yield from _of_window(facts.updater)
        yield from _of_kept(facts.updater)
        yield from _of_worker(facts.updater["worker"])
    if facts.worker is not None:
        if refresh := facts.worker.get("refresh"):
            yield from _of_refresh(refresh)
        if work := facts.worker.get("work"):
            yield from _of_work(work)
    yield from _of_serving(facts)
    yield from _of_memory(facts)
    if facts.disk_free_bytes is not None:
        yield GaugeMetricFamily(
            "driftgraph_disk_free_bytes", "Free on the disk of data_dir.", value=facts.disk_free_bytes
        )


def _of_updater(told: Mapping[str, Any], now_ms: int) -> Iterator[Metric]:
    state = GaugeMetricFamily("driftgraph_updater_state", "1 for what the updater is at.", labels=["state"])
    for name in UPDATER_STATES:
        state.add_metric([name], told["state"] == name)
    yield state
    yield _gauge(
        "driftgraph_status_age_seconds", "Since the updater wrote its status.", now_ms - heard_ms(told)
    )
    yield GaugeMetricFamily(
        "driftgraph_kafka_up", "1 while Kafka answers the updater.", value=not told["kafka_away"]
    )
    yield CounterMetricFamily(
        "driftgraph_events_consumed", "Messages read from Kafka.", told["events"]["read"]
    )
    outcome = CounterMetricFamily("driftgraph_events", "Events by what became of them.", labels=["outcome"])
    for name in OUTCOMES:
        outcome.add_metric([name], told["events"][name])
    yield outcome
    rejected = CounterMetricFamily(
        "driftgraph_events_rejected", "Events that are dead letters.", labels=["reason"]
    )
    for reason, count in sorted(told["reasons"].items()):
        rejected.add_metric([reason], count)
    yield rejected
    yield GaugeMetricFamily("driftgraph_lag_messages", "Messages not read yet.", sum(told["lag"].values()))
    yield CounterMetricFamily(
        "driftgraph_messages_lost",
        "Messages that Kafka deleted before they were read.",
        sum(told["lost"].values()),
    )
    if told["watermark_ms"] > 0:
        yield _gauge(
            "driftgraph_watermark_lag_seconds", "Of event time behind now.", now_ms - told["watermark_ms"]
        )
    yield _gauge(
        "driftgraph_poll_gap_seconds", "Longest between two polls of Kafka.", told["poll_gap_max_ms"]
    )
    yield GaugeMetricFamily(
        "driftgraph_lease_held", "1 while the updater has the lease.", told["lease"]["held"]
    )


def _of_window(told: Mapping[str, Any]) -> Iterator[Metric]:
    for name, help_, counts, kind in (
        ("driftgraph_window_events", "Live events of a relation.", told["window"], GaugeMetricFamily),
        (
            "driftgraph_window_truncated",
            "Events that a full ring dropped.",
            told["truncated"],
            CounterMetricFamily,
        ),
        ("driftgraph_window_capped", "Events that a cap left out.", told["capped"], CounterMetricFamily),
        (
            "driftgraph_window_expired",
            "Events that got too old.",
            told.get("expired", {}),
            CounterMetricFamily,
        ),
    ):
        family = kind(name, help_, labels=["relation"])
        for relation, count in counts.items():
            family.add_metric([relation], count)
        yield family
    yield GaugeMetricFamily("driftgraph_window_bytes", "Of the window's files.", told.get("window_bytes", 0))
    nodes = GaugeMetricFamily("driftgraph_window_nodes", "Users and items that have a row.", labels=["side"])
    for side, count in told["ids"].items():
        nodes.add_metric([side], count)
    yield nodes


def _of_kept(told: Mapping[str, Any]) -> Iterator[Metric]:
    one, ids = told["checkpoint"], told["deduplication"]
    yield _gauge(
        "driftgraph_checkpoint_age_seconds", "Since the newest checkpoint, or the start.", one["age_ms"]
    )
    yield _gauge("driftgraph_checkpoint_seconds", "That the newest checkpoint took.", one.get("took_ms") or 0)
    yield GaugeMetricFamily("driftgraph_checkpoint_bytes", "Of the newest checkpoint.", one.get("bytes", 0))
    yield GaugeMetricFamily(
        "driftgraph_held_partitions", "Partitions that wait for others.", told.get("held_partitions", 0)
    )
    yield GaugeMetricFamily(
        "driftgraph_dead_letters_waiting", "Dead letters not kept yet.", told["dead_letters"]["waiting"]
    )
    erasures = told["erasures"]["waiting"] + told["erasures"]["pending"]
    yield GaugeMetricFamily("driftgraph_erasures_waiting", "Requests to erase not done yet.", erasures)
    yield GaugeMetricFamily(
        "driftgraph_reading_paused", "1 while reading waits for what must be kept.", told["reading_paused"]
    )
    if own := told.get("attributes"):
        lag = sum(own["lag"].values())
        yield GaugeMetricFamily(
            "driftgraph_attributes_lag_messages",
            "Records of topics of attributes that are not read yet.",
            lag,
        )
    if delisted := told.get("delisted"):
        yield GaugeMetricFamily(
            "driftgraph_topic_delisted_items", "Items that the topic delists.", delisted["items"]
        )
        yield GaugeMetricFamily(
            "driftgraph_topic_delisted_left_over",
            "Items that the topic delists and that are too many to be delisted.",
            delisted["left_over"],
        )
        yield CounterMetricFamily(
            "driftgraph_topic_delisted_records_left_out",
            "Records of the topic of delisted items that name no item.",
            delisted["left_out"],
        )
        yield GaugeMetricFamily(
            "driftgraph_topic_delisted_told",
            "Whether Redis has what the topic of delisted items said.",
            delisted["failure"] is None,
        )
        lag = sum(delisted["lag"].values())
        yield GaugeMetricFamily(
            "driftgraph_topic_delisted_lag_messages", "Records of the topic that are not read yet.", lag
        )
        yield _gauge(
            "driftgraph_topic_delisted_lag_seconds",
            "Since Redis last had all that the topic of delisted items says.",
            delisted.get("behind_ms", 0),
        )
    yield GaugeMetricFamily("driftgraph_deduplication_ids", "Event ids that are remembered.", ids["ids"])
    yield _gauge(
        "driftgraph_deduplication_reach_seconds", "How far the event ids reach back.", ids["reach_ms"]
    )


def _of_worker(worker: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("driftgraph_worker_up", "1 while the worker runs.", worker["state"] == "running")
    yield CounterMetricFamily("driftgraph_worker_starts", "Starts of the worker's process.", worker["starts"])
    yield GaugeMetricFamily("driftgraph_worker_failures", "Ends of the worker in a row.", worker["failures"])


def _of_refresh(refresh: Mapping[str, Any]) -> Iterator[Metric]:
    for kind in ("users", "items"):
        help_ = f"Refreshes of {kind} since the worker's start."
        yield CounterMetricFamily(f"driftgraph_refreshed_{kind}", help_, refresh[kind])
    yield GaugeMetricFamily("driftgraph_refresh_waiting", "Users who wait for a refresh.", refresh["waiting"])
    own = refresh["freshness"]
    servable = HistogramMetricFamily(
        "driftgraph_servable_seconds",
        "Until what a user did can be read, by what it is from.",
        labels=["origin"],
    )
    ends = [*(f"{end_ms / 1_000:g}" for end_ms in own["ends_ms"]), "+Inf"]
    for origin in ("event", "received"):
        counts = itertools.accumulate(own[origin]["counts"])
        servable.add_metric([origin], list(zip(ends, counts, strict=True)), sum_value=None)
    yield servable


def _of_work(work: Mapping[str, Any]) -> Iterator[Metric]:
    decisions = CounterMetricFamily(
        "driftgraph_gate_decisions", "Fits by what the gate decided.", labels=["reason"]
    )
    for reason, count in sorted(work["decisions"].items()):
        decisions.add_metric([reason], count)
    yield decisions
    yield CounterMetricFamily(
        "driftgraph_fit_steps", "Training steps, of refused attempts too.", work["steps"]
    )
    yield CounterMetricFamily(
        "driftgraph_fit_skipped_steps", "Training steps without a finite loss or gradient.", work["skipped"]
    )
    yield CounterMetricFamily("driftgraph_fit_seconds", "Spent in fits.", work["fit_ms"] / 1_000)
    if work["loss"] is not None:
        yield GaugeMetricFamily("driftgraph_fit_loss", "Mean over the steps of the newest fit.", work["loss"])
    yield CounterMetricFamily("driftgraph_publishes", "Generations that were published.", work["publishes"])
    yield CounterMetricFamily(
        "driftgraph_publish_seconds", "Spent in writing generations.", work["publish_ms"] / 1_000
    )
    errors = CounterMetricFamily(
        "driftgraph_redis_errors", "Times that Redis did not do what it should.", labels=["operation"]
    )
    for operation in ("publish", "refresh"):
        errors.add_metric([operation], work["redis_errors"].get(operation, 0))
    yield errors


def _of_serving(facts: Facts) -> Iterator[Metric]:
    yield GaugeMetricFamily("driftgraph_redis_up", "1 while Redis answers.", facts.redis_error is None)
    yield GaugeMetricFamily("driftgraph_generation", "The served generation, 0 for none.", facts.generation)
    if not facts.generation:
        return
    manifest = facts.manifest
    yield GaugeMetricFamily(
        "driftgraph_model_version",
        "The trainer's version of the served model.",
        int(manifest.get("model_version", 0)),
    )
    for kind in ("users", "items"):
        yield GaugeMetricFamily(
            f"driftgraph_published_{kind}", "Of the served generation.", int(manifest.get(kind, 0))
        )
    if (published_ms := int(manifest.get("published_ms", 0))) > 0:
        age_ms = facts.now_ms - published_ms
        yield _gauge(
            "driftgraph_generation_age_seconds", "Since the served generation was published.", age_ms
        )
    quality = GaugeMetricFamily(
        "driftgraph_quality", "Test-then-train metrics of the served generation.", labels=["scorer", "metric"]
    )
    for scorer, values in json.loads(manifest.get("metrics", "{}")).items():
        for metric, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                quality.add_metric([scorer, metric], value)
    yield quality


def _of_memory(facts: Facts) -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "driftgraph_memory_bytes", "Resident memory, with what processes share.", labels=["process"]
    )
    for name, told in (("updater", facts.updater), ("worker", facts.worker)):
        if told is not None and told.get("pid") and told["state"] not in ("gone", "stopped", "failed"):
            try:
                with open(f"/proc/{told['pid']}/statm", encoding="ascii") as file:
                    memory.add_metric([name], int(file.read().split()[1]) * PAGE_BYTES)
            except OSError:  # it has ended since
                continue
    yield memory
    if facts.worker is not None and (gpu := facts.worker.get("gpu")):
        family = GaugeMetricFamily("driftgraph_gpu_memory_bytes", "Of the GPU that trains.", labels=["kind"])
        for kind, count in gpu.items():
            family.add_metric([kind], count)
        yield family


def _gauge(name: str, help_: str, ms: int) -> GaugeMetricFamily:
    """A gauge in seconds of a value in milliseconds."""
    return GaugeMetricFamily(name, help_, value=ms / 1_000)
