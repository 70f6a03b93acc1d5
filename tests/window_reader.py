"""A process that reads a window that another one writes, and compares every answer with the log."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from driftgraph.stream.window import cut_header, samplers
from driftgraph.stream.window import writer as windows
from driftgraph.stream.window.writer import USER, Cut, Neighborhood, StaleCut
from tests.plain_window import distinct_of
from tests.window_writer import (
    BATCH,
    BATCHES,
    ERASE_EVERY,
    ITEMS,
    RELATIONS,
    USERS,
    Log,
    erased_user,
    log_of,
    watermark_after,
)

K = 6


def expected(
    log: Log, cut: Cut, erasures: int, side: int, node: int, before_ms: int, relation: int
) -> list[tuple[int, int]]:
    """(time, other row), newest first, by looking at every event of the cut."""
    mine = np.flatnonzero(log[2] == relation)
    at_erasure = int(np.searchsorted(mine, erasures * ERASE_EVERY * BATCH))
    first = max(cut.first[relation], at_erasure - RELATIONS[relation].capacity)  # truncated by then
    mine = mine[first : cut.next[relation]]
    for number in range(1, erasures + 1):
        mine = mine[(log[0][mine] != erased_user(number)) | (mine >= number * ERASE_EVERY * BATCH)]
    own, other = (log[0], log[1]) if side == USER else (log[1], log[0])
    watermark_ms = max(cut.watermark_ms, watermark_after(log, erasures * ERASE_EVERY))
    oldest_ms = max(before_ms, watermark_ms) - RELATIONS[relation].span_ms
    times = log[3][mine]
    mine = mine[(own[mine] == node) & (times < before_ms) & (times >= oldest_ms)]
    newest = mine[np.lexsort((mine, log[3][mine]))][::-1]
    return list(zip(log[3][newest].tolist(), other[newest].tolist(), strict=True))


def pairs(near: Neighborhood, b: int, r: int) -> list[tuple[int, int]]:
    """(time, other row) of what a sampler gave."""
    n = near.count_BR[b, r]
    return list(zip(near.time_ms_BRK[b, r, :n].tolist(), near.neighbor_BRK[b, r, :n].tolist(), strict=True))


def main() -> None:
    """Ask at the newest cut and at ones kept from before, until the writer is done; print what was seen."""
    folder, log = Path(sys.argv[1]), log_of(int(sys.argv[2]))
    rng = np.random.default_rng(int(sys.argv[3]))
    view = windows.attach(folder)
    for sampler in (view.recent, view.distinct):
        sampler(USER, np.zeros(1, np.uint32), np.ones(1, np.int64), K, view.cut())  # compiled from here on
    print("ready", flush=True)
    total = BATCHES * BATCH
    answers, stale, cuts = 0, 0, list[Cut]()
    while True:
        newest = view.cut()
        cuts = [*cuts[-20:], newest]
        cut = cuts[int(rng.integers(len(cuts)))]
        side = int(rng.integers(2))
        nodes = rng.integers(0, USERS if side == USER else ITEMS, 12).astype(np.uint32)
        times = rng.integers(max(1, newest.watermark_ms - 6_000), newest.watermark_ms + 900, 12)
        erasures = cut_header.erasures(view._arrays.header)
        try:
            near = view.recent(side, nodes, times, K, cut)
            distinct = view.distinct(side, nodes, times, K, cut)
        except StaleCut:
            stale += 1
            cuts = [newest]
            continue
        if erasures < 0 or erasures != cut_header.erasures(view._arrays.header):
            continue  # it is exact, but for how many erasures nobody can say
        for b, (node, before_ms) in enumerate(zip(nodes.tolist(), times.tolist(), strict=True)):
            for r in range(len(RELATIONS)):
                asked = cut, side, node, before_ms, r
                wanted = expected(log, cut, erasures, side, node, before_ms, r)
                assert pairs(near, b, r) == wanted[:K], (asked, wanted)
                kept = distinct_of(wanted, K, samplers.LOOKS)
                assert pairs(distinct, b, r) == [(t, other) for other, (t, _) in kept.items()], asked
                repeats = distinct.repeats_BRK[b, r, : len(kept)].tolist()
                assert repeats == [n for _, n in kept.values()], asked
                answers += 1
        if sum(newest.next) == total:
            print(answers, stale, flush=True)
            return


if __name__ == "__main__":
    main()
