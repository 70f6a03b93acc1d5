"""What distinct neighbors cost beside recent ones: where nothing repeats, and where much does.

a shop without a repeat, a shop of habits ──► the same seeds, in turns ──► ratios of time
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.graph_stores.measure import Turn, ratio_of_times
from benchmarks.graph_stores.ours import Ours
from benchmarks.graph_stores.store import ITEM, USER, K
from benchmarks.report import Figures, Required, at_most
from benchmarks.traffic import DAY_MS, START_MS, STREAM_MS, Shop, Traffic, draw
from driftgraph.stream.arrays import U32
from driftgraph.stream.window.writer import Window

EVENTS = 3_000_000
SHOP = Shop(users=100_000)  # so few that the lists of users are longer than K
WIDTHS = (K, 64, 512)
HELD = (K, 64)  # at 512 the time is that of new pages for the answer, of which distinct has a third more
HABITS = 50  # items of a user in the shop of habits, the n-th with a chance like 1/n
TURNS, SEEDS = 60, 600  # short calls, which another process on the machine seldom interrupts
END_MS = START_MS + STREAM_MS


def measure_distinct(scale: float = 1.0) -> tuple[Figures, list[Required]]:
    """Every ratio is the time of ``distinct`` / the time of ``recent``; ``scale`` is for a quick look."""
    traffic = draw(SHOP, int(scale * EVENTS))
    figures: Figures = {"without_repeats": _measured(_once(traffic)), "habits": _measured(_by_habit(traffic))}
    required = [
        at_most(f"distinct / recent where nothing repeats: {name.replace('_', ' ')}", ratio, 1.5)
        for name, ratio in figures["without_repeats"].items()
        if name.startswith(("distinct_user", "distinct_item")) and int(name.rpartition("_")[2]) in HELD
    ]
    return figures, required


def _once(traffic: Traffic) -> Traffic:
    """The first event of each user and item."""
    pair = traffic.user.astype(np.int64) * SHOP.items + traffic.item
    return traffic.take(np.sort(np.unique(pair, return_index=True)[1]))


def _by_habit(traffic: Traffic) -> Traffic:
    """The same events, each with one of the user's own items."""
    chance = np.random.default_rng(11).random(len(traffic))
    rank = np.exp(chance * np.log(HABITS + 1)).astype(np.int64) - 1
    item = (traffic.user.astype(np.int64) * HABITS + rank) % SHOP.items
    return Traffic(traffic.user, item.astype(np.uint32), traffic.relation, traffic.time_ms)


def _measured(traffic: Traffic) -> Figures:
    store = Ours(SHOP, len(traffic))
    try:
        store.load(traffic)
        figures: Figures = {"events": len(traffic)}
        for side, column in ((USER, traffic.user), (ITEM, traffic.item)):
            who = ("user", "item")[side]
            seeds = np.random.default_rng(12).choice(column, SEEDS)
            figures[f"distinct_among_recent_{who}_{K}"] = _share_distinct(store.window, side, seeds)
            for before_ms, when in ((END_MS + 1, "now"), (END_MS - DAY_MS, "day_ago")):
                for width in WIDTHS:
                    turns = _turns(store.window, "distinct", side, column, before_ms, width)
                    figures[f"distinct_{who}_{when}_{width}"] = ratio_of_times(turns)
                turns = _turns(store.window, "distinct_union", side, column, before_ms, K)
                figures[f"union_{who}_{when}_{K}"] = ratio_of_times(turns)
    finally:
        store.close()
    return figures


def _share_distinct(window: Window, side: int, seeds: U32) -> float:
    """Distinct neighbors among the K most recent / distinct neighbors that ``distinct`` finds."""
    question = side, seeds, np.full(len(seeds), END_MS + 1), K, window.cut()
    recent, distinct = window.recent(*question), window.distinct(*question)
    at = np.arange(K) < recent.count_BR[:, :, None]
    list_of = np.broadcast_to(np.arange(recent.count_BR.size).reshape(*recent.count_BR.shape, 1), at.shape)
    pairs = list_of[at].astype(np.int64) << 32 | recent.neighbor_BRK[at]
    return len(np.unique(pairs)) / int(distinct.count_BR.sum())


def _turns(window: Window, sampler: str, side: int, column: U32, before_ms: int, width: int) -> list[Turn]:
    """As many seeds as make about as much work for each width, and never the same: none is in a cache."""
    count = max(20, SEEDS * K // width)
    rng, cut = np.random.default_rng(13), window.cut()
    times = np.full(count, before_ms, np.int64)

    def asked(sampler: str) -> Callable[[], object]:
        return partial(getattr(window, sampler), side, rng.choice(column, count), times, width, cut)

    turns = [(asked(sampler), asked("recent")) for _ in range(TURNS)]
    for work in (asked(sampler), asked("recent")):
        work()  # numba loads what it has compiled
    return turns
