"""Paths over the window beside an index that is built for each cut: time, growth with the window, hubs.

Similar users (``stream.walks.similar_users``) are asked about the same targets; their time is stated beside.

    python benchmarks/paths.py [--json] [--quick]

Both get the same shop and the same question: items near those of a user's history, as of now. Ours reads the
window as it is; the peer (``model.co_visitation``) first reads all events of the cut and sorts them by user
and by item. Answers are compared, item by item. ``TARGETS`` users are asked about at once, as a refresh does.
Every time is processor time, over all threads: it depends less on what else a machine does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np

from benchmarks.graph_stores.hubs import hubs, spread
from benchmarks.graph_stores.ours import Ours
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from benchmarks.traffic import DAY_MS, START_MS, STREAM_MS, Shop, Traffic, draw, joined
from driftgraph.model.score.co_visitation import BACKWARD, DEGREE_POWER, HISTORY, LAG, VISITS, CoVisitation
from driftgraph.stream.arrays import F64, I64, U32
from driftgraph.stream.walks import similar_users
from driftgraph.stream.walks.paths import PathSums, Shape, Tables, sums, sums_from, walk

MILLION = 1_000_000
USERS_SHARE, ITEMS_SHARE = 0.1, 0.02  # of the events: each user has ten, at every size
TARGETS = 200
TURNS = 5
HUB_EVENTS_SHARE = 1.0  # a hub item has as many events as all others have together
NOW_MS = START_MS + STREAM_MS + 1
SHAPE = Shape(HISTORY, VISITS, LAG)
SIMILAR = similar_users.Shape()
ALL = replace(SHAPE, reach=65_535)  # as the peer, which reaches every visit


@dataclass(frozen=True, slots=True)
class Question:
    """Users, and what the peer and ``sums_from`` get in their place: the items that they touched last."""

    users: U32
    bounds: I64
    items: U32
    times_ms: I64


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="Paths over the window beside an index built for each cut.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    sizes = [MILLION // 10, MILLION] if given.quick else [MILLION // 10, MILLION, 10 * MILLION]
    figures: Figures = {"machine": machine(), "targets": TARGETS, "sizes": {}}
    required: list[Required] = []
    for size in sizes:
        print(f"{size:,} events", file=sys.stderr)
        figures["sizes"][str(size)], exact = _measure(size)
        required.append(at_least(f"exact share at {size / MILLION:g} M events", exact, 1))
    at = figures["sizes"][str(sizes[-1])]
    required.append(at_least("index built and asked / ours", at["index_ratio"], 2 if given.quick else 15))
    smallest = figures["sizes"][str(sizes[0])]
    growth = at["now_us_per_path"] / smallest["now_us_per_path"]
    figures["growth"] = growth
    times = f"time of a path at {sizes[-1] / sizes[0]:g} times as many events"
    required.append(at_most(times, growth, 2 if given.quick else 3))  # what it reads is in no cache any more
    print("hubs", file=sys.stderr)
    figures["hubs"] = _beside_hubs(sizes[-2])
    required.append(at_most("time of a path beside hubs / without", figures["hubs"]["path_ratio"], 3))
    finish(figures, required, as_json=given.json)


def _measure(size: int) -> tuple[Figures, float]:
    """Ours and the peer at one size; the share of targets for which both say the same."""
    shop, traffic, store = _filled(size)
    try:
        cut = store.window.cut()
        asked = _question(store, traffic, NOW_MS)
        figures: Figures = {"events": size, "users": shop.users, "items": shop.items}
        for name, before_ms in (("now", NOW_MS), ("day_ago", NOW_MS - DAY_MS)):
            one = replace(asked, times_ms=np.full(TARGETS, before_ms))
            paths = walk(store.window, one.users, one.times_ms, cut, SHAPE)
            _sums(store, one, SHAPE)  # the first call compiles
            seconds = float(np.median([_seconds(partial(_sums, store, one, SHAPE)) for _ in range(TURNS)]))
            figures |= {
                f"{name}_paths_per_target": len(paths.item) / TARGETS,
                f"{name}_us_per_target": 1e6 * seconds / TARGETS,
                f"{name}_us_per_path": 1e6 * seconds / max(len(paths.item), 1),
                f"{name}_paths_per_s": len(paths.item) / seconds,
                f"{name}_visits_left_out": int(paths.left_out_N.sum()),
            }
        _similar(store, asked)
        similar_s = float(np.median([_seconds(partial(_similar, store, asked)) for _ in range(TURNS)]))
        similar = _similar(store, asked)
        figures |= {
            "similar_users_us_per_target": 1e6 * similar_s / TARGETS,
            "similar_users_items_per_target": len(similar.item) / TARGETS,
            "similar_users_left_out": int(similar.left_out_N.sum()),
        }
        index = CoVisitation(store.window.events(cut), shop.items)
        _near(index, asked)
        figures["index_us_per_target"] = 1e6 * _seconds(partial(_near, index, asked)) / TARGETS
        exact = _exact_share(store, asked, index, traffic)
        del index

        def rebuilt() -> None:
            _near(CoVisitation(store.window.events(cut), shop.items), asked)

        figures["index_s"] = _seconds(lambda: CoVisitation(store.window.events(cut), shop.items))
        figures["index_ratio"] = _ratio(rebuilt, partial(_sums, store, asked, SHAPE))
        return figures, exact
    finally:
        store.close()


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """The median of first time / second time, measured next to each other."""
    return float(np.median([_seconds(first) / _seconds(second) for _ in range(TURNS)]))


def _filled(size: int) -> tuple[Shop, Traffic, Ours]:
    shop = Shop(int(USERS_SHARE * size), int(ITEMS_SHARE * size))
    traffic = draw(shop, size)
    store = Ours(shop, size)
    store.load(traffic)
    return shop, traffic, store


def _question(store: Ours, traffic: Traffic, before_ms: int) -> Question:
    """Users drawn by their events, and the distinct items of each, newest first."""
    window, random = store.window, np.random.default_rng(4)
    users = traffic.user[random.integers(0, len(traffic), TARGETS)]
    times_ms = np.full(TARGETS, before_ms)
    events = window.events(window.cut())
    lists = []
    by_user = np.argsort(events.user, kind="stable")
    first = np.searchsorted(events.user, users, sorter=by_user)
    stop = np.searchsorted(events.user, users, side="right", sorter=by_user)
    for a, b in zip(first, stop, strict=True):
        newest = events.item[by_user[a:b]][::-1]
        lists.append(np.array(list(dict.fromkeys(newest.tolist()))[:HISTORY], np.uint32))
    return Question(users, np.cumsum([0, *map(len, lists)]), np.concatenate(lists), times_ms)


def _tables(store: Ours) -> Tables:
    """The weights of ``CoVisitation``."""
    ones = Tables.ones(SHAPE, len(store.window.relations))
    lag = np.arange(-LAG, LAG + 1)
    worth = np.where(lag > 0, 1.0, BACKWARD) / np.maximum(np.abs(lag), 1)
    return replace(ones, place=1 / (1.0 + np.arange(HISTORY))[None], lag=worth[None])


def _sums(store: Ours, asked: Question, shape: Shape) -> PathSums:
    weight = np.ones(store.window.rows(1))
    return sums(store.window, asked.users, asked.times_ms, store.window.cut(), shape, _tables(store), weight)


def _similar(store: Ours, asked: Question) -> similar_users.ItemSums:
    place, weight = np.power(0.8, np.arange(SIMILAR.history)), np.ones(store.window.rows(1))
    return similar_users.sums(
        store.window, asked.users, asked.times_ms, store.window.cut(), SIMILAR, place, weight
    )


def _near(index: CoVisitation, asked: Question) -> list[tuple[U32, F64]]:
    return [
        index.near(asked.items[a:b], int(before_ms))
        for a, b, before_ms in zip(asked.bounds[:-1], asked.bounds[1:], asked.times_ms, strict=True)
    ]


def _exact_share(store: Ours, asked: Question, index: CoVisitation, traffic: Traffic) -> float:
    """The share of targets for which both have the same items with the same scores."""
    degree = np.bincount(traffic.item, minlength=store.window.rows(1)) + 0.0
    weight = np.maximum(degree, 1) ** -DEGREE_POWER
    window, tables = store.window, _tables(store)
    ours = sums_from(window, asked.bounds, asked.items, asked.times_ms, window.cut(), ALL, tables, weight)
    same = 0
    for n, (item, score) in enumerate(_near(index, asked)):
        a, b = ours.bounds_N1[n : n + 2]
        mine = ours.sum_PV[a:b, 0] * weight[ours.item[a:b]]
        order, theirs = np.argsort(ours.item[a:b]), np.argsort(item)
        same += bool(
            np.array_equal(ours.item[a:b][order], item[theirs])
            and np.allclose(mine[order], score[theirs], rtol=1e-9)
        )
    return same / TARGETS


def _beside_hubs(size: int) -> Figures:
    """The time of a path beside a bot and an item of ``size`` events / beside as many events of anybody."""
    shop = Shop(int(USERS_SHARE * size), int(ITEMS_SHARE * size))
    bot, hub = shop.users - 1, shop.items - 1
    ordinary = draw(shop, size)
    ordinary = ordinary.take((ordinary.user != bot) & (ordinary.item != hub))
    crowd = hubs(bot, hub, int(HUB_EVENTS_SHARE * size), end_ms=NOW_MS - 1)
    crowded, plain = (Ours(shop, 2 * len(ordinary) + 2 * len(crowd)) for _ in range(2))
    try:
        crowded.load(joined([ordinary, crowd]).in_order())
        plain.load(joined([ordinary, spread(crowd, bot, hub)]).in_order())
        asked = _question(plain, ordinary, NOW_MS)
        counts = [
            len(walk(s.window, asked.users, asked.times_ms, s.window.cut(), SHAPE).item)
            for s in (crowded, plain)
        ]
        ratio = _ratio(partial(_sums, crowded, asked, SHAPE), partial(_sums, plain, asked, SHAPE))
        return {
            "bot_events": int(np.count_nonzero(crowd.user == bot)),
            "hub_events": int(np.count_nonzero(crowd.item == hub)),
            "paths": counts,
            "path_ratio": ratio * counts[1] / counts[0],
        }
    finally:
        crowded.close()
        plain.close()


if __name__ == "__main__":
    main()
