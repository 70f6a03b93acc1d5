"""Does the product's list win? The product beside its peers, on the same events to come.

    events ──► burn-in │ tuning span: six settings a peer │ scored span: replay's predictions and the peers
                                                              └──► Recall, NDCG, MRR at 20, paired intervals

    quality.py DATASET [--json] [--seeds 3] [--every 12h] [--keep DIR] [--peers-only | --lists-only]
    quality.py --quick

DATASET is a folder of the real files (``DRIFTGRAPH_SHARED``, or ``shared`` beside the repository), or an
event file with the canonical columns. docs/quality.md has the protocol. Exits 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks.offline_evaluation.bounds import bounds
from benchmarks.offline_evaluation.datasets import REAL, Dataset, find_dataset
from benchmarks.offline_evaluation.figures import set_figures, sliced, slices_of
from benchmarks.offline_evaluation.peers.recommenders import Prepared
from benchmarks.offline_evaluation.planted_drift import SHARE, drift_figures, planted
from benchmarks.offline_evaluation.prequential import (
    CLOCKS,
    SETS,
    Stream,
    Targets,
    draw_targets,
    metrics_of,
    targets_at,
)
from benchmarks.offline_evaluation.product import Replay, mean_named, parts_of, replay, retrained
from benchmarks.offline_evaluation.tuning import Scored, Spans, kept_tuning, say, score_peers
from benchmarks.report import Figures, finish, machine
from driftgraph.app.demo.shop import ShopOptions
from driftgraph.stream.arrays import F64

TUNING_TARGETS, TARGETS = 3_000, 10_000  # of each set
QUICK_TUNING_TARGETS, QUICK_TARGETS = 300, 1_500
DRIFT_SHOP = ShopOptions(
    user_count=1_500, item_count=1_500, event_count=80_000, span_ms=8 * 86_400_000, drifting_share=SHARE
)
QUICK_SHOP = ShopOptions(
    user_count=500,
    item_count=600,
    category_count=12,
    event_count=16_000,
    span_ms=6 * 86_400_000,
    drifting_share=SHARE,
)
RETRAINED = 3  # windows on which a model is made anew, spread over the scored span


@dataclass(frozen=True, slots=True)
class Measured:
    """A dataset, what is foretold of it, and how everybody did. ``ours``: [T] ranks by set and seed."""

    stream: Stream
    targets: Targets
    ours: Mapping[str, Sequence[F64]]
    scored: Mapping[str, Scored]


Replays = Mapping[str, Sequence[Replay]]  # by set; of each seed


def choose_targets(
    stream: Stream, spans: Spans, replays: Replays, *, every_ms: int, most: int, seed: int
) -> Targets:
    """What the replays ranked of the scored span, at most so many of each set; without them a sample."""
    drawn = draw_targets(stream, spans.scoring_ms, spans.end_ms, every_ms=every_ms, most=most, seed=seed)
    rng, masks = np.random.default_rng(seed), []
    for name in SETS:
        mask = np.zeros(len(stream), np.bool_)
        for one in replays[name]:
            events = one.events[stream.time_ms[one.events] >= spans.scoring_ms]
            mask[rng.permutation(events)[: most // len(replays[name])]] = True
        if not mask.any():  # a set that nobody of ours ranks is drawn as it is for the peers
            mask[drawn.event[getattr(drawn, name)]] = True
        masks.append(mask)
    return targets_at(stream, *masks, every_ms=every_ms)


def ranks_of_ours(replays: Replays, targets: Targets, events: int) -> dict[str, list[F64]]:
    """[T] of each seed, by set: nan where the seed did not rank the target."""
    found: dict[str, list[F64]] = {name: [] for name in SETS}
    for name, runs in replays.items():
        for one in runs:
            by_event = np.full(events, np.nan)
            by_event[one.events] = one.ranks
            found[name].append(np.where(getattr(targets, name), by_event[targets.event], np.nan))
    return found


def figures_of(measured: Measured, seed: int) -> Figures:
    """The figures of both sets and clocks. The product has the event clock alone."""
    figures: Figures = {}
    for name in SETS:
        inside = getattr(measured.targets, name)
        targets = measured.targets.take(inside)
        ours = [rank[inside] for rank in measured.ours[name]]
        figures[name] = {"targets": len(targets), "slices": {}}
        for clock in CLOCKS:
            peers = {peer: one.ranks[clock][name][inside] for peer, one in measured.scored.items()}
            figures[name][clock] = set_figures(ours if clock == "event" else [], peers, targets, seed=seed)
            if clock == "event":
                figures[name]["slices"] = sliced(ours, peers, slices_of(measured.stream, targets))
    return figures


def arguments_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", nargs="?", help=f"{', '.join(REAL)}, or an event file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--quick", action="store_true", help="a small generated stream and one seed, in a minute"
    )
    parser.add_argument("--seeds", type=int, default=3, help="replays of the product, each with its own seed")
    parser.add_argument("--every", help="event time between two fits, and the length of a window")
    parser.add_argument("--targets", type=int, default=TARGETS, help="of each set, at most")
    parser.add_argument(
        "--keep", type=Path, help="folder for replays and tuning, which a later run reads instead"
    )
    parser.add_argument(
        "--peers-only", action="store_true", help="leave the product out: its bounds are not measured"
    )
    parser.add_argument(
        "--lists-only", action="store_true", help="leave out models made anew and the planted drift"
    )
    arguments = parser.parse_args()
    if arguments.dataset is None and not arguments.quick:
        parser.error("name a dataset, or --quick")
    return arguments


def main() -> None:
    """Parse, measure, print."""
    arguments = arguments_of()
    with tempfile.TemporaryDirectory(prefix="driftgraph-quality-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(arguments, folder)
    finish(figures, bounds(figures), as_json=arguments.json)


def measure(arguments: argparse.Namespace, folder: Path) -> Figures:
    """Everything, in order: replays, tuning, peers, the planted drift."""
    seeds = [] if arguments.peers_only else list(range(1 if arguments.quick else arguments.seeds))
    busy = machine()
    shop, drifting = planted(folder, QUICK_SHOP if arguments.quick else DRIFT_SHOP, "12h")
    dataset = drifting if arguments.quick else find_dataset(arguments.dataset, arguments.every)
    stream = dataset.read()
    spans = Spans.of(stream)
    users, items = len(stream.user_ids), len(stream.item_ids)
    say(f"{dataset.name}: {len(stream):,} events, {users:,} users, {items:,} items")
    replays: Replays = {
        "explore": [replay(dataset, stream, folder, seed) for seed in seeds],
        "repeats": [replay(dataset, stream, folder, seed, repeats=True) for seed in seeds if dataset.repeats],
    }
    most = QUICK_TUNING_TARGETS if arguments.quick else TUNING_TARGETS
    tuning = folder / f"{dataset.name.replace('/', '_')}-tuning-{most}.json"
    chosen, tried = kept_tuning(tuning, stream, spans, most, 0)
    targets = choose_targets(
        stream,
        spans,
        replays,
        every_ms=dataset.every_ms,
        most=QUICK_TARGETS if arguments.quick else arguments.targets,
        seed=0,
    )
    data = Prepared(stream)
    scored = score_peers(data, targets, chosen)
    measured = Measured(stream, targets, ranks_of_ours(replays, targets, len(stream)), scored)
    figures: Figures = {
        "dataset": dataset.name, "machine": busy, "every": dataset.every, "fit": dataset.fit, "seeds": seeds,
        "spans_ms": asdict(spans), **figures_of(measured, 0), "chosen": chosen, "tried": tried,
        "ease_items_share": min(one.item_share for one in data.eases.values()),
        "cpu_seconds": {peer: round(one.seconds, 1) for peer, one in scored.items()},
        "product": product_figures(stream, replays, spans),
    }  # fmt: skip
    if not seeds or arguments.lists_only:
        return figures
    if not arguments.quick:
        figures["product"]["retrained"] = anew(dataset, stream, spans, replays["explore"][0], folder)
    events = drifting.read()
    runs = replays["explore"] if arguments.quick else [replay(drifting, events, folder, n) for n in seeds]
    figures["drift"] = drift_figures(shop, drifting, events, list(runs))
    return figures


def product_figures(stream: Stream, replays: Replays, spans: Spans) -> Figures:
    """The product on all that it ranked of the scored span, and what it says of itself there.

    ``whole`` counts events that are alike in user, item, behavior and time once. So does the product, but in
    older replays it counted copies, too.
    """
    explore = replays["explore"]
    whole: Figures = {}
    for name, runs in replays.items():
        ranks = [one.ranks[stream.time_ms[one.events] >= spans.scoring_ms] for one in runs]
        if ranks:
            whole[name] = {"targets": sum(map(len, ranks)), **metrics_of(np.concatenate(ranks))}
    return {
        "whole": whole,
        "parts": {name: parts_of(runs, spans.scoring_ms) for name, runs in replays.items()},
        "cpu_s": {name: [one.cpu_s for one in runs] for name, runs in replays.items()},
        "stability": {name: mean_named(explore, name) for name in ("item_cosine", "overlap", "forgetting")},
    }


def anew(dataset: Dataset, stream: Stream, spans: Spans, kept: Replay, folder: Path) -> Figures:
    """Models made anew for a few windows, beside the incremental one on the same windows.

    CPU seconds are the median of fits on all before a window, and of incremental fits on the window.
    """
    every_ms = dataset.every_ms
    first, last = -(-spans.scoring_ms // every_ms), spans.end_ms // every_ms - 1
    windows = np.unique(np.linspace(first, last, RETRAINED).round().astype(np.int64)) * every_ms
    made = [retrained(dataset, stream, window_ms, 0, folder) for window_ms in windows.tolist()]
    time_ms = stream.time_ms[kept.events]
    inside = [(time_ms >= one.begin_ms) & (time_ms < one.end_ms) for one in made]
    return {
        "windows_ms": windows.tolist(),
        "ndcg": float(np.mean([one.metrics.get("ndcg_at_20", np.nan) for one in made])),
        "incremental_ndcg": float(np.mean([metrics_of(kept.ranks[one])["ndcg_at_20"] for one in inside])),
        "cpu_s": float(np.median([one.cpu_s for one in made])),
        "incremental_cpu_s": float(np.nanmedian([one.next_cpu_s for one in made])),
    }


if __name__ == "__main__":
    main()
