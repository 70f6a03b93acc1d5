"""Builds the options of stream, model and snapshots from the configuration. It only translates.

Settings ──► [window_relations, file_options, watermark_rules, fit_schedule]      ──► stream
         ├─► [trainer_options]                                                    ──► model
         └─► [lease_client, generation_store]                                   ──► snapshots
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import redis

from driftgraph.app.config.formats import event_rules, file_decoder, ignored_behaviors
from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.events import MAPPED
from driftgraph.model.options import ListLengths, TrainerOptions
from driftgraph.snapshots.generations.lease import LeaseClient, impatient
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.formats.event_rules import Others
from driftgraph.stream.ingest.fit_schedule import Auto, Counted, FitSchedule
from driftgraph.stream.sources.file_options import FileOptions
from driftgraph.stream.time.clock import Clock, SystemClock
from driftgraph.stream.time.watermark import WatermarkRules
from driftgraph.stream.window.view import SLOTS_MAX
from driftgraph.stream.window.writer import EVENTS_MAX, RELATIONS_MAX, Relation
from driftgraph.stream.wording import BY_OPTION


def window_relations(settings: Settings, names: Iterable[str] | None = None) -> tuple[Relation, ...]:
    """The relations of the window with their defaults; ``names`` are those that were found in a file.

    Raises:
        ConfigError: If there are more relations, or more events, than a window can hold.
    """
    window = settings.window
    impressions = settings.events.impressions
    found = (*settings.relations, *impressions) if names is None else names
    chosen = {name: settings.relations.get(name) for name in found}
    if names is not None and not set(chosen) - set(impressions):
        raise ConfigError(
            f"the file has no behavior but {', '.join(impressions)}, which events.impressions names: "
            "impressions make no edges, so there is nothing to train on"
        )
    negatives = settings.model.negatives
    if not isinstance(negatives, str) and (
        unknown := sorted(set(negatives) - (set(chosen) - set(impressions)))
    ):
        edges = ", ".join(name for name in chosen if name not in impressions) or "none"
        raise ConfigError(
            f"model.negatives names {unknown[0]!r}, which is no relation; the relations are {edges}"
        )
    relations = tuple(
        Relation(
            name,
            span_ms=(own.span if own and own.span else window.span).ms,
            capacity=own.capacity if own and own.capacity else window.capacity,
            user_events_max=window.user_events_max,
            item_events_max=window.item_events_max or EVENTS_MAX,
            is_edge=name not in impressions,
        )
        for name, own in chosen.items()
    )
    if len(relations) > RELATIONS_MAX:
        raise ConfigError(
            f"{len(relations)} relations, and a window has {RELATIONS_MAX} at most: give rare behaviors "
            "one name in events.mapping.behaviors, or name those to leave out in events.ignore"
        )
    if (slots := sum(relation.capacity for relation in relations)) > SLOTS_MAX:
        raise ConfigError(
            f"the capacities of the relations add up to {slots:,} events, and a window holds "
            f"{SLOTS_MAX:,} at most: lower window.capacity or relations.NAME.capacity"
        )
    return relations


def watermark_rules(settings: Settings) -> WatermarkRules:
    """How event time advances on a live topic."""
    return WatermarkRules(
        out_of_orderness_ms=settings.time.out_of_orderness.ms,
        allowed_lateness_ms=settings.time.lateness.ms,
        idle_timeout_ms=settings.time.idle_timeout.ms,
        future_skew_ms=settings.time.skew.ms,
    )


def fit_schedule(
    settings: Settings,
    relations: Sequence[Relation],
    *,
    counted: Counted | None = None,
    watermark_ms: int = 0,
) -> FitSchedule:
    """When fits are due, live and in a replay; it goes on from ``counted`` and ``watermark_ms``."""
    fit = settings.fit
    every = auto_interval(settings, relations) if fit.every == "auto" else fit.every.ms
    return FitSchedule(every, fit.events, counted=counted, watermark_ms=watermark_ms)


def auto_interval(settings: Settings, relations: Sequence[Relation]) -> Auto:
    """The rule of ``fit.every = "auto"`` for a window of these relations."""
    longest_ms = max((relation.span_ms for relation in relations), default=settings.window.span.ms)
    return Auto.of(longest_ms, settings.fit.examples_max)


def file_options(settings: Settings, clock: Clock | None = None) -> FileOptions:
    """How to read a file of events, whose rows are judged like the messages of a topic.

    Without configured relations, those in the file are taken. ``clock`` tells which times are in the future.
    """
    events = settings.events
    decoder = file_decoder(events)
    spans_ms = [(own.span or settings.window.span).ms for own in settings.relations.values()]
    return FileOptions(
        format="json" if events.format in MAPPED else events.format,
        attributes=events.attributes.paths(),
        columns=events.columns.given(),
        no_header=not events.header,
        separator=events.separator,
        relations=tuple(settings.relations) or None,
        others=Others.IGNORE if settings.relations_are_chosen else Others.REJECT,
        impressions=events.impressions,
        ignore=ignored_behaviors(settings),
        times=event_rules(settings, clock or SystemClock()).times,
        erase=events.erase,
        decoder=decoder,
        span_ms=max(spans_ms, default=settings.window.span.ms),
        wording=BY_OPTION,
    )


def trainer_options(settings: Settings, *, device: str) -> TrainerOptions:
    """The options of a trainer; ``device`` is the device that ``model.device`` means on this machine."""
    return TrainerOptions(
        **settings.model.model_dump(exclude={"device"}),
        examples_max=settings.fit.examples_max,
        replay_ratio=settings.fit.replay_ratio,
        full_every_ms=0 if settings.fit.full_every is None else settings.fit.full_every.ms,
        evaluations_max=settings.fit.evaluations_max,
        attribution_ms=settings.events.attribution.ms,
        repeats=settings.publish.repeats,
        behavior_weights={name: own.weight for name, own in settings.relations.items()},
        seed=settings.seed,
        device=device,
    )


def list_lengths(settings: Settings) -> ListLengths:
    """How long the lists are that a generation has."""
    own = settings.publish
    return ListLengths(lists=own.lists, similar=own.similar, repeats=own.repeats)


def delisted_file(settings: Settings) -> Path:
    """Where a worker remembers what is delisted, against a Redis that forgets."""
    return settings.data_dir / "delisted.json"


def generation_store(settings: Settings, client: redis.Redis, *, epoch: int) -> GenerationStore:
    """The store of this configuration's generations, under a fencing epoch."""
    own = settings.redis
    ttl_s = max(1, own.ttl.ms // 1000)
    return GenerationStore(
        client,
        namespace=own.namespace,
        epoch=epoch,
        keep=own.keep,
        ttl_s=ttl_s,
        vectors=settings.publish.vectors,
        index=settings.publish.index,
        feast=settings.publish.feast or "",
    )


def lease_name(settings: Settings) -> str:
    """The name of an updater in the lease, with its shard: shards are no standbys of each other."""
    shard = settings.kafka.shard
    return settings.name if settings.kafka.shard_of()[1] == 1 else f"{settings.name}:{shard}"


def lease_client(
    settings: Settings, place: str = "", *, name: str | None = None, url: str | None = None
) -> LeaseClient:
    """A client of the lease with a connection of its own and short timeouts, since the caller asks again.

    ``name`` and ``url`` are those of the configuration, unless a replay has its own; it follows no topic.
    """
    return LeaseClient(
        impatient(url or settings.redis.address()),
        namespace=settings.redis.namespace,
        name=name or lease_name(settings),
        topic="" if name else settings.kafka.topic,
        place=place,
    )
