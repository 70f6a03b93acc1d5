"""The window beside its peers: append, late append, expire, recent-K, and whether the answers are right.

    python benchmarks/window.py [--json] [--quick] [--events 1,10,50] [--peers dgl,scipy] [--picture FILE.png]

Every store gets the same events and the same seeds in one run. A rate of appending is that of batches of
20,000 added to a store that holds the rest already and can be sampled after each; a rate of sampling is
neighbors a second. Ours is measured a second time round its rings, so that the first touch of memory is no
part of it (``first_fill`` has it). Exact: the K most recent strictly before the seed's time, against numpy
on the log.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks import peers  # found by the line above
from benchmarks.peers import ALL_RELATIONS, BATCH, ITEM, USER, K, MissingPeer, Sampler, Store
from benchmarks.peers.ours import SPAN_MS, Ours
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from benchmarks.traffic import DAY_MS, START_MS, STREAM_MS, Shop, Traffic, draw, made_late, seeds
from driftgraph.stream.adjacency import HEAD_WORDS, WORDS
from driftgraph.stream.events import I64, U32

PEERS = ("dgl", "torch_geometric", "tgm", "scipy", "lists")
MILLION = 1_000_000
PEER_EVENTS_MAX = 10 * MILLION  # beyond it a peer takes minutes a figure; ours goes on alone
SEEDS = 10_000  # of each side, events drawn at random: hubs come as often as they do there
CHECKED = 150  # seeds of each side compared with the oracle
OURS_BATCHES, PEER_BATCHES, REBUILD_BATCHES = 50, 5, 2
BUDGET_S = 1.5  # a call is repeated so long, three times at least; the median counts
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
    given = parser.parse_args()
    millions = [float(m) for m in given.events.split(",")] if given.events else []
    sizes = [int(m * MILLION) for m in millions] or ([MILLION // 5, MILLION] if given.quick else [])
    sizes = sizes or [MILLION, 10 * MILLION, 50 * MILLION]
    names = [name for name in given.peers.split(",") if name]
    figures: Figures = {"machine": machine(), "sizes": {}, "missing": {}}
    for size in sizes:
        figures["sizes"][str(size)] = _measure(size, names, figures["missing"], note=not given.json)
    if given.picture:
        from benchmarks.window_picture import draw_costs  # noqa: PLC0415  # matplotlib, only if wanted

        draw_costs(figures["sizes"], given.picture)
    finish(figures, _required(figures["sizes"], sizes), as_json=given.json)


def _measure(size: int, names: list[str], missing: dict[str, str], *, note: bool) -> Figures:
    shop = Shop()
    traffic = draw(shop, size)
    result: Figures = {"driftgraph": _ours(shop, traffic)}
    for name in names if size <= PEER_EVENTS_MAX else []:
        if note:
            print(f"{size:,} events: {name}", file=sys.stderr)
        gc.collect()
        try:
            store = peers.store(name, shop)
        except MissingPeer as error:
            missing[name] = str(error)
            continue
        batches = PEER_BATCHES if store.incremental else REBUILD_BATCHES
        result[name] = _filled(store, traffic.part(0, min(size, store.events_max)), batches)
    return result


def _ours(shop: Shop, traffic: Traffic) -> Figures:
    """Everything of ours: a first fill, expiry, a second fill, late events, sampling."""
    size = len(traffic)
    store = Ours(shop, size)
    store.append(traffic.part(0, BATCH))  # numba loads what it has compiled
    store.window.recent(USER, traffic.user[:1], traffic.time_ms[:1], K, store.window.cut())
    seconds = _timed(lambda: _append_rates(store, traffic, size - BATCH))
    figures: Figures = {"first_fill_per_s": (size - BATCH) / max(seconds, 1e-9)}
    held = sum(store.window.cut().next) - sum(store.window.cut().first)
    seconds = _timed(lambda: store.window.expire(START_MS + STREAM_MS + SPAN_MS + 1))
    figures["expire_per_s"] = held / seconds
    again = Traffic(traffic.user, traffic.item, traffic.relation, traffic.time_ms + SECOND_ROUND_MS)
    figures |= _filled(store, again, OURS_BATCHES, shift_ms=SECOND_ROUND_MS)

    tail = OURS_BATCHES * BATCH if size > 2 * OURS_BATCHES * BATCH else size // 2
    late = made_late(again.part(size - tail, size), 0.01, 60_000)
    late_store = Ours(shop, size)
    late_store.load(again.part(0, size - tail))
    seconds = _timed(lambda: _append_rates(late_store, late, tail))
    figures["late_append_per_s"] = tail / seconds
    figures["bytes_per_event"] = 4 * WORDS  # all that is kept of an event, both directions and all indexes
    figures["bytes_per_node"] = 4 * HEAD_WORDS * len(store.window.relations)
    return figures


def _filled(store: Store, traffic: Traffic, batches: int, *, shift_ms: int = 0) -> Figures:
    """Load all but the last batches, time those, then sample."""
    tail = min(batches * BATCH, len(traffic) // 2)
    store.load(traffic.part(0, len(traffic) - tail))
    figures: Figures = {
        "events": len(traffic),
        "append_per_s": float(np.median(_append_rates(store, traffic, tail))),
        "whole_window": store.whole_window,
        "incremental": store.incremental,
        "samplers": {},
    }
    for name, sampler in store.samplers().items():
        figures["samplers"][name] = _sampled(sampler, traffic, shift_ms)
    return figures


def _append_rates(store: Store, traffic: Traffic, tail: int) -> list[float]:
    """Events a second of each batch of the last ``tail`` events."""
    rates = []
    for batch in traffic.batches(len(traffic) - tail, len(traffic), BATCH):
        start = time.perf_counter()
        store.append(batch)
        rates.append(len(batch) / (time.perf_counter() - start))
    return rates


def _sampled(sampler: Sampler, traffic: Traffic, shift_ms: int) -> Figures:
    now = NOW_MS + shift_ms
    users, items = seeds(traffic, max(50, int(SEEDS * sampler.seeds_share)), 0)
    figures: Figures = {"by_relation": sampler.by_relation}
    for name, before in (("now", now), ("day_ago", now - DAY_MS)):
        rates = []
        for side, nodes in ((USER, users), (ITEM, items)):
            times = np.full(len(nodes), before, np.int64)
            count = len(sampler.found(sampler.recent(side, nodes, times))[0])
            rates.append((count, _repeated(partial(sampler.recent, side, nodes, times))))
        figures[f"{name}_per_s"] = sum(count for count, _ in rates) / sum(seconds for _, seconds in rates)
        figures[f"{name}_s"] = sum(seconds for _, seconds in rates)
        figures[f"{name}_exact"] = _exact_share(sampler, traffic, before)
    if sampler.hops > 1:
        few = users[: len(users) // 10]
        times = np.full(len(few), now, np.int64)
        count = sum(len(part) for part in _two_hops(sampler, few, times))
        figures["two_hops_per_s"] = count / _repeated(lambda: _two_hops(sampler, few, times))
    return figures


def _two_hops(sampler: Sampler, users: U32, times: I64) -> tuple[U32, U32]:
    first, first_ms = sampler.found(sampler.recent(USER, users, times))
    second, _ = sampler.found(sampler.recent(ITEM, first, first_ms))
    return first, second


def _exact_share(sampler: Sampler, traffic: Traffic, before: int) -> float:
    """The share of (seed, relation) answered exactly; of seeds where a peer knows no relations."""
    right, asked = 0, 0
    for side, nodes in zip((USER, ITEM), seeds(traffic, CHECKED, 1), strict=True):
        distinct = np.unique(nodes)
        found = sampler.answers(side, distinct, np.full(len(distinct), before, np.int64))
        got: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
        for node, relation, neighbor, time_ms in zip(
            found.node.tolist(),
            found.relation.tolist(),
            found.neighbor.tolist(),
            found.time_ms.tolist(),
            strict=True,
        ):
            got.setdefault((node, relation), Counter())[neighbor, time_ms] += 1
        own, other = (traffic.user, traffic.item) if side == USER else (traffic.item, traffic.user)
        end = int(np.searchsorted(traffic.time_ms, before))  # the log is in order of time
        for node in distinct.tolist():
            at = np.flatnonzero(own[:end] == node)
            groups = (
                {r: at[traffic.relation[at] == r] for r in range(3)}
                if sampler.by_relation
                else {ALL_RELATIONS: at}
            )
            for relation, events in groups.items():
                newest = events[-K:]
                want = Counter(zip(other[newest].tolist(), traffic.time_ms[newest].tolist(), strict=True))
                right += got.get((node, relation), Counter()) == want
                asked += 1
    return right / asked


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _repeated(work: Callable[[], object]) -> float:
    """The median time of a call, repeated for a while."""
    times = [_timed(work)]
    while len(times) < 3 or (sum(times) < BUDGET_S and len(times) < 25):
        times.append(_timed(work))
    return float(np.median(times))


def _required(measured: dict[str, Figures], sizes: list[int]) -> list[Required]:
    """The bounds: at 10 M events, or at the largest size that the peers were asked for."""
    size = max((s for s in sizes if s <= PEER_EVENTS_MAX), default=sizes[0])
    at = measured[str(size)]
    ours = at["driftgraph"]
    recent = ours["samplers"]["recent"]

    def beside(name: str, sampler: str = "") -> float | None:
        """Ours as a multiple of a peer's; None without that peer."""
        peer = at.get(name)
        if peer is None:
            return None
        if sampler:
            return float(recent["now_per_s"] / peer["samplers"][sampler]["now_per_s"])
        return float(ours["append_per_s"] / peer["append_per_s"])

    others = {name: peer for name, peer in at.items() if name != "driftgraph"}
    whole = [p["append_per_s"] for p in others.values() if p["whole_window"] and p["incremental"]]
    samplers = [s["now_per_s"] for n, p in others.items() if n != "dgl" for s in p["samplers"].values()]
    small, large = (measured[str(s)]["driftgraph"] for s in (min(sizes), max(sizes)))
    fastest_append = ours["append_per_s"] / max(whole) if whole else None
    fastest_sampler = recent["now_per_s"] / max(samplers) if samplers else None
    return [
        at_least("append / DGL add_edges with its formats", beside("dgl"), 50),
        at_least("append / fastest incremental peer with the whole window", fastest_append, 5),
        at_least("recent-K / DGL sample_neighbors", beside("dgl", "sample_neighbors"), 1.5),
        at_least("recent-K / DGL select_topk", beside("dgl", "select_topk"), 50),
        at_least("recent-K / fastest other peer", fastest_sampler, 2),
        at_least("exact share, now", recent["now_exact"], 1),
        at_least("exact share, a day ago", recent["day_ago_exact"], 1),
        at_most("time a day ago / now", recent["day_ago_s"] / recent["now_s"], 3),
        at_most("append, smallest / largest size", small["append_per_s"] / large["append_per_s"], 1.5),
        at_most("expire, smallest / largest size", small["expire_per_s"] / large["expire_per_s"], 1.5),
        at_most("bytes an event", ours["bytes_per_event"], 40),
    ]


if __name__ == "__main__":
    main()
