"""The window at the size of the article's platform: 12 M users, 8.5 M items, 443 M events.

    synthetic traffic in chunks ──► Ours (mapped files), id tables ──► figures, with the peak of memory

Takes some minutes and 17 GB, in /dev/shm where there is one.
"""

from __future__ import annotations

import resource
import sys

import numpy as np

from benchmarks.graph_stores.measure import Pair, append_rates, sampled, timed
from benchmarks.graph_stores.ours import SPAN_MS, Ours
from benchmarks.graph_stores.store import BATCH
from benchmarks.report import Figures, Required, at_least, at_most, machine
from benchmarks.traffic import START_MS, STREAM_MS, Shop, Traffic, joined, stream
from driftgraph.stream.events import Strings
from driftgraph.stream.window.ids import IdTable
from driftgraph.stream.window.shared_files import Folder

CLICKS, FAVORITES, PURCHASES = 420_000_000, 8_000_000, 15_000_000
EVENTS = CLICKS + FAVORITES + PURCHASES
SHOP = Shop(12_000_000, 8_500_000, (CLICKS / EVENTS, FAVORITES / EVENTS, PURCHASES / EVENTS))
MACHINE_GIB = 24
WATCHED_USERS, WATCHED_ITEMS = 100, 10  # whose events are kept aside, to compare answers with
POOL = 200  # events of each chunk that are kept to draw seeds from
EXPIRED_SHARE = 0.05
MORE = 20_000_000  # appended behind them: goes round the ring
ID_DIGITS = 12  # an id as text; takes 16 bytes, a UUID 48


def measure_article(events: int = EVENTS) -> tuple[Figures, list[Required]]:
    """Fill, sample, expire a part, append again."""
    store = Ours(SHOP, events)
    try:
        figures: Figures = {"machine": machine(), "users": SHOP.users, "items": SHOP.items, "events": events}
        pool, log, watched = _fill(store, events, figures)
        (recent,) = store.samplers().values()
        figures["recent"] = sampled(recent, pool, START_MS + STREAM_MS + 1, log, watched)
        _go_round(store, figures)
        used = store.bytes_used()
        figures["event_gb"] = used["events"] / 1e9
        figures["head_gb"] = (used["user_heads"] + used["item_heads"]) / 1e9
        figures["bytes_per_event"] = used["events"] / events
        figures["id_gb"] = _id_bytes(store) / 1e9
    finally:
        store.close()
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux; mapped files count
    figures["peak_gib"] = peak_gib
    return figures, [
        at_most("bytes an event", figures["bytes_per_event"], 40),
        at_most("peak of memory, GiB", peak_gib, MACHINE_GIB),
        at_least("exact share, now", figures["recent"]["now_exact"], 1),
        at_least("exact share, a day ago", figures["recent"]["day_ago_exact"], 1),
    ]


def _fill(store: Ours, events: int, figures: Figures) -> tuple[Traffic, Traffic, Pair]:
    """Append everything; return events to draw seeds from, and the events of some nodes with those nodes."""
    random = np.random.default_rng(3)
    pool: list[Traffic] = []
    log: list[Traffic] = []
    rates: list[float] = []
    users, items = np.zeros(SHOP.users, np.bool_), np.zeros(SHOP.items, np.bool_)
    done = 0
    for chunk in stream(SHOP, events):
        if done == 0:
            users[random.choice(chunk.user, WATCHED_USERS)] = True
            items[random.choice(chunk.item, WATCHED_ITEMS)] = True
        rates += append_rates(store, chunk, len(chunk))
        pool.append(chunk.take(random.integers(0, len(chunk), POOL)))
        log.append(chunk.take(users[chunk.user] | items[chunk.item]))
        done += len(chunk)
        print(f"\r{done:,} of {events:,} events", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures["first_fill_per_s"] = float(np.median(rates))
    watched = (np.flatnonzero(users).astype(np.uint32), np.flatnonzero(items).astype(np.uint32))
    return joined(pool), joined(log), watched


def _go_round(store: Ours, figures: Figures) -> None:
    """Let the oldest part expire and append more, so that records are used again."""
    before = sum(store.window.cut().first)
    seconds = timed(lambda: store.window.expire(START_MS + int(EXPIRED_SHARE * STREAM_MS) + SPAN_MS))
    expired = sum(store.window.cut().first) - before
    figures["expire_per_s"] = expired / seconds
    rates: list[float] = []
    for chunk in stream(SHOP, min(MORE, expired), seed=2):
        rates += append_rates(store, _shifted(chunk, STREAM_MS), len(chunk))
    figures["append_per_s"] = float(np.median(rates[len(rates) // 2 :]))
    figures["truncated"] = int(store.window.truncated.sum())
    figures["append_batch"] = BATCH


def _shifted(chunk: Traffic, by_ms: int) -> Traffic:
    return Traffic(chunk.user, chunk.item, chunk.relation, chunk.time_ms + by_ms)


def _id_bytes(store: Ours) -> int:
    """Give every row an id; what the tables then take, in files and in the writer's memory."""
    before = store.bytes_used()
    in_memory = 0
    for kind, rows in (("user", SHOP.users), ("item", SHOP.items)):
        table = IdTable(rows, Folder(store.path, writable=True), kind)
        for start in range(0, rows, 1_000_000):
            table.assign(_ids(start, min(start + 1_000_000, rows)))
        in_memory += sum(
            a.nbytes for a in vars(table).values() if isinstance(a, np.ndarray) and a.base is None
        )
    after = store.bytes_used()
    return in_memory + sum(after[name] - before.get(name, 0) for name in after)


def _ids(start: int, stop: int) -> Strings:
    number = np.arange(start, stop)[:, None]
    digits = number // 10 ** np.arange(ID_DIGITS - 1, -1, -1) % 10 + ord("0")
    return Strings(np.arange(stop - start + 1) * ID_DIGITS, digits.astype(np.uint8).ravel())
