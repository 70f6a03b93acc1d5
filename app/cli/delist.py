"""``driftgraph delist`` and ``relist``: take items out of every answer at once, and let them in again."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from driftgraph.app.cli.serving import redis_store
from driftgraph.app.cli.shared_options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    print_result,
)

ItemsArgument = Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids, as the events have them.")]


def delist(
    ctx: typer.Context,
    items: ItemsArgument,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take items out of all lists, searches and rising items.

    Readers leave them out at once. Their vectors go from every generation that is kept, and then the lists
    that name them are mended; a worker finishes that if this command is killed. No later publish or refresh
    has them until relist. Events of them are counted on. A topic can do the same: events.delisted_topic.
    """
    mended = _changed(ctx, items, "SADD", config, redis, namespace)
    told = {"delisted": items, "lists_mended": mended}
    text = f"{len(items)} items are delisted, and {mended:,} lists were mended"
    print_result(as_json, told, lambda _, out: out.print(text, highlight=False))


def relist(
    ctx: typer.Context,
    items: ItemsArgument,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let delisted items in again. A worker writes their vectors in seconds, refreshed lists name them."""
    _changed(ctx, items, "SREM", config, redis, namespace)
    when = "within seconds where a worker runs, else from the next generation on"
    text = f"{len(items)} items are listed again, {when}"
    print_result(as_json, {"relisted": items}, lambda _, out: out.print(text, highlight=False))


def _changed(
    ctx: typer.Context,
    items: list[str],
    what: Literal["SADD", "SREM"],
    config: ConfigOption,
    redis: RedisOption,
    namespace: NamespaceOption,
) -> int:
    with redis_store(ctx, config, redis, namespace) as store:
        store.delisting.change(items, what)
        return store.delisting.remove(items) if what == "SADD" else 0
