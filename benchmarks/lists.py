"""What the lists cost: lists a second by size of the catalog, and a publish and a refresh with and without.

    random vectors and events ──► ScoredLists ──► lists a second
    random events ──► Worker ──► Redis ──► bytes of a user and of an item, seconds

    python benchmarks/lists.py [--json] [--quick]

Every time is processor time of this process, without that of Redis: it depends less on what else runs.
``--threads 2`` lets torch have two; ``--items 20000,300000`` names other catalogs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np
import redis
import torch

from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.training.cycle import Worker
from driftgraph.model.options import ListLengths, TrainerOptions
from driftgraph.model.score.lists import AskedUsers
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.model.score.scorer import Scorer
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph, Moment
from driftgraph.stream.window.writer import Relation, in_memory

DIM = 64
DAY_MS = 86_400_000
START_MS = 1_780_000_000_000
RELATIONS = (Relation("click", 30 * DAY_MS, 1 << 21),)
CATALOGS = (20_000, 1_000_000)  # items
ASKED = 256  # users at once: those of a refresh
PUBLISHED_USERS, PUBLISHED_ITEMS, PUBLISHED_EVENTS = 10_000, 20_000, 300_000
CHOICES = {
    "none": ListLengths(0, 0),
    "lists": ListLengths(100, 0),
    "similar": ListLengths(0, 50),
    "both": ListLengths(100, 50),
}
RUNS = 3  # of a publish, each choice in turn; the median counts
LISTS_PER_S = 2_000  # of one core out of 20,000 items: 200,000 users in 100 s, of the 6 hours to the next fit
LINEAR = 3.0  # growth of a list's time by item: the vectors of a large catalog are in no cache
REFRESH_S = 0.5  # half of what promise P5 gives from an event to the refreshed user
LIST_BYTES = 2_500  # of Redis' memory for a list of 100 with ids of 11 characters


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def rate(items: int, *, budget_s: float) -> Figures:
    """Lists a second out of ``items`` random vectors: the median call for ``ASKED`` users."""
    rng = np.random.default_rng(items)
    window = in_memory(RELATIONS, user_rows=1_024, item_rows=items)
    rows = np.arange(items, dtype=np.uint32)
    window.append(rows % 1_000, rows, np.zeros(items, np.uint8), START_MS + rows.astype(np.int64))
    vectors = rng.standard_normal((items, DIM), dtype=np.float32)
    versions = (window.row_versions(USER).copy(), window.row_versions(ITEM).copy())
    moment = Moment(window.cut(), versions)
    weights, none = Scorer().weight_F, lambda rows, *_: np.zeros((len(rows), DIM), np.float32)
    lists = ScoredLists(window, moment, (rows, vectors), weights, ListLengths(), none)
    users = AskedUsers(
        rows[:ASKED],
        rng.standard_normal((ASKED, DIM), dtype=np.float32),
        np.full(ASKED, START_MS),
        moment,
        rng.integers(0, items, 20 * ASKED).astype(np.uint32),
        20 * np.arange(ASKED + 1),
    )
    lists.of(users)  # the first call touches new memory
    seconds: list[float] = []
    while sum(seconds) < budget_s:
        seconds.append(seconds_of(lambda: lists.of(users)))
    return {"items": items, "lists_per_s": round(ASKED / float(np.median(seconds)), 1)}


def filled_graph() -> Heterograph:
    """Random events of 10,000 users, popular items more often; ids as long as usual."""
    rng = np.random.default_rng(1)
    graph = Heterograph.create(None, RELATIONS, user_rows=1 << 15, item_rows=1 << 15)
    user = rng.integers(0, PUBLISHED_USERS, PUBLISHED_EVENTS)
    item = np.minimum(rng.zipf(1.2, PUBLISHED_EVENTS) - 1, PUBLISHED_ITEMS - 1)
    item[:PUBLISHED_ITEMS] = np.arange(PUBLISHED_ITEMS)
    time_ms = START_MS + 5_000 * np.arange(PUBLISHED_EVENTS, dtype=np.int64)
    names = Strings.of([f"u{n:07}" for n in user]), Strings.of([f"item{n:07}" for n in item])
    graph.apply(EventBatch(*names, np.zeros(PUBLISHED_EVENTS, np.uint8), time_ms))
    graph.expire(int(time_ms[-1]))
    return graph


def refreshed(graph: Heterograph, worker: Worker) -> float:
    """Seconds of a refresh of ``ASKED`` users who have just clicked."""
    now_ms = graph.window.cut().watermark_ms
    users = Strings.of([f"u{n:07}" for n in range(ASKED)])
    items = Strings.of([f"item{n:07}" for n in range(ASKED)])
    times_ms = now_ms + np.arange(1, ASKED + 1, dtype=np.int64)
    graph.apply(EventBatch(users, items, np.zeros(ASKED, np.uint8), times_ms))
    graph.expire(int(times_ms[-1]))
    moment = graph.moment()
    return seconds_of(lambda: worker.refresh(moment))


def published(client: redis.Redis, *, runs: int) -> Figures:
    """Bytes in Redis, and seconds of a publish and of a refresh, with each choice of lists."""
    graph = filled_graph()
    trainer = Trainer([r.name for r in RELATIONS], [r.span_ms for r in RELATIONS], TrainerOptions(dim=DIM))
    trainer.model_version = 1  # what a vector is worth changes no cost
    publish_s: dict[str, list[float]] = {name: [] for name in CHOICES}
    refresh_s: dict[str, list[float]] = {name: [] for name in CHOICES}
    size: dict[str, int] = {}
    for _ in range(runs):
        for name, lengths in CHOICES.items():
            client.flushall()
            empty = int(client.info("memory")["used_memory"])
            store = GenerationStore(client, namespace="lists", epoch=1)
            worker = Worker(graph, trainer, store, checkpoints=None, lengths=lengths)
            moment = graph.moment()
            trainer._latest = (moment.cut, 1, trainer.embed(graph.window, moment.cut))  # timed without it
            publish_s[name].append(seconds_of(partial(worker.publish, moment)))
            size[name] = int(client.info("memory")["used_memory"]) - empty
            refresh_s[name].append(refreshed(graph, worker))
    median = {name: float(np.median(seconds)) for name, seconds in publish_s.items()}
    return {
        "users": PUBLISHED_USERS,
        "items": PUBLISHED_ITEMS,
        "bytes": size,
        "bytes_of_a_list_of_100": round((size["lists"] - size["none"]) / PUBLISHED_USERS),
        "bytes_of_50_similar": round((size["similar"] - size["none"]) / PUBLISHED_ITEMS),
        "publish_s": {name: round(seconds, 2) for name, seconds in median.items()},
        "publish_ratio": round(median["both"] / median["none"], 2),
        "refreshed_users": ASKED,
        "refresh_s": {name: round(float(np.median(seconds)), 3) for name, seconds in refresh_s.items()},
    }


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="What the lists cost.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", default=",".join(map(str, CATALOGS)))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures: Figures = {"machine": machine(), "threads": given.threads, "dim": DIM, "exact": []}
    for items in map(int, given.items.split(",")):
        print(f"lists out of {items:,} items", file=sys.stderr)
        figures["exact"].append(rate(items, budget_s=1.0 if given.quick else 6.0))
    print("publishes", file=sys.stderr)
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        figures["redis"] = published(client, runs=1 if given.quick else RUNS)
    finish(figures, bounds(figures), as_json=given.json)


def bounds(figures: Figures) -> list[Required]:
    """What must hold of ``figures``."""
    first, last = figures["exact"][0], figures["exact"][-1]
    larger = last["items"] / first["items"]
    growth = first["lists_per_s"] / last["lists_per_s"] / larger
    redis_figures = figures["redis"]
    lists = f"lists of one core a second out of {first['items']:,} items"
    slower = f"time of a list / items, out of {last['items']:,} / out of {first['items']:,}"
    refresh = f"seconds of a refresh of {ASKED} users with lists"
    return [
        at_least(lists, first["lists_per_s"], LISTS_PER_S * CATALOGS[0] / first["items"]),
        at_most(slower, growth, LINEAR),
        at_most(refresh, redis_figures["refresh_s"]["both"], REFRESH_S),
        at_most("bytes of a list of 100", redis_figures["bytes_of_a_list_of_100"], LIST_BYTES),
    ]


if __name__ == "__main__":
    main()
