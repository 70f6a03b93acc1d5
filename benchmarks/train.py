"""What training costs: beside DGL and PyG, by parts of a step, in a larger window; and what lists cost.

    python benchmarks/train.py [--json] [--quick]

    the same batches ──► ours, DGL blocks, PyG ──► examples a second, sampling's share of a step
    windows of two sizes ──► plan + steps + vectors ──► growth of a fit
    catalogs of two sizes ──► ScoredLists ──► lists a second

Every time is processor time, over all threads, with one for each library. A batch goes through all contenders
before the next one does, and the median over the batches counts. Before they are timed, all get the same
neighborhoods: losses and gradients must be equal. Then each samples by its own means (``sampler`` says how).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, DGL and BLAS when they are imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

import numpy as np
import torch

from benchmarks.graph_libraries.network import Library, Peer, difference
from benchmarks.graph_stores.ours import Ours
from benchmarks.lists import CATALOGS, rate
from benchmarks.report import Figures, Required, at_least, at_most, finish, machine
from benchmarks.traffic import Shop, draw
from driftgraph.model.examples.examples import Batch, plan
from driftgraph.model.network.embed import Encoder, embed
from driftgraph.model.options import TrainerOptions
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import Cut, Window

MILLION = 1_000_000
SHOP = Shop(users=20_000, items=20_000)
EVENTS_OF_A_USER = 400  # in the smaller window of the fits: neighborhoods are as full in both, see ``rows``
RECENT = 60_000  # newest events, of which the compared batches are: their histories end about now
SPREAD = 0.1  # of what is added to all weights, so that attention is not the plain mean it begins as
STOCK = TrainerOptions(time_encoding=False, relation_importance=False)  # what stock GAT layers compute
FASTER = 2.0  # than a peer
SAMPLING_SHARE = 0.2  # of a step
GROWTH = 1.5  # of a fit's time, from one window to one of ten times as many events
EQUAL = 1e-5  # of losses and gradients, relative: single precision in another order


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that trains: ``sampled`` makes of a batch what ``step`` trains on."""

    sampled: Callable[[Batch], Any]
    step: Callable[[Any], object]


def main() -> None:
    """Measure, print, and exit with 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description="What training costs, beside DGL and PyG.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller, within a minute")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: Figures = {"machine": machine()}
    required: list[Required] = []
    sizes = (MILLION // 5, MILLION) if given.quick else (MILLION, 10 * MILLION)
    _told("steps beside DGL and PyG")
    figures["steps"] = steps = compared(SHOP, sizes[0], batches=10 if given.quick else 40)
    for name in ("dgl", "pyg"):
        required.append(
            at_most(f"difference of {name} from the same network", steps[name]["difference"], EQUAL)
        )
        required.append(at_least(f"examples a second / {name}", steps[name]["ratio"], FASTER))
    share = steps["defaults"]["sampling_share"]
    required.append(at_most("sampling's share of a step", share, SAMPLING_SHARE))
    figures["fits"] = {}
    shop = Shop(sizes[0] // EVENTS_OF_A_USER, SHOP.items)
    for size in sizes:
        _told(f"a fit in {size:,} events")
        figures["fits"][str(size)] = fit(shop, size)
    small, large = (figures["fits"][str(size)] for size in sizes)
    figures["growth"] = {part: large[part] / small[part] for part in small if part.endswith("_s")}
    name = f"a fit at {sizes[1] / MILLION:g} M events / at {sizes[0] / MILLION:g} M"
    required.append(at_most(name, figures["growth"]["fit_s"], GROWTH))
    _told("lists")
    figures["lists"] = [rate(items, budget_s=1.0 if given.quick else 6.0) for items in CATALOGS]
    finish(figures, required, as_json=given.json)


def compared(shop: Shop, size: int, *, batches: int) -> Figures:
    """Examples a second of ours, DGL and PyG on the same batches of the newest events."""
    store, since, cut = filled(shop, size, RECENT)
    try:
        stock, defaults = (_trainer(store.window, options) for options in (STOCK, TrainerOptions()))
        options = replace(STOCK, replay_ratio=0.0)  # nothing older, whose histories would end long before now
        todo = plan(store.window, since, cut, options, np.random.default_rng(1)).batches
        full = [batch for batch in todo if len(batch.user) == options.batch_size][: batches + 1]
        peers = _peers(store.window, cut, stock)
        differences = {
            name: difference(stock, peer, stock._inputs(store.window, cut, full[0]))
            for name, peer in peers.items()
        }
        contenders = {
            "ours": _ours(stock, store.window, cut),
            "defaults": _ours(defaults, store.window, cut),
            **{name: Contender(peer.sampled, peer.step) for name, peer in peers.items()},
        }
        figures: Figures = {"events": size, "batch": options.batch_size, "batches": len(full) - 1}
        figures["candidates"] = float(np.mean([len(batch.candidate_C) for batch in full]))
        times = _times(contenders, full)
        total = {name: np.sum(both, 1) for name, both in times.items()}
        for name, both in times.items():
            sampling_s, step_s = np.median(both, 0).tolist()
            figures[name] = {
                "examples_per_s": options.batch_size / float(np.median(total[name])),
                "sampling_ms": 1e3 * sampling_s,
                "step_ms": 1e3 * step_s,
                "sampling_share": float(np.median(both[:, 0] / total[name])),
            }
        packages = {"dgl": "dgl", "pyg": "torch-geometric"}
        for name, peer in peers.items():
            figures[name] |= {
                "version": version(packages[name]),
                "sampler": peer.library.sampler,
                "difference": differences[name],
                "ratio": float(np.median(total[name] / total["ours"])),
                "ratio_to_defaults": float(np.median(total[name] / total["defaults"])),
            }
        return figures
    finally:
        store.close()


def fit(shop: Shop, size: int, *, steps: int = 12) -> Figures:
    """Seconds of a fit at the defaults: its plan, the median of some steps times all, vectors of all nodes.

    The gate's losses of 1,024 held-out examples, twice, are left out: some six steps without their backward.
    """
    options = TrainerOptions()
    store, since, cut = filled(shop, size, min(options.examples_max, size // 4))
    try:
        window = store.window
        trainer = _trainer(window, options)
        begun_s = time.process_time()
        todo = plan(window, since, cut, options, np.random.default_rng(1))
        plan_s = time.process_time() - begun_s
        chosen = [batch for batch in todo.batches if len(batch.user) == options.batch_size][: steps + 1]
        rows = [len(trainer._inputs(window, cut, batch).rows_n) for batch in chosen]
        both = _times({"ours": _ours(trainer, window, cut)}, chosen)["ours"]
        begun_s = time.process_time()
        made = embed(Encoder(trainer.network, trainer.table, window, cut))
        vectors_s = time.process_time() - begun_s
        step_s = float(np.median(both.sum(1)))
        # of as many steps at every size, so that what is compared is the window
        examples = options.examples_max * (1 + options.replay_ratio)
        steps_s = step_s * examples / options.batch_size
        return {
            "events": size,
            "vectors": len(made.user_rows) + len(made.item_rows),
            "rows": float(np.mean(rows)),  # of items in a step: with fewer it has less to do
            "plan_s": plan_s,
            "step_s": step_s,
            "steps_s": steps_s,
            "vectors_s": vectors_s,
            "fit_s": plan_s + steps_s + vectors_s,
        }
    finally:
        store.close()
        gc.collect()


def filled(shop: Shop, size: int, newest: int) -> tuple[Ours, Cut, Cut]:
    """A window of ``size`` events; the cuts before and after its ``newest``."""
    traffic = draw(shop, size)
    store = Ours(shop, size)
    store.load(traffic.part(0, size - newest))
    since = store.window.cut()
    store.load(traffic.part(size - newest, size))
    return store, since, store.window.cut()


def _trainer(window: Window, options: TrainerOptions) -> Trainer:
    """A model with rows for the window, and weights that are not those it begins with."""
    relations = window.relations
    trainer = Trainer([r.name for r in relations], [r.span_ms for r in relations], options)
    trainer.table.adopt(window.row_versions(ITEM))
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trainer.network.parameters():
            weight.add_(SPREAD * torch.randn(weight.shape, generator=chance))
    return trainer


def _ours(trainer: Trainer, window: Window, cut: Cut) -> Contender:
    return Contender(
        lambda batch: trainer._inputs(window, cut, batch), lambda inputs: trainer._step(inputs, 0, 1.0)
    )


def _peers(window: Window, cut: Cut, trainer: Trainer) -> dict[str, Peer]:
    from benchmarks.graph_libraries.with_dgl import Dgl  # noqa: PLC0415  # not where only lists and fits are wanted
    from benchmarks.graph_libraries.with_pyg import Pyg  # noqa: PLC0415

    libraries: dict[str, Library] = {"dgl": Dgl(window, cut), "pyg": Pyg(window, cut, trainer.options.fanout)}
    return {name: Peer(one, trainer.network, trainer.table) for name, one in libraries.items()}


def _times(contenders: dict[str, Contender], batches: list[Batch]) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of sampling and of the step, [batches - 1, 2]: the first batch warms up. Who begins changes."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    names = list(contenders)
    for number, batch in enumerate(batches):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            begun_s = time.process_time()
            inputs = contenders[name].sampled(batch)
            sampled_s = time.process_time()
            contenders[name].step(inputs)
            times[name].append((sampled_s - begun_s, time.process_time() - sampled_s))
    return {name: np.array(both[1:]) for name, both in times.items()}


def _told(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
