"""What batches drawn by METIS parts would buy a fit: time of a step, and loss at equal steps.

    python benchmarks/metis.py [--json] [--quick]

    window before the newest events ──► METIS parts of users and items (cost)
    the examples of a fit ──► batches by time, as the product has them ──► sampling, step, loss, Recall@20
                         ├──► batches by the user's part (Cluster-GCN)  ──► the same
                         └──► batches by chance, over as long a time    ──► the same
    the window with rows in order of parts ──► all again: what nearness in memory is worth

Parts are those of before the fit's new events, as a live system would have them; users who came since are a
part of their own. All kinds have the same examples, in as many steps of as many examples. A candidate is
known as of the earliest event of its batch. A batch by part spans the whole interval, so its items are staler
and have fewer neighbors, which makes it faster, too: batches by chance tell that apart from the parts. Recall
is that of first contacts in the events that come next, of users as they are then and items as of the fit.
The large shop is for times alone.
Times are processor time of one thread, the median over the batches, which take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, DGL and BLAS when they are imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np
import torch

from benchmarks.offline_evaluation.datasets import find_dataset
from benchmarks.report import Figures, finish, machine
from driftgraph.model.examples.examples import Batch, first_contacts, half_lives_ms, plan, take
from driftgraph.model.examples.popularity import Popularity, candidates
from driftgraph.model.export.dgl_files import metis
from driftgraph.model.export.exported import ExportedGraph
from driftgraph.model.network.embed import Encoder, popularity_now
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import I32, I64, U8, U32
from driftgraph.stream.time.durations import Duration
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, Events, Relation, Window, in_memory

MILLION = 1_000_000
COMMUNITIES = 64  # of the synthetic shop; four of five events stay in the user's
INSIDE = 0.8
SHARE = 1 / 16  # of the events are new to the fit, as with fit.every = "auto"; as many come after it
NEAR = 4  # batches that lie side by side in time, for "by part, in time"
RANKED = 256  # users at once
TESTED, TOP = 4_000, 20  # first contacts that are ranked, and how many items count
TIMED = 40  # batches of each kind
APPENDED = 1 << 16  # events at once


@dataclass(frozen=True, slots=True)
class Columns:
    """N events in order of time, by dense rows."""

    user: U32
    item: U32
    relation: U8
    time_ms: I64
    names: tuple[str, ...]
    span_ms: int

    def renumbered(self, users: I64, items: I64) -> Columns:
        """With other rows: the new row of each old one."""
        user, item = users[self.user].astype(np.uint32), items[self.item].astype(np.uint32)
        return Columns(user, item, self.relation, self.time_ms, self.names, self.span_ms)


def main() -> None:
    """Measure and print; there is no bound, since the table is what decides."""
    parser = argparse.ArgumentParser(description="What batches by METIS parts would buy a fit.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small shop alone, within a minute")
    parser.add_argument("--only", choices=("shop", "taobao_9d"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: Figures = {"machine": machine()}
    if given.only != "taobao_9d":
        size = (150_000, 8_000, 4_000) if given.quick else (5 * MILLION, 200_000, 100_000)
        figures["shop"] = compared(shop(*size), parts=16 if given.quick else 64, seeds=int(given.quick))
    if not given.quick and given.only != "shop":
        figures["taobao_9d"] = compared(real("taobao_9d"), parts=32, seeds=3)
    if not given.json:
        _print(figures)
    finish(figures, [], as_json=given.json)


def shop(events: int, users: int, items: int) -> Columns:
    """A shop of communities: the rows of one are far from each other, as rows by arrival are."""
    rng = np.random.default_rng(1)
    user = rng.integers(0, users, events)
    item = np.minimum(
        np.exp(rng.random(events) * np.log(items)).astype(np.int64), items - 1
    )  # Zipf, exponent 1
    stays = rng.random(events) < INSIDE
    own = item // COMMUNITIES * COMMUNITIES + user % COMMUNITIES
    item = np.minimum(np.where(stays, own, item), items - 1)
    mixed = rng.permutation(users), rng.permutation(items)
    relation = np.where(rng.random(events) < 0.9, 0, 1).astype(np.uint8)
    span_ms = 9 * 86_400_000
    time_ms = 1_700_000_000_000 + np.sort(rng.integers(0, span_ms, events))
    rows = [row[one].astype(np.uint32) for row, one in zip(mixed, (user, item), strict=True)]
    return Columns(rows[0], rows[1], relation, time_ms, ("click", "buy"), span_ms)


def real(name: str) -> Columns:
    """A real stream, its rows in order of arrival."""
    dataset = find_dataset(name)
    stream = dataset.read()
    user, item = stream.user.astype(np.uint32), stream.item.astype(np.uint32)
    behavior = stream.behavior.astype(np.uint8)
    return Columns(
        user, item, behavior, stream.time_ms, tuple(stream.behaviors), Duration.parse(dataset.span).ms
    )


def compared(events: Columns, *, parts: int, seeds: int) -> Figures:
    """Cost of the parts; times of each kind of batches in both orders of rows; what ``seeds`` fits learn."""
    window, since, cut = filled(events)
    tests = tests_of(window, cut)
    begun_s = time.process_time()
    user_part, item_part = parted(window, since, parts)
    found: Figures = {"events": len(events.time_ms), "parts": parts, "metis_s": time.process_time() - begun_s}
    found |= held(events, user_part, item_part, since, cut)
    trainer = begun(window, since) if seeds else untrained(window)
    batches = kinds(trainer, window, since, cut, user_part, seed=1)
    found["steps"] = len(batches["by time"])
    found["rows by arrival"] = times(trainer, window, cut, batches)
    found["learned"] = [learned(trainer, window, since, cut, user_part, tests, seed) for seed in range(seeds)]
    near = events.renumbered(
        *(np.argsort(np.argsort(part, kind="stable")) for part in (user_part, item_part))
    )
    window, since, cut = filled(near)
    part = np.sort(user_part)  # of each new row
    trainer = untrained(window)  # what the weights are does not change the times
    found["rows by part"] = times(trainer, window, cut, kinds(trainer, window, since, cut, part, seed=1))
    return found


def filled(events: Columns) -> tuple[Window, Cut, Cut]:
    """The window of all events; the cuts before and after those that are new to the fit."""
    count = len(events.time_ms)
    counts = np.bincount(events.relation, minlength=len(events.names)).tolist()
    relations = [
        Relation(name, events.span_ms, capacity=own + 1, user_events_max=count)
        for name, own in zip(events.names, counts, strict=True)
    ]
    rows = [int(side.max()) + 1 for side in (events.user, events.item)]
    window = in_memory(relations, user_rows=rows[0], item_rows=rows[1])
    edges = [round((1 - 2 * SHARE) * count), round((1 - SHARE) * count), count]
    cuts, start = [], 0
    for edge in edges:
        while start < edge:
            part = slice(start, min(start + APPENDED, edge))
            window.append(events.user[part], events.item[part], events.relation[part], events.time_ms[part])
            start = part.stop
        window.expire(int(events.time_ms[edge - 1]))
        cuts.append(window.cut())
    return window, cuts[0], cuts[1]


def parted(window: Window, since: Cut, count: int) -> tuple[I32, I32]:
    """The part of each row before the new events; ``count`` for one that has none yet."""
    graph = ExportedGraph.of(window, since)
    made = []
    for side, part in enumerate(metis(graph, count)):
        of_row = np.full(window.row_capacity[side], count, np.int32)
        of_row[graph.rows[side]] = part
        made.append(of_row)
    return made[0], made[1]


def held(events: Columns, user_part: I32, item_part: I32, since: Cut, cut: Cut) -> Figures:
    """The share of events with both ends in one part: of the old ones, and of those new to the fit."""
    inside = user_part[events.user] == item_part[events.item]
    first, end = sum(since.next), sum(cut.next)
    return {"inside_old": float(inside[:first].mean()), "inside_new": float(inside[first:end].mean())}


def tests_of(window: Window, cut: Cut) -> Events:
    """First contacts that come after the cut, with items that were there before."""
    every, known = window.events(window.cut()), np.unique(window.events(cut).item)
    new = first_contacts(every) & np.isin(every.item, known)
    new &= every.time_ms > cut.watermark_ms
    at = np.flatnonzero(new)
    return take(every, at[np.linspace(0, len(at) - 1, min(TESTED, len(at))).astype(np.int64)])


def begun(window: Window, since: Cut) -> Trainer:
    """A first model, of what was before the new events."""
    trainer, zeros = untrained(window), (0,) * len(window.relations)
    report = trainer.fit(window, Cut(0, zeros, zeros), since)
    _told(f"first model: {report.code or 'accepted'}, {report.steps} steps")
    return trainer


def untrained(window: Window) -> Trainer:
    """With a row for each item."""
    relations = window.relations
    trainer = Trainer([r.name for r in relations], [r.span_ms for r in relations], TrainerOptions())
    trainer.table.adopt(window.row_versions(ITEM))
    return trainer


def kinds(
    trainer: Trainer, window: Window, since: Cut, cut: Cut, user_part: I32, *, seed: int
) -> dict[str, list[Batch]]:
    """The batches of the product's plan, and the same examples in other batches."""
    rng = np.random.default_rng((seed, trainer.fit_count))
    by_time = list(plan(window, since, cut, trainer.options, rng).batches)
    user, item, relation, time_ms = (
        np.concatenate([getattr(batch, name) for batch in by_time])
        for name in ("user", "item", "relation", "time_ms")
    )
    examples = Events(user, item, relation, time_ms)
    chance, rank = rng.random(len(user)), np.argsort(np.argsort(time_ms, kind="stable"), kind="stable")
    size, part = trainer.options.batch_size, user_part[user]
    orders = {
        "by part": np.lexsort((chance, part)),
        "by part, in time": np.lexsort((chance, part, rank // (NEAR * size))),
        "by chance": np.argsort(chance),
    }
    made = {"by time": by_time}
    for name, order in orders.items():
        slices = [order[a : a + size] for a in range(0, len(order), size)]
        own = [take(examples, one[np.argsort(time_ms[one], kind="stable")]) for one in slices]
        batches = with_candidates(own, trainer, window, cut, rng)
        made[name] = [batches[n] for n in rng.permutation(len(own)).tolist()]
    return made


def with_candidates(
    own: list[Events], trainer: Trainer, window: Window, cut: Cut, rng: np.random.Generator
) -> list[Batch]:
    """The batches of these examples, with candidates as the product's plan has them."""
    every, pool = window.events(cut), np.unique(np.concatenate([one.item for one in own]))
    popularity = Popularity(half_lives_ms(window.relations, trainer.options), window.rows(ITEM))
    made: dict[int, Batch] = {}
    for n in sorted(range(len(own)), key=lambda n: int(own[n].time_ms[0])):
        one = own[n]
        popularity.advance(every, int(one.time_ms[0]))
        known = pool[popularity.count[-1, pool] > 0]
        share = popularity.share(np.arange(popularity.count.shape[1]))
        chosen, log_q = candidates(one.item, known, share, drawn=trainer.options.sampled_negatives, rng=rng)
        features = popularity.features(chosen)
        made[n] = Batch(one.user, one.item, one.relation, one.time_ms, chosen, log_q, features)
    return [made[n] for n in range(len(own))]


def times(trainer: Trainer, window: Window, cut: Cut, batches: dict[str, list[Batch]]) -> Figures:
    """Milliseconds of sampling and of the step, and the item rows that a batch reads."""
    size = trainer.options.batch_size
    full = {name: [b for b in own if len(b.user) == size][: TIMED + 1] for name, own in batches.items()}
    taken: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in full}
    trainer.weights.begin()
    for turn, pair in enumerate(zip(*full.values(), strict=False)):
        named = list(zip(full, pair, strict=True))
        for name, batch in named[:: 1 if turn % 2 else -1]:
            begun_s = time.process_time()
            inputs = trainer._inputs(window, cut, batch)
            sampled_s = time.process_time()
            trainer._step(inputs, turn, 1.0)
            ended_s = time.process_time()
            taken[name].append(
                (sampled_s - begun_s, ended_s - sampled_s, len(inputs.rows_n), len(batch.candidate_C))
            )
    trainer.weights.rollback()
    return {
        name: dict(
            zip(
                ("sampling_ms", "step_ms", "rows", "candidates"),
                (np.median(own[1:], 0) * (1e3, 1e3, 1, 1)).tolist(),  # the first one warms up
                strict=True,
            )
        )
        for name, own in taken.items()
    }


def learned(
    trainer: Trainer, window: Window, since: Cut, cut: Cut, user_part: I32, tests: Events, seed: int
) -> Figures:
    """Mean loss of the holdouts and Recall@20 of the tests, before and after all steps of each kind."""
    todo = plan(window, since, cut, trainer.options, np.random.default_rng((seed, trainer.fit_count)))
    holdout = (*todo.held_new, *todo.held_old)

    def now() -> Figures:
        loss = trainer._holdout_loss(window, cut, holdout).mean()
        return {"loss": float(loss), "recall": recall(trainer, window, cut, tests)}

    found = {"before": now()}
    for name, batches in kinds(trainer, window, since, cut, user_part, seed=seed).items():
        trainer.weights.begin()
        for number, batch in enumerate(batches):
            trainer._step(trainer._inputs(window, cut, batch), number, 1.0)
        found[name] = now()
        trainer.weights.rollback()
        _told(f"{name}: {found[name]} (before {found['before']})")
    return found


def recall(trainer: Trainer, window: Window, cut: Cut, tests: Events) -> float:
    """The share of tests whose item is among the best ``TOP`` of all known ones, by the dot product."""
    every = window.events(cut)
    rows, now = np.unique(every.item), cut.watermark_ms + 1
    features = popularity_now(every, window, trainer.network).features(rows)
    end = Encoder(trainer.network, trainer.table, window, window.cut())
    items = end.items(rows, np.full(len(rows), now, np.int64), features)
    users, target = end.users(tests.user, tests.time_ms), np.searchsorted(rows, tests.item)
    hits = 0
    for at in range(0, len(target), RANKED):
        score = users[at : at + RANKED] @ items.T
        own = score[np.arange(len(score)), target[at : at + RANKED]]
        hits += int((np.count_nonzero(score > own[:, None], axis=1) < TOP).sum())
    return hits / max(len(target), 1)


def _print(figures: Figures) -> None:
    for name in ("shop", "taobao_9d"):
        if name not in figures:
            continue
        own = figures[name]
        print(
            f"{name}: {own['events']:,} events, {own['parts']} parts in {own['metis_s']:.1f} s; "
            f"events inside a part: {own['inside_old']:.0%} of the old, {own['inside_new']:.0%} of the new"
        )
        for rows in ("rows by arrival", "rows by part"):
            for kind, at in own[rows].items():
                print(
                    f"  {rows}, batches {kind}: sampling {at['sampling_ms']:.1f} ms, "
                    f"step {at['step_ms']:.1f} ms, {at['rows']:,.0f} item rows read"
                )
        for seed, kinds_ in enumerate(own["learned"]):
            for kind, at in kinds_.items():
                after = "before" if kind == "before" else f"after {own['steps']} steps {kind}"
                print(f"  seed {seed}, {after}: loss {at['loss']:.4f}, Recall@{TOP} {at['recall']:.4f}")


def _told(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
