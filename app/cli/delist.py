"""``driftgraph delist`` and ``relist``: take items out of every answer at once, and let them in again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from driftgraph.app.cli.serving import redis_of, redis_store, store_of
from driftgraph.app.cli.shared_options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    print_result,
)

if TYPE_CHECKING:
    import redis as redis_py
    from rich.console import Console

    from driftgraph.app.config.settings import Settings
    from driftgraph.snapshots.generations.store import GenerationStore

UNKNOWN_SHOWN: Final = 10
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
    with redis_of(ctx, config, redis, namespace) as (client, settings):
        store = store_of(client, settings)
        unknown = _unknown(items, store, client, settings)
        store.delisting.change(items, "SADD")
        mended = store.delisting.remove(items)
    text = f"{_counted(items)} delisted, and {mended:,} lists were mended"
    if unknown:
        named = ", ".join(unknown[:UNKNOWN_SHOWN])
        text += f"; the served generation does not have {named}: look whether the id is right"
    print_result(
        as_json,
        {"delisted": items, "lists_mended": mended, "unknown": unknown},
        lambda _, out: _say(text, out),
    )


def relist(
    ctx: typer.Context,
    items: ItemsArgument,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let delisted items in again. A worker writes their vectors in seconds, refreshed lists name them."""
    with redis_store(ctx, config, redis, namespace) as store:
        store.delisting.change(items, "SREM")
    when = "within seconds where a worker runs, else from the next generation on"
    print_result(
        as_json, {"relisted": items}, lambda _, out: _say(f"{_counted(items)} listed again, {when}", out)
    )


def _unknown(
    items: list[str], store: GenerationStore, client: redis_py.Redis, settings: Settings
) -> list[str]:
    """Those of the items that the served generation does not have, and that nobody has delisted before."""
    from driftgraph.snapshots.reader import EmbeddingReader

    reader = EmbeddingReader(client, namespace=settings.redis.namespace)
    if not reader.current():
        return []
    _, known = reader.items(items)
    _, delisted = store.delisting.newest()
    return [
        item for item, is_known in zip(items, known, strict=True) if not is_known and item not in delisted
    ]


def _counted(items: list[str]) -> str:
    return "1 item is" if len(items) == 1 else f"{len(items)} items are"


def _say(text: str, out: Console) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
