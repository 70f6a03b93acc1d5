"""What a hub costs the others: one bot with 200,000 events and one item with 10 million in the window.

the same shop twice, once with the hubs ──► ordinary batches and seeds, in turns ──► ratios of time
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.graph_stores.measure import Turn, ratio_of_times
from benchmarks.graph_stores.ours import Ours
from benchmarks.graph_stores.store import BATCH, ITEM, USER, K
from benchmarks.report import Figures, Required, at_most
from benchmarks.traffic import DAY_MS, START_MS, STREAM_MS, Shop, Traffic, draw, joined, made_late
from driftgraph.stream.arrays import I64, U32

BOT_EVENTS, BOT_MS = 200_000, 60_000
HUB_EVENTS = 10_000_000
ORDINARY_EVENTS = 2_000_000
TURNS = 25
HUB_SHARE = 0.1  # of a mixed batch that goes on coming from the bot and to the item, each
LATE_SHARE, LATE_MS_MAX = 0.01, 60_000
SEEDS = 5_000
END_MS = START_MS + STREAM_MS


def measure_hubs(scale: float = 1.0) -> tuple[Figures, list[Required]]:
    """Every figure is the time with hubs / the time without; ``scale`` is for a quick look."""
    shop = Shop()
    bot, hub = shop.users - 1, shop.items - 1
    ordinary = draw(shop, int(scale * ORDINARY_EVENTS) + 2 * TURNS * BATCH)
    ordinary = ordinary.take((ordinary.user != bot) & (ordinary.item != hub))
    history, rest = ordinary.part(0, len(ordinary) - 2 * TURNS * BATCH), 2 * TURNS * BATCH
    tail = ordinary.part(len(ordinary) - rest, len(ordinary))
    crowd = hubs(bot, hub, int(scale * HUB_EVENTS), end_ms=int(tail.time_ms[0]))
    plain, crowded = (Ours(shop, 2 * len(ordinary) + len(crowd)) for _ in range(2))
    try:
        plain.load(joined([history, spread(crowd, bot, hub)]).in_order())
        crowded.load(joined([history, crowd]).in_order())
        late = made_late(tail, LATE_SHARE, LATE_MS_MAX)
        batches = list(late.batches(0, rest, BATCH))
        figures: Figures = {
            "events": len(history),
            "bot_events": int(np.count_nonzero(crowd.user == bot)),
            "hub_events": int(np.count_nonzero(crowd.item == hub)),
            "append": ratio_of_times(
                [(partial(crowded.append, b), partial(plain.append, b)) for b in batches[:TURNS]]
            ),
            "mixed_append": ratio_of_times(
                [
                    (partial(crowded.append, _mixed(b, bot, hub)), partial(plain.append, b))
                    for b in batches[TURNS:]
                ]
            ),
        }
        for name, before_ms in (("now", END_MS + 1), ("day_ago", END_MS - DAY_MS)):
            for side, column in ((USER, tail.user), (ITEM, tail.item)):
                figures[f"recent_{('user', 'item')[side]}_{name}"] = ratio_of_times(
                    [
                        _asked(crowded, plain, side, column[at : at + SEEDS], before_ms)
                        for at in range(0, rest - SEEDS, SEEDS)
                    ]
                )
    finally:
        plain.close()
        crowded.close()
    names = ("append", "mixed_append", *(name for name in figures if name.startswith("recent")))
    return figures, [at_most(f"beside hubs: {name.replace('_', ' ')}", figures[name], 2) for name in names]


def hubs(bot: int, hub: int, hub_events: int, *, end_ms: int) -> Traffic:
    """The bot's minute at the end, and the item's events all the time before it."""
    random = np.random.default_rng(9)
    bots = int(min(BOT_EVENTS, hub_events))

    def sorted_times(count: int, span_ms: int) -> I64:
        return end_ms - span_ms + np.sort(random.integers(0, span_ms, count))

    return joined(
        [
            Traffic(
                np.full(bots, bot, np.uint32),
                random.integers(0, hub, bots).astype(np.uint32),
                np.zeros(bots, np.uint8),
                sorted_times(bots, BOT_MS),
            ),
            Traffic(
                random.integers(0, bot, hub_events).astype(np.uint32),
                np.full(hub_events, hub, np.uint32),
                np.zeros(hub_events, np.uint8),
                sorted_times(hub_events, end_ms - START_MS),
            ),
        ]
    )


def spread(crowd: Traffic, bot: int, hub: int) -> Traffic:
    """The same events by anybody, to any item."""
    random = np.random.default_rng(10)
    user = np.where(crowd.user == bot, random.integers(0, bot, len(crowd)), crowd.user).astype(np.uint32)
    item = np.where(crowd.item == hub, random.integers(0, hub, len(crowd)), crowd.item).astype(np.uint32)
    return Traffic(user, item, crowd.relation, crowd.time_ms)


def _mixed(batch: Traffic, bot: int, hub: int) -> Traffic:
    """The batch, with a share of its events by the bot and a share to the item."""
    chance = np.random.default_rng(len(batch)).random(len(batch))
    user = np.where(chance < HUB_SHARE, bot, batch.user).astype(np.uint32)
    item = np.where(chance > 1 - HUB_SHARE, hub, batch.item).astype(np.uint32)
    return Traffic(user, item, batch.relation, batch.time_ms)


def _asked(crowded: Ours, plain: Ours, side: int, nodes: U32, before_ms: int) -> Turn:
    times = np.full(len(nodes), before_ms, np.int64)
    crowded_call, plain_call = (
        partial(store.window.recent, side, nodes, times, K, store.window.cut()) for store in (crowded, plain)
    )
    return crowded_call, plain_call
