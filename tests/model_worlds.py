"""Small worlds that the tests of the model share: windows with a known taste in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.window.writer import Cut, Events, Relation, Window, in_memory

RELATIONS = (Relation("click", 1_000_000_000, 1 << 16), Relation("buy", 2_000_000_000, 1 << 16))
START_MS = 1_700_000_000_000
SMALL = TrainerOptions(  # whatever a default becomes, the golden losses stay
    dim=16,
    heads=2,
    batch_size=64,
    sampled_negatives=32,
    learning_rate=6e-3,
    network_learning_rate=2e-3,
    holdout_share=0.05,
    evaluations_max=500,
)

Row = tuple[int, int, int, int]  # user, item, relation, time_ms after START_MS


def window_of(rows: Sequence[Row], relations: Sequence[Relation] = RELATIONS) -> Window:
    window = in_memory(relations, user_rows=4_096, item_rows=4_096)
    append(window, rows)
    return window


def append(window: Window, rows: Sequence[Row]) -> Cut:
    """Append the rows and move the watermark to the newest event."""
    if rows:
        user, item, relation, time_ms = np.array(rows, np.int64).T
        time_ms = time_ms + START_MS
        window.append(
            user.astype(np.uint32),
            item.astype(np.uint32),
            relation.astype(np.uint8),
            np.ascontiguousarray(time_ms),
        )
        window.expire(int(time_ms.max()))
    return window.cut()


def blocks(
    count: int, *, seed: int, users: int = 60, items: int = 40, first_ms: int = 0, only: int | None = None
) -> list[Row]:
    """Users and items in two blocks; a user touches items of its own block only. One event a second.

    ``only`` names the block that acts: 0 is the first half of the users and items.
    """
    rng = np.random.default_rng(seed)
    block = rng.integers(0, 2, count) if only is None else np.full(count, only)
    user = block * (users // 2) + rng.integers(0, users // 2, count)
    item = block * (items // 2) + rng.integers(0, items // 2, count)
    relation = (rng.random(count) < 0.2).astype(int)
    time_ms = first_ms + 1_000 * np.arange(1, count + 1)
    return list(zip(user.tolist(), item.tolist(), relation.tolist(), time_ms.tolist(), strict=True))


def noise(count: int, *, seed: int, users: int = 200, items: int = 100) -> list[Row]:
    """Users and items that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    columns = (rng.integers(0, users, count), rng.integers(0, items, count), rng.integers(0, 2, count))
    return list(zip(*(c.tolist() for c in columns), (1_000 * np.arange(1, count + 1)).tolist(), strict=True))


def trainer_of(**changes: object) -> Trainer:
    """A small trainer with some options changed."""
    options = replace(SMALL, **changes)  # type: ignore[arg-type]
    return Trainer([r.name for r in RELATIONS], [r.span_ms for r in RELATIONS], options)


def events_of(rows: Sequence[Row]) -> Events:
    user, item, relation, time_ms = np.array(rows, np.int64).reshape(-1, 4).T
    return Events(
        user.astype(np.uint32),
        item.astype(np.uint32),
        relation.astype(np.uint8),
        np.ascontiguousarray(time_ms),
    )


def empty_cut(window: Window) -> Cut:
    """The point before the first event."""
    cut = window.cut()
    return replace(cut, watermark_ms=0, first=(0,) * len(cut.first), next=(0,) * len(cut.next))


def exploding(options: TrainerOptions) -> TrainerOptions:
    """With a learning rate far beyond the limit that options have, so that no fit of it can be accepted."""
    broken = replace(options)
    object.__setattr__(broken, "learning_rate", 30.0)
    return broken


def without_marks() -> FitSchedule:
    """A schedule by which no fit is ever due."""
    schedule = FitSchedule(1 << 62)
    schedule.first_is_made()
    return schedule
