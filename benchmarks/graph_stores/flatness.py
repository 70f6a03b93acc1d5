"""Whether appending and expiring cost the same in a small window and in a large one.

    two windows, both filled twice ──► batches and steps of expiry, in turns ──► ratios of time

In turns, since the rates of two runs a minute apart differ by more on a shared machine than what is asked.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.graph_stores.measure import ratio_of_times
from benchmarks.graph_stores.ours import SPAN_MS, Ours
from benchmarks.graph_stores.store import BATCH
from benchmarks.report import Figures, Required, at_most
from benchmarks.traffic import START_MS, STREAM_MS, Shop, Traffic, draw

TURNS_MAX = 25
AGAIN_MS = 2 * SPAN_MS  # how much later everything comes a second time, when memory was touched


def measure_flatness(small: int, large: int) -> tuple[Figures, list[Required]]:
    """The time of an event in a window of ``large`` events / in one of ``small``."""
    shop = Shop()
    stores = [Ours(shop, count) for count in (large, small)]
    try:
        count = min(TURNS_MAX, small // (2 * BATCH))
        tails = [_filled_twice(stores[0], draw(shop, large), count)]
        tails.append(_filled_twice(stores[1], draw(shop, small), count))
        turns = [
            (partial(stores[0].append, first), partial(stores[1].append, second))
            for first, second in zip(*tails, strict=True)
        ]
        figures: Figures = {"small": small, "large": large, "append": ratio_of_times(turns)}
        ends = np.linspace(0, STREAM_MS, TURNS_MAX + 1)[1:].astype(np.int64) + START_MS + AGAIN_MS + SPAN_MS
        expire = [
            (partial(stores[0].window.expire, at), partial(stores[1].window.expire, at))
            for at in ends.tolist()
        ]
        figures["expire"] = ratio_of_times(expire) * small / large  # a step lets the same share of each go
    finally:
        for store in stores:
            store.close()
    sizes = f"time at {large / 1e6:g} M events / at {small / 1e6:g} M"
    return figures, [at_most(f"{act}, {sizes}", figures[act], 1.5) for act in ("append", "expire")]


def _filled_twice(store: Ours, traffic: Traffic, count: int) -> list[Traffic]:
    """Fill, let all expire, fill again but for the last ``count`` batches; returns these."""
    store.load(traffic)
    store.window.expire(START_MS + STREAM_MS + SPAN_MS)
    again = Traffic(traffic.user, traffic.item, traffic.relation, traffic.time_ms + AGAIN_MS)
    edge = len(again) - count * BATCH
    store.load(again.part(0, edge))
    return list(again.batches(edge, len(again), BATCH))
