"""The commands that show or switch what Redis serves. They need only Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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


def recommend(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id, as the events have it.")],
    top: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many items to name.")] = 20,
    why: Annotated[
        bool, typer.Option("--why", help="Also what each score is made of, from the running worker.")
    ] = False,
    where: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help='Only items with these attributes, such as {"category": "shoes", "price": [null, 50]}: a '
            "text, several, or a range.",
        ),
    ] = "{}",
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the best items for a user, from Redis alone."""
    from driftgraph.app.console.output import print_pairs
    from driftgraph.app.console.reasons import print_reasons, reasoned, recommended
    from driftgraph.snapshots.reader import EmbeddingReader
    from driftgraph.snapshots.reading.where import where_of

    try:
        wanted = where_of(where)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from error
    with redis_of(ctx, config, redis, namespace) as (client, settings):
        reader = EmbeddingReader(client, namespace=settings.redis.namespace)
        found = reader.recommend(user, top, where=wanted)
        is_first = found.source == "list" and reader.made_by() != "model"
    if found.source == "none" and not found.generation:
        raise _no_generation(settings)
    told = recommended(user, found)
    if why:
        told = reasoned(settings.data_dir, told)
    if as_json:
        print_as_json(told)
        return
    if is_first:
        print(
            f"generation {found.generation} has lists by co-visitation and popularity: no model yet",
            file=sys.stderr,
        )
    elif found.source not in ("list", "embedding"):
        print(f"generation {found.generation} does not know user {user!r}: {found.source}", file=sys.stderr)
    elif wanted and not found.items:
        print(f"no item of generation {found.generation} fits --where", file=sys.stderr)
    if why:
        print_reasons(told, console())
    else:
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

    with redis_of(ctx, config, redis, namespace) as (client, settings):
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

    with redis_of(ctx, config, redis, namespace) as (client, settings):
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
    from driftgraph.app.commands.status import manifest_of
    from driftgraph.app.console.drift_text import drift_in
    from driftgraph.app.console.output import print_generations

    with redis_of(ctx, config, redis, namespace) as (client, settings):
        store = store_of(client, settings)
        found, choice = store.generations(), store.choices.newest()
    rows = [
        {
            "generation": g.number,
            "current": g.current,
            "choice": choice.to_json() if g.current and choice.act_ms else None,
            "manifest": manifest_of(g.manifest),
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
    with redis_of(ctx, config, redis, namespace) as (client, settings):
        store = store_of(client, settings)
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
    with redis_of(ctx, config, redis, namespace) as (client, settings):
        served = store_of(client, settings).promote(number, hold=hold, by=operator())
    print_result(as_json, {"generation": served, "held": hold}, print_chosen)


@contextmanager
def redis_of(
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
    with redis_of(ctx, config, url, namespace) as (client, settings):
        yield store_of(client, settings)


def store_of(client: redis_py.Redis, settings: Settings) -> GenerationStore:
    """The store, under the current epoch: an operator acts beside the worker and does not replace it."""
    from driftgraph.app.config.builders import generation_store
    from driftgraph.snapshots.generations.lease import read_epoch

    return generation_store(settings, client, epoch=read_epoch(client, settings.redis.namespace))
