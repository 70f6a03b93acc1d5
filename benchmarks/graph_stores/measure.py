"""How a store is timed, and how its answers are compared with what is right.

Store, Sampler, traffic ──► [append_rates, sampled, exact_share] ──► figures
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from benchmarks.graph_stores.store import ALL_RELATIONS, BATCH, ITEM, USER, K, Sampler, Store
from benchmarks.report import Figures
from benchmarks.traffic import DAY_MS, Traffic, seeds
from driftgraph.stream.arrays import I64, U32

SEEDS = 10_000  # of each side, the ends of events drawn at random: hubs come as often as they do there
CHECKED = 150  # seeds of each side compared with the oracle
CALLS_MIN, CALLS_MAX = 3, 25  # with other seeds each time, as training asks; the median counts
BUDGET_S = 1.0  # no further call after so long
Pair = tuple[U32, U32]  # users, items
Turn = tuple[Callable[[], object], Callable[[], object]]  # two things that are timed next to each other


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio_of_times(turns: Sequence[Turn]) -> float:
    """The median of first time / second time, which comes first in turns: noise hits both alike."""
    ratios = []
    for number, (first, second) in enumerate(turns):
        times = {one: timed(one) for one in ((first, second) if number % 2 else (second, first))}
        ratios.append(times[first] / times[second])
    return float(np.median(ratios))


def append_rates(store: Store, traffic: Traffic, tail: int) -> list[float]:
    """Events a second of each batch of the last ``tail`` events."""
    batches = traffic.batches(len(traffic) - tail, len(traffic), BATCH)
    return [len(batch) / timed(partial(store.append, batch)) for batch in batches]


def sampled(sampler: Sampler, traffic: Traffic, now_ms: int, log: Traffic, checked: Pair) -> Figures:
    """Rates, times and exactness of a sampler, asked as of ``now_ms`` and as of a day before.

    Seeds come from ``traffic``; answers about the nodes ``checked`` are compared with ``log``.
    """
    count = max(50, int(SEEDS * sampler.seeds_share))
    figures: Figures = {"by_relation": sampler.by_relation, "seeds": 2 * count}
    for name, before_ms in (("now", now_ms), ("day_ago", now_ms - DAY_MS)):
        one_hop, two_hops = partial(_one_hop, sampler, before_ms), partial(_two_hops, sampler, before_ms)
        figures[f"{name}_s"], figures[f"{name}_per_s"] = _rate(one_hop, traffic, count, sampler)
        figures[f"{name}_exact"] = exact_share(sampler, log, checked, before_ms)
        if sampler.hops > 1:
            _, figures[f"{name}_two_hops_per_s"] = _rate(two_hops, traffic, count // 10, sampler)
    return figures


def _rate(
    call: Callable[[Pair], list[object]], traffic: Traffic, count: int, sampler: Sampler
) -> tuple[float, float]:
    """Median seconds of a call and neighbors a second; the first call is not counted."""
    call(seeds(traffic, count, 2))
    seconds: list[float] = []
    rates: list[float] = []
    while len(seconds) < CALLS_MIN or (sum(seconds) < BUDGET_S and len(seconds) < CALLS_MAX):
        pair = seeds(traffic, count, 3 + len(seconds))
        start = time.perf_counter()
        results = call(pair)
        seconds.append(time.perf_counter() - start)
        rates.append(sum(len(sampler.found(result)[0]) for result in results) / seconds[-1])
    return float(np.median(seconds)), float(np.median(rates))


def _one_hop(sampler: Sampler, before_ms: int, pair: Pair) -> list[object]:
    times = np.full(len(pair[0]), before_ms, np.int64)
    return [sampler.recent(side, nodes, times) for side, nodes in zip((USER, ITEM), pair, strict=True)]


def _two_hops(sampler: Sampler, before_ms: int, pair: Pair) -> list[object]:
    """Each neighbor is asked for its own as of its event's time."""
    results = _one_hop(sampler, before_ms, pair)
    for side, result in zip((ITEM, USER), list(results), strict=True):
        results.append(sampler.recent(side, *sampler.found(result)))
    return results


def exact_share(sampler: Sampler, log: Traffic, nodes: Pair, before_ms: int) -> float:
    """The share of (node, relation) answered exactly; of nodes where a peer knows no relations.

    ``log`` is in order of time and holds every event of ``nodes``. Only those with an event to find count.
    """
    right, asked = 0, 0
    for side, some in zip((USER, ITEM), nodes, strict=True):
        distinct = np.unique(some)
        found = sampler.answers(side, distinct, np.full(len(distinct), before_ms, np.int64))
        columns = (found.node, found.relation, found.neighbor, found.time_ms)
        got: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
        for node, relation, neighbor, time_ms in zip(*(c.tolist() for c in columns), strict=True):
            got.setdefault((node, relation), Counter())[neighbor, time_ms] += 1
        for key, want in _newest(log, side, distinct, before_ms, by_relation=sampler.by_relation):
            right += got.get(key) == want
            asked += 1
    return right / asked


def _newest(
    traffic: Traffic, side: int, nodes: U32, before_ms: int, *, by_relation: bool
) -> Iterator[tuple[tuple[int, int], Counter[tuple[int, int]]]]:
    """The oracle: (node, relation) and its K newest (neighbor, time) strictly before a time."""
    own, other = (traffic.user, traffic.item) if side == USER else (traffic.item, traffic.user)
    end = int(np.searchsorted(traffic.time_ms, before_ms))
    wanted = np.zeros(int(own.max()) + 1, np.bool_)
    wanted[nodes] = True
    at: I64 = np.flatnonzero(wanted[own[:end]])
    at = at[np.argsort(own[at], kind="stable")]
    for node, events in zip(*_groups(own[at], at), strict=True):
        relations = traffic.relation[events] if by_relation else np.full(len(events), ALL_RELATIONS)
        for relation in np.unique(relations).tolist():
            newest = events[relations == relation][-K:]
            found = zip(other[newest].tolist(), traffic.time_ms[newest].tolist(), strict=True)
            yield (node, relation), Counter(found)


def _groups(keys: U32, values: I64) -> tuple[list[int], list[I64]]:
    """``values`` by key; ``keys`` are sorted."""
    distinct, starts = np.unique(keys, return_index=True)
    return distinct.tolist(), np.split(values, starts[1:])
