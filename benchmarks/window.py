"""The window beside its peers: append, expire, recent-K, distinct-K, memory, and whether answers are right.

    python benchmarks/window.py [--json] [--quick] [--events 1,10,50] [--peers dgl,scipy] [--picture FILE.png]
    python benchmarks/window.py --scale article [--json]

Every store gets the same events and the same seeds in one run, and every number is a median after a warm-up.
A rate of appending is that of batches of 20,000 added to a store that holds the rest already and can be
sampled after each; a rate of sampling is neighbors a second, with other seeds at each call. Ours is in mapped
files and measured a second time round its rings, so that the first touch of memory is no part of it
(``first_fill`` has it). A peer that can hold or stand only so many events or seeds says so (``events``,
``seeds``); its rates are those at so many. Exact: the K most recent strictly before the seed's time, against
numpy on the log.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

# Peers wait for their threads asleep, not in a loop: beside any other busy process a loop makes them up to
# sixty times slower. It has to stand here, before OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np

from benchmarks.graph_stores.distinct import measure_distinct
from benchmarks.graph_stores.flatness import measure_flatness
from benchmarks.graph_stores.hubs import measure_hubs
from benchmarks.graph_stores.measure import CHECKED, append_rates, exact_share, sampled, timed
from benchmarks.graph_stores.ours import SPAN_MS, Ours
from benchmarks.graph_stores.store import BATCH, USER, K, MissingPeer, Store, store_of
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from benchmarks.traffic import START_MS, STREAM_MS, Shop, Traffic, draw, joined, made_late, seeds

PEERS = ("dgl", "torch_geometric", "tgm", "scipy", "lists")
MILLION = 1_000_000
BOUND_EVENTS = 10 * MILLION  # where the bounds beside the peers are judged
OURS_BATCHES, PEER_BATCHES, REBUILD_BATCHES = 50, 5, 2
EXPIRE_STEPS = 25
LATE_SHARE, LATE_MS_MAX = 0.01, 60_000
NOW_MS = START_MS + STREAM_MS + 1
SECOND_ROUND_MS = 2 * SPAN_MS


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="The window beside its peers.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    parser.add_argument("--events", default="", help="millions, such as 1,10,50")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--scale", choices=["article"], help="ours alone, at the size of the article's platform"
    )
    given = parser.parse_args()
    if given.scale:
        from benchmarks.graph_stores.article import measure_article  # noqa: PLC0415  # nothing else needs it

        finish(*measure_article(), as_json=given.json)
    millions = [float(m) for m in given.events.split(",")] if given.events else []
    sizes = [int(m * MILLION) for m in millions] or ([MILLION // 5, MILLION] if given.quick else [])
    sizes = sizes or [MILLION, 10 * MILLION, 50 * MILLION]
    names = [name for name in given.peers.split(",") if name]
    figures: Figures = {"machine": machine(), "sizes": {}, "missing": {}}
    for size in sizes:
        figures["sizes"][str(size)] = _measure(size, names, figures, note=not given.json)
    if given.picture:
        from benchmarks.graph_stores.picture import draw_costs  # noqa: PLC0415  # matplotlib, only if wanted

        draw_costs(figures["sizes"], given.picture)
    _say("hubs", note=not given.json)
    figures["hubs"], beside_hubs = measure_hubs(0.1 if given.quick else 1)
    _say("distinct neighbors", note=not given.json)
    figures["distinct"], beside_recent = measure_distinct(0.1 if given.quick else 1)
    required = [*_required(figures, names), *beside_hubs, *beside_recent]
    if max(sizes) >= 2 * min(sizes):
        _say("flatness", note=not given.json)
        figures["flatness"], flat = measure_flatness(min(sizes), max(sizes))
        required += flat
    finish(figures, required, as_json=given.json)


def _measure(size: int, names: list[str], figures: Figures, *, note: bool) -> Figures:
    """Every store at one size; a peer that holds less than that is taken from a smaller size, if measured."""
    shop = Shop()
    traffic = draw(shop, size)
    _say(f"{size:,} events: driftgraph", note=note)
    result: Figures = {"driftgraph": _ours(shop, traffic)}
    for name in names:
        _say(f"{size:,} events: {name}", note=note)
        gc.collect()
        try:
            store = store_of(name, shop)
        except MissingPeer as error:
            figures["missing"][name] = str(error)
            continue
        count = min(size, store.events_max)
        known = [at[name] for at in figures["sizes"].values() if at.get(name, {}).get("events") == count]
        batches = PEER_BATCHES if store.incremental else REBUILD_BATCHES
        result[name] = (
            known[0] if known else _filled(store, traffic if count == size else draw(shop, count), batches)
        )
    return result


def _say(text: str, *, note: bool) -> None:
    if note:
        print(text, file=sys.stderr)


def _ours(shop: Shop, traffic: Traffic) -> Figures:
    """Everything of ours, three times round its rings: untouched memory, the steady state, late events."""
    size = len(traffic)
    store = Ours(shop, size)
    store.append(traffic.part(0, BATCH))  # numba loads what it has compiled
    store.window.recent(USER, traffic.user[:1], traffic.time_ms[:1], K, store.window.cut())
    figures: Figures = {"first_fill_per_s": float(np.median(append_rates(store, traffic, size - BATCH)))}
    figures["expire_per_s"] = _expire_rate(store)

    second = _later(traffic, SECOND_ROUND_MS)
    figures |= _filled(store, second, OURS_BATCHES, now_ms=NOW_MS + SECOND_ROUND_MS)
    used = store.bytes_used()
    figures["bytes_per_event"] = used["events"] / size
    figures["head_bytes_per_node"] = (used["user_heads"] + used["item_heads"]) / (shop.users + shop.items)

    store.window.expire(NOW_MS + SECOND_ROUND_MS + SPAN_MS)
    third, tail = _later(traffic, 2 * SECOND_ROUND_MS), min(OURS_BATCHES * BATCH, size // 2)
    late = made_late(third.part(size - tail, size), LATE_SHARE, LATE_MS_MAX)
    store.load(third.part(0, size - tail))
    figures["late_append_per_s"] = float(np.median(append_rates(store, late, tail)))
    arrived = joined([third.part(0, size - tail), late]).in_order()
    now_ms, (recent,) = NOW_MS + 2 * SECOND_ROUND_MS, store.samplers().values()
    figures["late_exact"] = exact_share(recent, arrived, seeds(late, CHECKED, 1), now_ms)
    store.close()
    return figures


def _expire_rate(store: Ours) -> float:
    """Let everything expire in steps of equal time; events a second in the median step."""
    rates = []
    for horizon_ms in np.linspace(START_MS, NOW_MS, EXPIRE_STEPS + 1)[1:].astype(np.int64).tolist():
        before = sum(store.window.cut().first)
        seconds = timed(partial(store.window.expire, horizon_ms + SPAN_MS))
        rates.append((sum(store.window.cut().first) - before) / seconds)
    return float(np.median(rates))


def _later(traffic: Traffic, by_ms: int) -> Traffic:
    return replace(traffic, time_ms=traffic.time_ms + by_ms)


def _filled(store: Store, traffic: Traffic, batches: int, *, now_ms: int = NOW_MS) -> Figures:
    """Load all but the last batches, time those, then sample."""
    tail = min(batches * BATCH, len(traffic) // 2)
    store.load(traffic.part(0, len(traffic) - tail))
    figures: Figures = {
        "events": len(traffic),
        "append_per_s": float(np.median(append_rates(store, traffic, tail))),
        "append_batches": -(-tail // BATCH),
        "whole_window": store.whole_window,
        "incremental": store.incremental,
        "samplers": {},
    }
    for name, sampler in store.samplers().items():
        figures["samplers"][name] = sampled(sampler, traffic, now_ms, traffic, seeds(traffic, CHECKED, 1))
    return figures


def _required(figures: Figures, names: list[str]) -> list[Required]:
    """The bounds. Those beside peers are judged at 10 M events."""
    sizes = {int(size): at["driftgraph"] for size, at in figures["sizes"].items()}
    ours = sizes.get(BOUND_EVENTS, sizes[max(sizes)])
    recent = ours["samplers"]["recent"]
    required = [
        at_least("exact share, now", recent["now_exact"], 1),
        at_least("exact share, a day ago", recent["day_ago_exact"], 1),
        at_least("exact share after late events", ours["late_exact"], 1),
        at_most("time of a day ago / time of now", recent["day_ago_s"] / recent["now_s"], 3),
        at_most("bytes an event", ours["bytes_per_event"], 40),
    ]
    if BOUND_EVENTS in sizes:
        required += _beside_peers(figures["sizes"][str(BOUND_EVENTS)], names)
    return required


def _beside_peers(at: Figures, names: list[str]) -> list[Required]:
    """Ours as multiples of the peers'. Where a peer is missing, what it takes part in is not measured."""
    append_per_s = at["driftgraph"]["append_per_s"]
    recent_per_s = at["driftgraph"]["samplers"]["recent"]["now_per_s"]
    dgl, others = at.get("dgl"), {name: at.get(name) for name in names if name != "dgl"}
    whole = [p["append_per_s"] for p in at.values() if p["whole_window"] and p["incremental"]]
    rates = [s["now_per_s"] for p in others.values() if p for s in p["samplers"].values()]
    all_there = None not in others.values()
    whole.remove(append_per_s)
    samplers = dgl["samplers"] if dgl else {}

    def beside(sampler: str) -> float | None:
        return recent_per_s / samplers[sampler]["now_per_s"] if sampler in samplers else None

    return [
        at_least(
            "append / DGL add_edges with its formats", append_per_s / dgl["append_per_s"] if dgl else None, 50
        ),
        at_least(
            "append / fastest incremental peer that keeps the whole window",
            append_per_s / max(whole) if all_there and dgl else None,
            5,
        ),
        at_least("recent-K / DGL sample_neighbors, which ignores time", beside("sample_neighbors"), 1.5),
        at_least("recent-K / DGL select_topk", beside("select_topk"), 50),
        at_least(
            "recent-K / fastest other peer", recent_per_s / max(rates) if all_there and rates else None, 2
        ),
    ]


if __name__ == "__main__":
    main()
