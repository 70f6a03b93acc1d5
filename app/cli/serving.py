"""The commands that show or switch what Redis serves. They need only Redis."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftgraph.app.cli.operator_text import operator, print_chosen
from driftgraph.app.cli.shared_options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    console,
    print_as_json,
    print_result,
    read_settings,
)
from driftgraph.stream.errors import DriftgraphError

if TYPE_CHECKING:
    import redis as redis_py

    from driftgraph.app.config.settings import Settings
    from driftgraph.snapshots.generations.store import GenerationStore

HoldOption = Annotated[
    bool, typer.Option("--hold", help="Publish nothing else until promote is called without --hold.")
]
NUMBER = re.compile(r"-?\d{1,18}(\.\d+)?")


def recommend(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id, as the events have it.")],
    top: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many items to name.")] = 20,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the best items for a user, from Redis alone."""
    from driftgraph.app.console.output import print_pairs
    from driftgraph.snapshots.reader import EmbeddingReader

    with _redis(ctx, config, redis, namespace) as (client, settings):
        reader = EmbeddingReader(client, namespace=settings.redis.namespace)
        found = reader.recommend(user, top)
        is_first = found.source == "list" and reader.made_by() != "model"
    if found.source == "none" and not found.generation:
        raise _no_generation(settings)
    if as_json:
        print_as_json(
            {
                "user": user,
                "generation": found.generation,
                "source": found.source,
                "event_ms": found.event_ms,
                "items": _scored(found.items),
            }
        )
        return
    if is_first:
        print(
            f"generation {found.generation} has lists by co-visitation and popularity: no model yet",
            file=sys.stderr,
        )
    elif found.source not in ("list", "embedding"):
        print(f"generation {found.generation} does not know user {user!r}: {found.source}", file=sys.stderr)
    print_pairs(found.items, console())


def similar(
    ctx: typer.Context,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="The item's id, as in the events.")],
    top: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Items to name.")] = 20,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the items most similar to an item, from Redis alone."""
    from driftgraph.app.console.output import print_pairs
    from driftgraph.snapshots.reader import EmbeddingReader

    with _redis(ctx, config, redis, namespace) as (client, settings):
        found = EmbeddingReader(client, namespace=settings.redis.namespace).similar(item, top)
    generation = f"generation {found.generation} of namespace {settings.redis.namespace!r}"
    if found.source == "none":
        raise _no_generation(settings)
    if found.source == "off":
        raise DriftgraphError(
            f"{generation} has no lists of similar items: set publish.similar above 0 for driftgraph run or "
            "driftgraph replay, and the next generation has them"
        )
    if found.source == "unknown":
        raise DriftgraphError(
            f"{generation} does not know item {item!r}: name one that has an event in the window, as its id "
            "is written in the events"
        )
    if as_json:
        print_as_json({"item": item, "generation": found.generation, "items": _scored(found.items)})
        return
    if not found.items:
        print(f"{generation} has nothing similar to item {item!r} yet", file=sys.stderr)
    print_pairs(found.items, console())


def scores(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id, as in the events.")],
    items: Annotated[list[str], typer.Argument(metavar="ITEM", help="The ids of the items to be shown.")],
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how probable each behavior is for items that are shown."""
    from driftgraph.app.console.head_text import print_chances
    from driftgraph.snapshots.reader import EmbeddingReader

    with _redis(ctx, config, redis, namespace) as (client, settings):
        found = EmbeddingReader(client, namespace=settings.redis.namespace).scores(user, items)
    if found.source == "none":
        raise _no_generation(settings)
    if found.source == "off":
        raise DriftgraphError(
            f"generation {found.generation} of namespace {settings.redis.namespace!r} has no probabilities: "
            "name what was shown in events.impressions, and the next generation of a trained model has them"
        )
    rows = [
        {
            "item": item,
            "known": known,
            "probability": {name: float(chance[n]) for name, chance in found.by_behavior.items()},
        }
        for n, (item, known) in enumerate(zip(items, found.items_found.tolist(), strict=True))
    ]
    value = {"user": user, "known": found.user_found, "generation": found.generation, "items": rows}
    print_result(as_json, value, print_chances)


def _scored(items: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"item": item, "score": score} for item, score in items]


def _no_generation(settings: Settings) -> DriftgraphError:
    return DriftgraphError(
        f"{settings.redis.public_url()} has no generation in namespace {settings.redis.namespace!r}: "
        "where an updater runs, driftgraph status says when its first one is due; else publish one with "
        "driftgraph run or driftgraph replay --redis URL, or name another --namespace"
    )


def status(
    ctx: typer.Context,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="For a health check: exit with 1 if no updater of this data_dir runs or waits."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far the updater is, and what Redis serves.

    The updater is that of this data_dir. What it and its worker say of themselves is shown also while Redis
    is away. Exits with 1 if the updater is degraded, which means that its worker fails again and again, or
    if Redis does not answer; with --check a Redis that is away is no fault.
    """
    from driftgraph.app.commands.health import fault
    from driftgraph.app.console.status_files import told
    from driftgraph.snapshots.generations.keys import StoreError
    from driftgraph.stream.time.clock import SystemClock

    served, keys, away, choice = None, dict[str, int](), None, None
    with _redis(ctx, config, redis, namespace) as (client, settings):
        try:
            store = _store(client, settings)
            served, choice = store.served(), store.choices.newest()
            keys = store.count_keys()
        except StoreError as error:
            away = error
    manifest = _manifest(served.manifest) if served else {}
    updater, standby, worker = (told(settings.data_dir, who) for who in ("updater", "standby", "worker"))
    if standby is not None and standby["state"] in ("gone", "unknown"):
        standby = None
    if worker is not None and worker["state"] == "unknown":  # the updater's line says why
        worker = None
    value = {
        "redis": settings.redis.public_url(),
        "namespace": settings.redis.namespace,
        "redis_error": None if away is None else str(away),
        "generation": None if away is not None else served.number if served else 0,
        "choice": None if choice is None or not choice.act_ms else choice.to_json(),
        "manifest": manifest,
        "keys": keys,
        "updater": updater,
        "standby": standby,
        "worker": worker,
    }
    if as_json:
        print_as_json(value)
    else:
        _print_status(value)
    if check and (wrong := fault(updater, standby, now_ms=SystemClock().now_ms())) is not None:
        raise DriftgraphError(wrong)
    if away is not None and not check:  # a health check checks only the updater, which works without Redis
        raise away
    if updater is not None and updater["state"] == "degraded":
        raise typer.Exit(1)


def _print_status(value: Mapping[str, Any]) -> None:
    from driftgraph.app.console.output import print_pairs
    from driftgraph.app.console.status_text import choice_pairs, manifest_pairs
    from driftgraph.app.training.worker_status import worker_pairs

    pairs = _updater_pairs(value["updater"])
    pairs += worker_pairs(value["worker"])
    pairs += [("standby", f"pid {one['pid']}: {one['why']}")] if (one := value["standby"]) else []
    shown = ("redis", "namespace", "generation") if value["redis_error"] is None else ("redis", "namespace")
    pairs += [(name, value[name]) for name in shown]
    pairs += choice_pairs(value["choice"])
    pairs += manifest_pairs(value["manifest"])
    pairs += [(f"keys, {kind}", count) for kind, count in value["keys"].items()]
    print_pairs(pairs, console())


def _updater_pairs(updater: dict[str, Any] | None) -> list[tuple[str, object]]:
    from driftgraph.app.console import status_text
    from driftgraph.app.console.output import time_of
    from driftgraph.app.live.worker_end import worker_of

    if updater is None:
        return [("updater", "none has run with this data_dir")]
    if updater["state"] == "unknown":
        return [("updater", f"unknown: {updater['why']}")]
    pairs: list[tuple[str, object]] = [("updater", f"{updater['state']}, pid {updater['pid']}")]
    worker = worker_of(updater.get("worker") or {})
    if updater.get("why") and updater["state"] != "degraded":  # then the worker's line has the reason
        pairs.append(("why", updater["why"]))
    if worker is not None and updater["state"] not in ("gone", "stopped", "failed"):
        pairs.append(("worker", worker))
    pairs += [("WARNING", warning) for warning in updater.get("warnings") or []]
    pairs += [("event time", time_of(updater["watermark_ms"])), ("lag", sum(updater["lag"].values()))]
    pairs += [(f"events {name}", count) for name, count in updater["events"].items()]
    pairs += [("checkpoint", status_text.checkpoint_of(updater))] if updater.get("checkpoint") else []
    if (waiting := updater.get("first_fit")) and updater["state"] in ("running", "filling", "degraded"):
        pairs.append(("first fit", status_text.first_fit_of(waiting)))
    letters = updater.get("dead_letters") or {}
    pairs += [("dead letters waiting", n)] if (n := letters.get("waiting")) else []
    pairs += [("dead letters", why)] if (why := letters.get("failure")) else []
    if forgotten := letters.get("forgotten"):
        said = f"{forgotten:,} are remembered no longer, and are kept twice if their events are read again"
        pairs += [("dead letters", said)]
    erasures = updater.get("erasures") or {}
    pairs += (
        [("erasures not done", n)] if (n := erasures.get("waiting", 0) + erasures.get("pending", 0)) else []
    )
    pairs += [("erasures", why)] if (why := erasures.get("failure")) else []
    ids = updater.get("deduplication") or {}
    pairs += [("event ids", status_text.deduplication_of(ids))] if ids.get("ids") else []
    own = updater.get("attributes")
    pairs += [("attributes", status_text.topics_of_attributes(own))] if own else []
    pairs += [("reading", "paused until what waits is kept")] if updater.get("reading_paused") else []
    return pairs + [(f"window, {name}", count) for name, count in updater["window"].items()]


def generations(
    ctx: typer.Context,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the generations that Redis can serve, and what moved.

    The moves are those from the generation before the current one to the current one.
    """
    from driftgraph.app.console.drift_text import drift_in
    from driftgraph.app.console.output import print_generations

    with _redis(ctx, config, redis, namespace) as (client, settings):
        store = _store(client, settings)
        found, choice = store.generations(), store.choices.newest()
    rows = [
        {
            "generation": g.number,
            "current": g.current,
            "choice": choice.to_json() if g.current and choice.act_ms else None,
            "manifest": _manifest(g.manifest),
            **drift_in(g.manifest),
        }
        for g in found
    ]
    print_result(as_json, rows, print_generations)


def rollback(
    ctx: typer.Context,
    hold: HoldOption = False,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to the generation before the served one, at once.

    The worker goes on with the model of that generation: it refreshes users in it within seconds, and the
    next fit starts from it. A worker that does not have the model any more leaves the generation as it is
    until the next fit. A hold that is on stays on.
    """
    with _redis(ctx, config, redis, namespace) as (client, settings):
        store = _store(client, settings)
        number = store.rollback(hold=hold, by=operator())
        choice = store.choices.newest()
    print_result(as_json, {"generation": number, "held": choice.is_held}, print_chosen)


def promote(
    ctx: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[N]", min=1, help="Which one; without it the newest that is kept."),
    ] = None,
    hold: HoldOption = False,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a generation that is kept, older or newer, at once.

    The worker goes on with its model, as after a rollback. Without --hold this ends a hold: the next fit is
    published again. driftgraph generations lists what is kept.
    """
    with _redis(ctx, config, redis, namespace) as (client, settings):
        served = _store(client, settings).promote(number, hold=hold, by=operator())
    print_result(as_json, {"generation": served, "held": hold}, print_chosen)


@contextmanager
def _redis(
    ctx: typer.Context, config: Path | None, url: str | None, namespace: str | None
) -> Iterator[tuple[redis_py.Redis, Settings]]:
    """A client of the configured Redis, closed at the end."""
    from driftgraph.snapshots.generations.keys import connect

    settings = read_settings(ctx, config, {"redis": {"url": url, "namespace": namespace}})
    client = connect(settings.redis.address())
    try:
        yield client, settings
    finally:
        client.close()


@contextmanager
def redis_store(
    ctx: typer.Context, config: Path | None, url: str | None, namespace: str | None
) -> Iterator[GenerationStore]:
    """The store of the configured Redis, closed at the end."""
    with _redis(ctx, config, url, namespace) as (client, settings):
        yield _store(client, settings)


def _store(client: redis_py.Redis, settings: Settings) -> GenerationStore:
    """The store, under the current epoch: an operator acts beside the worker and does not replace it."""
    from driftgraph.app.config.builders import generation_store
    from driftgraph.snapshots.generations.lease import read_epoch

    return generation_store(settings, client, epoch=read_epoch(client, settings.redis.namespace))


def _manifest(fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a manifest without drift, with numbers as numbers."""
    from driftgraph.app.console.drift_text import FIELDS, is_user

    number = {True: float, False: int}
    named = {
        "model_version" if k == "model_generation" else k: v for k, v in fields.items()
    }  # its former name
    return {
        k: number["." in v](v) if NUMBER.fullmatch(v) else v
        for k, v in named.items()
        if k not in FIELDS and not is_user(k)
    }
