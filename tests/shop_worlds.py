"""A small shop as tests of the application want it: its events as batches, in a graph, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from driftgraph.app.demo.shop import BEHAVIORS, Shop, ShopOptions, open_shop
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation

DAY_MS = 86_400_000
START_MS = 1_782_864_000_000
RELATIONS = tuple(Relation(name, 30 * DAY_MS, 1 << 14) for name in BEHAVIORS)
SMALL = TrainerOptions(dim=16, heads=2, batch_size=128, sampled_negatives=64, evaluations_max=400)


def small_shop(event_count: int = 3_000, *, seed: int = 1, users: int = 80, items: int = 120) -> Shop:
    return open_shop(
        ShopOptions(
            user_count=users,
            item_count=items,
            category_count=6,
            event_count=event_count,
            start_ms=START_MS,
            span_ms=4 * DAY_MS,
            seed=seed,
        )
    )


def batch_of(shop: Shop, first: int = 0, stop: int | None = None) -> EventBatch:
    part = slice(first, stop)
    return EventBatch(
        Strings.of([shop.user_ids[user] for user in shop.user[part].tolist()]),
        Strings.of([shop.item_ids[item] for item in shop.item[part].tolist()]),
        shop.behavior[part],
        shop.time_ms[part],
    )


def graph_of(batches: Sequence[EventBatch] = (), relations: Sequence[Relation] = RELATIONS) -> Heterograph:
    graph = Heterograph.create(None, relations, user_rows=1 << 12, item_rows=1 << 12)
    for batch in batches:
        grow(graph, batch)
    return graph


def grow(graph: Heterograph, batch: EventBatch) -> None:
    """Apply a batch and move the watermark to its newest event."""
    graph.apply(batch)
    graph.expire(int(batch.time_ms.max()))


def trainer_of(relations: Sequence[Relation] = RELATIONS) -> Trainer:
    return Trainer([r.name for r in relations], [r.span_ms for r in relations], SMALL)


def one_event(user: str, item: str, relation: int, time_ms: int) -> EventBatch:
    columns = Strings.of([user]), Strings.of([item])
    return EventBatch(*columns, np.array([relation], np.uint8), np.array([time_ms], np.int64))


def write_csv(shop: Shop, path: Path) -> Path:
    """The events as a replay takes them, in seconds."""
    rows = zip(
        shop.user.tolist(), shop.item.tolist(), shop.behavior.tolist(), shop.time_ms.tolist(), strict=True
    )
    lines = [
        f"{shop.user_ids[user]},{shop.item_ids[item]},{BEHAVIORS[behavior]},{time_ms // 1000}"
        for user, item, behavior, time_ms in rows
    ]
    path.write_text("\n".join(["user_id,item_id,behavior,timestamp", *lines, ""]), encoding="utf-8")
    return path
